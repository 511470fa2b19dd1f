"""Who waited for the machine, and what to do about it, to the word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.record.run_info import Phase
from sim.results.excuses import advice, notable, spent, who_waited
from sim.results.opened_run import Run, open_run
from sim.results.withheld import Account, Step, Withheld
from tests.support.run_folders import SECOND, RunFolder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run whose run phase is from second 10 to 20, and whose drain ends at 22."""
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.publish(1)
    return open_run(plan.write())


def process(withheld: float = 0, *, waited: float = 0, stood: float = 0, throttled: float = 0, late: float = 0, at: float = 15) -> Account:
    """A process with these seconds in the row that ends at `at`, after a row without any."""
    rows = [np.array([0, round(value * SECOND)]) for value in (withheld or waited + stood, late, waited, stood, throttled)]
    withheld_ns, late_ns, waited_ns, stood_ns, throttled_ns = rows
    begin, end = np.array([0, round((at - 1) * SECOND)]), np.array([round((at - 1) * SECOND), round(at * SECOND)])
    return Account(begin, end, withheld_ns, withheld_ns, late_ns, waited_ns, stood_ns, throttled_ns)


def withheld(*steps: Step, **hosts: Account) -> Withheld:
    return Withheld(hosts, list(steps), SECOND)


FORWARD, BACK, SLEPT = Step(12 * SECOND, 3 * SECOND, False), Step(13 * SECOND, -SECOND // 2, False), Step(14 * SECOND, 9 * SECOND, True)


def test_a_run_s_processes_are_to_work_from_its_run_phase_to_the_end_of_its_drain(run: Run) -> None:
    assert spent(run) == (10 * SECOND, 22 * SECOND)


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ({"run": (10, 20), "heal": (20, 25), "drain": (25, 0)}, (10, 25)),
        ({"run": (10, 20), "teardown": (20, 25)}, (10, 20)),
        ({"start": (1, 5)}, (0, None)),
        ({"run": (10, 0)}, (10, None)),
    ],
)
def test_as_far_as_it_came(tmp_path: Path, phases: dict[str, tuple[int, int]], expected: tuple[int, int | None]) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.info.phases = [Phase(name, begin * SECOND, end * SECOND) for name, (begin, end) in phases.items()]
    begin, end = spent(open_run(plan.write(state="interrupted")))
    assert begin == expected[0] * SECOND
    assert (end == expected[1] * SECOND) if expected[1] else (end > 1_000_000 * SECOND)


@pytest.mark.parametrize(
    ("account", "text"),
    [
        (process(waited=0.25), "h0 waited 250 ms for a core"),
        (process(stood=3), "h0 stood still for 3 s"),
        (process(waited=1, stood=2), "h0 stood still for 2 s and waited 1 s for a core"),
        (process(waited=0.19, stood=2), "h0 stood still for 2 s"),
        (process(waited=0.2, stood=2), "h0 stood still for 2 s"),
        (process(waited=0.21, stood=2), "h0 stood still for 2 s and waited 210 ms for a core"),
        (process(waited=0.5, stood=0.1), "h0 waited 500 ms for a core"),
        (process(waited=2, stood=0.2), "h0 waited 2 s for a core"),
        (process(waited=2, stood=0.21), "h0 stood still for 210 ms and waited 2 s for a core"),
        (process(1.5), "h0 had no core for 1.5 s"),
        (process(stood=0.09), "h0 had no core for 90 ms"),
        (process(waited=1, late=0.1, throttled=0.1), "h0 waited 1 s for a core"),
        (process(waited=1, late=0.2), "h0 waited 1 s for a core (its loop up to 200 ms late)"),
        (process(waited=1, throttled=0.3), "h0 waited 1 s for a core (its cgroup throttled for 300 ms)"),
        (
            process(waited=1, late=0.2, throttled=0.3),
            "h0 waited 1 s for a core (its loop up to 200 ms late, its cgroup throttled for 300 ms)",
        ),
    ],
)
def test_what_one_process_waited_for(run: Run, account: Account, text: str) -> None:
    assert who_waited(run, withheld(h0=account)) == text


def test_who_waited_most_is_named_first_and_who_waited_little_beside_that_not_at_all(run: Run) -> None:
    found = withheld(h0=process(waited=1), locust=process(waited=2), little=process(waited=0.2), some=process(waited=0.21), none=process())
    assert who_waited(run, found) == "locust waited 2 s for a core, h0 waited 1 s for a core and some waited 210 ms for a core"


def test_only_what_was_withheld_in_the_load_is_told(run: Run) -> None:
    assert who_waited(run, withheld()) == who_waited(run, withheld(h0=process())) == "nobody waited"
    assert who_waited(run, withheld(h0=process(waited=1, at=10))) == "nobody waited"
    assert who_waited(run, withheld(h0=process(waited=1, at=22.5))) == "h0 waited 1 s for a core"
    assert who_waited(run, withheld(h0=process(waited=1, at=23))) == "nobody waited"


def test_jumps_of_the_clock_and_suspensions_are_told(run: Run) -> None:
    told = ["the wall clock was set 3 s forward", "the wall clock was set 500 ms back", "the machine was suspended for 9 s"]
    assert [who_waited(run, withheld(step)) for step in (FORWARD, BACK, SLEPT)] == told
    assert who_waited(run, withheld(FORWARD, BACK, SLEPT)) == f"{told[0]}, {told[1]} and {told[2]}"
    bounds = [Step(at * SECOND + by, SECOND, True) for at, by in ((10, -1), (10, 0), (22, 0), (22, 1))]
    assert [who_waited(run, withheld(step)) for step in bounds] == [
        "nobody waited", "the machine was suspended for 1 s", "the machine was suspended for 1 s", "nobody waited"
    ]  # fmt: skip


CORES = "stop what else runs on this machine, or give the lab more cores"
STOPPED = "repeat the run, and let nothing stop or suspend the lab"
LIMIT = "raise the limit of the lab's cgroup"
CLOCK = "repeat the run, and leave the clock alone"


@pytest.mark.parametrize(
    ("account", "steps", "text"),
    [
        (process(waited=1), [], CORES),
        (process(), [], CORES),
        (process(waited=1, stood=1.1), [], STOPPED),
        (process(waited=1, stood=1), [], CORES),
        (process(waited=1, throttled=0.2), [], LIMIT),
        (process(waited=2, throttled=0.2), [], CORES),
        (process(waited=0.5, throttled=0.1), [], CORES),
        (process(waited=0.5, stood=3, throttled=0.2), [], LIMIT),
        (process(waited=0.05), [FORWARD], CLOCK),
        (process(waited=0.1), [FORWARD], CORES),
        (process(waited=0.05), [Step(10 * SECOND, SECOND, False)], CLOCK),
        (process(waited=0.05), [Step(22 * SECOND, SECOND, False)], CLOCK),
        (process(waited=0.05), [Step(22 * SECOND + 1, SECOND, False)], CORES),
        (process(waited=0.05), [Step(10 * SECOND - 1, SECOND, False)], CORES),
        (process(waited=5, stood=6, throttled=7, at=10), [], CORES),
    ],
)
def test_what_to_do_so_that_less_is_withheld(run: Run, account: Account, steps: list[Step], text: str) -> None:
    assert advice(run, withheld(*steps, h0=account, none=process())) == advice(run, withheld(*steps, none=process(), h0=account)) == text


def test_without_any_process_there_is_advice_too(run: Run) -> None:
    assert advice(run, withheld()) == CORES


def test_a_twentieth_of_the_run_phase_or_a_moment_of_standing_still_is_worth_a_word(run: Run) -> None:
    assert notable(run, withheld(h0=process(waited=0.5), h1=process(stood=0.1))) == ""
    assert notable(run, withheld(h0=process(waited=0.51))) == "h0 waited 510 ms for a core"
    assert (
        notable(run, withheld(h0=process(stood=0.11), h1=process(waited=0.6)))
        == "h0 stood still for 110 ms and h1 waited 600 ms for a core"
    )
    assert notable(run, withheld(h0=process(waited=0.6, at=10))) == notable(run, withheld(h0=process(waited=0.6, at=21))) == ""
    assert notable(run, withheld(FORWARD)) == "the wall clock was set 3 s forward"
    assert notable(run, withheld(Step(21 * SECOND, SECOND, False))) == ""


def test_a_run_that_had_no_run_phase_has_nothing_of_note(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0")
    plan.info.phases = [Phase("start", SECOND, 0)]
    assert notable(open_run(plan.write(state="interrupted")), withheld(h0=process(waited=0.6, at=2))) == ""
