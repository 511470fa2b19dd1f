"""Host `dask`: workers that the scheduler pauses, and runs that are gone without a word."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from sim.errors import HostError, MachineLost
from sim.machine.process import Child
from sim.pods.hosts.dask_client import DaskClient
from sim.pods.hosts.dask_keeper import DROP_TIMEOUT_S, LEASE_LOOK_S, Keeper
from sim.results.checkers import judge
from sim.results.opened_run import open_run
from sim.run.status import Status
from sim.run.steps import run_scenario
from sim.scenario.file import Scenario
from tests.support.dask_settings import on
from tests.support.early_ends import BOUND_S, sealed

Small = Callable[..., Scenario]
LEASE_S = 2.0
SILENCE = "was asked nothing for 2 s and has ended its processes"
PAUSED = r"the worker tcp://127\.0\.0\.1:\d+ is paused by Dask: its memory is full"


def workers(client: DaskClient) -> dict[str, dict[str, Any]]:
    """What the scheduler knows of each worker."""
    return client.wait(client.workers(), timeout_s=BOUND_S)


def at(client: DaskClient, worker: str, work: Callable[..., Any], **what: Any) -> Any:
    """Return what a function returns on a worker."""

    async def run() -> Any:
        return await client._client.run(work, workers=[worker], **what)

    return client.wait(run(), timeout_s=BOUND_S)[worker]


def until(done: Callable[[], bool], *, within_s: float = BOUND_S) -> None:
    """Wait until something is so."""
    deadline_s = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def pods_of(pid: int) -> list[psutil.Process]:
    """The processes of pods that a worker holds."""
    return [child for child in psutil.Process(pid).children() if "sim.pods.hosts.local_child" in " ".join(child.cmdline())]


# -- workers that the scheduler pauses ---------------------------------------------------------------------------


def set_status(client: DaskClient, worker: str, status: str) -> None:
    """Pause a worker, or let it go on, as Dask's own memory monitor does."""

    def put(status: str, dask_worker: Any) -> None:
        from distributed.core import Status as DaskStatus

        dask_worker.status = DaskStatus[status]

    at(client, worker, put, status=status)
    until(lambda: workers(client)[worker]["status"] == status)


@pytest.mark.broker
def test_a_worker_that_is_paused_in_a_run_is_lost_and_its_pods_end(
    small: Small, tmp_path: Path, scheduler: str, client: DaskClient
) -> None:
    paused, other = list(workers(client))
    pid = at(client, paused, os.getpid)
    held: list[psutil.Process] = []

    def watch(status: Status) -> None:
        if status.phase == "run" and not held:
            held.extend(pods_of(pid))
            set_status(client, paused, "paused")

    try:
        with pytest.raises(MachineLost, match=PAUSED):
            run_scenario(small(*on(scheduler), "load.run_s=20"), out=tmp_path / "run", watch=watch)
        assert len(held) == 1 and psutil.wait_procs(held, timeout=BOUND_S)[1] == []
        assert psutil.pid_exists(pid) and workers(client)[other]["status"] == "running"
    finally:
        set_status(client, paused, "running")
    assert "is paused by Dask" in str(sealed(tmp_path / "run", "failed").reason)
    assert open_run(run_scenario(small(*on(scheduler)), out=tmp_path / "next")).info.lost is None, "it holds pods again"


@pytest.mark.broker
@pytest.mark.deep  # a worker more, whose memory is really full
def test_a_worker_whose_memory_is_full_is_counted_and_the_others_go_on(
    small: Small, tmp_path: Path, scheduler: str, client: DaskClient
) -> None:
    words = (scheduler, "--no-nanny", "--no-dashboard", "--memory-limit", "400MB", "--local-directory", str(tmp_path / "full"))
    before = set(workers(client))
    full = Child([sys.executable, "-m", "distributed.cli.dask_worker", *words], log=tmp_path / "full.log")
    try:
        until(lambda: full.poll() is not None or len(workers(client)) == 3)
        (address,) = set(workers(client)) - before
        held: list[psutil.Process] = []

        def watch(status: Status) -> None:
            if status.phase == "run" and not held:
                held.extend(pods_of(full.pid))
                at(client, address, fill)

        def fill(dask_worker: Any) -> None:
            dask_worker.filled = b"x" * 400_000_000

        twice = [f"services.{name}.replicas=3" for name in ("ai-config-service", "analytics-service", "system-service")]
        scenario = small(*on(scheduler), "hosts.on_loss=count", "hosts.processes=3", "load.run_s=4", *twice)
        run = open_run(run_scenario(scenario, out=tmp_path / "run", watch=watch))
        assert len(held) == 1 and psutil.wait_procs(held, timeout=BOUND_S)[1] == []
        assert full.poll() is None, "the worker itself lives"
    finally:
        full.end()
    (lost,) = run.info.lost or []
    assert re.fullmatch(PAUSED, lost.reason) and address in lost.reason
    verdict = judge(run)
    counts = verdict.checkers["ledger"].counts
    assert (run.info.state, verdict.verdict, counts["unexplained"]) == ("complete", "unknown", 0)
    assert verdict.checkers["ledger"].verdict == "valid", verdict.checkers["ledger"].detail
    assert counts["unknown"] > 0
    alive = run.deliveries[~run.deliveries["pod"].isin(lost.pods)]
    assert (alive["received_ns"] > lost.at_ns + 500_000_000).any(), "the others went on"


# -- runs that are gone without a word ---------------------------------------------------------------------------


@pytest.mark.broker
def test_a_worker_that_nobody_asks_any_more_ends_its_processes_and_tells_who_asks_later(client: DaskClient) -> None:
    op = "buslab-silent"
    client.wait(client.install(Keeper(op, lease_s=LEASE_S)), timeout_s=BOUND_S)
    try:
        worker, other = workers(client)
        time.sleep(LEASE_S + 2 * LEASE_LOOK_S)  # so long it takes to meet many workers: without a process there is no lease

        def ask(do: str, **what: Any) -> dict[str, Any]:
            return client.wait(client.ask(worker, op, do, **what), timeout_s=BOUND_S)

        opened = ask("open", process="dask-0")
        process, folder = psutil.Process(opened["pid"]), Path(opened["folder"])
        asked_until_s = time.monotonic() + LEASE_S + 2 * LEASE_LOOK_S
        while time.monotonic() < asked_until_s:
            assert ask("hear")["ended"] == {}
        assert process.is_running() and folder.is_dir(), "who is asked keeps what it has"
        assert psutil.wait_procs([process], timeout=LEASE_S + LEASE_LOOK_S + DROP_TIMEOUT_S + BOUND_S)[1] == []
        until(lambda: not folder.exists())
        for do, what in (("hear", {}), ("open", {"process": "dask-1"})):
            with pytest.raises(HostError, match=re.escape(f"{SILENCE} of this run (the worker {worker})")):
                ask(do, **what)
        assert client.wait(client.ask(other, op, "hear"), timeout_s=BOUND_S)["said"] == {}
    finally:
        client.wait(client.remove(op), timeout_s=BOUND_S)


SILENT = """
import sys
from functools import partial
from pathlib import Path
from sim.errors import MachineLost
from sim.pods.hosts import dask_cluster
from sim.pods.hosts.dask_keeper import Keeper
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario
folder, scheduler, lease_s = sys.argv[1:]
dask_cluster.Keeper = partial(Keeper, lease_s=float(lease_s))
settings = ("hosts.kind=dask", "load.driver=pods", f"hosts.scheduler={scheduler}", "load.warm_up_s=0.3", "load.run_s=60")
told = []
def watch(status):
    if status.phase == "run" and not told:
        told.append(print("run", flush=True))
try:
    run_scenario(load_scenario("baseline", settings=settings), out=Path(folder), watch=watch)
except MachineLost as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.broker
@pytest.mark.deep  # a run of its own that has to be left alone for the length of its lease
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_pods_end_by_themselves_when_their_run_is_gone_without_a_word(
    tmp_path: Path, scheduler: str, client: DaskClient, number: signal.Signals
) -> None:
    command = [sys.executable, "-c", SILENT, str(tmp_path / "run"), scheduler, str(LEASE_S)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert run.stdout is not None and run.stdout.readline() == "run\n"
        pods = [process for worker in workers(client) for process in pods_of(at(client, worker, os.getpid))]
        assert len(pods) == 2
        began_s = time.monotonic()
        run.send_signal(number)
        assert psutil.wait_procs(pods, timeout=LEASE_S + LEASE_LOOK_S + DROP_TIMEOUT_S + BOUND_S)[1] == []
        assert time.monotonic() - began_s > LEASE_S / 2, "they waited for their run"
        folders = [Path(worker["local_directory"]) for worker in workers(client).values()]
        until(lambda: not [left for folder in folders for left in folder.glob("buslab-*")])
        run.send_signal(signal.SIGCONT)
        said, wrong = run.communicate(timeout=BOUND_S)
    finally:
        run.kill()
        run.communicate()
    if number is signal.SIGKILL:
        assert run.returncode == -signal.SIGKILL
        return
    assert run.returncode == 2, wrong
    assert SILENCE in said or re.search(r"the worker tcp://\S+ is gone", said), said
    told = sealed(tmp_path / "run", "failed")
    assert sorted(lost.host for lost in told.lost or []) == ["dask-0", "dask-1"], "what is lost with either is stated"
