"""Show the traffic of a capture, each channel with the fitted load beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sim.machine.words import amount, count, duration, listed
from sim.measure.traffic.describe import ChannelTraffic
from sim.record.capture_file import Capture

if TYPE_CHECKING:  # imported where used: it takes a while, and who only makes numbers needs none
    from rich.table import Table

MAX_ROWS = 50  # channels that are shown
BURSTY = 2.0  # times the dispersion of the fitted load
LEAST_EVENTS = 50  # of a channel that something is said of
COLUMNS = ("channel", "", "events", "per s", "busiest s", "dispersion", "gap variation", "bytes p50", "p99", "max", "repeats")


def traffic_table(captured: list[ChannelTraffic], fitted: Mapping[str, ChannelTraffic]) -> Table:
    """Return the table of the busiest channels: what was captured, and below it what the fitted load means."""
    from rich.table import Table

    table = Table()
    for place, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if place < 2 else "right", overflow="fold")
    for one in captured[:MAX_ROWS]:
        table.add_row(one.name, "captured", *_cells(one))
        if one.name in fitted:
            table.add_row("", "fitted", *_cells(fitted[one.name]))
    return table


def _cells(one: ChannelTraffic) -> list[str]:
    numbers = (one.per_s, one.busiest_second, one.dispersion, one.gap_variation, one.bytes_p50, one.bytes_p99, one.bytes_max)
    repeats = "" if math.isnan(one.repeats) else f"{amount(100 * one.repeats)} %"
    return [f"{one.events:,}", *("" if math.isnan(number) else amount(number) for number in numbers), repeats]


def traffic_in_short(capture: Capture, captured: list[ChannelTraffic], fitted: Mapping[str, ChannelTraffic]) -> list[str]:
    """Return the sentences that stand below the table."""
    info = capture.info
    said = [f"{count(info.events, 'event')} on {count(len(captured), 'channel')} in {duration(info.seconds)}, heard at {info.server}"]
    if info.ended != "time":
        said.append(f"it ended early: {info.reason}")
    if len(captured) > MAX_ROWS:
        said.append(f"the table has the {MAX_ROWS} busiest channels of {len(captured):,}")
    bursty = [
        one.name
        for one in captured
        if one.events >= LEAST_EVENTS and one.name in fitted and one.dispersion > BURSTY * max(1.0, fitted[one.name].dispersion)
    ]
    if bursty:
        shown = listed(bursty[:5]) + (f" and {len(bursty) - 5:,} more" if len(bursty) > 5 else "")
        said.append(f"events of {shown} come in bursts that the fitted load does not have: it is kinder than what was captured; play that")
    if info.probes:
        said.append(f"{count(info.probes, 'probe')} of this lab were left out")
    return said
