"""An echo of a clock: who asks over a connection gets the time of the process that answers (`sim.machine.clock_line` says what for).

Rules
-----
1. A connection begins with the token that the echo was made with; without it, it is closed. Each question is then a number of 8 bytes, each
   answer that number and the clock, 16 bytes. There is nothing else to be had.
2. It lives in a thread, and so do those who ask: a busy event loop does not make a trip slow, and the echo costs its process nothing while
   nobody asks. Where threads are greenlets (Locust) it lives in one.
3. Reading the clock is the last thing before the answer leaves.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable

from sim.machine.clock_line import Trip

TOKEN_BYTES = 16
TOKEN_TIMEOUT_S = 2.0
MOST = 4  # connections at a time: the run has one, and after a cut in the network a second
_QUESTION = struct.Struct("!Q")
_ANSWER = struct.Struct("!Qq")


class Echo:
    """An echo of this process's clock; use `Echo.open`.

    Attributes
    ----------
    address, port
        Where it listens.
    token
        What who asks must know, in hexadecimal digits.
    """

    def __init__(self, server: socket.socket, now: Callable[[], int]) -> None:
        self.address, self.port = server.getsockname()[:2]
        self.token = secrets.token_hex(TOKEN_BYTES)
        self._server = server
        self._now = now
        self._connections: set[socket.socket] = set()
        threading.Thread(target=self._listen, name="echo", daemon=True).start()

    @classmethod
    def open(cls, address: str = "127.0.0.1", *, now: Callable[[], int] = time.monotonic_ns) -> Echo:
        """Listen at a free port of an address.

        Raises
        ------
        OSError
            The address is not this machine's.
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return cls(socket.create_server((address, 0), family=family, backlog=MOST), now)

    def _listen(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                connection, _ = self._server.accept()
                if len(self._connections) >= MOST:
                    connection.close()
                    continue
                self._connections.add(connection)
                threading.Thread(target=self._answer, args=(connection,), name="echo", daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        now, token = self._now, bytes.fromhex(self.token)
        with contextlib.suppress(OSError), connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(TOKEN_TIMEOUT_S)
            if hmac.compare_digest(_receive(connection, TOKEN_BYTES), token):
                connection.settimeout(None)
                while True:
                    (number,) = _QUESTION.unpack(_receive(connection, _QUESTION.size))
                    connection.sendall(_ANSWER.pack(number, now()))
        self._connections.discard(connection)

    def close(self) -> None:
        """Stop answering; may be called twice."""
        for one in (self._server, *self._connections):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class EchoClient:
    """A connection to an echo, for who may wait.

    Raises
    ------
    OSError
        There is no echo, it does not answer in time, or wants another token.
    """

    def __init__(self, address: str, port: int, *, token: str, timeout_s: float) -> None:
        self._connection = socket.create_connection((address, port), timeout=timeout_s)
        self._number = 0
        try:
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connection.sendall(bytes.fromhex(token))
            self.trip()  # one that was let in answers
        except BaseException:
            self._connection.close()
            raise

    def trip(self) -> Trip:
        """Ask once; raise OSError where no answer comes."""
        self._number += 1
        sent_ns = time.monotonic_ns()
        self._connection.sendall(_QUESTION.pack(self._number))
        answer = _receive(self._connection, _ANSWER.size)
        back_ns = time.monotonic_ns()
        number, there_ns = _ANSWER.unpack(answer)
        if number != self._number:
            raise OSError("the echo answered something else")
        return Trip(sent_ns, there_ns, back_ns)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _receive(connection: socket.socket, size: int) -> bytes:
    """Return so many bytes, or raise OSError at the end of what comes."""
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise ConnectionError("the connection was closed")
        data += more
    return data
