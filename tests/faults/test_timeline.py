"""The timeline: every fault begins and ends at its times and is healed, whatever happens, and one row tells of each time it was on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from sim.errors import BrokerError, BrokerRefused, BrokerUnreachable, BuslabError
from sim.faults.felt import RETRY_S, Felt
from sim.faults.timeline import HEAL_S, Timeline
from sim.faults.times import FaultTimes
from sim.faults.world import World
from sim.grounds.model.loop import JumpingLoop
from sim.machine.clock import NS_PER_S, now_ns

AWAY = BrokerUnreachable("nobody is there")


@dataclass
class Stage:
    """What the faults of a test write down, by the seconds since the run began, and what is to fail."""

    run_ns: int = 0
    log: list[tuple[float, str]] = field(default_factory=list)
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    felt: list[Felt] = field(default_factory=list)
    fails: dict[str, list[Exception]] = field(default_factory=dict)
    services: dict[str, list[str]] = field(default_factory=lambda: {"web": ["web-0", "web-1"]})

    def at_s(self) -> float:
        return round((now_ns() - self.run_ns) / NS_PER_S, 6)

    def note(self, what: str) -> None:
        self.log.append((self.at_s(), what))
        if self.fails.get(what):
            raise self.fails[what].pop(0)


class OfBroker(FaultTimes, frozen=True, tag="of_broker"):
    """A fault of the broker that only writes down what it is told."""

    name: str = "it"

    async def begin(self, world: World) -> None:
        stage: Any = world.broker
        stage.felt.append(world.felt)
        assert world.kept == {}
        world.kept["begun"] = True
        stage.note(f"{self.name} begins")

    async def end(self, world: World) -> None:
        stage: Any = world.broker
        assert world.kept == {"begun": True}
        stage.note(f"{self.name} ends")


class OfPods(OfBroker, frozen=True, tag="of_pods"):
    """The same of pods."""

    pods: tuple[str, ...] = ("web",)


def play(
    faults: Sequence[OfBroker], scene: Callable[[Timeline, Stage], Coroutine[Any, Any, None]], stage: Stage | None = None, *, seed: int = 7
) -> Stage:
    """Start the faults in virtual time, play the scene, and return what was written down."""
    stage = stage or Stage()

    async def run() -> None:
        await asyncio.sleep(0.25)
        stage.run_ns = now_ns()
        world = World(stage, None, {}, stage.services)  # type: ignore[arg-type]

        def add(kind: str, target: str, begin_ns: int, end_ns: int, felt: str, felt_ns: int) -> None:
            times = [round((at_ns - stage.run_ns) / NS_PER_S, 6) if at_ns else None for at_ns in (begin_ns, end_ns, felt_ns)]
            stage.rows.append((kind, target, *times, felt))

        recorder: Any = SimpleNamespace(tables={"faults": SimpleNamespace(add=add)})
        timeline = Timeline(faults, world, recorder, seed=seed)  # type: ignore[arg-type]
        timeline.start(stage.run_ns)
        await scene(timeline, stage)
        assert len(asyncio.all_tasks()) == 1, "nothing goes on"

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(run())
    return stage


def after(seconds: float) -> Callable[[Timeline, Stage], Coroutine[Any, Any, None]]:
    """Heal after so long, and once more."""

    async def scene(timeline: Timeline, stage: Stage) -> None:
        await asyncio.sleep(seconds)
        await timeline.heal()
        seen = list(stage.log), list(stage.rows)
        await timeline.heal()
        assert (stage.log, stage.rows) == seen, "a second time there is nothing to be done"

    return scene


def test_a_fault_begins_and_ends_at_its_times_and_each_time_is_one_row() -> None:
    faults = [OfPods(at_s=1, for_s=2, times=2, every_s=3, name="a"), OfBroker(at_s=1.5, for_s=1, name="b")]
    stage = play(faults, after(9))
    assert stage.log == [(1, "a begins"), (1.5, "b begins"), (2.5, "b ends"), (3, "a ends"), (4, "a begins"), (6, "a ends")]
    assert stage.rows == [
        ("of_broker", "broker", 1.5, 2.5, 1.5, "whole"),
        ("of_pods", "web-0,web-1", 1, 3, 1, "whole"),
        ("of_pods", "web-0,web-1", 4, 6, 4, "whole"),
    ]


def test_times_are_drawn_from_the_seed_and_the_place_of_the_fault() -> None:
    faults = [OfBroker(at_s=1, for_s=1, within_s=5, times=2, every_s=10, name=name) for name in "ab"]
    stage = play(faults, after(30), seed=3)
    drawn = [begin for place, fault in enumerate(faults) for begin in fault.begins_s(Random(f"3/{place}"))]
    assert sorted(row[2] for row in stage.rows) == [pytest.approx(begin, abs=1e-6) for begin in sorted(drawn)]
    assert len(set(drawn)) == 4


def test_a_fault_knows_when_its_window_ends() -> None:
    async def scene(timeline: Timeline, stage: Stage) -> None:
        await asyncio.sleep(1.5)
        until_s = stage.felt[0].until_s - asyncio.get_running_loop().time()
        assert (round(until_s, 6), stage.felt[0].is_over) == (1.5, False)
        await asyncio.sleep(2)
        assert stage.felt[0].is_over
        await timeline.heal()

    assert play([OfBroker(at_s=1, for_s=2)], scene).felt[0].cut_short is False


def test_what_is_on_when_all_is_healed_ends_there_the_last_begun_first_and_what_is_to_come_never_begins() -> None:
    faults = [
        OfPods(at_s=2, for_s=9, name="second", pods=("web-1",)),
        OfPods(at_s=1, for_s=9, name="first"),
        OfBroker(at_s=3, for_s=9, name="third"),
        OfBroker(at_s=5, for_s=1, name="never"),
        OfBroker(at_s=1, for_s=0.5, name="over"),
    ]
    stage = play(faults, after(4))
    assert stage.log == [
        *((1, "first begins"), (1, "over begins"), (1.5, "over ends"), (2, "second begins"), (3, "third begins")),
        *((4, "third ends"), (4, "second ends"), (4, "first ends")),
    ]
    assert stage.rows[1:] == [
        ("of_broker", "broker", 3, 4, 3, "whole"),
        ("of_pods", "web-1", 2, 4, 2, "whole"),
        ("of_pods", "web-0,web-1", 1, 4, 1, "whole"),
    ]
    assert [felt.cut_short for felt in stage.felt] == [True, False, True, True]


def test_pods_that_a_fault_ends_on_stand_behind_those_that_it_began_on() -> None:
    async def scene(timeline: Timeline, stage: Stage) -> None:
        await asyncio.sleep(2)
        stage.services["web"] = ["web-1", "web-2"]
        await asyncio.sleep(2)
        await timeline.heal()

    assert play([OfPods(at_s=1, for_s=2)], scene).rows == [("of_pods", "web-0,web-1,web-2", 1, 3, 1, "whole")]


def test_a_fault_that_says_itself_what_it_did_is_believed() -> None:
    async def scene(timeline: Timeline, stage: Stage) -> None:
        await asyncio.sleep(1.5)
        stage.felt[0].did(waited=True)
        stage.felt[1].missed()
        await asyncio.sleep(2)
        await timeline.heal()

    faults = [OfBroker(at_s=1, for_s=1), OfBroker(at_s=1, for_s=1.5)]
    rows = play(faults, scene).rows
    assert rows == [("of_broker", "broker", 1, 2, 1.5, "late"), ("of_broker", "broker", 1, 2.5, None, "not at all")]


def test_a_fault_that_cannot_begin_is_ended_and_told_with_its_name_and_the_others_go_on() -> None:
    stage = Stage(fails={"a begins": [BrokerRefused("it says no")]})
    with pytest.raises(BrokerRefused) as failed:
        play([OfBroker(at_s=1, for_s=2, name="a"), OfBroker(at_s=1.25, for_s=2, name="b")], after(5), stage)
    assert (str(failed.value), failed.value.__cause__) == ("the fault of_broker of 1 s: it says no", None)
    assert stage.log == [(1, "a begins"), (1.25, "b begins"), (3.25, "b ends"), (5, "a ends")]
    assert stage.rows == [("of_broker", "broker", 1.25, 3.25, 1.25, "whole"), ("of_broker", "broker", 1, 5, 1, "in part")]


def test_a_fault_that_cannot_end_as_the_broker_is_away_is_ended_as_soon_as_it_is_there() -> None:
    stage = play([OfBroker(at_s=1, for_s=2)], after(5), Stage(fails={"it ends": [AWAY, AWAY]}))
    assert stage.log == [(1, "it begins"), (3, "it ends"), (3 + RETRY_S, "it ends"), (3 + 2 * RETRY_S, "it ends")]
    assert stage.rows == [("of_broker", "broker", 1, 3 + 2 * RETRY_S, 1, "whole")]


def test_healing_waits_for_a_broker_that_is_away_and_then_ends_what_is_left() -> None:
    stage = play([OfBroker(at_s=1, for_s=9, name=name) for name in "ab"], after(2), Stage(fails={"a ends": [AWAY] * 3}))
    ends = [(2, "b ends"), *((round(2 + n * RETRY_S, 6), "a ends") for n in range(4))]
    assert stage.log[2:] == ends
    assert [row[3] for row in stage.rows] == [2, 2 + 3 * RETRY_S]


def test_healing_waits_no_longer_than_it_may_and_tells_what_is_left() -> None:
    stage = Stage(fails={"a ends": [AWAY] * 1_000})
    with pytest.raises(BrokerUnreachable, match=r"^the fault of_broker of 1.5 s: nobody is there$"):
        play([OfBroker(at_s=1.5, for_s=9, name="a"), OfBroker(at_s=1, for_s=9, name="b")], after(2), stage)
    times = [at_s for at_s, what in stage.log if what == "a ends"]
    assert (times[0], times[-1], len(times)) == (2, 2 + HEAL_S, 1 + HEAL_S / RETRY_S)
    assert stage.rows == [("of_broker", "broker", 1, 2, 1, "whole")]


@pytest.mark.parametrize("error", [BrokerRefused("no such command"), BuslabError("it broke"), ValueError("a bug")])
def test_what_cannot_be_healed_is_told_and_the_others_are_healed_all_the_same(error: Exception) -> None:
    stage = Stage(fails={"b ends": [error]})
    with pytest.raises(type(error)) as failed:
        play([OfBroker(at_s=1, for_s=9, name="a"), OfBroker(at_s=1.5, for_s=9, name="b")], after(2), stage)
    words = str(error) if not isinstance(error, BrokerError) else f"the fault of_broker of 1.5 s: {error}"
    assert (str(failed.value), failed.value.__cause__) == (words, None)
    assert stage.log[2:] == [(2, "b ends"), (2, "a ends")]
    assert stage.rows == [("of_broker", "broker", 1, 2, 1, "whole")]


@pytest.mark.parametrize("what", ["it begins", "it ends"])
@pytest.mark.parametrize("healed", [False, True])
def test_what_a_fault_of_the_user_s_own_raises_is_told_in_one_line_with_its_name(what: str, healed: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr("sim.faults.timeline.is_own", lambda fault: isinstance(fault, OfBroker))
    error = KeyError("web-9")
    with pytest.raises(BuslabError) as failed:
        play([OfBroker(at_s=1.5, for_s=9 if healed else 1)], after(3), Stage(fails={what: [error]}))
    assert str(failed.value).startswith("the fault of_broker of 1.5 s: KeyError: 'web-9'") and "\n" not in str(failed.value)
    assert failed.value.__cause__ is error and type(failed.value) is BuslabError


def test_an_error_of_ours_in_a_fault_of_the_user_s_own_is_told_as_it_is(monkeypatch: Any) -> None:
    monkeypatch.setattr("sim.faults.timeline.is_own", lambda fault: True)
    for what, words in (("it begins", "the fault of_broker of 1.5 s: no such pod"), ("it ends", "no such pod")):
        with pytest.raises(BuslabError) as failed:
            play([OfBroker(at_s=1.5, for_s=1)], after(3), Stage(fails={what: [BuslabError("no such pod")]}))
        assert str(failed.value) == words


def test_what_one_of_our_faults_raises_beside_errors_of_ours_is_a_bug_and_stays_what_it_is() -> None:
    with pytest.raises(ValueError, match=r"^a bug$"):
        play([OfBroker(at_s=1, for_s=1)], after(3), Stage(fails={"it begins": [ValueError("a bug")]}))


def test_the_first_that_failed_is_told() -> None:
    stage = Stage(fails={"a begins": [BuslabError("first")], "b begins": [BuslabError("second")], "a ends": [BuslabError("third")]})
    with pytest.raises(BuslabError, match=r"of 2 s: first$"):
        play([OfBroker(at_s=2, for_s=1, name="a"), OfBroker(at_s=1, for_s=1, name="b")], after(4), stage)
    assert [what for _, what in stage.log] == ["b begins", "a begins", "a ends", "b ends"]


def test_one_that_is_never_done_does_not_hide_what_failed_before() -> None:
    stage = Stage(fails={"a begins": [BuslabError("first")], "b ends": [AWAY] * 1_000})
    with pytest.raises(BuslabError, match=r"of 1 s: first$"):
        play([OfBroker(at_s=1, for_s=9, name="a"), OfBroker(at_s=1, for_s=9, name="b")], after(2), stage)


def test_what_was_done_in_part_stays_so_when_it_ends_as_it_should() -> None:
    async def scene(timeline: Timeline, stage: Stage) -> None:
        await asyncio.sleep(1.5)
        stage.felt[0].did()
        stage.felt[0].missed()
        await asyncio.sleep(2)
        await timeline.heal()

    assert play([OfBroker(at_s=1, for_s=1)], scene).rows == [("of_broker", "broker", 1, 2, 1.5, "in part")]


@pytest.mark.parametrize("faults", [[], [OfBroker(at_s=1, for_s=9)]])
def test_healing_what_can_be_healed_takes_no_time(faults: list[OfBroker]) -> None:
    async def scene(timeline: Timeline, stage: Stage) -> None:
        await asyncio.sleep(2)
        await timeline.heal()
        assert stage.at_s() == 2

    play(faults, scene)


def test_what_never_started_has_nothing_to_heal() -> None:
    async def scene() -> None:
        stage: Any = Stage()
        faults: Any = [OfBroker(at_s=1, for_s=9)]
        await Timeline(faults, World(stage, stage, {}, {}), stage, seed=1).heal()
        assert stage.log == []

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(scene())
