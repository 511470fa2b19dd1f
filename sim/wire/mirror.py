"""A broker as the mirror of a clock: question and answer go through two channels of the lab's own, where there is no other way.

As a direct echo (`sim.machine.echo`), with two more legs in each round trip. Both ends are blocking and live in threads: who asks must not
wait for a busy event loop. A trip that is lost, because the broker was away, is given up after a while; the next one has another number.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import redis

from sim.errors import BrokerUnreachable
from sim.machine.clock_line import Trip
from sim.wire.address import Address
from sim.wire.refusals import reply_text
from sim.wire.reply_reader import GuardedParser

LOOK_S = 0.5  # so often a mirror looks whether it was closed
CONNECT_TIMEOUT_S = 5.0


def _client(address: Address, name: str) -> Any:
    return redis.Redis.from_url(
        address.nodes[0].url,
        socket_timeout=CONNECT_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        protocol=2,
        client_name=name,
        parser_class=GuardedParser,
    )


def question_channel(channel: str) -> str:
    """Return the channel on which a mirror is asked."""
    return f"{channel}:ask"


def answer_channel(channel: str) -> str:
    """Return the channel on which a mirror answers."""
    return f"{channel}:answer"


class Mirror:
    """The end of a process that answers on a channel with its clock, in a thread, until it is closed."""

    def __init__(self, address: Address, channel: str, *, now: Callable[[], int] = time.monotonic_ns) -> None:
        self._address, self._channel, self._now = address, channel, now
        self._closed = threading.Event()
        threading.Thread(target=self._serve, name="mirror", daemon=True).start()

    def _serve(self) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(redis.RedisError, OSError):  # a broker that is away comes back
                self._answer()
            self._closed.wait(LOOK_S)

    def _answer(self) -> None:
        now, out = self._now, answer_channel(self._channel)
        with _client(self._address, "buslab-mirror") as client, client.pubsub(ignore_subscribe_messages=True) as questions:
            questions.subscribe(question_channel(self._channel))
            while not self._closed.is_set():
                if (message := questions.get_message(timeout=LOOK_S)) is not None:
                    client.publish(out, b"%s %d" % (message["data"], now()))

    def close(self) -> None:
        """Stop answering; may be called twice."""
        self._closed.set()


class MirrorClient:
    """The end that asks a mirror, for who may wait.

    Raises
    ------
    BrokerUnreachable
        The broker cannot be had, does not let us use the channel, or nobody answers on it in time.
    """

    def __init__(self, address: Address, channel: str, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._ask = question_channel(channel)
        self._client = _client(address, "buslab-clocks")
        self._answers = self._client.pubsub(ignore_subscribe_messages=True)
        self._number = 0
        deadline_s = time.monotonic() + timeout_s
        try:
            self._answers.subscribe(answer_channel(channel))
            self._answers.get_message(timeout=timeout_s)  # the confirmation
            while True:
                try:
                    self._trip(LOOK_S)
                    return
                except OSError:  # the mirror may not have subscribed yet
                    if time.monotonic() > deadline_s:
                        raise
        except (redis.RedisError, OSError) as error:
            self.close()
            raise BrokerUnreachable(f"no answer from the mirror on {self._ask}: {reply_text(error)}") from None

    def trip(self) -> Trip:
        """Ask once; raise OSError where no answer comes."""
        try:
            return self._trip(self._timeout_s)
        except redis.RedisError as error:
            raise OSError(reply_text(error)) from None

    def _trip(self, timeout_s: float) -> Trip:
        self._number += 1
        deadline_s = time.monotonic() + timeout_s
        sent_ns = time.monotonic_ns()
        self._client.publish(self._ask, str(self._number))
        while (left_s := deadline_s - time.monotonic()) > 0:
            message = self._answers.get_message(timeout=left_s)
            back_ns = time.monotonic_ns()
            number, _, there_ns = message["data"].partition(b" ") if message is not None else (b"", b"", b"")
            if number == b"%d" % self._number:
                return Trip(sent_ns, int(there_ns), back_ns)
        raise TimeoutError("no answer in time")

    def close(self) -> None:
        """Close both connections."""
        for one in (self._answers, self._client):
            with contextlib.suppress(redis.RedisError, OSError):
                one.close()
