"""A plan is made of measured costs: what must hold of every one, and what single ones come to."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.measure.capacity.fit import CostModel, Hull
from sim.measure.capacity.plan import Choice, EventType, Workload, headroom, make_plan, not_tested, saturation, split, what_if
from tests.support.examples import examples

MODEL = CostModel(
    16_384, (2.0, 0.001, 0.5, 0.0005, 1.0, 0.0003), ((2.0, 0.001, 0.5, 0.0005, 1.0, 0.0003),) * 3, 0.05, 0.0, 10,
    Hull((1, 72, 300, 16_000), (6, 72, 20_000, 80_000)),
)  # fmt: skip
ITEMS = EventType("items", 0.6, True, 200, 150, ("reader",), ("writer",))
NEWS = EventType("news", 0.4, False, 400, 0, ("reader", "writer"), ("writer",))
LOAD = Workload((ITEMS, NEWS), {"reader": 2, "writer": 3}, 10, 30.0)

workloads = st.builds(
    Workload,
    kinds=st.lists(
        st.builds(
            EventType,
            name=st.sampled_from(["a", "b", "c"]),
            share=st.floats(0.01, 1),
            batched=st.booleans(),
            head_bytes=st.floats(100, 1000),
            item_bytes=st.floats(0, 500),
            heard_by=st.sets(st.sampled_from(["x", "y"]), min_size=1).map(lambda s: tuple(sorted(s))),
            published_by=st.just(("x",)),
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda kind: kind.name,
    ).map(tuple),
    replicas=st.fixed_dictionaries({"x": st.integers(1, 40), "y": st.integers(1, 40)}),
    batch_size=st.integers(1, 300),
    batch_interval_s=st.floats(0.01, 30),
)
rates = st.floats(1, 1e6)


@given(load=workloads, more=st.integers(1, 50))
def test_more_pods_never_raise_the_rate(load: Workload, more: int) -> None:
    bigger = msgspec.structs.replace(load, replicas={name: count + more for name, count in load.replicas.items()})
    assert saturation(MODEL, bigger, calls_per_s=1e4).value <= saturation(MODEL, load, calls_per_s=1e4).value * (1 + 1e-9)
    one, two = (make_plan(MODEL, each, target_calls_per_s=1e4, brokers=(1,), batches=()).options[0].carries for each in (load, bigger))
    assert two.value <= one.value * (1 + 1e-9) and two.low <= one.low * (1 + 1e-9)


@given(cores=st.floats(0, 1e6))
def test_headroom_is_a_share_and_falls_with_cores(cores: float) -> None:
    assert 0 < headroom(cores * 2 + 1) <= headroom(cores) <= 0.712


@settings(max_examples=examples(40))
@given(load=workloads, target=rates, link=st.sampled_from([0.0, 100.0, 10_000.0]))
def test_a_refused_option_has_a_reason_and_the_one_to_take_none(load: Workload, target: float, link: float) -> None:
    plan = make_plan(
        MODEL, load, target_calls_per_s=target, least_replicas=(0, 1, 2), brokers=(1, 2, 3), batches=(1, 50), link_mbit_per_s=link
    )
    assert len({str(option.choice) for option in plan.options}) == len(plan.options)
    for option in plan.options:
        assert option.accepted != bool(option.excuses) and all(option.excuses)
        assert option.accepted <= (option.used <= 1 - option.headroom)
        alone = any(load.replicas[name] < 2 for kind in load.kinds for name in kind.heard_by)
        assert any("one replica" in why for why in option.excuses) == (alone and option.choice.least_replicas < 2)
        assert option.choice.brokers == 1 or any("not tested: computed" in note for note in option.notes)
    best = plan.best
    assert best is None or best.choice.brokers == min(o.choice.brokers for o in plan.options if o.accepted)


@settings(max_examples=examples(40))
@given(load=workloads, target=rates)
def test_nothing_beyond_what_was_tested_is_accepted(load: Workload, target: float) -> None:
    for option in make_plan(MODEL, load, target_calls_per_s=target, least_replicas=(0, 30, 60), brokers=(1,)).options:
        chosen = msgspec.structs.replace(load, batch_size=option.choice.batch_size)
        chosen = chosen.with_at_least(option.choice.least_replicas)
        for _, pods, size in chosen.events(target):
            few, many, least, most = MODEL.hull.large if size >= MODEL.kink_bytes else MODEL.hull.small
            if not (few <= pods <= many and least <= size <= most):
                assert any("not tested" in why for why in option.excuses)


@given(load=workloads, rate=rates)
def test_a_batch_has_one_item_at_least_and_its_size_at_most(load: Workload, rate: float) -> None:
    for kind in load.kinds:
        items = load.items(kind, rate)
        assert items == 1 if not kind.batched else 1 <= items <= load.batch_size
    assert 0 < load.events_per_call(rate) <= sum(kind.share for kind in load.kinds) * (1 + 1e-9)


def test_events_copies_and_bytes_of_a_call() -> None:
    assert LOAD.events(math.inf) == [(0.06, 2, 1_700), (0.4, 5, 400)]
    assert LOAD.events_per_call(math.inf) == pytest.approx(0.46)
    assert LOAD.copies_per_call(math.inf) == pytest.approx(0.06 * 2 + 0.4 * 5)
    assert LOAD.bytes_per_call(math.inf) == pytest.approx(0.06 * 2 * 1_700 + 0.4 * 5 * 400)


def test_the_interval_ends_a_batch_at_low_rates() -> None:
    assert LOAD.items(ITEMS, 1.0) == pytest.approx(0.6 / 3 * 30 + 1)  # three writers, 30 s
    assert LOAD.items(ITEMS, 1e6) == 10 and LOAD.items(NEWS, 1.0) == 1


def test_saturation_is_a_million_over_the_cost_of_a_call() -> None:
    cost = 0.06 * (2 + 1.7 + 2 * (0.5 + 0.85)) + 0.4 * (2 + 0.4 + 5 * (0.5 + 0.2))
    assert saturation(MODEL, LOAD).value == pytest.approx(1e6 / cost)


def test_one_pod_down_is_of_the_service_that_hears_most() -> None:
    assert LOAD.one_down().replicas == {"reader": 1, "writer": 3}


def test_a_target_within_the_headroom_takes_one_broker_and_todays_batch() -> None:
    plan = make_plan(MODEL, LOAD, target_calls_per_s=10_000)
    assert plan.best is not None and plan.best.choice == Choice(0, 1, 10)
    assert plan.best.used == pytest.approx(10_000 / saturation(MODEL, LOAD).low) and plan.best.used < 1 - headroom()


def test_a_target_beyond_it_takes_more_brokers_and_says_that_they_are_computed() -> None:
    plan = make_plan(MODEL, LOAD, target_calls_per_s=106_000)  # more than one broker carries with any tested batch
    one = plan.options[0]
    assert one.choice == Choice(0, 1, 10) and "the rule keeps 71% free" in one.excuses[0]
    assert plan.best is not None and plan.best.choice.brokers == 2 and "not tested" in plan.best.notes[0]
    assert any("3 brokers for 2 channels" in why for option in plan.options if option.choice.brokers == 3 for why in option.excuses)


def test_a_target_that_nothing_carries_has_no_best_and_every_option_its_reason() -> None:
    plan = make_plan(MODEL, LOAD, target_calls_per_s=1e7)
    assert plan.best is None and all(option.excuses for option in plan.options)


def test_a_link_that_is_too_thin_is_a_reason() -> None:
    mbit = 10_000 * LOAD.bytes_per_call(math.inf) * 8 / 1e6
    thin, wide = (make_plan(MODEL, LOAD, target_calls_per_s=10_000, brokers=(1,), batches=(), link_mbit_per_s=mbit * f) for f in (3, 4))
    assert thin.best is None and "Mbit/s" in thin.options[0].excuses[0]
    assert wide.best is not None


def test_channels_are_divided_by_cost() -> None:
    groups = split(MODEL, LOAD, 2, 1e5)
    assert [[kind.name for kind in group] for group in groups] == [["news"], ["items"]]


def test_what_was_not_tested_is_named() -> None:
    assert not_tested(MODEL, LOAD.with_pods(100), 1e5) == [
        "not tested: items has 100 subscribers, tested were 1 to 72",
        "not tested: news has 200 subscribers, tested were 1 to 72",
    ]


def test_what_if_says_yes_and_no_with_its_reasons() -> None:
    yes = what_if(MODEL, LOAD, calls_per_s=1_000, pods_per_service=2, batch_size=10)
    assert "It carries 1,000 calls/s" in yes and "items at risk" in yes
    no = what_if(MODEL, LOAD, calls_per_s=1e6, pods_per_service=1, batch_size=10)
    assert "It does not carry 1,000,000 calls/s" in no and "one replica" in no
