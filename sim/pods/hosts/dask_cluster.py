"""The workers of a Dask cluster as places for processes of pods: joined before a run begins, left when it is over.

Rules
-----
1. Before anything starts, each worker is asked for what could fail later: its Python, its buslab, its dask.distributed; whether it reaches
   the broker; and how many files it may open, which says how many pods it can hold.
2. Only the workers that are there at that time hold pods; one that comes later, or that a nanny starts anew, holds none.
3. Each worker is listened to all the time. Who does not answer is lost, with all its processes; so is who the scheduler has paused.
4. Parts come home in pieces of `PIECE_BYTES`, one at a time from each worker, and count when size and checksum are those of the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from sim.errors import BuslabError, HostError, MachineLost, RecordError, UsageError
from sim.machine.files import why_not_written
from sim.machine.http_client import HttpFailure, Reply
from sim.machine.line import start_child
from sim.machine.source import source_checksum
from sim.machine.words import count
from sim.pods.hosts.dask_client import DaskClient, SchedulerLost, open_client
from sim.pods.hosts.dask_end import DaskEnd
from sim.pods.hosts.dask_keeper import Keeper, loopback_name
from sim.pods.hosts.dask_links import DaskLinks, FarProxy
from sim.pods.hosts.dask_local_cluster import Form, Formed
from sim.pods.hosts.dask_part_store import PartStore, check_place
from sim.pods.hosts.placing import Room, next_room, place_pods, share_processes
from sim.pods.kubelet import Probed
from sim.record.checksum import file_checksum
from sim.record.journal import JOURNALS
from sim.record.recorder import PARTS
from sim.scenario.code_files import code_checksum, code_files
from sim.scenario.file import Scenario
from sim.scenario.own_code import names_own_code
from sim.wire.address import Address

FORM_TIMEOUT_S = 60.0
ASK_TIMEOUT_S = 40.0
CLOSE_TIMEOUT_S = 10.0
LOOK_S = 1.0
PIECE_BYTES = 4 << 20
PACKAGES = ("buslab", "distributed")


@dataclass
class Worker:
    """One worker that holds pods.

    Attributes
    ----------
    address
        As the scheduler has it.
    machine
        What workers of one machine have in common.
    most_files
        How many files one process may have open there.
    most_pods
        How many pods it takes, by `hosts.per_worker` and its resource `pods`.
    code_folder
        Where the user's own modules are there, if the scenario names any.
    ends
        Its processes, by name.
    """

    address: str
    machine: str
    most_files: int
    most_pods: int
    code_folder: str = ""
    ends: dict[str, DaskEnd] = field(default_factory=dict)
    lost: bool = False

    @property
    def host(self) -> str:
        """The name or number of its machine, as the scheduler knows it."""
        return self.address.partition("://")[2].rpartition(":")[0]


class DaskPlaces:
    """The workers of a cluster; use `join_cluster`."""

    name = "dask"

    def __init__(self, client: DaskClient, workers: list[Worker], *, op: str, files_per_pod: int, own_files: int, parts_to: str) -> None:
        self._parts_to = parts_to
        self._client = client
        self._workers = workers
        self._op = op
        self._files_per_pod, self._own_files = files_per_pod, own_files
        self._placed: dict[str, int] = {}
        self._placed_first: dict[str, int] = {}  # before any pod has moved
        self._services: dict[str, str] = {}
        self._rooms: list[Room] = []
        self._unseen = 0  # proxies of links on other machines
        self._down: set[int] = set()  # workers that a fault has taken, as machines that are away
        self._listening: list[asyncio.Task[None]] = []
        self._run_folder = Path()

    # -- placing -------------------------------------------------------------------------------------------------

    def place(self, pods: Sequence[tuple[str, str]], *, processes: int, proxied: bool = False) -> None:
        """Give each pod (name, service) a worker, before any starts; `proxied`: each worker has a proxy of their links, too.

        Raises
        ------
        UsageError
            They are more than the workers can hold.
        """
        each = max(1, -(-processes // len(self._workers)))
        holds = [each * max(0, (one.most_files - self._own_files) // self._files_per_pod) for one in self._workers]
        if proxied:  # which has a listener for every pod, and two ends of each connection of its own
            left = [one.most_files - self._own_files - len(pods) for one in self._workers]
            holds = [min(most, max(0, files) // (2 * self._files_per_pod)) for most, files in zip(holds, left, strict=True)]
        self._rooms = [Room(one.host, one.machine, min(one.most_pods, most)) for one, most in zip(self._workers, holds, strict=True)]
        places = place_pods([service for _, service in pods], self._rooms)
        self._placed = {name: place for (name, _), place in zip(pods, places, strict=True)}
        self._placed_first, self._services = dict(self._placed), dict(pods)

    def spread(self, pods: Sequence[str], *, processes: int) -> list[tuple[str, int, list[str]]]:
        """Return the processes for pods that share them: its name, its worker, and which pods it holds."""
        held: list[list[str]] = [[] for _ in self._workers]
        for pod in pods:
            held[self._placed[pod]].append(pod)
        shares = share_processes(processes, [len(some) for some in held])
        found: list[tuple[str, int, list[str]]] = []
        for worker, (some, share) in enumerate(zip(held, shares, strict=True)):
            for place in range(share):
                found.append((f"{self.name}-{len(found)}", worker, some[place::share]))
        return found

    @property
    def machines(self) -> list[str]:
        """The addresses of the workers."""
        return [worker.address for worker in self._workers]

    def place_of(self, pod: str) -> int:
        """Return the worker that holds a pod."""
        return self._placed[pod]

    def take_down(self, machine: int) -> None:
        """Move no pod to a worker any more."""
        self._down.add(machine)

    def bring_back(self, machine: int) -> None:
        """Count a worker as there again: pods may move to it."""
        self._down.discard(machine)

    def move(self, pod: str) -> bool:
        """Give a pod that has ended a place on another worker; return whether one that is there has room for it."""
        there = [number for number, worker in enumerate(self._workers) if not worker.lost and number not in self._down]
        where = next_room(self._services[pod], self._rooms, there=there, placed=[(self._services[p], n) for p, n in self._placed.items()])
        if where is None:
            return False
        self._placed[pod] = where
        return True

    def describe(self) -> str:
        """Return a sentence on which processes are where."""
        pods = Counter(self._placed_first.values())
        held = [(worker, count(pods[number], "pod")) for number, worker in enumerate(self._workers) if worker.ends]
        each = [f"{worker.host} ({many}: {', '.join(worker.ends)})" for worker, many in held]
        machines = count(len({worker.machine for worker, _ in held}), "machine")
        unseen = f"; the proxies of links on {count(self._unseen, 'worker')} were not watched for waits" if self._unseen else ""
        return f"the pods were on {count(len(each), 'Dask worker')} of {machines}: {'; '.join(each)}{unseen}"

    async def open_links(self, broker: Address, *, seed: int) -> DaskLinks:
        """Open links to the broker that can be made bad, by a proxy on each worker; raises as `DaskLinks.open` does."""
        here, names = loopback_name(), list(self._placed)
        far = [FarProxy(one.address, partial(self._ask, one), one.machine == here) for one in self._workers]
        self._unseen = sum(not one.is_here for one in far)
        return await DaskLinks.open(broker, far, place_of=lambda pod: self._placed[names[pod]], pods=len(names), seed=seed)

    async def ask_pod(self, pod: Probed, path: str, timeout_s: float) -> Reply:
        """Ask a pod by HTTP, from its worker; raises as `Places.ask_pod` does."""
        found = await self._ask(self._workers[self._placed[pod.name]], "ask_pod", port=pod.port, path=path, timeout_s=timeout_s)
        if "failure" in found:
            raise HttpFailure(found["failure"])
        return Reply(found["status"], bytes(found["body"]))

    # -- processes -----------------------------------------------------------------------------------------------

    def listen(self, folder: Path) -> None:
        """Begin to listen to the workers, on the running event loop; journals are brought into a run folder."""
        self._run_folder = folder
        loop = asyncio.get_running_loop()
        self._listening = [loop.create_task(self._keep_hearing(worker)) for worker in self._workers]
        self._listening.append(loop.create_task(self._keep_looking()))

    async def open(self, process: str, worker: int) -> DaskEnd:
        """Start a process on a worker; it waits for its first order.

        Raises
        ------
        HostError
        """
        where = self._workers[worker]
        opened = await self._ask(where, "open", process=process)
        ways: dict[str, Any] = {"ask": partial(self._ask, where), "bring": partial(self._bring_journal, where)}
        end = where.ends[process] = DaskEnd(process, where=where.host, code_folder=where.code_folder, echo_at=where.host, **ways, **opened)
        return end

    async def _ask(self, worker: Worker, do: str, **what: Any) -> dict[str, Any]:
        return await self._client.on_its_loop(self._client.ask(worker.address, self._op, do, **what))

    async def _keep_hearing(self, worker: Worker) -> None:
        while not worker.lost:
            try:
                heard = await self._ask(worker, "hear")
            except HostError as error:
                lost = error if isinstance(error, MachineLost) else MachineLost(str(error))
                self._lose(self._workers if lost.every else [worker], lost)
                return
            for process, said in heard["said"].items():
                worker.ends[process].feed(bytes(said))
            for process, (code, tail) in heard["ended"].items():
                worker.ends[process].ended(code, tail)

    async def _keep_looking(self) -> None:
        """Look now and then whether the scheduler has paused or dropped a worker."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                known = await self._client.on_its_loop(self._client.workers())
            except SchedulerLost as error:
                self._lose(self._workers, error)
                return
            for worker in self._workers:
                status = known.get(worker.address, {}).get("status", "gone")
                if not worker.lost and status == "gone":
                    self._lose([worker], MachineLost(f"the worker {worker.address} is gone, says the scheduler"))
                elif not worker.lost and status == "paused":
                    self._lose([worker], MachineLost(f"the worker {worker.address} is paused by Dask: its memory is full"))

    def _lose(self, workers: Sequence[Worker], error: MachineLost) -> None:
        for worker in workers:
            if not worker.lost:
                worker.lost = True
                for end in worker.ends.values():
                    end.lost(error)
                if worker.ends:
                    self._client.begin(self._drop(worker))

    async def _drop(self, worker: Worker) -> None:
        """Tell a worker that is lost, and may be heard all the same, to end its processes; on Dask's loop."""
        for process in worker.ends:
            with contextlib.suppress(BuslabError):
                await self._client.ask(worker.address, self._op, "end_sending", process=process)

    # -- the way home --------------------------------------------------------------------------------------------

    async def bring_home(self, folder: Path) -> dict[str, HostError]:
        """Fetch what the processes wrote, which have ended, into a run folder.

        Returns
        -------
        dict
            Process -> which part of it did not come, or not whole.

        Raises
        ------
        RecordError
            A part could not be written here.
        """
        missing: dict[str, HostError] = {}
        holding = [worker for worker in self._workers if worker.ends and not worker.lost]
        fetched = await asyncio.gather(*(self._fetch(worker, folder, missing) for worker in holding), return_exceptions=True)
        for outcome in fetched:
            if isinstance(outcome, BaseException):
                raise outcome
        if self._parts_to:
            await asyncio.to_thread(lambda: PartStore(self._parts_to, self._op).remove())
        return missing

    async def _fetch(self, worker: Worker, folder: Path, missing: dict[str, HostError]) -> None:
        try:
            parts = (await self._ask(worker, "files", folder=PARTS))["files"]
        except HostError as error:
            missing.update(dict.fromkeys(worker.ends, HostError(f"what {', '.join(worker.ends)} recorded did not come home: {error}")))
            return
        for name, size, checksum in parts:
            source = name.partition("-")[2].rpartition("-")[0]
            try:
                if source not in missing:
                    await self._fetch_part(worker, Path(name).name, folder, size, checksum)
            except HostError as error:
                missing[source] = HostError(f"the part {name} did not come home: {error}")

    async def _fetch_part(self, worker: Worker, name: str, folder: Path, size: int, checksum: int) -> None:
        if not self._parts_to:
            await self._fetch_file(worker, f"{PARTS}/{name}", folder, size, checksum)
            return
        await self._ask(worker, "store", url=self._parts_to, part=name)
        with _arriving(folder / PARTS / name) as arriving:
            await asyncio.to_thread(lambda: PartStore(self._parts_to, self._op).get(name, arriving))
            if (arriving.stat().st_size, file_checksum(arriving)) != (size, checksum):
                raise HostError(f"what {self._parts_to} has is not what was written (the worker {worker.address})")

    async def _bring_journal(self, worker: Worker, process: str) -> None:
        """Fetch what a process that is gone wrote down for the case that it is killed."""
        where = f"{JOURNALS}/{process}"
        for name, size, checksum in (await self._ask(worker, "files", folder=where))["files"]:
            await self._fetch_file(worker, f"{where}/{name}", self._run_folder, size, checksum)

    async def _fetch_file(self, worker: Worker, name: str, folder: Path, size: int, checksum: int) -> None:
        found = offset = 0
        with _arriving(folder / name) as arriving:
            with arriving.open("wb") as file:
                while offset < size:
                    data = bytes((await self._ask(worker, "read", file=name, offset=offset, size=PIECE_BYTES))["data"])
                    if not data:
                        break
                    found, offset = zlib.crc32(data, found), offset + len(data)
                    await asyncio.to_thread(file.write, data)
            if (offset, found) != (size, checksum):
                raise HostError(f"{offset:,} bytes of {size:,} arrived, and not those that were written (the worker {worker.address})")

    async def stop_listening(self) -> None:
        """Listen to no worker any more."""
        for task in self._listening:
            task.cancel()
        await asyncio.gather(*self._listening, return_exceptions=True)


@contextlib.contextmanager
def _arriving(path: Path) -> Iterator[Path]:
    """Yield where a file is written that comes in pieces; it stands in its place when all of it went well, and else nowhere.

    Raises
    ------
    RecordError
        It cannot be written.
    """
    arriving = path.with_name(path.name + ".arriving")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield arriving
        os.replace(arriving, path)
    except OSError as error:
        raise RecordError(f"cannot write {path}: {why_not_written(error)}") from None
    finally:
        arriving.unlink(missing_ok=True)


@contextlib.contextmanager
def join_cluster(
    scenario: Scenario, *, broker: Address, run_id: str, files_per_pod: int, own_files: int, parts_to: str = ""
) -> Iterator[DaskPlaces]:
    """Join the cluster that a scenario names, or one of our own on this machine, and leave it at the end.

    Parameters
    ----------
    files_per_pod, own_files
        How many open files a pod costs its process, and the process itself.
    parts_to
        The URL of a place that every worker can write, by which parts come home; empty: they come through Dask.

    Raises
    ------
    UsageError
        No scheduler, no worker, one that is not as we are, or too few for the pods.
    BrokerUnreachable, BrokerRefused, HostError
        A worker does not reach the broker.
    """
    if parts_to:
        check_place(parts_to)
    with contextlib.ExitStack() as stack:
        scheduler = scenario.hosts.scheduler or stack.enter_context(own_cluster(min(scenario.hosts.processes, os.cpu_count() or 1)))
        client = stack.enter_context(open_client(scheduler))
        known = client.wait(client.workers(), timeout_s=ASK_TIMEOUT_S)
        known = {address: one for address, one in sorted(known.items()) if one.get("status") == "running"}
        if not known:
            raise UsageError(f"hosts.scheduler = {scheduler!r}: the cluster has no worker that runs; start some with `dask worker`")
        _check_versions(client.wait(client.versions(*PACKAGES), timeout_s=ASK_TIMEOUT_S), list(known))
        op = f"buslab-{run_id}-{os.getpid()}"
        stack.callback(lambda: client.wait(client.remove(op), timeout_s=ASK_TIMEOUT_S))
        client.wait(client.install(Keeper(op)), timeout_s=ASK_TIMEOUT_S)
        files = code_files(Path(scenario.code_folder)) if names_own_code(msgspec.to_builtins(scenario)) else {}
        workers = [_meet(client, op, address, one, scenario) for address, one in known.items()]
        _check_broker(client, op, workers, broker)
        for worker in workers:
            worker.code_folder = _send_code(client, op, worker, files) if files else ""
        if parts_to:
            _try_store(client, op, workers, parts_to)
        places = DaskPlaces(client, workers, op=op, files_per_pod=files_per_pod, own_files=own_files, parts_to=parts_to)
        proxied = any("links" in fault.needs for fault in scenario.faults)
        places.place(scenario.pods(), processes=scenario.hosts.processes, proxied=proxied)
        yield places


def _meet(client: DaskClient, op: str, address: str, known: dict[str, Any], scenario: Scenario) -> Worker:
    """Ask a worker what it is, and refuse one that could not hold pods as we would."""
    try:
        found = client.wait(client.ask(address, op, "describe"), timeout_s=ASK_TIMEOUT_S)
    except HostError as error:
        raise UsageError(f"the worker {address} cannot hold pods: {error}") from None
    if found["source"] != source_checksum():
        raise UsageError(
            f"the worker {address} has another buslab of the same version: its files differ from those here; install the same there"
        )
    limits = [scenario.hosts.per_worker, int(known.get("resources", {}).get("pods", 0))]
    return Worker(address, found["machine"], found["files"], min((limit for limit in limits if limit), default=1 << 30))


def _check_versions(found: dict[str, Any], addresses: Sequence[str]) -> None:
    """Refuse a worker of another Python, buslab or dask.distributed, or without one."""
    ours = found["client"]
    for address in addresses:
        theirs = found["workers"].get(address)
        if theirs is None:
            raise UsageError(f"the worker {address} does not answer: end it, or start it anew")
        for what, here, there in (
            ("Python", _python(ours), _python(theirs)),
            *((name, ours["packages"].get(name), theirs["packages"].get(name)) for name in PACKAGES),
        ):
            if here != there:
                has = f"has no {what}" if there is None else f"has {what} {there}"
                raise UsageError(f"the worker {address} {has}, and this machine has {here}: install the same there, with buslab[machines]")


def _python(versions: dict[str, Any]) -> str:
    return ".".join(str(versions["host"]["python"]).split(".")[:2])


def _check_broker(client: DaskClient, op: str, workers: Sequence[Worker], broker: Address) -> None:
    """Ask every worker for a PONG of the broker."""
    if broker.is_loopback:
        for worker in workers:
            if worker.machine != loopback_name():
                raise UsageError(
                    f"the broker {broker} is on this machine's loopback, and the worker {worker.address} is on another machine: use "
                    "--on redis://HOST:PORT with an address that every worker reaches"
                )
    for worker in workers:
        try:
            client.wait(client.ask(worker.address, op, "reach", urls=broker.urls), timeout_s=ASK_TIMEOUT_S)
        except HostError as error:
            raise UsageError(f"a worker does not reach the broker: {error}") from None


def _try_store(client: DaskClient, op: str, workers: Sequence[Worker], url: str) -> None:
    """Try the place for the parts: every worker writes a few bytes there, and they are read here."""
    try:
        store = PartStore(url, op)
        try:
            for number, worker in enumerate(workers):
                client.wait(client.ask(worker.address, op, "try_store", url=url, name=f"probe-{number}"), timeout_s=ASK_TIMEOUT_S)
                if not store.has_probe(f"probe-{number}"):
                    raise HostError(f"--parts-to {url}: what the worker {worker.address} wrote there is not what is read here")
        finally:
            store.remove()
    except HostError as error:
        raise UsageError(f"a worker's parts would not come home: {error}") from None


def _send_code(client: DaskClient, op: str, worker: Worker, files: Mapping[str, bytes]) -> str:
    """Send the user's own modules to a worker, and return the folder that they are in there."""
    try:
        found = client.wait(client.ask(worker.address, op, "code", files=dict(files)), timeout_s=ASK_TIMEOUT_S)
    except HostError as error:
        raise UsageError(f"your own modules cannot be sent to a worker: {error}") from None
    if found["checksum"] != code_checksum(files):
        raise UsageError(f"your own modules did not arrive as they are here at the worker {worker.address}: try again")
    return str(found["folder"])


@contextlib.contextmanager
def own_cluster(workers: int) -> Iterator[str]:
    """Start a cluster on this machine and return its scheduler's address; at the end it is gone.

    Raises
    ------
    HostError
        It did not start.
    """
    with tempfile.TemporaryDirectory(prefix="buslab-dask-", ignore_cleanup_errors=True) as folder:
        log = Path(folder) / "cluster.log"
        line = start_child("sim.pods.hosts.dask_local_cluster", name="the Dask cluster of this run", log=log, error=HostError)
        try:
            line.send(Form(workers, folder))
            yield line.receive(Formed, timeout_s=FORM_TIMEOUT_S).scheduler
        finally:
            line.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                line.child.process.wait(CLOSE_TIMEOUT_S)
            line.child.end()
