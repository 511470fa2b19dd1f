"""The kubelet: Kubernetes' counting and back-off, and probes of pods, on the model and over real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import psutil
import pytest

from sim.errors import Interrupted
from sim.grounds.broker import Broker
from sim.grounds.catalogue import open_broker
from sim.pods.kubelet import BackOff, FleetKubelet, Streak, next_tick_s
from sim.record.recorder import Recorder
from sim.record.schema import HTTP_CALL, NO_ANSWER
from sim.results.checkers import judge
from sim.results.opened_run import Run as Ran
from sim.results.opened_run import open_run
from sim.run.fleet import Fleet
from sim.run.status import Status
from sim.run.steps import run_scenario
from sim.scenario.file import Scenario, load_scenario
from sim.scenario.run_settings import Kubelet
from tests.support.scenes import ON_REAL, Ground
from tests.support.unknown import Starvation, latest_s

Run = Callable[[Any], Any]
QUICK = (
    "kubelet.enabled=true",
    "kubelet.live_delay_s=0.1",
    "kubelet.live_period_s=0.2",
    "kubelet.ready_delay_s=0.05",
    "kubelet.ready_period_s=0.1",
    "kubelet.timeout_s=0.2",
    "kubelet.grace_s=0.3",
    "kubelet.restart_delay_s=0.05",
    "kubelet.back_off_s=0.2",
)
BUSY = ("kubelet.timeout_s=5", "kubelet.failure_threshold=1000")  # a busy machine must restart nothing
VICTIM = "music-service-1"
LIVE, READY = '{"live":true}', '{"ready":true,"checks":{"eventBus":{"connected":true,"redisEnabled":true}}}'
OUTAGE = '{"ready":false,"checks":{"eventBus":{"connected":false,"redisEnabled":false}}}'


def states(outcomes: str, *, good: bool, successes: int, failures: int) -> str:
    streak = Streak(good=good, successes=successes, failures=failures)
    return "".join("+" if streak.take(outcome == "+") else "-" for outcome in outcomes)


def test_a_state_changes_after_so_many_equal_outcomes_in_a_row() -> None:
    assert states("--+--+---+", good=True, successes=1, failures=3) == "++++++++-+"
    assert states("+-++-+", good=False, successes=2, failures=1) == "---+--"
    assert states("---+", good=False, successes=1, failures=3) == "---+"


def test_the_back_off_doubles_up_to_its_end_and_is_forgotten_after_a_long_run() -> None:
    back_off = BackOff(Kubelet())
    waits = [back_off.wait_s(ran_s=1.0) for _ in range(8)]
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300]
    assert back_off.wait_s(ran_s=599.0) == 300
    assert [back_off.wait_s(ran_s=600.0), back_off.wait_s(ran_s=1.0)] == [0, 10]


@pytest.mark.parametrize(
    ("now_s", "next_s"),
    [(4.999, 15), (5.0, 15), (5.2, 15), (14.9, 15), (15.1, 25), (41.0, 45)],
    ids=["the timer was early", "in time", "late", "later", "one was missed", "several were missed"],
)
def test_a_probe_comes_once_a_period_and_missed_ones_are_left_out(now_s: float, next_s: float) -> None:
    assert next_tick_s(5.0, period_s=10.0, now_s=now_s) == next_s


def test_a_kubelet_has_the_reference_s_probes_and_kubernetes_defaults() -> None:
    kubelet = Kubelet()
    assert (kubelet.live_delay_s, kubelet.live_period_s, kubelet.ready_delay_s, kubelet.ready_period_s) == (10, 15, 5, 10)
    assert (kubelet.timeout_s, kubelet.failure_threshold, kubelet.success_threshold, kubelet.grace_s) == (1, 3, 1, 30)
    assert not load_scenario("baseline").kubelet.enabled


class Restartable:
    """A pod that has ended, and what a kubelet tells it."""

    name, port = "web-0", 0

    def __init__(self) -> None:
        self.ended, self.wanted, self.told = asyncio.Event(), asyncio.Event(), list[str]()
        self.ended.set()
        self.wanted.set()

    async def stop(self, *, grace_s: float) -> None:
        self.told.append("stop")

    async def start(self) -> None:
        self.told.append("start")
        self.ended.clear()


@pytest.mark.parametrize(("finish_s", "told"), [(5.0, ["start"]), (0.0, []), (0.5, [])])
def test_a_restart_that_is_under_way_is_finished_before_the_kubelet_closes(tmp_path: Path, finish_s: float, told: list[str]) -> None:
    """Else the end of the load would leave a pod down that Kubernetes had begun to restart."""
    pod = Restartable()

    async def scene() -> None:
        recorder = Recorder(tmp_path, source="h0", pods=[pod.name])
        kubelet = FleetKubelet(Kubelet(restart_delay_s=1.0), [pod], recorder=recorder, seed=1, failed=pytest.fail)
        kubelet.start()
        await asyncio.sleep(0.1)
        await kubelet.close(finish_s=finish_s)
        assert pod.told == told
        await asyncio.sleep(5.0)
        assert pod.told == told, "it begins no other one"
        assert kubelet.restarts["web-0"] == len(told)

    with open_broker("model") as broker, asyncio.Runner(loop_factory=broker.new_loop) as runner:
        runner.run(scene())


def lively(*settings: str) -> Scenario:
    """The baseline's twelve pods, short, with batches that leave all the time."""
    load = ("load.driver=pods", "load.warm_up_s=0.2", "load.run_s=4", "load.rate_per_s=100", "bus.batch_size=5")
    return load_scenario("baseline", settings=(*load, *QUICK, "slo.lag_ms_p99=100000", *settings))


@asynccontextmanager
async def fleet_on(broker: Broker, folder: Path, *settings: str) -> AsyncIterator[Fleet]:
    fleet = Fleet(lively(*settings), address=broker.address, folder=folder, nonce=1, run_id="1")
    await fleet.start()
    try:
        yield fleet
    finally:
        fleet.abort()
        assert fleet.kubelet is not None
        await fleet.kubelet.close()
        assert not fleet.failed.done()


async def until(reached: Callable[[], bool]) -> None:
    while not reached():
        await asyncio.sleep(0.01)


def answers(fleet: Fleet) -> list[tuple[str, str, int, str]]:
    rows = fleet.recorder.tables["probes"].take().to_pylist()
    return [(row["pod"], row["probe"], row["status"], row["body"]) for row in rows]


def listening() -> set[int]:
    mine = psutil.Process().net_connections(kind="tcp")
    return {connection.laddr.port for connection in mine if connection.status == psutil.CONN_LISTEN}


@pytest.mark.broker
def test_every_pod_answers_both_probes_and_readiness_follows_the_broker(tmp_path: Path, run_async: Run) -> None:
    async def scene(broker: Broker) -> None:
        before = listening()
        async with fleet_on(broker, tmp_path, *BUSY) as fleet:
            kubelet, probes = fleet.kubelet, fleet.recorder.tables["probes"]
            assert kubelet is not None
            assert len(listening() - before) == 12
            assert set(kubelet.ready) == set(fleet.host.replicas)
            await until(lambda: all(kubelet.ready.values()) and len(probes) >= 60)
            said = answers(fleet)
            assert {(probe, status, body) for _, probe, status, body in said} == {("live", 200, LIVE), ("ready", 200, READY)}
            assert {(pod, probe) for pod, probe, *_ in said} == {(pod, probe) for pod in kubelet.ready for probe in ("live", "ready")}
            assert broker.control is not None
            await broker.control.kill()
            await until(lambda: fleet.host.states() == {"disconnected": 12})
            await until(lambda: all(c.pod.fallback.state == "outage" for c in fleet.host.replicas.values()))
            answers(fleet)
            await until(lambda: len(probes) >= 60)
            said = answers(fleet)[12:]  # some were under way
            assert {(probe, status, body) for _, probe, status, body in said} == {("live", 200, LIVE), ("ready", 503, OUTAGE)}
            await broker.control.start()
            await until(lambda: [c.pod.fallback.connected for c in fleet.host.replicas.values()] == [True] * 12)
            assert not kubelet.restarts
        await until(lambda: listening() == before)

    with open_broker("embedded") as broker:
        run_async(scene(broker))


@pytest.mark.broker
def test_a_pod_in_an_outage_is_not_ready_after_so_many_failures(tmp_path: Path, run_async: Run) -> None:
    async def scene(broker: Broker) -> None:
        async with fleet_on(broker, tmp_path, "kubelet.timeout_s=5", "kubelet.live_delay_s=1000") as fleet:
            kubelet = fleet.kubelet
            assert kubelet is not None
            await until(lambda: all(kubelet.ready.values()))
            assert broker.control is not None
            await broker.control.kill()
            await until(lambda: not any(kubelet.ready.values()))
            by_pod = sorted(row for row in answers(fleet) if row[1] == "ready")
            for _, rows in groupby(by_pod, key=lambda row: row[0]):
                assert sum(row[2] == 503 for row in rows) >= 3
            await broker.control.start()
            await until(lambda: all(kubelet.ready.values()))

    with open_broker("embedded") as broker:
        run_async(scene(broker))


class Hurt:
    """Run a scenario and do something to its fleet when the run phase has begun."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, act: Callable[[Fleet], Any]) -> None:
        self.fleet: Fleet | None = None
        self._act = act
        self._acting: asyncio.Task[Any] | None = None
        hurt = self

        class Reached(Fleet):
            def __init__(self, *args: Any, **more: Any) -> None:
                super().__init__(*args, **more)
                hurt.fleet = self

        monkeypatch.setattr("sim.run.steps.Fleet", Reached)

    def watch(self, status: Status) -> None:
        if status.phase == "run" and self._acting is None:
            assert self.fleet is not None
            self._acting = asyncio.get_running_loop().create_task(self._act(self.fleet))

    def run(self, scenario: Scenario, folder: Path, *, on: str = "model") -> Ran:
        run = open_run(run_scenario(scenario, on=on, out=folder, watch=self.watch))
        assert self._acting is not None
        self._acting.result()
        return run


on_both_grounds = pytest.mark.parametrize("on", ["model", ON_REAL])


def books(run: Ran) -> dict[str, float]:
    verdict = judge(run)
    counts = verdict.checkers["ledger"].counts
    assert counts["unexplained"] == counts["unexpected"] == counts["duplicate"] == 0
    assert verdict.checkers["ledger"].verdict == "valid", verdict.checkers["ledger"].detail
    assert verdict.checkers["order"].verdict == "valid"
    assert verdict.checkers["harness"].verdict == "valid", verdict.checkers["harness"].detail
    return counts


def history(run: Ran, pod: str) -> list[str]:
    return [state for state, _ in groupby(run.pods.loc[run.pods["pod"] == pod, "state"])]


@on_both_grounds
def test_a_frozen_pod_is_restarted_after_three_failed_probes_and_the_books_balance(
    on: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def freeze(fleet: Fleet) -> None:
        await fleet.host.replicas[VICTIM].freeze()

    # On a real server a probe of a pod that is well may be late; with a second's patience three in a row are not.
    patient = () if on == "model" else ("kubelet.timeout_s=1", "load.run_s=7")
    run = Hurt(monkeypatch, freeze).run(lively(*patient), tmp_path / "run", on=on)
    counts = books(run)
    assert history(run, VICTIM) == ["starting", "subscribed", "frozen", "aborted", "starting", "subscribed", "stopped"]
    times = dict(zip(*(run.pods.loc[run.pods["pod"] == VICTIM, column] for column in ("state", "at_ns")), strict=True))
    probes = run.probes[(run.probes["pod"] == VICTIM) & (run.probes["probe"] == "live")]
    failed = probes[probes["status"] == 0]
    assert set(failed["body"]) == {"timeout"}
    assert len(failed) == 3 or (on != "model" and len(failed) > 3), "a busy machine may be late with one more"
    others = run.probes[run.probes["pod"] != VICTIM]
    said = set(others.loc[others["probe"] == "live", "body"])
    assert LIVE in said and said <= ({LIVE} if on == "model" else {LIVE, "timeout"})
    # what was sent to it while it stood still died with it; afterwards it hears and publishes
    assert counts["pod-down"] > 0
    ledger = run.ledger()
    mine = ledger[ledger["pod"] == VICTIM]
    assert set(mine.loc[mine["fate"] == "missing", "cause"]) <= {"pod-down", "deaf", "sent-in-memory-mode"}
    publishes = run.publishes[run.publishes["publisher"] == VICTIM]
    incarnations = {key >> 32 & 0xFFFF for key in publishes["event"].tolist()}
    assert incarnations == {1, 12}, "its pod number, then the first after those of all pods"
    late = publishes[publishes["event"] // 2**32 % 2**16 == 12]
    assert (late["intended_ns"] > times["aborted"]).all()
    assert run.publishes["event"].is_unique
    heard = run.deliveries[(run.deliveries["pod"] == VICTIM) & (run.deliveries["received_ns"] > times["aborted"])]
    assert len(heard) > 0
    load = run.info.load
    assert load.calls_not_made > 0
    assert load.calls + load.calls_not_made == load.offered_calls
    assert run.info.notes == [f"restarted by the kubelet: {VICTIM} (1)"]


@pytest.mark.parametrize("elsewhere_s", [0.0, 0.7])
def test_no_kubelet_starts_a_pod_whose_machine_is_away(elsewhere_s: float, tmp_path: Path) -> None:
    down = f"faults=[{{kind='machine_down',at_s=0.5,for_s=2,machine=1,elsewhere_s={elsewhere_s}}}]"
    run = open_run(run_scenario(lively("load.run_s=4", down), on="model", out=tmp_path / "run"))
    books(run)
    (fault,) = run.faults.to_dict("records")
    pods = fault["target"].split(",")
    assert VICTIM in pods and len(pods) == 4
    again_ns = run.pods[run.pods["state"] == "starting"].groupby("pod", observed=True)["at_ns"].max()[pods]
    assert (again_ns == (fault["begin_ns"] + elsewhere_s * 1e9 if elsewhere_s else fault["end_ns"])).all()
    assert {len(history(run, pod)) for pod in pods} == {6}
    probed = run.probes[run.probes["pod"].isin(pods)]
    assert not probed["at_ns"].between(fault["begin_ns"] + 1, again_ns.min() - 1).any()
    assert (probed["at_ns"] > again_ns.max()).any()


def test_a_killed_pod_is_restarted_with_back_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def kill_thrice(fleet: Fleet) -> None:
        replica = fleet.host.replicas[VICTIM]
        for _ in range(3):
            await until(lambda: replica.pod.state == "subscribed")
            await replica.kill()

    run = Hurt(monkeypatch, kill_thrice).run(lively(*BUSY), tmp_path / "run")
    books(run)
    assert history(run, VICTIM) == ["starting", "subscribed", "aborted"] + ["starting", "subscribed", "aborted"] * 2 + [
        "starting",
        "subscribed",
        "stopped",
    ]
    rows = run.pods[run.pods["pod"] == VICTIM]
    ends, starts = (rows.loc[rows["state"] == state, "at_ns"].tolist() for state in ("aborted", "starting"))
    waited_s = [(start - end) / 1e9 for end, start in zip(ends, starts[1:], strict=True)]
    assert [wait >= least for wait, least in zip(waited_s, (0.05, 0.25, 0.45), strict=True)] == [True] * 3


@pytest.mark.parametrize("pace", [(), ("services.music-service.handler_ms=20", "bus.once=keep-marker"), ("bus.keep_alive_s=0.1",)])
def test_a_pod_that_thaws_goes_on_with_all_that_waited(pace: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def freeze_and_thaw(fleet: Fleet) -> None:
        replica = fleet.host.replicas[VICTIM]
        await replica.freeze()
        await asyncio.sleep(1)
        await replica.thaw()

    run = Hurt(monkeypatch, freeze_and_thaw).run(lively(*BUSY, *pace), tmp_path / "run")
    counts = books(run)
    assert history(run, VICTIM) == ["starting", "subscribed", "frozen", "subscribed", "stopped"]
    assert counts["missing"] == 0
    ((begin, end),) = next(life for life in run.pod_histories if life.pod == VICTIM).freezes
    heard = run.deliveries[run.deliveries["pod"] == VICTIM]
    for did in ("received_ns", "handled_ns"):
        assert not heard[did].between(begin, end, inclusive="neither").any(), f"{did}: it stood still"
    sent = run.publishes.loc[run.publishes["publisher"] == VICTIM]
    assert not sent["sent_ns"].between(begin, end, inclusive="neither").any(), "it sent nothing"
    assert sent["intended_ns"].between(begin, end, inclusive="neither").any(), "and made its calls afterwards"
    calls = run.calls[run.calls["publisher"] == VICTIM]
    assert calls["intended_ns"].is_monotonic_increasing
    assert run.info.load.calls_not_made == 0
    probes = run.probes[(run.probes["pod"] == VICTIM) & (run.probes["at_ns"].between(begin, end))]
    assert set(probes["body"]) <= {LIVE, READY, *NO_ANSWER}


@pytest.mark.parametrize(
    ("kubelet", "on"), [("true", "model"), ("false", "model"), pytest.param("false", "embedded", marks=pytest.mark.broker)]
)
def test_a_pod_that_sleeps_through_an_outage_learns_of_it_when_it_thaws(
    kubelet: str, on: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sleep_through(fleet: Fleet) -> None:
        replica = fleet.host.replicas[VICTIM]
        await replica.freeze()
        await until(lambda: fleet.host.states()["disconnected"] == 11)
        await until(lambda: fleet.host.states()["subscribed"] >= 11)
        await asyncio.sleep(0.5)  # of load that it cannot hear
        await replica.thaw()

    scenario = load_scenario("restart_redis", settings=(*QUICK, f"kubelet.enabled={kubelet}", "bus.batch_size=5", "load.run_s=10"))
    run = Hurt(monkeypatch, sleep_through).run(scenario, tmp_path / "run", on=on)
    counts = books(run)
    mine = run.ledger()[lambda ledger: ledger["pod"] == VICTIM]
    assert {"deaf", "pod-down"} & set(mine["cause"])
    expected = ["aborted", "starting"] if kubelet == "true" else ["subscribed", "disconnected"]
    assert history(run, VICTIM)[:5] == ["starting", "subscribed", "frozen", *expected]
    assert counts["delivered"] > 0


def test_pods_stop_start_and_stay_down_without_a_kubelet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hurt(fleet: Fleet) -> None:
        pods = fleet.host.replicas
        await asyncio.gather(pods[VICTIM].stop(grace_s=20), pods["analytics-service-0"].kill())
        before = pods[VICTIM].pod
        await pods[VICTIM].freeze()  # nothing to freeze, thaw or end
        await pods[VICTIM].thaw()
        await pods[VICTIM].stop(grace_s=20)
        await asyncio.sleep(0.5)
        await asyncio.gather(pods[VICTIM].start(), pods[VICTIM].start())
        await until(lambda: pods[VICTIM].pod.state == "subscribed")
        assert pods[VICTIM].pod is not before

    run = Hurt(monkeypatch, hurt).run(lively("kubelet.enabled=false"), tmp_path / "run")
    counts = books(run)
    assert history(run, VICTIM) == ["starting", "subscribed", "stopped", "starting", "subscribed", "stopped"]
    assert history(run, "analytics-service-0") == ["starting", "subscribed", "aborted"]
    assert counts["missing"] == counts["pod-down"] + counts["deaf"] + counts["no-pod"]
    assert counts["no-pod"] > 0, "of analytics-service, whose only pod is gone"
    last = run.publishes[run.publishes["outcome"] == "acknowledged"].iloc[-1]
    assert last["receivers"] < 12
    assert len(run.probes) == 0
    assert run.info.load.calls_not_made > 0


@pytest.mark.parametrize(
    ("seed", "kubelet", "on"),
    [
        *[(1, "true", "model"), (2, "false", "model"), pytest.param(3, "true", "embedded", marks=pytest.mark.broker)],
        *(pytest.param(seed, ("true", "false")[seed % 2], "model", marks=pytest.mark.deep) for seed in range(10, 110)),
        *(
            pytest.param(seed, ("true", "false")[seed % 2], "embedded", marks=[pytest.mark.deep, pytest.mark.broker])
            for seed in range(10, 20)
        ),
    ],
)
def test_the_books_balance_whatever_is_done_to_the_pods(
    seed: int, kubelet: str, on: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)

    async def hurt(fleet: Fleet) -> None:
        pods = list(fleet.host.replicas.values())
        loop = asyncio.get_running_loop()
        await pods[0].freeze()  # one of each kind at least, however few acts a busy machine leaves time for
        await pods[1].kill()
        enough_s = loop.time() + 4  # each act of 60 may be late on a busy machine, and the run ends
        for _ in range(60):
            if loop.time() > enough_s:
                break
            pod = chance.choice(pods)
            act = chance.choice([pod.kill, pod.freeze, pod.thaw, partial(pod.stop, grace_s=0.2), pod.start, pod.start])
            await act()
            await asyncio.sleep(chance.uniform(0, 0.08))
        for pod in pods:
            await pod.thaw()
            await pod.start()

    scenario = lively("load.run_s=6", "bus.keep_alive_s=0.5", f"kubelet.enabled={kubelet}")
    run = Hurt(monkeypatch, hurt).run(scenario, tmp_path / "run", on=on)
    counts = books(run)
    assert counts["delivered"] > 0
    assert {"aborted", "frozen"} <= set(run.pods["state"].astype(str)), "it was hurt"
    if seed < 10:  # not every schedule of the many hits a copy on its way
        assert counts["pod-down"] + counts["deaf"] > 0
    load = run.info.load
    assert load.calls + load.calls_not_made == load.offered_calls
    assert len(run.calls) == load.calls
    assert run.publishes["event"].is_unique
    assert run.publishes.loc[run.publishes["sent_ns"] > 0, "items"].sum() > 0


@on_both_grounds
def test_calls_by_http_fail_when_nobody_answers_and_their_caller_goes_on(on: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two analytics pods dies, then the other, and one comes back; a caller dies in between."""

    async def hurt(fleet: Fleet) -> None:
        first, second, caller = (fleet.host.replicas[name] for name in ("analytics-service-0", "analytics-service-1", VICTIM))
        await first.freeze()
        await asyncio.sleep(0.3)
        await caller.kill()  # some of its calls wait for the frozen pod
        await asyncio.sleep(0.2)
        await first.kill()
        await asyncio.sleep(0.5)
        await second.kill()
        await asyncio.sleep(1.2)
        await first.start()

    starved = Starvation()
    settings = ("services.analytics-service.replicas=2", "load.run_s=4", "kubelet.back_off_s=0")
    run = Hurt(monkeypatch, hurt).run(load_scenario("http_vs_bus", settings=settings), tmp_path / "run", on=on)
    books(run)
    calls = run.calls[run.calls["channel"] == HTTP_CALL]
    load = run.info.load
    assert load.calls + load.calls_not_made == load.offered_calls > load.calls == len(run.calls)
    back = run.pods.loc[(run.pods["pod"] == "analytics-service-0") & (run.pods["state"] == "starting"), "at_ns"].iloc[-1]
    killed = run.pods.loc[(run.pods["pod"] == "analytics-service-1") & (run.pods["state"] == "aborted"), "at_ns"].iloc[0]
    late_ns = int(1e9 * (latest_s(run) or 0))  # a call is made as late as the loop is, and a pod listens as late
    with starved.excuses(0.1, run=run):
        alone = calls[calls["intended_ns"].between(killed + 100_000_000, back - 100_000_000 - late_ns)]
        assert set(alone["outcome"]) == {"failed"}
    after = calls[calls["intended_ns"] > back + 500_000_000 + late_ns]
    assert set(after["outcome"]) == {"ok"}
    mine = calls[calls["publisher"] == VICTIM]
    assert "failed" in set(mine["outcome"]), "the calls that it died with"


def test_a_kill_does_not_wait_for_a_stop_that_is_under_way(tmp_path: Path, ground: Ground) -> None:
    async def scene() -> None:
        async with fleet_on(ground.broker, tmp_path, "kubelet.live_delay_s=1000") as fleet:
            replica = fleet.host.replicas[VICTIM]
            await replica.freeze()
            stopping = asyncio.create_task(replica.stop(grace_s=1000))
            await asyncio.sleep(0.05)
            assert not stopping.done(), "a frozen pod does not end on SIGTERM"
            await replica.kill()
            await stopping
            assert replica.pod.state == "aborted"

    ground.run(scene())


def test_a_frozen_pod_that_thaws_within_its_grace_period_stops_in_order(tmp_path: Path, ground: Ground) -> None:
    async def scene() -> None:
        async with fleet_on(ground.broker, tmp_path, "kubelet.live_delay_s=1000") as fleet:
            replica = fleet.host.replicas[VICTIM]
            replica.pod.record_event({"eventType": "track.played"})
            await replica.freeze()
            stopping = asyncio.create_task(replica.stop(grace_s=1000))
            await asyncio.sleep(0.05)
            await replica.thaw()
            await stopping
            assert replica.pod.state == "stopped"
            flushed = fleet.recorder.tables["publishes"].take().to_pylist()
            assert [(row["items"], row["outcome"]) for row in flushed] == [(1, "acknowledged")]

    ground.run(scene())


@pytest.mark.broker
def test_an_interruption_in_the_middle_leaves_nothing_listening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = listening()

    async def freeze_and_stop(fleet: Fleet) -> None:

        await fleet.host.replicas[VICTIM].freeze()
        await fleet.host.replicas["api-gateway-0"].kill()
        probes = fleet.recorder
        seen = probes.rows("probes")
        await until(lambda: probes.rows("probes") > seen)
        os.kill(os.getpid(), signal.SIGINT)

    hurt = Hurt(monkeypatch, freeze_and_stop)
    with pytest.raises(Interrupted):
        run_scenario(lively(*BUSY, "load.run_s=60"), out=tmp_path / "run", watch=hurt.watch)
    assert listening() == before
    run = open_run(tmp_path / "run")
    assert run.info.state == "interrupted"
    assert len(run.probes) > 0
    assert judge(run).checkers["ledger"].counts["unexplained"] == 0
    assert json.loads(run.probes["body"].iloc[0])
