"""Keep a cluster's clients on taps, one a node: in what the nodes say of each other, each node's address becomes that of its tap.

Rules
-----
1. What names nodes is rewritten: the answers to CLUSTER SLOTS, SHARDS and NODES, and the errors MOVED and ASK. Everything else passes as it
   is, byte by byte, at once; of an answer that is rewritten the client has nothing before it is whole.
2. An answer is known by the command that it answers (`sim.wire.tapped_connection`), so nothing in a value is taken for one.
3. A node that has no tap cannot be named: `UnknownNode`. Its client would go round the tap, so its connection is ended instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sim.wire.frame_reader import NotRead
from sim.wire.tap_rows import Connection, Publish, Push
from sim.wire.tapped_connection import SharedReads, TappedConnection

Nodes = Mapping[tuple[str, int], tuple[str, int]]
_REDIRECT = re.compile(rb"-(MOVED|ASK) (\d+) (\S*):(\d+)")
_NODE = re.compile(rb"(?m)^(\S+ )(\S*?):(\d+)(?=@)")
_PORTS = (b"port", b"tls-port")
_HOSTS = (b"ip", b"endpoint")
Token = tuple[bytes, bytes | None]  # a header without its end, and the text behind it, if it has one


class UnknownNode(Exception):
    """A node of the cluster that has no tap."""


class _Map:
    """What a command waits for that names nodes."""

    __slots__ = ("rewrite",)

    def __init__(self, rewrite: Callable[[bytes], bytes]) -> None:
        self.rewrite = rewrite


class _Nobody:
    """A sink that takes nothing, and a rule that tells no events apart."""

    def opened(self, connection: Connection) -> None:
        """Do nothing."""

    def published(self, connection: Connection, publishes: Sequence[Publish]) -> None:
        """Do nothing."""

    def pushed(self, connection: Connection, written_ns: int, pushes: Sequence[Push]) -> None:
        """Do nothing."""

    def subscribed(self, connection: Connection, at_ns: int, kind: str, channel: bytes, on: bool) -> None:
        """Do nothing."""

    def acknowledged(self, connection: Connection, passed_ns: int, stream: bytes, group: bytes, ids: Sequence[bytes]) -> None:
        """Do nothing."""

    def closed(self, connection: Connection, at_ns: int, end: str) -> None:
        """Do nothing."""

    def key(self, channel: bytes, payload: bytes) -> tuple[int, bool]:
        """Return no identity."""
        return 0, False

    def begin(self, channel: bytes) -> Any:
        """Return a hash of nothing."""
        return self

    def update(self, data: bytes) -> None:
        """Do nothing."""

    def digest(self) -> bytes:
        """Return nothing."""
        return b""

    def key_of_long(self, hash: Any) -> int:
        """Return no identity."""
        return 0


class AddressRewriter(TappedConnection):
    """The rewriting of one connection.

    Parameters
    ----------
    nodes
        Where each node's tap is.
    asked
        The node that this connection leads to: what is meant where a node names no host.
    """

    def __init__(self, nodes: Nodes, *, asked: str) -> None:
        nobody = _Nobody()
        super().__init__(Connection(0, "", 0), sink=nobody, identify=nobody, reads=SharedReads())
        self._nodes, self._asked = nodes, asked
        self._rewrite: Callable[[bytes], bytes] | None = None  # of the frame that has begun
        self._begun: list[bytes] = []

    def from_client(self, data: bytes) -> bytes:
        """Take what a client sends, and return it."""
        self.to_server(data, 0)
        return data

    def from_server(self, data: bytes) -> bytes:
        """Return what of it, and of what was kept back before, the client may have now.

        Raises
        ------
        UnknownNode
            It names a node without a tap.
        """
        out: list[bytes] = []
        place, reader = 0, self._replies
        try:
            while place < len(data) and not self._blind_to_client:
                begin = place
                if reader.idle:
                    self._rewrite = self._rewriting(data[place])
                place = reader.read(data, place)
                (out if self._rewrite is None else self._begun).append(data[begin:place])
                if reader.idle:
                    if self._rewrite is not None:
                        whole, self._begun = b"".join(self._begun), []
                        out.append(self._rewrite(whole))
                    self._reply(reader.frame)
        except NotRead:
            self._go_blind()
        if self._blind_to_client:
            out += [*self._begun, data[place:]]
            self._begun = []
        self._hand_over()
        return b"".join(out)

    def _rewriting(self, kind: int) -> Callable[[bytes], bytes] | None:
        """Return how the frame that begins is rewritten, by its first byte; None where it passes as it is."""
        if kind == ord("-"):
            return self._redirect
        first = self._waiting[0] if self._waiting else None
        return first.rewrite if isinstance(first, _Map) and kind != ord(">") else None

    def _keeps_command(self, name: bytes) -> bool:
        return name == b"CLUSTER" or super()._keeps_command(name)

    def _meaning(self, name: bytes, words: list[Any]) -> Any:
        if name == b"CLUSTER" and len(words) > 1 and isinstance(words[1], bytes):
            rewrite = {b"SLOTS": self._slots, b"SHARDS": self._shards, b"NODES": self._lines}.get(words[1].upper())
            if rewrite is not None:
                return _Map(rewrite)
        return super()._meaning(name, words)

    def _tap_of(self, host: bytes | None, port: bytes) -> tuple[bytes, bytes]:
        there = (host or b"").decode("utf-8", "replace").strip("[]") or self._asked
        found = self._nodes.get((there, int(port)))
        if found is None:
            raise UnknownNode(f"{there}:{int(port)}")
        return found[0].encode(), b"%d" % found[1]

    def _redirect(self, line: bytes) -> bytes:
        found = _REDIRECT.match(line)
        if found is None:
            return line
        return b"-%b %b %b:%b" % (found[1], found[2], *self._tap_of(found[3], found[4])) + line[found.end() :]

    def _lines(self, frame: bytes) -> bytes:
        """Rewrite the text of CLUSTER NODES."""
        [(header, text)] = _tokens(frame)
        if text is None:
            return frame

        def rewritten(found: re.Match[bytes]) -> bytes:
            return found[1] + b":".join(self._tap_of(found[2], found[3]))

        return _packed([(header, _NODE.sub(rewritten, text))])

    def _slots(self, frame: bytes) -> bytes:
        """Rewrite CLUSTER SLOTS: a node is an array that begins with a host and a port."""
        tokens = _tokens(frame)
        for place in range(len(tokens) - 2):
            array, host, port = tokens[place : place + 3]
            if array[0][:1] == b"*" and host[0][:1] in b"$_" and port[0][:1] == b":":
                tap = self._tap_of(host[1], port[0][1:])
                tokens[place + 1 : place + 3] = [(b"$", tap[0]), (b":" + tap[1], None)]
        return _packed(tokens)

    def _shards(self, frame: bytes) -> bytes:
        """Rewrite CLUSTER SHARDS: of a node its ports, then its hosts, each after its name."""
        tokens = _tokens(frame)
        ports: list[int] = []
        for place, (_, name) in enumerate(tokens[:-1]):
            if name in _PORTS and tokens[place + 1][0][:1] == b":":
                ports.append(place + 1)
            elif name in _HOSTS and tokens[place + 1][1] is not None:
                if name == b"ip":
                    there = tokens[place + 1][1]
                    for port in ports:
                        tokens[port] = (b":" + self._tap_of(there, tokens[port][0][1:])[1], None)
                    ports = []
                tokens[place + 1] = (b"$", self._tap_host())
        return _packed(tokens)

    def _tap_host(self) -> bytes:
        return next(iter(self._nodes.values()))[0].encode()


def _tokens(frame: bytes) -> list[Token]:
    tokens: list[Token] = []
    place = 0
    while place < len(frame):
        end = frame.index(b"\r\n", place)
        header = frame[place:end]
        place = end + 2
        if header[:1] in b"$=!" and header != b"$-1":
            size = int(header[1:])
            tokens.append((header, frame[place : place + size]))
            place += size + 2
        else:
            tokens.append((header, None))
    return tokens


def _packed(tokens: Sequence[Token]) -> bytes:
    return b"".join(header + b"\r\n" if text is None else b"%b%d\r\n%b\r\n" % (header[:1], len(text), text) for header, text in tokens)
