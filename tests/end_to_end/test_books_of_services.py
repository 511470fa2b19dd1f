"""Whole runs in which a service has no pod for a while, or nobody knows what became of its events: what the books of services say."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from sim.results.checkers.verdict import Bounds
from sim.results.judged_run import JudgedRun, judge_folder
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario
from sim.wire.address import Address

KILL = 'faults=[{kind="pod_kill",at_s=2,for_s=3,pods=["analytics-service"]}]'
RESTART = 'faults=[{kind="rolling_restart",max_surge=0,at_s=1,for_s=4,pods=["analytics-service"],each_s=1,down_s=0.5}]'


def judged(out: Path, name: str, *settings: str, on: str = "model") -> JudgedRun:
    return judge_folder(run_scenario(load_scenario(name, settings=settings), on=on, out=out))


@pytest.mark.parametrize("on", ["model", pytest.param("embedded", marks=pytest.mark.broker)])
def test_killing_the_only_pod_of_a_service_breaks_a_limit_on_missing_copies(tmp_path: Path, on: str) -> None:
    one = judged(tmp_path / "run", "pod_kill", KILL, "slo.missing=0", "slo.missing.service.system-service=0", on=on)
    ledger = one.run.ledger()
    alone, dying = (ledger[(ledger["cause"] == cause) & (ledger["phase"] == "run")] for cause in ("no-pod", "pod-down"))
    limits = {limit.metric: (limit.verdict, limit.measured) for limit in one.verdict.slo}
    assert (one.verdict.verdict, limits["missing"]) == ("invalid", ("invalid", len(alone) + len(dying)))
    assert limits['missing.service."system-service"'] == ("valid", 0)
    # who was there, by the tables alone
    pods = one.run.pods[one.run.pods["pod"] == "analytics-service-0"].sort_values("at_ns", kind="stable")
    gone_ns = int(pods.loc[pods["state"] == "aborted", "at_ns"].iloc[0])
    back_ns = int(pods.loc[(pods["state"] == "starting") & (pods["at_ns"] > gone_ns), "at_ns"].iloc[0])
    owed = one.run.publishes[one.run.publishes["channel"].isin(pods["channels"].iloc[0].split(",")) & (one.run.publishes["items"] > 0)]
    absent = owed[owed["sent_ns"].between(gone_ns, back_ns - 1)]
    assert set(alone["event"]) == set(absent["event"]) and len(alone) > 100
    ran = owed[owed["phase"] == "run"]
    text = f"of {len(ran)} events that analytics-service should handle {len(alone) + len(dying)} reached none of its pods"
    assert one.verdict.checkers["ledger"].detail.startswith(text)
    if on == "model":
        assert not len(dying)
        by_channel = alone["channel"].value_counts()
        assert (by_channel["analytics.metric.recorded"], by_channel["analytics.provider.usage"]) == (113, 65)


def test_a_rolling_restart_of_one_pod_leaves_its_service_without(tmp_path: Path) -> None:
    one = judged(tmp_path / "run", "rolling_restart", RESTART, "slo.unserved.service.analytics-service=0")
    assert one.verdict.verdict == "invalid"
    counts = one.verdict.checkers["ledger"].counts
    assert counts["no-pod"] == counts["unserved"] == counts["missing"] > 0


def test_what_a_stream_kept_for_a_service_without_a_pod_is_heard_later(tmp_path: Path) -> None:
    one = judged(tmp_path / "run", "pod_kill", KILL, "bus.transport=streams", "slo.unserved=0", 'slo.missing.service."analytics-service"=0')
    assert one.verdict.verdict == "valid"
    assert one.verdict.checkers["ledger"].counts["no-pod"] == 0


def test_copies_that_nobody_can_vouch_for_pass_no_limit(tmp_path: Path) -> None:
    """A frozen server with keep-alive and a kept queue: what was on its way when the pods gave up may never have been published."""
    settings = ("bus.keep_alive_s=0.5", "bus.outage_queue=keep", "bus.outage_hold_s=1", "slo={}", "slo.missing=0")
    one = judged(tmp_path / "run", "broker_freeze", *settings)
    (limit,) = one.verdict.slo
    unknown = one.verdict.checkers["ledger"].counts["unknown"]
    assert unknown > 50
    assert (one.verdict.exit_code, limit.verdict, limit.interval) == (2, "unknown", Bounds(0, unknown))


@pytest.mark.broker
def test_a_server_with_an_idle_time_out_costs_locust_no_event(tmp_path: Path, own_server: tuple[Address, redis.Redis]) -> None:
    """Each user is idle for 4 s, and the server has closed its connection after 1 or 2; it looks before it publishes."""
    address, server = own_server
    server.config_set("timeout", 1)
    text = (
        'seed = 7\n[load]\ndriver = "locust"\nrate_per_s = 0.5\narrivals = "uniform"\nwarm_up_s = 2\nrun_s = 12\n'
        'mix = { "config.template.invalidated" = 1 }\n[services.ai-config-service]\nreplicas = 2\n'
        'publishes = ["config.template.invalidated"]\nsubscribes = ["config.template.invalidated"]\n[slo]\nmissing = 0\n'
    )
    (tmp_path / "idle.toml").write_text(text)
    one = judge_folder(run_scenario(load_scenario(str(tmp_path / "idle.toml")), on=address.url, out=tmp_path / "run"))
    counts = one.verdict.checkers["ledger"].counts
    assert (counts["unknown"], counts["missing"], counts["delivered"]) == (0, 0, 12)
    assert (one.run.info.load.closed_by_server or 0) > 2
    assert any("had closed its connection" in note for note in one.verdict.checkers["harness"].warnings)
