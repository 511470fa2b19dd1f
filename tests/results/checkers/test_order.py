"""The checker `order` against a plain loop over what each pod heard, and where its codes just fit and no longer fit 16 bits."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.results.checkers.order import _narrow, check
from sim.results.opened_run import open_run
from tests.support.examples import examples
from tests.support.run_folders import MS, RUN_NS, SECOND, RunFolder

CHANNELS = ("config.updated", "config.cache.invalidate")
PUBLISHERS, PODS = ("locust-0", "locust-1", "locust-2"), ("web-0", "web-1", "web-2")
publishes = st.tuples(st.sampled_from(PUBLISHERS), st.sampled_from(CHANNELS), st.permutations(range(8)))


@given(st.lists(publishes, min_size=1, max_size=12), st.sampled_from(["pubsub", "streams"]))
@settings(max_examples=examples(40))
def test_what_came_late_is_what_a_plain_loop_finds(events: list[tuple[str, str, list[int]]], transport: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        plan = RunFolder(Path(name) / "run", transport=transport)
        for pod in PODS:
            plan.pod(pod, service=pod, channels=",".join(CHANNELS))  # each its own service: with streams all hear all
        numbered = []
        for number, (publisher, channel, places) in enumerate(events):
            event = plan.event(RUN_NS + number * MS, publisher=publisher, channel=channel)
            numbered.append((event, publisher, channel, dict(zip(PODS, places, strict=False))))
        late, total = [], 0
        for pod in PODS:
            newest: dict[tuple[str, str], int] = {}
            heard = sorted(enumerate(numbered), key=lambda one: (one[1][3][pod], one[0]))
            for at, (number, (event, publisher, channel, _)) in enumerate(heard):
                plan.hear(event, pod, lag_ns=RUN_NS + SECOND + at * MS - event.intended_ns)
                total += 1
                if newest.get((publisher, channel), -1) > number:
                    late.append(f"{event.id} on {channel}: {pod} had heard a later event of {publisher}")
                newest[publisher, channel] = max(number, newest.get((publisher, channel), -1))
        result = check(open_run(plan.write()))
    used = len({publisher for publisher, _, _ in events})
    assert result.counts == {"deliveries": total, "out_of_order": len(late), "publishers": used}
    assert result.verdict == ("invalid" if late and transport == "pubsub" else "valid")
    deliveries = f"{total} {'delivery' if total == 1 else 'deliveries'}"
    kept = f"{'all ' if total > 1 else ''}{deliveries} kept the order of their publisher and channel"
    assert result.detail == (f"{len(late)} of {deliveries} came after a later event of their publisher and channel" if late else kept)
    assert len(result.witnesses) == min(3, len(late)) and set(result.witnesses) <= set(late)


@pytest.mark.parametrize("many", [1, 1 << 16, (1 << 16) + 1])
def test_streams_stay_apart_however_many_there_are(many: int) -> None:
    codes = np.arange(many, dtype=np.int64) * 3
    narrow = _narrow(codes)
    assert np.array_equal(narrow, np.arange(many))
    assert narrow.dtype == (np.uint16 if many <= 1 << 16 else np.int64), "16 bits sort in linear time"


@pytest.mark.parametrize(("promised", "verdict"), [("true", "invalid"), ("false", "valid")])
def test_a_channel_without_a_promise_of_order_is_counted_only(tmp_path: Path, promised: str, verdict: str) -> None:
    plan = RunFolder(tmp_path / "run", scenario=f'[channels."config.updated"]\norder = {promised}\n').service("web", replicas=1)
    first, second, *_ = plan.publish(4)
    plan.swap(first, second, "web-0")
    result = check(open_run(plan.write()))
    assert (result.verdict, result.counts["out_of_order"], len(result.witnesses)) == (verdict, 1, 1)
    assert ("1 of them on channels of which no order is promised" in result.detail) == (promised == "false")
