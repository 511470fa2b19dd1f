"""What a server's steps cost and what its buffers hold: the numbers that the model and `fanout` share. No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024
READ_BYTES = 16 * 1024  # of one client in one turn, as PROTO_IOBUF_LEN
WINDOW_BYTES = 4 * MIB  # under way or unread in one direction: kernel buffers of both sides of a loopback connection, roughly


@dataclass(frozen=True)
class Costs:
    """Say how long each step keeps the server's thread, in nanoseconds.

    Attributes
    ----------
    turn_ns
        One turn of the event loop.
    read_ns, write_ns
        One read from a socket, one write to a socket.
    command_ns
        Parsing and carrying out one command.
    copy_ns
        Queueing one copy of a published event.
    byte_ns
        Each byte of a copy or reply that is queued and written.
    """

    turn_ns: int = 3_000
    read_ns: int = 1_500
    write_ns: int = 5_000
    command_ns: int = 1_000
    copy_ns: int = 250
    byte_ns: float = 0.15


@dataclass(frozen=True)
class BufferLimit:
    """Hold client-output-buffer-limit pubsub: bytes at once, and bytes for so many seconds; 0 = no limit."""

    hard_bytes: int = 32 * MIB
    soft_bytes: int = 8 * MIB
    soft_s: int = 60
