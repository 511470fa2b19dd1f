"""An independent count: subscribers on plain sockets, each with a reader of its own, that share no code with the lab.

A subscriber subscribes to one channel under a name of its own (``w3.2``: the third, its second connection), notes each event that it is
sent by the id in it, and connects again when its connection ends.
"""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import threading
import time

EVENT_ID = re.compile(rb'"eventId":"(evt_[0-9a-f]{16})"')
RETRY_S = 0.01


class RawSubscribers:
    """Some of them, in one thread; `heard` maps the name of each connection to the ids that it was sent, in order."""

    def __init__(self, port: int, *, many: int, channel: str) -> None:
        self.heard: dict[str, list[str]] = {}
        self._port, self._channel = port, channel
        self._numbers = dict.fromkeys(range(many), 0)
        self._at: dict[int, tuple[socket.socket, str]] = {}
        self._rest: dict[str, bytes] = {}
        self._due: dict[int, float] = dict.fromkeys(range(many), 0.0)
        self._ready = selectors.DefaultSelector()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> RawSubscribers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)
        for one, _name in self._at.values():
            one.close()

    def until_quiet(self, *, seconds: float = 0.5, timeout_s: float = 60.0) -> None:
        """Wait until nothing has come for a while."""
        deadline, last, since = time.monotonic() + timeout_s, -1, time.monotonic()
        while time.monotonic() < deadline:
            count = sum(map(len, self.heard.values()))
            if count != last:
                last, since = count, time.monotonic()
            elif time.monotonic() - since > seconds:
                return
            time.sleep(0.02)
        raise AssertionError("they still hear")

    def until_subscribed(self, *, timeout_s: float = 30.0) -> None:
        """Wait until each has its confirmation."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if len(self._at) == len(self._numbers) and all(name in self._rest for _, name in list(self._at.values())):
                return
            time.sleep(0.01)
        raise AssertionError("not all are subscribed")

    def _run(self) -> None:
        while not self._ended.is_set():
            for number, due in list(self._due.items()):
                if time.monotonic() >= due:
                    self._connect(number)
            for key, _ in self._ready.select(0.01):
                self._read(key.data)

    def _connect(self, number: int) -> None:
        try:
            one = socket.create_connection(("127.0.0.1", self._port), timeout=5)
        except OSError:
            self._due[number] = time.monotonic() + RETRY_S
            return
        del self._due[number]
        self._numbers[number] += 1
        name = f"w{number}.{self._numbers[number]}"
        channel = self._channel.encode()
        with contextlib.suppress(OSError):
            one.sendall(f"CLIENT SETNAME {name}\r\n".encode() + b"*2\r\n$9\r\nSUBSCRIBE\r\n$%d\r\n%b\r\n" % (len(channel), channel))
        one.setblocking(False)
        self._at[number] = one, name
        self.heard[name] = []
        self._ready.register(one, selectors.EVENT_READ, number)

    def _read(self, number: int) -> None:
        one, name = self._at[number]
        try:
            data = one.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._ready.unregister(one)
            one.close()
            del self._at[number]
            self._rest.pop(name, None)
            self._due[number] = time.monotonic() + RETRY_S
            return
        data = self._rest.get(name, b"") + data
        end = 0
        for found in EVENT_ID.finditer(data):
            self.heard[name].append(found[1].decode())
            end = found.end()
        self._rest[name] = data[end:] if len(data) - end < 4096 else data[-4096:]
