"""What a pod counts of itself."""

from __future__ import annotations

import pytest

from sim.bus.counters import Counters
from sim.record.schema import OUTCOMES


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_of_a_publish_is_published_or_an_error(outcome: str) -> None:
    counters = Counters()
    counters.publish_ended(outcome, analytics_items=3)
    good = outcome in ("acknowledged", "memory")
    assert counters.analytics_published == 3 * good
    assert (counters.published, counters.publish_errors) == (int(good), int(not good))


def test_subscribe_errors_are_the_sum_of_their_kinds() -> None:
    counters = Counters()
    counters.malformed, counters.unsupported, counters.failures = 1, 2, 4
    assert counters.subscribe_errors == 7


def test_nothing_is_counted_before_anything_happened() -> None:
    counters = Counters()
    assert {name: getattr(counters, name) for name in Counters.__slots__} == dict.fromkeys(Counters.__slots__, 0)
    for outcome in ("acknowledged", "memory", "refused", "unknown"):
        counters.publish_ended(outcome, analytics_items=5)
    assert (counters.published, counters.analytics_published, counters.publish_errors) == (2, 10, 2)
