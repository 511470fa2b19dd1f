"""What the shop's search batches in an outage and keeps: how long it takes to drain, on the model and on a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.results.checkers import judge
from sim.scenario.file import load_scenario
from tests.support.ran import ran

SHOP = Path(__file__).parents[2] / "docs" / "examples" / "shop" / "redis_away.toml"
KEEPS = ("bus.outage_queue=keep", "bus.outage_hold_s=0.5", "load.run_s=5", 'faults=[{kind="broker_down", at_s=1.5, for_s=1.5}]')
SMALL = ('load.mix={"search.asked"=1}', "load.rate_per_s=60", "services.search.replicas=3", "services.notify.replicas=1")


@pytest.mark.parametrize("on", ["model", pytest.param("embedded", marks=pytest.mark.broker)])
def test_the_backlog_drains_when_its_pod_is_connected_and_has_held_it(on: str, tmp_path: Path) -> None:
    scenario = load_scenario(str(SHOP), settings=(*KEEPS, *SMALL, "slo.backlog_drain_s_max=4"))
    run = ran(scenario, on=on, folder=tmp_path / "run")
    verdict = judge(run, only=["batching"])
    result = verdict.checkers["batching"]
    drains = {name.partition(".")[2]: value for name, value in result.counts.items() if name.startswith("backlog_drain_s.")}
    assert set(drains) == {"search-0", "search-1", "search-2"}
    assert result.metrics["backlog_drain_s_max"] == max(drains.values())
    (limit,) = verdict.slo
    assert (limit.metric, limit.verdict) == ("backlog_drain_s_max", "valid"), limit.detail
    back_ns = int(run.faults["end_ns"].max())
    mine = run.publishes[(run.publishes["channel"] == "search.asked") & (run.publishes["acked_ns"] > 0)]
    stood = mine[(mine["intended_ns"] < back_ns) & (mine["sent_ns"] > back_ns)]
    assert result.counts["backlog.batches"] == len(stood) > 3 and result.counts["backlog.items"] == stood["items"].sum()
    beliefs = run.pods[(run.pods["bus"] == "connected") & (run.pods["at_ns"] > back_ns)].groupby("pod", observed=True)["at_ns"].min()
    for pod, drain in drains.items():
        waited = (beliefs[pod] - back_ns) / 1e9 + 0.5
        assert abs(drain - waited) < (0.01 if on == "model" else 0.3), (
            "the pod is connected, holds for half a second, and sends all at once"
        )
    assert " until it was connected again + " in result.detail and " of bus.outage_hold_s + " in result.detail
