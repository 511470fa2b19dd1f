"""Every number and sentence of a run's page against the tables of the run, worked out again in another way, for runs of every kind."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sim.machine.words import duration
from sim.record.run_info import LoadInfo
from sim.record.schema import FOREIGN_BIT
from sim.results import figures, picture
from sim.results.answer import percent
from sim.results.judged_run import judge_folder
from sim.results.opened_run import Run
from sim.results.report import write_report
from tests.support.run_folders import MS, RUN_NS, SECOND, RunFolder

Page = dict[str, Any]
KINDS: dict[str, Callable[[RunFolder], dict[str, Any]]] = {}


def kind(make: Callable[[RunFolder], dict[str, Any] | None]) -> Callable[[RunFolder], dict[str, Any] | None]:
    """Add a kind of run, and return it as it is; what it returns is for `RunFolder.write`."""
    KINDS[make.__name__] = lambda plan: make(plan) or {}
    return make


def two_services(plan: RunFolder, events: int = 300) -> None:
    plan.service("web", replicas=3).service("api", replicas=1, channels="config.updated,orders")
    plan.publish(events, step_ns=20 * MS)
    plan.publish(events // 3, step_ns=60 * MS, channel="orders", lag_ns=3 * MS)


@kind
def healthy(plan: RunFolder) -> None:
    two_services(plan)
    plan.slo = {"lag_ms_p99": 5, "missing": 0}


@kind
def outage(plan: RunFolder) -> None:
    two_services(plan)
    plan.faults = [("broker_down", "broker", 12 * SECOND, 13 * SECOND)]
    for pod in plan.pods:
        plan.state(pod, 12 * SECOND, "disconnected", "outage").state(pod, 13 * SECOND + 500 * MS, "subscribed", "connected")
    for event in plan.events:
        if 12 * SECOND <= event.intended_ns < 13 * SECOND + 400 * MS:
            for pod, (_, channels) in plan.pods.items():
                if event.channel in channels.split(",") and not (pod == "web-2" and event.intended_ns > 13 * SECOND):
                    plan.drop(event, pod)
    plan.slo = {"missing": 0}


@kind
def interrupted(plan: RunFolder) -> dict[str, Any]:
    outage(plan)
    return {"state": "interrupted"}


@kind
def failed(plan: RunFolder) -> dict[str, Any]:
    two_services(plan, events=40)
    return {"state": "failed"}


@kind
def killed(plan: RunFolder) -> dict[str, Any]:
    two_services(plan, events=40)
    return {"state": "killed", "seal": False}


@kind
def unknown(plan: RunFolder) -> None:
    two_services(plan)
    for event in plan.events[50:60]:
        event.outcome, event.receivers, event.acked_ns = "unknown", -1, 0
        for pod in [pod for pod, (_, channels) in plan.pods.items() if event.channel in channels.split(",")]:
            plan.drop(event, pod)


@kind
def saturated(plan: RunFolder) -> None:
    two_services(plan)
    plan.load = LoadInfo(offered_calls=1000, generators=["locust"])
    plan.slo = {"lag_ms_p99": 0.1}


@kind
def five_hundred_pods(plan: RunFolder) -> None:
    plan.service("web", replicas=497).service("api", replicas=3)
    plan.publish(90, step_ns=100 * MS)
    plan.drop(plan.events[40], "web-333").drop(plan.events[41], "web-333")


@kind
def streams(plan: RunFolder) -> None:
    plan.transport = "streams"
    plan.service("web", replicas=3)
    for number in range(90):
        event = plan.event(RUN_NS + number * 50 * MS)
        if number % 30:
            plan.hear(event, f"web-{number % 3}")


@kind
def cluster(plan: RunFolder) -> None:
    plan.info.nodes = 3
    outage(plan)


@kind
def memory_mode(plan: RunFolder) -> None:
    plan.service("web", replicas=2)
    for number in range(90):
        plan.hear(plan.event(RUN_NS + number * 50 * MS, publisher="web-0", outcome="memory"), "web-0", path="memory")


@kind
def foreign_traffic(plan: RunFolder) -> None:
    two_services(plan)
    plan.repeat(plan.events[7], "web-1", times=2)
    for number in range(5):
        plan.foreign(FOREIGN_BIT | number, "web-0", at_ns=RUN_NS + number * SECOND)


@kind
def service_without_pods(plan: RunFolder) -> None:
    two_services(plan)
    plan.end("api-0", 12 * SECOND)
    plan.heard = [row for row in plan.heard if row.pod != "api-0" or row.received_ns < 12 * SECOND]


@pytest.fixture(params=KINDS, scope="module")
def shown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, Any], Page]:
    """The run, its verdict as written, and what its page says: texts without marks, and each table as rows of texts."""
    plan = RunFolder(tmp_path_factory.mktemp(request.param) / "run", title="Does a title of the file stand where the run's own should?")
    judged = judge_folder(plan.write(**KINDS[request.param](plan)), write=True)
    with pytest.MonkeyPatch.context() as patch:  # drawing takes a second, and no number is in what is drawn
        patch.setattr(figures, "FIGURES", ())
        patch.setattr(figures, "OF_FAULTS", ())
        text = write_report(judged.run, judged.verdict).read_text("utf-8")
    return judged.run, json.loads((judged.run.folder / "verdict.json").read_text()), read_page(text)


def read_page(text: str) -> Page:
    data = re.search(r'id="run-picture-data">(.*?)</script>', text, re.S)
    rows_of = [re.findall(r"<tr.*?</tr>", one, re.S) for one in re.findall(r"<table.*?</table>", text, re.S)]
    tables = [[[plain(cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.S)] for row in rows] for rows in rows_of]
    found = {"text": plain(re.sub(r"<(script|style).*?</\1>", " ", text, flags=re.S)), "data": json.loads(data[1]) if data else {}}
    found |= {" ".join(rows[0][:2]): rows[1:] for rows in tables if rows and rows[0]}
    tiles = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd><dd>(.*?)</dd>", text, re.S)
    return found | {
        "title": plain(re.search(r"<h1>(.*?)</h1>", text, re.S)[1]),
        "headline": plain(re.search(r'class="headline">(.*?)</p>', text, re.S)[1]),
        "kept": plain(re.search(r'class="word">(.*?)</section>', text, re.S)[1]),
        "tiles": {plain(name): (plain(value), plain(about)) for name, value, about in tiles},
    }


def plain(text: str) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))).strip()


def whole(text: str) -> int:
    return int(text.replace(",", ""))


def pairs(run: Run) -> pd.DataFrame:
    """Return each event of the run phase at each service: whether a pod heard it, whether one did not, and whether that is in doubt."""
    rows = run.ledger()
    rows = rows[(rows["phase"] == "run") & rows["fate"].isin(["delivered", "missing", "unknown"])]
    rows = rows.assign(
        heard=rows["fate"] == "delivered",
        unheard=(rows["fate"] != "delivered") & (rows["cause"] != "taken-by-peer"),
        doubt=rows["fate"] == "unknown",
    )
    return rows.groupby(["service", "event"], observed=True)[["heard", "unheard", "doubt"]].any().reset_index()


def test_the_answer_is_what_the_ledger_says(shown: tuple[Run, dict[str, Any], Page]) -> None:
    run, _, page = shown
    found = pairs(run)
    lost = found[~found["heard"] & ~found["doubt"]]
    expected = {
        service: (int((lost["service"] == service).sum()), len(mine), int((mine["heard"] & mine["unheard"]).sum()))
        for service, mine in found.groupby("service", observed=True)
    }
    said = {}
    for row in page.get("service events lost", []):
        if " of " in row[1]:
            some = whole(row[3]) if len(row) > 3 and re.fullmatch(r"[\d,]+", row[3]) else 0
            said[row[0]] = (*map(whole, row[1].split(" of ")), some)
            assert row[2] == percent(said[row[0]][0] / said[row[0]][1])
    assert said == expected
    if len(lost):
        worst = max(expected, key=lambda one: (expected[one][0] / expected[one][1], expected[one][0]))
        many, of, _ = expected[worst]
        assert worst in page["headline"] and f"{many:,} of {of:,}" in page["headline"] and percent(many / of) in page["headline"]
    else:
        assert "of its events" not in page["headline"] and "lost events" not in page["headline"]
    doubted = int((~found["heard"] & found["doubt"]).sum())
    assert bool(re.search(rf"[Oo]f {doubted:,} (more )?events? nobody knows", page["headline"])) == bool(doubted)


def test_the_longest_silence_is_the_longest_row_of_lost_copies(shown: tuple[Run, dict[str, Any], Page]) -> None:
    run, _, page = shown
    rows = run.ledger()
    rows = rows[(rows["phase"] == "run") & rows["fate"].isin(["delivered", "missing"]) & (rows["cause"] != "taken-by-peer")]
    meant = run.publishes.set_index("event")["intended_ns"]
    best = (False, 0.0, "")
    names = rows["pod"].astype(object).where(rows["pod"].notna(), rows["service"].astype(str) + " (no pod)")
    for name, mine in rows.assign(at=rows["event"].map(meant), name=names).groupby("name"):
        if str(name).endswith("(no pod)"):  # what living pods of the service heard in between ends a row
            continue
        begin = None
        for at, fate in mine.sort_values("at", kind="stable")[["at", "fate"]].itertuples(index=False):
            begin = None if fate == "delivered" else at if begin is None else begin
            if begin is not None:
                best = max(best, (True, (at - begin) / 1e9, str(name)))
    value, about = page["tiles"]["longest silence"]
    if not best[0]:
        assert (value, about) == ("none", "no pod lost a copy") or about.split(",")[0].endswith("(no pod)")
    elif not about.split(",")[0].endswith("(no pod)"):
        assert value == (duration(best[1]) if best[1] else "one copy")


def test_the_title_is_of_this_run_and_its_limits_are_apart_from_what_happened(shown: tuple[Run, dict[str, Any], Page]) -> None:
    run, verdict, page = shown
    in_run = run.publishes[run.publishes["phase"] == "run"]
    assert f"{run.pods['pod'].nunique()} pods" in page["title"] and f"{in_run['event'].nunique():,} events" in page["title"]
    assert ("(" in page["title"]) == (run.info.state != "complete") and "Does a title" not in page["title"]
    assert page["kept"].startswith({"valid": "Yes", "invalid": "No ", "unknown": "Not known"}[verdict["verdict"]])
    if verdict["verdict"] != "valid":
        reasons = [f"{name}: {one['detail']}" for name, one in verdict["checkers"].items() if one["verdict"] == verdict["verdict"]]
        reasons += [one["detail"] for one in verdict["slo"] if one["verdict"] == verdict["verdict"]]
        assert plain(reasons[0]) in page["kept"]
        assert (f"{len(reasons) - 1} more reason" in page["kept"]) == (len(reasons) > 1)


def test_what_faults_did_and_how_late_it_was_is_what_the_verdict_says(shown: tuple[Run, dict[str, Any], Page]) -> None:
    run, verdict, page = shown
    lag = verdict["checkers"]["lag"]["metrics"].get("lag_ms_p99")
    value, about = page["tiles"]["lag, p99"]
    assert value == (duration(lag / 1e3) if lag is not None else "not known")
    limit = next((one for one in verdict["slo"] if one["metric"] == "lag_ms_p99"), None)
    if limit:
        assert {"valid": "kept", "invalid": "broken", "unknown": "not known"}[limit["verdict"]] in about
        assert f"{limit['limit']:g} ms" in about
    for tile, checker, metric in (("deaf after a fault", "deaf", "deaf_s_max"), ("all back after", "steady", "steady_s_max")):
        found, ends = (verdict["checkers"][checker].get(part, {}).get(metric) for part in ("metrics", "intervals"))
        value, _ = page["tiles"][tile]
        if not len(run.faults):
            assert value == "no fault"
        elif ends:
            assert duration(ends[0]) in value
        else:
            assert value == (duration(found) if found is not None else "not known")


def test_the_books_and_lags_and_times_are_those_of_the_tables(shown: tuple[Run, dict[str, Any], Page]) -> None:
    run, verdict, page = shown
    rows = run.ledger()
    rows = rows[rows["phase"] == "run"]
    books = {name: whole(number) for name, number, _ in page["copies number"]}
    for fate, many in rows["fate"].value_counts().items():
        assert books.get(str(fate), 0) == many
    assert books["expected"] == int(rows["fate"].isin(["delivered", "missing", "unknown"]).sum())
    causes = rows.loc[rows["fate"] == "missing", "cause"].value_counts()
    assert {name.removeprefix("missing: "): many for name, many in books.items() if ":" in name} == {
        str(k): v for k, v in causes.items() if v
    }
    lags = rows.loc[rows["fate"] == "delivered", "lag_us"].to_numpy()
    if len(lags):
        of_all = next(row for row in page["of p50"] if row[0] == "all copies")
        ranks = (0.5, 0.9, 0.99, 0.999, 0.9999, 1.0)
        assert of_all[1:] == [duration(float(value) / 1e6) for value in np.quantile(lags, ranks, method="higher")]
    plainly = {name: one["detail"] for name, one in verdict["checkers"].items() if not one["warnings"] and not one["witnesses"]}
    assert plainly.items() <= {(row[0], row[2]) for row in page["checker verdict"]}
    zero = run.phases["run"][0]
    assert [(row[0], row[1]) for row in page["phase from, s"]] == [
        (n, f"{(begin - zero) / 1e9:,.3f}") for n, (begin, _) in run.phases.items()
    ]
    faults = run.faults.to_dict("records")
    assert [row[:4] for row in page.get("fault target", [])] == [
        [f["fault"], f["target"], *(f"{(f[side] - zero) / 1e9:,.3f}" for side in ("begin_ns", "end_ns"))] for f in faults
    ]


def test_no_bound_that_is_computed_stands_among_values_that_occurred(shown: tuple[Run, dict[str, Any], Page]) -> None:
    _, verdict, page = shown
    assert not any("held up" in cell for row in page.get("of p50", []) for cell in row)
    most = verdict["checkers"]["lag"]["counts"].get("held_up_us.max")
    assert (
        (f"and {duration(most / 1e6)} (the longest). It is an upper bound" in page["text"]) if most else "upper bound" not in page["text"]
    )


def by_fate(data: dict[str, Any]) -> dict[tuple[str, str], int]:
    """Count what a picture draws, by fate and cause."""
    columns = data["marks"] or data["cells"]
    codes = np.frombuffer(base64.b64decode(columns["kind"]), "<u1")
    many = np.frombuffer(base64.b64decode(columns["many"]), "<u4") if data["cells"] else np.ones(len(codes), dtype=int)
    words = {int(code): ("missing" if word["key"] == picture.PEER else word["key"], word["cause"]) for code, word in data["kinds"].items()}
    return {word: int(many[codes == code].sum()) for code, word in words.items()}


def test_the_picture_has_every_copy_as_marks_and_as_blocks(
    shown: tuple[Run, dict[str, Any], Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, page = shown
    data, rows = page["data"], run.ledger()
    calls = set(run.publishes.loc[run.publishes["items"] > 0, "event"])
    rows = rows[rows["event"].isin(calls) | ~rows["event"].isin(run.publishes["event"])]
    expected = {(str(fate), str(cause)): int(many) for (fate, cause), many in rows.groupby(["fate", "cause"], observed=True).size().items()}
    assert by_fate(data) == expected
    assert (data["cells"] is not None) == (len(rows) > picture.MAX_MARKS)
    lanes = np.frombuffer(base64.b64decode((data["marks"] or data["cells"])["lane"]), "<u2")
    assert sum(lane["pods"] for lane in data["lanes"]) == run.pods["pod"].nunique() and lanes.max() < len(data["lanes"])
    monkeypatch.setattr(picture, "MAX_MARKS", 0)
    blocks = picture.picture_of(run)
    assert by_fate(blocks) == expected
    columns = blocks["cells"]
    kinds, cells, events = (
        np.frombuffer(base64.b64decode(columns[name]), kind) for name, kind in (("kind", "<u1"), ("bin", "<u2"), ("event", "<u4"))
    )
    keys, times = (np.frombuffer(base64.b64decode(blocks["events"][name]), kind) for name, kind in (("key", "<u8"), ("at", "<f8")))
    for kind, cell, event in zip(kinds.tolist(), cells.tolist(), events.tolist(), strict=True):
        if kind != picture.DELIVERED:  # the event that a block names lies in it
            begin = blocks["from"] + cell * columns["width"]
            assert begin - 1e-6 <= times[event] <= begin + columns["width"] + 1e-6 and keys[event] in set(rows["event"])
