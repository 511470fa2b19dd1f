"""The checker `programs`, and what is not measured of a fleet of programs, on planted runs."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from sim.record.run_info import ProgramLife
from sim.results.checkers import judge, write_verdict
from sim.results.checkers.programs import check
from sim.results.checkers.verdict import Verdict
from sim.results.opened_run import Run, open_run
from sim.results.programs import not_measured, program_services, sent_by_programs
from sim.results.report import verdict_table
from tests.support.run_folders import RUN_NS, SECOND, RunFolder

PROGRAM = '[services.web]\ncommand = ["node", "web.js"]\nsubscribes = ["config.updated"]\nreports_handled = true\n'


def life(**more: object) -> ProgramLife:
    told = {"pod": "web-0", "number": 1, "started_ns": SECOND, "up_ns": 2 * SECOND, "ended_ns": 21 * SECOND, "end": "in-order", "code": 0}
    return ProgramLife(**{**told, "heard": 100, "handled": 100, "unhandled": 0, **more})  # type: ignore[arg-type]


def run_of(folder: Path, *lives: ProgramLife, scenario: str = PROGRAM) -> Run:
    made = RunFolder(folder / "run", scenario=scenario).pod("web-0", service="web")
    made.publish(100)
    made.info.programs = list(lives)
    return open_run(made.write())


def test_programs_that_ran_until_told_to_stop_are_valid(tmp_path: Path) -> None:
    result = check(run_of(tmp_path, life(end="killed", code=-9, unhandled=3, handled=97), life(number=2, published=4)))
    said = "the program ran until it was told to stop, started twice in all; it was given 200 copies and sent 4 events; "
    assert result.detail == f"{said}197 copies were reported as handled, 3 were lost with a process that was killed"
    assert result.verdict == "valid" and (result.counts["lost"], result.counts["left"], result.counts["killed"]) == (3, 0, 1)
    assert result.warnings == ["web-0 had 3 events given and not handled when it was killed or ended"]


def test_one_that_ended_by_itself_is_named_with_its_last_words(tmp_path: Path) -> None:
    result = check(
        run_of(tmp_path, life(end="by-itself", code=3, ended_ns=RUN_NS + 2 * SECOND, why="with exit code 3, and said: no memory"))
    )
    assert (result.verdict, result.detail) == (
        "invalid",
        "web-0 ended by itself 2 s into the run phase, with exit code 3, and said: no memory",
    )


def test_what_it_left_when_it_was_told_to_stop_is_invalid_and_what_was_on_its_way_is_not(tmp_path: Path) -> None:
    assert check(run_of(tmp_path / "a", life(on_the_way=5))).verdict == "valid"
    result = check(run_of(tmp_path / "b", life(unhandled=7, handled=93)))
    assert result.verdict == "invalid" and result.counts["left"] == 7
    assert result.detail.endswith("ended in its grace period, and left 7 events that it had been given and had not handled")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"round_tap": ["127.0.0.1:4000"]}, "web-0 has connections of its own to the broker that go round its tap (127.0.0.1:4000)"),
        ({"unread": 1234}, "1,234 bytes passed through the tap of web-0 and could not be read"),
    ],
)
def test_what_is_in_no_book_makes_it_unknown(tmp_path: Path, more: dict[str, object], said: str) -> None:
    result = check(run_of(tmp_path, life(**more)))
    assert result.verdict == "unknown" and result.detail.startswith(said)


def test_what_a_reader_should_know_and_is_no_finding_is_a_warning(tmp_path: Path) -> None:
    result = check(run_of(tmp_path, life(end="after-grace", code=-9, left_out=2_000, unknown_reports=2)))
    assert result.verdict == "valid"
    assert result.warnings == [
        "web-0 was told to stop by SIGTERM, had not ended when its grace period was over, and was killed",
        "of the output of programs 2,000 bytes were left out: their logs hold its beginning and its end",
        "2 reports of events that no tap had given to the program",
    ]


def test_a_run_whose_programs_left_no_account_is_unknown(tmp_path: Path) -> None:
    assert check(run_of(tmp_path)).verdict == "unknown"


def test_what_only_pods_of_ours_tell_is_not_measured_and_never_valid(tmp_path: Path) -> None:
    run = run_of(tmp_path, life())
    verdict = judge(run)
    assert set(verdict.not_measured) == {"once", "staleness", "consumers", "clocks", "fallback"}
    assert not set(verdict.not_measured) & set(verdict.checkers) and "programs" in verdict.checkers
    path = write_verdict(run, verdict)
    content = json.loads(path.read_text())
    assert content["not_measured"] == verdict.not_measured and Verdict.from_json(content).not_measured == verdict.not_measured
    skipped = ET.parse(run.folder / "junit.xml").getroot().findall("testcase/skipped")
    assert len(skipped) == 5 and all(str(one.get("message")).startswith("not measured: ") for one in skipped)
    table = verdict_table(verdict)
    assert [str(cell) for cell in table.columns[1]._cells].count("not measured") == 5


def test_a_limit_on_what_is_not_measured_is_unknown(tmp_path: Path) -> None:
    made = RunFolder(tmp_path / "run", scenario=PROGRAM, slo={"stale_reads": 0}).pod("web-0", service="web")
    made.publish(100)
    made.info.programs = [life()]
    (limit,) = judge(open_run(made.write())).slo
    assert (limit.verdict, limit.detail) == ("unknown", "stale_reads was not measured: no data")


def test_a_fleet_of_ours_is_judged_as_ever(tmp_path: Path) -> None:
    made = RunFolder(tmp_path / "run").pod("web-0", service="web")
    made.publish(100)
    run = open_run(made.write())
    verdict = judge(run)
    assert not verdict.not_measured and "programs" not in verdict.checkers and "not_measured" not in verdict.to_json()
    assert not_measured(run) == {} == program_services(run) and not sent_by_programs(run).any()
    assert check(run).detail == "no pod is a program"


def test_what_programs_sent_is_no_call_that_the_load_made(tmp_path: Path) -> None:
    made = RunFolder(tmp_path / "run", scenario=PROGRAM).pod("web-0", service="web")
    made.publish(100)
    made.publish(50, publisher="web-0/2")
    made.info.programs = [life()]
    run = open_run(made.write())
    assert sent_by_programs(run).sum() == 50
    assert judge(run, only=["harness"]).checkers["harness"].counts["calls_made"] == 100
