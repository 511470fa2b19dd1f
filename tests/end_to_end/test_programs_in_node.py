"""The example of the page on programs, in JavaScript, with pods of ours before and behind it: it works as it is copied."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from sim.results.checkers import judge
from sim.results.opened_run import open_run
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "programs"
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "own-programs.md"


def test_the_page_shows_the_service_of_the_example() -> None:
    shown = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.S)[0]
    lines = [line.partition("#")[0].strip() for line in (EXAMPLE / "reserving.toml").read_text().splitlines()]
    begin = lines.index("[services.stock]")
    assert [line for line in shown.splitlines() if line] == lines[begin : begin + len(shown.splitlines())]


@pytest.mark.broker
@pytest.mark.skipif(not shutil.which("node"), reason="node is not on this machine")
def test_programs_in_javascript_hear_publish_are_reset_killed_and_accounted_for(tmp_path: Path) -> None:
    scenario = load_scenario(str(EXAMPLE / "reserving.toml"), settings=("load.warm_up_s=0.3", "load.run_s=3.5"))
    run = open_run(run_scenario(scenario, out=tmp_path / "run"))
    verdict = judge(run)
    assert {verdict.checkers[name].verdict for name in ("ledger", "order", "duplication", "lag", "programs")} == {"valid"}, verdict.reasons
    ledger = run.ledger()
    missing = ledger[(ledger["fate"] == "missing") & (ledger["phase"] == "run")]
    assert set(missing["pod"]) <= {"stock-0", "stock-1"} and "unexplained" not in set(missing["cause"])
    billing = ledger[(ledger["service"] == "billing") & (ledger["phase"] == "run")]
    assert len(billing) > 200 and (billing["fate"] == "delivered").all()
    assert [(one.pod, one.number) for one in run.info.programs or () if one.end == "killed"] == [("stock-1", 1)]
    believed = set(run.pods[run.pods["pod"] == "stock-0"]["bus"].astype(str))
    assert {"connecting", "connected", "not-ready", "stopped"} >= believed >= {"connected", "stopped"}
