"""Ask the broker about itself while a run goes on, on a connection of our own.

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


class BrokerSampler:
    """Own the connection that asks."""

    def __init__(self, address: Address, name: str, wire: Wire, recorder: Recorder) -> None:
        self._address = address
        self._name = name
        self._wire = wire
        self._recorder = recorder
        self._task: asyncio.Task[None] | None = None
        self.notes: list[str] = []
        self.about: dict[str, str] = {}

    @classmethod
    async def open(cls, address: Address, recorder: Recorder, *, run_id: str) -> BrokerSampler:
        """Connect and read what the server says of itself (`about`)."""
        name = f"buslab-{run_id}-sampler"
        sampler = cls(address, name, await open_wire(address, client_name=name), recorder)
        try:
            sampler.about = await sampler._info("server")
        except BrokerRefused as error:
            sampler.notes.append(f"the broker does not let us read INFO ({error}): no broker CPU in this run")
        return sampler

    async def command(self, *words: str) -> Any:
        """Send one command and return its reply.

        Raises
        ------
        BrokerUnreachable, BrokerRefused
        """
        if self._wire.transport is None or self._wire.transport.is_closing():
            self._wire = await open_wire(self._address, client_name=self._name)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                reply = await self._wire.command(*words)
        except TimeoutError:
            raise BrokerUnreachable(f"{self._address} does not answer {words[0]} within {ANSWER_TIMEOUT_S:g} s") from None
        if isinstance(reply, hiredis.ReplyError):
            raise BrokerRefused(str(reply))
        return reply

    async def _info(self, section: str) -> dict[str, str]:
        text = await self.command("INFO", section)
        assert isinstance(text, bytes)
        pairs = (line.partition(":") for line in text.decode("utf-8", "replace").splitlines() if ":" in line)
        return {key: value for key, _, value in pairs}

    async def numsub(self, channels: Sequence[str], *, prefix: str, metric: str, transport: Transport) -> dict[str, int]:
        """Record and return how many subscribers the broker counts on each channel.

        Raises
        ------
        BrokerError
            The broker refuses to say, or is gone.
        """
        counted = await transport.subscribers(self.command, self._address, [prefix + channel for channel in channels])
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
        table = self._recorder.tables["broker"]
        while True:
            try:
                fields = await self._info("everything")
            except BrokerRefused as error:
                self.notes.append(f"the broker refuses INFO now ({error}): its samples end here")
                return
            except (BrokerError, RuntimeError):  # down or frozen: the gap in the samples shows it
                await asyncio.sleep(PERIOD_S)
                continue
            at_ns = now_ns()
            for field, metric in INFO_METRICS.items():
                if field in fields:
                    table.add(at_ns, metric, "", float(fields[field]))
            await asyncio.sleep(PERIOD_S)

    async def close(self) -> None:
        """End sampling and disconnect."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._wire.close()
