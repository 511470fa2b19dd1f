"""Ask the broker about itself while a run goes on, on connections of our own, one to each of its nodes.

Each sample is a few rows of the `broker` table. A command that the broker refuses is asked no more, and the run says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import hiredis

from sim.address import Address
from sim.clock import now_ns
from sim.errors import BrokerError, BrokerRefused, BrokerUnreachable
from sim.record import Recorder
from sim.transports import Transport
from sim.wire import Wire, open_wire

PERIOD_S = 0.25
ANSWER_TIMEOUT_S = 2.0

# INFO field -> metric of the `broker` table
INFO_METRICS = {
    "used_cpu_user": "used_cpu_user_s",
    "used_cpu_sys": "used_cpu_sys_s",
    "connected_clients": "connected_clients",
    "pubsub_clients": "pubsub_clients",
    "mem_clients_normal": "client_memory_bytes",
    "total_net_output_bytes": "net_output_bytes",
    "total_net_input_bytes": "net_input_bytes",
    "client_output_buffer_limit_disconnections": "buffer_limit_disconnections",
    "total_commands_processed": "commands",
}
HELD = ("connected_clients", "pubsub_clients", "client_memory_bytes")  # what a server has now; it counts the others from its start


class _Line:
    """Own the connection to one node; it is opened again when it is gone."""

    def __init__(self, address: Address, name: str) -> None:
        self._address = address
        self._name = name
        self._wire: Wire | None = None
        self._opening = asyncio.Lock()
        self.node = f"{address.host}:{address.port}"
        self.said: dict[str, float] = {}  # the last of each metric

    async def command(self, *words: str) -> Any:
        """Send one command and return its reply.

        Raises
        ------
        BrokerUnreachable, BrokerRefused
        """
        async with self._opening:  # the samples and the run ask at the same time
            if self._wire is None or self._wire.is_gone:
                self._wire = await open_wire(self._address, client_name=self._name)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                reply = await self._wire.command(*words)
        except TimeoutError:
            raise BrokerUnreachable(f"{self._address} does not answer {words[0]} within {ANSWER_TIMEOUT_S:g} s") from None
        if isinstance(reply, hiredis.ReplyError):
            raise BrokerRefused(str(reply))
        return reply

    async def info(self, section: str) -> dict[str, str]:
        """Return what the node says of itself."""
        text = await self.command("INFO", section)
        assert isinstance(text, bytes)
        pairs = (line.partition(":") for line in text.decode("utf-8", "replace").splitlines() if ":" in line)
        return {key: value for key, _, value in pairs}

    def close(self) -> None:
        """Disconnect."""
        if self._wire is not None:
            self._wire.close()


class BrokerSampler:
    """Own the connections that ask, one to each node."""

    def __init__(self, address: Address, name: str, recorder: Recorder) -> None:
        self._address = address
        self._lines = [_Line(node, name) for node in address.nodes]
        self._recorder = recorder
        self._task: asyncio.Task[None] | None = None
        self.command = self._lines[0].command
        self.notes: list[str] = []
        self.about: dict[str, str] = {}

    @classmethod
    async def open(cls, address: Address, recorder: Recorder, *, run_id: str) -> BrokerSampler:
        """Connect and read what the server says of itself (`about`)."""
        sampler = cls(address, f"buslab-{run_id}-sampler", recorder)
        try:
            sampler.about, *_ = [await line.info("server") for line in sampler._lines]
        except BrokerRefused as error:
            sampler.notes.append(f"the broker does not let us read INFO ({error}): no broker CPU in this run")
        return sampler

    async def numsub(self, channels: Sequence[str], *, prefix: str, metric: str, transport: Transport) -> dict[str, int]:
        """Record and return how many subscribers the broker counts on each channel.

        Raises
        ------
        BrokerError
            The broker refuses to say, or is gone.
        """
        commands = [line.command for line in self._lines]
        if len(commands) > 1:  # a node that was killed has no subscribers
            answers = await asyncio.gather(*(command("PING") for command in commands), return_exceptions=True)
            commands = [command for command, answer in zip(commands, answers, strict=True) if not isinstance(answer, BrokerUnreachable)]
        if not commands:
            raise BrokerUnreachable(f"no node of {self._address} answers")
        counted = await transport.subscribers(commands, self._address, [prefix + channel for channel in channels])
        counts = dict(zip(channels, counted, strict=True))
        at_ns = now_ns()
        for channel, count in counts.items():
            self._recorder.tables["broker"].add(at_ns, metric, channel, float(count))
        return counts

    def start(self) -> None:
        """Sample every `PERIOD_S` until `close`."""
        if self.about:
            self._task = asyncio.get_running_loop().create_task(self._sample())

    async def _sample(self) -> None:
        while True:
            answers = await asyncio.gather(*(line.info("everything") for line in self._lines), return_exceptions=True)
            for answer in answers:
                if isinstance(answer, BrokerRefused):
                    self.notes.append(f"the broker refuses INFO now ({answer}): its samples end here")
                    return
                if isinstance(answer, BaseException) and not isinstance(answer, BrokerError | RuntimeError):
                    raise answer
            self._record([None if isinstance(answer, BaseException) else answer for answer in answers])
            await asyncio.sleep(PERIOD_S)

    def _record(self, answers: Sequence[dict[str, str] | None]) -> None:
        """Record each metric of the whole broker, and where it has several nodes, of each node; None: down or frozen.

        All down: the gap in the samples shows it. Some down: what they last counted stays in the sums, what they held does not.
        """
        table, at_ns, sums = self._recorder.tables["broker"], now_ns(), dict[str, float]()
        for line, fields in zip(self._lines, answers, strict=True):
            if fields is None:
                line.said = {metric: value for metric, value in line.said.items() if metric not in HELD}
            else:
                line.said = {metric: float(fields[field]) for field, metric in INFO_METRICS.items() if field in fields}
            for metric, value in line.said.items():
                sums[metric] = sums.get(metric, 0.0) + value
                if fields is not None and len(self._lines) > 1:
                    table.add(at_ns, f"node_{metric}", line.node, value)
        for metric, value in sums.items() if any(fields is not None for fields in answers) else ():
            table.add(at_ns, metric, "", value)

    async def close(self) -> None:
        """End sampling and disconnect."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for line in self._lines:
            line.close()
