"""The run's end of a Dask cluster: asked from the run's event loop, carried out on another one.

Dask's own event loop lives in a thread: what it does costs the run's loop nothing but the hand-over. A question to a worker goes through
the scheduler (`Scheduler.broadcast`), so the run needs to reach nothing but that, and its connection is secured as the scheduler's is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import warnings
from collections.abc import Awaitable, Iterator
from typing import Any, TypeVar

import dask
from distributed import Client, Security

from sim.errors import HostError, MachineLost, UsageError
from sim.machine.words import duration

CONNECT_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 3.0
SILENT_S = 30.0  # a worker that answers nothing for so long is lost, as for Dask's own connections
TLS_VARIABLES = ("CA_FILE", "CLIENT__CERT", "CLIENT__KEY")

T = TypeVar("T")


class SchedulerLost(MachineLost):
    """A scheduler that does not answer any more: with it, the way to every worker is gone."""

    every = True


class DaskClient:
    """A client of a scheduler, on an event loop in a thread of its own; use `open_client`.

    Attributes
    ----------
    scheduler
        The scheduler's address.
    """

    def __init__(self, scheduler: str) -> None:
        self.scheduler = scheduler
        self._client: Any = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="dask", daemon=True)
        self._thread.start()

    def wait(self, work: Awaitable[T], *, timeout_s: float) -> T:
        """Return what work on Dask's loop brought, for who may block."""
        return asyncio.run_coroutine_threadsafe(_of(work), self._loop).result(timeout_s)

    async def on_its_loop(self, work: Awaitable[T]) -> T:
        """Return what work on Dask's loop brought; for another event loop. Who is cancelled does not cancel the work."""
        return await asyncio.shield(asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_of(work), self._loop)))

    def begin(self, work: Awaitable[None]) -> None:
        """Begin work on Dask's loop that ends by itself."""
        asyncio.run_coroutine_threadsafe(_of(work), self._loop)

    async def connect(self) -> None:
        """Connect to the scheduler; on Dask's loop."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # versions are compared by us
            settings = {"asynchronous": True, "timeout": CONNECT_TIMEOUT_S, "set_as_default": False, "name": "buslab"}
            self._client = await Client(self.scheduler, **settings)  # type: ignore[no-untyped-call]

    async def workers(self) -> dict[str, dict[str, Any]]:
        """Return what the scheduler knows of each worker, by its address; on Dask's loop.

        Raises
        ------
        SchedulerLost
        """
        try:
            async with asyncio.timeout(SILENT_S):
                found: dict[str, dict[str, Any]] = (await self._client.scheduler.identity(n_workers=-1))["workers"]
        except Exception as error:
            raise self._gone(error) from None
        return found

    async def versions(self, *packages: str) -> dict[str, Any]:
        """Return Python and the versions of packages (None: not installed), of ``client`` and of each of ``workers``; on Dask's loop."""
        found: dict[str, Any] = await self._client.get_versions(packages=list(packages))
        return found

    async def install(self, keeper: Any) -> None:
        """Give every worker a keeper, also those that come later; on Dask's loop."""
        await self._client.register_plugin(keeper, name=keeper.name)

    async def remove(self, name: str) -> None:
        """Take the keepers of a run away; on Dask's loop."""
        with contextlib.suppress(Exception):  # a worker or a scheduler that is gone has none
            async with asyncio.timeout(SILENT_S):
                await self._client.unregister_worker_plugin(name)

    async def ask(self, worker: str, op: str, do: str, **what: Any) -> dict[str, Any]:
        """Return the answer of a worker's keeper (`sim.pods.hosts.dask_keeper`); on Dask's loop.

        Raises
        ------
        MachineLost, SchedulerLost
            It does not answer within `SILENT_S`, or never will.
        HostError
            It could not do it, and says why.
        """
        try:
            async with asyncio.timeout(SILENT_S):
                answers = await self._client.scheduler.broadcast(msg={"op": op, "do": do, **what}, workers=[worker], on_error="ignore")
        except TimeoutError:
            raise MachineLost(f"the worker {worker} did not answer within {duration(SILENT_S)}") from None
        except Exception as error:
            raise self._gone(error) from None
        answer = answers.get(worker)
        if not isinstance(answer, dict):
            raise MachineLost(f"the worker {worker} is gone")
        if "error" in answer:
            raise HostError(f"{answer['error']} (the worker {worker})")
        return answer

    def _gone(self, error: BaseException) -> SchedulerLost:
        return SchedulerLost(f"the Dask scheduler {self.scheduler} does not answer any more ({type(error).__name__})")

    def close(self) -> None:
        """Close the connection and end the thread."""
        if self._client is not None:
            with contextlib.suppress(Exception):  # of a scheduler that is gone
                self.wait(self._client.close(timeout=CLOSE_TIMEOUT_S), timeout_s=2 * CLOSE_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_TIMEOUT_S)
        if not self._thread.is_alive():
            self._loop.close()


async def _of(work: Awaitable[T]) -> T:
    return await work


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Dask from printing while a run uses it: what matters of it is our message."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client", "distributed.core", "tornado", "asyncio")]
    before = [(one, one.level) for one in loggers]
    for one in loggers:
        one.setLevel(logging.CRITICAL + 1)
    try:
        with dask.config.set({"distributed.comm.timeouts.connect": f"{CONNECT_TIMEOUT_S:g}s", "distributed.comm.retry.count": 0}):
            yield
    finally:
        for one, level in before:
            one.setLevel(level)


@contextlib.contextmanager
def open_client(scheduler: str) -> Iterator[DaskClient]:
    """Connect to a scheduler; its certificates are those of Dask's own settings (`distributed.comm.tls`).

    Raises
    ------
    UsageError
        Nothing is there, or no scheduler, or none that speaks like this; or certificates are missing.
    """
    _check_listens(scheduler)
    if scheduler.startswith("tls://") and not _has_certificates():
        names = ", ".join(f"DASK_DISTRIBUTED__COMM__TLS__{name}" for name in TLS_VARIABLES)
        raise UsageError(f"hosts.scheduler = {scheduler!r}: TLS wants certificates; set {names} to their files")
    with quiet():
        client = DaskClient(scheduler)
        try:
            _connect(client)
            yield client
        finally:
            client.close()


def _connect(client: DaskClient) -> None:
    try:
        client.wait(client.connect(), timeout_s=3 * CONNECT_TIMEOUT_S)
    except Exception as error:
        tls = client.scheduler.startswith("tls://")
        hint = "if it speaks plain TCP, write tcp://" if tls else "if it wants TLS, write tls://"
        said = f"what listens there is no Dask scheduler, or speaks otherwise ({type(error).__name__})"
        raise UsageError(f"hosts.scheduler = {client.scheduler!r}: {said}; {hint}") from None


def _has_certificates() -> bool:
    try:
        security: Any = Security()  # type: ignore[no-untyped-call]
        return security.get_connection_args("client").get("ssl_context") is not None
    except (OSError, ValueError):  # a file that is missing or holds something else
        return False


def _check_listens(scheduler: str) -> None:
    host, _, port = scheduler.partition("://")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        hint = "start it with `dask scheduler`, or leave it out for a cluster here"
        raise UsageError(f"hosts.scheduler = {scheduler!r}: nothing answers there ({why}); {hint}") from None
