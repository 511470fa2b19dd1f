"""What runs on a worker of a Dask cluster for a run: it starts processes of pods on that machine, and passes on what they and the run say.

The processes are those of the host `local` (`sim.pods.hosts.local_child`), and so is all that they say; here it is only bytes. Events
never pass through Dask: the pods speak to the broker themselves.

Rules
-----
1. The run asks, the keeper answers (`KeeperAnswer`); it never raises, because Dask would print the question, and a broker's URL is in it.
2. What processes say waits here until the run asks for it (`hear`), `MOST_WAITING` bytes of each at most; then the process waits.
3. Who has processes and is asked nothing for its lease, `LEASE_S`, has no run any more: the processes drop everything, what they wrote
   is removed, and a run that asks later all the same is told so.
4. A process dies with its worker (the kernel sees to it), and a worker that Dask's nanny starts anew has none.
5. What the processes write lies in the worker's own scratch folder, which Dask removes when a worker is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distributed.diagnostics.plugin import WorkerPlugin

from sim.errors import BuslabError, HostError, RecordError
from sim.grounds.external import reach
from sim.grounds.links import ProxyProcess, round_trips_us
from sim.grounds.proxy import Order
from sim.machine.files import why_not_written
from sim.machine.http_client import HttpFailure, ask_once
from sim.machine.line import Line, pack_line, read_line, start_child
from sim.machine.open_files import raise_open_files
from sim.machine.process import Child
from sim.machine.source import source_checksum
from sim.machine.words import duration
from sim.pods.hosts.dask_part_store import PartStore
from sim.record.checksum import file_checksum
from sim.record.journal import JOURNALS
from sim.record.recorder import PARTS
from sim.scenario.code_files import code_checksum, code_files
from sim.wire.address import parse_address

LEASE_S = 60.0
LEASE_LOOK_S = 0.5
HEAR_S = 1.0
READ_BYTES = 1 << 16
MOST_WAITING = 1 << 20
LOOK_S = 0.005
DROP_TIMEOUT_S = 5.0
CODE = "code"  # the folder of the user's own modules


class KeptProcess:
    """One process of pods on this machine, and what it said that the run has not heard yet."""

    def __init__(self, child: Child, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.child = child
        self.writer = writer
        self.said = bytearray()
        self.code: int | None = None  # how it ended, once all that it said has been heard
        self.told_end = False
        self._reader = reader
        self.heard = asyncio.Event()

    @classmethod
    async def start(cls, line: Line) -> KeptProcess:
        """Take over the line to a process that was started."""
        reader, writer = await asyncio.open_connection(sock=line.socket, limit=READ_BYTES)
        return cls(line.child, reader, writer)

    async def listen(self, news: asyncio.Event) -> None:
        """Take in what the process says until it has ended."""
        with contextlib.suppress(OSError):
            while data := await self._reader.read(READ_BYTES):
                self.said += data
                news.set()
                while len(self.said) > MOST_WAITING:
                    self.heard.clear()
                    await self.heard.wait()
        while self.child.poll() is None:
            await asyncio.sleep(LOOK_S)
        self.code = self.child.poll()
        news.set()

    def take(self) -> bytes:
        """Return what was said since the last time."""
        said = bytes(self.said)
        self.said.clear()
        self.heard.set()
        return said


class Keeper(WorkerPlugin):
    """The processes of one run on one worker.

    Parameters
    ----------
    name
        Of the run's keeper, on every worker: its messages have it, so several runs may share a cluster.
    lease_s
        After how long without a question there is no run any more, seconds.
    """

    def __init__(self, name: str, *, lease_s: float = LEASE_S) -> None:
        self.name = name
        self.lease_s = lease_s

    def setup(self, worker: Any) -> None:
        """Begin to answer the run's questions; called by Dask on each worker."""
        self._worker = worker
        self._folder = Path(worker.local_directory).absolute() / self.name
        self._processes: dict[str, KeptProcess] = {}
        self._proxy: ProxyProcess | None = None
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked_s = time.monotonic()
        self._ran_out = False
        worker.handlers[self.name] = self.answer
        self._keep(self._watch_lease())

    async def teardown(self, worker: Any) -> None:
        """End every process and remove what they wrote; called by Dask when the run takes its keeper away, or the worker ends."""
        worker.handlers.pop(self.name, None)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._end_all()

    def _keep(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch_lease(self) -> None:
        while not self._processes or time.monotonic() - self._asked_s < self.lease_s:  # many workers are met one after the other
            await asyncio.sleep(LEASE_LOOK_S)
        self._ran_out = True  # from here on no question starts anything
        await self._end_all()

    async def _end_all(self) -> None:
        kept, self._processes = self._processes, {}
        for one in kept.values():
            one.writer.close()
        deadline_s = time.monotonic() + DROP_TIMEOUT_S
        while any(one.child.poll() is None for one in kept.values()) and time.monotonic() < deadline_s:
            await asyncio.sleep(LOOK_S)
        for one in kept.values():
            one.child.kill()
        await self._do_end_proxy()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    # -- questions -----------------------------------------------------------------------------------------------

    async def answer(self, do: str, **what: Any) -> dict[str, Any]:
        """Answer one question of the run: `error` says why it could not be done."""
        self._asked_s = time.monotonic()
        if self._ran_out:
            return {"error": f"this worker was asked nothing for {duration(self.lease_s)} and has ended its processes of this run"}
        try:
            found: dict[str, Any] = await getattr(self, f"_do_{do}")(**what)
        except BuslabError as error:
            return {"error": str(error)}
        except Exception as error:
            return {"error": f"{type(error).__name__} in {do}"}  # without its text, which may hold what was asked
        return found

    async def _do_describe(self) -> dict[str, Any]:
        """Tell what this machine is, and what it can hold."""
        return {
            "source": await asyncio.to_thread(source_checksum),
            "machine": loopback_name(),
            "files": raise_open_files(),
        }

    async def _do_reach(self, urls: str) -> dict[str, Any]:
        """Ask every node of the broker for a PONG."""
        await asyncio.to_thread(reach, parse_address(urls))
        return {}

    async def _do_code(self, files: dict[str, bytes]) -> dict[str, Any]:
        """Write the user's own modules down, and return where, and the checksum of what can be read there."""
        folder = self._folder / CODE
        await asyncio.to_thread(write_files, folder, files)
        return {"folder": str(folder), "checksum": code_checksum(await asyncio.to_thread(code_files, folder))}

    async def _do_open(self, process: str) -> dict[str, Any]:
        """Start a process of pods, which waits for its first order."""
        log = self._folder / JOURNALS / f"{process}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        line = start_child("sim.pods.hosts.local_child", name=f"the process {process} of pods", log=log, error=HostError)
        kept = self._processes[process] = await KeptProcess.start(line)
        self._keep(kept.listen(self._news))
        return {"folder": str(self._folder), "pid": kept.child.pid}

    async def _do_send(self, process: str, data: bytes) -> dict[str, Any]:
        """Pass on what the run says to a process; nothing when it is gone."""
        kept = self._processes.get(process)
        if kept is not None and not kept.writer.is_closing():
            kept.writer.write(data)
        return {}

    async def _do_end_sending(self, process: str) -> dict[str, Any]:
        """Tell a process that the run says no more: it drops its connections and writes its record."""
        kept = self._processes.get(process)
        if kept is not None:
            with contextlib.suppress(OSError, RuntimeError):
                kept.writer.write_eof()
        return {}

    async def _do_signal(self, process: str, number: int) -> dict[str, Any]:
        """Send a signal to a process; nothing when it is gone."""
        kept = self._processes.get(process)
        if kept is not None and kept.child.poll() is None:
            os.kill(kept.child.pid, signal.Signals(number))
        return {}

    async def _do_hear(self) -> dict[str, Any]:
        """Return what the processes said since the last time, and who ended (code, end of its log), when there is any."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEAR_S):
                await self._news.wait()
        self._news.clear()
        said = {name: kept.take() for name, kept in self._processes.items() if kept.said}
        ended = {}
        for name, kept in self._processes.items():
            if kept.code is not None and not kept.told_end:
                kept.told_end = True
                ended[name] = (kept.code, kept.child.tail())
        return {"said": said, "ended": ended}

    async def _do_order_proxy(self, order: bytes) -> dict[str, Any]:
        """Give the proxy of links on this machine an order, and return its answer and its process id; the first order starts it."""
        if self._proxy is None:
            log = self._folder / JOURNALS / "proxy.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            self._proxy = await ProxyProcess.start(log=log)
        answer = await self._proxy.ask(read_line(bytes(order), Order))
        return {"answer": pack_line(answer), "pid": self._proxy.pid}

    async def _do_end_proxy(self) -> dict[str, Any]:
        """End the proxy of links; nothing when there is none."""
        proxy, self._proxy = self._proxy, None
        if proxy is not None:
            await proxy.close()
        return {}

    async def _do_ping(self, urls: str) -> dict[str, Any]:
        """Return the median and the 99th percentile of round trips to the broker's first node, in microseconds.

        On an event loop of its own: on Dask's they would be longer than those of a pod.
        """
        address = parse_address(urls)
        return {"us": await asyncio.to_thread(lambda: asyncio.run(round_trips_us(address)))}

    async def _do_ask_pod(self, port: int, path: str, timeout_s: float) -> dict[str, Any]:
        """Ask a pod of this machine by HTTP, and return its answer, or in a word why there was none."""
        try:
            reply = await ask_once(port, path, timeout_s=timeout_s)
        except HttpFailure as failure:
            return {"failure": str(failure)}
        return {"status": reply.status, "body": reply.body}

    async def _do_freeze(self, process: str) -> dict[str, Any]:
        """Freeze a process (SIGSTOP); answer when it stands still, or is gone."""
        kept = self._processes.get(process)
        if kept is not None and kept.child.poll() is None:
            os.kill(kept.child.pid, signal.SIGSTOP)
            while kept.child.poll() is None and not os.waitid(os.P_PID, kept.child.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT):
                await asyncio.sleep(LOOK_S)
        return {}

    async def _do_files(self, folder: str) -> dict[str, Any]:
        """Return name, size in bytes and checksum of each file that the processes wrote into a folder."""
        return {"files": await asyncio.to_thread(list_files, self._inside(folder))}

    async def _do_try_store(self, url: str, name: str) -> dict[str, Any]:
        """Write a few bytes to the place for the parts."""
        await asyncio.to_thread(lambda: PartStore(url, self.name).put_probe(name))
        return {}

    async def _do_store(self, url: str, part: str) -> dict[str, Any]:
        """Write a part to the place for the parts."""
        await asyncio.to_thread(lambda: PartStore(url, self.name).put(self._inside(f"{PARTS}/{part}")))
        return {}

    async def _do_read(self, file: str, offset: int, size: int) -> dict[str, Any]:
        """Return a piece of a file that the processes wrote."""
        return {"data": await asyncio.to_thread(read_piece, self._inside(file), offset, size)}

    def _inside(self, name: str) -> Path:
        path = (self._folder / name).resolve()
        if not path.is_relative_to(self._folder.resolve()):
            raise HostError("that is not a file of this run")
        return path


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files below a folder.

    Raises
    ------
    RecordError
        One cannot be written.
    """
    try:
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(content))
    except OSError as error:
        raise RecordError(f"cannot write {folder}: {why_not_written(error)}") from None


def loopback_name() -> str:
    """Return what processes have in common that reach each other by 127.0.0.1: the machine as it was booted, and its network."""
    try:
        boot, network = Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.stat("/proc/self/ns/net").st_ino
    except OSError:
        return socket.gethostname()
    return f"{boot}/{network}"


def list_files(folder: Path) -> list[tuple[str, int, int]]:
    """Return name, size in bytes and checksum of each whole file in a folder; none where there is no such folder."""
    files = [path for path in sorted(folder.glob("*")) if path.is_file() and not path.name.startswith(".")]
    return [(path.name, path.stat().st_size, file_checksum(path)) for path in files]


def read_piece(path: Path, offset: int, size: int) -> bytes:
    """Return so many bytes of a file from an offset on, fewer at its end."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)
