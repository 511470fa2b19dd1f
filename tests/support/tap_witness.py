"""What a tap told, kept as it came."""

from __future__ import annotations

from collections.abc import Sequence

from sim.wire.tap_rows import Connection, Publish, Push


class Told:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.connections: dict[int, Connection] = {}
        self.publishes: list[tuple[int, Publish]] = []
        self.pushes: list[tuple[int, int, Push]] = []
        self.subscriptions: list[tuple[int, str, bytes, bool]] = []
        self.handled: list[tuple[bytes, bytes, tuple[bytes, ...]]] = []
        self.ends: dict[int, str] = {}

    def opened(self, connection: Connection) -> None:
        self.connections[connection.number] = connection

    def published(self, connection: Connection, publishes: Sequence[Publish]) -> None:
        assert connection.number not in self.ends
        self.publishes += [(connection.number, one) for one in publishes]

    def pushed(self, connection: Connection, written_ns: int, pushes: Sequence[Push]) -> None:
        assert connection.number not in self.ends
        self.pushes += [(connection.number, written_ns, one) for one in pushes]

    def subscribed(self, connection: Connection, at_ns: int, kind: str, channel: bytes, on: bool) -> None:
        assert ((kind, channel) in connection.channels) == on
        self.subscriptions.append((connection.number, kind, channel, on))

    def acknowledged(self, connection: Connection, passed_ns: int, stream: bytes, group: bytes, ids: Sequence[bytes]) -> None:
        self.handled.append((stream, group, tuple(ids)))

    def closed(self, connection: Connection, at_ns: int, end: str) -> None:
        self.ends[connection.number] = end
