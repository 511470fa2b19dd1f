"""Faults that lie on one link at a time: their sum, and each taken off by itself, in any order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sim.errors import BrokerError, ScenarioError
from sim.faults.link import FREE, LinkLoad, LinkPlan
from sim.grounds.links import SharedLinks
from sim.results.checkers import judge
from sim.results.opened_run import open_run
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario
from tests.support.examples import examples
from tests.support.faults_of_pods_and_links import causes, copies

PODS = 3
NS = st.integers(0, 10**9)
PLANS = st.builds(LinkPlan, delay_ns=NS, jitter_ns=NS, bytes_per_s=st.sampled_from([0, 1000, 5000]), held=st.booleans())
LOADS = st.builds(LinkLoad, to_broker=PLANS, to_pod=PLANS, refusing=st.booleans(), cutting=st.booleans())
STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.one_of(st.none(), st.tuples(st.sets(st.integers(0, PODS - 1), min_size=1), LOADS)), st.booleans()),
    max_size=6,
)


@dataclass
class Ground:
    """Be the links of a ground: what was asked of each pod last, and whether orders fail after they were carried out."""

    plans: list[tuple[LinkPlan, LinkPlan]] = field(default_factory=lambda: [(LinkPlan(), LinkPlan())] * PODS)
    refusing: list[bool] = field(default_factory=lambda: [False] * PODS)
    cutting: list[bool] = field(default_factory=lambda: [False] * PODS)
    broken: bool = False
    orders: int = 0

    def _done(self) -> None:
        self.orders += 1
        if self.broken:
            raise BrokerError("the answer was lost")

    async def shape(self, pods: Sequence[int], *, to_broker: LinkPlan, to_pod: LinkPlan) -> None:
        for pod in pods:
            self.plans[pod] = to_broker, to_pod
        self._done()

    async def refuse(self, pods: Sequence[int], refusing: bool) -> None:
        for pod in pods:
            self.refusing[pod] = refusing
        self._done()

    async def reset(self, pods: Sequence[int]) -> None:
        self._done()

    async def cut(self, pods: Sequence[int], cutting: bool) -> None:
        for pod in pods:
            self.cutting[pod] = cutting
        self._done()

    def is_as(self, laid: dict[int, tuple[set[int], LinkLoad]]) -> bool:
        for pod in range(PODS):
            loads = [load for pods, load in laid.values() if pod in pods]
            for way, plan in zip(("to_broker", "to_pod"), self.plans[pod], strict=True):
                plans: list[LinkPlan] = [getattr(load, way) for load in loads]
                rates = [one.bytes_per_s for one in plans if one.bytes_per_s]
                assert plan.delay_ns == sum(one.delay_ns for one in plans)
                assert plan.jitter_ns == sum(one.jitter_ns for one in plans)
                assert plan.bytes_per_s == (min(rates) if rates else 0)
                assert plan.held == any(one.held for one in plans)
            assert self.refusing[pod] == any(load.refusing for load in loads)
            assert self.cutting[pod] == any(load.cutting for load in loads)
        return True


@settings(max_examples=examples(60), phases=(Phase.explicit, Phase.generate))
@given(STEPS)
def test_a_link_is_at_any_time_the_sum_of_what_lies_on_it(steps: list[Any]) -> None:
    """Also when answers were lost meanwhile: the next order that is answered puts it right."""

    async def scene() -> None:
        ground, laid = Ground(), dict[int, tuple[set[int], LinkLoad]]()
        shared = SharedLinks(ground)
        for who, change, broken in steps:
            ground.broken = broken
            try:
                if change is None:
                    await shared.unload(who)
                    laid.pop(who, None)
                else:
                    await shared.load(who, sorted(change[0]), change[1])
                    laid[who] = change
            except BrokerError:
                ground.broken = False
                await shared.unload(who)
                laid.pop(who, None)
            assert ground.is_as(laid)
        ground.broken = False
        for who in list(laid):
            await shared.unload(who)
        orders = ground.orders
        assert ground.is_as({})
        await shared.unload(0)
        assert ground.orders == orders, "what is off already costs no order"

    asyncio.run(scene())


@given(LOADS, LOADS, LOADS)
def test_the_order_of_loads_does_not_matter(one: LinkLoad, two: LinkLoad, three: LinkLoad) -> None:
    assert one.over(two) == two.over(one)
    assert one.over(two).over(three) == one.over(two.over(three))
    assert one.over(FREE) == one


def test_a_new_cut_is_passed_on_although_another_one_is_on() -> None:
    """Connections that were opened meanwhile are cut too."""

    async def scene() -> None:
        ground = Ground()
        shared = SharedLinks(ground)
        await shared.load(1, [0], LinkLoad(cutting=True))
        ground.cutting = [False] * PODS  # as if all those had been cut
        await shared.load(2, [0, 1], LinkLoad(cutting=True))
        assert ground.cutting == [True, True, False]
        await shared.unload(1)
        assert ground.cutting == [True, True, False]

    asyncio.run(scene())


OVERLAPPING = """faults=[
    {kind="link_slow", pods=["music-service"], at_s=0.5, for_s=2.5, delay_ms=60},
    {kind="link_slow", pods=["music-service-0"], at_s=1, for_s=1, delay_ms=40},
    {kind="link_blackhole", pods=["music-service-1"], at_s=1, for_s=1, direction="to_pod"},
    {kind="partition", pods=["music-service"], at_s=3.5, for_s=1.5},
    {kind="partition", pods=["music-service-0"], at_s=4, for_s=1.5},
    {kind="link_slow", pods=["music-service"], at_s=4.5, for_s=1.5, delay_ms=60},
]""".replace("\n", "")


def test_faults_of_links_overlap_in_a_run_and_every_lost_copy_has_a_cause(tmp_path: Path) -> None:
    scenario = load_scenario("partition", settings=("load.run_s=9", "load.warm_up_s=0.5", "load.reads_per_s=0", OVERLAPPING))
    run = open_run(run_scenario(scenario, on="model", out=tmp_path / "run"))
    verdict = judge(run)
    assert verdict.checkers["ledger"].counts["unexplained"] == 0
    assert "cut-link" in causes(run, "music-service-0")
    zero_ns, _ = run.phases["run"]
    rows = copies(run)
    rows = rows[(rows["fate"] == "delivered") & (rows["publisher"].astype(str) != rows["pod"].astype(str))]
    at_s = (rows["intended_ns"] - zero_ns) / 1e9

    def least_ms(pod: str, begin_s: float, end_s: float) -> float:
        return float(rows.loc[(rows["pod"] == pod) & at_s.between(begin_s, end_s), "lag_us"].min()) / 1e3

    assert least_ms("music-service-0", 1.0, 1.9) >= 100, "delays add up"
    assert 60 <= least_ms("music-service-0", 2.1, 2.8) < 100, "one is healed, the other stays"
    assert least_ms("music-service-1", 1.0, 1.9) >= 160, "held, and slow when it is let go"
    assert least_ms("music-service-1", 6.2, 8.5) < 10


def test_two_of_one_kind_on_one_link_are_refused_only_where_they_do_not_add_up() -> None:
    load_scenario("partition", settings=(OVERLAPPING, "load.run_s=9"))
    twice = 'faults=[{kind="link_cut",at_s=1,for_s=2},{kind="link_cut",at_s=2,for_s=2,pods=["music-service"]}]'
    with pytest.raises(ScenarioError, match="link_cut of music-service-0 twice"):
        load_scenario("partition", settings=(twice, "load.run_s=9"))
