"""The bus's own part of a lag, apart for each channel and service that a limit is on."""

from __future__ import annotations

from pathlib import Path

from sim.results.checkers.lag import check
from sim.results.opened_run import open_run
from tests.support.run_folders import MS, US, RunFolder


def test_the_bus_s_part_is_that_of_the_channel_or_service_of_a_limit_and_of_no_other(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").pod("web-0", channels="a,b").pod("api-0", service="api", channels="b")
    plan.publish(3, channel="a", lag_ns=MS + 50 * US)
    for event in plan.publish(5, channel="b", lag_ns=3 * MS + 50 * US):
        plan.delay(event, "api-0", 4 * MS)
    plan.slo = {"lag_ms_p99.channel.a": 10, "lag_ms_p99.service.api": 10}
    counts = check(open_run(plan.write())).counts
    assert {name: value for name, value in counts.items() if name.startswith("bus_us.") and name.endswith(".max")} == {
        "bus_us.max": 7000.0, "bus_us.channel.a.max": 1000.0, "bus_us.service.api.max": 7000.0,
    }  # fmt: skip
    assert counts["bus_us.channel.a.p50"] == 1000.0 and counts["bus_us.service.api.p50"] == 7000.0
    assert (counts["lag_us.channel.b.max"], counts["lag_us.service.web.max"]) == (7050.0, 3050.0)
