"""Runs that end early, in a process of their own that interrupts itself, and what the folder of any run says. For tests."""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from sim.record.run_info import RunInfo, read_info
from sim.record.schema import TABLES
from sim.wire.address import free_port

BOUND_S = 120.0  # of anything waited for; reached only when the test fails


def rows(folder: Path, table: str) -> list[dict[str, Any]]:
    """Return the rows of a table."""
    read: list[dict[str, Any]] = pq.ParquetFile(folder / f"{table}.parquet").read().to_pylist()
    return read


def info(folder: Path) -> RunInfo:
    """Return what run.json says."""
    return read_info(folder / "run.json")


def sealed(folder: Path, state: str) -> RunInfo:
    """Return what run.json says, after checking that the folder is sealed and every table can be read."""
    said = info(folder)
    assert said.state == state
    assert said.reason
    assert {table: len(rows(folder, table)) for table in TABLES} == {table: (said.tables or {})[table].rows for table in TABLES}
    assert not (folder / "parts").exists()
    return said


INTERRUPTED = """
import os, signal, sys
from pathlib import Path
import psutil
from sim.errors import Interrupted
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario
folder, ground, phase, driver, times, run_s = sys.argv[1:]
settings = ("load.warm_up_s=0.3", f"load.run_s={run_s}", f"load.driver={driver}")
todo = [None] * int(times)
def watch(status):
    if status.phase == phase and todo:
        print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
        while todo:
            todo.pop()
            os.kill(os.getpid(), signal.SIGINT)
try:
    run_scenario(load_scenario("baseline", settings=settings), on=ground, out=Path(folder), watch=watch)
except Interrupted as error:
    print(error)
    sys.exit(error.exit_code)
"""


@dataclass
class Stopped:
    """How an interrupted run ended."""

    code: int
    said: str
    errors: str
    folder: Path
    port: int


def interrupt(folder: Path, *, phase: str, driver: str, times: int = 1, run_s: int = 1, script: str = INTERRUPTED) -> Stopped:
    """Run in a process of its own, which interrupts itself; return when it and everything it started is gone."""
    port = free_port()
    command = [sys.executable, "-c", script, str(folder), f"embedded:{port}", phase, driver, str(times), str(run_s)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BOUND_S, check=False)
    pids, _, said = done.stdout.partition("\n")
    left = []
    for pid in map(int, pids.split()):
        try:
            left.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue
    assert psutil.wait_procs(left, timeout=BOUND_S)[1] == []
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    return Stopped(done.returncode, said.strip(), done.stderr, folder, port)
