"""Witnesses of an outage that share no code with the lab, as a process of their own: ``python broker_taps.py BROKER_PORT PODS``.

- A *tap* stands between one pod and the broker. It passes bytes on as they come and writes down what the broker sent to that pod, so it
  hears exactly what a raw subscriber with the pod's own connection hears, and knows when that connection was subscribed.
- A *subscriber* beside each tap has a socket of its own and tries to connect every few milliseconds while the broker is away: it says
  what the broker carried for whoever was there.

It prints one JSON line with the taps' ports, and at the end of its input one with all that was heard. It has its own reader of RESP and
its own event loop; times are CLOCK_MONOTONIC in ns.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import sys
import time

CHANNELS = [
    b"aiponge:events:" + name
    for name in (
        b"analytics.events.batch",
        b"analytics.metric.recorded",
        b"analytics.provider.usage",
        b"config.template.invalidated",
        b"config.provider.invalidated",
        b"config.cache.invalidate",
    )
]
RETRY_S = 0.003
EVENT_ID = re.compile(rb'"eventId":"(evt_[0-9a-f]{16})"')


class Heard:
    """What one connection heard, read from its RESP replies: messages as (ns, channel, event id), and when it was subscribed."""

    def __init__(self, messages: list[list[object]], subscribed_ns: list[int]) -> None:
        self.messages, self.subscribed_ns, self.rest = messages, subscribed_ns, b""

    def feed(self, data: bytes, now: int) -> None:
        self.rest += data
        while (frame := self.frame()) is not None:
            if len(frame) == 3 and frame[0] == b"message" and (found := EVENT_ID.search(frame[2])):
                self.messages.append([now, frame[1].decode(), found[1].decode()])
            elif len(frame) == 3 and frame[0] == b"subscribe":
                self.subscribed_ns.append(now)

    def frame(self) -> list[bytes] | None:
        """Return the next reply's words, or None when it is not whole yet."""
        line, found, _ = self.rest.partition(b"\r\n")
        if not found:
            return None
        if line[:1] != b"*":
            at = len(line) + 2 if line[:1] != b"$" else len(line) + 2 + int(line[1:]) + 2
            if len(self.rest) < at:
                return None
            self.rest = self.rest[at:]
            return [line]
        words, at = [], len(line) + 2
        for _ in range(int(line[1:])):
            end = self.rest.find(b"\r\n", at)
            if end < 0:
                return None
            kind, size = self.rest[at : at + 1], self.rest[at + 1 : end]
            at = end + 2
            if kind == b"$":
                if len(self.rest) < at + int(size) + 2:
                    return None
                words.append(self.rest[at : at + int(size)])
                at += int(size) + 2
            else:
                words.append(size)
        self.rest = self.rest[at:]
        return words


class Taps:
    """The taps and the subscribers of all pods."""

    def __init__(self, port: int, pods: int) -> None:
        self.port = port
        self.eyes = selectors.DefaultSelector()
        self.listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(pods)]
        self.heard = [{"tap": [], "tap_subscribed_ns": [], "raw": [], "raw_subscribed_ns": []} for _ in range(pods)]
        self.pairs: dict[socket.socket, tuple[socket.socket, Heard | None]] = {}  # one end of a tap -> the other, its account
        self.raw: dict[socket.socket, tuple[int, Heard]] = {}
        for pod, listener in enumerate(self.listeners):
            self.eyes.register(listener, selectors.EVENT_READ, pod)
        self.eyes.register(sys.stdin, selectors.EVENT_READ)

    def run(self) -> None:
        """Listen until the input ends."""
        while True:
            for pod in set(range(len(self.listeners))) - {pod for pod, _ in self.raw.values()}:
                self.subscribe(pod)
            for key, _ in self.eyes.select(RETRY_S):
                if key.fileobj is sys.stdin:
                    self.forget(*self.pairs, *self.raw, *self.listeners)
                    return
                if key.fileobj in self.listeners:
                    self.let_in(key.data)
                elif key.fileobj in self.raw or key.fileobj in self.pairs:  # else it was closed a moment ago, with its other end
                    self.read(key.fileobj)

    def subscribe(self, pod: int) -> None:
        names = b"".join(b"$%d\r\n%b\r\n" % (len(c), c) for c in CHANNELS)
        try:
            wire = socket.create_connection(("127.0.0.1", self.port), timeout=1)
            wire.sendall(b"*%d\r\n$9\r\nSUBSCRIBE\r\n" % (len(CHANNELS) + 1) + names)
        except OSError:
            return
        self.raw[wire] = (pod, Heard(self.heard[pod]["raw"], self.heard[pod]["raw_subscribed_ns"]))
        self.eyes.register(wire, selectors.EVENT_READ)

    def let_in(self, pod: int) -> None:
        near, _ = self.listeners[pod].accept()
        try:
            far = socket.create_connection(("127.0.0.1", self.port), timeout=1)
        except OSError:
            near.close()
            return
        for end in (near, far):
            end.settimeout(5)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.eyes.register(end, selectors.EVENT_READ)
        self.pairs[near] = (far, None)
        self.pairs[far] = (near, Heard(self.heard[pod]["tap"], self.heard[pod]["tap_subscribed_ns"]))

    def read(self, end: socket.socket) -> None:
        try:
            data = end.recv(1 << 16)
        except OSError:
            data = b""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)  # before it is passed on: then nobody can have it earlier
        if end in self.raw:
            self.raw[end][1].feed(data, now) if data else self.forget(end)
            return
        far, account = self.pairs[end]
        try:
            far.sendall(data)
        except OSError:
            data = b""
        if not data:
            self.forget(end, far)
        elif account is not None:
            account.feed(data, now)

    def forget(self, *ends: socket.socket) -> None:
        for end in ends:
            self.eyes.unregister(end)
            self.pairs.pop(end, None)
            self.raw.pop(end, None)
            end.close()


if __name__ == "__main__":
    taps = Taps(int(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps([listener.getsockname()[1] for listener in taps.listeners]), flush=True)
    taps.run()
    print(json.dumps(taps.heard), flush=True)
