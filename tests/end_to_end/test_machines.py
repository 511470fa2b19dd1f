"""Runs whose pods, whose broker and whose run are on machines of their own, each with its network: namespaces on this machine."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from sim.results.checkers import judge
from sim.results.opened_run import Run, open_run
from tests.support.machines import BOUND_S, Machine, lay_out, start_redis, start_scheduler, start_worker

PODS = {
    "music-service": 100,
    "ai-content-service": 60,
    "api-gateway": 100,
    "ai-config-service": 10,
    "analytics-service": 20,
    "system-service": 10,
}
AHEAD_S = 1234
LOSS_S = 150.0  # a run of four seconds whose scheduler, worker or network is lost ends within that

pytestmark = pytest.mark.broker


@dataclass
class Laid:
    """Three machines: the run and the scheduler; two workers; a Redis."""

    home: Machine
    far: Machine
    store: Machine
    scheduler: str
    redis: str
    workers: list[subprocess.Popen[bytes]]

    def command(self, folder: Path, *settings: str) -> list[str]:
        """Return the command line of a run at home."""
        every = ("hosts.kind=dask", f"hosts.scheduler={self.scheduler}", "load.driver=pods", "slo.lag_ms_p99=10000", *settings)
        words = [word for one in every for word in ("--set", one)]
        return [
            sys.executable,
            "-m",
            "sim.cli",
            "run",
            "baseline",
            "--on",
            self.redis,
            "--yes-load-this-server",
            "--out",
            str(folder),
            *words,
        ]

    def run(self, folder: Path, *settings: str) -> subprocess.CompletedProcess[str]:
        """Run a scenario to its end."""
        return self.home.run(*self.command(folder, *settings), timeout_s=LOSS_S)

    def begin(self, folder: Path, *settings: str) -> subprocess.Popen[bytes]:
        """Begin a run; return when it is in its phase `run`."""
        process = self.home.start("run", *self.command(folder, *settings))
        deadline_s = time.monotonic() + BOUND_S
        while not (folder / "run.json").exists() or '"run"' not in (folder / "run.json").read_text("utf-8"):
            assert process.poll() is None, self.home.log("run").read_text("utf-8", "replace")
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        return process

    def finish(self, process: subprocess.Popen[bytes]) -> tuple[int, str]:
        """Wait for a run, and return its exit code and what it printed."""
        return process.wait(LOSS_S), self.home.log("run").read_text("utf-8", "replace")


@contextlib.contextmanager
def three_machines(folder: Path, *, ahead_s: int = 0) -> Iterator[Laid]:
    """Lay three machines out, with their programs; afterwards no process and no network is left."""
    with lay_out("home", "far", "store", logs=folder, clocks_s={"far": ahead_s} if ahead_s else None) as (home, far, store):
        redis, scheduler = start_redis(store), start_scheduler(home)
        workers = [start_worker(far, scheduler, "--no-nanny", name=f"worker{n}") for n in range(2)]
        yield Laid(home, far, store, scheduler, redis, workers)
    left = [one for one in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(one.info["cmdline"] or [])]
    assert psutil.wait_procs(left, timeout=30)[1] == []
    assert home.network not in subprocess.run(("ip", "netns", "list"), capture_output=True, text=True, check=True).stdout


@pytest.fixture
def laid(tmp_path: Path) -> Iterator[Laid]:
    """Give three machines of one clock."""
    with three_machines(tmp_path) as found:
        yield found


def ledger(run: Run) -> dict[str, int | float]:
    """Return the counts of the ledger, after checking that nothing is unexplained."""
    checker = judge(run).checkers["ledger"]
    assert checker.counts["unexplained"] == 0, checker.detail
    return checker.counts


@pytest.mark.parametrize("replicas", [pytest.param(None, id="12 pods"), pytest.param(PODS, id="300 pods", marks=pytest.mark.deep)])
def test_pods_on_a_machine_with_another_clock_are_accounted_for(tmp_path: Path, replicas: dict[str, int] | None) -> None:
    """How far the clock is off is nowhere told to the code under test."""
    many = [f"services.{service}.replicas={number}" for service, number in (replicas or {}).items()]
    with three_machines(tmp_path, ahead_s=AHEAD_S) as laid:
        done = laid.run(tmp_path / "run", "load.warm_up_s=1", "load.run_s=3", *many)
    assert done.returncode == 0, done.stdout + done.stderr
    run = open_run(tmp_path / "run")
    counts = ledger(run)
    assert judge(run).verdict == "valid"
    assert (counts["missing"], counts["unexpected"]) == (0, 0)
    assert counts["delivered"] == counts["expected"] > 500
    assert run.pods["pod"].nunique() == (sum(replicas.values()) if replicas else 12)
    assert any(f"of 1 machine: {laid.far.address}" in note for note in run.info.notes)
    compared = run._rows("clocks")[0].to_dict("records")
    assert {str(row["host"]) for row in compared} == {"dask-0", "dask-1"}
    assert all(abs(row["offset_ns"] - AHEAD_S * 1_000_000_000) <= row["bound_ns"] for row in compared)
    assert set(run.clocks.ways.values()) == {"echo"}


CLOCKS_S = {"near": 420, "far": 1234}  # seven and some twenty minutes ahead, told to nobody
REPEATS = 3
QUANTILES = ("p50", "p99")
PINGS = """
import socket, sys, time
line, times = socket.create_connection((sys.argv[1], int(sys.argv[2]))), []
line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
for _ in range(2000):
    began = time.perf_counter_ns()
    line.sendall(b"PING\\r\\n")
    assert line.recv(64) == b"+PONG\\r\\n"
    times.append(time.perf_counter_ns() - began)
print(sorted(times)[len(times) // 2])
"""


def round_trip_ms(machine: Machine, redis: str) -> float:
    """Return the median time from a machine to a Redis and back."""
    done = machine.run(sys.executable, "-c", PINGS, *redis.removeprefix("redis://").split(":"))
    return int(done.stdout) / 1e6


@pytest.mark.deep  # the same load nine times
def test_lags_between_machines_are_those_of_one_but_for_the_network_and_the_bound(tmp_path: Path) -> None:
    """What is left of minutes between the clocks is the bound that is printed; what the network takes, a slow link on one machine shows."""
    load = ("load.driver=pods", "load.rate_per_s=200", "load.warm_up_s=1", "load.run_s=5", "hosts.processes=2", "slo={}")
    with lay_out("home", "near", "far", "store", logs=tmp_path, clocks_s=CLOCKS_S) as (home, near, far, store):
        apart, scheduler = start_redis(store), start_scheduler(home)
        for worker in (near, far):
            start_worker(worker, scheduler, "--no-nanny")
        one_way_ms = max(0.001, (round_trip_ms(far, apart) - round_trip_ms(home, start_redis(home))) / 2)
        slow = f'faults=[{{kind="link_slow",delay_ms={one_way_ms:.4f},at_s=0,for_s=5}}]'
        kinds = {
            "two machines": (apart, "hosts.kind=dask", f"hosts.scheduler={scheduler}"),
            "one machine": ("embedded", "hosts.kind=local"),
            "one machine, slow links": ("embedded", "hosts.kind=local", slow),
        }
        found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
        for number in range(REPEATS):
            for kind, (ground, *settings) in kinds.items():
                folder = tmp_path / f"{kind}-{number}"
                words = [word for one in (*load, *settings) for word in ("--set", one)]
                where = ("--on", ground, "--yes-load-this-server", "--out", str(folder))
                done = home.run(sys.executable, "-m", "sim.cli", "run", "baseline", *where, *words, timeout_s=LOSS_S)
                assert done.returncode == 0, done.stdout + done.stderr
                run = open_run(folder)
                assert set(run.clocks.ways.values()) == ({"echo"} if kind == "two machines" else set())
                assert ledger(run)["missing"] == 0
                counts = judge(run).checkers["lag"].counts
                found[kind].append(
                    {name: counts.get(f"lag_us.{name}", 0.0) for name in QUANTILES} | {"bound": counts.get("clock_error_us.max", 0.0)}
                )
    print(f"one way of the network takes {1e3 * one_way_ms:.1f} us longer than none", *found.items(), sep="\n")
    bound_us = max(one["bound"] for one in found["two machines"])
    assert 0 < bound_us < 20_000
    for name in QUANTILES:
        here, there, slowed = ([one[name] for one in found[kind]] for kind in ("one machine", "two machines", "one machine, slow links"))
        explained_us = max(0.0, statistics.median(slowed) - statistics.median(here))
        repeated_us = max(here) - min(here)  # by so much the same run on one machine differs from itself
        differ_us = abs(statistics.median(there) - statistics.median(here))
        print(f"{name}: differ by {differ_us:.0f} us; bound {bound_us:.0f}, slow link {explained_us:.0f}, one machine {repeated_us:.0f}")
        assert differ_us < bound_us + explained_us + repeated_us, (name, found)


def test_a_broker_on_loopback_is_refused_with_workers_elsewhere(laid: Laid, tmp_path: Path) -> None:
    words = [word.replace(laid.redis, "embedded") for word in laid.command(tmp_path / "run")]
    done = laid.home.run(*words)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "is on this machine's loopback, and the worker" in line
    assert not (tmp_path / "run").exists()


def test_a_full_disk_on_a_worker_is_one_line_that_names_it(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)), check=True)
    try:
        with lay_out("home", "far", "store", logs=tmp_path) as (home, far, store):
            redis, scheduler = start_redis(store), start_scheduler(home)
            worker = start_worker(far, scheduler, "--no-nanny", "--local-directory", str(small))
            laid = Laid(home, far, store, scheduler, redis, [worker])
            process = laid.begin(tmp_path / "run", "load.warm_up_s=0.5", "load.run_s=2", "hosts.processes=1")
            with contextlib.suppress(OSError), (small / "filler").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            code, said = laid.finish(process)
    finally:
        subprocess.run(("umount", str(small)), check=True)
    assert code == 2, said
    assert re.search(r"cannot write .*: .*\(dask-0 on 10\.77\.0\.3\)", said), said
    assert open_run(tmp_path / "run").info.state == "failed"


SLOWED, TAKEN, DELAY_US = "music-service-0", "music-service-1", 200_000


@pytest.mark.deep
def test_links_and_a_machine_of_far_pods_are_hurt_and_every_copy_has_its_cause(laid: Laid, tmp_path: Path) -> None:
    """The server is on a machine of its own and not ours to hurt; the links of our pods to it are, where the pods are."""
    faults = f"""faults=[{{kind="link_slow",pods=["{SLOWED}"],at_s=1,for_s=2,delay_ms={DELAY_US // 1000},direction="to_pod"}},
        {{kind="machine_down",machine=1,at_s=3.5,for_s=3,elsewhere_s=1}}]"""
    done = laid.run(tmp_path / "run", faults, "load.warm_up_s=1", "load.run_s=8", "slo={}")
    run = open_run(tmp_path / "run")
    assert done.returncode == judge(run).exit_code == 0, done.stdout + done.stderr
    counts = ledger(run)
    assert (counts["unexpected"], counts["unknown"], run.info.lost) == (0, 0, None)
    assert {"pod-down", "no-pod", "never-sent"} & set(run.ledger()["cause"].astype(str))
    slowed, taken = (run.faults[run.faults["fault"] == kind].iloc[0] for kind in ("link_slow", "machine_down"))
    assert TAKEN in taken["target"].split(",") and SLOWED not in taken["target"].split(",")
    sent = run.publishes.drop_duplicates("event").set_index("event")["sent_ns"]
    inside = run.deliveries[run.deliveries["event"].map(sent).between(slowed["begin_ns"] + 5e8, slowed["end_ns"] - 5e8)]
    lag_us = (inside["received_ns"] - inside["event"].map(sent)).groupby(inside["pod"], observed=True).min() / 1e3
    assert lag_us[SLOWED] >= DELAY_US > lag_us.drop(SLOWED).max()
    (note,) = [note for note in run.info.notes if "Dask" in note]
    assert note.endswith("the proxies of links on 2 workers were not watched for waits")


# -- what is lost in the middle of a run -------------------------------------------------------------------------


def test_a_killed_worker_is_counted_and_its_pods_are_gone(laid: Laid, tmp_path: Path) -> None:
    twice = [f"services.{service}.replicas=2" for service in PODS]  # so that no service is left without a pod
    process = laid.begin(tmp_path / "run", "hosts.on_loss=count", "load.warm_up_s=0.5", "load.run_s=4", *twice)
    time.sleep(1.0)
    victim = psutil.Process(laid.workers[0].pid)
    pods = victim.children(recursive=True)
    victim.kill()
    assert psutil.wait_procs(pods, timeout=30)[1] == [], "the processes of pods die with their worker"
    code, said = laid.finish(process)
    assert code == 2, said  # whether the limit on what is missing is kept cannot be known
    run = open_run(tmp_path / "run")
    assert run.info.state == "complete"
    assert len(run.info.lost or []) == 1
    counts = ledger(run)
    assert counts["unknown"] > 0
    assert judge(run).checkers["ledger"].verdict == "valid"


def test_a_worker_that_stands_still_for_a_while_is_not_lost(laid: Laid, tmp_path: Path) -> None:
    """Its pods are in processes of their own and go on; what they say waits."""
    process = laid.begin(tmp_path / "run", "load.warm_up_s=0.5", "load.run_s=13")
    os.kill(laid.workers[0].pid, signal.SIGSTOP)
    time.sleep(10.0)
    os.kill(laid.workers[0].pid, signal.SIGCONT)
    code, said = laid.finish(process)
    assert code == 0, said
    run = open_run(tmp_path / "run")
    assert run.info.lost is None
    assert ledger(run)["missing"] == 0


def test_a_network_that_is_gone_for_five_seconds_loses_no_worker(laid: Laid, tmp_path: Path) -> None:
    """TCP sends again what was not answered: copies come late, some pods may have connected anew, and every copy has its fate."""
    process = laid.begin(tmp_path / "run", "load.warm_up_s=0.5", "load.run_s=10", "limits.drain_s=30")
    laid.far.unplug()
    time.sleep(5.0)
    laid.far.plug()
    code, said = laid.finish(process)
    run = open_run(tmp_path / "run")
    assert (run.info.state, run.info.lost) == ("complete", None), run.info.reason
    assert code == judge(run).exit_code, said
    counts = ledger(run)
    assert counts["unexpected"] == 0
    sent_ns = run.publishes.set_index("event")["sent_ns"]
    heard = run.deliveries[run.deliveries["event"].isin(sent_ns.index)]
    late_ns = int((heard["received_ns"].to_numpy() - sent_ns[heard["event"]].to_numpy()).max())
    assert late_ns > 3_000_000_000 or counts["missing"] > 0, "five seconds without a network were felt"


@pytest.mark.parametrize("on_loss", ["fail", "count"])
def test_without_its_scheduler_a_run_fails_in_bounded_time_and_no_pod_is_left(laid: Laid, tmp_path: Path, on_loss: str) -> None:
    process = laid.begin(tmp_path / "run", f"hosts.on_loss={on_loss}", "load.warm_up_s=0.5", "load.run_s=4")
    pods = [child for worker in laid.workers for child in psutil.Process(worker.pid).children(recursive=True)]
    assert len(pods) == 2
    laid.home.processes["scheduler"].kill()
    code, said = laid.finish(process)
    assert code == 2
    assert "the Dask scheduler" in said and "does not answer any more" in said
    run = open_run(tmp_path / "run")
    assert run.info.state == "failed"
    assert judge(run).verdict == "unknown"
    assert psutil.wait_procs(pods, timeout=90)[1] == []
