"""Where processes of pods can be started, other than on this machine: what a host of processes needs of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from sim.errors import HostError
from sim.pods.hosts.local_process import ProcessEnd


class Places(Protocol):
    """Where processes of pods can be started, other than on this machine.

    Attributes
    ----------
    name
        What the names of the processes begin with.
    machines
        The names of the machines, by their numbers.
    """

    name: str

    @property
    def machines(self) -> list[str]:
        """The names of the machines, by their numbers."""

    def listen(self, folder: Path) -> None:
        """Begin to listen to the processes that are started; one that is lost with its machine ends with `MachineLost`.

        `folder` is the run folder, where journals are brought.
        """

    def spread(self, pods: Sequence[str], *, processes: int) -> list[tuple[str, int, list[str]]]:
        """Return the processes for pods that share them: its name, its place, and which pods it holds."""

    async def open(self, process: str, place: int) -> ProcessEnd:
        """Start a process in a place; it waits for its first order."""

    def place_of(self, pod: str) -> int:
        """Return where a pod has its place."""

    def take_down(self, machine: int) -> None:
        """Move no pod to a place any more."""

    def bring_back(self, machine: int) -> None:
        """Let pods move to a place again."""

    def move(self, pod: str) -> bool:
        """Give a pod that has ended another place; return whether there is one that has room for it."""

    def describe(self) -> str:
        """Return a sentence on which processes are where."""

    async def bring_home(self, folder: Path) -> dict[str, HostError]:
        """Fetch what the processes wrote, which have ended, into a run folder; return why, by process, where it did not come whole."""

    async def stop_listening(self) -> None:
        """Listen to no process any more."""
