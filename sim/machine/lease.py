"""What this process has started, written down where the next command finds it, in case this one is killed (SIGKILL).

Rules
-----
1. One file for each process, in the user's state folder, made with the first thing that is noted. A line for each thing, appended in one
   write before or as soon as the thing is there: a kill may tear the last line, which is then skipped.
2. A process is known by its id, by when it started (`identity`), by its program, and by the mark of who started it, which stands in the
   environment that it began with: an id that another process has got since is nobody's, and what somebody else started is not ours.
3. The file goes when its process ends by itself. What has ended meanwhile stays in it: who reads it looks for himself what is left.
4. What a lease says is done, to processes and containers. So nobody else may have written it: only files of this user are read, in a
   folder of this user that nobody else may write to. A folder that is none such is refused, in words.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import os
import platform
import secrets
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec
import psutil

MARK = "BUSLAB_STARTED_BY"  # in the environment of every process that this one starts
MAX_BYTES = 1 << 20  # of a file: some thousand things, where a run starts a dozen
Pid = Annotated[int, msgspec.Meta(ge=1, le=1 << 31)]

_lock = threading.Lock()
_mine: tuple[int, Path] | None = None  # of this process; another one after a fork
_mark: tuple[int, str] | None = None  # the same


class _Line(msgspec.Struct, omit_defaults=True):
    """One line of a file: the first is of its owner, the others each of one thing."""

    owner: Pid | None = None
    place: str = ""
    process: Pid | None = None
    identity: str = ""
    name: str = ""
    program: str = ""
    mark: str = ""
    container: str = ""
    folder: str = ""


@dataclass(frozen=True)
class Started:
    """One process as its lease describes it; the leases of older versions have neither program nor mark."""

    pid: int
    identity: str
    name: str
    program: str = ""
    mark: str = ""


@dataclass
class Left:
    """What a dead process had started."""

    owner: int = 0
    processes: list[Started] = field(default_factory=list)
    containers: list[str] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)


# -- what this process starts ------------------------------------------------------------------------------------


def mark() -> str:
    """Return what this process puts into the environment of those that it starts, as `MARK`; no other process has the same."""
    global _mark
    if _mark is None or _mark[0] != os.getpid():
        _mark = os.getpid(), secrets.token_hex(8)
    return _mark[1]


def note_process(pid: int, name: str) -> None:
    """Write down a child that was started, with `MARK` in its environment."""
    _note(_Line(process=pid, identity=identity(pid), name=name, program=_program(pid), mark=mark()))


def note_container(name: str) -> None:
    """Write down a container that is going to be started."""
    _note(_Line(container=name))


def note_folder(folder: Path) -> None:
    """Write down a run folder that was made."""
    _note(_Line(folder=str(folder.absolute())))


def _note(what: _Line) -> None:
    with _lock:
        path = _own_file()
        if path is not None:
            _append(path, what)


def _own_file() -> Path | None:
    """Return this process's file, made when there is none yet; None where nothing can be written: then nothing will be healed."""
    global _mine
    if _mine is not None and _mine[0] == os.getpid():
        return _mine[1]
    me = _Line(owner=os.getpid(), identity=identity(os.getpid()), place=place())
    for folder in _folders():
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if _why_not_ours(os.lstat(folder)):
                continue
            descriptor, name = tempfile.mkstemp(prefix=f"{os.getpid()}-", suffix=".jsonl", dir=folder)
            os.close(descriptor)
            path = Path(name)
            _append(path, me)
            _mine = os.getpid(), path
            atexit.register(_forget, os.getpid(), path)
            return path
    return None


def _folders() -> list[Path]:
    """Return where files may lie: the user's state folder, and where that cannot be written, the folder for temporary files."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return [Path(home) / "buslab" / "leases", Path(tempfile.gettempdir()) / f"buslab-leases-{os.geteuid()}"]


def _append(path: Path, what: _Line) -> None:
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        file.write(msgspec.json.encode(what) + b"\n")


def _forget(owner: int, path: Path) -> None:
    if os.getpid() == owner:  # not a fork of it
        path.unlink(missing_ok=True)


# -- what others had started -------------------------------------------------------------------------------------


def left_over(*, tell: Callable[[str], None] = lambda text: None) -> Iterator[tuple[Path, Left]]:
    """Yield the file of each dead process, and what it had started; nobody else is given it meanwhile.

    Files of living processes, and of other machines and process namespaces, are passed over. `tell` hears which folder or file is not
    read because it may be somebody else's.
    """
    for folder in _folders():
        with contextlib.ExitStack() as opened, contextlib.suppress(OSError):
            if why := _why_not_ours(os.lstat(folder)):
                tell(_not_read(folder, why))
                continue
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            opened.callback(os.close, descriptor)
            if _why_not_ours(os.fstat(descriptor)):  # it was changed for another a moment ago
                continue
            for name in sorted(name for name in os.listdir(descriptor) if name.endswith(".jsonl")):
                yield from _left_by(folder / name, descriptor, tell)


def _left_by(path: Path, folder: int, tell: Callable[[str], None]) -> Iterator[tuple[Path, Left]]:
    with contextlib.suppress(OSError):
        about = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
        if why := _why_not_ours(about) or _why_no_lease(about):
            tell(_not_read(path, why))
            return
        with open(os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = parse(file.read(MAX_BYTES))
            if path.exists() and found is not None:  # it is gone where another command has just dealt with it
                yield path, found


def _why_not_ours(about: os.stat_result) -> str:
    """Return why somebody else may have written a file or folder; empty where nobody else can have."""
    if stat.S_ISLNK(about.st_mode):
        return "it is a link"
    if about.st_uid != os.geteuid():
        return f"it belongs to user {about.st_uid}, not to {os.geteuid()}"
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write to it (mode {stat.S_IMODE(about.st_mode):o})"
    return ""


def _why_no_lease(about: os.stat_result) -> str:
    if not stat.S_ISREG(about.st_mode):
        return "it is no file"
    return f"it has {about.st_size:,} bytes" if about.st_size > MAX_BYTES else ""


def _not_read(path: Path, why: str) -> str:
    return f"what killed labs left is not looked up in {path}: {why}; look whose it is, and remove it"


def parse(content: bytes) -> Left | None:
    """Return what a file says, None while its process lives or when that cannot be known from here. Lines that are none are skipped."""
    lines: list[_Line] = []
    for text in content.splitlines():
        with contextlib.suppress(msgspec.MsgspecError, RecursionError):
            lines.append(msgspec.json.decode(text, type=_Line))
    me = lines[0] if lines else _Line()
    if me.owner is None or me.place != place() or not me.identity or identity(me.owner) == me.identity:
        return None
    left = Left(me.owner)
    for line in lines[1:]:
        if line.process is not None:
            left.processes.append(Started(line.process, line.identity, line.name, line.program, line.mark))
        elif line.container:
            left.containers.append(line.container)
        elif line.folder and "\0" not in line.folder:
            left.folders.append(Path(line.folder))
    return left


def runs_still(one: Started) -> bool:
    """Return whether a process has the id and the start of one that was noted."""
    return bool(one.identity) and identity(one.pid) == one.identity


def why_another(one: Started) -> str:
    """Return why a process that has the id and the start of one that was noted is not that one all the same; empty where it is."""
    if not one.program or _program(one.pid) != one.program:
        return "it runs another program"
    try:
        if one.mark and psutil.Process(one.pid).environ().get(MARK) == one.mark:
            return ""
    except (psutil.Error, OSError):
        pass
    return "its environment does not say that this lab started it"


def _program(pid: int) -> str:
    """Return the file that a process runs, empty where that cannot be known."""
    try:
        return str(psutil.Process(pid).exe())
    except (psutil.Error, OSError):
        return ""


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
