"""What hardening buys, on the model: kept events, caches dropped on return, quicker reconnection, an event run once."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.errors import UsageError
from sim.results.checkers import judge
from sim.results.opened_run import Run, open_run
from sim.run.steps import run_scenario
from sim.scenario.buses import BUSES, on_bus
from sim.scenario.file import Scenario, load_scenario


def lived(scenario: Scenario, folder: Path) -> tuple[Run, dict[str, dict[str, float]]]:
    run = open_run(run_scenario(scenario, on="model", out=folder))
    return run, {name: result.counts for name, result in judge(run).checkers.items()}


def outage(*settings: str) -> Scenario:
    return load_scenario("broker_down", settings=('faults=[{kind="broker_down",at_s=1,for_s=2}]', "load.run_s=7", *settings))


@pytest.mark.parametrize(("hold_s", "lost"), [(0.0, True), (2.5, False)])
def test_what_is_kept_in_an_outage_reaches_all_if_it_waits_until_they_are_back(tmp_path: Path, hold_s: float, lost: bool) -> None:
    run, counts = lived(outage("bus.outage_queue=keep", f"bus.outage_hold_s={hold_s}"), tmp_path / "run")
    ledger = counts["ledger"]
    assert (ledger["missing"] > 0) is lost, "the first pod that is back speaks to those that are not"
    assert counts["order"].get("out_of_order", 0) == 0, "what is published while older events wait, waits behind them"
    assert ledger.get("sent-in-memory-mode", 0) == 0
    assert run.publishes["outcome"].isin(["acknowledged"]).all()


def test_who_is_told_to_end_does_not_wait_with_what_it_kept(tmp_path: Path) -> None:
    """The load ends half a second after the broker is back: what is held then leaves with the flush."""
    scenario = outage("bus.outage_queue=keep", "bus.outage_hold_s=60", "load.run_s=6.5")
    run, counts = lived(scenario, tmp_path / "run")
    assert counts["ledger"]["missing"] == counts["ledger"].get("never-sent", 0) == 0
    assert run.publishes["outcome"].isin(["acknowledged"]).all()


@pytest.mark.parametrize(("resync", "served"), [("none", True), ("drop-caches", False)])
def test_caches_dropped_on_return_serve_nothing_stale(tmp_path: Path, resync: str, served: bool) -> None:
    settings = ('faults=[{kind="subscribers_cut",at_s=1,for_s=1}]', "load.run_s=5", "load.reads_per_s=1000", "load.templates=20")
    run, _ = lived(load_scenario("subscribers_cut", settings=(*settings, f"bus.resync={resync}")), tmp_path / "run")
    back_ns = int(run.faults["end_ns"].iloc[0]) + 100_000_000
    reads = run.reads[(run.reads["at_ns"] > back_ns) & (run.reads["outcome"] == "hit")]
    updates = run.publishes[run.publishes["channel"] == "config.template.invalidated"]
    newest = updates[updates["intended_ns"] < back_ns].groupby(updates["subject"].astype(str))["intended_ns"].max()
    old = reads["loaded_ns"].to_numpy() < reads["subject"].astype(str).map(newest).fillna(0).to_numpy()
    assert len(reads) > 1000
    assert bool(old.any()) is served


def test_a_cache_that_is_not_read_while_deaf_serves_nothing_stale_in_the_outage_either(tmp_path: Path) -> None:
    """Redis is away for two seconds in which updates are kept: who reads through sees the database, who drops on return is stale."""
    stale = {}
    for resync in ("none", "drop-caches", "read-through"):
        _, counts = lived(outage("load.reads_per_s=1000", "load.templates=20", f"bus.resync={resync}"), tmp_path / resync)
        stale[resync] = counts["staleness"]["stale_reads"]
    assert stale["none"] > stale["drop-caches"] > 100
    assert stale["read-through"] == 0


def test_a_pod_that_tries_again_sooner_is_back_sooner(tmp_path: Path) -> None:
    deaf_s = []
    for most_s in (2.0, 0.1):
        _, counts = lived(outage(f"bus.reconnect_max_s={most_s}"), tmp_path / str(most_s))
        deaf_s.append(counts["deaf"]["deaf_s.max"])
    assert deaf_s[1] <= 0.11 < deaf_s[0], "full jitter: never longer than the longest pause"


def test_every_profile_is_a_bus_that_a_scenario_can_have() -> None:
    for bus, profile in BUSES.items():
        changed = on_bus(load_scenario("pod_freeze"), bus).bus
        assert changed.once == profile.once
        assert {name: getattr(changed, name) for name in profile.settings} == profile.settings
        assert on_bus(load_scenario("baseline"), bus).bus.once == "none", "no recipe where the scenario has none"
    with pytest.raises(UsageError, match=r"no bus 'hardend'; did you mean 'hardened'\?|no bus 'hardend'.*hardened"):
        on_bus(load_scenario("baseline"), "hardend")
