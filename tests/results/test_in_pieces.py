"""What is asked of a run beyond its verdict is the same a few pods at a time: what metrics were at best, and stories; on drawn runs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from sim.machine.waits import Waits
from sim.record.limits import read_metric
from sim.record.schema import SLO_METRICS
from sim.results.checkers import at_best_of, judge
from sim.results.opened_run import Run, open_run
from tests.support.in_pieces import judge_in_pieces
from tests.support.run_folders import MS, RUN_NS, SECOND, US, RunFolder

BATCH = "analytics.events.batch"
CHANNELS = ("config.updated", BATCH, "b")
SECONDS = 8
LIMITS_MS = (0.3, 90.0, 400.0)


def draw(folder: Path, rng: np.random.Generator, *, transport: str, clocks: bool) -> RunFolder:
    """Plan a run of three services on a starved machine: late, lost, repeated, unpublished; in batches, stamped and read from caches."""
    plan = RunFolder(folder, transport=transport, bus={"once": "lock", "once_ttl_s": 2.0}, reads_per_s=5.0)
    plan.slo = {"from_future": 0, "lag_ms_p99": 5}
    plan.service("web", replicas=3, channels=",".join(CHANNELS)).service("jobs", replicas=2, channels=BATCH)
    plan.service("api", replicas=2, channels="config.updated,b")
    for at in np.sort(rng.integers(RUN_NS, RUN_NS + SECONDS * SECOND, 160)).tolist():
        channel, publisher = str(rng.choice(CHANNELS)), str(rng.choice(("locust-0", "locust-1", "web-0")))
        late, outcome = (
            int(rng.choice((0, 0, 120 * MS))),
            str(rng.choice(["acknowledged"] * 12 + ["unknown", "refused", "memory", "never-sent"])),
        )
        sent = 0 if outcome == "never-sent" else at + late + 50 * US
        event = plan.event(at, channel=channel, publisher=publisher, sent_ns=sent, acked_ns=sent and sent + 100 * US, outcome=outcome)
        event.items, event.first_item_ns = (int(rng.integers(2, 9)), at - int(rng.integers(0, 300)) * MS) if channel == BATCH else (1, at)
        event.stamped_ns = at + int(rng.choice((0, 0, -2, 2))) * SECOND if rng.random() < 0.9 else 0
        event.subject = str(rng.choice(("x", "y"))) if channel == "config.updated" else ""
        plan.calls.append((at, publisher, channel, int(rng.integers(1, 400)) * MS, str(rng.choice(("ok", "ok", "ok", "failed")))))
        for pod, (_, channels) in plan.pods.items():
            for _ in range(int(rng.choice((0, 1, 1, 1, 1, 2))) if channel in channels.split(",") and sent and outcome != "refused" else 0):
                lag = late + int(rng.choice((1, 1, 20, 150, 900)) * rng.integers(250, 2000)) * US
                plan.hear(event, pod, lag_ns=lag, outcome=str(rng.choice(("handled", "handled", "skipped", "failed"))))
    for number in range(20):
        at = RUN_NS + int(rng.integers(SECOND, SECONDS * SECOND))
        plan.read(f"web-{number % 3}", str(rng.choice(("x", "y"))), at, loaded_ns=at - int(rng.integers(0, 900)) * MS)
    plan.foreign(77, "web-1", at_ns=RUN_NS + 3 * SECOND).foreign(77, "api-0", at_ns=RUN_NS + SECOND)
    plan.state("web-2", RUN_NS + 4 * SECOND, "disconnected").state("web-2", RUN_NS + 5 * SECOND, "subscribed")
    plan.state("api-1", RUN_NS + 2 * SECOND, "subscribed").end("jobs-1", RUN_NS + 6 * SECOND)
    plan.clocks["api-1", RUN_NS + 2 * SECOND] = -SECOND
    plan.faults = [("broker_stop", "broker", RUN_NS + 4 * SECOND, RUN_NS + 4 * SECOND + 500 * MS)]
    if clocks:
        plan.clock("h0", ahead_ns=300 * SECOND, wrong_ns=-9 * US).clock("locust", ahead_ns=-8 * SECOND, bound_ns=30 * US)
    ends = {host: np.sort(rng.integers(0, SECONDS * 4, 5)) * SECOND // 4 + RUN_NS for host in ("h0", "locust", "broker")}

    def said(host: str, at: int) -> Waits:
        return Waits(waited_ns=0.0)._replace(stood_ns=float(240 * MS * (ends[host] <= at).sum()))

    return plan.starve(h0=lambda at: said("h0", at), locust=lambda at: said("locust", at), broker=lambda at: said("broker", at))


def asked(run: Run) -> dict[str, object]:
    """Return every metric at best for several limits, and the story of every event, of strangers and of none."""
    best, said = at_best_of(run), {}
    narrowed = [
        f'{name}.{scope}."{word}"'
        for name in ("lag_ms_p99", "missing", "unserved")
        for scope, word in (("service", "web"), ("channel", "b"))
    ]
    for name in (*SLO_METRICS, *narrowed):
        assert read_metric(name).base in SLO_METRICS
        for limit in LIMITS_MS:
            found = best.value(name, 1234.0, limit)
            said[f"{name} {limit}"] = "NaN" if math.isnan(found) else found
    events = sorted(set(run.publishes["event"].tolist()))[::9]
    return said | {f"story {key}": run.story(f"evt_{key:016x}") for key in [*events, 77]} | {"made": best.may_be_made("once")}


@pytest.mark.parametrize("clocks", [False, True], ids=["one clock", "several clocks"])
@pytest.mark.parametrize("transport", ["pubsub", "streams"])
def test_metrics_at_best_and_stories_are_the_same_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str, clocks: bool
) -> None:
    folder = draw(tmp_path / "run", np.random.default_rng(16), transport=transport, clocks=clocks).write(parts=2)
    whole = asked(open_run(folder))
    times = [
        value for name, value in whole.items() if name.startswith(("lag_ms", "item_age_ms", "stated_age_ms", "missing ", "handled_twice"))
    ]
    assert len({*times}) > 10, "what was withheld makes a difference"
    judge_in_pieces(monkeypatch)
    run = open_run(folder)
    assert asked(run) == whole
    assert len(list(run.pieces)) == 7
    assert judge(run).checkers["clocks"].verdict == "valid"
    assert "copies" not in run.__dict__ and "deliveries" not in run.__dict__, "neither was ever in memory as a whole"
