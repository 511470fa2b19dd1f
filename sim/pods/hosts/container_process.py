"""A container that holds a pod, as its run sees it: started, with a line to it, and its process watched and hurt as a child is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import select
import signal
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.errors import BrokerError, HostError, MachineLost
from sim.grounds.container_engine import LABEL, asking, engine, owner_label, remove
from sim.machine.lease import note_container
from sim.machine.line import AsyncLine, Line
from sim.machine.words import duration
from sim.pods.hosts.local_process import POLL_S, process_name

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

START_TIMEOUT_S = 30.0
END_TIMEOUT_S = 10.0
MOST_PATH = 60  # bytes of the folder of a socket, whose whole path has at most 107
TAIL_LINES = 12
_POLL_S = 0.05
_LINE = "/line"  # in the container


class ContainerProcess:
    """The process of one container, which is watched and hurt as a child is; `start_container` makes it."""

    def __init__(self, container: Container, client: DockerClient, until: contextlib.ExitStack) -> None:
        self._container, self._client = container, client
        self._until = until
        self._code: int | None = None
        self._tail = ""
        self.pid = int(container.attrs["State"]["Pid"])
        self._handle = -1
        with contextlib.suppress(ProcessLookupError, ValueError):  # it has ended, or is not among the processes that we see
            self._handle = os.pidfd_open(self.pid)
            until.callback(os.close, self._handle)
        if str(container.id) not in _cgroup(self.pid):
            with asking(f"cannot ask for the state of the container {container.name}"):
                container.reload()
            if container.status == "running":
                raise HostError("the engine's processes are not among those that we see: use hosts.kind = 'local'")

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        if self._code is None and self._gone(0):
            with asking(f"cannot ask how the container {self._container.name} ended"):
                self._code = int(self._client.api.wait(self._container.id, timeout=END_TIMEOUT_S)["StatusCode"])
            self._tail = self.tail()
        return self._code

    def _gone(self, timeout_s: float) -> bool:
        if self._handle < 0:
            return True
        watch = select.poll()
        watch.register(self._handle, select.POLLIN)
        return bool(watch.poll(timeout_s * 1000))

    def tail(self) -> str:
        """Return the last lines of its output as one line, for an error message."""
        if self._tail:
            return self._tail
        try:
            with asking("cannot read its log"):
                lines = self._container.logs(tail=TAIL_LINES).decode("utf-8", "replace").splitlines()
        except BrokerError as error:
            return str(error)
        return " | ".join(line.strip() for line in lines if line.strip()) or "it printed nothing"

    def _send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._handle >= 0:
                signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        """Ask it to end (SIGTERM); nothing when it has."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        if self._code is None and not self._gone(0):
            self._send(signal.SIGKILL)
            self._gone(END_TIMEOUT_S)
            self._code = -signal.SIGKILL  # what the engine would say, without waiting for it

    def end(self, *, timeout_s: float) -> int:
        """Ask it to end (SIGTERM), then make it (SIGKILL); return the exit code."""
        self.terminate()
        if not self._gone(timeout_s):
            self.kill()
        return self.poll() or 0

    def stop(self) -> None:
        """Stop it (SIGSTOP); `stopped` says when it stands still."""
        self._send(signal.SIGSTOP)

    def stopped(self) -> bool:
        """Return whether it stands still."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] == "T"
        except OSError:
            return False

    def go_on(self) -> None:
        """Continue it (SIGCONT)."""
        self._send(signal.SIGCONT)

    def close(self) -> None:
        """Remove the container; where the engine does not, the next run will."""
        self._handle = -1
        with contextlib.suppress(BrokerError):
            self._until.close()


class ContainerEnd:
    """A container and the line to it, as `sim.pods.hosts.local_process.ProcessEnd` has it."""

    where = ""
    code_folder = ""  # mounted where it is here
    echo_at = "127.0.0.1"
    lost_with: MachineLost | None = None  # it is on this machine

    def __init__(self, process: ContainerProcess, line: AsyncLine, *, folder: Path) -> None:
        self.folder, self.pid = str(folder.resolve()), process.pid
        self._process, self._line = process, line
        self.send, self.messages, self.gone, self.end_sending = line.send, line.messages, line.gone, line.end_sending
        self.poll, self.tail, self.kill, self.terminate = process.poll, process.tail, process.kill, process.terminate

    def close(self) -> None:
        """Close the line, and remove the container."""
        self._line.close()
        self._process.close()

    async def freeze(self) -> None:
        """Freeze it (SIGSTOP); return when it stands still."""
        self._process.stop()
        while self._process.poll() is None and not self._process.stopped():
            await asyncio.sleep(POLL_S)

    async def thaw(self) -> None:
        """Thaw it (SIGCONT)."""
        self._process.go_on()

    async def handed_over(self) -> None:
        """Return at once: whoever kills it waits for it, and its journal is in the run folder."""


def start_container(name: str, *, folder: Path, code_folder: str, image: str) -> tuple[ContainerProcess, Line]:
    """Start a container of an image that waits for the order to make pods, and return it with the line to it.

    Parameters
    ----------
    name
        The process, as in the tables.
    folder, code_folder
        That of the run, and that of the user's code, if there is one.

    Raises
    ------
    HostError
        It did not start, ended, or did not come to the line in time; the message ends with its log.
    BrokerError
        The engine cannot.
    """
    with contextlib.ExitStack() as undo, _door() as (door, beside):
        client = undo.enter_context(engine())
        called = f"buslab-pod-{os.getpid()}-{secrets.token_hex(4)}"
        note_container(called)
        undo.callback(remove, client, called)  # by its name, and before it exists: whatever fails from here on, it is removed
        mounts = {str(folder): {"bind": str(folder), "mode": "rw"}, beside: {"bind": _LINE, "mode": "rw"}}
        if code_folder:
            mounts.setdefault(code_folder, {"bind": code_folder, "mode": "ro"})
        with asking(f"cannot start a container of {image}"):
            container = client.containers.create(
                image,
                ["python", "-P", "-m", "sim.pods.hosts.container_child", f"{_LINE}/run"],
                name=called,
                labels={LABEL: owner_label()},
                network_mode="host",
                user=f"{os.getuid()}:{os.getgid()}",
                volumes=mounts,
                read_only=True,
                tmpfs={"/tmp": ""},
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                working_dir="/tmp",
            )
            container.start()
            container.reload()
        process = ContainerProcess(container, client, undo)
        end = _accept(door, process, name)
        line = Line(end, name=process_name(name), child=process, error=HostError)
        process._until = undo.pop_all()
    return process, line


@contextlib.contextmanager
def _door() -> Any:
    """Yield a socket at which one container may knock, and the folder that it is in, which only this user can enter."""
    place = tempfile.gettempdir()
    with (
        tempfile.TemporaryDirectory(prefix="buslab-", dir=place if len(os.fsencode(place)) <= MOST_PATH else "/tmp") as folder,
        socket.socket(socket.AF_UNIX) as door,
    ):
        door.bind(f"{folder}/run")
        door.listen(1)
        yield door, folder


def _accept(door: socket.socket, process: ContainerProcess, name: str) -> socket.socket:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    door.settimeout(_POLL_S)
    while True:
        with contextlib.suppress(TimeoutError):
            end, _ = door.accept()
            end.settimeout(None)
            return end
        if (code := process.poll()) is not None:
            raise HostError(f"{process_name(name)} is gone: {process.tail()} (exit code {code})")
        if time.monotonic() > deadline_s:
            raise HostError(f"{process_name(name)} did not begin within {duration(START_TIMEOUT_S)}: {process.tail()}")


def _cgroup(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cgroup").read_text("utf-8", "replace")
    except OSError:
        return ""
