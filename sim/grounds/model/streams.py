"""Streams and consumer groups of the model's Redis, as far as the transport `streams` uses them.

Entries have ids ``<virtual ms>-<n>``. A group remembers how far it has read, and of each entry that it gave out and that was not
acknowledged: to whom, when, and how often. A blocking read waits at the server until an entry comes or its time is up.

Entries stand in nodes, and MAXLEN with ``~`` drops whole ones only, as long as enough entries are left: a short stream keeps more than
it was told. How many fit into a node was measured on a real server for values of 0 to 20,000 bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sim.grounds.model.server import Client, Command, ModelRedis
from sim.wire.resp import NIL, Error, Reply, encode

NS_PER_MS = 1_000_000
Id = tuple[int, int]
ZERO: Id = (0, 0)
NODE_ENTRIES = 100  # stream-node-max-entries
NODE_BYTES = 4096  # stream-node-max-bytes
NODE_OWN_BYTES = 20
ENTRY_OWN_BYTES = 11  # its id, its flags, and the lengths of what it holds
NO_GROUP = "NOGROUP No such key '{}' or consumer group '{}' in XREADGROUP with GROUP option"


@dataclass
class Given:
    """The last delivery of an entry: to whom, when, and how often."""

    consumer: bytes
    at_ns: int
    times: int = 1


@dataclass
class Group:
    """The state of one consumer group of a stream."""

    last: Id
    consumers: dict[bytes, None] = field(default_factory=dict)
    pending: dict[Id, Given] = field(default_factory=dict)


@dataclass
class EntryNode:
    """Some entries that lie together."""

    entries: int = 0
    size: int = NODE_OWN_BYTES


@dataclass
class ModelStream:
    """The entries of a stream in the order of their ids, the nodes in which they lie, and its groups."""

    entries: dict[Id, list[bytes]] = field(default_factory=dict)
    nodes: deque[EntryNode] = field(default_factory=deque)
    last: Id = ZERO
    groups: dict[bytes, Group] = field(default_factory=dict)

    def add(self, one: Id, content: list[bytes]) -> None:
        """Add an entry, in the last node or a new one."""
        size, last = sum(map(len, content)), self.nodes[-1] if self.nodes else None
        if last is None or last.entries >= NODE_ENTRIES or last.size + size >= NODE_BYTES:
            last = EntryNode()
            self.nodes.append(last)
        last.entries += 1
        last.size += sum(map(len, content[1::2])) + ENTRY_OWN_BYTES
        self.entries[one], self.last = content, one

    def trim(self, most: int, *, exactly: bool) -> None:
        """Drop the oldest entries beyond so many; if not exactly, only whole nodes."""
        while self.nodes and len(self.entries) > most:
            node, beyond = self.nodes[0], len(self.entries) - most
            if beyond < node.entries and not exactly:
                return
            dropped = min(node.entries, beyond)
            for _ in range(dropped):
                del self.entries[next(iter(self.entries))]
            node.entries -= dropped
            if not node.entries:
                self.nodes.popleft()

    def after(self, last: Id) -> Iterator[tuple[Id, list[bytes]]]:
        """Yield the entries beyond an id; reading goes on where it stopped, so this looks from the end."""
        newer = []
        for one in reversed(self.entries):
            if one <= last:
                break
            newer.append(one)
        return ((one, self.entries[one]) for one in reversed(newer))


@dataclass
class Waiting:
    """A read that waits for entries."""

    client: Client
    again: Callable[[], Reply]
    over: bool = False


def _text(one: Id) -> bytes:
    return b"%d-%d" % one


def _id(text: bytes) -> Id:
    ms, _, n = text.partition(b"-")
    return int(ms), int(n or 0)


def _stream(server: ModelRedis, key: bytes) -> ModelStream | None:
    value = server.keys.get(key)
    return value if isinstance(value, ModelStream) else None


def _row(one: Id, content: list[bytes] | None) -> list[Reply]:
    return [_text(one), NIL if content is None else content]


def _xadd(server: ModelRedis, client: Client, words: list[bytes]) -> Reply:
    key, rest = words[1], words[2:]
    most, exactly = 0, True
    if rest[0].upper() == b"MAXLEN":
        exactly = rest[1] != b"~"
        rest = rest[2:] if rest[1] in (b"~", b"=") else rest[1:]
        most, rest = int(rest[0]), rest[1:]
    stream = _stream(server, key)
    if stream is None:
        stream = ModelStream()
        server.keys.set(key, stream)
    now_ms = server.loop.now_ns() // NS_PER_MS
    one = (now_ms, 0) if now_ms > stream.last[0] else (stream.last[0], stream.last[1] + 1)
    stream.add(one, rest[1:])
    if most:
        stream.trim(most, exactly=exactly)
    server.reply(client, encode(_text(one)))
    server.serve_blocked(key)
    return None


def _xgroup(server: ModelRedis, client: Client, words: list[bytes]) -> Reply:
    what, key, name = words[1].upper(), words[2], words[3]
    stream = _stream(server, key)
    if what == b"CREATE":
        if stream is None:
            if b"MKSTREAM" not in [word.upper() for word in words]:
                return Error("ERR The XGROUP subcommand requires the key to exist.")
            stream = ModelStream()
            server.keys.set(key, stream)
        if name in stream.groups:
            return Error("BUSYGROUP Consumer Group name already exists")
        stream.groups[name] = Group(stream.last if words[4] == b"$" else _id(words[4]))
        return "OK"
    if stream is None:
        return Error("ERR The XGROUP subcommand requires the key to exist.")
    if what == b"DESTROY":
        was = stream.groups.pop(name, None) is not None
        server.serve_blocked(key)
        return int(was)
    group = stream.groups.get(name)
    if group is None:
        return Error(f"NOGROUP No such consumer group '{name.decode()}' for key name '{key.decode()}'")
    if what == b"CREATECONSUMER":
        new = words[4] not in group.consumers
        group.consumers[words[4]] = None
        return int(new)
    return Error(f"ERR unknown subcommand '{what.decode('latin-1')}'")


def _xreadgroup(server: ModelRedis, client: Client, words: list[bytes]) -> Reply:
    answer = _read(server, words)
    upper = [word.upper() for word in words[: words.index(b"STREAMS")]]
    if answer is not NIL or b"BLOCK" not in upper:
        return answer
    waiting = Waiting(client, lambda: _read(server, words))
    client.blocked = True
    for key in _streams_of(words):
        server.blocked.setdefault(key, []).append(waiting)
    block_ns = int(words[upper.index(b"BLOCK") + 1]) * NS_PER_MS
    server.loop.at_ns(server.loop.now_ns() + block_ns, lambda _: _time_is_up(server, waiting), None)
    return None


def _time_is_up(server: ModelRedis, waiting: Waiting) -> None:
    if not waiting.over and not waiting.client.gone:
        waiting.over = True
        server.wake(waiting.client, encode(NIL))


def _streams_of(words: list[bytes]) -> dict[bytes, bytes]:
    begin = words.index(b"STREAMS") + 1
    half = (len(words) - begin) // 2
    return dict(zip(words[begin : begin + half], words[begin + half :], strict=True))


def _read(server: ModelRedis, words: list[bytes]) -> Reply:
    """Read as XREADGROUP says, without waiting; `NIL` when there is nothing new."""
    name, consumer = words[2], words[3]
    head = [word.upper() for word in words[: words.index(b"STREAMS")]]
    most = int(words[head.index(b"COUNT") + 1]) if b"COUNT" in head else 1 << 30
    rows = []
    for key, begin in _streams_of(words).items():
        stream = _stream(server, key)
        group = stream.groups.get(name) if stream is not None else None
        if stream is None or group is None:
            return Error(NO_GROUP.format(key.decode(), name.decode()))
        group.consumers[consumer] = None
        if begin == b">":
            entries = _give_new(server, stream, group, consumer, most)
            if not entries:
                continue
        else:
            own = [one for one, given in group.pending.items() if given.consumer == consumer and one > _id(begin)]
            entries = [_row(one, stream.entries.get(one)) for one in sorted(own)[:most]]
        rows.append([key, entries])
    return rows or NIL


def _give_new(server: ModelRedis, stream: ModelStream, group: Group, consumer: bytes, most: int) -> list[Reply]:
    rows: list[Reply] = []
    for one, content in stream.after(group.last):
        if len(rows) == most:
            break
        rows.append(_row(one, content))
        group.last = one
        group.pending[one] = Given(consumer, server.loop.now_ns())
    return rows


def _xack(server: ModelRedis, client: Client, words: list[bytes]) -> Reply:
    stream = _stream(server, words[1])
    group = stream.groups.get(words[2]) if stream is not None else None
    return 0 if group is None else sum(group.pending.pop(_id(one), None) is not None for one in words[3:])


def _xautoclaim(server: ModelRedis, client: Client, words: list[bytes]) -> Reply:
    key, name, consumer, idle_ns = words[1], words[2], words[3], int(words[4]) * NS_PER_MS
    most = int(words[words.index(b"COUNT") + 1]) if b"COUNT" in words else 100
    stream = _stream(server, key)
    group = stream.groups.get(name) if stream is not None else None
    if stream is None or group is None:
        return Error(f"NOGROUP No such key '{key.decode()}' or consumer group '{name.decode()}'")
    now = server.loop.now_ns()
    claimed: list[Reply] = []
    gone: list[Reply] = []
    waiting = sorted(one for one in group.pending if one >= _id(words[5]))
    looked_at = waiting[: 10 * most]
    beyond = waiting[len(looked_at) :]
    for place, one in enumerate(looked_at):
        if len(claimed) == most:
            beyond = looked_at[place:]
            break
        given = group.pending[one]
        if now - given.at_ns < idle_ns:
            continue
        if one not in stream.entries:
            del group.pending[one]
            gone.append(_text(one))
            continue
        group.pending[one] = Given(consumer, now, given.times + 1)
        claimed.append(_row(one, stream.entries[one]))
    group.consumers[consumer] = None
    return [_text(beyond[0]) if beyond else _text(ZERO), claimed, gone]


def _xinfo(server: ModelRedis, client: Client, words: list[bytes]) -> Reply:
    stream = _stream(server, words[2])
    if stream is None:
        return Error("ERR no such key")
    if words[1].upper() != b"GROUPS":
        return Error(f"ERR unknown subcommand '{words[1].decode('latin-1')}'")
    rows: list[Reply] = []
    for name, group in stream.groups.items():
        lag = sum(1 for _ in stream.after(group.last))
        numbers = {b"consumers": len(group.consumers), b"pending": len(group.pending), b"last-delivered-id": _text(group.last), b"lag": lag}
        rows.append([b"name", name, *(word for pair in numbers.items() for word in pair)])
    return rows


def _xlen(server: ModelRedis, client: Client, words: list[bytes]) -> Reply:
    stream = _stream(server, words[1])
    return 0 if stream is None else len(stream.entries)


STREAM_COMMANDS: dict[str, Command] = {
    "XACK": _xack,
    "XADD": _xadd,
    "XAUTOCLAIM": _xautoclaim,
    "XGROUP": _xgroup,
    "XINFO": _xinfo,
    "XLEN": _xlen,
    "XREADGROUP": _xreadgroup,
}
