"""Counts of the run phase by service and channel, cell by cell."""

from __future__ import annotations

import numpy as np
import pytest

from sim.record.limits import MetricName
from sim.results.copies import FATE
from sim.results.tally import PAIRS, Tally

SERVICES, CHANNELS = ["api", "idle", "web"], ["a", "b", ""]
COPIES = np.zeros((3, 3, len(FATE)), dtype=np.int64)
PAIRED = np.zeros((3, 3, len(PAIRS)), dtype=np.int64)
for row, service in enumerate(SERVICES):
    for place in range(len(CHANNELS)):
        if service != "idle":
            COPIES[row, place] = (row + 1) * 100 + place * 10 + np.arange(len(FATE))
            PAIRED[row, place] = (row + 1) * 1000 + place * 100 + np.arange(len(PAIRS))
TALLY = Tally(SERVICES, CHANNELS, COPIES, PAIRED, {}, 0)
SERVICE, CHANNEL = MetricName("missing", "service", "web"), MetricName("missing", "channel", "b")


@pytest.mark.parametrize(
    ("of", "first", "many"),
    [
        (MetricName("missing"), 3 * (100 + 300) + 2 * 30, 6),
        (SERVICE, 3 * 300 + 30, 3),
        (CHANNEL, 100 + 300 + 20, 2),
        (MetricName("missing", "service", "idle"), 0, 0),
        (MetricName("missing", "service", "nobody"), 0, 0),
        (MetricName("missing", "channel", "web"), 0, 0),
    ],
)
def test_copies_by_fate_of_all_of_a_service_and_of_a_channel(of: MetricName, first: int, many: int) -> None:
    assert TALLY.fates(of) == {fate: first + many * code for fate, code in FATE.items()}


def test_events_by_how_services_heard_them_are_without_a_kind_that_there_is_none_of() -> None:
    assert TALLY.served(SERVICE) == {kind: 3 * 3000 + 300 + 3 * place for place, kind in enumerate(PAIRS)}
    assert TALLY.served(CHANNEL) == {kind: 1100 + 3100 + 2 * place for place, kind in enumerate(PAIRS)}
    sure = TALLY._replace(pairs=np.where(np.arange(len(PAIRS)) == len(PAIRS) - 1, 0, PAIRED))
    assert sure.served(SERVICE) == {kind: 9300 + 3 * place for place, kind in enumerate(PAIRS[:-1])}


def test_scopes_are_the_run_services_that_have_anything_and_channels_that_have_a_name() -> None:
    run, api, web = MetricName("", "", ""), MetricName("", "service", "api"), MetricName("", "service", "web")
    a, b = MetricName("", "channel", "a"), MetricName("", "channel", "b")
    assert list(TALLY.scopes()) == [run, api, web, a, b]
    paired, copied = np.zeros_like(PAIRED), np.zeros_like(COPIES)
    paired[0, 1, 0] = copied[2, 2, 1] = 1
    assert list(TALLY._replace(pairs=paired, copies=copied).scopes()) == [run, api, web, a, b], "a copy or a pair will do"
