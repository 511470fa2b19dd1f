"""Locust workers on other machines, played by network and time namespaces: a real master, two real workers, a server elsewhere."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from sim.record.schema import event_id
from sim.results.checkers import judge
from sim.results.opened_run import Run, open_run
from tests.locustfiles.test_locustfile import BOUND_S, LOCUSTFILES, run_of
from tests.support.machines import Machine, ip, lay_out, start_redis

SECOND = 1_000_000_000
AHEAD_S = {"one": 5_000, "two": 900}
QUICK = ("--set", "load.warm_up_s=0.2", "--set", "slo={}", "-u", "4", "-r", "30")
LOCUST = (sys.executable, "-m", "locust", "-f", str(LOCUSTFILES / "bus_user.py"), "--headless", "--only-summary")
ENV = {"LOCUST_SKIP_UPDATE_CHECK": "1"}


@contextmanager
def crew(folder: Path, *more: str, on: str = "", wall: str = "") -> Iterator[tuple[subprocess.Popen[bytes], list[Machine]]]:
    """A master that waits for the two workers that come, and their machines: the master's, the workers', the server's.

    `wall` is the name of a machine that lets nobody in.
    """
    with lay_out("master", "one", "two", "redis", logs=folder, clocks_s=AHEAD_S) as machines:
        master, *workers, server = machines
        on = on or start_redis(server)
        for worker in workers:
            if worker.network.endswith(f"-{wall}"):
                drop = ("iptables", "-w", "-A", "INPUT", "-i", "eth0", "-p", "tcp", "--syn", "-j", "REJECT", "--reject-with", "tcp-reset")
                ip("netns", "exec", worker.network, *drop)
        options = ("--master", "--master-bind-host", master.address, "--expect-workers", "2", "--out", str(folder / "run"))
        leading = master.start("locust", *LOCUST, *options, "--host", on, "--yes-load-this-server", *QUICK, *more, env=ENV)
        for worker in workers:
            worker.start("locust", *LOCUST, "--worker", "--master-host", master.address, env=ENV)
        yield leading, machines


def ended(process: subprocess.Popen[bytes], machines: list[Machine]) -> tuple[int, str]:
    """Wait for the master's end, and the workers'; return its exit code and what it printed."""
    code = process.wait(BOUND_S)
    for machine in machines[1:-1]:
        machine.processes["locust"].wait(BOUND_S)
    return code, machines[0].log("locust").read_text("utf-8", "replace")


def recovered(run: Run) -> dict[str, str]:
    """Return how each process was compared; each is ahead by what it was given, within the bound that it states."""
    found = set()
    for row in run._rows("clocks")[0].to_dict("records"):
        (ahead_s,) = (ahead_s for ahead_s in AHEAD_S.values() if abs(row["offset_ns"] - ahead_s * SECOND) <= row["bound_ns"])
        found.add((row["host"], ahead_s))
    assert {ahead_s for _, ahead_s in found} == set(AHEAD_S.values()) and len(found) == 2
    return run.clocks.ways


def luggage() -> list[str]:
    """Return the folders of workers that are left of this test's processes."""
    return [path.name for path in Path(os.environ.get("TMPDIR", "/tmp")).glob("buslab-worker-*")]


@pytest.mark.broker
def test_two_workers_elsewhere_drive_one_run_and_every_publish_is_accounted_for(tmp_path: Path) -> None:
    before = luggage()
    with crew(tmp_path, "-t", "3s", "--set", "bus.batch_size=1") as (process, machines):
        code, said = ended(process, machines)
    assert code == 0, said
    run = open_run(tmp_path / "run")
    assert run.info.state == "complete" and run.info.load.generators == ["locust-0", "locust-1"] and run.info.load.record_kept
    assert recovered(run) == {"locust-0": "echo", "locust-1": "echo"}
    assert {source for source, rows in (run.info.tables or {})["publishes"].sources or [] if rows} >= {"locust-0", "locust-1"}
    verdict = judge(run)
    ledger, load = verdict.checkers["ledger"].counts, run.info.load
    assert (verdict.verdict, verdict.checkers["ledger"].verdict) == ("valid", "valid"), verdict.reasons
    assert load.calls == load.offered_calls == int(run.publishes["items"].sum()) == len(run.calls) > 400
    assert ledger["missing"] == ledger["unexpected"] == ledger["unknown"] == 0
    assert (run.publishes["outcome"] == "acknowledged").all()
    assert verdict.checkers["lag"].counts["negative"] == 0 and verdict.checkers["lag"].counts["lag_us.max"] < 60 * 1e6
    assert 0 < verdict.checkers["lag"].counts["clock_error_us.max"] < 1e6
    assert sum("was compared directly" in note for note in run.info.notes) == 2
    assert run.story(event_id(int(run.publishes["event"].iloc[-50])))
    assert luggage() == before and not (tmp_path / "run" / "parts").exists()


@pytest.mark.broker
def test_a_worker_elsewhere_that_is_killed_ends_the_run_unknown(tmp_path: Path) -> None:
    with crew(tmp_path, "-t", "60s") as (process, machines):
        look = tmp_path / "run" / "run.json"
        while not (look.exists() and run_phases(tmp_path) >= {"run"}):  # the test's own timeout bounds it
            assert process.poll() is None, machines[0].log("locust").read_text("utf-8", "replace")
            psutil.Process(process.pid).cpu_percent(0.1)
        for one in psutil.Process(machines[1].processes["locust"].pid).children(recursive=True) or [
            psutil.Process(machines[1].processes["locust"].pid)
        ]:
            one.send_signal(signal.SIGKILL)
        code, said = ended(process, machines)
    assert code == 2, said
    info, verdict = run_of(tmp_path / "run")
    assert (info.state, info.load.record_kept, verdict["verdict"]) == ("failed", False, "unknown")
    assert "is lost, and what it recorded last with it" in info.reason


def run_phases(folder: Path) -> set[str]:
    """Return the phases that a run has reached."""
    return {phase.name for phase in open_run(folder / "run").info.phases}


@pytest.mark.broker
@pytest.mark.deep
def test_a_worker_that_lets_nobody_in_is_compared_through_the_broker(tmp_path: Path) -> None:
    if shutil.which("iptables") is None:
        pytest.skip("there is no program `iptables`")
    with crew(tmp_path, "-t", "2s", wall="one") as (process, machines):
        code, said = ended(process, machines)
    assert code == 0, said
    run = open_run(tmp_path / "run")
    assert sorted(recovered(run).values()) == ["broker", "echo"]
    assert judge(run).checkers["ledger"].verdict == "valid"


@pytest.mark.broker
def test_a_server_that_a_worker_cannot_reach_is_one_clear_line_and_2(tmp_path: Path) -> None:
    with crew(tmp_path, "-t", "2s", on="embedded") as (process, machines):
        code, said = ended(process, machines)
    assert code == 2, said
    (line,) = {text.partition("buslab: ")[2] for text in said.splitlines() if "/ERROR/buslab" in text} - {""}
    assert "a worker on another machine cannot reach redis://127.0.0.1:" in line and "(on this machine, not the master's)" in line
    assert "--host redis://HOST:PORT on the master" in line and "Traceback" not in said
