"""Host `local`: real processes, really killed and stopped, whose record survives, and of which none is left behind."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from sim.errors import HostError, ScenarioError, UsageError
from sim.machine.line import Line, start_child
from sim.results.checkers import judge
from sim.results.opened_run import open_run
from sim.run.status import Status
from sim.run.steps import run_scenario
from sim.scenario.file import Scenario, load_scenario
from sim.scenario.run_settings import MAX_PROCESSES
from tests.support.early_ends import INTERRUPTED, interrupt, rows, sealed

Small = Callable[..., Scenario]
KILLED, FROZEN = "music-service-0", "api-gateway-0"


def hosts() -> list[psutil.Process]:
    """The processes that hold pods."""
    found = []
    for child in psutil.Process().children():
        try:
            found += [child] if "sim.pods.hosts.local_child" in child.cmdline() else []
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.broker
def test_a_kill_and_a_freeze_are_real_and_every_copy_is_accounted_for(small: Small, tmp_path: Path) -> None:
    faults = f"""faults=[{{kind="pod_kill",pods=["{KILLED}"],at_s=0.5,for_s=0.5}},
        {{kind="pod_freeze",pods=["{FROZEN}"],at_s=0.7,for_s=1.5}}]"""
    settings = (
        "hosts.kind=local",
        "load.driver=pods",
        "load.run_s=3",
        "load.rate_per_s=600",
        "bus.batch_interval_ms=60000",
        "bus.batch_size=200",
    )
    statuses: set[str] = set()
    commands: set[str] = set()

    def watch(status: Status) -> None:
        for process in hosts():
            statuses.add(process.status())
            commands.add(" ".join(process.cmdline()))

    folder = run_scenario(small(*settings, faults), out=tmp_path / "run", watch=watch)
    run = open_run(folder)
    counts = judge(run).checkers["ledger"].counts
    assert counts["unexplained"] == counts["unexpected"] == 0
    assert counts["delivered"] > 1000
    assert {name: one.detail for name, one in judge(run).checkers.items() if one.verdict != "valid"} == {}
    assert psutil.STATUS_STOPPED in statuses
    assert len(commands) == 1, "nothing but the module's name is on a command line"
    held = run.pods.drop_duplicates(["pod", "host"]).groupby("host", observed=True)["pod"].unique().map(sorted).to_dict()
    assert held.pop(f"{KILLED}.1") == held.pop(f"{KILLED}.2") == [KILLED]
    assert held.pop(f"{FROZEN}.1") == [FROZEN]
    assert sorted(map(len, held.values())) == [5, 5], "the rest is spread evenly"
    states = run.pods[run.pods["pod"] == KILLED].sort_values("at_ns")["state"].astype(str).tolist()
    assert states[-1] == "stopped"
    assert Counter(states)["aborted"] == 1
    (unsent,) = run.publishes[run.publishes["outcome"] == "never-sent"].to_dict("records")
    assert unsent["publisher"] == KILLED
    made = run.calls[(run.calls["publisher"] == KILLED) & (run.calls["channel"] == unsent["channel"])]
    sent = run.publishes[(run.publishes["publisher"] == KILLED) & (run.publishes["channel"] == unsent["channel"])]
    assert sent["items"].sum() == len(made), "each item that was called is in a batch, sent or not"
    frozen = run.pods[run.pods["state"] == "frozen"]["at_ns"].iloc[0]
    heard = run.deliveries[run.deliveries["pod"] == FROZEN]["received_ns"]
    assert not heard.between(frozen, frozen + 1_000_000_000).any()
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == [], "no journal is left"


@pytest.mark.broker
@pytest.mark.parametrize("killable", [False, True], ids=["of many pods", "of one pod"])
def test_a_process_that_dies_by_itself_fails_the_run(small: Small, tmp_path: Path, killable: bool) -> None:
    fault = (f'faults=[{{kind="pod_kill",pods=["{KILLED}"],at_s=0.9,for_s=0.1}}]',) if killable else ()
    killed = []

    def watch(status: Status) -> None:
        if status.phase == "warm-up" and not killed:
            killed.append(hosts()[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    name = f"{KILLED}.1" if killable else "local-0"
    with pytest.raises(HostError, match=f"the process {name} of pods is gone: it printed nothing"):
        run_scenario(small("hosts.kind=local", "load.driver=pods", *fault), out=tmp_path / "run", watch=watch)
    sealed(tmp_path / "run", "failed")
    assert len(rows(tmp_path / "run", "deliveries")) > 0


@pytest.mark.broker
def test_a_process_that_does_not_start_fails_the_run_with_its_own_error(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had nothing to write, so nothing is lost with it."""

    def start(module: str, **more: Any) -> Line:
        return start_child("no_such_module", **more)

    monkeypatch.setattr("sim.pods.hosts.local_process.start_child", start)
    with pytest.raises(HostError, match=r"the process local-\d of pods is gone: .*No module named no_such_module \(exit code 1\)"):
        run_scenario(small("hosts.kind=local", "load.driver=pods"), out=tmp_path / "run")
    sealed(tmp_path / "run", "failed")


@pytest.mark.broker
def test_an_interruption_leaves_no_process_and_keeps_what_was_recorded(tmp_path: Path) -> None:
    fault = f'faults=[{{kind="pod_freeze",pods=["{KILLED}"],at_s=0,for_s=1}}]'
    script = INTERRUPTED.replace('f"load.driver={driver}")', f'f"load.driver={{driver}}", "hosts.kind=local", {fault!r})')
    stopped = interrupt(tmp_path / "run", phase="run", driver="pods", script=script)
    assert (stopped.code, stopped.errors) == (130, "")
    sealed(stopped.folder, "interrupted")
    heard = rows(stopped.folder, "deliveries")
    assert {KILLED, "analytics-service-0"} <= {row["pod"] for row in heard}
    ends = [row["state"] for row in rows(stopped.folder, "pods") if row["state"] in ("stopped", "aborted")]
    assert ends == ["aborted"] * 12


def test_what_only_one_process_can_do_is_refused(small: Small) -> None:
    with pytest.raises(ScenarioError, match=r"'memory' carries events inside one process only; set hosts\.kind = 'inline'"):
        small("hosts.kind=local", "bus.transport=memory", "load.driver=pods")
    with pytest.raises(ScenarioError, match=rf"a fault may end or freeze a process of its own: 109 are more than {MAX_PROCESSES}"):
        small("hosts.kind=local", "services.music-service.replicas=100", 'faults=[{kind="pod_kill",at_s=0,for_s=1}]')
    with pytest.raises(ScenarioError, match=r"hosts\.processes = 0"):
        small("hosts.processes=0")
    with pytest.raises(ScenarioError, match=r"hosts.kind = 'locol': no such kind \(did you mean 'local'\?\)"):
        small("hosts.kind=locol")


def test_pods_that_no_fault_ends_share_processes(small: Small) -> None:
    slow = 'faults=[{kind="slow_handler",at_s=0,for_s=0.5},{kind="pod_stop",pods=["system-service"],at_s=0,for_s=0.5}]'
    assert small(slow).killable_pods() == {"system-service-0"}
    assert len(small("kubelet.enabled=true").killable_pods()) == 12


def test_the_model_runs_it_in_one_process_and_says_so(small: Small, tmp_path: Path) -> None:
    run = open_run(run_scenario(small("hosts.kind=local"), on="model", out=tmp_path / "run"))
    assert run.info.notes == ["virtual time is that of one process: hosts.kind = 'local' was not used"]
    assert run.scenario["hosts"]["kind"] == "inline"
    assert set(run.pods["host"]) == {"inline"}


@pytest.mark.broker
def test_the_self_audit_needs_one_process(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the self-audit plants errors in the record of this process"):
        run_scenario(load_scenario("baseline", settings=("hosts.kind=local",)), out=tmp_path / "run", tamper=lambda rows: rows)
