"""What a service never handled: each event with its keys, its time and its cause, and nothing else."""

from __future__ import annotations

import random
from itertools import product
from pathlib import Path

import pytest

from sim.errors import UsageError
from sim.record.schema import event_id
from sim.results.lost import COLUMNS, half_served, lost_in_short
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
    run = open_run(folder.folder)
    assert lost_in_short(run, run.lost()) == ["billing never handled 1 of 3 events (1 key), at 0.0 s: unexplained 1"]
    assert half_served(run) == [("billing", 1)] and half_served(run, ["search"]) == []


def test_rows_are_numbered_in_their_order_and_their_columns_are_named(tmp_path: Path) -> None:
    """Batches with keys in another order than their items, and events in another order than their times."""
    folder = shop(tmp_path)
    late = folder.event(RUN_NS + 2 * SECOND, channel="order", items=2, outcome="refused", publisher="locust-1")
    soon = folder.event(RUN_NS + SECOND, channel="order", outcome="never-sent", sent_ns=0, acked_ns=0)
    folder.keys = [(late.key, "order", 1, "b"), (late.key, "order", 0, "a"), (soon.key, "order", 0, "c"), (late.key, "order", 1, "again")]
    rows = open_run(folder.write()).lost()
    assert rows.index.tolist() == list(range(6)) and list(rows) == list(COLUMNS)
    assert rows.drop(columns="event").to_numpy().tolist() == [
        [service, "order", *row]
        for service in ("billing", "search")
        for row in (
            ["locust-0", 0, "c", 1.0, "lost", "never-sent"],
            ["locust-1", 0, "a", 2.0, "lost", "publish-refused"],
            ["locust-1", 1, "b", 2.0, "lost", "publish-refused"],
        )
    ]
    assert rows["event"].tolist() == [soon.key, late.key, late.key] * 2


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


def go_silent(plan: RunFolder, draw: random.Random) -> dict[str, list[range]]:
    """Let each pod be deaf, cut off or gone now and then, and return when, in milliseconds of the run phase."""
    silent: dict[str, list[range]] = {pod: [] for pod in plan.pods}
    for pod, begin in product(plan.pods, range(5, 100, 20)):
        if cause := draw.choice(("", "deaf", "cut", "gone")):
            at, back = RUN_NS + begin * MS, RUN_NS + (begin + 10) * MS
            silent[pod].append(range(begin, begin + 10))
            plan.state(pod, at, "aborted" if cause == "gone" else "disconnected").state(pod, back, "subscribed")
            plan.broker += [(at, "buffer_cuts", pod, 1.0)] if cause == "cut" else []
    return silent


def test_every_row_is_that_of_a_plain_loop(tmp_path: Path) -> None:
    """The cause of an event is that of most of its service's pods."""
    draw = random.Random(14)
    folder = RunFolder(tmp_path / "run").service("web", replicas=3, channels="a").service("jobs", replicas=2, channels="a,b")
    silent = go_silent(folder, draw)
    heard: dict[tuple[str, int, str, str, str], list[str]] = {}  # (service, milliseconds, event, channel, outcome) -> what its pods did
    for at, channel in zip(draw.sample(range(100), 60), draw.choices("ab", k=60), strict=True):
        outcome = draw.choice(("acknowledged", "acknowledged", "refused", "unknown"))
        event = folder.event(RUN_NS + at * MS, channel=channel, outcome=outcome)
        for pod, (service, _) in ((pod, of) for pod, of in folder.pods.items() if channel in of[1]):
            its = heard.setdefault((service, at, event.id, channel, outcome), [])
            if outcome != "refused" and not any(at in one for one in silent[pod]) and draw.random() < 0.7:
                its.append(draw.choice(("handled", "skipped", "failed")))
                folder.hear(event, pod, outcome=its[-1])
    run = open_run(folder.write())
    missing = run.ledger().query("fate == 'missing'")
    missing = missing.assign(event=missing["event"].map(event_id))
    never = {of: words for of, words in sorted(heard.items()) if "handled" not in words}
    expected, causes = [], []
    for (service, at, event_name, channel, outcome), words in never.items():
        how = next((word for word in ("failed", "skipped") if word in words), "in doubt" if outcome == "unknown" else "lost")
        mine = missing[(missing["event"] == event_name) & (missing["service"] == service)]["cause"].astype(str).value_counts()
        expected.append((service, event_name, channel, at / 1e3, how))
        causes.append(set(mine[mine == mine.max()].index) if how == "lost" else {""})
    rows = run.lost()
    assert [(row.service, event_id(row.event), row.channel, row.at_s, row.how) for row in rows.itertuples()] == expected
    assert all(cause in allowed for cause, allowed in zip(rows["cause"], causes, strict=True))
    assert set(rows["how"]) == {"lost", "in doubt", "failed", "skipped"} and len(set(rows["cause"])) > 3
