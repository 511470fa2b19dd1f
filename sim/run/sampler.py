"""Ask the broker about itself while a run goes on, on a connection of our own to each of its nodes.

Each sample is some rows of the table `broker`. A command that the broker refuses is not sent again, and the run notes it.

==========================  ==================  ======================================================================
metric                      subject             value
==========================  ==================  ======================================================================
those of `INFO_METRICS`     empty               a field of INFO, every `PERIOD_S`; those that count do so since its start
output_buffer_bytes_sum     empty               output that waits in the broker for this run's subscribers
output_buffer_bytes_max     empty               that of the one for whom most waits
output_buffer_bytes         pod                 that of one pod, where it is not 0; the `MAX_ROWS` greatest
buffer_cuts                 pod                 1: since the listing before, the broker closed its subscription for a full buffer
numsub                      channel             PUBSUB NUMSUB, every `NUMSUB_PERIOD_S`, and when the run asks for it
numsub_foreign              channel             PUBSUB NUMSUB before the first pod of ours
probe_receivers             channel             where NUMSUB is not allowed: what PUBLISH said of the last probe before the load
channels_listed             empty               names in PUBSUB CHANNELS, while output waits: the reference's runbook asks it then
channels_listed_bytes       empty               their length: it would change if the answer said anything about what waits
node_…                      node (HOST:PORT)    of a cluster of several nodes: what has an empty subject above, of one of them
==========================  ==================  ======================================================================

In such a cluster a metric with an empty subject is the sum over the nodes (output_buffer_bytes_max the greatest of them), and so is
numsub. When a node is down its last counts stay in the sums; what it holds (`HELD`: clients, memory) does not.

CLIENT LIST costs the broker some 2 us a client, so with thousands of pods it would be a load in itself. It is asked every
`PERIOD_S`, or so seldom that it takes at most `LIST_SHARE` of a core by the broker's own measure (commandstats), and at once when the
counter of buffer cuts rises. Publishers are left out: what waits for them is an answer of four bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import hiredis

from sim.errors import BrokerError, BrokerRefused, BrokerUnreachable
from sim.machine.clock import NS_PER_S, is_virtual, now_ns
from sim.machine.words import duration
from sim.record.recorder import Recorder
from sim.run.client_list import Listing, cut_between, read_limit
from sim.wire.address import Address
from sim.wire.connection import Wire, open_wire
from sim.wire.pipeline import NOT_SAID
from sim.wire.refusals import in_short
from sim.wire.transports import Transport

PERIOD_S = 0.25
SAMPLES = 4000  # at most about so many in virtual time, where one run may last a day
NUMSUB_PERIOD_S = 1.0
ANSWER_TIMEOUT_S = 2.0
LIST_SHARE = 0.008  # the part of one core that listings may take, the broker's and our own
MAX_ROWS = 100
TRANSIENT = ("LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN")  # errors of a broker that will answer later
CUTS = "client_output_buffer_limit_disconnections"
LIST = ("CLIENT", "LIST", "TYPE", "pubsub")
INFO = ("INFO", "everything")

# INFO field -> metric of the `broker` table
INFO_METRICS = {
    "used_cpu_user": "used_cpu_user_s",
    "used_cpu_sys": "used_cpu_sys_s",
    "connected_clients": "connected_clients",
    "pubsub_clients": "pubsub_clients",
    "mem_clients_normal": "client_memory_bytes",
    "total_net_output_bytes": "net_output_bytes",
    "total_net_input_bytes": "net_input_bytes",
    CUTS: "buffer_limit_disconnections",
    "total_commands_processed": "commands",
}


COUNT = "PUBSUB NUMSUB"  # its name in the notes, also where a transport asks by another command

# command -> what a run lacks without it
LACKS = {
    "INFO": "no broker CPU in this run",
    "CLIENT LIST": "no output buffers in this run, and a subscriber that the broker cut looks deaf",
    "CONFIG GET": "the limit of output buffers is taken to be the one that servers ship with",
    "CLIENT SETNAME": "our connections have no names there",
    COUNT: "the broker's own count of subscribers is not in this run",
    "PUBSUB CHANNELS": "what it would say of a backlog is not in this run",
}


HELD = ("connected_clients", "pubsub_clients", "client_memory_bytes", "output_buffer_bytes_sum", "output_buffer_bytes_max")


class NodeSampler:
    """The connection that asks one node about itself.

    Attributes
    ----------
    about
        What the server says of itself (INFO server); empty where it does not let us.
    notes
        A sentence for each command that it refused.
    """

    def __init__(self, address: Address, run_id: str, wire: Wire, recorder: Recorder, *, node: str = "") -> None:
        self._address = address
        self._node = node  # the node's name, where there are several nodes
        self.said: dict[str, float] = {}  # the newest value of each metric that is of the whole node
        self._run_prefix = f"buslab-{run_id}-"
        self._wire = wire
        self._opening = asyncio.Lock()
        self._recorder = recorder
        self._refused: set[str] = set()
        self._before: Listing | None = None
        self._limit_bytes = 0  # only asked for where the broker has no counter of cuts
        self._list_due_s = 0.0
        self._list_stat = (0, 0)  # of CLIENT LIST so far: calls, microseconds
        self.notes: list[str] = []
        self.about: dict[str, str] = {}

    @classmethod
    async def open(cls, address: Address, recorder: Recorder, *, run_id: str, node: str = "") -> NodeSampler:
        """Connect and read what the server says of itself (`about`)."""
        wire = await open_wire(address, client_name=f"buslab-{run_id}-sampler")
        sampler = cls(address, run_id, wire, recorder, node=node)
        if wire.unnamed:
            sampler._note("CLIENT SETNAME", wire.unnamed)
        (said,) = await sampler._ask(("INFO", "server"))
        sampler.about = _fields(said)
        return sampler

    def _note(self, command: str, reply: str) -> None:
        self._refused.add(command)
        self.notes.append(f"the broker does not let us ask {command} ({in_short(reply)}): {LACKS.get(command, 'left out')}")

    async def _ask(self, *commands: Sequence[str]) -> list[object]:
        """Send commands in one write and return their replies; None for one that the broker refuses, now or before.

        Raises
        ------
        BrokerError
            The broker is gone, does not answer in time, or cannot answer yet.
        """
        names = [" ".join(words[:2]) if words[0] in ("CLIENT", "PUBSUB", "CONFIG") else words[0] for words in commands]
        wanted = [place for place, name in enumerate(names) if name not in self._refused]
        replies: list[object] = [None] * len(commands)
        if not wanted:
            return replies
        await self._open()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                answers = await self._wire.commands(*(commands[place] for place in wanted))
        except TimeoutError:
            raise BrokerUnreachable(f"the broker does not answer {names[wanted[0]]} within {duration(ANSWER_TIMEOUT_S)}") from None
        for place, answer in zip(wanted, answers, strict=True):
            if not isinstance(answer, hiredis.ReplyError):
                replies[place] = answer
            elif str(answer).startswith(TRANSIENT):
                raise BrokerRefused(f"the broker refuses {names[place]} for now: {answer}")
            else:
                self._note(names[place], str(answer))
        return replies

    async def _open(self) -> None:
        """Connect again where the connection is gone."""
        async with self._opening:  # a sample and a step of the run may ask at the same time
            if self._wire.is_gone:
                self._before = None  # the server may have been started again, and then counts clients and cuts from one
                self._wire = await open_wire(self._address, client_name=f"{self._run_prefix}sampler")

    async def command(self, *words: str) -> Any:
        """Send one command and return its reply.

        Raises
        ------
        BrokerUnreachable, BrokerRefused
        """
        await self._open()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                reply = await self._wire.command(*words)
        except TimeoutError:
            raise BrokerUnreachable(f"the broker does not answer {words[0]} within {duration(ANSWER_TIMEOUT_S)}") from None
        if isinstance(reply, hiredis.ReplyError):
            raise BrokerRefused(str(reply))
        return reply

    async def take(self) -> None:
        """Take one sample.

        Raises
        ------
        BrokerError
            As `_ask`.
        """
        if _now_s() >= self._list_due_s:
            await self._list()
            return
        (said,) = await self._ask(INFO)
        fields = _fields(said)
        self._record_info(fields)
        if self._before is not None and (_whole(fields.get(CUTS, "")) or 0) > (self._before.cuts or 0):
            await self._list()

    async def list_channels(self, prefix: str) -> None:
        """Record how many channels PUBSUB CHANNELS lists, and their length; see the table above."""
        (names,) = await self._ask(("PUBSUB", "CHANNELS", f"{prefix}*"))
        if isinstance(names, list):
            at_ns = now_ns()
            self._add(at_ns, "channels_listed", "", len(names))
            self._add(at_ns, "channels_listed_bytes", "", sum(len(name) for name in names if isinstance(name, bytes)))

    async def _list(self) -> None:
        asked_s = _now_s()
        said, text = await self._ask(INFO, LIST)
        answered_s = _now_s()
        fields = _fields(said)
        self._record_info(fields)
        if not isinstance(text, bytes):
            return
        listing = Listing(text, _whole(fields.get(CUTS, "")))
        if listing.cuts is None and not self._limit_bytes:
            (config,) = await self._ask(("CONFIG", "GET", "client-output-buffer-limit"))
            words = config if isinstance(config, list) else []
            self._limit_bytes = read_limit([word.decode("utf-8", "replace") for word in words if isinstance(word, bytes)])
        try:
            self._record_listing(listing)
        except ValueError:  # a proxy's own list
            self._note("CLIENT LIST", f"its lines are not those of a Redis server: {in_short(text[:200])}")
            return
        took_s = max(self._broker_took_s(fields, answered_s - asked_s), _now_s() - answered_s)
        self._list_due_s = asked_s + rest_s(took_s)

    def _broker_took_s(self, fields: dict[str, str], round_trip_s: float) -> float:
        """Return how long the broker is busy with a CLIENT LIST: by its own count, else, as an upper bound, the time until its answer."""
        stat = dict(pair.split("=") for pair in fields.get("cmdstat_client|list", "").split(",") if pair.count("=") == 1)
        counted, took_us = _whole(stat.get("calls", "")), _whole(stat.get("usec", ""))
        if counted is None or took_us is None:
            return round_trip_s
        before, self._list_stat = self._list_stat, (counted, took_us)
        calls, used_us = self._list_stat[0] - before[0], self._list_stat[1] - before[1]
        return used_us / calls / 1e6 if calls > 0 else round_trip_s

    def _record_info(self, fields: dict[str, str]) -> None:
        at_ns = now_ns()
        for field, metric in INFO_METRICS.items():
            with contextlib.suppress(ValueError):  # missing, or no number: a proxy says what it likes
                self._add(at_ns, metric, "", float(fields.get(field, "")))

    def _record_listing(self, listing: Listing) -> None:
        at_ns = now_ns()
        waiting = [(one.output_bytes, pod) for one in listing.waiting() if (pod := self._pod(one.name))]
        waiting.sort(reverse=True)
        self._add(at_ns, "output_buffer_bytes_sum", "", sum(size for size, _ in waiting))
        self._add(at_ns, "output_buffer_bytes_max", "", waiting[0][0] if waiting else 0)
        for size, pod in waiting[:MAX_ROWS]:
            self._add(at_ns, "output_buffer_bytes", pod, size)
        if self._before is not None:
            for one in cut_between(self._before, listing, limit_bytes=self._limit_bytes):
                if pod := self._pod(one.name):
                    self._add(at_ns, "buffer_cuts", pod, 1)
        self._before = listing

    def _pod(self, client_name: str) -> str:
        """Return the pod that a subscription's name names, empty for another program's client."""
        ours = client_name.startswith(self._run_prefix) and client_name.endswith("-sub")
        return client_name.removeprefix(self._run_prefix).removesuffix("-sub") if ours else ""

    def _add(self, at_ns: int, metric: str, subject: str, value: float) -> None:
        if not subject:
            self.said[metric] = float(value)
        metric, subject = (f"node_{metric}", self._node) if self._node and not subject else (metric, subject)
        self._recorder.tables["broker"].add(at_ns, metric, subject, float(value))

    def close(self) -> None:
        """Disconnect."""
        self._wire.close()


class BrokerSampler:
    """The connections that ask every node of the broker about itself.

    Attributes
    ----------
    about
        What the first node says of itself (INFO server); empty where it does not let us.
    """

    def __init__(self, address: Address, nodes: Sequence[NodeSampler], recorder: Recorder) -> None:
        self._address = address
        self._nodes = nodes
        self._recorder = recorder
        self._task: asyncio.Task[None] | None = None
        self._numsub_due_s = 0.0
        self._period_s = PERIOD_S
        self._uncounted = False
        self._notes: list[str] = []
        self.about = nodes[0].about
        self.command = nodes[0].command

    @classmethod
    async def open(cls, address: Address, recorder: Recorder, *, run_id: str) -> BrokerSampler:
        """Connect to every node.

        Raises
        ------
        BrokerUnreachable, BrokerRefused
        """
        several = len(address.nodes) > 1
        nodes: list[NodeSampler] = []
        with contextlib.ExitStack() as undo:
            for node in address.nodes:
                nodes.append(await NodeSampler.open(node, recorder, run_id=run_id, node=f"{node.host}:{node.port}" if several else ""))
                undo.callback(nodes[-1].close)
            undo.pop_all()
        return cls(address, nodes, recorder)

    @property
    def notes(self) -> list[str]:
        """A sentence for each command that was refused, once, however many nodes refused it."""
        return list(dict.fromkeys(note for one in (*(node.notes for node in self._nodes), self._notes) for note in one))

    async def numsub(self, channels: Sequence[str], *, prefix: str, metric: str, transport: Transport) -> dict[str, int]:
        """Record and return how many subscribers the broker counts on each channel; nothing where it does not let us ask.

        Raises
        ------
        BrokerError
            The broker is gone, does not answer in time, or cannot answer yet.
        """
        if self._uncounted:
            return {}
        commands = [node.command for node in self._nodes]
        if len(commands) > 1:  # a killed node has no subscribers to count
            answers = await asyncio.gather(*(command("PING") for command in commands), return_exceptions=True)
            commands = [command for command, answer in zip(commands, answers, strict=True) if not isinstance(answer, BrokerUnreachable)]
        if not commands:
            raise BrokerUnreachable(f"no node of {self._address} answers")
        try:
            counted = await transport.subscribers(commands, self._address, [prefix + channel for channel in channels])
        except BrokerRefused as error:
            if str(error).startswith(TRANSIENT):
                raise
            self._uncounted = True
            self._notes.append(f"the broker does not let us ask {COUNT} ({in_short(str(error))}): {LACKS[COUNT]}")
            return {}
        counts = {channel: count for channel, count in zip(channels, counted, strict=True) if count != NOT_SAID}
        self.record_counts(counts, metric=metric)
        return counts

    def record_counts(self, counts: Mapping[str, int], *, metric: str) -> None:
        """Record numbers of subscribers by channel; what PUBLISH said is the broker's count too."""
        at_ns = now_ns()
        for channel, count in counts.items():
            self._recorder.tables["broker"].add(at_ns, metric, channel, float(count))

    def start(self, channels: Sequence[str], *, prefix: str, transport: Transport, expected_s: float) -> None:
        """Sample every `PERIOD_S` until `close`; in virtual time less often where `expected_s`, the length of the load, asks for it."""
        if is_virtual():
            self._period_s = max(PERIOD_S, expected_s / SAMPLES)
        self._task = asyncio.get_running_loop().create_task(self._sample(channels, prefix, transport))

    async def _sample(self, channels: Sequence[str], prefix: str, transport: Transport) -> None:
        while True:
            # A broker that is down or frozen shows as a gap in the samples. uvloop raises RuntimeError on a transport that was reset.
            with contextlib.suppress(BrokerError, OSError, RuntimeError):
                await self._take()
                if _now_s() >= self._numsub_due_s:
                    self._numsub_due_s = _now_s() + NUMSUB_PERIOD_S
                    await self.numsub(channels, prefix=prefix, metric="numsub", transport=transport)
                    waiting = [node for node in self._nodes if node.said.get("output_buffer_bytes_sum")]
                    await asyncio.gather(*(node.list_channels(prefix) for node in waiting))
            await asyncio.sleep(self._period_s)

    async def _take(self) -> None:
        """Take one sample of each node, and their sums. When all are down, the gap in the samples shows it."""
        outcomes = await asyncio.gather(*(node.take() for node in self._nodes), return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if len(failures) == len(self._nodes) or any(not isinstance(one, BrokerError | OSError | RuntimeError) for one in failures):
            raise failures[0]
        if len(self._nodes) == 1:
            return
        for node, outcome in zip(self._nodes, outcomes, strict=True):
            if outcome is not None:
                node.said = {metric: value for metric, value in node.said.items() if metric not in HELD}
        at_ns = now_ns()
        for metric in sorted({metric for node in self._nodes for metric in node.said}):
            values = [node.said[metric] for node in self._nodes if metric in node.said]
            self._recorder.tables["broker"].add(at_ns, metric, "", max(values) if metric.endswith("_max") else sum(values))

    async def close(self) -> None:
        """End sampling and disconnect."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for node in self._nodes:
            node.close()


def rest_s(took_s: float) -> float:
    """Return how long after a listing began the next one may begin, when it took so long."""
    return max(PERIOD_S / 2, took_s / LIST_SHARE)  # half a period, so that it is asked at each sample although timers jitter


def _fields(said: object) -> dict[str, str]:
    """Return the fields of an answer to INFO."""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else ""
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {key: value for key, _, value in pairs}


def _whole(text: str) -> int | None:
    """Return a whole number of a broker's answer, None where there is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _now_s() -> float:
    return now_ns() / NS_PER_S
