"""A steady fan-out computed as arrays: what `server` does event by event, for loads that no loop of events can carry.

One channel, one payload size, publishers that publish at given times, subscribers that read at once. The rules are those of
`server` and `sim.faults.link`:

1. A turn reads what waits of every publisher (`READ_BYTES` of each at most), queues the copies, and then writes once per subscriber,
   in the order of subscription; what comes meanwhile waits for the next turn.
2. So a turn of k publishes writes its j-th subscriber at ``written + j * write``: an arithmetic progression. Without jitter and without
   a rate limit no copy is ever looked at: quantiles are found by counting how many members of all progressions lie below a value.
3. With jitter or a rate limit a link is the recursion ``free = max(at, free) + size / rate``, in blocks of turns x subscribers.

`tests/grounds/model/test_fanout.py` compares it with the events themselves, copy for copy.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sim.errors import UsageError
from sim.faults.link import NS_PER_S, LinkPlan
from sim.grounds.model.costs import COLD_MAX_MS, READ_BYTES, WINDOW_BYTES, Costs, OutputBufferLimit
from sim.machine.words import count
from sim.wire.resp import message_bytes, wire_size

QUANTILES = (0.5, 0.9, 0.99, 0.999, 1.0)
BLOCK_COPIES = 1 << 18  # of one block of arrays: they stay in the processor's cache
BINS_PER_OCTAVE = 256  # of the lags under jitter or a rate limit: steps of 0.27 %

Array = np.ndarray


@dataclass(frozen=True)
class Fanout:
    """The outcome of a fan-out.

    Attributes
    ----------
    copies, turns
        How many copies arrive, in how many turns of the server.
    lag_ns
        Quantile -> lag from publish to arrival, over all copies; the smallest lag that so large a share does not exceed.
    busy_share
        Time the server's thread is busy, from the first publish's arrival to the end of its last turn.
    largest_turn
        Most publishes that one turn carried: above 1 the server batches, which is how it bears bursts.
    rate_per_s, service_rate_per_s
        Publishes offered, and the most that the server does when every turn is as full as it can be.
    stable
        Whether the offered rate is below the service rate and, where the link has a rate, its bytes are below that.
    output_buffer_bytes
        Most bytes that wait in a subscriber's output buffer: within a turn, or because its link is slower than they come.
    limit_crossed_s
        Seconds after the first publish at which that buffer crosses the limit, or None. A server cuts the subscriber then; the lags
        here go on as if it did not.
    """

    copies: int
    turns: int
    lag_ns: dict[float, int]
    busy_share: float
    largest_turn: int
    rate_per_s: float
    service_rate_per_s: float
    stable: bool
    output_buffer_bytes: int
    limit_crossed_s: float | None


@dataclass(frozen=True)
class Turns:
    """The server's turns, one entry a turn unless said otherwise; times in ns.

    Attributes
    ----------
    of_publish
        Shape (publishes,): the turn that carries each.
    begin_ns, end_ns
        When the server is busy with it.
    written_ns, write_ns
        The j-th subscriber, from 1, is written at ``written_ns + j * write_ns``.
    publishes
        How many it carries.
    """

    of_publish: Array
    begin_ns: Array
    end_ns: Array
    written_ns: Array
    write_ns: Array
    publishes: Array


def predict_fanout(
    publish_ns: Array,
    *,
    subscribers: int,
    payload_bytes: int,
    channel_bytes: int,
    publisher: Array | None = None,
    costs: Costs = Costs(),  # noqa: B008 - frozen
    link: LinkPlan = LinkPlan(),  # noqa: B008 - frozen
    limit: OutputBufferLimit = OutputBufferLimit(),  # noqa: B008 - frozen
    quantiles: Sequence[float] = QUANTILES,
    seed: int = 1,
) -> Fanout:
    """Compute lag, load and buffers of a fan-out to subscribers that read at once.

    Parameters
    ----------
    publish_ns
        int64, shape (publishes,), rising: when each event is handed to its publisher's socket, which is also its intended time.
    payload_bytes, channel_bytes
        Length of the envelope, and of the whole channel name.
    publisher
        int, shape (publishes,): the connection each is sent on; by default one for all.
    link
        Of every connection, in either direction.
    limit
        client-output-buffer-limit pubsub of the server.
    seed
        For the jitter.

    Raises
    ------
    UsageError
        No publish, no subscriber, times that fall, or a link that is held.

    Notes
    -----
    Exact to the nanosecond without jitter and rate limit; else lags are read from bins of 0.3 %. Memory: some arrays of the number of
    publishes, and blocks of `BLOCK_COPIES`.
    """
    publish_ns = np.asarray(publish_ns, dtype=np.int64)
    _check(publish_ns, subscribers, link)
    frame = message_bytes(channel_bytes, payload_bytes)
    rng = np.random.default_rng(seed)
    sender = np.zeros(len(publish_ns), dtype=np.int64) if publisher is None else np.asarray(publisher, dtype=np.int64)
    service = _Service(costs, subscribers, frame)
    turns = _follow(_arrivals(publish_ns, sender, frame, link, rng), sender, service)
    first_ns = int(turns.begin_ns[0])
    after = turns.written_ns[turns.of_publish] + link.delay_ns - publish_ns
    if link.jitter_ns or link.bytes_per_s:
        lag_ns = _binned(publish_ns, turns, subscribers, frame, link, rng, quantiles)
    else:
        lag_ns = _counted(after, turns.write_ns[turns.of_publish], subscribers, quantiles)
    buffered, crossed_ns = _buffer(turns, subscribers, frame, link, limit)
    span_s = int(publish_ns[-1] - publish_ns[0]) / NS_PER_S
    rate = (len(publish_ns) - 1) / span_s if span_s else float(NS_PER_S)
    most = service.rate_per_s(len(np.unique(sender)))
    link_keeps_up = not link.bytes_per_s or rate * frame < link.bytes_per_s
    return Fanout(
        copies=len(publish_ns) * subscribers,
        turns=len(turns.begin_ns),
        lag_ns=lag_ns,
        busy_share=int((turns.end_ns - turns.begin_ns).sum()) / (int(turns.end_ns[-1]) - first_ns),
        largest_turn=int(turns.publishes.max()),
        rate_per_s=rate,
        service_rate_per_s=most,
        stable=(rate < most or len(publish_ns) == 1) and link_keeps_up,
        output_buffer_bytes=buffered,
        limit_crossed_s=None if crossed_ns is None else (crossed_ns - int(publish_ns[0])) / NS_PER_S,
    )


def _check(publish_ns: Array, subscribers: int, link: LinkPlan) -> None:
    if not len(publish_ns) or subscribers < 1:
        raise UsageError(
            f"{count(len(publish_ns), 'publish')} to {count(subscribers, 'subscriber')}: there is no copy to "
            f"predict; give one of each at least"
        )
    if (np.diff(publish_ns) < 0).any():
        raise UsageError(f"publish_ns falls after place {int(np.argmax(np.diff(publish_ns) < 0))}: sort it")
    if link.held:
        raise UsageError("link.held: nothing arrives over a held link; give one that lets bytes pass")


def _arrivals(publish_ns: Array, sender: Array, frame: int, link: LinkPlan, rng: np.random.Generator) -> Array:
    """Return when each publish reaches the server, in order on each connection."""
    if not link.jitter_ns and not link.bytes_per_s:
        return publish_ns + link.delay_ns
    arrived = np.empty_like(publish_ns)
    for one in np.unique(sender):
        mine = np.flatnonzero(sender == one)
        sizes = np.full((len(mine), 1), frame, dtype=np.int64)
        arrived[mine] = _Links(1, link, rng).arrive(publish_ns[mine, None], sizes)[:, 0]
    return arrived


class _Links:
    """Many links at once, which take pieces block by block."""

    def __init__(self, count: int, plan: LinkPlan, rng: np.random.Generator) -> None:
        self._plan = plan
        self._rng = rng
        self._free_ns = np.zeros(count, dtype=np.int64)
        self._arrived_ns = np.zeros(count, dtype=np.int64)

    def arrive(self, sent_ns: Array, sizes: Array) -> Array:
        """Return when pieces arrive; sent_ns has shape (pieces, links) and is used up, sizes (pieces, 1)."""
        plan, at_ns = self._plan, sent_ns
        if plan.bytes_per_s:
            takes = sizes * NS_PER_S // plan.bytes_per_s
            passed = np.cumsum(takes, axis=0)  # the recursion in closed form: what passed, and the worst wait for a start
            starts = np.maximum(at_ns - (passed - takes), self._free_ns)
            at_ns = np.maximum.accumulate(starts, axis=0) + passed
            self._free_ns = at_ns[-1].copy()
        at_ns = at_ns + plan.delay_ns
        if plan.jitter_ns:
            at_ns += (plan.jitter_ns * self._rng.random(at_ns.shape)).astype(np.int64)
        at_ns[0] = np.maximum(at_ns[0], self._arrived_ns)
        np.maximum.accumulate(at_ns, axis=0, out=at_ns)
        self._arrived_ns = at_ns[-1].copy()
        return at_ns


class _Service:
    """The cost of the server's turns."""

    def __init__(self, costs: Costs, subscribers: int, frame: int) -> None:
        self.costs = costs
        self.subscribers = subscribers
        self.frame = frame
        self.each_ns = int(costs.command_ns) + int(subscribers * costs.copy_ns)
        self.answer = wire_size(subscribers)
        self.most = -(-READ_BYTES // frame)  # publishes of one connection in one turn

    def write_ns(self, publishes: int) -> int:
        """Return what one subscriber's write of so many copies takes."""
        return int(self.costs.write_ns + self.costs.byte_ns * (publishes * self.frame))

    def answer_ns(self, publishes: int) -> int:
        """Return what the answer to so many publishes of one connection takes."""
        return int(self.costs.write_ns + self.costs.byte_ns * (publishes * self.answer))

    def turn_ns(self, counts: Sequence[int], *, slept_ns: int = 0) -> tuple[int, int]:
        """Return how long a turn reads, and how long it lasts; counts are publishes by connection, the sleep is before it."""
        publishes = sum(counts)
        slept_ms = min(slept_ns / 1e6, COLD_MAX_MS)
        waking = int(self.costs.turn_ns + self.costs.cold_ns * math.sqrt(slept_ms))
        reading = waking + len(counts) * int(self.costs.read_ns) + publishes * self.each_ns
        return reading, reading + self.subscribers * self.write_ns(publishes) + sum(map(self.answer_ns, counts))

    def rate_per_s(self, connections: int) -> float:
        """Return the publishes per second of turns as full as can be."""
        return self.most * connections * NS_PER_S / max(1, self.turn_ns([self.most] * connections)[1])


def _follow(arrived_ns: Array, sender: Array, service: _Service) -> Turns:
    """Return the server's turns: in closed form where each carries one publish and costs the same, else one after another."""
    order = np.argsort(arrived_ns, kind="stable")
    at_ns = arrived_ns[order]
    reading, lasts = service.turn_ns([1])
    place = np.arange(len(at_ns), dtype=np.int64)
    end_ns = np.maximum.accumulate(at_ns - place * lasts) + (place + 1) * lasts
    begin_ns = end_ns - lasts
    of_publish = np.empty(len(at_ns), dtype=np.int64)
    if service.costs.cold_ns == 0 and (at_ns[1:] > begin_ns[:-1]).all():
        of_publish[order] = place
        write = np.full(len(at_ns), service.write_ns(1), dtype=np.int64)
        return Turns(of_publish, begin_ns, end_ns, begin_ns + reading, write, np.ones(len(at_ns), dtype=np.int64))
    turn_of, rows = _one_by_one(at_ns.tolist(), sender[order].tolist(), service)
    of_publish[order] = turn_of
    return Turns(of_publish, *np.array(rows, dtype=np.int64).T.copy())


def _one_by_one(at_ns: list[int], sender: list[int], service: _Service) -> tuple[list[int], list[tuple[int, ...]]]:
    """Return the turn of each publish, and (begin, end, written, write, publishes) of each turn."""
    turn_of = [0] * len(at_ns)
    rows: list[tuple[int, ...]] = []
    waiting: dict[int, deque[int]] = {}
    next_one = free_ns = 0
    while waiting or next_one < len(at_ns):
        begin_ns = free_ns if waiting else max(free_ns, at_ns[next_one])
        while next_one < len(at_ns) and at_ns[next_one] <= begin_ns:
            waiting.setdefault(sender[next_one], deque()).append(next_one)
            next_one += 1
        counts, left = [], {}
        for one, its in waiting.items():
            counts.append(min(len(its), service.most))
            for _ in range(counts[-1]):
                turn_of[its.popleft()] = len(rows)
            if its:
                left[one] = its
        waiting = left
        reading, lasts = service.turn_ns(counts, slept_ns=begin_ns - free_ns)
        free_ns = begin_ns + lasts
        rows.append((begin_ns, free_ns, begin_ns + reading, service.write_ns(sum(counts)), sum(counts)))
    return turn_of, rows


def _counted(after: Array, write: Array, subscribers: int, quantiles: Sequence[float]) -> dict[float, int]:
    """Return exact quantiles of all ``after + j * write``, j from 1 to subscribers, without making them."""

    def not_above(value: int) -> int:
        steps = np.where(write > 0, (value - after) // np.maximum(write, 1), np.where(value >= after, subscribers, 0))
        return int(np.clip(steps, 0, subscribers).sum())

    found = {}
    for quantile in quantiles:
        wanted = max(1, int(np.ceil(quantile * (len(after) * subscribers))))
        low, high = int((after + write).min()), int((after + subscribers * write).max())
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if not_above(middle) >= wanted else (middle + 1, high)
        found[quantile] = low
    return found


def _binned(
    publish_ns: Array, turns: Turns, subscribers: int, frame: int, link: LinkPlan, rng: np.random.Generator, quantiles: Sequence[float]
) -> dict[float, int]:
    """Return quantiles of the lags over links that differ from copy to copy, to a bin's width."""
    bins = np.zeros(64 * BINS_PER_OCTAVE, dtype=np.int64)
    greatest = 0
    for lags in _blocks(publish_ns, turns, subscribers, frame, link, rng):
        greatest = max(greatest, int(lags.max()))
        places = (np.log2(np.maximum(lags, 1).astype(np.float32)) * BINS_PER_OCTAVE).astype(np.int32)
        bins += np.bincount(places.ravel(), minlength=len(bins))
    below = np.cumsum(bins)
    found = {}
    for quantile in quantiles:
        place = int(np.searchsorted(below, max(1, np.ceil(quantile * below[-1]))))
        found[quantile] = greatest if quantile >= 1 else int(2 ** ((place + 0.5) / BINS_PER_OCTAVE))
    return found


def _blocks(publish_ns: Array, turns: Turns, subscribers: int, frame: int, link: LinkPlan, rng: np.random.Generator) -> Iterator[Array]:
    """Yield the lags of the publishes of some turns, shape (publishes, subscribers)."""
    links = _Links(subscribers, link, rng)
    number = np.arange(1, subscribers + 1, dtype=np.int64)
    by_turn = np.argsort(turns.of_publish, kind="stable")
    upto = np.cumsum(turns.publishes)
    step = max(1, int(BLOCK_COPIES / subscribers / turns.publishes.mean()))
    for first in range(0, len(upto), step):
        some = slice(first, first + step)
        sent_ns = turns.written_ns[some, None] + number * turns.write_ns[some, None]
        arrived_ns = links.arrive(sent_ns, (turns.publishes[some] * frame)[:, None])
        publishes = by_turn[upto[first] - turns.publishes[first] : upto[some][-1]]
        yield arrived_ns[turns.of_publish[publishes] - first] - publish_ns[publishes, None]


def _buffer(turns: Turns, subscribers: int, frame: int, link: LinkPlan, limit: OutputBufferLimit) -> tuple[int, int | None]:
    """Return the most bytes that wait for the subscriber that is written last, and when they cross the limit.

    In a turn all its copies wait until the write. On a link with a rate, what is beyond the window waits longer.
    """
    most = int(turns.publishes.max()) * frame
    if not link.bytes_per_s:
        return most, None
    under_way: deque[tuple[int, int]] = deque()  # (arrival, bytes), in the window
    waiting: deque[tuple[int, int]] = deque()
    window = buffered = free_ns = soft_since_ns = 0
    crossed_ns = None
    written_ns = turns.written_ns + subscribers * turns.write_ns
    for begin_ns, at_ns, size in zip(turns.begin_ns.tolist(), written_ns.tolist(), (turns.publishes * frame).tolist(), strict=True):
        while under_way and under_way[0][0] <= begin_ns:
            window -= under_way.popleft()[1]
            while waiting and window < WINDOW_BYTES:
                under_way.append(waiting.popleft())
                window += under_way[-1][1]
                buffered -= under_way[-1][1]
        free_ns = max(at_ns, free_ns) + size * NS_PER_S // link.bytes_per_s
        if waiting or window >= WINDOW_BYTES:
            waiting.append((free_ns + link.delay_ns, size))
            buffered += size
        else:
            under_way.append((free_ns + link.delay_ns, size))
            window += size
        most = max(most, buffered)
        soft_since_ns = (soft_since_ns or begin_ns) if 0 < limit.soft_bytes < buffered else 0
        soft = soft_since_ns and begin_ns - soft_since_ns > limit.soft_s * NS_PER_S
        if crossed_ns is None and (soft or 0 < limit.hard_bytes < buffered):
            crossed_ns = begin_ns
    return most, crossed_ns
