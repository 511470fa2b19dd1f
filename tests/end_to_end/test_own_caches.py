"""Caches of a bus that is not the reference's: which reads were served an old price while Redis was away."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from sim.results.checkers import judge
from sim.results.opened_run import Run
from sim.scenario.file import load_scenario
from tests.support.ran import ran

SHOP = Path(__file__).parents[2] / "docs" / "examples" / "shop"


def run_shop(folder: Path, *settings: str, on: str = "model") -> Run:
    return ran(load_scenario(str(SHOP / "redis_away.toml"), settings=settings), on=on, folder=folder)


def counted_anew(run: Run) -> tuple[int, int]:
    """The reads of the run phase and those that were stale, worked out read by read from the raw tables."""
    changed = defaultdict(list)
    for row in run.publishes.itertuples():
        if row.channel == "price.invalidated" and row.items:
            changed[row.subject].append(row.intended_ns)
    begin_ns, end_ns = run.phases["run"]
    reads = [row for row in run.reads.itertuples() if begin_ns <= row.at_ns < end_ns]
    stale = [row for row in reads if any(row.loaded_ns < at <= row.at_ns for at in changed[row.subject])]
    return len(reads), len(stale)


def test_old_prices_are_counted_and_none_when_redis_stays(tmp_path: Path) -> None:
    run = run_shop(tmp_path / "away")
    result = judge(run).checkers["staleness"]
    assert (result.counts["reads"], result.counts["stale_reads"]) == counted_anew(run)
    assert result.counts["stale_reads"] > 20 and result.counts["never_heard"] > 0 and result.counts["after_handling"] == 0
    assert result.counts["reads"] == pytest.approx(500 * 8, abs=6 * 4000**0.5)
    assert set(run.reads["pod"]) == {f"search-{number}" for number in range(10)}
    calm = run_shop(tmp_path / "calm", "faults=[]")
    assert judge(calm).checkers["staleness"].counts["stale_reads"] == counted_anew(calm)[1]
    assert counted_anew(calm)[1] <= 2, "only a read between an update and its event"


def test_a_scenario_may_have_none_of_the_caches_of_its_bus_file() -> None:
    scenario = load_scenario(str(SHOP / "redis_away.toml"), settings=("services.search.caches={}",))
    assert scenario.services["search"].caches == {} and len(scenario.reads()) == 0


def test_who_reads_past_its_caches_while_it_is_deaf_serves_old_prices_only_until_it_notices(tmp_path: Path) -> None:
    calm, deaf = (judge(run_shop(tmp_path / name, f"bus.resync={name}")).checkers["staleness"].counts for name in ("read-through", "none"))
    assert calm["stale_reads"] < deaf["stale_reads"] / 10


@pytest.mark.broker
def test_pods_in_processes_of_their_own_read_the_same_and_names_may_have_slashes(tmp_path: Path) -> None:
    """A killed pod of a service whose name is a path, and longer than a file's name may be in the alphabet that it is in."""
    name = f"team/предложения/{'п' * 150}"
    service = f'services."{name}"={{ replicas = 2, subscribes = ["order.created"] }}'
    kill = f'faults=[{{ kind = "pod_kill", at_s = 1, for_s = 0.5, pods = ["{name}-1"] }}]'
    run = run_shop(
        tmp_path / "run", "hosts.kind=local", service, kill, "load.run_s=3", 'channels."order.created".rate_per_s=50', on="embedded"
    )
    verdict = judge(run)
    assert verdict.verdict == "valid", verdict.reasons
    assert counted_anew(run) == tuple(verdict.checkers["staleness"].counts[key] for key in ("reads", "stale_reads"))
    states = run.pods[run.pods["pod"] == f"{name}-1"]["state"].astype(str).tolist()
    assert states.count("starting") == 2 and "aborted" in states
    heard = run.ledger()
    assert set(heard[(heard["service"] == name) & (heard["fate"] == "delivered")]["pod"]) == {f"{name}-0", f"{name}-1"}
