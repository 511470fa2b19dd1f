"""RESP: how commands and replies are written, and how many bytes of a connection they take.

What reads replies is hiredis. The model's Redis writes with `encode`. Whatever counts bytes on the wire asks here.
"""

from __future__ import annotations

from typing import Any


class Nil:
    """The reply which says that there is nothing."""


class Error(str):
    """A reply that something is wrong."""


NIL = Nil()
Reply = Any  # bytes (a bulk string), int, str (a status), Error, NIL, or a list of these


def encode(reply: Reply) -> bytes:
    """Return a reply as RESP."""
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, Error):
        return f"-{reply}\r\n".encode()
    if isinstance(reply, str):
        return f"+{reply}\r\n".encode()
    if reply is NIL:
        return b"$-1\r\n"
    return b"*%d\r\n" % len(reply) + b"".join(map(encode, reply))


def error(text: str, *, code: str = "ERR") -> bytes:
    """Return an error reply as RESP."""
    return f"-{code} {text}\r\n".encode()


def pack(*words: bytes) -> bytes:
    """Return a command as RESP."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def wire_size(frame: Any) -> int:
    """Return how many bytes a parsed RESP frame took on the wire."""
    if isinstance(frame, list):
        return len(b"*%d\r\n" % len(frame)) + sum(map(wire_size, frame))
    if isinstance(frame, bytes):
        return bulk_size(len(frame))
    return 5 if frame is None else len(f":{frame}\r\n".encode())  # a null is `$-1`; an integer, an error


def bulk_size(length: int) -> int:
    """Return how many bytes a word of this length takes in a frame."""
    return len(b"$%d\r\n\r\n" % length) + length


def message_size(kind: bytes, channel: bytes, payload: bytes) -> int:
    """Return `wire_size` of ``[kind, channel, payload]``; the kind is ``message`` or ``smessage``."""
    channel_size, size = len(channel), len(payload)
    return 20 + len(kind) + len(str(channel_size)) + channel_size + len(str(size)) + size


def message_bytes(channel_bytes: int, payload_bytes: int) -> int:
    """Return the length of a copy on the wire, which is also that of its PUBLISH: both words have seven letters."""
    return len(b"*3\r\n") + bulk_size(len(b"message")) + bulk_size(channel_bytes) + bulk_size(payload_bytes)
