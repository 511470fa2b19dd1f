"""Handlers that take time, against queueing theory, and the model against a real server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.results.checkers import judge
from sim.results.consumers import PodLoad, read_loads
from sim.results.interval import mean_interval
from sim.results.opened_run import Run
from sim.scenario.file import load_scenario
from sim.wire.address import Address
from tests.support.ran import ran

SHOP = Path(__file__).parents[2] / "docs" / "examples" / "shop" / "everyday.toml"
BILLING = (
    *("load.driver=pods", 'load.mix={"order.created"=1}', "load.arrivals=poisson", "slo={}"),
    *("services.orders.replicas=2", "services.search.replicas=1", "services.notify.replicas=1", "services.billing.replicas=1"),
    *("services.billing.handler_ms=5", "services.billing.concurrency=1"),
)
BATCHES = 20  # of successive events, whose means are as good as independent


def played(folder: Path, *settings: str, on: str = "model") -> Run:
    return ran(load_scenario(str(SHOP), settings=(*BILLING, *settings)), on=on, folder=folder)


def of_billing(run: Run) -> PodLoad:
    (load,) = read_loads(run)
    return load


def waits_s(run: Run) -> np.ndarray:
    """Return how long each event waited between pod and handler, in the order in which they were sent."""
    ledger = run.ledger()
    mine = ledger[(ledger["service"] == "billing") & (ledger["phase"] == "run")].merge(run.publishes[["event", "sent_ns"]], on="event")
    handled = run.deliveries[run.deliveries["pod"] == "billing-0"][["event", "handled_ns"]]
    rows = mine.merge(handled, on="event").sort_values("sent_ns")
    return (rows["handled_ns"] - rows["sent_ns"]).to_numpy() / 1e9


LONG = 900  # seconds: means of some hundred seconds of random arrivals and handlers lie up to a tenth beside the expectation


@pytest.mark.parametrize(
    ("handler", "rate", "run_s"),
    [
        ("5", 100, 100),
        ("5", 160, 200),
        *(pytest.param(handler, rate, LONG, marks=pytest.mark.deep) for handler in ("5", '"exponential(5)"') for rate in (100, 160, 180)),
    ],
)
def test_on_the_model_events_wait_as_theory_says(tmp_path: Path, handler: str, rate: int, run_s: int) -> None:
    settings = (f"load.rate_per_s={rate}", f"load.run_s={run_s}", "load.warm_up_s=5", f"services.billing.handler_ms={handler}")
    run = played(tmp_path / "run", *settings)
    load = of_billing(run)
    transit_s = float(np.quantile(waits_s(run), 0.01))  # who does not wait is on its way so long
    assert load.utilisation == pytest.approx(rate / 200, rel=0.02)
    assert load.wait_mean_s - transit_s == pytest.approx(load.theory_s, rel=0.05)
    found = judge(run, only=["consumers"]).checkers["consumers"]
    assert found.counts["wait_us_theory.billing"] == pytest.approx(load.theory_s * 1e6)


@pytest.mark.broker
@pytest.mark.deep
@pytest.mark.parametrize("rate", [100, 160, 180])
def test_on_a_real_server_theory_is_within_the_interval(own_server: tuple[Address, object], tmp_path: Path, rate: int) -> None:
    settings = (f"load.rate_per_s={rate}", "load.run_s=60", "load.warm_up_s=5", "services.billing.when_full=queue")
    run = played(tmp_path / "run", *settings, on=own_server[0].url)
    waits, load = waits_s(run), of_billing(run)
    means = [float(part.mean()) for part in np.array_split(waits - np.quantile(waits, 0.01), BATCHES)]
    interval = mean_interval(means)
    assert interval.low <= load.theory_s <= interval.high, (interval, load)


CUT = (
    *("load.rate_per_s=400", "load.warm_up_s=1", "load.run_s=14", 'channels."order.created".payload=12000', "limits.drain_s=60"),
    'faults=[{kind="buffer_limit",at_s=0.1,for_s=13.8,hard_bytes=24_000_000}]',
)


@pytest.mark.broker
@pytest.mark.deep
def test_a_billing_that_falls_behind_is_cut_alike_on_the_model_and_on_a_real_server(tmp_path: Path) -> None:
    model, real = played(tmp_path / "model", *CUT), played(tmp_path / "real", *CUT, on="embedded")
    told = []
    for run in (model, real):
        load = of_billing(run)
        cut = run.ledger().query("cause == 'cut' and service == 'billing'")
        told.append((load.utilisation, load.queue_max, load.wait_mean_s, len(cut)))
    assert told[0] == pytest.approx(told[1], rel=0.1), "utilisation, backlog, mean wait, copies that were cut"
    assert told[0][0] == pytest.approx(2.0, rel=0.05) and told[0][3] > 1000


def test_a_backlog_drains_at_the_rate_that_is_left(tmp_path: Path) -> None:
    run = played(tmp_path / "run", "load.rate_per_s=400", "load.run_s=8", "load.warm_up_s=1", "limits.drain_s=60")
    load = of_billing(run)
    # 400 a second come for 9 s and 200 are handled: 1,800 wait at the end, and take 9 s
    assert load.queue_end == pytest.approx(1800, rel=0.05)
    assert load.drain_s == pytest.approx(9.0, rel=0.05)
    assert judge(run).verdict == "valid"
