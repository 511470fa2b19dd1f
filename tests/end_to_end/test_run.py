"""A whole run, against a witness that shares no code with it, and every way in which a run can end early."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Any

import hiredis
import psutil
import pytest
import redis

from sim.bus.envelope import BATCH, CHANNEL_PREFIX, EVENT_TYPES
from sim.errors import BrokerError, BrokerUnreachable, BuslabError, GeneratorError, RecordError, RunFolderError, UsageError
from sim.grounds.catalogue import open_broker
from sim.record.checksum import changed_since
from sim.record.schema import TABLES, event_id
from sim.results.checkers import judge
from sim.results.judged_run import judge_folder
from sim.results.opened_run import open_run
from sim.results.report import write_report
from sim.run.status import Status
from sim.run.steps import run_scenario
from sim.scenario.file import Scenario
from sim.scenario.schedule import Schedule
from sim.wire.address import Address
from tests.support.early_ends import BOUND_S, INTERRUPTED, info, interrupt, rows, sealed

pytestmark = pytest.mark.broker
Small = Callable[..., Scenario]
DRIVERS = ("pods", "locust")


# -- a run that nothing disturbs, with a witness ---------------------------------------------------------------


class Witness(Thread):
    """Hear the six channels on a socket of its own, until told to stop by a message on a seventh."""

    END = b"witness:end"

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.heard: list[tuple[str, str, str]] = []  # channel, event id, source
        self.subscribed = Event()
        self._port = port

    def run(self) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=BOUND_S) as wire:
            channels = [CHANNEL_PREFIX + kind for kind in EVENT_TYPES] + [self.END.decode()]
            wire.sendall(" ".join(["SUBSCRIBE", *channels]).encode() + b"\r\n")
            reader = hiredis.Reader()
            confirmed = 0
            while data := wire.recv(65536):
                reader.feed(data)
                while (frame := reader.gets()) is not False:
                    confirmed += frame[0] == b"subscribe"
                    if confirmed == len(channels):
                        self.subscribed.set()
                    if frame[0] == b"message":
                        if frame[1] == self.END:
                            return
                        event = json.loads(frame[2])
                        self.heard.append((frame[1].decode(), event["eventId"], event["source"]))


@dataclass
class Ran:
    scenario: Scenario
    folder: Path
    heard: list[tuple[str, str, str]]
    clients_left: list[str]
    keys_left: int
    statuses: list[Status] = field(default_factory=list)

    @property
    def zero_ns(self) -> int:
        return next(phase.start_ns for phase in info(self.folder).phases if phase.name == "warm-up")

    def published(self) -> list[dict[str, Any]]:
        """Everything but probes."""
        return [row for row in rows(self.folder, "publishes") if row["items"]]


def run_with_witness(scenario: Scenario, folder: Path) -> Ran:
    statuses: list[Status] = []
    with open_broker("embedded") as broker, redis.Redis.from_url(broker.address.url) as client:
        witness = Witness(broker.address.port)
        witness.start()
        assert witness.subscribed.wait(BOUND_S)
        run_scenario(scenario, on=broker.address.url, out=folder, watch=statuses.append)
        client.publish(Witness.END, "")
        witness.join(BOUND_S)
        names = [row["name"] for row in client.client_list() if "buslab" in row["name"]]
        return Ran(scenario, folder, witness.heard, names, client.dbsize(), statuses)


@pytest.fixture(scope="module", params=DRIVERS)
def ran(request: pytest.FixtureRequest, small: Small, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run_with_witness(small(f"load.driver={request.param}"), tmp_path_factory.mktemp("runs") / request.param)


def test_the_folder_is_complete_and_sealed(ran: Ran) -> None:
    said = info(ran.folder)
    assert (said.state, said.reason, said.driver) == ("complete", "", ran.scenario.load.driver)
    assert {table: (said.tables or {})[table].rows for table in TABLES} == {table: len(rows(ran.folder, table)) for table in TABLES}
    phases = said.phases
    assert [phase.name for phase in phases] == ["provision", "start", "probe", "warm-up", "run", "drain"]
    assert all(phase.end_ns is not None and phase.start_ns <= phase.end_ns for phase in phases)
    assert all((before.end_ns or 0) <= after.start_ns for before, after in pairwise(phases))
    assert not list(ran.folder.rglob("*.unfinished")) + list(ran.folder.glob("parts"))


def test_every_call_was_made_and_every_publish_acknowledged(ran: Ran) -> None:
    assert {row["outcome"] for row in rows(ran.folder, "publishes")} == {"acknowledged"}
    assert sum(row["items"] for row in ran.published()) == len(ran.scenario.schedule()) == info(ran.folder).load.offered_calls
    assert info(ran.folder).load.calls == len(ran.scenario.schedule())


def test_every_call_is_recorded_at_its_intended_time_by_its_pod(ran: Ran) -> None:
    calls: Schedule = ran.scenario.schedule()
    names = [name for name, _ in ran.scenario.pods()]
    said = rows(ran.folder, "calls")
    assert sorted((row["intended_ns"] - ran.zero_ns, row["channel"], row["publisher"].partition("@")[0]) for row in said) == sorted(
        (offset, calls.kinds[kind], names[pod])
        for offset, kind, pod in zip(calls.offset_ns.tolist(), calls.kind.tolist(), calls.pod.tolist(), strict=True)
    )
    assert {row["outcome"] for row in said} == {"ok"}
    assert all(row["took_ns"] > 0 for row in said)


def test_every_subscribed_pod_heard_every_event_once_and_no_other_did(ran: Ran) -> None:
    services = ran.scenario.services
    wanted = Counter(
        (row["event"], pod)
        for row in rows(ran.folder, "publishes")
        for pod, service in ran.scenario.pods()
        if row["channel"] in services[service].subscribes
    )
    assert Counter((row["event"], row["pod"]) for row in rows(ran.folder, "deliveries")) == wanted
    assert {(row["path"], row["outcome"]) for row in rows(ran.folder, "deliveries")} == {("broker", "handled")}


def test_the_witness_heard_exactly_what_was_published(ran: Ran) -> None:
    wanted = Counter((CHANNEL_PREFIX + row["channel"], event_id(row["event"])) for row in rows(ran.folder, "publishes"))
    assert Counter((channel, event) for channel, event, _ in ran.heard) == wanted


def test_the_broker_counted_the_witness_beside_every_pod(ran: Ran) -> None:
    subscribers = Counter(kind for _, service in ran.scenario.pods() for kind in ran.scenario.services[service].subscribes)
    for row in rows(ran.folder, "publishes"):
        assert row["receivers"] == subscribers[row["channel"]] + 1
    assert any("6 subscriptions on these channels are not ours" in note for note in info(ran.folder).notes)


def test_times_are_in_the_order_in_which_things_happened(ran: Ran) -> None:
    sent = {}
    for row in rows(ran.folder, "publishes"):
        sent[row["event"]] = row["sent_ns"]
        assert row["first_item_ns"] <= row["intended_ns"] <= row["sent_ns"] <= row["acked_ns"]
    for row in rows(ran.folder, "deliveries"):
        assert sent[row["event"]] <= row["received_ns"] <= row["handled_ns"]


def test_a_pod_hears_each_publisher_in_the_order_it_sent(ran: Ran) -> None:
    last: dict[tuple[str, int], int] = {}
    for row in rows(ran.folder, "deliveries"):
        sender = (row["pod"], row["event"] >> 32)
        assert last.get(sender, -1) < row["event"]
        last[sender] = row["event"]


def test_no_key_and_no_connection_of_ours_is_left_on_the_server(ran: Ran) -> None:
    assert (ran.clients_left, ran.keys_left) == ([], 0)


def test_every_pod_went_through_its_states(ran: Ran) -> None:
    states: dict[str, list[tuple[str, str]]] = {}
    for row in rows(ran.folder, "pods"):
        states.setdefault(row["pod"], []).append((row["state"], row["bus"]))
    history = [("starting", "connecting"), ("subscribed", "mute"), ("subscribed", "connected"), ("stopped", "stopped")]
    assert states == {pod: history for pod, _ in ran.scenario.pods()}


def test_the_display_saw_every_phase_and_numbers_that_only_grow(ran: Ran) -> None:
    phases = list(dict.fromkeys(status.phase for status in ran.statuses))
    assert phases == ["provision", "start", "probe", "warm-up", "run", "drain", "seal"]
    delivered = [status.delivered for status in ran.statuses if status.phase != "seal"]
    assert delivered == sorted(delivered)
    assert delivered[-1] > 0


def test_events_were_sent_when_the_schedule_meant_them(ran: Ran) -> None:
    """Both drivers: every event is a call of the schedule, at its offset, by its pod; batches carry the rest."""
    calls: Schedule = ran.scenario.schedule()
    names = [name for name, _ in ran.scenario.pods()]
    wanted = [
        (offset, calls.kinds[kind], names[pod])
        for offset, kind, pod in zip(calls.offset_ns.tolist(), calls.kind.tolist(), calls.pod.tolist(), strict=True)
    ]
    sent = [(row["intended_ns"] - ran.zero_ns, row["channel"], row["publisher"].partition("@")[0], row) for row in ran.published()]
    assert sorted(call[:3] for call in sent if call[1] != BATCH) == sorted(call for call in wanted if call[1] != BATCH)
    for pod in names:
        items = [offset for offset, kind, by in wanted if kind == BATCH and by == pod]
        batches = [row for _, kind, by, row in sent if kind == BATCH and by == pod]
        assert sum(row["items"] for row in batches) == len(items)
        intended = sum(row["items"] * (row["intended_ns"] - ran.zero_ns) - row["items_wait_ns"] for row in batches)
        assert intended == sum(items)
        assert [row["first_item_ns"] - ran.zero_ns for row in batches][:1] == items[:1]


def test_no_batch_is_older_than_its_interval(ran: Ran) -> None:
    """Not the last ones either, which fall due when the last call was made; a busy machine's timer is late, by what its loops say."""
    late_ns = max(row["loop_lag_ns"] for row in rows(ran.folder, "hosts"))
    interval_ns = ran.scenario.bus.batch_interval_ms * 1_000_000 + 100_000_000 + late_ns
    for row in ran.published():
        assert row["intended_ns"] - row["first_item_ns"] <= interval_ns


def test_the_seed_fixes_the_load_whoever_makes_it(small: Small) -> None:
    pods, locust = (small(f"load.driver={driver}").schedule() for driver in DRIVERS)
    assert pods.offset_ns.tolist() == locust.offset_ns.tolist()
    assert small("seed=2").schedule().offset_ns.tolist() != pods.offset_ns.tolist()


# -- odd runs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_run_without_a_single_call_ends_well(small: Small, tmp_path: Path, driver: str) -> None:
    scenario = small(f"load.driver={driver}", "load.rate_per_s=0.01", "load.arrivals=uniform", "load.run_s=0.3")
    assert len(scenario.schedule()) == 0
    folder = run_scenario(scenario, out=tmp_path / "run")
    assert info(folder).state == "complete"


def test_a_batch_that_falls_due_after_the_last_call_leaves_on_time(small: Small, tmp_path: Path) -> None:
    scenario = small("load.driver=pods", "load.rate_per_s=2", "load.arrivals=uniform", "load.warm_up_s=0", "bus.batch_interval_ms=50",
                     "seed=3")  # fmt: skip
    folder = run_scenario(scenario, out=tmp_path / "run")
    batches = [row for row in rows(folder, "publishes") if row["items"] and row["channel"] == BATCH]
    assert batches
    assert {row["items_wait_ns"] for row in batches} == {50_000_000}


def test_a_run_inside_a_running_event_loop_gets_a_thread_of_its_own(small: Small, tmp_path: Path, run_async: Any) -> None:
    async def cell() -> Path:
        return run_scenario(small("load.driver=pods", "load.run_s=0.2"), out=tmp_path / "run")

    assert info(run_async(cell())).state == "complete"


def test_a_folder_that_holds_something_is_refused(small: Small, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(UsageError, match="not empty"):
        run_scenario(small(), out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_that_cannot_be_made_is_named(small: Small) -> None:
    with pytest.raises((RecordError, UsageError), match="/proc/self/nowhere"):
        run_scenario(small(), out=Path("/proc/self/nowhere/run"))


def test_an_error_brings_no_other_error_of_ours_along(small: Small) -> None:
    """Who tells the first cause of an error would else tell that no event loop was running."""
    with pytest.raises(BrokerUnreachable) as failed:
        run_scenario(small(), on="redis://127.0.0.1:1")
    chain: list[BaseException] = [failed.value]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    assert [str(error) for error in chain if "event loop" in str(error)] == []


# -- runs that end early ---------------------------------------------------------------------------------------


def children(word: str) -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if any(word in part for part in child.cmdline())]


def once_in(phase: str, act: Callable[[], object]) -> Callable[[Status], None]:
    """A `watch` that acts the first time it sees a phase."""
    todo = [act]

    def watch(status: Status) -> None:
        if status.phase == phase and todo:
            todo.pop()()

    return watch


@pytest.mark.parametrize("phase", ["start", "probe", "warm-up", "run"])
def test_a_locust_that_is_killed_fails_the_run_and_what_was_recorded_is_kept(small: Small, tmp_path: Path, phase: str) -> None:
    folder = tmp_path / "run"
    kill = once_in(phase, lambda: [child.kill() for child in children("locust")])
    with pytest.raises(GeneratorError, match="Locust"):
        run_scenario(small("load.driver=locust", "load.run_s=3"), out=folder, watch=kill)
    sealed(folder, "failed")
    assert phase == "start" or len(rows(folder, "deliveries")) > 0


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("phase", ["start", "run"])
def test_a_broker_that_is_killed_gives_a_clear_error_and_a_sealed_folder(small: Small, tmp_path: Path, driver: str, phase: str) -> None:
    folder = tmp_path / "run"
    with open_broker("embedded") as broker:
        assert broker.pid is not None
        kill = once_in(phase, lambda: os.kill(broker.pid or 0, signal.SIGKILL))
        with pytest.raises(BuslabError) as failed:
            run_scenario(small(f"load.driver={driver}", "limits.drain_s=2"), on=broker.address.url, out=folder, watch=kill)
    assert isinstance(failed.value, BrokerError if driver == "pods" or phase == "run" else BuslabError)
    assert "\n" not in str(failed.value)
    said = sealed(folder, "failed")
    if phase == "run":
        assert said.phases[-1].name in ("run", "drain")
        assert "disconnected" in {row["state"] for row in rows(folder, "pods")}


def test_a_pod_that_cannot_hear_is_named(small: Small, tmp_path: Path, own_server: tuple[Address, redis.Redis]) -> None:
    address, client = own_server
    client.acl_setuser("ann", enabled=True, passwords=["+secret"], commands=["+@all"], channels=["aiponge:events:analytics*"], reset=True)
    with pytest.raises(BrokerError, match="NOPERM") as refused:
        run_scenario(small("load.driver=pods"), on=f"redis://ann:secret@127.0.0.1:{address.port}", out=tmp_path / "run")
    sealed(tmp_path / "run", "failed")
    assert "secret" not in str(refused.value) + "".join(path.read_text("utf-8", "replace") for path in (tmp_path / "run").iterdir())


PHASES = ["provision", "start", "probe", "warm-up", "run", "drain"]


LONG = {("locust", "start"), ("locust", "probe"), ("locust", "drain")}  # the processes of Locust take long to start
IN_EACH_PHASE = [pytest.param(*one, marks=[pytest.mark.deep] * (one in LONG)) for one in itertools.product(DRIVERS, PHASES)]


@pytest.mark.parametrize(("driver", "phase"), IN_EACH_PHASE)
def test_an_interruption_in_any_phase_is_told_and_seals_what_there_is(tmp_path: Path, phase: str, driver: str) -> None:
    stopped = interrupt(tmp_path / "run", phase=phase, driver=driver)
    assert (stopped.code, stopped.errors) == (130, "")
    assert f"interrupted by SIGINT in phase {phase}" in stopped.said
    said = sealed(stopped.folder, "interrupted")
    assert said.phases[-1].name == phase
    if phase in ("warm-up", "run", "drain"):
        assert len(rows(stopped.folder, "deliveries")) > 0
        assert {row["state"] for row in rows(stopped.folder, "pods")} >= {"starting", "subscribed"}


STOPPING = INTERRUPTED.replace("try:\n", """
from sim.run.generator import LocustGenerator, PodsGenerator
for kind in (LocustGenerator, PodsGenerator):
    async def close(self, inner=kind.close):
        watch(type("Status", (), {"phase": "stop"}))
        await inner(self)
    kind.close = close
try:
""", 1)  # fmt: skip


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_interruption_while_everything_is_stopped_loses_nothing(tmp_path: Path, driver: str) -> None:
    stopped = interrupt(tmp_path / "run", phase="stop", driver=driver, script=STOPPING)
    assert (stopped.code, stopped.errors) == (130, "")
    said = sealed(stopped.folder, "interrupted") if info(stopped.folder).state == "interrupted" else info(stopped.folder)
    assert sum(row["items"] for row in rows(stopped.folder, "publishes")) == said.load.offered_calls
    assert {row["state"] for row in rows(stopped.folder, "pods")} >= {"stopped"}


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_second_interruption_ends_everything_at_once(tmp_path: Path, driver: str) -> None:
    stopped = interrupt(tmp_path / "run", phase="run", driver=driver, times=2)
    assert (stopped.code, stopped.said) == (130, "")


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_interruption_long_before_the_end_keeps_every_publish_that_was_heard(tmp_path: Path, driver: str) -> None:
    stopped = interrupt(tmp_path / "run", phase="run", driver=driver, run_s=60)
    assert stopped.code == 130
    sealed(stopped.folder, "interrupted")
    published = {row["event"] for row in rows(stopped.folder, "publishes")}
    assert {row["event"] for row in rows(stopped.folder, "deliveries")} <= published
    if driver == "locust":  # its users end their publish and leave; a pod is dropped, perhaps between PUBLISH and its answer
        assert "unknown" not in {row["outcome"] for row in rows(stopped.folder, "publishes")}


def test_what_died_in_a_part_full_batch_of_an_interrupted_run_has_its_cause(tmp_path: Path) -> None:
    stopped = interrupt(tmp_path / "run", phase="run", driver="pods", run_s=60)
    sealed(stopped.folder, "interrupted")
    publishes = rows(stopped.folder, "publishes")
    assert sum(row["items"] for row in publishes) == len(rows(stopped.folder, "calls")), "every item is in one row, sent or not"
    died = {row["event"] for row in publishes if row["outcome"] == "never-sent"}
    assert {row["channel"] for row in publishes if row["event"] in died} == {BATCH}
    ledger = open_run(stopped.folder).ledger()
    lost = ledger[ledger["event"].isin(died)]
    assert set(lost["pod"]) == {"analytics-service-0"}
    assert set(lost["cause"]) == {"never-sent"}


@pytest.mark.parametrize("error", [SystemExit(1), BrokenPipeError(32, "Broken pipe"), UnicodeEncodeError("ascii", "µ", 0, 1, "no")])
def test_a_watch_whose_reader_is_gone_does_not_end_the_run(small: Callable[..., Scenario], tmp_path: Path, error: BaseException) -> None:
    """As rich does in a script of one's own: it asks for the process's end."""
    seen: list[Status] = []

    def watch(status: Status) -> None:
        seen.append(status)
        if status.phase == "start":
            raise error

    run = open_run(run_scenario(small(), on="model", out=tmp_path / "run", watch=watch))
    assert (run.info.state, judge(run).verdict) == ("complete", "valid")
    (note,) = run.info.notes
    assert note.startswith(f"from phase start on nobody was told how far the run was: {type(error).__name__}: ")
    assert seen[-1].phase == "start"


def flipped(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


@pytest.mark.parametrize("on", ["model", pytest.param("embedded", marks=pytest.mark.broker)])
def test_one_bit_of_any_file_of_a_run_folder_that_is_changed_is_noticed(small: Callable[..., Scenario], tmp_path: Path, on: str) -> None:
    scenario = small("load.driver=locust", "slo={}") if on == "embedded" else small("slo={}")
    folder = run_scenario(scenario, on=on, out=tmp_path / "run")
    judged = judge_folder(folder)
    write_report(judged.run, judged.verdict)
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    assert {Path("environment.json"), Path("report.html"), Path("junit.xml"), Path("verdict.json"), Path("run.json")} < set(files)
    unnoticed = []
    for name in files:
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        assert changed_since(copy / one for one in files) == []
        open_run(copy)
        flipped(copy / name)
        try:
            open_run(copy)
            unnoticed += [] if changed_since([copy / name]) == [copy / name] else [name]
        except RunFolderError:
            pass
        shutil.rmtree(copy)
    assert unnoticed == []
