"""The frames of one direction of a connection between others, read in pieces and in bounded memory: RESP2, RESP3 and inline commands.

Who reads here is no end of the connection: nothing can be refused, and most of what passes is of no interest. So a frame is walked through
by its headers, and only what its owner asks for is kept.

Rules
-----
1. Of a command the name is kept, and its words where `keeps` says so; of a reply what it holds, where `keeps` says so.
2. A text of more than `WHOLE_BYTES` is never in memory: it is hashed as it passes, and stands in its frame as a `Long`.
3. A frame of which `FRAME_BYTES` are kept keeps no more; it is read to its end and marked (`cut`).
4. What is no frame raises `NotRead`; the owner reads no more of that direction, and passes it on all the same.
5. An attribute (``|``) before a reply is passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

WHOLE_BYTES = 1 << 20
FRAME_BYTES = 16 << 20
MAX_LINE = 64 * 1024
MAX_DEPTH = 32
_MOST_DIGITS = 20
_VALUE_BYTES = 64  # what a value takes in memory beside its text
_INLINE = 0
_BULKS = b"$=!"
_ARRAYS = b"*~>%|"
_LINES = b"+-:,#(_"


class NotRead(Exception):
    """Bytes that are no frame, or a frame that nobody sends."""


class StatusLine(bytes):
    """A status (``+``)."""


class ErrorLine(bytes):
    """An error (``-`` or ``!``)."""


class Pushed(list[Any]):
    """A frame that is no reply (``>``)."""


class Hash(Protocol):
    """A running hash, as of hashlib."""

    def update(self, data: bytes, /) -> None:
        """Take more of the text."""

    def digest(self) -> bytes:
        """Return the hash of what was taken so far."""


class Long:
    """A text that is too long to be kept: its length, and its hash as its owner began it."""

    __slots__ = ("hash", "size")

    def __init__(self, size: int, hash: Hash) -> None:
        self.size, self.hash = size, hash


class _Level:
    """An array that has begun: what is still to come, and what is kept of it (None: nothing more)."""

    __slots__ = ("attribute", "items", "left")

    def __init__(self, left: int, items: list[Any] | None, *, attribute: bool = False) -> None:
        self.left, self.items, self.attribute = left, items, attribute


class FrameReader:
    """The frames of one direction.

    Parameters
    ----------
    commands
        Whether these are commands, among which a line without a type byte is one too.
    keeps
        Asked once a frame: for commands with the name in capital letters, for replies with the type byte.
    begin_long
        Begins the hash of a text that is not kept, given the text before it in its frame (the channel of a message).

    Attributes
    ----------
    idle
        Whether the bytes so far end with a frame.
    frame
        The last whole frame: a list, `Pushed`, bytes, `StatusLine`, `ErrorLine`, int, `Long` or None.
    cut
        Whether something of the last frame was not kept that should have been.
    """

    def __init__(self, *, commands: bool, keeps: Callable[[Any], bool], begin_long: Callable[[bytes], Hash]) -> None:
        self.idle = True
        self.frame: Any = None
        self.cut = False
        self._commands = commands
        self._keeps = keeps
        self._begin_long = begin_long
        self._levels: list[_Level] = []
        self._rest = b""  # the beginning of a line
        self._left = 0  # bytes of a text that are to come, with its end
        self._kept = 0  # bytes of this frame
        self._pieces: list[bytes] | None = None
        self._long: Long | None = None
        self._bulk_is_error = False

    def read(self, data: bytes, place: int) -> int:
        """Read on from a place until a frame ends or the data do, and return the place then; `idle` says whether a frame has ended.

        Raises
        ------
        NotRead
            It is no RESP.
        """
        size = len(data)
        if self.idle:
            self.idle, self.cut, self._kept = False, False, 0
        while place < size:
            if self._left:
                place = self._read_text(data, place)
                if self.idle:
                    break
                continue
            line, place = self._line(data, place)
            if line is not None and self._header(line):
                break
        return place

    def _line(self, data: bytes, place: int) -> tuple[bytes | None, int]:
        """Return the next line without its end and the place behind it; None when it has not ended, and is kept for the next time."""
        begun = self._rest
        if begun:
            joined = begun + data[place : place + MAX_LINE]
            end = joined.find(b"\n")
            behind = place + end + 1 - len(begun)
        else:
            joined, end = data, data.find(b"\n", place, place + MAX_LINE)
            behind = end + 1
        if end < 0:
            self._rest = joined if begun else data[place:]
            if len(self._rest) >= MAX_LINE:
                raise NotRead("a line without an end")
            return None, len(data)
        self._rest = b""
        line = joined[:end] if begun else joined[place:end]
        if line.endswith(b"\r"):
            return line[:-1], behind
        if self._commands and not self._levels and line[:1] not in (b"*", b"$"):
            return line, behind  # an inline command may end with a newline alone
        raise NotRead("a line that does not end as RESP's do")

    def _header(self, line: bytes) -> bool:
        """Take a line; return whether it ends a frame."""
        kind = line[0] if line else _INLINE
        if self._commands and not self._levels and kind != ord("*"):
            self.frame, self.idle = inline_words(line), True
            return True
        if self._commands and self._levels and kind != ord("$"):
            raise NotRead("a command whose words are no texts")
        if kind in _BULKS:
            return self._begin_text(kind, _number(line))
        if kind in _ARRAYS:
            return self._begin_array(kind, _number(line))
        if kind not in _LINES:
            raise NotRead("a type byte that is none")
        if kind == ord(":"):
            return self._value(_number(line))
        if kind == ord("_"):
            return self._value(None)
        text = line[1:]
        return self._value(StatusLine(text) if kind == ord("+") else ErrorLine(text) if kind == ord("-") else text)

    def _begin_array(self, kind: int, many: int) -> bool:
        if many < 0:
            return self._value(None)
        if len(self._levels) >= MAX_DEPTH:
            raise NotRead(f"arrays nested more than {MAX_DEPTH} deep")
        many = 2 * many if kind in b"%|" else many
        kept = self._levels[-1].items is not None if self._levels else self._commands or self._keeps(kind)
        items: list[Any] | None = None
        if kept and kind != ord("|"):
            items = Pushed() if kind == ord(">") else []
        if not many:
            return self._value(items) if kind != ord("|") else False
        self._levels.append(_Level(many, items, attribute=kind == ord("|")))
        return False

    def _begin_text(self, kind: int, size: int) -> bool:
        if size < 0:
            return self._value(None)
        self._left = size + 2
        self._bulk_is_error = kind == ord("!")
        items = self._levels[-1].items if self._levels else None
        keep = items is not None if self._levels else self._keeps(kind)
        self._pieces = self._long = None
        if not keep:
            return False
        if self._kept + size > FRAME_BYTES:
            self._keep_no_more()
        elif size <= WHOLE_BYTES:
            self._pieces = []
        else:
            before = items[-1] if items and isinstance(items[-1], bytes) else b""
            self._long = Long(size, self._begin_long(before))
        return False

    def _keep_no_more(self) -> None:
        self.cut = True
        for level in self._levels:
            level.items = None

    def _read_text(self, data: bytes, place: int) -> int:
        """Read on in a text, and return the place behind what was read of it."""
        taken = min(self._left, len(data) - place)
        end = place + taken
        self._left -= taken
        if self._pieces is not None:
            self._pieces.append(data[place:end])
        elif self._long is not None and (text := taken - max(0, 2 - self._left)) > 0:
            self._long.hash.update(data[place : place + text])
        if not self._left:
            value: Any = self._long
            if self._pieces is not None:
                value = (self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces))[:-2]
                value = ErrorLine(value) if self._bulk_is_error else value
            self._pieces = self._long = None
            self._value(value)
        return end

    def _value(self, value: Any) -> bool:
        """Take a value that is whole, and what it makes whole; return whether that is the frame."""
        while self._levels:
            level = self._levels[-1]
            if level.items is not None:
                level.items.append(value)
                self._kept += _VALUE_BYTES + (len(value) if isinstance(value, bytes) else 0)
                if self._kept > FRAME_BYTES:
                    self._keep_no_more()
                elif self._commands and len(level.items) == 1 and not self._keeps(name_of(level.items)):
                    self.frame, level.items = [value], None
            level.left -= 1
            if level.left:
                return False
            self._levels.pop()
            if level.attribute:
                return False
            value = level.items
        if not self._commands or value is not None:
            self.frame = value
        self.idle = True
        return True


def name_of(words: list[Any]) -> bytes:
    """Return the name of a command in capital letters; empty for one that has none."""
    return words[0].upper() if words and isinstance(words[0], bytes) else b""


def inline_words(line: bytes) -> list[bytes]:
    """Return the words of an inline command; in quotes they may have blanks and escapes, as a server reads them."""
    words: list[bytes] = []
    place, size = 0, len(line)
    while place < size:
        if line[place] in b" \t":
            place += 1
            continue
        word, place = _inline_word(line, place)
        words.append(word)
    return words


_ESCAPES = {ord("n"): 10, ord("r"): 13, ord("t"): 9, ord("b"): 8, ord("a"): 7}


def _inline_word(line: bytes, place: int) -> tuple[bytes, int]:
    word, quote, size = bytearray(), 0, len(line)
    while place < size:
        one = line[place]
        if quote:
            if one == quote:
                return bytes(word), place + 1
            if one == ord("\\") and place + 1 < size and (quote == ord('"') or line[place + 1] == quote):
                place += 1
                if line[place] == ord("x") and quote == ord('"'):
                    with_digits = line[place + 1 : place + 3]
                    try:
                        word.append(int(with_digits, 16))
                        place += 3
                        continue
                    except ValueError:
                        pass
                one = _ESCAPES.get(line[place], line[place]) if quote == ord('"') else line[place]
        elif one in b"\"'" and not word:
            quote = one
            place += 1
            continue
        elif one in b" \t":
            break
        word.append(one)
        place += 1
    return bytes(word), place


def _number(line: bytes) -> int:
    digits = line[1:]
    if len(digits) > _MOST_DIGITS:
        raise NotRead("a length of too many digits")
    try:
        return int(digits)
    except ValueError:
        raise NotRead("a length that is no number") from None
