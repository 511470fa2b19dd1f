"""What this process has started, written down where the next command finds it, in case this one is killed (SIGKILL).

Rules
-----
1. One file for each process, in the user's state folder, made with the first thing that is noted. A line for each thing, appended in one
   write before or as soon as the thing is there: a kill may tear the last line, which is then skipped.
2. A process is known by its id and by when it started (`identity`): an id that another process has got since is nobody's.
3. The file goes when its process ends by itself. What has ended meanwhile stays in it: who reads it looks for himself what is left.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_lock = threading.Lock()
_mine: tuple[int, Path] | None = None  # of this process; another one after a fork


@dataclass
class Left:
    """What a dead process had started; processes as (pid, identity, name)."""

    owner: int = 0
    processes: list[tuple[int, str, str]] = field(default_factory=list)
    containers: list[str] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)


def note_process(pid: int, name: str) -> None:
    """Write down a child that was started."""
    _note(process=pid, identity=identity(pid), name=name)


def note_container(name: str) -> None:
    """Write down a container that is going to be started."""
    _note(container=name)


def note_folder(folder: Path) -> None:
    """Write down a run folder that was made."""
    _note(folder=str(folder.absolute()))


def left_over() -> Iterator[tuple[Path, Left]]:
    """Yield the file of each dead process, and what it had started; nobody else is given it meanwhile.

    Files of living processes, and of other machines and process namespaces, are passed over.
    """
    for folder in _folders():
        for path in sorted(folder.glob("*.jsonl")):
            with contextlib.suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found = read(path)
                if path.exists() and found is not None:  # it is gone where another command has just dealt with it
                    yield path, found


def read(path: Path) -> Left | None:
    """Return what a file says, None while its process lives or when that cannot be known from here."""
    lines = []
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    me = lines[0] if lines and isinstance(lines[0], dict) else {}
    if me.get("place") != place() or not isinstance(me.get("owner"), int) or identity(me["owner"]) == me.get("identity"):
        return None
    left = Left(me["owner"])
    for line in lines[1:]:
        if "process" in line:
            left.processes.append((line["process"], line["identity"], line["name"]))
        elif "container" in line:
            left.containers.append(line["container"])
        elif "folder" in line:
            left.folders.append(Path(line["folder"]))
    return left


def identity(pid: int) -> str:
    """Return what tells this process from any other that has its id sooner or later; empty when it does not run any more."""
    try:
        if not Path("/proc/self/stat").exists():
            process = psutil.Process(pid)
            return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
        after_name = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except (OSError, psutil.Error):
        return ""
    return "" if after_name[0] in "ZX" else f"{boot}/{after_name[19]}"  # when it started, in ticks since the boot: no clock can change it


def place() -> str:
    """Return a digest of the machine's name and the process namespace: within one place, a process id means one process."""
    namespace = ""
    with contextlib.suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:12]


def _folders() -> list[Path]:
    """Return where files may lie: the user's state folder, and where that cannot be written, the folder for temporary files."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return [Path(home) / "buslab" / "leases", Path(tempfile.gettempdir()) / f"buslab-leases-{os.getuid()}"]


def _note(**what: object) -> None:
    with _lock:
        path = _own_file()
        if path is not None:
            _append(path, what)


def _own_file() -> Path | None:
    """Return this process's file, made when there is none yet; None where nothing can be written: then nothing will be healed."""
    global _mine
    if _mine is not None and _mine[0] == os.getpid():
        return _mine[1]
    me = {"owner": os.getpid(), "identity": identity(os.getpid()), "place": place()}
    for folder in _folders():
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, name = tempfile.mkstemp(prefix=f"{os.getpid()}-", suffix=".jsonl", dir=folder)
            os.close(descriptor)
            path = Path(name)
            _append(path, me)
            _mine = os.getpid(), path
            atexit.register(_forget, os.getpid(), path)
            return path
    return None


def _append(path: Path, what: dict[str, object]) -> None:
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        file.write(json.dumps(what).encode() + b"\n")


def _forget(owner: int, path: Path) -> None:
    if os.getpid() == owner:  # not a fork of it
        path.unlink(missing_ok=True)
