"""A share of a core: who has one uses no more, goes back where it was, and leaves no cgroup."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sim.machine import core_shares as module
from sim.machine.core_shares import core_shares
from sim.machine.waits import ThreadAccounts

BUSY = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"


@pytest.fixture
def busy() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def share_or_skip(stack: contextlib.ExitStack, pid: int, share: float) -> None:
    try:
        stack.enter_context(core_shares([pid], share))
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")


def left() -> list[Path]:
    return [group for group in module._mount().folder.glob("buslab-share-*") if f"-{os.getpid()}-" in group.name]


def used_of_a_core(pid: int, seconds: float) -> float:
    account = ThreadAccounts(pid)
    before, began = account.read()[0], time.monotonic_ns()
    time.sleep(seconds)
    share = (account.read()[0] - before) / (time.monotonic_ns() - began)
    account.close()
    return share


def test_who_has_a_share_of_a_core_uses_no_more_and_goes_back_where_it_was(busy: int) -> None:
    where = Path(f"/proc/{busy}/cgroup").read_text()
    with contextlib.ExitStack() as stack:
        share_or_skip(stack, busy, 0.2)
        assert Path(f"/proc/{busy}/cgroup").read_text() != where and len(left()) == 1
        assert 0 < used_of_a_core(busy, 0.5) < 0.3
    assert Path(f"/proc/{busy}/cgroup").read_text() == where and not left()


def test_a_process_that_has_ended_meanwhile_leaves_nothing_behind() -> None:
    with contextlib.ExitStack() as stack, subprocess.Popen([sys.executable, "-c", BUSY]) as process:
        share_or_skip(stack, process.pid, 0.2)
        process.kill()
    assert not left()


def test_where_one_process_is_gone_the_others_go_back_and_the_error_is_told(busy: int) -> None:
    where = Path(f"/proc/{busy}/cgroup").read_text()
    with contextlib.ExitStack() as stack:
        share_or_skip(stack, busy, 0.2)
    with pytest.raises(OSError), core_shares([busy, 2**22 + 1], 0.2):
        pass
    assert Path(f"/proc/{busy}/cgroup").read_text() == where and not left()


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_not(busy: int) -> None:
    folder = module._mount().folder
    gone, living = folder / f"buslab-share-{2**22 + 1}-1", folder / f"buslab-share-{busy}-1"
    try:
        gone.mkdir()
        living.mkdir()
        with contextlib.ExitStack() as stack:
            share_or_skip(stack, busy, 0.2)
            assert (gone.exists(), living.exists()) == (False, True)
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    finally:
        for group in (gone, living):
            with contextlib.suppress(OSError):
                group.rmdir()
