"""Programs of the user's own as pods, on a real server: what their taps tell and they report, how they live, which bugs are found."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from sim.errors import BuslabError
from sim.machine.import_path import child_environment, python_child
from sim.record.run_info import ProgramLife
from sim.results.checkers import Verdict, judge
from sim.results.opened_run import Run, open_run
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario
from sim.wire.address import free_port

pytestmark = pytest.mark.broker

PROGRAM = Path(__file__).parents[1] / "support" / "own_program.py"
SCENARIO = """
[services.system-service]
publishes = ["config.template.invalidated"]
[services.orders]
command = ["{python}", "PROGRAM"]
subscribes = ["config.template.invalidated"]
publishes = ["config.provider.invalidated"]
grace_s = 1
[load]
driver = "pods"
rate_per_s = 60
warm_up_s = 0.2
run_s = 1.5
mix = {"config.template.invalidated" = 1}
[limits]
drain_s = 2
"""


def scenario_of(folder: Path, *settings: str, does: str = "", more: str = "") -> Any:
    path = folder / "own.toml"
    path.write_text(SCENARIO.replace("PROGRAM", str(PROGRAM)) + more)
    return load_scenario(str(path), settings=(*settings, f'services.orders.env.DOES="{does}"'))


def run(folder: Path, *settings: str, does: str = "", more: str = "", on: str = "embedded") -> tuple[Run, Verdict]:
    scenario = scenario_of(folder, *settings, does=does, more=more)
    opened = open_run(run_scenario(scenario, out=folder / "run", on=on))
    return opened, judge(opened)


def lives(opened: Run) -> list[ProgramLife]:
    assert opened.info.programs is not None
    return opened.info.programs


def test_programs_and_pods_of_ours_are_one_fleet_with_one_set_of_books(tmp_path: Path) -> None:
    """It hears, reports, and answers each event with one of its own, which a pod of ours hears; one of two is killed and comes back."""
    more = """
[services.api-gateway]
subscribes = ["config.provider.invalidated"]
[[faults]]
kind = "pod_kill"
at_s = 0.5
for_s = 0.3
pods = ["orders-1"]
"""
    ready = 'services.orders.ready="http://127.0.0.1:{port}/health/ready"'
    opened, verdict = run(
        tmp_path, ready, "services.orders.replicas=2", "services.orders.reports_handled=true", does="answers health", more=more
    )
    assert verdict.checkers["ledger"].verdict == verdict.checkers["programs"].verdict == "valid", verdict.reasons
    assert verdict.checkers["order"].verdict == verdict.checkers["duplication"].verdict == "valid", verdict.reasons
    ends = {(one.pod, one.number): one.end for one in lives(opened)}
    assert ends == {("orders-0", 1): "in-order", ("orders-1", 1): "killed", ("orders-1", 2): "in-order"}
    ledger = opened.ledger()
    theirs = ledger[(ledger["service"] == "orders") & (ledger["phase"] == "run")]
    assert set(theirs["fate"]) <= {"delivered", "missing"} and (theirs[theirs["pod"] == "orders-0"]["fate"] == "delivered").all()
    lost = theirs[theirs["fate"] == "missing"]
    assert set(lost["pod"]) == {"orders-1"} and set(lost["cause"]) <= {"deaf", "pod-down"}
    heard_here = ledger[(ledger["service"] == "api-gateway") & (ledger["phase"] == "run")]
    assert len(heard_here) > 100 and (heard_here["fate"] == "delivered").all()
    assert (theirs[theirs["fate"] == "delivered"]["lag_us"] >= 0).all()
    answered = opened.publishes[opened.publishes["publisher"].astype(str).str.startswith("orders-")]
    assert len(answered) == sum(one.published for one in lives(opened)) and set(answered["outcome"]) == {"acknowledged"}
    states = opened.pods[opened.pods["pod"] == "orders-1"].sort_values("at_ns")["state"].tolist()
    assert [state for place, state in enumerate(states) if state not in states[max(0, place - 1) : place]] == [
        "starting",
        "subscribed",
        "aborted",
        "starting",
        "subscribed",
        "stopped",
    ]
    assert set(verdict.not_measured) == {"once", "staleness", "consumers"} and not set(verdict.not_measured) & set(verdict.checkers)
    assert verdict.checkers["fallback"].verdict == "valid"


@pytest.mark.parametrize(
    ("does", "settings", "more", "checker", "said"),
    [
        (
            "forgets",
            (),
            '[[faults]]\nkind = "link_reset"\nat_s = 0.3\nfor_s = 0.3\npods = ["orders"]\n',
            "steady",
            "the lab did not recover after the last fault: 1 pod is away, orders-0 first",
        ),
        (
            "batches",
            ("services.orders.reports_handled=true",),
            "",
            "programs",
            "orders-0 was told to stop, ended in its grace period, and left ",
        ),
        ("dies", (), "", "programs", "orders-0 ended by itself "),
    ],
)
def test_a_planted_bug_is_named_by_the_right_checker(
    tmp_path: Path, does: str, settings: tuple[str, ...], more: str, checker: str, said: str
) -> None:
    opened, verdict = run(tmp_path, *settings, does=does, more=more)
    result = verdict.checkers[checker]
    assert result.verdict in ("invalid", "unknown") and result.detail.startswith(said), verdict.reasons
    assert verdict.verdict != "valid"
    others = [name for name, one in verdict.checkers.items() if one.verdict == "invalid" and name != checker]
    assert not others, verdict.reasons
    if does == "batches":
        (life,) = lives(opened)
        assert life.unhandled == life.heard - life.handled - life.on_the_way > 0
        assert result.witnesses and result.witnesses[0].endswith("given to orders-0 and not handled")
    if does == "dies":
        assert "with exit code 7, and said: the disk is full" in result.detail
        lost = opened.ledger()
        assert set(lost[(lost["fate"] == "missing") & (lost["service"] == "orders")]["cause"]) <= {"pod-down", "no-pod"}


def test_a_connection_that_goes_round_the_tap_makes_the_run_unknown(tmp_path: Path) -> None:
    port = free_port()
    _, verdict = run(tmp_path, f'services.orders.env.DIRECT="{port}"', on=f"embedded:{port}")
    result = verdict.checkers["programs"]
    said = "orders-0 has connections of its own to the broker that go round its tap (127.0.0.1:"
    assert (result.verdict, verdict.verdict) == ("unknown", "unknown") and result.detail.startswith(said), verdict.reasons


def test_what_ignores_its_stop_prints_much_and_forks_is_ended_whole_and_its_log_has_a_bound(tmp_path: Path) -> None:
    opened, verdict = run(tmp_path, "load.run_s=0.5", does="ignores prints forks")
    (life,) = lives(opened)
    assert (life.end, life.code) == ("after-grace", -signal.SIGKILL)
    log = opened.folder / life.log
    assert log.stat().st_size < 5_000_000 < life.left_out and b"bytes of output were left out here" in log.read_bytes()
    assert any("had not ended when its grace period was over" in text for text in verdict.checkers["programs"].warnings)
    assert not _of_run(opened.folder)


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("exits", "orders-0 ended before it was up, with exit code 3, and said: there is no configuration"),
        (
            "never",
            "orders-0 was not up within limits.start_s = 1.5 s: it has not subscribed to config.template.invalidated through its REDIS_URL",
        ),
    ],
)
def test_a_program_that_does_not_come_up_ends_the_run_with_its_last_words(tmp_path: Path, does: str, said: str) -> None:
    with pytest.raises(BuslabError) as failed:
        run(tmp_path, "limits.start_s=1.5", does=does)
    assert str(failed.value).startswith(said)
    assert not _of_run(tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_no_program_outlives_the_lab(tmp_path: Path, number: signal.Signals) -> None:
    scenario_of(tmp_path)  # for its file
    argv = python_child("sim.cli", "run", str(tmp_path / "own.toml"), "--no-report", "--out", str(tmp_path / "run"))
    argv += ["--set", "load.run_s=30", "--set", 'services.orders.env.DOES="forks"']
    with (tmp_path / "said").open("wb") as said:
        lab = subprocess.Popen(argv, stdout=said, stderr=said, env=child_environment())
    try:
        deadline = time.monotonic() + 30
        while len(_of_run(tmp_path / "run")) < 3 and time.monotonic() < deadline:  # the program and its two children
            time.sleep(0.05)
        assert len(_of_run(tmp_path / "run")) == 3, (tmp_path / "said").read_text()
        lab.send_signal(number)
        lab.wait(20)
        while _of_run(tmp_path / "run") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _of_run(tmp_path / "run")
    finally:
        if lab.poll() is None:
            lab.kill()
            lab.wait()
    if number == signal.SIGINT:
        assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "interrupted"


def _of_run(folder: Path) -> list[int]:
    """Return the processes of programs of a run, and of what they started: the environment that they have inherited names it."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("RUN_OF") == str(folder.parent) and process.status() != psutil.STATUS_ZOMBIE
            if mine and {PROGRAM.name, "sleep"} & {Path(word).name for word in process.cmdline()}:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.fixture(autouse=True)
def _marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mark the environment that the programs of a test inherit."""
    monkeypatch.setenv("RUN_OF", str(tmp_path))
