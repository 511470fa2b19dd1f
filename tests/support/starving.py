"""Withhold a machine from a lab in the ways in which machines do it, and let go of it again, whatever happens.

Each way is a context manager around one run of `buslab`, by its command. Nothing here outlives it: busy loops end by themselves after
`BOUND_S`, and are ended by their ids before.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sim.results.checkers import judge
from sim.results.checkers.verdict import Verdict
from sim.results.opened_run import Run, open_run

BOUND_S = 300
BUSY = f"import time\nend = time.monotonic() + {BOUND_S}\nwhile time.monotonic() < end: pass"
BUSLAB = Path(sys.executable).with_name("buslab")
# libfaketime 0.9.10 takes an absolute wait on the monotonic clock, which it was told to leave alone, for one that it should move.
SHIM = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left) {
  return syscall(SYS_clock_nanosleep, clock, flags, until, left) == 0 ? 0 : errno;
}
int timerfd_settime(int fd, int flags, const struct itimerspec *value, struct itimerspec *old) {
  return syscall(SYS_timerfd_settime, fd, flags, value, old);
}
"""
FAKETIME = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1", "/usr/local/lib/faketime/libfaketimeMT.so.1")
STOP_S = 2.0
STEP_S = 3600


@contextlib.contextmanager
def busy_loops(many: int = 4) -> Iterator[None]:
    """Keep processors busy with so many processes."""
    loops = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(many)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@contextlib.contextmanager
def small_cgroup(share: float) -> Iterator[Callable[[], None]]:
    """Make a cgroup with a share of one core, v1 or v2; give what a child does to enter it. Skips where none can be made."""
    name = f"buslab-tests-{os.getpid()}-{time.monotonic_ns()}"
    period_us = 100_000
    v1, v2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
    try:
        if (v1 / "cpu.cfs_quota_us").exists():
            folder, limit = v1 / name, ("cpu.cfs_quota_us", str(int(share * period_us)))
        elif "cpu" in (v2 / "cgroup.controllers").read_text().split():
            with contextlib.suppress(OSError):  # where it is on already, or processes stand in the root
                (v2 / "cgroup.subtree_control").write_text("+cpu")
            folder, limit = v2 / name, ("cpu.max", f"{int(share * period_us)} {period_us}")
        else:
            pytest.skip("no cgroup of this machine has the cpu controller")
        folder.mkdir()
        (folder / limit[0]).write_text(limit[1])
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    entry = folder / "cgroup.procs"
    try:
        yield lambda: entry.write_text(str(os.getpid())) and None
    finally:
        deadline = time.monotonic() + 20
        while entry.read_text().strip() and time.monotonic() < deadline:
            time.sleep(0.05)
        folder.rmdir()


def preloads(folder: Path) -> str:
    """Return what to preload so that a file sets the wall clock of a program and of all that it starts, or skip."""
    found = next((path for pattern in FAKETIME for path in Path("/").glob(pattern.lstrip("/"))), None)
    compiler = shutil.which("cc")
    if found is None or compiler is None:
        pytest.skip("libfaketime, or a C compiler for its shim, is not installed: apt-get install libfaketime gcc")
    source, shim = folder / "shim.c", folder / "shim.so"
    if not shim.exists():
        source.write_text(SHIM)
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", shim, source], check=True)
    return f"{shim}:{found}"


def tree(pid: int) -> list[psutil.Process]:
    """Return a process and all that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return []


def wait_for_phase(folder: Path, process: subprocess.Popen[bytes], phase: str = "run") -> bool:
    """Return when a run has begun a phase; False when it has ended before."""
    deadline = time.monotonic() + BOUND_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            if any(one["name"] == phase for one in json.loads((folder / "run.json").read_text())["phases"]):
                return True
        time.sleep(0.05)
    return False


def stand_still(process: subprocess.Popen[bytes], *, whole: bool, after_s: float, for_s: float = STOP_S) -> None:
    """Stop a lab (SIGSTOP), or only the process of its run, for a while."""
    time.sleep(after_s)
    stopped = tree(process.pid) if whole else tree(process.pid)[:1]
    try:
        for one in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGSTOP)
        time.sleep(for_s)
    finally:
        for one in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGCONT)


def start(scenario: str, folder: Path, *settings: str, env: dict[str, str] | None = None, enter: Any = None) -> subprocess.Popen[bytes]:
    """Start `buslab run`; what it prints is in a file beside its folder."""
    argv = [str(BUSLAB), "run", scenario, "--out", str(folder), "--no-report"]
    argv += [word for setting in settings for word in ("--set", setting)]
    with folder.with_suffix(".txt").open("wb") as out:
        return subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}, preexec_fn=enter)


def end(process: subprocess.Popen[bytes], folder: Path) -> tuple[int, str]:
    """Wait for a run; return its exit code and what it printed."""
    try:
        code = process.wait(BOUND_S)
    finally:
        if process.poll() is None:
            for one in reversed(tree(process.pid)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            process.wait()
    return code, folder.with_suffix(".txt").read_text("utf-8", "replace")


def run_under(condition: str, scenario: str, folder: Path, *settings: str, after_s: float = 1.0) -> tuple[int, str]:
    """Run a scenario under one of `CONDITIONS`; return its exit code and what it printed."""
    with contextlib.ExitStack() as stack:
        env, enter = {}, None
        clock = folder.with_suffix(".clock")
        if condition == "busy":
            stack.enter_context(busy_loops())
        elif condition == "cgroup":
            enter = stack.enter_context(small_cgroup(0.2))
        elif condition == "step":
            clock.write_text("+0")
            # The file is read once a second: at each call of a clock it would slow the lab tenfold where it writes its tables.
            env = {"LD_PRELOAD": preloads(folder.parent), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_CACHE_DURATION": "1"}
            env |= {"DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        process = start(scenario, folder, *settings, env=env, enter=enter)
        try:
            if condition in ("stopped", "run stopped") and wait_for_phase(folder, process):
                stand_still(process, whole=condition == "stopped", after_s=after_s)
            if condition == "step" and wait_for_phase(folder, process):
                time.sleep(after_s)
                clock.write_text(f"+{STEP_S}")
        finally:
            code, text = end(process, folder)
    return code, text


CONDITIONS = ("quiet", "busy", "cgroup", "stopped", "step")


def judged(folder: Path) -> tuple[Run, Verdict]:
    """Return a run and its verdict."""
    run = open_run(folder)
    return run, judge(run)
