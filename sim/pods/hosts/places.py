"""Where processes of pods can be started, other than on this machine: what a host of processes needs of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from sim.errors import HostError
from sim.grounds.links import Links
from sim.machine.http_client import Reply
from sim.pods.hosts.local_process import ProcessEnd
from sim.pods.kubelet import Probed
from sim.wire.address import Address


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
        """Count a place as there again: pods may move to it."""

    def move(self, pod: str) -> bool:
        """Give a pod that has ended another place; return whether there is one that has room for it."""

    async def open_links(self, broker: Address, *, seed: int) -> Links:
        """Open links to the broker that can be made bad, on the machine of each pod."""

    async def ask_pod(self, pod: Probed, path: str, timeout_s: float) -> Reply:
        """Ask a pod by HTTP, from the machine that it is on.

        Raises
        ------
        HttpFailure
            It did not answer in time.
        MachineLost
            Its machine does not answer.
        """

    def describe(self) -> str:
        """Return a sentence on which processes are where."""

    async def bring_home(self, folder: Path) -> dict[str, HostError]:
        """Fetch what the processes wrote, which have ended, into a run folder; return why, by process, where it did not come whole."""

    async def stop_listening(self) -> None:
        """Listen to no process any more."""
