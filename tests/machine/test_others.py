"""Who else takes processor time is named, the greatest first; we are not."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from sim.machine.others import NAMED, OtherProcesses
from tests.support.starving import BUSY


def test_who_is_busy_is_named_and_who_is_ours_is_not() -> None:
    loops = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(2)]
    try:
        others = OtherProcesses([loops[1].pid])
        deadline = time.monotonic() + 30
        core = {min(os.sched_getaffinity(0))} if hasattr(os, "sched_getaffinity") else set()
        for loop in loops if core else []:
            os.sched_setaffinity(loop.pid, core)
        while loops[0].pid not in {one.pid for one in others.busiest()} and time.monotonic() < deadline:
            time.sleep(0.2)
        found = others.busiest()
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    assert len(found) <= NAMED and [one.share for one in found] == sorted((one.share for one in found), reverse=True)
    assert not {loops[1].pid, os.getpid()} & {one.pid for one in found}
    mine = next((one for one in found if one.pid == loops[0].pid), None)
    if mine is not None:  # on a machine that is full of others it may not be among the first
        assert str(mine).endswith("% of a core)") and f"process {mine.pid}" in str(mine)
