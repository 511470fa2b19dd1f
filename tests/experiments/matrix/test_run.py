"""The matrix of faults and buses, small, on the model; one cell on a real server; and how a series of runs in workers ends."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

from sim.cli.main import cli
from sim.errors import RunFolderError, UsageError
from sim.experiments.many_runs import Job, Outcome, run_many
from sim.experiments.matrix.cells import cell_scenario
from sim.experiments.matrix.plots import MEASURES, draw_cells, draw_matrix, finding
from sim.experiments.matrix.report import COLUMNS, cost_table, differences, matrix_page, matrix_table, write_matrix
from sim.experiments.matrix.run import BusCost, Matrix, MatrixRow, matrix_row, open_matrix, run_matrix
from sim.faults.catalogue import FAULTS
from sim.results.checkers import Result, Verdict
from sim.scenario.file import load_scenario

SHOP = Path(__file__).parents[3] / "docs" / "examples" / "shop" / "everyday.toml"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    out = tmp_path_factory.mktemp("matrix") / "runs"
    return run_matrix(buses=("reference", "hardened"), faults=("broker_stop", "pod_kill", "broker_failover"), out=out, jobs=2)


def of(matrix: Matrix, fault: str, bus: str) -> MatrixRow:
    return next(row for row in matrix.rows if (row.fault, row.bus) == (fault, bus))


def test_a_cell_says_what_the_fault_did_to_the_bus(small: Matrix) -> None:
    reference, hardened = (of(small, "broker_stop", bus) for bus in ("reference", "hardened"))
    assert reference.expected == hardened.expected > 1000, "the same load"
    assert reference.lost > 0 and "sent-in-memory-mode" in reference.causes
    assert hardened.lost == 0 and hardened.causes == ""
    assert reference.stale > 0 and reference.stale_s > 3, "what was missed is served until something else clears it"
    assert hardened.stale_s < reference.stale_s
    assert (reference.told, reference.recovered, reference.verdict, reference.unexplained) == ("yes", "yes", "valid", 0)
    assert hardened.deaf_s <= 0.55, "it tries again every half second at least"
    killed = of(small, "pod_kill", "reference")
    assert killed.causes == f"{killed.lost - 3} no-pod, 3 never-sent", "both pods of a service are killed"


def test_a_fault_that_the_ground_cannot_do_is_a_row_with_the_reason(small: Matrix) -> None:
    row = of(small, "broker_failover", "hardened")
    assert "no replica that could take over" in row.why_not and row.verdict == ""
    assert small.verdict == "valid", "what was not run breaks nothing"


def test_the_costs_are_of_the_same_bus_without_a_fault(small: Matrix) -> None:
    assert [cost.bus for cost in small.costs] == ["reference", "hardened"]
    assert all(cost.copy_us > 1 and 0 < cost.core < 1 and cost.lag_ms_p99 >= cost.lag_ms_p50 > 0 for cost in small.costs)


def test_the_picture_and_the_page_say_the_finding_and_hold_the_numbers(small: Matrix) -> None:
    reference, hardened = (sum(row.unheard for row in small.rows if row.bus == bus) for bus in small.buses)
    said = f"reference {reference:,} in 2 of them, hardened {hardened:,} in 1 of them"
    assert finding(small) == f"Copies that nobody heard in 2 faults: {said}"
    ax = draw_cells(small, Figure().subplots())
    assert finding(small) in ax.get_title(loc="left")
    words = [text.get_text() for text in ax.texts]
    row = of(small, "broker_stop", "reference")
    assert f"{row.lost:,}" in words and f"{row.stale:,}" in words and words.count("valid") == 4
    assert [label.get_text() for label in ax.get_yticklabels()] == ["broker_stop", "pod_kill"], "no line for what was not run"
    page = matrix_page(small, took_s=1)
    assert f"| broker_stop | reference | {row.expected:,} | {row.lost:,} | {row.in_doubt:,} |" in page
    assert "- broker_failover on hardened: model has no replica" in page
    assert matrix_table(small).row_count == len(small.rows)


def test_the_whole_picture_has_the_costs_beside_the_cells(small: Matrix) -> None:
    figure = draw_matrix(small)
    titles = [ax.get_title() for ax in figure.axes[1:]]
    assert titles[0].startswith("Broker CPU for each publish: hardened ")
    assert all(cost.publish_us > cost.copy_us > 0 for cost in small.costs), "a publish makes several copies"


def test_a_matrix_is_read_again_and_compared_cell_by_cell(small: Matrix, tmp_path: Path) -> None:
    write_matrix(small, tmp_path / "one", took_s=1)
    opened = open_matrix(tmp_path / "one")
    assert str(opened.rows) == str(small.rows) and str(opened.costs) == str(small.costs)
    assert differences(opened, small) == []
    assert "4 of 4 cells say the same" in matrix_page(small, took_s=1, against=opened)
    rows = [replace(row, lost=2 * row.lost, told="no") if row.fault == "broker_stop" and row.lost else row for row in small.rows]
    other = replace(small, ground="embedded", rows=rows)
    ((there, here, differ),) = differences(opened, other)
    assert (there.bus, here.lost, differ) == ("reference", 2 * there.lost, ["lost", "told"])
    assert "| broker_stop | reference | told | yes | no |" in matrix_page(other, took_s=1, against=opened)
    with pytest.raises(RunFolderError, match="holds no matrix"):
        open_matrix(tmp_path)
    (tmp_path / "matrix.json").write_text('{"rows": [{"fault": "a"}]}')
    with pytest.raises(RunFolderError, match="not of this version"):
        open_matrix(tmp_path)


def test_who_was_told_counts_pods_that_were_blind_although_they_lost_nothing(tmp_path: Path) -> None:
    frozen = run_matrix(buses=("reference",), faults=("broker_freeze",), out=tmp_path, jobs=1).rows[0]
    assert (frozen.lost, frozen.told) == (0, "no") and frozen.late_s > 2.5


def test_an_unexplained_copy_makes_the_whole_unknown_and_a_broken_promise_invalid() -> None:
    rows = [MatrixRow("a", "reference", verdict="valid"), MatrixRow("b", "reference", verdict="invalid")]
    assert Matrix("model", 1, ("reference",), rows, []).verdict == "invalid"
    rows.append(MatrixRow("c", "reference", verdict="unknown"))
    assert Matrix("model", 1, ("reference",), rows, []).verdict == "unknown"
    assert Matrix("model", 1, ("reference",), [MatrixRow("a", "reference", why_not="no")], []).verdict == "unknown", "nothing was run"


def test_what_is_known_between_two_ends_shows_both() -> None:
    row = MatrixRow("a", "reference", lost=3, in_doubt=94, never=0, never_most=2, deaf_s=1.5, deaf_s_most=math.inf, recovered="yes")
    row = replace(row, recover_s=0.5, recover_s_most=0.9, truth_gap_s=0.2, truth_gap_s_most=0.2)
    shown = {name: write(row) for name, write in COLUMNS.items()}
    assert (shown["lost"], shown["in doubt"], shown["never"], shown["deaf s"]) == ("3 to 97", "94", "0 to 2", "1.5 or more")
    assert (shown["recovered"], shown["green s"]) == ("0.5 to 0.9 s", "0.2")
    drawn = {measure.heading.split()[0]: measure.text(row) for measure in MEASURES}
    assert (drawn["copies"], drawn["deaf"], drawn["events"]) == ("3 to\n97", "1.5 or\nmore", "0 to\n2")


def test_a_matrix_with_ends_is_read_again(tmp_path: Path) -> None:
    row = MatrixRow("a", "reference", verdict="valid", deaf_s=1.5, deaf_s_most=math.inf, never=0, never_most=2)
    write_matrix(Matrix("model", 1, ("reference",), [row], [BusCost("reference")]), tmp_path, took_s=1.0)
    again = open_matrix(tmp_path).rows[0]
    assert (again.deaf_s, again.deaf_s_most, again.never_most) == (1.5, math.inf, 2)
    assert math.isnan(again.recover_s_most)


def test_what_a_peer_took_is_not_lost_and_what_came_again_is_counted() -> None:
    job = Job("a", load_scenario("broker_stop"), "model")
    counts = {"expected": 10, "missing": 6, "taken-by-peer": 5, "deaf": 1, "unexplained": 0}
    checkers = {"ledger": Result("valid", "", counts=counts), "duplication": Result("valid", "", counts={"redelivered": 3})}
    verdict = Verdict("valid", "broker_stop", "model", 1, checkers, [])
    row = matrix_row("a", "streams", Outcome(job, Path("x"), verdict, None, 1.0))
    assert (row.lost, row.causes) == (1, "1 deaf")
    assert row.twice == 3, "a copy that a pod heard again"
    assert math.isnan(row.never), "a bus without a recipe promises no single run"


def test_on_the_model_too_no_entry_of_a_stream_goes_to_a_consumer_that_was_cut_off(tmp_path: Path) -> None:
    """It would wait for `stream_claim_s`, five seconds, until another claims it."""
    cut = run_matrix(buses=("streams",), faults=("subscribers_cut",), out=tmp_path, jobs=1).rows[0]
    assert cut.late_s < 2 and cut.lost == 0 and cut.verdict == "valid"


def test_a_misspelt_fault_or_bus_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no fault 'broker_dwn'.*broker_down"):
        run_matrix(faults=("broker_dwn",), out=tmp_path)
    with pytest.raises(UsageError, match=r"no bus 'stream'.*streams"):
        run_matrix(buses=("stream",), out=tmp_path)


def test_the_command_writes_its_results_and_ends_by_the_verdict(tmp_path: Path) -> None:
    command = ["matrix", "--out", str(tmp_path / "m")]
    done = CliRunner().invoke(cli, [*command, "--fault", "keys_lost", "--bus", "hardened"], standalone_mode=False)
    assert done.return_value == 1, "the marker is lost with the keys, and events run twice: a promise is broken"
    assert "2 of 2" in done.stderr
    content = json.loads((tmp_path / "m" / "matrix.json").read_text())
    assert (content["verdict"], content["rows"][0]["fault"], content["rows"][0]["why_not"]) == ("invalid", "keys_lost", "")
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["matrix.csv", "matrix.json", "matrix.md", "matrix.png", "runs"]
    reported = ["--report", str(tmp_path / "r"), "--against", str(tmp_path / "m"), "--out", str(tmp_path / "n")]
    done = CliRunner().invoke(cli, ["matrix", *reported, "--fault", "keys_lost", "--bus", "hardened"], standalone_mode=False)
    assert done.return_value == 1
    assert "1 of 1 cell says the same" in (tmp_path / "r" / "matrix.md").read_text() and (tmp_path / "r" / "matrix.png").exists()
    again = CliRunner().invoke(cli, command, standalone_mode=False)
    assert isinstance(again.exception, UsageError) and "not empty" in str(again.exception)


@pytest.mark.broker
def test_on_a_real_server_every_loss_of_a_cell_has_a_cause(tmp_path: Path) -> None:
    scenario = cell_scenario("subscribers_cut", "hardened", seed=1)
    (outcome,) = run_many([Job("cell", scenario, "embedded")], out=tmp_path)
    row = matrix_row("subscribers_cut", "hardened", outcome)
    assert (row.verdict, row.unexplained, row.recovered, row.why_not) == ("valid", 0, "yes", "")
    assert row.lost > 0 and row.causes == f"{row.lost:,} deaf", "what is published while a subscriber is away is gone"


@pytest.mark.broker
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_heals_and_ends_everything_and_keeps_what_was_done(tmp_path: Path, number: signal.Signals) -> None:
    argv = [
        sys.executable,
        "-m",
        "sim.cli",
        "matrix",
        "--on",
        "embedded",
        "--fault",
        "broker_freeze",
        "--bus",
        "reference",
        "--out",
        "m",
    ]
    command = subprocess.Popen(argv, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert command.stderr is not None
    assert "cost-reference" in command.stderr.readline(), "the first of two is done"
    run = tmp_path / "m" / "runs" / "broker_freeze-reference" / "run.json"
    deadline = time.monotonic() + 150
    while not run.exists() or '"run"' not in run.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)  # polls another process
    children = psutil.Process(command.pid).children(recursive=True)
    os.kill(command.pid, number)
    assert command.wait(150) == 128 + number
    assert "interrupted" in command.stderr.read()
    assert psutil.wait_procs(children, timeout=60)[1] == []
    assert json.loads(run.read_text())["state"] == "interrupted"
    content = json.loads((tmp_path / "m" / "matrix.json").read_text())
    assert content["verdict"] == "unknown" and content["costs"][0]["copy_us"] > 0
    assert content["rows"][0]["why_not"] == "interrupted before it was run"


def test_faults_are_done_to_any_scenario_and_hurt_its_own_services(tmp_path: Path) -> None:
    shop = load_scenario(str(SHOP), settings=("load.run_s=2", "load.rate_per_s=60"))
    aimed = {fault: cell_scenario(fault, "reference", seed=1, base=shop).faults for fault in FAULTS}
    named = {name for faults in aimed.values() for one in faults for name in getattr(one, "pods", ())}
    assert named and {name.rpartition("-")[0] if name not in shop.services else name for name in named} <= {"billing", "search", "notify"}
    found = run_matrix(faults=("pod_kill", "subscribers_cut"), buses=("reference", "streams"), scenario=shop, out=tmp_path, jobs=1)
    assert [(row.verdict, row.expected > 500) for row in found.rows] == [("valid", True)] * 4
    assert found.rows[0].lost > 0 and found.scenario == "everyday"
    assert "everyday on model" in str(cost_table(found).title)


def test_a_fault_that_a_scenario_cannot_have_is_a_row_with_the_reason(tmp_path: Path) -> None:
    memory = load_scenario(str(SHOP), settings=("load.run_s=2", "load.driver=pods", "bus.transport=memory"))
    (row,) = run_matrix(faults=("link_cut",), buses=("reference",), scenario=memory, out=tmp_path, jobs=1).rows
    assert "link_cut does not fit everyday" in row.why_not and "'memory' has none" in row.why_not
