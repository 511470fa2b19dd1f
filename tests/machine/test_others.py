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
        deadline = time.monotonic() + 60
        while loops[0].pid not in {one.pid for one in others.busiest(1000)}:
            assert time.monotonic() < deadline, "a loop used no twentieth of a core in a minute"
            time.sleep(0.2)
        found, first = others.busiest(1000), others.busiest()
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    assert len(first) <= NAMED and [one.share for one in found] == sorted((one.share for one in found), reverse=True)
    assert not {loops[1].pid, os.getpid()} & {one.pid for one in found}
    mine = next(one for one in found if one.pid == loops[0].pid)
    assert str(mine).endswith("% of a core)") and f"(process {mine.pid}, " in str(mine)
