"""What ends the process groups of a lab when the lab itself is killed: a small process that waits for that alone.

It reads lines from its standard input, which only the lab holds open: ``+ PID MARK`` for a group that was started, ``- PID MARK`` for one
that is gone. At the end of the input it kills what is left: each group, and whatever bears a mark in the environment that it began with,
as a child does that has made a session of its own.

It runs as a script, without the package and in isolated mode, so that it starts in some milliseconds: only the standard library is
imported.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

MARK = "BUSLAB_PROGRAM"  # in the environment of a program and all that it starts
ROUNDS = 3  # a process that is killed may have started another one meanwhile


def kill_group(pid: int) -> None:
    """Kill the processes of a group, frozen ones too; nothing when it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def marked(marks: set[str]) -> list[int]:
    """Return the processes that began with one of these marks in their environment; none where the kernel does not show that."""
    wanted, found = [f"{MARK}={mark}\0".encode() for mark in marks], []
    try:
        entries = os.listdir("/proc")
    except OSError:
        return []
    for entry in entries:
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                environment = file.read() + b"\0"
        except OSError:  # it is gone, or somebody else's
            continue
        if any(one in environment for one in wanted):
            found.append(int(entry))
    return found


def kill_marked(marks: set[str]) -> int:
    """Kill the processes that began with one of these marks in their environment; return how many."""
    killed: set[int] = set()
    for _ in range(ROUNDS):
        there = [pid for pid in marked(marks) if pid not in killed]
        if not there:
            break
        for pid in there:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    return len(killed)


def main() -> None:
    """Wait for the lab's end, then kill what it has left."""
    groups: dict[int, str] = {}
    for line in sys.stdin:
        sign, pid, mark = line.split()
        if sign == "+":
            groups[int(pid)] = mark
        else:
            groups.pop(int(pid), None)
    for pid in groups:
        kill_group(pid)
    if groups:
        kill_marked(set(groups.values()))


if __name__ == "__main__":
    main()
