"""A server on a real socket of 127.0.0.1 that answers what a test says, and a real one that lacks some commands."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hiredis
import redis

from sim.grounds.server_binary import server_binary
from sim.machine.process import Child
from sim.wire.address import Address, free_port, parse_address

READY_S = 20.0
Answer = Callable[[list[bytes]], bytes]


class StrangeServer:
    """A server whose answer to each command is what `answer` gives for its words; `asked` are all that came."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.asked: list[list[bytes]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.address: Address = parse_address(f"redis://127.0.0.1:{self._listener.getsockname()[1]}")
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        reader = hiredis.Reader()
        with client, contextlib.suppress(OSError, hiredis.ProtocolError):
            while data := client.recv(65536):
                reader.feed(data)
                while (words := reader.gets()) is not False:
                    self.asked.append(words)
                    client.sendall(self._answer(words))

    def close(self) -> None:
        self._listener.close()
        for client in self._open:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def strange_server(answer: Answer) -> Iterator[StrangeServer]:
    server = StrangeServer(answer)
    try:
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def server_without(*commands: str, folder: Path) -> Iterator[Address]:
    """Start a real server that does not know these commands, as behind a proxy."""
    port = free_port()
    argv = [str(server_binary()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    for command in commands:
        argv += ["--rename-command", command, ""]
    child = Child(argv, log=folder / "server.log")
    try:
        deadline_s = time.monotonic() + READY_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert child.poll() is None and time.monotonic() < deadline_s, child.tail()
            time.sleep(0.02)
        yield parse_address(f"redis://127.0.0.1:{port}")
    finally:
        child.end()


def client_of(address: Address) -> redis.Redis:
    return redis.Redis.from_url(address.url, protocol=2, decode_responses=True)
