"""Both drivers as an application sees them: no call raises, each is recorded with what it cost, and a stop loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sim.bus.envelope import BATCH, EVENT_TYPES, Event, decode_read, encode
from sim.bus.node import BusNode
from sim.grounds.catalogue import open_broker
from sim.machine.clock import now_ns
from sim.pods.blocking_client import BusClient
from sim.pods.caller import Caller
from sim.pods.context import BrokerAccess, PodContext, PodIdentity
from sim.pods.pod import Pod
from sim.pods.slow_handling import Pace, Work
from sim.record.recorder import Recorder, seal_tables
from sim.wire import pipeline
from sim.wire.address import Address
from sim.wire.read_memo import ReadMemo
from tests.support.reference import SERVICES, batches

ITEM = {"eventType": "track.played"}
Run = Callable[..., Any]


def pod(folder: Path, address: Address | None = None, *, batch_size: int = 3, pace: Pace = Pace()) -> Pod:  # noqa: B008 - frozen
    """One pod of analytics-service, which also publishes; without an address it hears itself."""
    context = PodContext(
        host="test",
        run_id="test",
        broker=BrokerAccess(address, "aiponge:events:"),
        recorder=Recorder(folder, source="test", pods=["pod-0"]),
        memo=ReadMemo(decode_read),
        probed=lambda pod, channel, round: None,
    )
    node = BusNode("analytics-service", nonce=1, publisher=0, batches=batches(batch_size, 60_000), wall_offset_ns=0)
    identity = PodIdentity("pod-0", 0, "analytics-service", EVENT_TYPES[:3], seed=1)
    return Pod(identity, logic=SERVICES["analytics-service"](), node=node, context=context, pace=pace)


def written(caller: Caller[Any], folder: Path) -> dict[str, list[dict[str, Any]]]:
    assert caller._recorder is not None
    caller._recorder.close()
    seal_tables(folder)
    return {table: pq.read_table(folder / f"{table}.parquet").to_pylist() for table in ("calls", "publishes", "deliveries")}


def nasty() -> Iterator[dict[str, Any]]:
    yield ITEM
    raise RuntimeError("the caller's own mistake")


def every_misuse(caller: Caller[Any]) -> list[str]:
    """Make good and bad calls; return how each must be recorded."""
    anything: Any = object()
    caller.record_event(ITEM)
    caller.record_event(anything)
    caller.record_events([ITEM, {"n": anything}, ITEM])  # the second good one fills the batch of three
    caller.record_events(nasty())
    caller.record_events(anything)
    caller.record_metric("latency", anything)
    caller.record_metric("latency", 1.5)
    caller.record_provider_usage("prov_1", 10)
    caller.invalidate_template("tpl_\ud800")
    caller.invalidate_template("tpl_1")
    caller.invalidate_provider("prov_1")
    caller.invalidate_cache("*")
    caller.call(BATCH, anything)
    return ["ok", *["failed"] * 5, "ok", "ok", "failed", "ok", "ok", "ok", "failed"]


def test_no_call_of_a_pod_raises_and_each_is_recorded(tmp_path: Path) -> None:
    one = pod(tmp_path)
    before_ns = now_ns()
    outcomes = every_misuse(one)
    rows = written(one, tmp_path)
    assert [row["outcome"] for row in rows["calls"]] == outcomes
    assert {row["publisher"] for row in rows["calls"]} == {"pod-0"}
    assert {row["channel"] for row in rows["calls"]} == set(EVENT_TYPES)
    assert all(row["took_ns"] > 0 and before_ns <= row["intended_ns"] <= now_ns() for row in rows["calls"])
    assert [row["items"] for row in rows["publishes"] if row["channel"] == BATCH] == [3]
    assert len(one.node.batchers[EVENT_TYPES[0]]) == 1, "what a failing iterator gave before it failed is kept"
    assert (one.counters.published, one.counters.publish_errors) == (6, 7)
    assert one.counters.received == 3, "in memory mode a pod hears itself on its channels"
    assert one.counters.subscribe_errors == 0


def test_a_call_is_recorded_at_its_intended_time(tmp_path: Path) -> None:
    one = pod(tmp_path)
    one.record_event(ITEM, intended_ns=5)
    one.call(BATCH, ITEM, intended_ns=6)
    assert [row["intended_ns"] for row in written(one, tmp_path)["calls"]] == [5, 6]


def envelope(kind: str, data: dict[str, Any], version: str = "1.0") -> bytes:
    return encode(Event("evt_x", "c", kind, version, "", "test", data))


@pytest.mark.parametrize("pace", [Pace(), Pace(work=Work.waiting(0.01))], ids=["in-line", "slow"])
def test_a_pod_counts_what_it_hears_and_each_kind_of_error_apart(tmp_path: Path, run_async: Run, pace: Pace) -> None:
    one = pod(tmp_path, pace=pace)

    async def story() -> None:
        await one.start()
        good = envelope(BATCH, {"events": [ITEM]})
        one.heard(decode_read([good, b"", envelope(BATCH, {}, "2.0"), b"{}", envelope("no.such.type", {}), good]), now_ns())
        one.heard(decode_read([b"null"]), now_ns())
        await one.stop(timeout_s=2)

    run_async(story())
    counters = one.counters
    assert (counters.received, counters.malformed, counters.unsupported, counters.failures) == (3, 3, 1, 1)
    assert counters.subscribe_errors == 5


def test_a_slow_handler_in_memory_mode_is_recorded_on_the_memory_path(tmp_path: Path, run_async: Run) -> None:
    one = pod(tmp_path, pace=Pace(work=Work.waiting(0.01)))

    async def story() -> None:
        await one.start()
        one.record_metric("latency", 1)
        await asyncio.sleep(0.1)  # a handler is looked up when its event comes; this one has been handled
        one.fail(True)
        one.record_provider_usage("prov_1", 7)
        await one.stop(timeout_s=2)

    run_async(story())
    assert [(row["path"], row["outcome"]) for row in written(one, tmp_path)["deliveries"]] == [("memory", "handled"), ("memory", "failed")]


# -- with a broker ---------------------------------------------------------------------------------------------


@pytest.mark.broker
def test_no_call_of_a_client_raises_and_each_is_recorded(tmp_path: Path, address: Address) -> None:
    client = BusClient(address, source="music-service", batch_size=3, recorder=Recorder(tmp_path, source="test"))
    outcomes = every_misuse(client)
    client.close()
    rows = written(client, tmp_path)
    assert [row["outcome"] for row in rows["calls"]] == outcomes
    assert [row["items"] for row in rows["publishes"] if row["channel"] == BATCH] == [3, 1]
    assert {row["outcome"] for row in rows["publishes"]} == {"acknowledged"}
    assert (client.counters.published, client.counters.publish_errors) == (7, 7)


@pytest.mark.broker
def test_the_caller_of_a_client_waits_for_publish_and_the_record_says_so(tmp_path: Path, address: Address) -> None:
    client = BusClient(address, source="music-service", recorder=Recorder(tmp_path, source="test"))
    client.invalidate_cache("*")
    rows = written(client, tmp_path)
    client.close()
    publish, call = rows["publishes"][0], rows["calls"][0]
    assert call["took_ns"] >= publish["acked_ns"] - publish["sent_ns"] > 0


@pytest.mark.broker
def test_a_client_whose_broker_is_gone_fails_its_calls_and_does_not_raise(tmp_path: Path) -> None:
    with open_broker("embedded") as broker:
        client = BusClient(broker.address, source="music-service", recorder=Recorder(tmp_path, source="test"))
        client.invalidate_cache("*")
    client.invalidate_cache("*")
    client.record_event(ITEM)
    client.close()
    rows = written(client, tmp_path)
    assert [row["outcome"] for row in rows["calls"]] == ["ok", "failed", "ok"]
    assert rows["publishes"][0]["outcome"] == "acknowledged"
    assert client.counters.publish_errors == 2, "the call's own publish, and the flushed batch"


@pytest.mark.broker
def test_a_graceful_stop_sends_the_part_full_batch_behind_what_is_in_flight(tmp_path: Path, run_async: Run, address: Address) -> None:
    one = pod(tmp_path, address, batch_size=100)

    async def story() -> None:
        await one.start()
        one.record_events([ITEM] * 1050)  # ten full batches in flight, and one part-full
        await one.stop(timeout_s=5)

    run_async(story())
    rows = written(one, tmp_path)
    assert [row["items"] for row in rows["publishes"]] == [100] * 10 + [50]
    assert {row["outcome"] for row in rows["publishes"]} == {"acknowledged"}
    assert {row["receivers"] for row in rows["publishes"]} == {1}, "the pod still heard when its last batch was published"
    assert (one.counters.published, one.counters.publish_errors) == (11, 0)


@pytest.mark.broker
def test_a_flush_into_a_full_pipe_waits_for_room(tmp_path: Path, run_async: Run, address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MAX_IN_FLIGHT", 4)
    one = pod(tmp_path, address, batch_size=10)

    async def story() -> None:
        await one.start()
        one.record_events([ITEM] * 45)
        await one.stop(timeout_s=5)

    run_async(story())
    assert [(row["items"], row["outcome"]) for row in written(one, tmp_path)["publishes"]] == [(10, "acknowledged")] * 4 + [
        (5, "acknowledged")
    ]


@pytest.mark.broker
def test_an_aborted_pod_loses_exactly_its_part_full_batch_and_the_record_says_so(tmp_path: Path, run_async: Run, address: Address) -> None:
    one = pod(tmp_path, address, batch_size=10)

    async def story() -> None:
        await one.start()
        one.record_events([ITEM] * 27)
        await one.settle(timeout_s=5)
        one.abort()
        one.abort()

    run_async(story())
    rows = written(one, tmp_path)["publishes"]
    assert [(row["items"], row["outcome"]) for row in rows] == [(10, "acknowledged"), (10, "acknowledged"), (7, "never-sent")]
    assert (rows[-1]["sent_ns"], rows[-1]["acked_ns"], rows[-1]["receivers"]) == (0, 0, -1)
    assert (one.counters.published, one.counters.publish_errors) == (2, 1)
