"""Replies as they come from a server that may be anything: looked at before hiredis makes objects of them.

hiredis takes memory for as many elements as a reply announces: two billion are 16 GB and half a minute, before one of them came. So the
header of each part is read here first, and what no server of ours would say is refused.

Rules
-----
1. A reply announces at most `MAX_ELEMENTS` elements in all, nested at most `MAX_DEPTH` deep, a bulk at most `MAX_BULK` bytes (the most
   that Redis itself takes unless told otherwise), a line at most `MAX_LINE`.
2. We speak RESP2: another type byte is no reply. The first bytes that came stand in the error, as they tell who answered.
3. `whole` is exact: it is true when the bytes so far end with a reply. hiredis' has_data() is false between two elements, too.
4. What comes most often costs least: counts, as the answers to publishes are, announce nothing, and what is wrong with them hiredis
   finds. (Messages do not come here at all: `sim.wire.subscription` cuts them out itself.)
"""

from __future__ import annotations

from typing import Any

import hiredis
from redis.connection import DefaultParser
from redis.exceptions import InvalidResponse

MAX_ELEMENTS = 1_000_000
MAX_DEPTH = 16
MAX_BULK = 512 * 1024 * 1024
MAX_LINE = 64 * 1024
MAX_DIGITS = 32  # of a length, with its type byte
SHOWN_BYTES = 40
_BULK, _ARRAY = ord("$"), ord("*")
_LINES = b":+-"
_TYPES = b"$*:+-"
_OF_COUNTS = b":0123456789\r\n"


class BadReply(Exception):
    """What a server said that is no reply, or one that is larger than any that is taken."""


class ReplyReader:
    """The replies of one connection.

    Attributes
    ----------
    whole
        Whether what was fed ends with a reply.
    """

    def __init__(self, *, reader: Any = None) -> None:
        self.whole = True
        self._reader: Any = reader or hiredis.Reader()
        self._open: list[int] = []  # elements that are still to come, of each array that has begun
        self._ahead = 0  # bytes still to come of a bulk whose length is known
        self._begun = b""  # the beginning of a header
        self.gets = self._reader.gets

    def feed(self, data: bytes) -> None:
        """Take what was read.

        Raises
        ------
        BadReply
            It is no RESP2, or announces too much; the connection is of no use any more.
        """
        if not self.whole or data.strip(_OF_COUNTS) or data[-2:] != b"\r\n":
            self._look(self._begun + data if self._begun else data)
        self._reader.feed(data)

    def _look(self, data: bytes) -> None:
        """Go from header to header, and remember where the bytes end."""
        place, end, begun = self._ahead, len(data), self._open
        self._begun = b""
        while place < end:
            kind = data[place]
            if kind not in _TYPES:
                raise BadReply(_shown(data, place))
            newline = data.find(b"\r\n", place, place + (MAX_LINE if kind in _LINES else MAX_DIGITS))
            if newline < 0:
                self._begun = _beginning(data, place)
                break
            if kind == _ARRAY and (count := _number(data, place, newline)) > 0:
                self._check_count(count)
                begun.append(count)
                place = newline + 2
                continue
            place = newline + 2 if kind != _BULK else _end_of_bulk(data, place, newline)
            while begun:  # one element more has come of the array that is open
                begun[-1] -= 1
                if begun[-1]:
                    break
                begun.pop()
        self._ahead = 0 if self._begun else place - end
        self.whole = not (begun or self._ahead or self._begun)

    def _check_count(self, count: int) -> None:
        if count + sum(self._open) > MAX_ELEMENTS:
            raise BadReply(f"the server announces a reply of {count:,} elements, more than {MAX_ELEMENTS:,}")
        if len(self._open) >= MAX_DEPTH:
            raise BadReply(f"the server announces a reply whose arrays are nested more than {MAX_DEPTH} deep")


def _end_of_bulk(data: bytes, place: int, newline: int) -> int:
    length = _number(data, place, newline)
    if length > MAX_BULK:
        raise BadReply(f"the server announces a text of {length:,} bytes, more than {MAX_BULK:,}")
    return newline + 2 if length < 0 else newline + length + 4


def _number(data: bytes, place: int, newline: int) -> int:
    try:
        return int(data[place + 1 : newline])
    except ValueError:  # also what has thousands of digits
        raise BadReply(_shown(data, place)) from None


def _beginning(data: bytes, place: int) -> bytes:
    """Return the header that begins here and has not ended; refuse one that is too long to be one."""
    if data[place] not in _LINES and len(data) - place >= MAX_DIGITS:
        raise BadReply(_shown(data, place))
    if len(data) - place >= MAX_LINE:
        raise BadReply(f"the server says a line of more than {MAX_LINE:,} bytes")
    return data[place:]


def _shown(data: bytes, place: int) -> str:
    return f"the server says {data[place : place + SHOWN_BYTES]!r}, which is no reply of a Redis server"


class GuardedParser(DefaultParser):  # type: ignore[misc, valid-type]
    """The parser of redis-py's connections, with the same look at each reply before memory is taken for it."""

    def on_connect(self, connection: Any, **more: Any) -> None:
        """Put the guard before the reader."""
        super().on_connect(connection, **more)
        self._reader: Any = _GuardedReader(self._reader)


class _GuardedReader:
    """A reader of redis-py behind a `ReplyReader`."""

    def __init__(self, reader: Any) -> None:
        self._replies = ReplyReader(reader=reader)
        self.gets, self.has_data = reader.gets, reader.has_data

    def feed(self, buffer: bytearray, offset: int, size: int) -> None:
        """Take what was read; raise `InvalidResponse` where it is no reply."""
        try:
            self._replies.feed(bytes(buffer[offset : offset + size]))
        except BadReply as error:
            raise InvalidResponse(str(error)) from error
