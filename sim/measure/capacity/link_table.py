"""What a copy and a call take on a link, as a table, and what the broker's own counter says of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sim.machine.words import listed
from sim.measure.capacity.frames import BITS, HEADER_BYTES, SEGMENT_BYTES, alone, on_link, packed
from sim.measure.capacity.workload import Workload

LINK_MBIT_PER_S = 1000.0
LINK_HEADINGS = ("of", "events a call", "copies each", "envelope, B", "in Redis' frame, B", "on the wire, B")
LEFT_OUT = "VLAN tags, tunnels, TLS, monitoring, and packets that are sent again"


def link_rows(workload: Workload, calls_per_s: float = math.inf) -> list[list[str]]:
    """Return a row for a copy of each event type, then one for a call."""
    rows = []
    for kind, one in zip(workload.kinds, workload.sent(calls_per_s), strict=True):
        ends = f"{packed(one.frame_bytes):,.0f} .. {alone(one.frame_bytes):,}"
        rows.append(
            [
                f"a copy of {kind.name}",
                f"{one.events:.3g}",
                f"{one.subscribers:,}",
                f"{one.envelope_bytes:,.0f}",
                f"{one.frame_bytes:,}",
                ends,
            ]
        )
    copies = workload.copies_per_call(calls_per_s)
    envelopes = sum(one.events * one.subscribers * one.envelope_bytes for one in workload.sent(calls_per_s))
    both = on_link(workload.sent(calls_per_s))
    counted = workload.bytes_per_call(calls_per_s)
    for name, by in (("a call", 1.0), ("a copy of the mix", copies)):
        if by:
            sizes = (f"{envelopes / by:,.0f}", f"{counted / by:,.0f}", f"{both.fewest / by:,.0f} .. {both.most / by:,.0f}")
            rows.append([name, f"{workload.events_per_call(calls_per_s) / by:.3g}", f"{copies / by:.3g} in all", *sizes])
    return rows


def link_sentence(workload: Workload, *, calls_per_s: float, counted: Sequence[float] = ()) -> str:
    """Return how the bytes are counted, and how far they are from the broker's own counter.

    Parameters
    ----------
    calls_per_s
        The rate at which it was counted.
    counted
        Bytes per event that the broker counted as sent, one of each window.
    """
    least, most = on_link(workload.sent(calls_per_s)).calls_per_s(LINK_MBIT_PER_S)
    frames = LINK_MBIT_PER_S * 1e6 / BITS / max(workload.bytes_per_call(calls_per_s), 1e-9)
    text = (
        f"A packet has {HEADER_BYTES} B of headers, preamble and gap beside at most {SEGMENT_BYTES:,} B of frames: the first number has "
        f"full packets, the second one event a packet and an acknowledgement for each; not counted are {LEFT_OUT}. Full is a link of "
        f"{LINK_MBIT_PER_S:,.0f} Mbit/s at {least:,.0f} to {most:,.0f} calls/s; by the frames of Redis alone it would be {frames:,.0f}."
    )
    computed = workload.bytes_per_call(calls_per_s) / workload.events_per_call(calls_per_s)
    known = [size for size in counted if size]
    if not known:
        return f"{text} The broker's own counter (total_net_output_bytes) was not read in this measurement."
    said = listed([f"{size:,.0f}" for size in known])
    off = 100 * (computed / (sum(known) / len(known)) - 1)
    return f"{text} The broker's own counter (total_net_output_bytes) says {said} B an event, computed are {computed:,.0f} ({off:+.1f} %)."
