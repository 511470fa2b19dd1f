"""How long a process could have run and did not, as the kernel counts it: what a measurement must know of the machine it was made on.

Rules
-----
1. A process's account is the sum over its threads (`/proc/PID/task/*/schedstat`): the file of the process is of its main thread only.
   A thread that has ended keeps its part.
2. Numbers only rise, from any beginning: differences count. What this platform does not tell is NaN, never 0.
3. Waiting and standing still are two things. Who waits could run and has no core: other work, a quota, a hypervisor. Who stands still
   could not run at all: stopped (SIGSTOP), or held by the kernel for a disk. The kernel counts only the former. The latter is what is
   left of a loop's lateness after all that its process computed and waited; from outside, the time in which it is seen stopped.
4. A suspended machine stops the clock of all times as well; CLOCK_BOOTTIME goes on, and the difference tells.
5. What is of the whole machine is asked once in `MACHINE_PERIOD_NS`: on many cores the kernel adds it up for a while.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

from sim.machine.clock import NS_PER_S

MACHINE_PERIOD_NS = NS_PER_S
STOOD_MIN_NS = 2_000_000  # what is less at a time is a timer's own imprecision
PROC = Path("/proc")
_READ_BYTES = 16_384  # more than any file here holds before what is looked for


class Waits(NamedTuple):
    """The optional columns of the table `hosts` (`sim.record.schema.OPTIONAL`), in their order."""

    waited_ns: float = math.nan
    stood_ns: float = math.nan
    throttled_ns: float = math.nan
    major_faults: float = math.nan
    steal_ns: float = math.nan
    pressure_ns: float = math.nan
    swapped_in: float = math.nan
    suspended_ns: float = math.nan
    wall_offset_ns: float = math.nan


class _Risen:
    """The sum of what a counter rose by; where it fell it was begun anew, and where it was not read nothing is added."""

    def __init__(self) -> None:
        self._last = math.nan
        self.total = math.nan

    def add(self, value: float) -> float:
        """Add what the counter rose by since the last reading, and return the sum; NaN until it was read once."""
        if not math.isnan(value):
            risen = value - self._last if value >= self._last else 0.0 if math.isnan(self._last) else value
            self.total = risen if math.isnan(self.total) else self.total + risen
            self._last = value
        return self.total

    def begin_anew(self, at: float) -> None:
        """Go on with another counter, which stood at `at`; NaN: at its next reading."""
        self._last = at


class _Kept:
    """A file of the kernel that is read again and again, kept open."""

    def __init__(self, path: Path | str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> bytes:
        """Return what it says now; raises `OSError` when what it is about is gone."""
        return os.pread(self._fd, _READ_BYTES, 0)

    def close(self) -> None:
        """Close it; may be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class ThreadAccounts:
    """How long the threads of a process ran and waited for a core, those that have ended included."""

    def __init__(self, pid: int, *, proc: Path = PROC) -> None:
        self._folder = proc / str(pid) / "task"
        self._threads: dict[str, tuple[_Kept, int, int]] = {}
        self._ended = (0, 0)
        self._seen = False

    def read(self) -> tuple[float, float]:
        """Return (ran, waited) in nanoseconds, each the sum over its threads; NaN where the kernel keeps no such account."""
        try:
            living = os.listdir(self._folder)
        except OSError:  # it has ended
            living = []
        for thread in self._threads.keys() - set(living):
            self._end(thread)
        for thread in living:
            with contextlib.suppress(OSError, ValueError, IndexError):
                self._read(thread)
        if not self._seen:
            return math.nan, math.nan
        ran, waited = self._ended
        return ran + sum(one[1] for one in self._threads.values()), waited + sum(one[2] for one in self._threads.values())

    def _read(self, thread: str) -> None:
        if thread not in self._threads:
            self._threads[thread] = _Kept(self._folder / thread / "schedstat"), 0, 0
        file = self._threads[thread][0]
        try:
            ran, waited = map(int, file.read().split()[:2])
        except OSError:
            self._end(thread)
            raise
        self._threads[thread] = file, ran, waited
        self._seen = True

    def _end(self, thread: str) -> None:
        file, ran, waited = self._threads.pop(thread)
        file.close()
        self._ended = self._ended[0] + ran, self._ended[1] + waited

    def close(self) -> None:
        """Close its files; may be called twice."""
        for thread in list(self._threads):
            self._end(thread)


class Throttle:
    """How long the cgroup of a process, and those above it, were throttled: `cpu.stat` of cgroup v1 or v2, wherever they are mounted."""

    def __init__(self, pid: int, *, proc: Path = PROC) -> None:
        self._of = proc / str(pid) / "cgroup"
        self._mounts = proc / "self" / "mountinfo"
        self._said = b""
        self._files: list[_Kept] = []
        self._risen = _Risen()

    def look(self) -> None:
        """Find the files again where the process has been moved into another cgroup."""
        try:
            said = self._of.read_bytes()
            if said != self._said:
                self.close()
                self._risen.begin_anew(math.nan)
                self._files = [_Kept(path) for path in throttle_files(said.decode(), self._mounts.read_text())]
                self._said = said
        except OSError:
            pass  # no such platform, or the process has ended

    def read(self) -> float:
        """Return how long they were throttled since the first reading, nanoseconds; NaN where nothing says so."""
        total = math.nan
        for file in self._files:
            with contextlib.suppress(OSError, ValueError):
                fields = dict(line.split() for line in file.read().decode().splitlines())
                if "throttled_usec" in fields:
                    total = (0.0 if math.isnan(total) else total) + 1_000 * int(fields["throttled_usec"])
                elif "throttled_time" in fields:
                    total = (0.0 if math.isnan(total) else total) + int(fields["throttled_time"])
        return self._risen.add(total)

    def close(self) -> None:
        """Close its files; may be called twice."""
        for file in self._files:
            file.close()
        self._files = []


def throttle_files(cgroup: str, mountinfo: str) -> list[Path]:
    """Return the existing `cpu.stat` of a process's cgroup and of those above it.

    Parameters
    ----------
    cgroup
        The content of /proc/PID/cgroup: lines ``number:controllers:path``; of v2 number 0 and no controllers.
    mountinfo
        The content of /proc/self/mountinfo.
    """
    paths: dict[str, str] = {}  # "cpu" for v1, "" for v2 -> path
    for line in cgroup.splitlines():
        number, controllers, path = line.split(":", 2)
        if "cpu" in controllers.split(","):
            paths["cpu"] = path
        elif number == "0" and not controllers:
            paths[""] = path
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        which = "cpu" if kind == "cgroup" and "cpu" in options.split(",") else "" if kind == "cgroup2" else None
        if which is None or which not in paths:
            continue
        root, mount = before.split(" ")[3:5]
        path = paths[which]
        below = path[len(root) :] if root != "/" and path.startswith(root) else path
        here = Path(mount) / below.strip("/")
        for folder in (here, *here.parents):
            if (folder / "cpu.stat").is_file():
                found.append(folder / "cpu.stat")
            if folder == Path(mount):
                break
    return list(dict.fromkeys(found))


class MachineAccount:
    """What the machine says of itself; `read` returns an account with only the machine's columns, each NaN where it does not tell."""

    def __init__(self, *, proc: Path = PROC) -> None:
        self._files: dict[str, _Kept] = {}
        self._ns_per_tick = NS_PER_S // os.sysconf("SC_CLK_TCK")
        for name in ("stat", "pressure/cpu", "vmstat"):
            with contextlib.suppress(OSError):
                self._files[name] = _Kept(proc / name)

    def read(self) -> Waits:
        """Read all of it."""
        boot = getattr(time, "CLOCK_BOOTTIME", None)
        now = time.monotonic_ns()
        return Waits(
            steal_ns=self._ns_per_tick * self._field("stat", b"cpu ", 7),
            pressure_ns=1_000 * self._field("pressure/cpu", b"some ", -1),
            swapped_in=self._field("vmstat", b"pswpin ", 0),
            suspended_ns=math.nan if boot is None else float(time.clock_gettime_ns(boot) - now),
            wall_offset_ns=float(time.time_ns() - now),
        )

    def _field(self, name: str, start: bytes, place: int) -> float:
        """Return one field of the line that begins so."""
        file = self._files.get(name)
        if file is None:
            return math.nan
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in file.read().splitlines():
                if line.startswith(start):
                    return float(line[len(start) :].split()[place].rpartition(b"=")[2])
        return math.nan

    def close(self) -> None:
        """Close its files; may be called twice."""
        for file in self._files.values():
            file.close()


class OwnWaits:
    """The account of this process, kept by the thread of its event loop, which tells how late it is woken."""

    def __init__(self) -> None:
        self._threads = ThreadAccounts(os.getpid())
        self._throttle = Throttle(os.getpid())
        self._machine = MachineAccount()
        self._loop: _Kept | None = None
        with contextlib.suppress(OSError):
            self._loop = _Kept(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        self._due_ns = 0
        self._stood_ns = 0
        self._cpu_ns, self._loop_waited_ns = self._clocks()

    def _clocks(self) -> tuple[int, int]:
        """Return the processor time of the process, and how long the loop's thread waited for a core."""
        waited = 0
        if self._loop is not None:
            with contextlib.suppress(OSError, ValueError, IndexError):
                waited = int(self._loop.read().split()[1])
        return time.process_time_ns(), waited

    def woke(self, late_ns: int) -> None:
        """Note that the loop was woken so late: what is not explained by computing or waiting since the last time, it stood still."""
        cpu_ns, waited_ns = self._clocks()
        stood_ns = late_ns - (cpu_ns - self._cpu_ns) - (waited_ns - self._loop_waited_ns)
        self._stood_ns += stood_ns if stood_ns >= STOOD_MIN_NS else 0
        self._cpu_ns, self._loop_waited_ns = cpu_ns, waited_ns

    def sample(self, now_ns: int) -> Waits:
        """Return the account of now; what is of the machine is in it once in a while only, see rule 5."""
        whole = Waits()
        if now_ns >= self._due_ns:
            self._due_ns = now_ns + MACHINE_PERIOD_NS
            self._throttle.look()
            whole = self._machine.read()
        faults = float(resource.getrusage(resource.RUSAGE_SELF).ru_majflt)
        return whole._replace(
            waited_ns=self._threads.read()[1], stood_ns=float(self._stood_ns), throttled_ns=self._throttle.read(), major_faults=faults
        )

    def close(self) -> None:
        """Close every file; may be called twice."""
        self._threads.close()
        self._throttle.close()
        self._machine.close()
        if self._loop is not None:
            self._loop.close()


class OtherWaits:
    """The account of another process, seen from outside; it may be started again under another id and keeps its account."""

    def __init__(self) -> None:
        self._pid = 0
        self._threads: ThreadAccounts | None = None
        self._throttle: Throttle | None = None
        self._ran, self._waited, self._throttled, self._faults = _Risen(), _Risen(), _Risen(), _Risen()
        self._stood_ns = 0.0
        self._due_ns = self._last_ns = 0

    def sample(self, pid: int, now_ns: int) -> tuple[float, Waits]:
        """Return the processor time of a process since it was first seen, nanoseconds, and its account; NaN where nothing says so."""
        if not sys.platform.startswith("linux"):
            return math.nan, Waits()
        if pid != self._pid:
            self._begin(pid)
        assert self._threads is not None and self._throttle is not None
        if now_ns >= self._due_ns:
            self._due_ns = now_ns + MACHINE_PERIOD_NS
            self._throttle.look()
        state, faults = _state_of(pid)
        if state == "T" and self._last_ns:
            self._stood_ns += now_ns - self._last_ns
        self._last_ns = now_ns
        ran, waited = self._threads.read()
        account = Waits(
            waited_ns=self._waited.add(waited),
            stood_ns=self._stood_ns,
            throttled_ns=self._throttled.add(self._throttle.read()),
            major_faults=self._faults.add(faults),
        )
        return self._ran.add(ran), account

    def _begin(self, pid: int) -> None:
        self.close()
        if self._pid:
            for one in (self._ran, self._waited, self._throttled, self._faults):
                one.begin_anew(0.0)
        self._pid, self._due_ns = pid, 0
        self._threads, self._throttle = ThreadAccounts(pid), Throttle(pid)

    def close(self) -> None:
        """Close every file; may be called twice."""
        for one in (self._threads, self._throttle):
            if one is not None:
                one.close()


def _state_of(pid: int) -> tuple[str, float]:
    """Return the letter of a process's state and its major faults; an empty letter and NaN when it is gone."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        fields = (PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return fields[0], float(fields[9])
    return "", math.nan
