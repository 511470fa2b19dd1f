"""How a server writes replies: RESP. The model's Redis writes with it; what reads replies is hiredis."""

from __future__ import annotations

from typing import Any


class Nil:
    """The reply that there is nothing."""


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
