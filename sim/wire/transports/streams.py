"""Redis Streams with a consumer group per service: the broker keeps each event until one pod of each service has acknowledged it.

A channel is a stream of the same name, a service a consumer group on it, a pod a consumer. An event reaches **one** pod of each
service. Order is kept within a channel; between channels there is none.

Rules
-----
1. One connection per subscription, one read after another. A read waits at the broker for at most `BLOCK_S`: its answer, empty or not,
   is the connection's sign of life, so `ping` only looks whether it is overdue.
2. What is acknowledged was handled: XACK leaves when `heard` returned nothing, or when the futures that it returned are done and none
   was cancelled. A pod that ends before leaves its entries to the others, so an event can be heard twice, and late ones out of order.
3. A pod first reads what it was given before and did not acknowledge; every `stream_claim_s` it claims what another left that long.
   An entry that this connection is still handling is not handled again, and claiming it anew keeps it from the others.
4. A group begins at the stream's end when its service is new, and at its beginning when the pod was there before or the group is gone
   from under it: the broker came back empty, and what was added since belongs to it.
5. Everything is bounded: entries and, by what was read before, bytes of one read; the stream by MAXLEN; attempts to make a group.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import hiredis

from sim.errors import BrokerRefused
from sim.machine.clock import NS_PER_S, now_ns
from sim.machine.freezer import Freezer
from sim.wire.address import Address
from sim.wire.clients import PublishCallbacks, SubscribingClient, SubscriptionCallbacks
from sim.wire.connection import Command, Wire, open_confirmed
from sim.wire.pipeline import Pipeline, open_pipeline
from sim.wire.read_memo import C, Handling
from sim.wire.refusals import in_short
from sim.wire.reply_reader import BadReply, ReplyReader
from sim.wire.resp import pack
from sim.wire.stream_store import StreamStore, count_of

FIELD = b"e"  # the field of an entry that holds the envelope
BLOCK_S = 0.5
BUSY_BLOCK_S = 0.02  # while events are being handled: their acknowledgement waits behind the read
FIRST_COUNT = 16  # entries of one channel in the first read; later ones ask for up to twice as many as the one before
MAX_COUNT = 256
READ_BYTES = 4 * 1024 * 1024  # what one read may bring of one channel, if its entries are as large as those before
MAX_ANEW = 3  # how often in a row a group is made anew
NOTHING = b"0-0"

Entry = tuple[bytes, bytes]  # key, entry id
Reply = Callable[[Any, int], None]


class Subscription(Generic[C]):
    """A connection that reads streams as one consumer of a group."""

    def __init__(
        self, wire: Wire, keys: Sequence[bytes], *, client: SubscribingClient, callbacks: SubscriptionCallbacks[C], claim_s: float
    ) -> None:
        self._wire = wire
        self._keys = keys
        self._group, self._consumer = client.group.encode(), client.consumer.encode()
        self._claim_ns = int(claim_s * NS_PER_S)
        self._decode, self._heard = callbacks.memo.decode, callbacks.heard
        self._by_channel = callbacks.memo.by_channel
        self._reader = ReplyReader()
        self._replies: deque[Reply] = deque()  # what to do with each answer that is still to come
        self._due_ns = 0  # when the last of them is overdue
        self._was_overdue = False
        self._busy = False  # a read, a claim or a repair has no answer yet
        self._own_from = dict.fromkeys(keys, b"0")  # where to read on in what this consumer was given before, by key, until all is read
        self._claims: deque[tuple[bytes, bytes]] = deque()  # (key, cursor) still to be claimed from in this round
        self._claim_at_ns = now_ns() + self._claim_ns
        self._handling: set[Entry] = set()
        self._done: dict[bytes, list[bytes]] = {}  # handled and not yet acknowledged, by key
        self._count = FIRST_COUNT
        self._anew = 0
        self._paused = False
        self._finishing: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Take the connection over and begin to read."""
        self._wire.on_read = self._read
        self._go_on()

    # -- one command after another -----------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Acknowledge what is done, then send what is due next, unless an answer is still to come."""
        if self._wire.is_gone:
            return
        self._acknowledge()
        if self._busy:
            return
        if self._finishing is not None:
            if not self._replies and not self._handling and not self._finishing.done():
                self._finishing.set_result(None)
        elif self._paused:
            return
        elif self._own_from:
            self._ask_read(self._own_from)
        elif self._claims:
            self._ask_claim(*self._claims[0])
        elif now_ns() >= self._claim_at_ns:
            self._claims.extend((key, NOTHING) for key in self._keys)
            self._ask_claim(*self._claims[0])
        else:
            until_claim_s = (self._claim_at_ns - now_ns()) / NS_PER_S
            self._ask_read(dict.fromkeys(self._keys, b">"), block_s=min(BUSY_BLOCK_S if self._handling else BLOCK_S, until_claim_s))

    def _ask(self, *words: bytes, then: Reply, block_s: float = 0.0) -> None:
        assert self._wire.transport is not None
        self._replies.append(then)
        self._due_ns = max(self._due_ns, now_ns() + int(1.2 * block_s * NS_PER_S))  # a broker ends a wait some ms late
        self._wire.transport.write(pack(*words))

    def _ask_read(self, begin: dict[bytes, bytes], *, block_s: float | None = None) -> None:
        self._busy = True
        block = (b"BLOCK", b"%d" % max(1, int(block_s * 1000))) if block_s is not None else ()
        count = (b"COUNT", b"%d" % self._count)
        words = (b"XREADGROUP", b"GROUP", self._group, self._consumer, *count, *block, b"STREAMS", *begin, *begin.values())
        self._ask(*words, then=self._own_read if block_s is None else self._new_read, block_s=block_s or 0.0)

    def _ask_claim(self, key: bytes, cursor: bytes) -> None:
        self._busy = True
        idle_ms = b"%d" % max(1, self._claim_ns // 1_000_000)
        self._ask(b"XAUTOCLAIM", key, self._group, self._consumer, idle_ms, cursor, b"COUNT", b"%d" % self._count, then=self._claimed)

    def _acknowledge(self) -> None:
        done, self._done = self._done, {}
        for key, ids in done.items():
            self._ask(b"XACK", key, self._group, *ids, then=lambda reply, at_ns: None)  # if it is refused, the entry is read again later

    def _read(self, data: bytes) -> None:
        at_ns = now_ns()
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if self._replies:
                self._was_overdue = False
                try:
                    self._replies.popleft()(reply, at_ns)
                except (TypeError, ValueError, LookupError):
                    raise BadReply(f"the server's answer about a stream has not the form of one: {in_short(reply)}") from None
        self._go_on()

    # -- answers -----------------------------------------------------------------------------------------------

    def _new_read(self, reply: Any, at_ns: int) -> None:
        self._busy = False
        if isinstance(reply, hiredis.ReplyError):
            self._failed(reply)
            return
        self._anew = 0
        self._take(reply or [], at_ns)

    def _own_read(self, reply: Any, at_ns: int) -> None:
        self._busy = False
        if isinstance(reply, hiredis.ReplyError):
            self._failed(reply)
            return
        self._own_from = {key: entries[-1][0] for key, entries in reply or [] if entries}
        self._take(reply or [], at_ns)

    def _claimed(self, reply: Any, at_ns: int) -> None:
        self._busy = False
        key, _ = self._claims.popleft()
        if isinstance(reply, hiredis.ReplyError):
            self._claims.clear()
            self._failed(reply)
            return
        if reply[0] != NOTHING:
            self._claims.appendleft((key, reply[0]))
        if not self._claims:
            self._claim_at_ns = now_ns() + self._claim_ns
        self._take([(key, [entry for entry in reply[1] if entry is not None])], at_ns)

    def _take(self, streams: Sequence[tuple[bytes, Sequence[Any]]], at_ns: int) -> None:
        """Pass the entries of one answer on to be handled; one that was trimmed meanwhile has no content and is only acknowledged."""
        payloads: list[Any] = []
        sizes: list[int] = []
        taken: list[Entry] = []
        for key, entries in streams:
            for entry_id, content in entries:
                if (key, entry_id) not in self._handling:
                    taken.append((key, entry_id))
                    if content is not None:
                        payload = _payload(content)
                        payloads.append((key, payload) if self._by_channel else payload)
                        sizes.append(len(payload))
        if payloads:
            self._count = max(1, min(2 * self._count, MAX_COUNT, READ_BYTES // max(1, *sizes)))
        handling = self._heard(self._decode(payloads), at_ns) if payloads else None
        if handling:
            self._wait_for(handling, taken)
        else:
            self._handled(taken)

    def _wait_for(self, handling: Handling, taken: list[Entry]) -> None:
        self._handling.update(taken)
        left = set(handling)

        def done(future: asyncio.Future[Any]) -> None:
            left.discard(future)
            if not left:
                self._handling.difference_update(taken)
                if not any(one.cancelled() for one in handling):
                    self._handled(taken)
                self._go_on()

        for one in handling:
            one.add_done_callback(done)

    def _handled(self, entries: list[Entry]) -> None:
        for key, entry_id in entries:
            self._done.setdefault(key, []).append(entry_id)

    def _failed(self, error: Exception) -> None:
        """Create the group again when it is gone; give the connection up for any other error."""
        if not str(error).startswith(("NOGROUP", "UNBLOCKED")) or self._anew >= MAX_ANEW:
            self._wire.give_up(str(error))
            return
        self._anew += 1
        self._busy = True
        *commands, last = _begin(self._keys, self._group, self._consumer, begin=b"0")
        for words in commands:
            self._ask(*words, then=self._made)
        self._ask(*last, then=self._made_last)

    def _made(self, reply: Any, at_ns: int) -> None:
        if _is_failure(reply):
            self._wire.give_up(str(reply))

    def _made_last(self, reply: Any, at_ns: int) -> None:
        self._busy = False
        self._made(reply, at_ns)

    # -- what the owner may ask --------------------------------------------------------------------------------

    def ping(self) -> bool:
        """Return False when an answer was overdue at the last call and still is: the read that always waits is the heartbeat.

        While paused there is no such read, and a PING is sent instead.
        """
        if self._wire.is_gone:
            return False
        overdue = bool(self._replies) and now_ns() > self._due_ns
        dead = overdue and self._was_overdue
        self._was_overdue = overdue
        if not self._replies:
            self._ask(b"PING", then=lambda reply, at_ns: None)
            self._was_overdue = True
        return not dead

    async def finish(self) -> None:
        """Read no more; return when all that was heard is handled and acknowledged, or the connection is gone."""
        if self._wire.is_gone:
            return
        self._finishing = finishing = asyncio.get_running_loop().create_future()
        lost = self._wire.on_lost

        def on_lost(reason: str) -> None:
            if not finishing.done():
                finishing.set_result(None)
            lost(reason)

        self._wire.on_lost = on_lost
        self._go_on()
        await finishing

    def give_up(self, reason: str) -> None:
        """Drop the connection and call `lost`."""
        self._wire.give_up(reason)

    def pause(self) -> None:
        """Read no more; the broker keeps the rest, also for other pods of the service."""
        self._paused = True

    def resume(self) -> None:
        """Go on reading."""
        self._paused = False
        self._go_on()

    def close(self) -> None:
        """Close the connection."""
        self._wire.close()

    def abort(self) -> None:
        """Drop the connection at once."""
        self._wire.abort()


def _payload(content: list[bytes]) -> bytes:
    """Return the envelope of an entry; another program's entry without one gives no event, and counts as malformed."""
    names = content[::2]
    return content[2 * names.index(FIELD) + 1] if FIELD in names else b""


def _begin(keys: Sequence[bytes], group: bytes, consumer: bytes, *, begin: bytes) -> Iterator[tuple[bytes, ...]]:
    """Yield the commands after which the group and the consumer exist, whether or not they did before."""
    for key in keys:
        yield (b"XGROUP", b"CREATE", key, group, begin, b"MKSTREAM")
        yield (b"XGROUP", b"CREATECONSUMER", key, group, consumer)


def _is_failure(reply: Any) -> bool:
    return isinstance(reply, hiredis.ReplyError) and not str(reply).startswith("BUSYGROUP")


@dataclass(frozen=True)
class Streams:
    """The transport that keeps each event in a stream, and hands it to one pod of each service.

    Attributes
    ----------
    stream_max_len
        Entries that a stream keeps, about: the broker trims whole nodes.
    stream_claim_s
        How long an entry may stay unacknowledged before another pod takes it.
    """

    stream_max_len: int = 100_000
    stream_claim_s: float = 5.0

    one_per_service = True
    any_node = False
    store = StreamStore()

    async def subscribe(
        self, address: Address, channels: Sequence[str], *, client: SubscribingClient, callbacks: SubscriptionCallbacks[C]
    ) -> Subscription[C]:
        """Join the group on every channel; return once the broker counts the consumer on all of them."""
        keys = [channel.encode() for channel in channels]
        group, consumer, begin = client.group.encode(), client.consumer.encode(), b"0" if client.returning else b"$"

        async def confirm(wire: Wire) -> Subscription[C]:
            for words in _begin(keys, group, consumer, begin=begin):
                reply = await wire.command(*(word.decode() for word in words))
                if _is_failure(reply):
                    raise BrokerRefused(str(reply))
            return Subscription(wire, keys, client=client, callbacks=callbacks, claim_s=self.stream_claim_s)

        wire, subscription = await open_confirmed(address, client_name=client.name, confirm=confirm, freezer=client.freezer)
        wire.on_lost = callbacks.lost
        subscription.start()
        return subscription

    async def open_publisher(
        self, address: Address, *, client_name: str, callbacks: PublishCallbacks, freezer: Freezer | None = None
    ) -> Pipeline:
        """Open a connection to add to streams; the answer is the entry's id and says nothing of receivers."""
        length = b"%d" % self.stream_max_len

        def frame(channel: bytes, payload: bytes) -> bytes:
            return pack(b"XADD", channel, b"MAXLEN", b"~", length, b"*", FIELD, payload)

        return await open_pipeline(address, client_name=client_name, frame=frame, callbacks=callbacks, freezer=freezer)

    def publish_words(self, channel: str, payload: bytes) -> tuple[str | bytes, ...]:
        """Return the command that publishes."""
        return ("XADD", channel, "MAXLEN", "~", str(self.stream_max_len), "*", FIELD, payload)

    async def subscribers(self, commands: Sequence[Command], address: Address, channels: Sequence[str]) -> list[int]:
        """Count the consumers of all groups; one stays counted when it is gone, until its group is."""
        return [
            sum(count_of(group, b"consumers", "XINFO GROUPS") for group in await self.store.groups(commands[0], channel))
            for channel in channels
        ]
