"""The broker's processor time per publish and per copy: planted costs are found, and what cannot be known is not claimed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sim.results.broker_costs import METRICS, BrokerCosts, _fitted, broker_costs, cpu_samples, least_squares, work_between
from sim.results.checkers import judge
from sim.results.interval import UNKNOWN, Interval
from sim.results.opened_run import Run, open_run
from sim.results.report import write_report
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario
from tests.support.run_folders import MS, RUN_NS, SECOND, RunFolder

IDLE_SHARE, PUBLISH_US, COPY_US = 0.02, 30.0, 7.0
WINDOWS = 38
WINDOW_NS = 250 * MS


def planted(folder: Path, *, fan_out: Callable[[int], int], noise_us: float = 0.0, windows: int = WINDOWS, restart: bool = False) -> Run:
    """Make a run whose broker spends just what it should, in windows of 250 ms with 5 to 44 publishes each."""
    plan = RunFolder(folder).service("web", replicas=2)
    random = np.random.default_rng(7)
    cpu_us = 5e6
    for window in range(windows + 1):
        at = RUN_NS + window * WINDOW_NS
        said = 0.0 if restart and window > windows // 2 else cpu_us
        plan.broker += [(at, "used_cpu_user_s", "", said * 0.75 / 1e6), (at, "used_cpu_sys_s", "", said * 0.25 / 1e6)]
        count = int(random.integers(5, 45))
        copies = 0
        for number in range(count):
            event = plan.event(at + (number + 1) * 5 * MS)
            event.receivers = fan_out(number + window)
            copies += event.receivers
            for pod in plan.pods:
                plan.hear(event, pod)
        cpu_us += IDLE_SHARE * WINDOW_NS / 1e3 + PUBLISH_US * count + COPY_US * copies + random.normal() * noise_us
    return open_run(plan.write())


def mixed() -> Callable[[int], int]:
    """Return a fan-out as of a bus with channels of few and of many subscribers."""
    random = np.random.default_rng(1)
    return lambda n: int(random.choice((1, 2, 60), p=(0.6, 0.3, 0.1)))


def test_planted_costs_are_found_exactly(tmp_path: Path) -> None:
    costs = broker_costs(planted(tmp_path / "run", fan_out=mixed()))
    assert costs.publish_us.value == pytest.approx(PUBLISH_US, rel=1e-4)
    assert costs.copy_us.value == pytest.approx(COPY_US, rel=1e-4)
    assert costs.idle_share.value == pytest.approx(IDLE_SHARE, rel=1e-3)
    assert (costs.windows, costs.reason) == (WINDOWS, "")
    spent = IDLE_SHARE * WINDOWS * 0.25 * 1e6 + PUBLISH_US * costs.publishes + COPY_US * costs.copies
    assert costs.cpu_share == pytest.approx(spent / (WINDOWS * 0.25 * 1e6), rel=1e-9)
    assert costs.all_in_copy_us == pytest.approx(spent / costs.copies, rel=1e-9)
    assert costs.joint_copy_us.value > COPY_US


def test_with_noise_the_intervals_hold_the_truth_most_times(tmp_path: Path) -> None:
    """A property of the fit: 200 draws with a fixed seed, each of 40 windows."""
    random = np.random.default_rng(3)
    held = np.zeros(3)
    for _ in range(200):
        columns = np.column_stack((np.full(40, 0.25), random.poisson(50, 40), random.poisson(300, 40)))
        values = columns @ (20_000, PUBLISH_US, COPY_US) + random.normal(0, 200, 40)
        for place, (found, truth) in enumerate(zip(least_squares(columns, values), (20_000, PUBLISH_US, COPY_US), strict=True)):
            held[place] += found.low <= truth <= found.high
    assert (held >= 180).all() and (held <= 199).all()


def test_noise_widens_the_interval_and_the_truth_stays_inside(tmp_path: Path) -> None:
    costs = broker_costs(planted(tmp_path / "run", fan_out=mixed(), noise_us=100))
    for found, truth in ((costs.publish_us, PUBLISH_US), (costs.copy_us, COPY_US)):
        assert found.low < truth < found.high
        assert found.high - found.low > 0.5


def test_a_constant_fan_out_gives_the_joint_cost_only(tmp_path: Path) -> None:
    costs = broker_costs(planted(tmp_path / "run", fan_out=lambda n: 12))
    assert not costs.publish_us.known and not costs.copy_us.known
    assert costs.joint_copy_us.value == pytest.approx(COPY_US + PUBLISH_US / 12, rel=1e-4)
    assert costs.fan_out == 12
    assert "rise and fall together" in costs.reason


def nothing_fitted(costs: BrokerCosts) -> bool:
    return not any(one.known for one in (costs.publish_us, costs.copy_us, costs.joint_copy_us, costs.idle_share))


def test_too_few_windows_fit_nothing_and_say_so(tmp_path: Path) -> None:
    costs = broker_costs(planted(tmp_path / "run", fan_out=lambda n: 1 + n % 7, windows=6))
    assert nothing_fitted(costs)
    assert "only 6 windows" in costs.reason
    assert 0 < costs.cpu_share < 1 and costs.all_in_copy_us > COPY_US


def test_a_broker_that_was_started_again_gives_nothing(tmp_path: Path) -> None:
    costs = broker_costs(planted(tmp_path / "run", fan_out=lambda n: 1 + n % 7, restart=True))
    assert nothing_fitted(costs) and math.isnan(costs.cpu_share)
    assert "started again" in costs.reason


def test_a_run_without_samples_gives_nothing(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=2)
    plan.publish(10, step_ns=SECOND // 20)
    costs = broker_costs(open_run(plan.write()))
    assert nothing_fitted(costs) and math.isnan(costs.cpu_share)
    assert costs.reason == "no samples of the broker's CPU in phase run"


def test_copies_of_which_no_publish_was_answered_are_not_work(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("web", replicas=2)
    for number in range(40):
        event = plan.event(RUN_NS + number * 100 * MS, outcome="refused" if number % 2 else "acknowledged")
        event.receivers = -1 if number % 2 else 2
    for window in range(20):
        at = RUN_NS + window * WINDOW_NS
        plan.broker += [(at, "used_cpu_user_s", "", window / 100), (at, "used_cpu_sys_s", "", 0.0)]
    costs = broker_costs(open_run(plan.write()))
    assert costs.copies == 2 * costs.publishes
    assert costs.publishes == 20


@pytest.mark.broker
def test_a_real_broker_costs_something_and_less_than_a_core(tmp_path: Path) -> None:
    settings = ("load.driver=pods", "load.rate_per_s=2000", "load.shape=ramp", "load.warm_up_s=0.5", "load.run_s=8", "bus.batch_size=10")
    run = open_run(run_scenario(load_scenario("baseline", settings=settings), out=tmp_path / "run"))
    costs = broker_costs(run)
    assert costs.windows >= 10
    assert costs.copies > costs.publishes > 1000
    assert 0 < costs.cpu_share < 1
    assert costs.all_in_copy_us > 0
    assert costs.joint_copy_us.known
    assert costs.joint_copy_us.high > 0
    assert "the broker" in write_report(run, judge(run)).read_text("utf-8").lower()


def test_in_a_cluster_copies_are_what_was_heard_because_publish_counts_one_node(tmp_path: Path) -> None:
    run = planted(tmp_path / "run", fan_out=lambda n: 1)
    alone = broker_costs(run)
    run.info.nodes = 3
    cluster = broker_costs(run)
    assert alone.copies == alone.publishes
    assert cluster.publishes == alone.publishes
    assert cluster.copies == 2 * alone.publishes, "two replicas heard each"
    assert cluster.all_in_copy_us == pytest.approx(alone.all_in_copy_us / 2)


# -- the parts, by value --------------------------------------------------------------------------------------------


def counted(folder: Path, *, nodes: int = 1) -> RunFolder:
    """Samples at 10, 11, 13 and 16 s; publishes answered in the windows between them, and outside."""
    plan = RunFolder(folder).service("web", replicas=2)
    plan.info.nodes = nodes
    for seconds, user, system in ((9.9, 1, 1), (10, 2, 1), (11, 2.25, 1.25), (13, 3.5, 2), (16, 5, 3), (20.1, 9, 9)):
        plan.broker += [(int(seconds * SECOND), "used_cpu_user_s", "", user), (int(seconds * SECOND), "used_cpu_sys_s", "", system)]
    plan.broker += [(11 * SECOND, "used_cpu_user_s", "", 99.0), (12 * SECOND, "used_cpu_user_s", "", 3.0), (12 * SECOND, "memory", "", 3.0)]
    for seconds, receivers, outcome in (
        (9.95, 1, "acknowledged"), (10, 2, "acknowledged"), (10.99, 3, "acknowledged"), (11, 4, "acknowledged"), (12, 5, "unknown"),
        (12.5, 6, "acknowledged"), (15, 7, "acknowledged"), (16, 8, "acknowledged"), (14, 9, "refused"),
    ):  # fmt: skip
        event = plan.event(int(seconds * SECOND) - MS, sent_ns=int(seconds * SECOND) - MS, acked_ns=int(seconds * SECOND), outcome=outcome)
        event.receivers = receivers
    plan.hear(plan.events[2], "web-0")
    plan.hear(plan.events[2], "web-1")
    return plan


def test_samples_are_those_of_the_phase_that_have_both_parts(tmp_path: Path) -> None:
    at_s, cpu_s = cpu_samples(open_run(counted(tmp_path / "run").write()), "run")
    assert (at_s.tolist(), cpu_s.tolist()) == ([10.0, 11.0, 13.0, 16.0], [3.0, 3.5, 5.5, 8.0])
    at_s, cpu_s = cpu_samples(open_run(counted(tmp_path / "none").write()), "heal")
    assert (at_s.tolist(), cpu_s.tolist()) == ([], [])


def test_work_is_counted_in_the_window_in_which_it_was_answered(tmp_path: Path) -> None:
    times = np.array([10.0, 11.0, 13.0, 16.0])
    publishes, copies = work_between(open_run(counted(tmp_path / "run").write()), times)
    assert (publishes.tolist(), copies.tolist()) == ([2, 2, 1], [5, 10, 7])
    publishes, copies = work_between(open_run(counted(tmp_path / "cluster", nodes=2).write()), times)
    assert (publishes.tolist(), copies.tolist()) == ([2, 2, 1], [2, 0, 0]), "of one node PUBLISH says nothing of the others: what was heard"


def test_a_few_windows_say_what_all_cost_together(tmp_path: Path) -> None:
    assert broker_costs(open_run(counted(tmp_path / "run").write())) == BrokerCosts(
        windows=3,
        publishes=5,
        copies=22,
        cpu_share=5 / 6,
        all_in_copy_us=5e6 / 22,
        fan_out=22 / 5,
        reason="only 3 windows between samples, 10 are needed",
    )


def test_no_samples_and_a_broker_that_was_started_again(tmp_path: Path) -> None:
    plan = counted(tmp_path / "again")
    plan.broker += [(17 * SECOND, "used_cpu_user_s", "", 0.5), (17 * SECOND, "used_cpu_sys_s", "", 0.5)]
    plan.broker += [(18 * SECOND, "used_cpu_user_s", "", 50.0), (18 * SECOND, "used_cpu_sys_s", "", 0.5)]
    assert broker_costs(open_run(plan.write())) == BrokerCosts(reason="the broker was started again in this phase")
    plan.folder, plan.broker = tmp_path / "none", plan.broker[:2]
    assert broker_costs(open_run(plan.write())) == BrokerCosts(reason="no samples of the broker's CPU in phase run")


def exactly(value: float) -> Interval:
    return Interval(*(pytest.approx(value, rel=1e-6),) * 3)


def windows(*, copies: Callable[[int], int], publishes: Callable[[int], int]) -> BrokerCosts:
    """Twelve windows of one or two seconds; 20 ms a second, 30 us a publish and 7 us a copy."""
    seconds = np.array([1.0 + n % 2 for n in range(12)])
    made, heard = (np.array([float(count(n)) for n in range(12)]) for count in (publishes, copies))
    return _fitted(BrokerCosts(windows=12), seconds, seconds * 0.02e6 + made * 30 + heard * 7, made, heard)


def test_costs_are_told_apart_in_windows_of_different_length() -> None:
    found = windows(publishes=lambda n: 100 + 37 * (n % 5), copies=lambda n: 1000 + 211 * (n % 3) + 17 * n)
    assert (found.publish_us, found.copy_us, found.idle_share) == (exactly(30), exactly(7), exactly(0.02))
    assert found.reason == "" and found.windows == 12 and found.joint_copy_us.known


def test_costs_of_what_rises_and_falls_together_are_joint() -> None:
    """Four copies a publish: a copy costs 7 us and a quarter of 30."""
    found = windows(publishes=lambda n: 100 + 37 * (n % 5), copies=lambda n: 4 * (100 + 37 * (n % 5)))
    assert (found.joint_copy_us, found.idle_share) == (exactly(14.5), exactly(0.02))
    assert not found.publish_us.known and not found.copy_us.known
    assert found.reason == "publishes and copies rise and fall together (correlation 1.000): only their joint cost is known"


def test_costs_of_a_steady_flow_are_not_known() -> None:
    found = windows(publishes=lambda n: 100 + n, copies=lambda n: 300 * (1 + n % 2))
    assert found == BrokerCosts(windows=12, reason="every window held the same number of copies")
    steady = windows(publishes=lambda n: 100 * (1 + n % 2), copies=lambda n: 300 + 7 * n)
    assert steady.reason == "publishes and copies rise and fall together (correlation 1.000): only their joint cost is known"


def test_a_publish_that_nobody_heard_and_one_whose_answer_says_nothing_made_no_copy(tmp_path: Path) -> None:
    plan = counted(tmp_path / "run")
    plan.events[1].receivers, plan.events[2].receivers = 0, -1
    publishes, copies = work_between(open_run(plan.write()), np.array([10.0, 11.0, 13.0, 16.0]))
    assert (publishes.tolist(), copies.tolist()) == ([2.0, 2.0, 1.0], [0.0, 4.0 + 6.0, 7.0])
    plan.folder = plan.folder.with_name("silent")
    for event in plan.events:
        event.receivers = -1
    publishes, copies = work_between(open_run(plan.write()), np.array([10.0, 11.0, 13.0, 16.0]))
    assert (publishes.tolist(), copies.tolist()) == ([2.0, 2.0, 1.0], [2.0, 0.0, 0.0]), "then what was heard counts"
    plan.folder = plan.folder.with_name("nobody")
    for event in plan.events:
        event.receivers = 0
    _, copies = work_between(open_run(plan.write()), np.array([10.0, 11.0, 13.0, 16.0]))
    assert copies.tolist() == [0.0, 0.0, 0.0], "that nobody was told of it is an answer"


def test_two_samples_are_one_window_and_one_is_none(tmp_path: Path) -> None:
    plan = counted(tmp_path / "run")
    plan.broker = [row for row in plan.broker if row[0] in (10 * SECOND, 13 * SECOND) and row[2] == ""]
    costs = broker_costs(open_run(plan.write()))
    assert (costs.windows, costs.publishes, costs.copies, costs.cpu_share) == (1, 4, 15, pytest.approx(2.5 / 3))
    plan.folder, plan.broker = plan.folder.with_name("one"), [row for row in plan.broker if row[0] == 10 * SECOND]
    assert broker_costs(open_run(plan.write())).windows == 0


def test_why_nothing_is_known_of_a_broker_s_costs(tmp_path: Path) -> None:
    plan = counted(tmp_path / "run")
    plan.broker = [(at * SECOND, metric, "", value) for at, value in ((11, 2.0), (13, 1.0)) for metric in METRICS]
    assert broker_costs(open_run(plan.write())) == BrokerCosts(reason="the broker was started again in this phase")
    plan.folder, plan.broker = plan.folder.with_name("one"), plan.broker[:2]
    assert broker_costs(open_run(plan.write())) == BrokerCosts(reason="no samples of the broker's CPU in phase run")
    plan.folder, plan.broker = plan.folder.with_name("zero"), [(at, metric, "", 1.0) for at in (0, 1) for metric in METRICS]
    at_s, _ = cpu_samples(open_run(plan.write()), "heal")
    assert at_s.tolist() == [], "a phase that the run never reached has no time at all"


def test_as_many_numbers_as_rows_or_columns_that_are_all_but_the_same_say_nothing_of_each() -> None:
    assert least_squares(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1.0, 2.0])) == [UNKNOWN] * 2
    alike = np.array([[1.0, 1.0], [1.0, 1.0 + 1e-8], [1.0, 1.0 - 1e-8], [1.0, 1.0]])
    assert least_squares(alike, np.array([1.0, 2.0, 3.0, 4.0])) == [UNKNOWN] * 2
    apart = least_squares(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), np.array([1.0, 2.0, 3.0]))
    assert [one.value for one in apart] == pytest.approx([1.0, 2.0])
