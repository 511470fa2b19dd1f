"""Faults of pods and links: each heals what it did, whatever happened, and does what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.bus.envelope import Event
from sim.bus.services import BEHAVIOURS
from sim.errors import BrokerError, ScenarioError
from sim.faults.catalogue import FAULTS, Fault
from sim.faults.link import LinkPlan
from sim.faults.world import World
from sim.grounds.links import SharedLinks
from sim.results.checkers import judge
from sim.results.opened_run import Run, open_run
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario
from tests.support.faults_of_pods_and_links import (
    alone_at_its_start,
    bus_states,
    causes,
    causes_of_other,
    copies,
    of_fault,
    outcomes_unsent,
    starts,
)
from tests.support.ran import ran
from tests.support.unknown import Starvation

FREE = LinkPlan()
OWN: dict[str, dict[str, Any]] = {
    "clock_skew": {"skew_ms": 500.0},
    "handler_error": {},
    "link_blackhole": {},
    "link_cut": {},
    "link_reset": {"every_ms": 10.0},
    "link_slow": {"delay_ms": 5.0, "jitter_ms": 1.0, "bytes_per_s": 1000},
    "partition": {},
    "pod_freeze": {},
    "pod_kill": {},
    "pod_start_in_outage": {},
    "pod_stop": {},
    "rolling_restart": {"each_s": 0.0, "max_surge": 0},
    "slow_handler": {},
}


@dataclass
class PodState:
    """Be a pod as a fault sees it; `orders` counts what it was told."""

    running: bool = True
    frozen: bool = False
    handler_ms: float = 0.0
    at_once: int = 0
    failing: bool = False
    skew_ms: float = 0.0
    lost: bool = False
    orders: int = field(default=0, compare=False)

    def _set(self, **changes: Any) -> None:
        self.orders += 1
        for name, value in changes.items():
            setattr(self, name, value)

    async def kill(self) -> None:
        self._set(running=False)

    async def stop(self, *, grace_s: float = 30.0) -> None:
        self._set(running=False)

    async def start(self) -> None:
        self._set(running=self.running or not self.lost)

    async def freeze(self) -> None:
        self._set(frozen=True)

    async def thaw(self) -> None:
        self._set(frozen=False)

    async def lose_machine(self) -> None:
        self._set(running=False, lost=True)

    def get_machine(self) -> None:
        self._set(lost=False)

    async def slow(self, *, handler_ms: float, at_once: int) -> None:
        self._set(handler_ms=handler_ms, at_once=at_once)

    async def fail(self, failing: bool) -> None:
        self._set(failing=failing)

    async def skew(self, skew_ms: float) -> None:
        self._set(skew_ms=skew_ms)


@dataclass
class LinksState:
    """Be the links of two pods; `broken` lets every order fail."""

    plans: list[tuple[LinkPlan, LinkPlan]] = field(default_factory=lambda: [(FREE, FREE)] * 2)
    refusing: list[bool] = field(default_factory=lambda: [False] * 2)
    cutting: list[bool] = field(default_factory=lambda: [False] * 2)
    resets: int = field(default=0, compare=False)
    orders: int = field(default=0, compare=False)
    broken: bool = field(default=False, compare=False)

    async def shape(self, pods: Sequence[int], *, to_broker: LinkPlan, to_pod: LinkPlan) -> None:
        self.orders += 1
        for pod in pods:
            self.plans[pod] = (to_broker, to_pod)

    async def refuse(self, pods: Sequence[int], refusing: bool) -> None:
        self.orders += 1
        for pod in pods:
            self.refusing[pod] = refusing

    async def reset(self, pods: Sequence[int]) -> None:
        self.orders += 1
        if self.broken:
            raise BrokerError("the proxy is gone")
        self.resets += len(pods)

    async def cut(self, pods: Sequence[int], cutting: bool) -> None:
        self.orders += 1
        for pod in pods:
            self.cutting[pod] = cutting


@dataclass
class BrokerState:
    """Be a broker that can be killed and started."""

    running: bool = True

    async def kill(self) -> None:
        self.running = False

    async def start(self) -> None:
        self.running = True

    stop = freeze = thaw = kill


def world() -> World:
    async def ask(*words: str) -> Any:
        raise AssertionError("no fault of pods or links asks the broker")

    pods = {"web-0": PodState(), "api-0": PodState()}
    return World(BrokerState(), ask, pods, {"web": ["web-0"], "api": ["api-0"]}, links=SharedLinks(LinksState()))


def state(of: World) -> Any:
    return replace(of.broker), [replace(pod) for pod in of.pods.values()], replace(ground_of(of))  # type: ignore[type-var]


def ground_of(of: World) -> LinksState:
    return of.links._links  # type: ignore[union-attr]


def fault(kind: str, pods: tuple[str, ...] = ("web",)) -> Fault:
    return FAULTS[kind](at_s=0, for_s=1, pods=pods, **OWN[kind])


@pytest.mark.parametrize("kind", OWN)
def test_the_end_heals_and_is_safe_twice_and_without_a_beginning(kind: str, run_async: Callable[[Any], Any]) -> None:
    async def scene() -> None:
        healthy = state(world())
        never_begun, hurt = world(), world()
        await fault(kind).end(never_begun)
        assert state(never_begun) == healthy
        await fault(kind).begin(hurt)
        assert hurt.pods["web-0"].orders + ground_of(hurt).orders > 0  # type: ignore[attr-defined]
        assert hurt.pods["api-0"].orders == 0  # type: ignore[attr-defined]
        if kind not in ("link_reset", "rolling_restart"):  # which leave nothing behind but new connections and new pods
            assert state(hurt) != healthy
        for _ in range(2):
            await fault(kind).end(hurt)
            assert state(hurt) == healthy
        assert len(asyncio.all_tasks()) == 1, "nothing goes on"

    run_async(scene())


@dataclass
class MachinesState:
    """Be machines with a place for so many pods that move to one."""

    places: dict[str, int]
    room: int = 99
    down: set[int] = field(default_factory=set)

    def place_of(self, pod: str) -> int:
        return self.places[pod]

    def take_down(self, machine: int) -> None:
        self.down.add(machine)

    def bring_back(self, machine: int) -> None:
        self.down.discard(machine)

    def move(self, pod: str) -> bool:
        there = [machine for machine in set(self.places.values()) if machine not in self.down]
        if there and self.room:
            self.places[pod], self.room = there[0], self.room - 1
            return True
        return False


def cluster(*, room: int = 99) -> tuple[World, MachinesState]:
    """Return a world of five pods, three of them on machine 1."""
    machines = MachinesState({"web-0": 0, "web-1": 1, "api-0": 1, "api-1": 1, "api-2": 0}, room=room)
    pods: dict[str, Any] = {name: PodState() for name in machines.places}
    services = {"web": ["web-0", "web-1"], "api": ["api-0", "api-1"]}  # api-2 has yet to take the place of another
    return replace(world(), pods=pods, services=services, machines=machines), machines


def up(of: World) -> set[str]:
    return {name for name, pod in of.pods.items() if pod.running}  # type: ignore[attr-defined]


def test_a_machine_takes_its_pods_with_it_and_no_other_fault_starts_them(run_async: Callable[[Any], Any]) -> None:
    async def scene() -> None:
        hurt, machines = cluster()
        down = FAULTS["machine_down"](at_s=0, for_s=1, machine=1)
        kill = FAULTS["pod_kill"](at_s=0, for_s=1, pods=("api-0",))
        other = replace(hurt, kept={})
        await down.end(hurt)
        assert up(hurt) == set(machines.places), "the end of what has not begun does nothing"
        await down.begin(hurt)
        await kill.begin(other)
        assert (up(hurt), machines.down) == ({"web-0", "api-2"}, {1})
        await kill.end(other)
        assert up(hurt) == {"web-0", "api-2"}
        for _ in range(2):
            await down.end(hurt)
            assert (up(hurt), machines.down) == (set(machines.places), set())
        assert [pod.lost for pod in hurt.pods.values()] == [False] * 5  # type: ignore[attr-defined]

    run_async(scene())


def test_pods_start_elsewhere_as_far_as_there_is_room_and_the_rest_when_their_machine_is_back(run_async: Callable[[Any], Any]) -> None:
    async def scene() -> None:
        hurt, machines = cluster(room=2)
        down = FAULTS["machine_down"](at_s=0, for_s=1, machine=1, elsewhere_s=0.001)
        await down.begin(hurt)
        assert up(hurt) == {"web-0", "api-2", "web-1", "api-0"}, "api-1 is pending"
        assert (machines.places["api-0"], machines.places["api-1"]) == (0, 1)
        hurt.services["api"].remove("api-1")  # type: ignore[attr-defined]
        await down.end(hurt)
        assert not hurt.pods["api-1"].running, "it was retired meanwhile"  # type: ignore[attr-defined]
        assert machines.down == set()

    run_async(scene())


def test_what_another_machine_takes_from_its_new_place_is_not_started_by_the_first(run_async: Callable[[Any], Any]) -> None:
    async def scene() -> None:
        hurt, _ = cluster()
        one, two = (FAULTS["machine_down"](at_s=0, for_s=1, machine=machine, elsewhere_s=0.001) for machine in (1, 0))
        other = replace(hurt, kept={})
        await one.begin(hurt)
        assert {hurt.machines.place_of(name) for name in hurt.pods} == {0}  # type: ignore[union-attr]
        await two.begin(other)
        assert up(hurt) == {"api-2"}, "both machines are away, and nobody has a place"
        await one.end(hurt)
        assert up(hurt) == {"api-2"}
        await two.end(other)
        assert up(hurt) == set(hurt.pods)

    run_async(scene())


def test_resets_go_on_until_the_end_and_a_proxy_that_is_gone_is_told_there(run_async: Callable[[Any], Any]) -> None:
    async def scene() -> None:
        hurt = world()
        links = ground_of(hurt)
        resets = fault("link_reset")
        await resets.begin(hurt)
        async with asyncio.timeout(30):
            while links.resets < 3:
                await asyncio.sleep(0.001)
        links.broken = True
        orders = links.orders
        async with asyncio.timeout(30):
            while links.orders == orders:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        with pytest.raises(BrokerError, match="proxy is gone"):
            await resets.end(hurt)
        await resets.end(hurt)

    run_async(scene())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ('faults=[{kind="link_slow",at_s=1,for_s=1}]', ["faults[0]", "slows nothing", "delay_ms"]),
        ('faults=[{kind="link_reset",at_s=1,for_s=1,every_ms=2}]', ["every_ms = 2", "at least 10"]),
        ('faults=[{kind="slow_handler",at_s=1,for_s=1,at_once=0}]', ["at_once", "0"]),
        ('faults=[{kind="clock_skew",at_s=1,for_s=1}]', ["skew_ms", "missing"]),
        ('faults=[{kind="rolling_restart",at_s=1,for_s=1,max_surge=0,max_unavailable="0%"}]', ["are both 0", "raise one"]),
        ('faults=[{kind="rolling_restart",at_s=1,for_s=1,max_surge="a few"}]', ["max_surge", "a few"]),
        ('faults=[{kind="rolling_restart",at_s=1,for_s=1,max_unavailable="101%"}]', ["max_unavailable", "101%", "100%"]),
        ('faults=[{kind="rolling_restart",at_s=1,for_s=1,pods=["music-service-3"]}]', ["music-service-3", "no pod and no service"]),
        ('faults=[{kind="machine_down",at_s=1,for_s=1,elsewhere_s=1}]', ["elsewhere_s = 1", "is back after for_s = 1", "less, or 0"]),
        ('faults=[{kind="machine_down",at_s=1,for_s=1,machine=3}]', ["faults[0].machine = 3", "counted from 0", "there are 3"]),
        ('faults=[{kind="machine_down",at_s=1,for_s=1,machine=50,machines=99}]', ["machine = 50", "no pod is on it", "12 for 99"]),
        ('faults=[{kind="machine_down",at_s=1,for_s=1},{kind="machine_down",at_s=1.5,for_s=1}]', ["music-service-0 twice at one time"]),
        ('faults=[{kind="partition",at_s=1,for_s=1,pods=["musik-service"]}]', ["musik-service", "did you mean 'music-service'"]),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(changes: str, words: list[str]) -> None:
    with pytest.raises(ScenarioError) as caught:
        load_scenario("restart_redis", settings=(changes,))
    assert [word for word in words if word not in str(caught.value)] == []


def on_model(folder: Path, name: str, *settings: str) -> Run:
    run = ran(load_scenario(name, settings=settings), folder=folder / "run")
    assert judge(run).checkers["ledger"].counts["unexplained"] == 0
    return run


def test_with_keep_alive_a_pod_notices_a_black_hole_and_what_it_does_not_hear_is_lost(tmp_path: Path) -> None:
    run = on_model(tmp_path, "link_blackhole", "bus.keep_alive_s=0.5")
    _, _, pods = of_fault(run)
    assert set(run.pods.loc[run.pods["state"] == "disconnected", "pod"]) == pods
    assert "cut-link" in causes(run)
    assert causes(run) <= {"cut-link", "deaf", "sent-in-memory-mode"}


@pytest.mark.parametrize("reattach", ["if-connected-once", "restart"])
def test_a_pod_that_started_in_an_outage_stays_alone_if_that_is_how_the_reference_is_meant(tmp_path: Path, reattach: str) -> None:
    run = on_model(tmp_path, "pod_start_in_outage", f"bus.reattach={reattach}")
    _, end_ns, pods = of_fault(run)
    alone = pods if reattach == "if-connected-once" else {life.pod for life in run.pod_histories}
    assert {life.pod for life in run.pod_histories if bus_states(run, life.pod)[-2] == "outage"} == alone
    assert any("did not recover" in note for note in run.info.notes)
    rows = copies(run)
    late = rows[(rows["intended_ns"] > end_ns + 3_000_000_000) & (rows["phase"] == "run")]
    for_them = late[late["pod"].isin(alone) & ~(late["publisher"].astype(str) == late["pod"].astype(str))]
    assert len(for_them) > 20
    assert (for_them["fate"] == "missing").all()
    assert (late.loc[~late["pod"].isin(alone) & ~late["publisher"].isin(alone), "fate"] == "delivered").all()


def test_a_freeze_longer_than_the_lock_lives_lets_a_second_pod_in(tmp_path: Path) -> None:
    """`two-key` handles at most once while no pod outlives its lock: without the freeze never twice, with it twice, and one inside."""
    settings = (
        *("bus.once=two-key", "bus.once_ttl_s=1", "slo={}"),
        *("services.music-service.handler_ms=400", "services.music-service.skew_ms=1350", "load.rate_per_s=400"),
    )
    calm = on_model(tmp_path / "calm", "pod_freeze", *settings, "faults=[]")
    assert judge(calm).checkers["once"].counts["twice_or_more"] == 0
    run = on_model(tmp_path / "frozen", "pod_freeze", *settings)
    once = judge(run).checkers["once"]
    assert once.verdict == "invalid", "the recipe's promise is broken"
    begin_ns, end_ns, (pod,) = of_fault(run)
    ran = run.deliveries[run.deliveries["outcome"] == "handled"]
    first = ran[(ran["pod"] == pod) & ran["handled_ns"].between(begin_ns - 400_000_000, begin_ns)]
    second = ran[(ran["pod"] != pod) & ran["event"].isin(first["event"]) & ran["handled_ns"].between(begin_ns, end_ns)]
    assert len(second) > 0, "the lock had run out while its holder stood still inside the handler"
    took = first.set_index("event")["handled_ns"]
    assert all(row["handled_ns"] - took[row["event"]] >= 600_000_000 for row in second.to_dict("records"))


def test_a_slow_pod_handles_one_event_after_another(tmp_path: Path) -> None:
    run = on_model(tmp_path, "slow_handler", "load.payload_bytes=10", "load.rate_per_s=100")
    begin_ns, end_ns, (pod,) = of_fault(run)
    mine = run.deliveries[run.deliveries["pod"] == pod]
    began = mine["handled_ns"].to_numpy()
    assert (began[1:] >= began[:-1]).all(), "in the order in which it heard"
    slow = began[(began > begin_ns) & (began < end_ns)]
    assert len(slow) == pytest.approx((end_ns - begin_ns) / 150e6, abs=2)
    assert (slow[1:] - slow[:-1] >= 150_000_000).all()
    assert judge(run).checkers["ledger"].counts["missing"] == 0, "small events fit into the buffers"


def test_only_the_timestamps_of_a_skewed_pod_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead_s: dict[str, list[float]] = {"ai-config-service": [], "api-gateway": []}
    plain = BEHAVIOURS["config-cache"]

    def listening() -> Any:
        logic = plain()

        def look(handler: Callable[[Event], None]) -> Callable[[Event], None]:
            def handle(event: Event) -> None:
                made = datetime.fromisoformat(event.timestamp.replace("Z", "+00:00")).timestamp()
                ahead_s.setdefault(event.source, []).append(made - asyncio.get_running_loop().time())
                handler(event)

            return handle

        logic.handlers = {kind: look(handler) for kind, handler in logic.handlers.items()}
        return logic

    monkeypatch.setitem(BEHAVIOURS, "config-cache", listening)
    run = on_model(tmp_path, "clock_skew")
    right_s = ahead_s["api-gateway"][0]
    assert {round(one - right_s, 1) for one in ahead_s["ai-config-service"]} == {0, 5}
    assert {round(one - right_s, 1) for one in ahead_s["api-gateway"]} == {0}
    assert run.ledger()["lag_us"].max() < 1e6, "what the lab measures knows nothing of it"


@pytest.mark.broker
def test_an_evicted_lock_lets_an_event_run_again(tmp_path: Path) -> None:
    evict = "faults=[{kind='keys_lost',how='evict',at_s=2,for_s=3,every_ms=10}]"
    settings = (evict, "services.music-service.skew_ms=200", "services.music-service.handler_ms=600")
    run = open_run(run_scenario(load_scenario("keys_lost", settings=settings), on="embedded", out=tmp_path / "run"))
    verdict = judge(run)
    assert verdict.verdict != "invalid", verdict.reasons
    assert verdict.checkers["once"].counts["twice_or_more.music-service"] > 5, "without a lost key each runs once"
    assert run.faults["end_ns"].iloc[0] > 0


@pytest.mark.parametrize("on", ["model", pytest.param("embedded", marks=pytest.mark.broker)])
def test_a_wrong_clock_breaks_a_limit_on_ages_that_a_right_one_keeps(tmp_path: Path, on: str) -> None:
    words, starved = {}, Starvation()
    for skew_ms in (0, 5000, -5000):
        fault = f"faults=[{{kind='clock_skew',at_s=1,for_s=1,pods=['ai-config-service'],skew_ms={skew_ms}}}]"
        limits = ("slo.from_future=0", "slo.stated_age_ms_max=4000", "load.run_s=3", fault)
        run = ran(load_scenario("clock_skew", settings=limits), on=on, folder=tmp_path / str(skew_ms))
        words[skew_ms] = tuple(one.verdict for one in judge(run).slo if one.metric in ("from_future", "stated_age_ms_max"))
    with starved.excuses(1.0) if on != "model" else nullcontext():  # the least by which a limit is kept or broken
        assert words[0] == ("valid", "valid")
        assert words[5000] == words[-5000] == ("invalid", "invalid"), "events of the pod and those that it hears are wrong in opposite ways"


@pytest.mark.parametrize("on", ["model", pytest.param("embedded", marks=pytest.mark.broker)])
@pytest.mark.parametrize(("clock", "verdict"), [("pod", "invalid"), ("server", "valid")])
def test_a_clock_behind_makes_locks_that_are_over_before_they_begin(tmp_path: Path, on: str, clock: str, verdict: str) -> None:
    """A marker that lives until a time of the pod's clock promises nothing; one that lives for so many seconds keeps its promise."""
    fault = "faults=[{kind='clock_skew',at_s=1,for_s=2,pods=['music-service-0'],skew_ms=-400000}]"
    settings = ("bus.once=keep-marker", f"bus.once_ttl_clock={clock}", "load.run_s=4", "services.music-service.handler_ms=20", fault)
    run = ran(load_scenario("lock_lab", settings=settings), on=on, folder=tmp_path / "run")
    once = judge(run).checkers["once"]
    assert once.verdict == verdict, once.detail
    assert (once.counts["twice_or_more"] > 20) == (verdict == "invalid")


@pytest.mark.parametrize("seed", range(2, 5))
def test_a_pod_that_ends_in_order_loses_no_item_to_a_call_after_its_flush(tmp_path: Path, seed: int) -> None:
    run = on_model(tmp_path, "pod_stop", f"seed={seed}", "load.rate_per_s=2000")
    assert outcomes_unsent(run) == set()


def restarted(folder: Path, *settings: str, on: str = "model", **fields: object) -> Run:
    """Run the scenario `rolling_restart` with another fault of the kind."""
    texts = {"kind": "'rolling_restart'", "at_s": 1, "for_s": 6, "pods": "['music-service']", "each_s": 0.5, "down_s": 0.2} | fields
    fault = ",".join(f"{name}={value}" for name, value in texts.items())
    return open_run(
        run_scenario(load_scenario("rolling_restart", settings=(f"faults=[{{{fault}}}]", *settings)), on=on, out=folder / "run")
    )


def alive_and_ready(run: Run, service: str) -> tuple[list[int], list[int]]:
    """Return how many pods of a service ran, and how many were connected, after each change in the run phase.

    A pod that is stopping still runs here; Kubernetes does not count it any more, and starts the next one meanwhile (`down_s` later).
    """
    begin_ns, end_ns = run.phases["run"]
    rows = run.pods[run.pods["service"] == service].sort_values("at_ns", kind="stable")
    now: dict[str, str] = {}
    alive, ready = [], []
    for row in rows.to_dict("records"):
        now[row["pod"]] = row["bus"]
        if begin_ns <= row["at_ns"] < end_ns:
            alive.append(sum(bus != "stopped" for bus in now.values()))
            ready.append(sum(bus == "connected" for bus in now.values()))
    return alive, ready


@pytest.mark.parametrize(
    ("surge", "unavailable", "most", "least"),
    [
        ("'25%'", "'25%'", 4, 3),
        (1, 0, 4, 3),
        (2, 0, 5, 3),
        ("'100%'", 0, 6, 3),
        (1, 1, 4, 2),
        (0, 1, 3, 2),
        (0, "'70%'", 3, 1),
        (0, "'25%'", 3, 2),
    ],
)
def test_a_restart_has_room_for_so_many_more_and_spares_so_many(
    tmp_path: Path, surge: object, unavailable: object, most: int, least: int
) -> None:
    """Kubernetes rounds a percentage of `max_surge` up and one of `max_unavailable` down."""
    run = restarted(tmp_path, max_surge=surge, max_unavailable=unavailable)
    alive, ready = alive_and_ready(run, "music-service")
    assert (max(alive), min(ready)) == (most, least)
    verdict = judge(run)
    assert verdict.verdict == "valid", verdict.reasons
    last = {history.pod for history in run.pod_histories if history.state(run.phases["drain"][0]) == "subscribed"}
    names = {f"music-service-{number}" for number in (range(3, 6) if surge else range(3))}
    assert {name for name in last if name.startswith("music")} == names, "without surge they keep their names"
    made = run.publishes.drop_duplicates("event").loc[lambda rows: rows["phase"] != "probe", "items"].sum()
    assert made == run.info.load.offered_calls - run.info.load.calls_not_made


def test_in_place_one_pod_is_away_at_a_time_and_comes_back_under_its_name(tmp_path: Path) -> None:
    run = restarted(tmp_path, max_surge=0, max_unavailable=1, each_s=1, down_s=0.5)
    begin_ns, _, pods = of_fault(run)
    assert starts(run).to_dict() == {history.pod: 1 + (history.pod in pods) for history in run.pod_histories}
    assert causes_of_other(run, alone_at_its_start(run, pods)) <= {"pod-down", "deaf"}
    rows = run.pods[run.pods["pod"].isin(pods) & (run.pods["at_ns"] > begin_ns)]
    ends = np.sort(rows.loc[rows["state"] == "stopped", "at_ns"].to_numpy())[: len(pods)]
    backs = np.sort(rows.loc[rows["state"] == "starting", "at_ns"].to_numpy())
    assert (backs - ends >= 500_000_000).all()
    assert (ends[1:] > backs[:-1]).all(), "the next one ends when the one before is there again"
    music = copies(run).loc[lambda rows: rows["pod"].isin(pods) & (rows["phase"] == "run")]
    assert set(music[music["fate"] == "delivered"].groupby("event", observed=True).size()) <= {2, 3}


def test_a_second_restart_replaces_the_successors_and_other_faults_find_them(tmp_path: Path) -> None:
    """What a fault told a pod holds for its successor, also when it ends; a retired pod is started by nobody."""
    rolling = "{kind='rolling_restart',at_s=1,for_s=3,times=2,every_s=5,each_s=0.5,pods=['music-service-0','music-service-1']}"
    skew = "{kind='clock_skew',at_s=0.5,for_s=3,pods=['music-service-0'],skew_ms=1000}"
    kill = "{kind='pod_kill',at_s=10,for_s=1,pods=['music-service']}"
    run = on_model(tmp_path, "rolling_restart", "load.run_s=13", f"faults=[{rolling},{skew},{kill}]")
    state = {history.pod: history.states for history in run.pod_histories if history.service == "music-service"}
    assert sorted(state) == [f"music-service-{number}" for number in range(7)]
    killed = {pod for pod, states in state.items() if "aborted" in states}
    assert killed == {"music-service-2", "music-service-5", "music-service-6"}, "the three that there were then"
    assert all(states[-1] == "stopped" for states in state.values())
    music = run.pods[run.pods["pod"].isin(["music-service-0", "music-service-3"])]
    ahead = music.groupby("pod", observed=True)["clock_ahead_ns"]
    assert ahead.max().to_dict() == dict.fromkeys(("music-service-0", "music-service-3"), 10**9)
    assert ahead.last()["music-service-3"] == 0


def test_a_restart_that_the_end_of_the_run_cuts_short_leaves_as_many_pods_as_before(tmp_path: Path) -> None:
    run = restarted(tmp_path, "load.run_s=2.4", for_s=1, each_s=0.6)
    at_ns = run.phases["drain"][0]
    there = [h.pod for h in run.pod_histories if h.service == "music-service" and h.state(at_ns) == "subscribed"]
    assert sorted(there) == ["music-service-2", "music-service-3", "music-service-4"]
    assert judge(run).checkers["ledger"].counts["unexplained"] == 0


def test_the_kubelet_probes_who_is_new_and_leaves_who_was_replaced(tmp_path: Path) -> None:
    kubelet = ("kubelet.enabled=true", "kubelet.live_delay_s=0", "kubelet.live_period_s=0.5", "kubelet.ready_delay_s=0")
    run = restarted(tmp_path, *kubelet)
    probed = run.probes.groupby("pod", observed=True)["at_ns"].agg(["min", "max"])
    ends = run.pods[run.pods["state"] == "stopped"].groupby("pod", observed=True)["at_ns"].min()
    for old in ("music-service-0", "music-service-1", "music-service-2"):
        assert probed.loc[old, "max"] <= ends[old]
    assert {"music-service-3", "music-service-4", "music-service-5"} <= set(probed.index)
    assert run.info.notes == [], "nobody was restarted"


@pytest.mark.broker
@pytest.mark.parametrize("host", [pytest.param("inline", marks=pytest.mark.deep), "local"])
def test_new_pods_are_there_before_old_ones_go_on_a_real_server(tmp_path: Path, host: str) -> None:
    run = restarted(tmp_path, f"hosts.kind={host}", "load.run_s=25", on="embedded", for_s=6)
    alive, ready = alive_and_ready(run, "music-service")
    assert (max(alive), min(ready)) == (4, 3)
    verdict = judge(run)
    assert verdict.checkers["ledger"].counts["unexplained"] == 0
    assert verdict.checkers["harness"].counts["calls_made"] >= verdict.checkers["harness"].counts["calls_offered"] * 0.99
    publishers = set(run.publishes["publisher"].astype(str))
    assert {f"music-service-{number}" for number in range(6)} <= publishers, "each made the calls of its place"
    made = run.publishes.drop_duplicates("event").loc[lambda rows: rows["phase"] != "probe", "items"].sum()
    assert made <= run.info.load.offered_calls, "no call is made twice"
