"""What a link carries for a call: not envelopes, but frames, with every header up to the gap between two frames. Pure.

Words
-----
*Frame of Redis*: an event as the broker sends it to one subscriber, ``*3 $7 message $… channel $… envelope``; a PUBLISH is as long. The
broker answers each with the number of those that heard. These bytes, and no others, are in its own ``total_net_output_bytes``.
*Segment*: what TCP puts into one packet: at most 1,448 bytes where a packet has 1,500, of which 20 are IP's, 20 TCP's and 12 its time
stamps. On Ethernet 38 more pass on the wire: 14 of header, 4 of checksum, 8 of preamble and a gap of 12.

Rules
-----
1. How many events share a segment depends on who waits for whom, so there are two ends. *Most*: each event and each answer has segments
   of its own, and every segment is acknowledged by an empty one the other way. *Fewest*: all segments are full, nothing is acknowledged
   alone. The truth lies between; a plan takes the most.
2. A link carries both directions at once, so the fuller one is its limit. Towards the broker go PUBLISHes and acknowledgements.
3. Left out are tunnels and VLAN tags (50 bytes a packet for VXLAN, 4 for a tag), TLS, what monitoring asks, reconnections and packets
   sent again. Jumbo frames would need fewer headers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from sim.wire.resp import message_bytes

PACKET_BYTES = 1500
TCP_IP_BYTES = 20 + 20 + 12
ETHERNET_BYTES = 14 + 4 + 8 + 12
SEGMENT_BYTES = PACKET_BYTES - TCP_IP_BYTES
HEADER_BYTES = TCP_IP_BYTES + ETHERNET_BYTES  # of each packet, and all of an empty acknowledgement
BITS = 8


class Sent(msgspec.Struct, frozen=True):
    """One kind of event on its way: how many a call makes, how many subscribers hear each, and the bytes of its envelope and channel."""

    events: float
    subscribers: int
    envelope_bytes: float
    channel_bytes: int

    @property
    def frame_bytes(self) -> int:
        """Bytes of one copy, and of one PUBLISH, as Redis frames it."""
        return message_bytes(self.channel_bytes, round(self.envelope_bytes))

    @property
    def answer_bytes(self) -> int:
        """Bytes of the broker's answer to a PUBLISH."""
        return len(f":{self.subscribers}\r\n")

    @property
    def counted_bytes(self) -> float:
        """Bytes that the broker counts as sent for a call."""
        return self.events * (self.subscribers * self.frame_bytes + self.answer_bytes)


class OnLink(msgspec.Struct, frozen=True):
    """Bytes per call on a broker's link, in the fuller direction: with segments that are full, and with one event a segment."""

    fewest: float
    most: float

    def calls_per_s(self, mbit_per_s: float) -> tuple[float, float]:
        """Return at which rate a link is full, at least and at most; no limit where nothing is sent."""
        least, most = (mbit_per_s * 1e6 / BITS / size if size else math.inf for size in (self.most, self.fewest))
        return least, most


def segments(size: int) -> int:
    """Return how many segments so many bytes take when nothing shares them."""
    return math.ceil(size / SEGMENT_BYTES)


def alone(size: int) -> int:
    """Return the bytes on the wire of a message that shares no segment."""
    return size + segments(size) * HEADER_BYTES


def packed(size: float) -> float:
    """Return the bytes on the wire of so many bytes in full segments."""
    return size * (1 + HEADER_BYTES / SEGMENT_BYTES)


def on_link(sent: Iterable[Sent]) -> OnLink:
    """Return what a call puts on a link."""
    fewest, most = [0.0, 0.0], [0.0, 0.0]  # from the broker, to the broker
    for one in sent:
        frame, answer, copies = one.frame_bytes, one.answer_bytes, one.events * one.subscribers
        acknowledged = segments(frame) * HEADER_BYTES
        fewest[0] += packed(one.counted_bytes)
        fewest[1] += packed(one.events * frame)
        most[0] += copies * alone(frame) + one.events * (alone(answer) + acknowledged)
        most[1] += one.events * (alone(frame) + HEADER_BYTES) + copies * acknowledged
    return OnLink(max(fewest), max(most))
