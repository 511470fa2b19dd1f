"""The process of the taps of a run's programs: ``python -m sim.pods.programs.tap_process``, with a line to the run.

In a process of its own, as the proxy of links is, because a busy event loop around it would look like latency. What passes is told in
bunches, some times in a hundredth of a second: the times in it are those at which it passed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sim.bus.event_rule import EventRule
from sim.grounds.passage import Tapping
from sim.grounds.proxy import Open, Opened, Proxy, ProxyEnds
from sim.machine.clock import new_event_loop
from sim.machine.line import AsyncLine, Line, inherited_line
from sim.pods.programs.tap_messages import (
    ConnectionClosed,
    ConnectionJoined,
    Doors,
    Flush,
    Flushed,
    ProgramHeard,
    ProgramPublished,
    TapRows,
    Told,
    ToTaps,
)
from sim.wire.address import parse_address
from sim.wire.tap_rows import Connection, Publish, Push

BUNCH_S = 0.003
MOST_IN_A_BUNCH = 2_000
ON_PUBSUB = ("publish", "spublish")


class TapReporter:
    """What the taps tell, sent to the run in bunches; a `sim.wire.tap_rows.TapSink`."""

    def __init__(self, line: AsyncLine, *, channel_prefix: str) -> None:
        self._line = line
        self._prefix = channel_prefix.encode()
        self._told: list[Told] = []
        self._timer: asyncio.TimerHandle | None = None
        self._types: dict[bytes, str] = {}

    def opened(self, connection: Connection) -> None:
        """Do nothing: a connection counts from what passes on it."""

    def published(self, connection: Connection, publishes: Sequence[Publish]) -> None:
        """Tell what a program sent."""
        pod = int(connection.door)
        for one in publishes:
            if one.command in ON_PUBSUB:
                row = (self._type(one.channel), one.key, one.size, one.passed_ns, one.answered_ns, one.outcome, one.receivers)
                self._tell(ProgramPublished(pod, connection.number, *row))

    def pushed(self, connection: Connection, written_ns: int, pushes: Sequence[Push]) -> None:
        """Tell what a program was sent."""
        heard = [one for one in pushes if one.kind != "entry"]
        self._tell(ProgramHeard(int(connection.door), written_ns, [self._type(one.channel) for one in heard], [one.key for one in heard]))

    def subscribed(self, connection: Connection, at_ns: int, kind: str, channel: bytes, on: bool) -> None:
        """Tell what a connection is subscribed to now."""
        channels = [self._type(name) for kind, name in connection.channels if kind != "psubscribe"]
        patterns = [name.decode("utf-8", "replace") for kind, name in connection.channels if kind == "psubscribe"]
        self._tell(ConnectionJoined(int(connection.door), connection.number, at_ns, channels, patterns))

    def acknowledged(self, connection: Connection, passed_ns: int, stream: bytes, group: bytes, ids: Sequence[bytes]) -> None:
        """Do nothing: programs are followed on Pub/Sub."""

    def closed(self, connection: Connection, at_ns: int, end: str) -> None:
        """Tell the end of a connection."""
        unread = connection.unread_to_server + connection.unread_to_client
        self._tell(ConnectionClosed(int(connection.door), connection.number, at_ns, end, unread))

    def _type(self, channel: bytes) -> str:
        """Return the event type of a channel; one that is not of the bus has its whole name, which no event type is."""
        found = self._types.get(channel)
        if found is None:
            text = channel.decode("utf-8", "replace")
            found = text[len(self._prefix.decode()) :] if channel.startswith(self._prefix) else f"\0{text}"
            if len(self._types) < MOST_IN_A_BUNCH:
                self._types[channel] = found
        return found

    def _tell(self, one: Told) -> None:
        self._told.append(one)
        if len(self._told) >= MOST_IN_A_BUNCH:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BUNCH_S, self.flush)

    def flush(self) -> None:
        """Send what there is to tell."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._told:
            told, self._told = self._told, []
            self._line.send(TapRows(told))


async def serve(line: Line) -> None:
    """Take orders until the run closes the line."""
    to_run = await line.to_async()
    proxy: Proxy | None = None
    reporter: TapReporter | None = None
    async for order in to_run.messages(ToTaps):
        if isinstance(order, Doors):
            address = parse_address(order.url)
            reporter = TapReporter(to_run, channel_prefix=order.channel_prefix)
            rule = EventRule(order.pointer, channel_prefix=order.channel_prefix)
            tapping = Tapping(reporter, rule, names=[str(pod) for pod in order.pods])
            proxy = Proxy(ends=ProxyEnds(server_tls=address.ssl_context), tapping=tapping)
            to_run.send(await proxy.carry_out(Open(address.host, address.port, len(order.pods), order.seed)))
        elif isinstance(order, Flush):
            if reporter is not None:
                reporter.flush()
            to_run.send(Flushed())
        else:
            to_run.send(Opened([], "has no doors yet") if proxy is None else await proxy.carry_out(order))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(inherited_line(name="the run")))
