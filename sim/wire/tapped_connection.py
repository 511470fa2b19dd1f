"""Read what passes between a client and a server, both others' programs, and tell it as rows: publishes, messages, subscriptions.

It is given the bytes of each direction when they have been written to the other side's socket, and never changes or delays one.

Rules
-----
1. A server answers a connection's commands in their order. So each command that passed waits for its answer, and a frame that is no answer
   is told from one by its type (RESP3), or by its first word on a connection that is subscribed (RESP2).
2. A command between MULTI and EXEC is answered twice: by QUEUED at once, by its place in EXEC's answer.
3. What is common is quick: publishes of one channel and length have the same first bytes, which are compared before they are parsed; a read
   that another subscriber was sent the same bytes of is not parsed again (`SharedReads`).
4. Where a direction cannot be read any more (no RESP, MONITOR, replication) its bytes are counted, and no answer is matched from then on:
   a publish that still waits is `unknown`.
5. Words of commands that may hold a secret are never kept: AUTH's, and those of any command that is not in `_KEPT`.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any, NamedTuple

from sim.wire.frame_reader import ErrorLine, FrameReader, Long, NotRead, Pushed, name_of
from sim.wire.tap_rows import Connection, Identify, Publish, Push, TapSink

_KNOWN = (
    "PUBLISH SPUBLISH XADD SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE MULTI EXEC DISCARD WATCH UNWATCH "
    "RESET QUIT AUTH HELLO CLIENT CLUSTER ASKING READONLY READWRITE COMMAND CONFIG INFO PING ECHO SELECT PUBSUB MONITOR SYNC PSYNC "
    "REPLCONF ROLE WAIT XREAD XREADGROUP XACK XGROUP XINFO XLEN XRANGE XREVRANGE XTRIM XDEL XPENDING XCLAIM XAUTOCLAIM GET SET "
    "SETNX SETEX PSETEX GETSET GETDEL GETEX MGET MSET MSETNX APPEND STRLEN INCR INCRBY INCRBYFLOAT DECR DECRBY GETRANGE SETRANGE "
    "GETBIT SETBIT DEL UNLINK EXISTS EXPIRE PEXPIRE EXPIREAT PEXPIREAT TTL PTTL PERSIST TYPE KEYS SCAN RENAME DUMP RESTORE OBJECT "
    "TOUCH HGET HSET HMGET HMSET HGETALL HDEL HEXISTS HINCRBY HKEYS HVALS HLEN HSCAN LPUSH RPUSH LPOP RPOP BLPOP BRPOP LLEN LRANGE "
    "LTRIM LREM LMOVE BLMOVE SADD SREM SMEMBERS SISMEMBER SCARD SPOP SSCAN ZADD ZREM ZRANGE ZRANGEBYSCORE ZREVRANGE ZSCORE ZCARD "
    "ZINCRBY ZPOPMIN BZPOPMIN ZSCAN EVAL EVALSHA SCRIPT FUNCTION FCALL FLUSHALL FLUSHDB DBSIZE TIME MEMORY LATENCY SLOWLOG ACL "
    "SHUTDOWN SAVE BGSAVE FAILOVER DEBUG"
)
COMMANDS = frozenset(_KNOWN.split())
_LOOKED_AT = b"PUBLISH SPUBLISH XADD SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE HELLO CLIENT XACK"
_KEPT = frozenset(_LOOKED_AT.split())  # commands whose words are kept until they are read
_SENDS = {b"PUBLISH": "publish", b"SPUBLISH": "spublish", b"XADD": "xadd"}
_JOINS = {b"SUBSCRIBE": "subscribe", b"PSUBSCRIBE": "psubscribe", b"SSUBSCRIBE": "ssubscribe"}
_LEAVES = {b"UNSUBSCRIBE": "subscribe", b"PUNSUBSCRIBE": "psubscribe", b"SUNSUBSCRIBE": "ssubscribe"}
_CONFIRMS = {name.lower(): (kind, True) for name, kind in _JOINS.items()} | {name.lower(): (kind, False) for name, kind in _LEAVES.items()}
_MESSAGES = {b"message": "message", b"pmessage": "pmessage", b"smessage": "smessage"}
_READS = frozenset((b"XREAD", b"XREADGROUP"))

_PUBLISH = re.compile(rb"\*3\r\n\$(?:7\r\n(?i:publish)|8\r\n(?i:spublish))\r\n\$(\d{1,5})\r\n")
_MESSAGE = re.compile(rb"[*>]3\r\n\$(?:7\r\nmessage|8\r\nsmessage)\r\n\$(\d{1,5})\r\n")
_TEXT = re.compile(rb"\r\n\$(\d{1,7})\r\n")
_QUICK_BYTES = 1 << 20  # of a payload; a longer one goes the long way

# What a command waits for, where it is no struct of its own.
_ANSWER, _READ, _EXEC, _HELLO, _RESET, _MONITOR, _OTHER_PROTOCOL = range(7)


class _Sent(NamedTuple):
    """A publish that waits for its answer."""

    command: str
    channel: bytes
    key: int
    hashed: bool
    size: int
    passed_ns: int


class _Confirmed:
    """A command that is answered once for each channel."""

    __slots__ = ("kind", "left")

    def __init__(self, kind: str, left: int) -> None:
        self.kind, self.left = kind, left  # 0 = all that there are, as is known when the first answer comes


class _Queued:
    """A command in a transaction: what it is answered with in the end stands in EXEC's answer."""

    __slots__ = ("inner",)

    def __init__(self, inner: Any) -> None:
        self.inner = inner


class SharedReads:
    """What recent reads held that were whole messages only: the same PUBLISH reaches every subscriber as the same bytes."""

    MAX_READS = 1024
    MAX_BYTES = 64 * 1024  # of one read
    WHOLE_BYTES = 1024  # up to here the read itself is the key; hashing more costs more than comparing it

    def __init__(self) -> None:
        self._reads: dict[Any, tuple[bytes, tuple[Push, ...]]] = {}
        self._last: tuple[bytes, tuple[Push, ...]] = (b"", ())

    def get(self, data: bytes) -> tuple[Push, ...] | None:
        """Return the messages of the same bytes, or None."""
        if data == self._last[0]:
            return self._last[1]
        found = self._reads.get(data if len(data) <= self.WHOLE_BYTES else (data[:192], data[-64:], len(data)))
        return found[1] if found is not None and found[0] == data else None

    def put(self, data: bytes, pushes: tuple[Push, ...]) -> None:
        """Keep the messages of a read."""
        if len(data) <= self.MAX_BYTES:
            if len(self._reads) >= self.MAX_READS:
                self._reads.clear()
            self._last = (data, pushes)
            self._reads[data if len(data) <= self.WHOLE_BYTES else (data[:192], data[-64:], len(data))] = self._last


class TappedConnection:
    """One connection's conversation.

    Parameters
    ----------
    seen
        What is told of the connection.
    identify
        How an event is known.
    reads
        Shared by the connections of one tap.
    """

    def __init__(self, seen: Connection, *, sink: TapSink, identify: Identify, reads: SharedReads) -> None:
        self.seen = seen
        self._sink, self._identify, self._reads = sink, identify, reads
        self._commands = FrameReader(commands=True, keeps=self._keeps_command, begin_long=identify.begin)
        self._replies = FrameReader(commands=False, keeps=self._keeps_reply, begin_long=identify.begin)
        self._waiting: deque[Any] = deque()
        self._blind_to_server = self._blind_to_client = False
        self._now_ns = 0
        self._header = b"\0"  # of the last publish, and what follows from it
        self._header_of: tuple[str, bytes, int] = ("", b"", 0)
        self._in_multi = False
        self._queued: list[Any] = []  # what the server has queued of a transaction
        self._quiet = False  # CLIENT REPLY OFF
        self._skipped = 0  # CLIENT REPLY SKIP: this command and the next are not answered
        self._done: list[Publish] = []
        self._pushes: list[Push] = []
        sink.opened(seen)

    # ---- towards the server

    def to_server(self, data: bytes, now_ns: int) -> None:
        """Take bytes that have been written to the server's socket."""
        if self._blind_to_server:
            self.seen.unread_to_server += len(data)
            return
        self._now_ns = now_ns
        place, size, reader = 0, len(data), self._commands
        try:
            while place < size:
                if reader.idle:
                    place = self._quick_publishes(data, place)
                    if place >= size:
                        break
                place = reader.read(data, place)
                if reader.idle:
                    self._command(reader.frame)
                    if reader.cut:
                        self.seen.unread_to_server += 1
        except NotRead:
            self._blind_to_server = True
            self.seen.unread_to_server += size - place
        self._hand_over()

    def _quick_publishes(self, data: bytes, place: int) -> int:
        """Take the publishes that stand whole in the data from here on, and return where something else begins."""
        header, (command, channel, size) = self._header, self._header_of
        waiting, key, now_ns, many = self._waiting.append, self._identify.key, self._now_ns, 0
        new, whole, plain = tuple.__new__, len(data), not (self._in_multi or self._quiet or self._skipped)
        while plain:
            if data.startswith(header, place):
                begin = place + len(header)
                end = begin + size
            else:
                found = _PUBLISH.match(data, place)
                text = None if found is None else _TEXT.match(data, found.end() + int(found[1]))
                if found is None or text is None or int(text[1]) > _QUICK_BYTES:
                    break
                begin = text.end()
                size, channel = int(text[1]), data[found.end() : text.start()]
                command = "publish" if data[place + 5] == ord("7") else "spublish"
                header, end = data[place:begin], begin + size
                self._header, self._header_of = header, (command, channel, size)
            if end + 2 > whole:
                break
            known, hashed = key(channel, data[begin:end])
            waiting(new(_Sent, (command, channel, known, hashed, size, now_ns)))
            many += 1
            place = end + 2
        if many:
            self.seen.commands[command.upper()] += many
        return place

    def _keeps_command(self, name: bytes) -> bool:
        return name in _KEPT

    def _command(self, words: list[Any] | None) -> None:
        if not words:
            return  # an empty line, which is not answered
        name = name_of(words)
        text = name.decode("ascii", "replace")
        self.seen.commands[text if text in COMMANDS else "other"] += 1
        what = self._meaning(name, words)
        if what is None:
            return
        if self._quiet or self._skipped:
            self._skipped = max(0, self._skipped - 1)
            if isinstance(what, _Sent):  # nobody will say what became of it
                self._done.append(Publish(*what, 0, "unknown", -1))
            return
        if self._in_multi and name not in (b"MULTI", b"EXEC", b"DISCARD", b"WATCH", b"RESET", b"QUIT"):
            what = _Queued(what)
        self._waiting.append(what)
        if name == b"MULTI":
            self._in_multi = True
        elif name in (b"EXEC", b"DISCARD", b"RESET"):
            self._in_multi = False

    def _meaning(self, name: bytes, words: list[Any]) -> Any:
        """Return what a command waits for, None where that is nothing."""
        if (sends := _SENDS.get(name)) is not None:
            return self._sent(sends, words)
        if (joins := _JOINS.get(name)) is not None:
            return _Confirmed(joins, max(1, len(words) - 1))
        if (leaves := _LEAVES.get(name)) is not None:
            return _Confirmed(leaves, len(words) - 1)
        if name == b"CLIENT":
            return self._client(words)
        if name == b"HELLO":
            upper = [_upper(word) for word in words]
            if b"SETNAME" in upper[:-1]:
                self.seen.client_name = _text(words[upper.index(b"SETNAME") + 1])
            return _ANSWER if len(words) < 2 else _HELLO if words[1] == b"3" else _OTHER_PROTOCOL
        if name == b"XACK" and len(words) > 3:
            self._hand_over()
            self._sink.acknowledged(self.seen, self._now_ns, words[1], words[2], words[3:])
            return _ANSWER
        if name in (b"SYNC", b"PSYNC"):
            self._go_blind()
            return None
        if name in _READS:
            return _READ
        return {b"EXEC": _EXEC, b"RESET": _RESET, b"MONITOR": _MONITOR}.get(name, _ANSWER)

    def _sent(self, command: str, words: list[Any]) -> Any:
        if command != "xadd":
            if len(words) != 3 or not isinstance(words[1], bytes):
                return _ANSWER  # the server will say what is wrong with it
            return _Sent(command, words[1], *self._known(words[1], words[2]), _size(words[2]), self._now_ns)
        place = 2
        while place < len(words) and (option := _upper(words[place])) in (b"NOMKSTREAM", b"MAXLEN", b"MINID", b"LIMIT"):
            place += 2 if option == b"LIMIT" else 1
            if option in (b"MAXLEN", b"MINID"):
                place += 2 if words[place : place + 1] in ([b"="], [b"~"]) else 1
        fields = words[place + 1 :]
        if len(words) < 2 or not fields or not isinstance(words[1], bytes):
            return _ANSWER
        return _Sent(command, words[1], *self._known_entry(words[1], fields), sum(map(_size, fields[1::2])), self._now_ns)

    def _client(self, words: list[Any]) -> Any:
        """Take what a CLIENT command says of the connection."""
        what = [_upper(word) for word in words[1:3]]
        if what == [b"REPLY", b"OFF"]:
            self._quiet = True
            return None
        if what == [b"REPLY", b"SKIP"]:
            self._skipped = 1 if not self._quiet else 0
            return None
        if what == [b"REPLY", b"ON"]:
            self._quiet, self._skipped = False, 0
        elif what[:1] == [b"SETNAME"] and len(words) > 2:
            self.seen.client_name = _text(words[2])
        elif what[:1] == [b"SETINFO"] and len(words) > 3:
            self.seen.library = " ".join(one for one in (self.seen.library, _text(words[3])) if one)
        return _ANSWER

    def _known(self, channel: bytes, payload: Any) -> tuple[int, bool]:
        if isinstance(payload, Long):
            return self._identify.key_of_long(payload.hash), True
        return self._identify.key(channel, payload)

    def _known_entry(self, stream: bytes, fields: list[Any]) -> tuple[int, bool]:
        """Return the identity of a stream's entry: of the value of its one field, or of all names and values."""
        if len(fields) == 2:
            return self._known(stream, fields[1])
        return self._identify.key(stream, b"\0".join(one if isinstance(one, bytes) else one.hash.digest() for one in fields))

    # ---- towards the client

    def to_client(self, data: bytes, now_ns: int) -> None:
        """Take bytes that have been written to the client's socket."""
        seen, reader = self.seen, self._replies
        if self._blind_to_client:
            seen.unread_to_client += len(data)
            return
        self._now_ns = now_ns
        can_hear = bool(seen.channels) and reader.idle
        if can_hear and (pushes := self._reads.get(data)) is not None:
            self._sink.pushed(seen, now_ns, pushes)
            return
        place = self._quick_messages(data, 0) if can_hear else 0
        if place == len(data):
            self._reads.put(data, tuple(self._pushes))
        elif place or self._quick_answers(data) is False:
            self._read_replies(data, place)
        self._hand_over()

    def _read_replies(self, data: bytes, place: int) -> None:
        reader, size = self._replies, len(data)
        try:
            while place < size and not self._blind_to_client:
                if reader.idle and self.seen.channels:
                    place = self._quick_messages(data, place)
                    if place >= size:
                        break
                place = reader.read(data, place)
                if reader.idle:
                    if reader.cut:
                        self.seen.unread_to_client += 1
                    self._reply(reader.frame)
        except NotRead:
            self._go_blind()
        if self._blind_to_client:
            self.seen.unread_to_client += size - place

    def _quick_answers(self, data: bytes) -> bool:
        """Take a read that is whole numbers only, each the answer to a publish; return whether it was."""
        if data[:1] != b":" or data[-2:] != b"\r\n" or not self._replies.idle:
            return False
        answers = data[1:-2].split(b"\r\n:")
        waiting, done, now_ns = self._waiting, self._done, self._now_ns
        if len(waiting) < len(answers):
            return False
        try:
            numbers = [int(one) for one in answers]
        except ValueError:
            return False
        new = tuple.__new__
        for number in numbers:
            what = waiting.popleft()
            if type(what) is _Sent:
                done.append(new(Publish, (*what, now_ns, "acknowledged", number, "")))
            else:
                self._answer(what, number)
        return True

    def _quick_messages(self, data: bytes, place: int) -> int:
        """Take the messages that stand whole in the data from here on, and return where something else begins."""
        key, pushes, whole = self._identify.key, self._pushes.append, len(data)
        while (found := _MESSAGE.match(data, place)) is not None:
            text = _TEXT.match(data, found.end() + int(found[1]))
            if text is None or (size := int(text[1])) > _QUICK_BYTES or (end := text.end() + size) + 2 > whole:
                break
            channel = data[found.end() : text.start()]
            kind = "message" if data[place + 5] == ord("7") else "smessage"
            pushes(Push(kind, channel, *key(channel, data[text.end() : end]), size))
            place = end + 2
        return place

    def _keeps_reply(self, kind: int) -> bool:
        """Return whether the next frame from the server is of interest."""
        if kind in b">!":
            return True
        what = self._waiting[0] if self._waiting else _ANSWER
        if what is _READ or what is _EXEC:
            return True
        return isinstance(what, _Sent | _Confirmed) or (kind == ord("*") and bool(self.seen.channels) and self.seen.protocol == 2)

    def _reply(self, frame: Any) -> None:
        """Take a frame from the server."""
        if type(frame) is list or type(frame) is Pushed:
            first = frame[0] if frame else None
            if type(first) is bytes and (type(frame) is Pushed or self.seen.channels or self._waits_for_confirmation()):
                if first in _MESSAGES:
                    self._message(_MESSAGES[first], frame)
                    return
                if first in _CONFIRMS and len(frame) == 3:
                    self._confirmation(*_CONFIRMS[first], frame[1])
                    return
            if type(frame) is Pushed:
                return
        if self._waiting:
            self._answer(self._waiting.popleft(), frame)

    def _waits_for_confirmation(self) -> bool:
        return bool(self._waiting) and isinstance(self._waiting[0], _Confirmed)

    def _message(self, kind: str, frame: list[Any]) -> None:
        pattern, channel, payload = (frame[1], *frame[2:4]) if kind == "pmessage" and len(frame) > 3 else (b"", *frame[1:3])
        self._pushes.append(Push(kind, channel, *self._known(channel, payload), _size(payload), pattern))

    def _confirmation(self, kind: str, on: bool, channel: Any) -> None:
        seen, name = self.seen, channel if isinstance(channel, bytes) else b""
        first = self._waiting[0] if self._waiting else None
        if isinstance(first, _Confirmed) and first.kind == kind:
            if first.left == 0:
                first.left = max(1, sum(one == kind for one, _ in seen.channels))
            first.left -= 1
            if not first.left:
                self._waiting.popleft()
        if channel is None:
            return
        (seen.channels.add if on else seen.channels.discard)((kind, name))
        self._hand_over()
        self._sink.subscribed(seen, self._now_ns, kind, name, on)

    def _answer(self, what: Any, reply: Any) -> None:
        """Take the answer to a command."""
        if isinstance(what, _Sent):
            self._done.append(_outcome(what, reply, self._now_ns))
        elif isinstance(what, _Queued):
            if not isinstance(reply, ErrorLine):
                self._queued.append(what.inner)
            elif isinstance(what.inner, _Sent):
                self._done.append(_outcome(what.inner, reply, self._now_ns))
        elif isinstance(what, _Confirmed):
            pass  # refused as a whole
        elif what is _EXEC:
            self._executed(reply)
        elif what is _READ:
            self._entries(reply)
        elif what is not _ANSWER and not isinstance(reply, ErrorLine):
            self._change(what)

    def _change(self, what: Any) -> None:
        """Take what a command has changed of the connection itself."""
        if what is _HELLO or what is _OTHER_PROTOCOL:
            self.seen.protocol = 3 if what is _HELLO else 2
        elif what is _RESET:
            self.seen.protocol, self._queued = 2, []
            self._leave_all()
        elif what is _MONITOR:
            self._go_blind()

    def _executed(self, reply: Any) -> None:
        queued, self._queued = self._queued, []
        answers = reply if isinstance(reply, list) and len(reply) == len(queued) else [reply] * len(queued)
        for what, answer in zip(queued, answers, strict=True):
            if isinstance(what, _Sent) and answer is reply:  # the transaction was given up as a whole
                refused = isinstance(reply, ErrorLine) or reply is None
                self._done.append(Publish(*what, self._now_ns, "refused" if refused else "unknown", -1, _first_word(reply)))
            else:
                self._answer(what, answer)

    def _entries(self, reply: Any) -> None:
        """Take what XREAD or XREADGROUP brought: streams, each with its entries, each an id and its fields."""
        if not isinstance(reply, list):
            return
        streams = list(zip(reply[::2], reply[1::2], strict=False)) if reply and isinstance(reply[0], bytes) else reply
        for one in streams:
            try:
                stream, entries = one
                for id, fields in entries:
                    if fields:
                        size = sum(map(_size, fields[1::2]))
                        self._pushes.append(Push("entry", stream, *self._known_entry(stream, fields), size, id))
            except (TypeError, ValueError):
                self.seen.unread_to_client += 1

    def _leave_all(self) -> None:
        self._hand_over()
        for kind, name in sorted(self.seen.channels):
            self.seen.channels.discard((kind, name))
            self._sink.subscribed(self.seen, self._now_ns, kind, name, False)

    # ---- both

    def _go_blind(self) -> None:
        """Match no answers any more."""
        self._blind_to_client = True
        self._give_up()

    def _give_up(self) -> None:
        """Tell the publishes that wait: they passed, and nothing will say what became of them."""
        for what in (*self._queued, *self._waiting):
            inner = what.inner if isinstance(what, _Queued) else what
            if isinstance(inner, _Sent):
                self._done.append(Publish(*inner, 0, "unknown", -1))
        self._waiting.clear()
        self._queued = []

    def _hand_over(self) -> None:
        if self._done:
            done, self._done = self._done, []
            self._sink.published(self.seen, done)
        if self._pushes:
            pushes, self._pushes = tuple(self._pushes), []
            self._sink.pushed(self.seen, self._now_ns, pushes)

    def close(self, now_ns: int, end: str) -> None:
        """Tell the end of the connection."""
        self._give_up()
        self._hand_over()
        self._sink.closed(self.seen, now_ns, end)


def _outcome(sent: _Sent, reply: Any, now_ns: int) -> Publish:
    if isinstance(reply, ErrorLine) or reply is None:  # XADD NOMKSTREAM answers nothing where there is no stream
        return Publish(*sent, now_ns, "refused", -1, _first_word(reply))
    return Publish(*sent, now_ns, "acknowledged", reply if isinstance(reply, int) else -1)


def _first_word(reply: Any) -> str:
    return reply.partition(b" ")[0][:40].decode("ascii", "replace") if isinstance(reply, ErrorLine) else ""


def _upper(word: Any) -> bytes:
    return word.upper() if isinstance(word, bytes) else b""


def _size(word: Any) -> int:
    return len(word) if isinstance(word, bytes) else word.size if isinstance(word, Long) else 0


def _text(word: Any) -> str:
    return word[:200].decode("utf-8", "replace") if isinstance(word, bytes) else ""
