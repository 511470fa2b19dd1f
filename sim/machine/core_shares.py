"""Give some processes the same share of a core each, so that as many can be compared as there are no cores for.

Rules
-----
1. The kernel's own quota does it: a cgroup for each process (v1 or v2, wherever its cpu controller is mounted), with a period of
   `PERIOD_US`, so that who waits for its next turn does not wait for long.
2. It needs the right to make cgroups, mostly root's; where that is missing, or a container forbids it, an `OSError` says so.
3. Afterwards each process that still lives goes back where it was, and the cgroups are removed; also those that a killed process left.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

PERIOD_US = 10_000
REMOVE_S = 2.0  # a cgroup is busy for a moment after its last process has left
_PREFIX = "buslab-share"


class _Mount:
    """Where the cpu controller is, and how a quota is written there."""

    def __init__(self, folder: Path, *, version: int) -> None:
        self.folder = folder
        self.version = version

    def limit(self, group: Path, share: float) -> None:
        quota_us = max(int(share * PERIOD_US), 1_000)  # the least that the kernel takes
        if self.version == 2:
            (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))

    def group_of(self, pid: int) -> Path:
        """Return the cgroup that a process is in."""
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if "cpu" in controllers.split(",") if self.version == 1 else number == "0":
                return self.folder / path.lstrip("/")
        return self.folder


def _mount() -> _Mount:
    v1, v2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
    if (v1 / "cgroup.procs").exists():
        return _Mount(v1, version=1)
    if "cpu" not in (v2 / "cgroup.controllers").read_text().split():
        raise OSError("no cgroup of this machine has the cpu controller")
    if "cpu" not in (v2 / "cgroup.subtree_control").read_text().split():
        (v2 / "cgroup.subtree_control").write_text("+cpu")
    return _Mount(v2, version=2)


@contextlib.contextmanager
def core_shares(pids: Iterable[int], share: float) -> Iterator[None]:
    """Give each process this share of a core (0.25: a quarter), all its threads together, until the context ends.

    Raises
    ------
    OSError
        No cgroup can be made here.
    """
    mount = _mount()
    _remove_left(mount.folder)
    with contextlib.ExitStack() as stack:
        for pid in pids:
            before, group = mount.group_of(pid), mount.folder / f"{_PREFIX}-{os.getpid()}-{pid}"
            group.mkdir()
            stack.callback(_remove, group)
            mount.limit(group, share)
            (group / "cgroup.procs").write_text(str(pid))
            stack.callback(_move, pid, before)
        yield


def _move(pid: int, group: Path) -> None:
    with contextlib.suppress(OSError):  # it has ended
        (group / "cgroup.procs").write_text(str(pid))


def _remove(group: Path) -> None:
    deadline = time.monotonic() + REMOVE_S
    while True:
        try:
            return group.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                return  # whoever is in there ends before long; the next one removes it
        time.sleep(0.02)


def _remove_left(folder: Path) -> None:
    """Remove what a process left that was killed; where somebody is still in it, it stays."""
    for group in folder.glob(f"{_PREFIX}-*"):
        maker = group.name.split("-")[2]
        if not Path(f"/proc/{maker}").exists():
            with contextlib.suppress(OSError):
                group.rmdir()
