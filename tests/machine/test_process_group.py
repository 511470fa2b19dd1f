"""A program in a process group of its own: all of it starts, stands still and ends together, and its output is kept within a bound."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from sim.errors import HostError
from sim.machine import group_guard
from sim.machine.bounded_log import BoundedLog
from sim.machine.process_group import GroupGuard, ProcessGroup

FORKS = """
import subprocess, sys, time
one = subprocess.Popen(["sleep", "600"])
two = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(one.pid, two.pid, flush=True)
LAST
"""


def run(body: Callable[[GroupGuard], Awaitable[None]]) -> None:
    async def whole() -> None:
        guard = GroupGuard()
        try:
            await body(guard)
        finally:
            guard.close()

    asyncio.run(whole())


async def until(true: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def start(folder: Path, script: str, output: list[bytes], guard: GroupGuard) -> ProcessGroup:
    return ProcessGroup.start(
        [sys.executable, "-c", script], folder=folder, env=dict(os.environ), name="own", took=output.append, guard=guard
    )


@pytest.mark.parametrize("last", ["time.sleep(600)", "sys.exit(5)"], ids=["killed", "ended by itself"])
def test_its_children_end_with_it_also_one_with_a_session_of_its_own(tmp_path: Path, last: str) -> None:
    async def body(guard: GroupGuard) -> None:
        output: list[bytes] = []
        group = start(tmp_path, FORKS.replace("LAST", last), output, guard)
        await until(lambda: b"\n" in b"".join(output))
        children = [int(word) for word in b"".join(output).split()]
        assert len(children) == 2
        if "sleep" in last:
            assert all(map(psutil.pid_exists, children))
            group.kill()
        code = await asyncio.wait_for(group.gone, 10)
        assert code == (5 if "exit" in last else -signal.SIGKILL) and group.died_ns
        await until(lambda: not any(_runs(pid) for pid in children))

    run(body)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_it_stands_still_and_goes_on(tmp_path: Path) -> None:
    async def body(guard: GroupGuard) -> None:
        output: list[bytes] = []
        group = start(tmp_path, "import time\nwhile True:\n    print('x', flush=True); time.sleep(0.005)", output, guard)
        await until(lambda: output)
        await group.freeze()
        assert psutil.Process(group.pid).status() == psutil.STATUS_STOPPED
        await asyncio.sleep(0.05)
        many = len(output)
        await asyncio.sleep(0.1)
        assert len(output) == many
        group.thaw()
        await until(lambda: len(output) > many)
        group.ask(signal.SIGTERM)
        assert await asyncio.wait_for(group.gone, 10) == -signal.SIGTERM
        group.kill()  # of one that is gone: nobody is hurt

    run(body)


def test_what_cannot_be_started_is_one_sentence(tmp_path: Path) -> None:
    async def body(guard: GroupGuard) -> None:
        with pytest.raises(HostError, match=r"own cannot be started: 'no-such-program-7' in .*: No such file or directory"):
            ProcessGroup.start(["no-such-program-7"], folder=tmp_path, env={}, name="own", took=lambda data: None, guard=guard)

    run(body)


def test_the_guard_kills_what_it_still_guards_when_its_input_ends(tmp_path: Path) -> None:
    mark = "ab12"
    env = {**os.environ, group_guard.MARK: mark}
    group = subprocess.Popen(["sleep", "600"], start_new_session=True, env=env)
    child = subprocess.Popen(["sleep", "601"], start_new_session=True, env=env)
    spared = subprocess.Popen(["sleep", "602"], start_new_session=True)
    argv = [sys.executable, "-I", "-S", str(group_guard.__file__)]
    guard = subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True)
    assert guard.stdin is not None
    guard.stdin.write(f"+ {group.pid} {mark}\n+ {spared.pid} cd34\n- {spared.pid} cd34\n".encode())
    guard.stdin.close()
    assert guard.wait(10) == 0
    assert group.wait(10) == child.wait(10) == -signal.SIGKILL
    assert spared.poll() is None
    spared.kill()
    spared.wait()


def test_a_log_keeps_the_beginning_and_the_end(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "log", head_bytes=10, tail_bytes=8)
    for number in range(100):
        log.write(f"line {number:02d}\n".encode())
    assert log.last() == "line 94 | line 95 | line 96 | line 97 | line 98 | line 99"
    log.close()
    log.close()
    assert log.left_out == 100 * 8 - 10 - 8
    assert log.path.read_text() == "line 00\nli\n[782 bytes of output were left out here]\nline 99\n"


def test_a_log_of_little_is_all_of_it(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "log")
    log.write(b"one\ntwo\n")
    log.close()
    assert (log.path.read_bytes(), log.left_out, log.last()) == (b"one\ntwo\n", 0, "one | two")
    assert BoundedLog(tmp_path / "none").last() == "it printed nothing"
