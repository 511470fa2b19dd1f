"""What is made of the journal of a killed process is what the pod itself would have recorded, had it been dropped at that moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sim.bus.batcher import BatchRule
from sim.bus.envelope import BATCH, CHANNEL_PREFIX, Event, decode_read, encode
from sim.bus.fallback import Policy
from sim.bus.node import BusNode
from sim.machine.clock import now_ns
from sim.pods.context import BrokerAccess, OutageRules, PodContext, PodIdentity
from sim.pods.http_calls import HttpCalls
from sim.pods.pod import Pod
from sim.pods.pod_journal import UnderWayJournal, calls_made, inherit
from sim.pods.slow_handling import Pace, Work
from sim.record.journal import JOURNALS, Journal, JournalRecorder
from sim.record.recorder import seal_tables
from sim.record.schema import HTTP_CALL, compose_key, event_id
from sim.wire.read_memo import ReadMemo
from tests.support.reference import SERVICES, batches
from tests.support.scenes import Ground, until

TEMPLATE, METRIC = "config.template.invalidated", "analytics.metric.recorded"
OTHER_BATCH = "search.asked"
KEYS = {TEMPLATE: ("templateId",), OTHER_BATCH: ("templateId",)}
FIRST_KEY = compose_key(nonce=1, publisher=4, sequence=0)


class Lab:
    """One pod that keeps a journal; `before` is what is left of it if it is killed now, `after` if it is dropped."""

    def __init__(
        self,
        ground: Ground,
        folder: Path,
        *,
        pace: Pace = Pace(),  # noqa: B008
        batch_size: int = 5,
        keep: bool = False,
        two: bool = False,
    ) -> None:
        rules = batches(batch_size, 60_000) | ({OTHER_BATCH: BatchRule(batch_size, 60_000)} if two else {})
        self.ground = ground
        self.folder = folder
        self.recorder = JournalRecorder(folder, source="p-0.1", pods=["p-0"])
        self.pod = Pod(
            PodIdentity("p-0", 0, "music-service", (TEMPLATE,), seed=1),
            logic=SERVICES["music-service"](),
            node=BusNode("music-service", nonce=1, publisher=4, batches=rules, wall_offset_ns=0, keys=KEYS),
            context=PodContext(
                host="p-0.1",
                run_id="1",
                broker=BrokerAccess(ground.address, CHANNEL_PREFIX),
                recorder=self.recorder,
                memo=ReadMemo(decode_read),
                probed=lambda pod, channel, round: None,
                outage=OutageRules(Policy(outage_queue="keep" if keep else "none")),
            ),
            pace=pace,
            journal=UnderWayJournal(self.recorder, "p-0"),
        )

    def call(self, kind: str, number: int = 0) -> None:
        self.pod.call(kind, {"templateId": f"tpl_{number}"}, intended_ns=now_ns())

    async def hear(self, number: int, *, source: str = "test") -> None:
        payload = encode(
            Event(event_id(compose_key(nonce=1, publisher=9, sequence=number)), "", TEMPLATE, "1.0", "", source, {"templateId": "t"})
        )
        await self.ground.ask("PUBLISH", CHANNEL_PREFIX + TEMPLATE, payload.decode())

    def left(self, name: str) -> dict[str, list[dict[str, Any]]]:
        """Return what the journal says now, sealed as tables."""
        folder, died_ns = self.folder / name, now_ns()
        folder.mkdir()
        inherit(Journal(self.folder / JOURNALS / "p-0.1"), folder=folder, source="p-0.1", first_key=FIRST_KEY, died_ns=died_ns)
        seal_tables(folder)
        return {table: pq.read_table(folder / f"{table}.parquet").to_pylist() for table in ("publishes", "keys", "calls", "deliveries")}


def assert_alike(killed: dict[str, list[dict[str, Any]]], dropped: dict[str, list[dict[str, Any]]]) -> None:
    """A killed process knows not how long its unencoded batch would have been, nor its stamp, nor when a handler that waits had begun."""
    for table, rows in killed.items():
        others = dropped[table]
        for row in (*rows, *others):
            if row.get("outcome") in ("never-sent", "failed"):
                row.pop("bytes", None), row.pop("handled_ns", None), row.pop("stamped_ns", None)
        key = ("intended_ns",) if table == "calls" else ("event", "item") if table == "keys" else ("event",)
        rows, others = (sorted(some, key=lambda row: [row[column] for column in key]) for some in (rows, others))
        assert rows == others, table


def outcomes(rows: list[dict[str, Any]]) -> list[str]:
    return [row["outcome"] for row in rows]


def compare(ground: Ground, folder: Path, scene: Callable[[Lab], Any], **settings: Any) -> dict[str, list[dict[str, Any]]]:
    """Run a scene, see what is left if the process is killed after it, and what if the pod is dropped; return the first."""

    async def run() -> dict[str, list[dict[str, Any]]]:
        lab = Lab(ground, folder, **settings)
        await lab.pod.start()
        await scene(lab)
        killed = lab.left("killed")
        lab.pod.abort()
        await asyncio.sleep(0.001)  # handlers that were cancelled write their rows
        lab.recorder.close()
        assert_alike(killed, lab.left("dropped"))
        return killed

    return ground.run(run())


def test_each_part_full_batch_was_never_sent_and_one_that_left_is_not_among_them(ground: Ground, tmp_path: Path) -> None:
    async def scene(lab: Lab) -> None:
        for kind, many in ((BATCH, 2), (OTHER_BATCH, 3), (BATCH, 1), (OTHER_BATCH, 2)):
            for number in range(many):
                lab.call(kind, number)
        await lab.pod.settle(timeout_s=5)

    left = compare(ground, tmp_path, scene, two=True)["publishes"]
    assert [(row["channel"], row["items"], row["outcome"]) for row in left] == [
        (OTHER_BATCH, 5, "acknowledged"),
        (BATCH, 3, "never-sent"),
    ]


def test_the_keys_of_what_was_under_way_are_those_of_its_events(ground: Ground, tmp_path: Path) -> None:
    async def scene(lab: Lab) -> None:
        for number in range(7):  # a batch of five left, and two wait in the next
            lab.call(OTHER_BATCH, number)
        await until(lambda: lab.recorder.rows("publishes") == 1)
        lab.pod.flush()
        await until(lambda: lab.recorder.rows("publishes") == 2)
        lab.call(OTHER_BATCH, 7)  # as many as waited when the last batch was written down
        lab.call(OTHER_BATCH, 8)
        lab.call(TEMPLATE, 9)

    left = compare(ground, tmp_path, scene, two=True)
    event_of = {row["event"]: (row["channel"], row["outcome"]) for row in left["publishes"]}
    keys: dict[tuple[str, str], list[str]] = {}
    for row in sorted(left["keys"], key=lambda row: (row["event"], row["item"])):
        keys.setdefault(event_of[row["event"]], []).append(row["key"])
    assert keys == {
        (OTHER_BATCH, "acknowledged"): [f"tpl_{n}" for n in range(7)],
        (OTHER_BATCH, "never-sent"): ["tpl_7", "tpl_8"],
        (TEMPLATE, "unknown"): ["tpl_9"],
    }


def test_keys_of_a_kept_publish_are_written_once(ground: Ground, tmp_path: Path) -> None:
    async def scene(lab: Lab) -> None:
        await ground.control.kill()
        await until(lambda: lab.pod.fallback.state == "outage")
        lab.call(TEMPLATE, 1)
        lab.call(TEMPLATE, 2)

    left = compare(ground, tmp_path, scene, keep=True)
    assert sorted(row["key"] for row in left["keys"]) == ["tpl_1", "tpl_2"]


def test_two_part_full_batches_were_both_never_sent(ground: Ground, tmp_path: Path) -> None:
    async def scene(lab: Lab) -> None:
        for kind in (BATCH, OTHER_BATCH, OTHER_BATCH):
            lab.call(kind)

    left = compare(ground, tmp_path, scene, two=True)["publishes"]
    assert [(row["channel"], row["items"], row["outcome"]) for row in left] == [(BATCH, 1, "never-sent"), (OTHER_BATCH, 2, "never-sent")]


def test_a_publish_on_its_way_is_unknown_and_the_part_full_batch_was_never_sent(ground: Ground, tmp_path: Path) -> None:
    async def scene(lab: Lab) -> None:
        for number in range(7):
            lab.call(BATCH, number)
        lab.call(METRIC)
        await until(lambda: lab.recorder.rows("publishes") == 2)
        lab.call(METRIC)
        lab.call(BATCH)

    left = compare(ground, tmp_path, scene)
    assert outcomes(left["publishes"]) == ["acknowledged", "acknowledged", "unknown", "never-sent"]
    assert [row["event"] for row in left["publishes"]] == [FIRST_KEY + n for n in range(4)]
    assert [row["items"] for row in left["publishes"]] == [5, 1, 1, 3]
    assert len(left["calls"]) == 10


def test_a_pod_that_only_gathered_leaves_its_first_event_unsent(ground: Ground, tmp_path: Path) -> None:
    async def scene(lab: Lab) -> None:
        lab.call(BATCH)
        await asyncio.sleep(0.5)
        lab.call(BATCH)

    (row,) = compare(ground, tmp_path, scene)["publishes"]
    assert (row["event"], row["items"], row["outcome"]) == (FIRST_KEY, 2, "never-sent")


def test_a_batch_that_left_is_not_left_twice(ground: Ground, tmp_path: Path) -> None:
    async def scene(lab: Lab) -> None:
        for _ in range(4):
            lab.call(BATCH)
        lab.pod.flush()

    (row,) = compare(ground, tmp_path, scene)["publishes"]
    assert (row["items"], row["outcome"]) == (4, "unknown")


def test_what_was_kept_through_an_outage_was_never_sent(ground: Ground, tmp_path: Path) -> None:
    async def scene(lab: Lab) -> None:
        await ground.control.kill()
        await until(lambda: lab.pod.fallback.state == "outage")
        for _ in range(3):
            lab.call(METRIC)

    assert outcomes(compare(ground, tmp_path, scene, keep=True)["publishes"]) == ["never-sent"] * 3


def test_what_stayed_in_the_pod_has_its_path_and_its_publish(ground: Ground, tmp_path: Path) -> None:
    async def scene(lab: Lab) -> None:
        await lab.hear(1)
        await until(lambda: lab.recorder.rows("deliveries") == 1)
        await ground.control.kill()
        await until(lambda: lab.pod.fallback.state == "outage")
        lab.call(TEMPLATE)
        lab.pod.fail(True)
        lab.call(TEMPLATE)

    left = compare(ground, tmp_path, scene)
    assert outcomes(left["publishes"]) == ["memory", "memory"]
    assert [(row["path"], row["outcome"]) for row in left["deliveries"]] == [
        ("broker", "handled"),
        ("memory", "handled"),
        ("memory", "failed"),
    ]


@pytest.mark.parametrize("at_once", [0, 1])
def test_events_that_are_being_handled_have_failed(ground: Ground, tmp_path: Path, at_once: int) -> None:
    async def scene(lab: Lab) -> None:
        for number in range(3):
            await lab.hear(number)
        await until(lambda: lab.recorder.rows("deliveries") == 1)

    heard = compare(ground, tmp_path, scene, pace=Pace(work=Work.waiting(1000), skew_ms=500, at_once=at_once))["deliveries"]
    begun = 1 if at_once else 3
    assert sorted(outcomes(heard))[: begun - 1] == ["failed"] * (begun - 1)
    assert outcomes(heard).count("handled") == 1


def test_a_call_by_http_that_has_no_answer_has_failed(ground: Ground, tmp_path: Path) -> None:
    async def scene() -> None:
        lab = Lab(ground, tmp_path)
        pod = lab.pod
        poster = HttpCalls(pod.identity, freezer=pod.freezer, recorder=lab.recorder, ports=lambda: [1], journal=pod.journal)
        poster.post({"id": 1}, intended_ns=now_ns())
        await poster.settle()
        at_ns = now_ns() + 5
        poster.post({"id": 1}, intended_ns=at_ns)
        left = lab.left("killed")["calls"]
        assert [(row["channel"], row["outcome"]) for row in left] == [(HTTP_CALL, "failed")] * 2
        assert left[1]["intended_ns"] == at_ns
        assert calls_made(Journal(tmp_path / JOURNALS / "p-0.1")) == 2
        poster.abort()
        lab.recorder.close()

    ground.run(scene())
