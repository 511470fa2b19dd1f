"""When a pod tells its journal of something: before anything of it can be seen, and before it is recorded; of what it heard, after."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sim.bus.batcher import Batcher
from sim.bus.envelope import BATCH, PROBER, Event, decode_read, encode
from sim.bus.fallback import Policy
from sim.bus.node import BusNode, Send
from sim.pods.context import BrokerAccess, OutageRules, PodContext, PodIdentity
from sim.pods.http_calls import HttpCalls
from sim.pods.pod import Pod
from sim.pods.slow_handling import Pace, Work
from sim.record.recorder import DeliveryBuffer, Recorder
from sim.record.schema import compose_key, event_id
from sim.wire.address import Address, parse_address
from sim.wire.clients import PublishCallbacks, SubscribingClient, SubscriptionCallbacks
from sim.wire.read_memo import ReadMemo
from tests.support.reference import batches
from tests.support.scenes import until

TEMPLATE, METRIC = "config.template.invalidated", "analytics.metric.recorded"
MEMORY = DeliveryBuffer.PATHS.index("memory")
Run = Callable[[Any], Any]


class Rows(NamedTuple):
    """How many rows were recorded when something happened."""

    publishes: int
    deliveries: int
    calls: int


class Trace:
    """What happened, in order, each with what was recorded until then: what the journal is told, and what others can see."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.happened: list[tuple[str, Rows]] = []
        self.odd_rows: list[tuple[int, int, int]] = []  # of the deliveries, at the last commit

    def note(self, what: str) -> None:
        rows = (self.recorder.rows(table) for table in ("publishes", "deliveries", "calls"))
        self.happened.append((what, Rows(*rows)))

    def take(self) -> list[tuple[str, Rows]]:
        """Return what happened since the last time."""
        happened, self.happened = self.happened, []
        return happened

    # -- as a journal --

    def begin_publish(self, send: Send, *, sent_ns: int) -> None:
        self.note(f"begin_publish of {send.items}" if sent_ns else f"begin_publish of {send.items}, kept")

    def begin_batch(self, type: str, batch: Batcher, keys: list[str] | None) -> None:
        assert type == BATCH
        self.note(f"begin_batch of {len(batch)}")

    def begin_call(self, *, intended_ns: int, began_ns: int) -> None:
        self.note("begin_call")

    def begin_handling(self, event: int, received_ns: int, *, path: int) -> None:
        self.note(f"begin_handling by {DeliveryBuffer.PATHS[path]}")

    def commit(self) -> None:
        self.odd_rows = list(self.recorder.deliveries.odd_rows)
        self.note("commit")


class Listener:
    """A service that notes each event that its handler is given."""

    def __init__(self, trace: Trace) -> None:
        self.handlers: dict[str, Callable[[Event], None]] = {TEMPLATE: lambda event: trace.note("handler")}
        self.invalidations = 0


class Line:
    """A transport and both its connections: it notes what is sent, and the test says what is heard and answered."""

    one_per_service, any_node, store = False, True, None
    in_flight, full = 0, False

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.tokens: list[Any] = []
        self.heard: SubscriptionCallbacks[Any]
        self.told: PublishCallbacks

    async def subscribe(self, address: Address, channels: Sequence[str], *, client: SubscribingClient, callbacks: Any) -> Any:
        self.heard = callbacks
        return self

    async def open_publisher(self, address: Address, *, client_name: str, callbacks: PublishCallbacks, freezer: Any = None) -> Any:
        self.told = callbacks
        return self

    def send(self, channel: bytes, payload: bytes, token: Any) -> bool:
        self.trace.note("sent")
        self.tokens.append(token)
        return True

    def hear(self, count: int, *, source: str = "test") -> None:
        """Give the pod one read of so many events."""
        keys = [compose_key(nonce=1, publisher=9, sequence=number) for number in range(count)]
        events = [Event(event_id(key), "", TEMPLATE, "1.0", "", source, {"templateId": "t", "round": 1}) for key in keys]
        self.heard.heard(decode_read(map(encode, events)), 1)

    def pause(self) -> None:
        """Do nothing: what is heard is up to the test."""

    resume = pause

    def close(self) -> list[Any]:
        return []

    abort = close


class Lab:
    """One pod with a journal, on a line of its own."""

    def __init__(self, folder: Path, *, pace: Pace = Pace(), alone: bool = False, policy: Policy = Policy()) -> None:  # noqa: B008 - frozen
        recorder = Recorder(folder, source="test", pods=["p-0"])
        self.trace = Trace(recorder)
        self.line = Line(self.trace)
        line: Any = self.line
        self.pod = Pod(
            PodIdentity("p-0", 0, "music-service", (TEMPLATE,), seed=1),
            logic=Listener(self.trace),
            node=BusNode("music-service", nonce=1, publisher=0, batches=batches(3, 60_000), wall_offset_ns=0),
            context=PodContext(
                host="test",
                run_id="1",
                broker=BrokerAccess(None if alone else parse_address("redis://127.0.0.1:1"), "", line),
                recorder=recorder,
                memo=ReadMemo(decode_read),
                probed=lambda *what: self.trace.note("probed"),
                outage=OutageRules(policy),
            ),
            pace=pace,
            journal=self.trace,
        )


@pytest.fixture
def scene(run_async: Run, tmp_path: Path) -> Callable[..., list[tuple[str, Rows]]]:
    """Run a scene with a pod that has started; return what happened in it."""

    def run(act: Callable[[Lab], Any], **settings: Any) -> list[tuple[str, Rows]]:
        async def whole() -> list[tuple[str, Rows]]:
            lab = Lab(tmp_path, **settings)
            await lab.pod.start()
            await act(lab)
            happened = lab.trace.take()
            lab.pod.abort()
            return happened

        happened: list[tuple[str, Rows]] = run_async(whole())
        return happened

    return run


Scene = Callable[..., list[tuple[str, Rows]]]


def test_a_publish_is_told_before_it_leaves_and_recorded_when_it_is_answered(scene: Scene) -> None:
    async def act(lab: Lab) -> None:
        lab.pod.call(METRIC, {"name": "m", "value": 1})
        lab.line.told.answered(lab.line.tokens.pop(), 1, 5)
        lab.trace.note("answered")

    assert scene(act) == [("begin_publish of 1", Rows(0, 0, 0)), ("sent", Rows(0, 0, 0)), ("answered", Rows(1, 0, 1))]


def test_each_item_of_a_batch_is_told_before_its_call_is_recorded_until_the_batch_leaves(scene: Scene) -> None:
    async def act(lab: Lab) -> None:
        for _ in range(4):
            lab.pod.call(BATCH, {"eventType": "a"})
        lab.pod.flush()
        lab.pod.flush()

    assert scene(act) == [
        ("begin_batch of 1", Rows(0, 0, 0)),
        ("begin_batch of 2", Rows(0, 0, 1)),
        ("begin_publish of 3", Rows(0, 0, 2)),
        ("sent", Rows(0, 0, 2)),
        ("begin_batch of 1", Rows(0, 0, 3)),
        ("begin_publish of 1", Rows(0, 0, 4)),
        ("sent", Rows(0, 0, 4)),
    ]


def test_what_is_kept_through_an_outage_is_told_as_kept_and_again_before_it_leaves(scene: Scene) -> None:
    async def act(lab: Lab) -> None:
        lab.line.told.lost("gone", [])
        lab.pod.call(METRIC, {"name": "m", "value": 1})
        await until(lambda: bool(lab.line.tokens))

    what = [("begin_publish of 1", 0), ("begin_publish of 1, kept", 0), ("begin_publish of 1", 1), ("sent", 1)]
    assert scene(act, policy=Policy(outage_queue="keep")) == [(told, Rows(0, 0, calls)) for told, calls in what]


def test_a_read_is_committed_once_when_all_its_events_are_handled_and_recorded(scene: Scene) -> None:
    async def act(lab: Lab) -> None:
        lab.line.hear(2)
        lab.line.hear(1)

    assert [(what, rows.deliveries) for what, rows in scene(act)] == [
        ("handler", 0),
        ("handler", 0),
        ("commit", 2),
        ("handler", 2),
        ("commit", 3),
    ]


def test_an_event_that_waits_for_its_handler_is_told_when_it_is_heard_and_a_probe_is_not(scene: Scene) -> None:
    async def act(lab: Lab) -> None:
        lab.line.hear(2)
        lab.line.hear(1, source=PROBER)
        lab.trace.note("read")
        await until(lambda: lab.trace.recorder.rows("deliveries") == 3)
        lab.trace.note("recorded")

    happened = [(what, rows.deliveries) for what, rows in scene(act, pace=Pace(work=Work.waiting(2.0)))]
    assert happened == [
        ("begin_handling by broker", 0),
        ("begin_handling by broker", 0),
        ("commit", 0),
        ("probed", 1),
        ("commit", 1),
        ("read", 1),
        ("handler", 1),
        ("handler", 1),
        ("recorded", 3),
    ]


def test_what_stays_in_the_pod_is_committed_when_its_row_says_so(scene: Scene) -> None:
    odd_rows: list[tuple[int, int, int]] = []

    async def act(lab: Lab) -> None:
        lab.pod.call(TEMPLATE, {"templateId": "t"})
        odd_rows.extend(lab.trace.odd_rows)

    assert scene(act, alone=True) == [
        ("begin_publish of 1", Rows(0, 0, 0)),
        ("handler", Rows(1, 0, 0)),
        ("commit", Rows(1, 1, 0)),
    ]
    assert [path for _, path, _ in odd_rows] == [MEMORY]


def test_what_stays_in_the_pod_and_waits_for_its_handler_is_told_with_its_path(scene: Scene) -> None:
    async def act(lab: Lab) -> None:
        lab.pod.call(TEMPLATE, {"templateId": "t"})
        await until(lambda: lab.trace.recorder.rows("deliveries") == 1)

    assert scene(act, alone=True, pace=Pace(work=Work.waiting(2.0))) == [
        ("begin_publish of 1", Rows(0, 0, 0)),
        ("begin_handling by memory", Rows(1, 0, 0)),
        ("handler", Rows(1, 0, 1)),
    ]


def test_a_call_by_http_is_told_before_it_is_made_and_recorded_when_it_has_ended(scene: Scene) -> None:
    async def act(lab: Lab) -> None:
        pod, trace = lab.pod, lab.trace

        def no_ports() -> tuple[int, ...]:
            trace.note("made")
            return ()

        calls = HttpCalls(pod.identity, freezer=pod.freezer, recorder=trace.recorder, ports=no_ports, journal=pod.journal)
        calls.post({"id": 1}, intended_ns=1)
        await calls.settle()
        await asyncio.sleep(0)  # the task's own callback records it
        trace.note("ended")
        calls.abort()

    assert scene(act) == [("begin_call", Rows(0, 0, 0)), ("made", Rows(0, 0, 0)), ("ended", Rows(0, 0, 1))]
