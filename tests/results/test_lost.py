"""What a service never handled: each event with its keys, its time and its cause, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.errors import UsageError
from sim.results.lost import lost_in_short
from sim.results.opened_run import open_run
from tests.support.run_folders import MS, RUN_NS, SECOND, RunFolder


def shop(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run").service("billing", replicas=2, channels="order").service("search", replicas=1, channels="order")


def rows_of(folder: RunFolder, *services: str) -> list[tuple[object, ...]]:
    rows = open_run(folder.write()).lost(services=services)
    return [tuple(row) for row in rows[["service", "key", "item", "at_s", "how", "cause"]].itertuples(index=False)]


def test_an_event_that_one_pod_handled_is_not_lost(tmp_path: Path) -> None:
    folder = shop(tmp_path)
    heard, half, lost = folder.publish(3, channel="order")
    for event, key in ((heard, "a"), (half, "b"), (lost, "c")):
        folder.key(event, key)
    folder.drop(half, "billing-0").drop(lost, "billing-0").drop(lost, "billing-1")
    assert [row[:5] for row in rows_of(folder)] == [("billing", "c", 0, 0.002, "lost")]


def test_each_way_to_lose_an_event_has_its_word(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run").service("billing", replicas=2, channels="order")
    never = folder.event(RUN_NS + 1 * MS, channel="order", outcome="never-sent", sent_ns=0, acked_ns=0)
    doubt = folder.event(RUN_NS + 2 * MS, channel="order", outcome="unknown", acked_ns=0)
    failed, skipped, mixed, ran = (folder.event(RUN_NS + n * MS, channel="order") for n in (3, 4, 5, 6))
    early = folder.event(RUN_NS - SECOND, channel="order", outcome="never-sent", sent_ns=0, acked_ns=0)
    for event, outcomes in (
        (failed, ("failed",)),
        (skipped, ("skipped", "skipped")),
        (mixed, ("skipped", "failed")),
        (ran, ("skipped", "handled")),
    ):
        for number, outcome in enumerate(outcomes):
            folder.hear(event, f"billing-{number}", outcome=outcome)
    for place, event in enumerate((never, doubt, failed, skipped, mixed, ran, early)):
        folder.key(event, f"k{place}")
    assert [(row[1], *row[4:]) for row in rows_of(folder)] == [
        ("k0", "lost", "never-sent"),
        ("k1", "in doubt", ""),
        ("k2", "failed", ""),
        ("k3", "skipped", ""),
        ("k4", "failed", ""),
    ]


def test_a_service_without_a_pod_lost_what_it_was_owed(tmp_path: Path) -> None:
    folder = shop(tmp_path)
    folder.end("search-0", RUN_NS)
    (event,) = folder.publish(1, start_ns=RUN_NS + SECOND, channel="order")
    folder.drop(event, "search-0").key(event, "a")
    assert rows_of(folder) == [("search", "a", 0, 1.0, "lost", "no-pod")]


def test_a_batch_has_a_row_for_each_call_and_an_event_without_keys_one(tmp_path: Path) -> None:
    folder = shop(tmp_path)
    batch = folder.event(RUN_NS + 2 * SECOND, channel="order", items=3, outcome="refused", acked_ns=0, sent_ns=0)
    folder.key(batch, "x", "", "z")
    folder.event(RUN_NS + SECOND, channel="order", items=2, outcome="refused", acked_ns=0, sent_ns=0)
    assert rows_of(folder, "billing") == [
        ("billing", "", 0, 1.0, "lost", "publish-refused"),
        ("billing", "x", 0, 2.0, "lost", "publish-refused"),
        ("billing", "", 1, 2.0, "lost", "publish-refused"),
        ("billing", "z", 2, 2.0, "lost", "publish-refused"),
    ]
    run = open_run(folder.folder)
    assert lost_in_short(run, run.lost(services=("billing",))) == [
        "billing never handled 2 of 2 events (2 keys), between 1.0 and 2.0 s: publish-refused 2"
    ]


def test_a_service_that_hears_nothing_is_refused_by_name(tmp_path: Path) -> None:
    run = open_run(shop(tmp_path).write())
    with pytest.raises(
        UsageError, match=r"no service 'biling' hears anything in this run \(did you mean 'billing'\?\); there are billing, search"
    ):
        run.lost(services=("biling",))


def test_a_folder_from_before_keys_were_recorded_tells_the_events(tmp_path: Path) -> None:
    folder = shop(tmp_path)
    (event,) = folder.publish(1, channel="order")
    folder.drop(event, "search-0")
    where = folder.write()
    (where / "keys.parquet").unlink()
    run_json = where / "run.json"
    import json

    info = json.loads(run_json.read_text())
    del info["tables"]["keys"]
    run_json.write_text(json.dumps(info))
    rows = open_run(where).lost()
    assert rows[["service", "key"]].to_numpy().tolist() == [["search", ""]]
