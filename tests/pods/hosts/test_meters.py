"""The live lag: a sample of what was heard, and how late it was by what its events say of themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sim.bus.envelope import Event, correlation_id, encode
from sim.pods.hosts.meters import MAX_CORRELATION, LiveLag
from sim.record.recorder import Recorder
from sim.record.schema import event_id


def payload(key: int, correlation: str) -> bytes:
    return encode(Event(event_id(key), correlation, "analytics.metric.recorded", "1.0", "2026-01-01T00:00:00.000Z", "a", {}))


def hear(live: LiveLag, recorder: Recorder, correlations: list[str], *, at_ns: int) -> list[float]:
    """Hear events with these correlation ids at one time; return the lags, in milliseconds."""
    first = recorder.rows("deliveries")
    chunk = live.decode([payload(first + place, correlation) for place, correlation in enumerate(correlations)])
    for key in chunk.keys:
        recorder.deliveries.add(key, 0, at_ns, at_ns)
    return live.sample(recorder)


def test_the_live_lag_counts_from_the_intended_time_of_events_that_say_it(tmp_path: Path) -> None:
    live, recorder = LiveLag(), Recorder(tmp_path, source="inline", pods=["p-0"])
    told = [correlation_id(1_000_000), "cor_", "cor_xyz", "of another program", correlation_id(4_000_000), f"cor_{7:030x}"]
    assert hear(live, recorder, told, at_ns=5_000_000) == [4.0, 1.0]
    assert hear(live, recorder, [correlation_id(5_500_000)], at_ns=6_000_000) == [0.5]


def test_what_another_program_sends_as_a_correlation_takes_no_memory(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(LiveLag, "REMEMBERED", 20)
    live, recorder = LiveLag(), Recorder(tmp_path, source="inline", pods=["p-0"])
    for _ in range(5):
        assert hear(live, recorder, ["cor_1" * 10_000] * 15, at_ns=5_000_000) == []
    kept = [*live._correlation.values(), *live._older.values()]
    assert 0 < len(kept) <= 60 and max(map(len, kept)) == MAX_CORRELATION
