"""Write what a tap tells into a run folder: publishes, deliveries and subscriptions as rows of the seam, and a line for each connection.

Rules
-----
1. A delivery's time is that at which its last byte had been written to the client's socket; when it was handled nobody here knows, so both
   of its times are that one.
2. An event with an id has the id's key. Of one without, a publish gets a key of its own and its hash goes to `identities`: there is one row
   for each of several equal payloads, in the order of their publisher's connection, and `sim.results.identities` says which was heard when.
3. A publisher is a connection; a hearer is a door of the tap (`by_door`: one pod behind each), or a connection too.
4. A door of which it is known what it should hear is `subscribed` while its connections together hear all of that.
"""

from __future__ import annotations

import asyncio
import fnmatch
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sim.bus.event_rule import EventRule
from sim.errors import RecordError
from sim.grounds.passage import Tapping
from sim.grounds.tap_plan import Door, SeenDoor, TapPlan
from sim.machine.files import why_not_written
from sim.record.recorder import ROWS_PER_PART, Recorder
from sim.record.schema import MAX_WORDS, OTHERS, compose_key
from sim.wire.tap_rows import Connection, Publish, Push

CONNECTIONS = "connections.jsonl"
NO_NAME = "client"
WRITE_S = 0.5  # between two looks whether rows fill a part
MOST_RECEIVERS = 0x7FFFFFFF


@dataclass(frozen=True)
class _Words:
    """What stands for a connection in rows: numbers of words, its number among publishers, and what is counted of it."""

    client_name: str
    publisher: int
    pod: int
    number: int
    sequences: list[int]
    count: list[int]


class TapRecorder:
    """The sink of a tap that keeps a record.

    Attributes
    ----------
    ended
        How many connections ended how, by the words of `sim.wire.tap_rows.ENDS`.
    """

    def __init__(self, plan: TapPlan) -> None:
        self.ended: dict[str, int] = {}
        self._doors = {door.name: door for door in plan.doors}
        self._connections: dict[int, Connection] = {}
        self._counts = {door.name: [0, 0] for door in plan.doors}  # publishes, pushes
        self._folder, self._source = Path(plan.folder), plan.source
        self._recorder = Recorder(self._folder, source=plan.source)
        self._nonce, self._first_publisher = plan.nonce, plan.first_publisher
        self._by_door = plan.by_door
        self._prefix = plan.channel_prefix
        self._publishes = self._recorder.tables["publishes"]
        self._nothing = self._publishes.names["subject"][""]
        self._sequences: dict[int, list[int]] = {}  # by the number of a publisher: the next of its events without an id
        self._known: dict[int, _Words] = {}  # by connection
        self._pods: dict[str, int] = {}
        self._channels: dict[bytes, int] = {}
        self._last: tuple[Any, array[int]] = (None, array("Q"))
        self._hears: set[str] = set()  # names that are subscribed now
        self._lines: list[bytes] = []

    @property
    def rows(self) -> dict[str, int]:
        """How many publishes and deliveries were told so far."""
        return {table: self._recorder.rows(table) for table in ("publishes", "deliveries")}

    def name(self, connection: Connection) -> str:
        """Return the name of a hearer."""
        return connection.door if self._by_door else publisher_name(connection)

    def opened(self, connection: Connection) -> None:
        """Keep a new connection in sight."""
        self._connections[connection.number] = connection

    def published(self, connection: Connection, publishes: Sequence[Publish]) -> None:
        """Write publishes down."""
        words = self._words(connection)
        number, sequence = words.number, words.sequences[0]
        add, identities = self._publishes.add_coded, self._recorder.tables["identities"].add
        channels, outcomes, nothing = self._channels, self._publishes.names["outcome"], self._nothing
        for _, channel, event, hashed, size, at_ns, answered_ns, outcome, receivers, _ in publishes:
            if hashed:
                identity, event = event, compose_key(nonce=self._nonce, publisher=number, sequence=sequence)
                identities(event, identity)
            sequence += 1
            code = channels.get(channel)
            if code is None:
                code = self._channel(channel)
            add(
                event, code, words.publisher, 1, size, at_ns, 0, at_ns, at_ns, answered_ns, outcomes[outcome],
                receivers if receivers < MOST_RECEIVERS else MOST_RECEIVERS, nothing, 0,
            )  # fmt: skip
        words.sequences[0] = sequence
        words.count[0] += len(publishes)

    def pushed(self, connection: Connection, written_ns: int, pushes: Sequence[Push]) -> None:
        """Write messages down."""
        if self._last[0] is not pushes:
            self._last = pushes, array("Q", [one.key for one in pushes])
        deliveries, many, words = self._recorder.deliveries, len(pushes), self._words(connection)
        deliveries.events.extend(self._last[1])
        if many == 1:
            deliveries.handled_ns.append(written_ns)
        else:
            deliveries.handled_ns.extend([written_ns] * many)
        deliveries.reads_pod.append(words.pod)
        deliveries.reads_count.append(many)
        deliveries.reads_received_ns.append(written_ns)
        words.count[1] += many

    def _words(self, connection: Connection) -> _Words:
        """Return what stands for a connection in rows."""
        words = self._known.get(connection.number)
        if words is None or words.client_name != connection.client_name:
            number = (self._first_publisher + connection.number) & 0xFFFF
            words = self._known[connection.number] = _Words(
                connection.client_name,
                self._publishes.names["publisher"][publisher_name(connection)],
                self._pod(self.name(connection)),
                number,
                self._sequences.setdefault(number, [0]),
                self._counts.setdefault(connection.door, [0, 0]),
            )
        return words

    def subscribed(self, connection: Connection, at_ns: int, kind: str, channel: bytes, on: bool) -> None:
        """Write down what a pod hears now."""
        self._look(connection, at_ns)

    def acknowledged(self, connection: Connection, passed_ns: int, stream: bytes, group: bytes, ids: Sequence[bytes]) -> None:
        """Count it only: what the connection's commands were stands in its line."""

    def closed(self, connection: Connection, at_ns: int, end: str) -> None:
        """Write down what a connection was, and that its pod may not hear any more."""
        self._connections.pop(connection.number, None)
        self._known.pop(connection.number, None)
        self.ended[end] = self.ended.get(end, 0) + 1
        line = {
            "connection": connection.number,
            "tap": connection.door,
            "name": publisher_name(connection),
            "client_name": connection.client_name,
            "library": connection.library,
            "protocol": connection.protocol,
            "opened_ns": connection.opened_ns,
            "closed_ns": at_ns,
            "end": end,
            "commands": dict(connection.commands),
            "unread_to_server": connection.unread_to_server,
            "unread_to_client": connection.unread_to_client,
        }
        self._lines.append(msgspec.json.encode(line) + b"\n")
        connection.channels.clear()
        self._look(connection, at_ns, ended=True)

    def look(self) -> list[SeenDoor]:
        """Return what is seen now, a door each."""
        seen = []
        for name, door in self._doors.items():
            there = [one for one in self._connections.values() if one.door == name]
            names = sorted({one.client_name for one in there if one.client_name})
            seen.append(SeenDoor(name, len(there), names, _hear_all(door, there), *self._counts[name]))
        return seen

    def _look(self, connection: Connection, at_ns: int, *, ended: bool = False) -> None:
        """Write a row of `pods` where its pod has begun to hear what it should, or has ceased to."""
        name, door = self.name(connection), self._doors.get(connection.door, Door(connection.door))
        if self._by_door:
            hears = _hear_all(door, [other for other in self._connections.values() if other.door == connection.door])
            channels, service, gone = door.channels, door.service or door.name, "disconnected"
        else:
            channels = tuple(sorted(channel.decode("utf-8", "replace") for _, channel in connection.channels))
            hears, service, gone = bool(channels), connection.client_name or NO_NAME, "stopped" if ended else "disconnected"
            if hears and name in self._hears:
                self._hears.discard(name)  # what it hears has changed
        if hears == (name in self._hears):
            return
        (self._hears.add if hears else self._hears.discard)(name)
        types = ",".join(channel.removeprefix(self._prefix) for channel in channels)
        self._recorder.tables["pods"].add(name, service, self._source, types, at_ns, "subscribed" if hears else gone, "", 0)

    def _channel(self, channel: bytes) -> int:
        code = self._publishes.names["channel"][channel.decode("utf-8", "replace").removeprefix(self._prefix)]
        if len(self._channels) < MAX_WORDS:
            self._channels[channel] = code
        return code

    def _pod(self, name: str) -> int:
        number = self._pods.get(name)
        if number is None:
            if len(self._pods) >= MAX_WORDS and name != OTHERS:
                return self._pod(OTHERS)
            number = self._pods[name] = len(self._pods)
            self._recorder.deliveries.pods.append(name)
        return number

    def flush(self, *, at_least_rows: int = ROWS_PER_PART) -> None:
        """Write full buffers as parts of the folder; call it now and then.

        Raises
        ------
        RecordError
            They could not be written.
        """
        self._recorder.flush(at_least_rows=at_least_rows)
        if self._lines:
            lines, self._lines = self._lines, []
            try:
                with (self._folder / CONNECTIONS).open("ab") as file:
                    file.writelines(lines)
            except OSError as error:
                raise RecordError(f"cannot write {self._folder / CONNECTIONS}: {why_not_written(error)}") from None

    def close(self) -> None:
        """Write what is left; the tap has ended.

        Raises
        ------
        RecordError
            It could not be written.
        """
        self.flush(at_least_rows=1)
        self._recorder.close()


class RecordingTap:
    """The record of a proxy that is a tap, written now and then."""

    def __init__(self, plan: TapPlan) -> None:
        self._recorder = TapRecorder(plan)
        self._error = ""
        self._writing = asyncio.get_running_loop().create_task(self._write())
        self.tapping = Tapping(
            self._recorder, EventRule(plan.pointer, channel_prefix=plan.channel_prefix), [door.name for door in plan.doors]
        )

    async def _write(self) -> None:
        while True:
            await asyncio.sleep(WRITE_S)
            try:
                self._recorder.flush()
            except RecordError as error:
                self._error = str(error)
                return

    def look(self) -> list[SeenDoor]:
        """Return what is seen now, a door each."""
        return self._recorder.look()

    def end(self) -> str:
        """Write down what is left; return what went wrong, empty where nothing did."""
        self._writing.cancel()
        try:
            self._recorder.close()
        except RecordError as error:
            self._error = self._error or str(error)
        return self._error


def publisher_name(connection: Connection) -> str:
    """Return the name of a connection: its door, its client's name, and its number, which no other connection has."""
    return f"{connection.door}/{connection.client_name or NO_NAME}#{connection.number}"


def _hear_all(door: Door, connections: Sequence[Connection]) -> bool:
    heard = [one for connection in connections for one in connection.channels]
    return bool(heard) and all(_hears(channel.encode(), heard) for channel in door.channels)


def _hears(channel: bytes, heard: Sequence[tuple[str, bytes]]) -> bool:
    return any(fnmatch.fnmatchcase(channel, name) if kind == "psubscribe" else channel == name for kind, name in heard)
