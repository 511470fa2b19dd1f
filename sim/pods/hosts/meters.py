"""Measure the process that holds pods, and the lag so far: how late its event loop is, what processor time it uses and what it waited."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim.bus.envelope import Chunk, decode_read, intended_ns
from sim.errors import BuslabError
from sim.machine.clock import NS_PER_MS, NS_PER_S, Alarm, is_virtual, running_clock
from sim.machine.waits import OwnWaits
from sim.record.recorder import ROWS_PER_PART, Recorder
from sim.wire.read_memo import Decode

FLUSH_PERIOD_NS = 2 * NS_PER_S
LAG_PERIOD_NS = 20 * NS_PER_MS  # how often the loop's own lateness is measured
LAG_ROW_NS = 250 * NS_PER_MS  # how often a row of `hosts` is written
MAX_CORRELATION = 64  # characters of one that are kept: more than ours have, and another program may send what it likes


@dataclass(frozen=True)
class Counts:
    """How far the pods of a host are; `lag_ms_p99` is sampled, for the display only, and None before anything was heard.

    `calls_not_made`: calls whose time has come while their pod did not run.
    """

    published: int = 0
    delivered: int = 0
    calls: int = 0
    lag_ms_p99: float | None = None
    calls_not_made: int = 0
    lags_ms: tuple[float, ...] = ()


class LoopMeter:
    """A meter of this process: how late its event loop is, what processor time it uses, and how long it could have run and did not."""

    def __init__(self, recorder: Recorder, host: str, failed: Callable[[BuslabError], None]) -> None:
        self._recorder = recorder
        self._failed = failed
        self._host = host
        self._worst_ns = 0
        self._now_ns = running_clock()
        self._row_ns = self._flush_ns = self._now_ns()
        self._virtual = is_virtual()  # in virtual time a loop is never late, and processor time says nothing
        self._waits = None if self._virtual else OwnWaits()
        self._period_ns = NS_PER_S if self._virtual else LAG_PERIOD_NS
        self._expected_ns = self._row_ns + self._period_ns
        self._alarm = Alarm(self._wake)
        self._alarm.set(self._expected_ns)

    def _wake(self) -> None:
        now = self._now_ns()
        next_ns = now + self._period_ns  # counted from before the work below: the time that it takes is lateness too
        late_ns = now - self._expected_ns
        self._worst_ns = max(self._worst_ns, late_ns)
        if self._waits is not None:
            self._waits.woke(late_ns)
            if now - self._row_ns >= LAG_ROW_NS:
                self._recorder.tables["hosts"].add(now, self._host, time.process_time_ns(), self._worst_ns, *self._waits.sample(now))
                self._row_ns, self._worst_ns = now, 0
        if (now - self._flush_ns >= FLUSH_PERIOD_NS and not self._virtual) or self._recorder.rows_waiting() >= ROWS_PER_PART:
            self._flush_ns = now
            try:
                self._recorder.flush()
            except BuslabError as error:
                self._failed(error)
                return
        self._expected_ns = next_ns
        self._alarm.set(next_ns)

    def close(self) -> None:
        """Stop measuring; may be called twice."""
        self._alarm.close()
        if self._waits is not None:
            self._waits.close()


class LiveLag:
    """The lag so far for the display, estimated from a sample of what was heard. The checkers use every row instead."""

    SAMPLE = 400
    REMEMBERED = 20_000

    def __init__(self, decode: Decode[Chunk] = decode_read) -> None:
        self._decode = decode
        self._correlation: dict[int, str] = {}  # of the newest events, by their keys; looked into only where a sample is taken
        self._older: dict[int, str] = {}
        self._seen = 0
        self.clear()

    def clear(self) -> None:
        """Forget the lags so far."""
        self._buckets = np.zeros(512, dtype=np.int64)  # of 1/16 octave, from 1 us

    def decode(self, payloads: Iterable[Any]) -> Chunk:
        """Decode a read and remember what says when its events were meant to be published."""
        chunk = self._decode(payloads)
        known = self._correlation
        for (_, event), key in zip(chunk.events, chunk.keys):  # noqa: B905 - as many of each, and asking costs in the receive path
            known[key] = event.correlation_id[:MAX_CORRELATION]
        if len(known) > self.REMEMBERED:
            self._older, self._correlation = known, {}
        return chunk

    def sample(self, recorder: Recorder) -> list[float]:
        """Add the lags of some deliveries that came since the last time; return them in milliseconds."""
        lags_ms = []
        buffer, total = recorder.deliveries, recorder.rows("deliveries")
        fresh = min(total - self._seen, len(buffer))
        self._seen = total
        for row in range(len(buffer) - fresh, len(buffer), max(1, fresh // self.SAMPLE)):
            key = buffer.events[row]
            intended = intended_ns(self._correlation.get(key) or self._older.get(key) or "")
            if intended is not None:
                lag_us = max(1.0, (buffer.handled_ns[row] - intended) / 1000)
                self._buckets[min(511, int(np.log2(lag_us) * 16))] += 1
                lags_ms.append(lag_us / 1000)
        return lags_ms

    def p99_ms(self) -> float | None:
        """Return the 99th percentile in milliseconds, to about 4 %, or None before anything was heard."""
        total = int(self._buckets.sum())
        if not total:
            return None
        bucket = int(np.searchsorted(np.cumsum(self._buckets), 0.99 * total))
        return float(2 ** ((bucket + 1) / 16) / 1000)
