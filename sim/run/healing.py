"""Clean up after labs that were killed in the middle of a run: their servers, frozen or not, proxies, containers, run folders.

What a lab had started stands in its lease (`sim.machine.lease`). A lab that lives is never touched, nor a process or a container that is
not the one meant: a process that runs another program, or does not bear the mark of that lab, a container without our label.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from sim.errors import BrokerError, RecordError, RunFolderError
from sim.grounds.container_engine import LABEL, engine, is_of, remove
from sim.machine.lease import Left, Started, left_over, runs_still, why_another
from sim.record.run_info import read_info
from sim.run.folder import write_info

END_TIMEOUT_S = 5.0


def heal_left_over(*, tell: Callable[[str], None] = lambda text: None) -> list[str]:
    """End, remove and mark what dead labs left; report and return one sentence for each lab that left something.

    What is not believed, or not touched because it is not what it should be, is reported too.
    """
    told: list[str] = []

    def say(text: str) -> None:
        told.append(text)
        tell(text)

    for lease, left in left_over(tell=say):
        healed = _heal(left)
        if healed.done or healed.not_done or healed.not_ours:
            text = f"healed what a killed lab (process {left.owner}) had left: {', '.join(healed.done) or 'nothing'}"
            text += f"; not healed, to be tried again: {', '.join(healed.not_done)}" if healed.not_done else ""
            say(text + (f"; left alone: {', '.join(healed.not_ours)}" if healed.not_ours else ""))
        if not healed.not_done:
            lease.unlink(missing_ok=True)
    return told


@dataclass
class _Healed:
    """What became of all that one lab had left, in words."""

    done: list[str] = field(default_factory=list)
    not_done: list[str] = field(default_factory=list)
    not_ours: list[str] = field(default_factory=list)


def _heal(left: Left) -> _Healed:
    healed = _Healed()
    for one in left.processes:
        if not runs_still(one):
            continue
        if why := why_another(one):
            healed.not_ours.append(f"process {one.pid}, because {why}")
        elif (ended := _end(one)) is not None:
            (healed.done if ended else healed.not_done).append(
                f"ended {one.name} (process {one.pid}{ended})" if ended else f"{one.name} (process {one.pid})"
            )
    if left.containers:
        _remove(left, healed)
    for folder in left.folders:
        with contextlib.suppress(RecordError):  # the disk may be full; then run.json goes on saying that it runs, and nothing is lost
            healed.done += [f"marked {folder} as killed"] if mark_killed(folder, left.owner) else []
    return healed


def _end(one: Started) -> str | None:
    """End one process; None when it is gone, empty when it cannot be ended, else how it was."""
    try:
        process = psutil.Process(one.pid)
        frozen = process.status() == psutil.STATUS_STOPPED
        process.kill()  # psutil makes sure that no other process has the id by now; SIGKILL ends a frozen process too
        process.wait(END_TIMEOUT_S)
    except psutil.NoSuchProcess:
        return None
    except psutil.Error:
        return ""
    return ", frozen" if frozen else ", running"


def _remove(left: Left, healed: _Healed) -> None:
    """Remove the containers of a lab: those that have its names, and a label that says so."""
    try:
        with engine() as client:
            there = {name.lstrip("/"): one for one in client.api.containers(all=True) for name in one["Names"]}
            for name in left.containers:
                if (one := there.get(name)) is None:
                    continue
                if is_of(left.owner, (one.get("Labels") or {}).get(LABEL, "")):
                    remove(client, one["Id"])
                    healed.done.append(f"removed the container {name}")
                else:
                    healed.not_ours.append(f"the container {name}, because its label does not say that this lab started it")
    except BrokerError as error:
        healed.not_done.append(f"containers, because {error}")


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
