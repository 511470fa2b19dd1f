"""A folder is opened and judged in one step, and a verdict comes back from its file as it was."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from sim.errors import RunFolderError, UsageError
from sim.record.checksum import with_checksum
from sim.results.checkers import Verdict
from sim.results.judged_run import judge_folder
from tests.support.run_folders import MS, RunFolder


@pytest.fixture
def plan(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run").service("web", replicas=3)


def test_a_folder_is_judged_and_says_so_unless_nothing_is_to_be_written(plan: RunFolder) -> None:
    events = plan.publish(100)
    plan.repeat(events[20], "web-1")
    folder = plan.write()
    before = {path.name for path in folder.iterdir()}
    judged = judge_folder(folder, write=False)
    assert judged.run.folder == folder and judged.verdict.verdict == "invalid"
    assert {path.name for path in folder.iterdir()} == before
    assert judge_folder(folder).verdict.to_json() == judged.verdict.to_json()
    written = json.loads((folder / "verdict.json").read_text())
    assert written == with_checksum(judged.verdict.to_json())
    assert {path.name for path in folder.iterdir()} == before | {"verdict.json", "junit.xml"}
    assert list(judge_folder(folder, only=("ledger",), write=False).verdict.checkers) == ["ledger"]


def test_a_verdict_comes_back_from_its_file_and_a_number_that_does_not_exist_is_nan(plan: RunFolder) -> None:
    events = plan.publish(100)
    plan.delay(events[99], "web-0", 7 * MS)
    plan.slo = {"lag_ms_p99": 0.001, "missing": 0, "no_such_metric": 1}
    folder = plan.write()
    verdict = judge_folder(folder).verdict
    again = Verdict.from_json(json.loads((folder / "verdict.json").read_text()))
    assert again.to_json() == verdict.to_json()
    assert again.slo == verdict.slo and again.reasons == verdict.reasons and again.exit_code == verdict.exit_code
    absent = [(name, key) for name, one in verdict.to_json()["checkers"].items() for key, value in one["metrics"].items() if value is None]
    assert absent, "something was not measured"
    assert all(math.isnan(again.checkers[name].metrics[key]) for name, key in absent)


def test_what_is_no_run_or_no_checker_is_refused(plan: RunFolder, tmp_path: Path) -> None:
    plan.publish(10)
    with pytest.raises(UsageError, match="no checker 'legder'"):
        judge_folder(plan.write(), only=("legder",))
    with pytest.raises(RunFolderError):
        judge_folder(tmp_path)
