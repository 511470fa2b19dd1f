"""Clean up after labs that were killed in the middle of a run: their servers, frozen or not, proxies, containers, run folders.

What a lab had started stands in its lease (`sim.machine.lease`). A lab that lives is never touched, nor a process that is not the
one meant.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import psutil

from sim.errors import BrokerError, RecordError, RunFolderError
from sim.grounds.container_engine import engine, remove
from sim.machine.lease import Left, identity, left_over
from sim.record.run_info import read_info
from sim.run.folder import write_info

END_TIMEOUT_S = 5.0


def heal_left_over(*, tell: Callable[[str], None] = lambda text: None) -> list[str]:
    """End, remove and mark what dead labs left; report and return one sentence for each lab that left something."""
    told = []
    for lease, left in left_over():
        done, not_done = _heal(left)
        if done or not_done:
            text = f"healed what a killed lab (process {left.owner}) had left: {', '.join(done) or 'nothing'}"
            told.append(text + (f"; not healed, to be tried again: {', '.join(not_done)}" if not_done else ""))
            tell(told[-1])
        if not not_done:
            lease.unlink(missing_ok=True)
    return told


def _heal(left: Left) -> tuple[list[str], list[str]]:
    done: list[str] = []
    not_done: list[str] = []
    for pid, who, name in left.processes:
        ended = _end(pid, who)
        if ended is not None:
            (done if ended else not_done).append(f"ended {name} (process {pid}{ended})" if ended else f"{name} (process {pid})")
    if left.containers:
        removed, kept = _remove(left.containers)
        done += removed
        not_done += kept
    for folder in left.folders:
        with contextlib.suppress(RecordError):  # the disk may be full; then run.json goes on saying that it runs, and nothing is lost
            done += [f"marked {folder} as killed"] if mark_killed(folder, left.owner) else []
    return done, not_done


def _end(pid: int, who: str) -> str | None:
    """End one process; None when it is gone, empty when it cannot be ended, else how it was."""
    if not who or identity(pid) != who:
        return None
    try:
        process = psutil.Process(pid)
        frozen = process.status() == psutil.STATUS_STOPPED
        process.kill()  # psutil makes sure that no other process has the id by now; SIGKILL ends a frozen process too
        process.wait(END_TIMEOUT_S)
    except psutil.NoSuchProcess:
        return None
    except psutil.Error:
        return ""
    return ", frozen" if frozen else ", running"


def _remove(names: list[str]) -> tuple[list[str], list[str]]:
    removed, kept = [], []
    try:
        with engine() as client:
            there = {name.lstrip("/") for one in client.api.containers(all=True) for name in one["Names"]}
            for name in names:
                if name in there:
                    remove(client, name)
                    removed.append(f"removed the container {name}")
    except BrokerError as error:
        kept.append(f"containers, because {error}")
    return removed, kept


def mark_killed(folder: Path, owner: int) -> bool:
    """Mark the run of a folder as killed; return False when the folder is gone, is of another version, or its run had ended."""
    try:
        info = read_info(folder / "run.json")
    except RunFolderError:
        return False
    if info.state != "running":
        return False
    phase = info.phases[-1].name if info.phases else "provision"
    info.state, info.reason = "killed", f"its process {owner} was killed in phase {phase}; what was written by then is kept"
    write_info(folder, info)
    return True
