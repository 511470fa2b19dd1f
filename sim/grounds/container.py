"""Ground `container`: a server in a container, on loopback, with nothing on disk.

With host networking where the engine shares our loopback: then it is as fast as a plain process and keeps its port when
it is started again. Elsewhere one fixed port is published on 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from sim.errors import BrokerError
from sim.grounds.container_engine import (
    DEFAULT_IMAGE,
    IMAGE_ENV,
    LABEL,
    asking,
    engine,
    ensure_image,
    ensure_reaper,
    owner_label,
    remove,
    shares_loopback,
    sweep,
)
from sim.machine.clock import new_event_loop
from sim.machine.lease import note_container
from sim.machine.variables import read_variable
from sim.machine.words import duration
from sim.wire.address import Address, PortTaken, on_a_port, parse_address
from sim.wire.reply_reader import GuardedParser

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

READY_TIMEOUT_S = 20.0
_POLL_S = 0.02
_KILL_TIMEOUT_S = 10
_PORT_INSIDE = 6379  # where the port is published; the container has a network of its own then


class ContainerBroker:
    """One server in a container; a fault may kill, freeze and start it at the same address."""

    ground = "container"
    new_loop = staticmethod(new_event_loop)
    pid: int | None = None  # it has one in the engine's process namespace, which need not be ours

    def __init__(self, container: Container, port: int, image: dict[str, str]) -> None:
        self.address: Address = parse_address(f"redis://127.0.0.1:{port}")
        self.image = image
        self._container = container
        # Whoever asked may not wait any more, as when a run is interrupted; what was asked first is done first all the same, in one thread.
        self._changes = ThreadPoolExecutor(1, thread_name_prefix="container")
        self._stopping = False

    @property
    def pids(self) -> dict[str, int]:
        """Process id of the server, where the engine's processes are among those that we see."""
        pid = int(self._container.attrs.get("State", {}).get("Pid") or 0)
        try:
            ours = str(self._container.id) in Path(f"/proc/{pid}/cgroup").read_text("utf-8", "replace")
        except OSError:  # it does not run, or runs elsewhere
            ours = False
        return {f"{self.address.host}:{self.address.port}": pid} if ours else {}

    @property
    def control(self) -> ContainerBroker:
        """The broker itself: it can be hurt and mended."""
        return self

    async def kill(self) -> None:
        """End the server at once (SIGKILL), frozen or not; nothing when it has ended. Return when it has."""
        await self._in_turn(self._kill)

    async def stop(self) -> None:
        """End the server in order (SIGTERM); nothing when it has ended. Return when it has."""
        await self._in_turn(self._stop)

    async def start(self) -> None:
        """Start the server again at the same address, empty; nothing when it runs, frozen or not. Return when it answers, or is frozen."""
        if self._stopping:  # a frozen one would take until the engine loses its patience
            await asyncio.to_thread(self._end_now)
        await self._in_turn(self._start)

    async def freeze(self) -> None:
        """Freeze every process of the container; its connections stay open. Nothing when it is frozen or does not run."""
        await self._in_turn(self._freeze)

    async def thaw(self) -> None:
        """Thaw a frozen container; nothing when it is not frozen."""
        await asyncio.to_thread(self._thaw)

    async def _in_turn(self, change: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._changes, change)

    def close(self) -> None:
        """Take no more changes; those that were asked for and have not begun are dropped."""
        self._changes.shutdown(wait=False, cancel_futures=True)

    def _freeze(self) -> None:
        with asking("cannot pause the broker's container"):
            self._container.reload()
            if self._container.status == "running":
                self._container.pause()

    def _kill(self) -> None:
        with asking("cannot kill the broker's container"):
            self._container.reload()
            if self._container.status in ("running", "paused"):
                self._container.kill()
            self._container.wait(timeout=_KILL_TIMEOUT_S)

    def _stop(self) -> None:
        with asking("cannot stop the broker's container"):
            self._stopping = True
            try:
                self._container.stop(timeout=_KILL_TIMEOUT_S)
            finally:
                self._stopping = False

    def _end_now(self) -> None:
        with contextlib.suppress(BrokerError), asking("cannot kill the broker's container"):
            self._container.kill()

    def _start(self) -> None:
        with asking("cannot start the broker's container again"):
            self._container.reload()
            if self._container.status == "paused":
                return
            self._container.start()
        await_answer(self._container, self.address.port)

    def _thaw(self) -> None:
        with asking("cannot unpause the broker's container"):
            self._container.reload()
            if self._container.status == "paused":
                self._container.unpause()


@contextlib.contextmanager
def container(
    port_text: str = "", *, image: str | None = None, tell: Callable[[str], None] = lambda text: None
) -> Iterator[ContainerBroker]:
    """Start a server in a container on a free loopback port, or on the one given, and remove it on leaving.

    Parameters
    ----------
    image
        Of a Redis or Valkey server with ``redis-server`` on its PATH; by default `IMAGE_ENV`, then `DEFAULT_IMAGE`.
    tell
        Called with what is waited for, where that may take long.

    Raises
    ------
    BrokerError
        No engine, no permission, no image, the port is taken, or it did not start; the message says what to do.
    UsageError
        The port is not a number between 1 and 65535.
    """
    with engine() as client:
        sweep(client)
        about = ensure_image(client, image or read_variable(IMAGE_ENV) or DEFAULT_IMAGE, tell=tell)
        ensure_reaper(client, tell=tell)
        with contextlib.ExitStack() as started:

            def start(port: int) -> Container:
                return start_server(client, about["name"], port, until=started)

            server, port = on_a_port(port_text, ground="container", start=start)
            broker = ContainerBroker(server, port, about)
            started.callback(broker.close)
            yield broker


def start_server(client: DockerClient, image: str, port: int, *, until: contextlib.ExitStack, extra: Sequence[str] = ()) -> Container:
    """Start one server in a container and return it once it answers; it is removed when `until` closes.

    Parameters
    ----------
    image
        The whole name, as `ensure_image` gives it.
    extra
        More arguments of the server, for example ``("--cluster-enabled", "yes")``.

    Raises
    ------
    PortTaken
        Another process has the port.
    BrokerError
        It could not start, died or did not answer in time; the message ends with its log.
    """
    from testcontainers.community.redis import RedisContainer
    from testcontainers.core.waiting_utils import WaitStrategy, WaitStrategyTarget

    class OurAnswer(WaitStrategy):
        def wait_until_ready(self, container: WaitStrategyTarget) -> None:
            await_answer(container.get_wrapped_container(), port)

    name = f"buslab-{os.getpid()}-{port}-{secrets.token_hex(4)}"
    host = shares_loopback(client)
    where = ["--bind", "127.0.0.1", "--port", str(port)] if host else ["--bind", "*", "--port", str(_PORT_INSIDE)]
    asked = RedisContainer(image, name=name)
    asked.image = image  # without the prefix of the user's: `ensure_image` has put it there
    asked.with_kwargs(labels={LABEL: owner_label()}, network="host" if host else "bridge")
    until.callback(asked.get_docker_client().client.close)
    asked.ports = {} if host else {f"{_PORT_INSIDE}/tcp": ("127.0.0.1", port)}  # type: ignore[dict-item]  # the engine's client takes the pair
    asked.with_command(
        ["redis-server", *where, "--protected-mode", "no", "--save", "", "--appendonly", "no", "--syslog-ident", name, *extra]
    )
    asked.waiting_for(OurAnswer())
    note_container(name)
    until.callback(remove, client, name)  # by its name, and before it exists: whatever fails from here on, it is removed
    try:
        with asking(f"cannot start a container of {image}"):
            asked.start()
    except BrokerError as error:
        if "already allocated" in str(error) or "address already in use" in str(error):
            raise PortTaken(str(error)) from None
        raise
    return asked.get_wrapped_container()


def await_answer(server: Container, port: int) -> None:
    """Return once this container's server answers.

    Raises
    ------
    PortTaken, BrokerError
        As in `start_server`.
    """
    url = f"redis://127.0.0.1:{port}"
    probe = redis.Redis.from_url(
        url, socket_timeout=1, socket_connect_timeout=1, retry=None, decode_responses=True, protocol=2, parser_class=GuardedParser
    )
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    try:
        while True:
            with contextlib.suppress(redis.RedisError):
                # Another server on this port would answer PING too: ask for the name that we gave to ours.
                if probe.config_get("syslog-ident").get("syslog-ident") == server.name:
                    with asking("cannot ask for the state of the broker's container"):
                        server.reload()  # its process id is another one each time
                    return
            with asking("cannot ask for the state of the broker's container"):
                server.reload()
                ended = server.status in ("exited", "dead")
                said = _tail(server) if ended else ""
            if ended and "in use" in said:
                raise PortTaken(said)
            if ended:
                raise BrokerError(f"the broker's container ended with code {server.attrs['State']['ExitCode']}: {said}")
            if time.monotonic() > deadline_s:
                raise BrokerError(
                    f"the server in the container did not answer on port {port} within {duration(READY_TIMEOUT_S)}: {_tail(server)}"
                )
            time.sleep(_POLL_S)
    finally:
        probe.close()


def _tail(server: Container) -> str:
    lines = server.logs(tail=12).decode("utf-8", "replace").splitlines()
    return " | ".join(line.strip() for line in lines if line.strip()) or "it printed nothing"
