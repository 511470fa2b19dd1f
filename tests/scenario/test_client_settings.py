"""Which client the pods have, its options by their own names, and what does not go together."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from msgspec.structs import replace

from sim.errors import ScenarioError
from sim.results.checkers import judge
from sim.results.client import keeps_events as kept
from sim.results.client import longest_pause_s, sends_again
from sim.results.opened_run import open_run
from sim.run.steps import run_scenario
from sim.scenario.buses import on_bus
from sim.scenario.client_settings import Ioredis, keeps_events
from sim.scenario.file import load_scenario, to_toml
from sim.scenario.settings import Bus

RACE = """
[services.system-service]
publishes = ["analytics.metric.recorded"]

[services.analytics-service]
subscribes = ["analytics.metric.recorded"]
"""
AWAY = ("load.driver=pods", "bus.client=ioredis", "load.run_s=18", "load.rate_per_s=50", "bus.batch_size=1", "slo={}")


def test_the_reference_s_text_is_the_default_and_the_options_are_those_of_ioredis() -> None:
    plain = load_scenario("baseline").bus
    assert (plain.client, plain.ioredis) == ("reference", Ioredis())
    named = ("enableOfflineQueue", "maxRetriesPerRequest", "autoResendUnfulfilledCommands", "connectTimeout", "retryStepMs", "retryMaxMs")
    assert Ioredis.__struct_fields__ == named
    set_ = load_scenario("baseline", settings=("bus.client=ioredis", "bus.ioredis.maxRetriesPerRequest=-1")).bus
    assert (set_.client, set_.ioredis) == ("ioredis", Ioredis(maxRetriesPerRequest=-1))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["bus.client=node-redis"], r"bus.client = 'node-redis': no such client \(did you mean 'ioredis'\?\); known: reference, ioredis"),
        (["bus.client=ioredis", "bus.ioredis.maxRetries=3"], r"unknown key 'bus.ioredis.maxRetries' \(did you mean 'maxRetriesPerRequest'"),
        (["bus.client=ioredis", "bus.ioredis.maxRetriesPerRequest=-2"], "bus.ioredis.maxRetriesPerRequest = -2: expected `int` >= -1"),
        (
            ["bus.ioredis.retryMaxMs=500"],
            "bus.ioredis.retryMaxMs = 500: bus.client = 'reference' has no options; set bus.client = 'ioredis'",
        ),
        (["bus.ioredis.enableOfflineQueue=false"], "bus.ioredis.enableOfflineQueue = false: bus.client = 'reference' has no options"),
        (
            ["bus.client=ioredis", "bus.outage_queue=keep"],
            "bus.outage_queue = 'keep': with bus.client = 'ioredis' bus.ioredis.enableOfflineQueue says it; leave it out",
        ),
        (["bus.client=ioredis", "bus.reattach=restart"], "bus.reattach = 'restart': with bus.client = 'ioredis' it always connects again"),
        (
            ["bus.client=ioredis", "bus.outage_hold_s=3"],
            "bus.outage_hold_s = 3.0: with bus.client = 'ioredis' it sends what waited as soon",
        ),
        (["bus.client=ioredis", "bus.reconnect_max_s=1"], "bus.reconnect_max_s = 1.0: with bus.client = 'ioredis' bus.ioredis.retryMaxMs"),
        (
            ["bus.client=ioredis", "bus.outage_queue_limit=5"],
            "bus.outage_queue_limit = 5: with bus.client = 'ioredis' its queue has no limit",
        ),
    ],
)
def test_what_the_client_does_not_have_is_refused_in_one_sentence(settings: list[str], said: str) -> None:
    with pytest.raises(ScenarioError, match=said) as refused:
        load_scenario("baseline", settings=tuple(settings))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("bus", "keeps", "again", "pause_s"),
    [
        (Bus(), False, False, 2.0),
        (Bus(outage_queue="keep", reconnect_max_s=0.5), True, False, 0.5),
        (Bus(client="ioredis"), True, True, 2.0),
        (Bus(client="ioredis", ioredis=Ioredis(enableOfflineQueue=False, retryMaxMs=700)), False, True, 0.7),
        (Bus(client="ioredis", ioredis=Ioredis(autoResendUnfulfilledCommands=False)), True, False, 2.0),
    ],
)
def test_a_run_s_own_scenario_says_the_same_to_those_who_judge_it(bus: Bus, keeps: bool, again: bool, pause_s: float) -> None:
    written = tomllib.loads(to_toml(replace(load_scenario("baseline"), bus=bus)))["bus"]
    assert (keeps_events(bus), kept(written)) == (keeps, keeps)
    assert (sends_again(written), longest_pause_s(written)) == (again, pause_s)


def test_runs_from_before_there_was_a_client_are_the_reference_s() -> None:
    assert (kept({}), sends_again({}), longest_pause_s({})) == (False, False, 0.0)
    assert kept({"outage_queue": "keep"})


def test_the_bus_of_that_name_takes_what_the_library_decides_from_any_scenario() -> None:
    own = load_scenario("broker_down", settings=("bus.outage_queue=keep", "bus.outage_hold_s=2", "bus.reattach=restart"))
    assert on_bus(own, "ioredis").bus == replace(load_scenario("broker_down").bus, client="ioredis")
    back = on_bus(load_scenario("broker_down", settings=("bus.client=ioredis", "bus.ioredis.retryMaxMs=9")), "hardened").bus
    assert (back.client, back.ioredis) == ("reference", Ioredis())


def test_who_is_back_first_decides_whether_an_outage_s_events_are_lost_or_late(tmp_path: Path) -> None:
    """One publisher and one subscriber: of twelve outages of 2 s ioredis itself lost all of some 400 events in four, and 0 or 1 in five."""
    faults = 'faults=[{kind="broker_down",at_s=1,for_s=2}]'
    mix = 'load.mix={"analytics.metric.recorded"=1}'
    (tmp_path / "race.toml").write_text(f"title = 'A race'\n{RACE}")
    lost = []
    for seed in range(1, 9):
        settings = ("load.driver=pods", "bus.client=ioredis", f"seed={seed}", "load.run_s=4", mix, faults)
        scenario = load_scenario(str(tmp_path / "race.toml"), settings=settings)
        verdict = judge(open_run(run_scenario(scenario, on="model", out=tmp_path / str(seed))))
        ledger = verdict.checkers["ledger"].counts
        assert ledger["missing"] == ledger["deaf"] and ledger["unexplained"] == ledger["sent-in-memory-mode"] == 0
        assert verdict.checkers["fallback"].counts["memory_pods"] == 0
        assert verdict.verdict == "valid", {name: one.detail for name, one in verdict.checkers.items() if one.verdict != "valid"}
        lost.append(ledger["missing"])
    assert min(lost) == 0 and max(lost) > 200, "all of them came late, or nobody heard any"


def test_an_outage_that_outlasts_the_retries_has_its_cause(tmp_path: Path) -> None:
    """What waits is rejected 10.5 s after the connection was lost: refused, and the application is told."""
    faults = 'faults=[{kind="broker_down",at_s=1,for_s=13}]'
    run = open_run(run_scenario(load_scenario("broker_down", settings=(*AWAY, faults)), on="model", out=tmp_path / "run"))
    verdict = judge(run)
    ledger = verdict.checkers["ledger"].counts
    assert ledger["publish-refused"] > 100 and ledger["unexplained"] == 0
    refused = run.publishes[run.publishes["outcome"] == "refused"]
    begin_ns = int(run.faults["begin_ns"].iloc[0])
    since_s = (refused["intended_ns"].to_numpy() - begin_ns) / 1e9
    assert -0.1 < since_s.min() < 0.5 and 10.3 < since_s.max() < 10.8, "of what came in the first 10.5 seconds"
    assert verdict.verdict == "valid"
