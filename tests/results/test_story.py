"""Stories of events, on runs whose every copy is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.errors import RunFolderError
from sim.record.schema import compose_key
from sim.results.opened_run import open_run
from tests.support.run_folders import MS, RUN_NS, SECOND, RunFolder


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run").service("web", replicas=3)


def test_a_story_tells_every_station(plan: RunFolder) -> None:
    events = plan.publish(10, items=4, first_item_ns=RUN_NS - 5 * MS)
    plan.state("web-1", events[4].sent_ns, "disconnected").state("web-1", events[6].sent_ns, "subscribed")
    plan.drop(events[5], "web-1")
    story = str(open_run(plan.write()).story(events[5].id))
    assert "4 items, the oldest waited 10 ms" in story
    assert "+50 us sent" in story
    assert "+150 us acknowledged" in story and "PUBLISH said 3 receivers" in story
    assert "+240 us web-0 received, handled 10 us later: delivered" in story
    assert "web-1 missing, deaf" in story and "(silent from -1.95 ms to +1.05 ms)" in story


def test_a_story_of_a_stranger_and_of_nothing(plan: RunFolder) -> None:
    first = plan.publish(1)[0]
    plan.foreign(compose_key(nonce=9, publisher=0, sequence=1), "web-0")
    run = open_run(plan.write())
    assert "nobody in this run published it" in run.story("evt_0009000000000001")
    with pytest.raises(RunFolderError, match=f"no event 'evt_nope' .* one that is there: {first.id}"):
        run.story("evt_nope")


def test_a_run_without_events_has_no_story_and_says_so(plan: RunFolder) -> None:
    with pytest.raises(RunFolderError, match=r"no event 'evt_nope' in .*; it holds no events$"):
        open_run(plan.write()).story("evt_nope")


def test_an_event_that_was_only_heard_or_only_warmed_up_is_named_where_there_is_no_other(plan: RunFolder) -> None:
    key = compose_key(nonce=9, publisher=0, sequence=1)
    plan.foreign(key, "web-0")
    with pytest.raises(RunFolderError, match=r"one that is there: evt_0009000000000001$"):
        open_run(plan.write()).story("evt_nope")
    plan.folder = plan.folder.with_name("warm")
    (warm,) = plan.publish(1, start_ns=9 * SECOND + 500 * MS)
    with pytest.raises(RunFolderError, match=f"one that is there: {warm.id}$"):
        open_run(plan.write()).story("evt_nope")
    plan.folder = plan.folder.with_name("run-phase")
    (event,) = plan.publish(1)
    with pytest.raises(RunFolderError, match=f"one that is there: {event.id}$"):
        open_run(plan.write()).story("evt_nope")
