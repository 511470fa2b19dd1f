"""A plan is made of measured costs: what must hold of every one, and what single ones come to."""

from __future__ import annotations

import math
import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.experiments.batching.theory import batch_costs
from sim.measure.capacity.fit import CostModel, Hull
from sim.measure.capacity.frames import on_link
from sim.measure.capacity.plan import Choice, Plan, SustainedRate, headroom, make_plan, not_tested, saturation, split, teller, what_if
from sim.measure.capacity.plan_table import plan_sentence
from sim.measure.capacity.workload import EventType, Workload, same_load
from sim.results.interval import Interval
from sim.wire.resp import pack
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


def _frame(name: str, size: int) -> bytes:
    return pack(b"message", b"aiponge:events:" + name.encode(), b"x" * size)


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
            least = 0 if size < MODEL.kink_bytes else least  # smaller ones than any that was tested cost no more
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
    copies = 0.06 * (2 * len(_frame("items", 1_700)) + 4) + 0.4 * (5 * len(_frame("news", 400)) + 4)  # 4 bytes answer a publisher
    assert LOAD.bytes_per_call(math.inf) == pytest.approx(copies)


def test_the_interval_ends_a_batch_at_low_rates() -> None:
    theory = batch_costs(rate_per_s=0.6 / 3, size=10, interval_ms=30_000).items_per_batch  # three writers
    assert LOAD.items(ITEMS, 1.0) == pytest.approx(theory) == pytest.approx(6.83874, abs=1e-5), (
        "not quite 0.2 x 30 + 1: some are full early"
    )
    assert LOAD.items(ITEMS, 1e6) == LOAD.items(ITEMS, math.inf) == 10 and LOAD.items(NEWS, 1.0) == 1
    alone = msgspec.structs.replace(
        LOAD, evenly=True, replicas={"reader": 2, "writer": 1}, kinds=(msgspec.structs.replace(ITEMS, share=1.0),)
    )
    assert alone.items(alone.kinds[0], 0.2) == 6, "evenly spaced calls of one pod: the first, and the five that come in less than 30 s"


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
    mbit = 10_000 * on_link(LOAD.sent(math.inf)).most * 8 / 1e6
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


# -- what was measured -------------------------------------------------------------------------------------------

HELD, TOO_MUCH = 36_259.0, 39_541.0
FOUND = SustainedRate(LOAD, HELD, TOO_MUCH, "p99 of lag is 80.0 ms, over 50 ms")
TENTH = tuple(value / 10 for value in MODEL.values)
ROOMY = msgspec.structs.replace(MODEL, values=TENTH, draws=(TENTH,) * 3)


def test_a_rate_that_was_measured_as_too_much_is_refused_for_one_broker_though_its_costs_would_allow_it() -> None:
    by_cost = make_plan(ROOMY, LOAD, target_calls_per_s=70_000).best
    assert by_cost is not None and by_cost.choice.brokers == 1 and by_cost.notes[0].startswith("computed")
    plan = make_plan(ROOMY, LOAD, target_calls_per_s=70_000, measured=FOUND)
    one = next(option for option in plan.options if option.choice == Choice(0, 1, 10))
    assert one.excuses == ("measured: 36,259 calls/s held, 39,541 did not: p99 of lag is 80.0 ms, over 50 ms",)
    assert one.carries.high <= HELD
    for option in plan.options:
        assert not option.accepted or "computed" in option.notes[0]
        assert option.accepted or option.choice.brokers > 1 or any("39,541 did not" in why for why in option.excuses)


def test_what_was_measured_needs_no_word_computed_and_what_was_not_has_it() -> None:
    plan = make_plan(ROOMY, LOAD, target_calls_per_s=HELD, measured=FOUND)
    assert plan.best is not None and plan.best.choice == Choice(0, 1, 10) and plan.best.notes[0] == "measured: 36,259 calls/s held"
    larger = next(option for option in plan.options if option.choice == Choice(0, 1, 30))
    assert larger.accepted and larger.notes[0].startswith("computed")
    open_ended = SustainedRate(LOAD, HELD, math.inf, "")
    above = make_plan(ROOMY, LOAD, target_calls_per_s=70_000, measured=open_ended).best
    assert above is not None and above.notes[0] == "computed from the broker's costs: measured was 36,259 calls/s at most"


@settings(max_examples=examples(60))
@given(load=workloads, target=rates, held=rates, more=st.floats(1.001, 2))
def test_no_accepted_plan_is_fuller_than_what_held_and_only_the_measured_lacks_the_word_computed(
    load: Workload, target: float, held: float, more: float
) -> None:
    found = SustainedRate(load, held, held * more, "the backlog grows by 9 events/s")
    share = held / saturation(ROOMY, load, calls_per_s=held).value
    for option in make_plan(ROOMY, load, target_calls_per_s=target, measured=found, least_replicas=(0, 2), brokers=(1, 2)).options:
        chosen = option.choice.of(load)
        as_measured = option.choice.brokers == 1 and same_load(chosen, load, target)
        assert ("computed" in option.notes[0]) != (as_measured and target <= held)
        if not option.accepted:
            continue
        if as_measured:
            assert target <= held
        else:
            groups = [group for group in split(ROOMY, chosen, option.choice.brokers, target) if group]
            least = min(saturation(ROOMY, chosen, calls_per_s=target, kinds=group).value for group in groups)
            assert target / least <= share * (1 + 1e-9)


def test_without_a_rate_that_was_carried_nothing_is_planned_but_to_measure_again() -> None:
    plan = make_plan(ROOMY, LOAD, target_calls_per_s=10, measured=SustainedRate(LOAD, 0.0, 2_239.0, "the backlog grows by 9 events/s"))
    assert plan.best is None and all(any("no rate was carried" in why for why in option.excuses) for option in plan.options)
    assert plan.changes == ("measure again on a machine at rest (`buslab capacity`): a plan needs a rate that was carried",)


# -- options that come to the same -------------------------------------------------------------------------------


def test_a_batch_size_that_the_bus_does_not_use_makes_no_option() -> None:
    news = msgspec.structs.replace(LOAD, kinds=(msgspec.structs.replace(NEWS, share=1.0),))
    plan = make_plan(MODEL, news, target_calls_per_s=100, brokers=(1,))
    assert [str(option.choice) for option in plan.options] == ["replicas as they are, 1 broker"]
    assert "batches" not in what_if(MODEL, news, calls_per_s=100, pods_per_service=2, batch_size=10)


def test_sizes_that_the_interval_never_lets_fill_are_one_option() -> None:
    slow = make_plan(MODEL, LOAD, target_calls_per_s=0.1, brokers=(1,))  # a batch has 1.6 items when its interval ends
    assert [option.choice.batch_size for option in slow.options] == [10, 1]
    fast = make_plan(MODEL, LOAD, target_calls_per_s=1_000.0, brokers=(1,))
    assert len(fast.options) == 6


@pytest.mark.parametrize(("size", "notes"), [(1, []), (2, ["items: 2 items at risk in each of 3 pods, the oldest 1 ms old"])])
def test_what_is_at_risk_in_a_batch_is_noted_where_it_holds_more_than_one(size: int, notes: list[str]) -> None:
    best = make_plan(MODEL, msgspec.structs.replace(LOAD, batch_size=size), target_calls_per_s=10_000, brokers=(1,), batches=()).best
    assert best is not None and [note for note in best.notes if "at risk" in note] == notes


def test_replicas_that_are_there_already_make_no_option() -> None:
    plan = make_plan(MODEL, LOAD, target_calls_per_s=1_000.0, brokers=(1,), batches=(), least_replicas=(0, 1, 2, 3))
    assert [option.choice.least_replicas for option in plan.options] == [0, 3]


# -- services that add up ----------------------------------------------------------------------------------------


def test_a_service_that_adds_up_keeps_its_one_replica_and_the_plan_says_so() -> None:
    load = msgspec.structs.replace(LOAD, replicas={"reader": 1, "writer": 1}, adding_up=("reader",))
    assert load.with_at_least(3).replicas == {"reader": 1, "writer": 3} and load.with_pods(3).replicas == {"reader": 3, "writer": 3}
    best = make_plan(MODEL, load, target_calls_per_s=100, least_replicas=(0, 2)).best
    assert best is not None and best.choice.least_replicas == 2
    assert "one replica of reader is kept: two would handle every event twice" in best.notes
    three = make_plan(MODEL, load.with_pods(3), target_calls_per_s=100).best
    assert three is not None and "each of the 3 replicas of reader handles every event: what that does is done 3 times" in three.notes
    two = make_plan(MODEL, load.with_pods(2), target_calls_per_s=100).best
    assert two is not None and "each of the 2 replicas of reader handles every event: what that does is done 2 times" in two.notes
    other = make_plan(MODEL, msgspec.structs.replace(load, adding_up=()), target_calls_per_s=100, least_replicas=(0,)).best
    assert other is None


# -- what would have to change -----------------------------------------------------------------------------------


BIG = Workload(
    (
        msgspec.structs.replace(ITEMS, share=0.1, payload_bytes=100),
        msgspec.structs.replace(NEWS, share=0.9, head_bytes=4_000, payload_bytes=3_600),
    ),
    {"reader": 12, "writer": 12}, 10, 30.0,
)  # fmt: skip
RATE, THIN = 3_000.0, 2_000.0


def _number(plan: Plan, pattern: str) -> float:
    (found,) = [match for change in plan.changes if (match := re.fullmatch(pattern, change))]
    return float(found.group(1).replace(",", ""))


def test_each_change_is_enough_alone_and_a_little_less_is_not() -> None:
    def carried(load: Workload = BIG, rate: float = RATE, link: float = THIN) -> bool:
        return make_plan(MODEL, load, target_calls_per_s=rate, link_mbit_per_s=link, brokers=(1, 2)).best is not None

    plan = make_plan(MODEL, BIG, target_calls_per_s=RATE, link_mbit_per_s=THIN)
    assert plan.best is None
    rate = _number(plan, r"at most ([\d,]+) calls/s")
    assert carried(rate=rate * 0.99) and not carried(rate=rate * 1.02)
    link = _number(plan, r"a link of ([\d,]+) Mbit/s in place of 2,000")
    assert carried(link=link * 1.01) and not carried(link=link * 0.98)
    size = _number(plan, r"payloads of at most ([\d,]+) B in place of 3,600")
    assert carried(BIG.with_payloads(size / 3_600)) and not carried(BIG.with_payloads((size + 2) / 3_600))
    few = _number(plan, r"at most (\d+) replicas of a service, so that \d+ and not 24 pods hear an event")
    assert carried(BIG.with_at_most(int(few))) and not carried(BIG.with_at_most(int(few) + 1))
    over = int(_number(plan, r"each channel split by key over (\d+) brokers, each with 1/\d+ of the events"))
    one = [make_plan(MODEL, BIG, target_calls_per_s=RATE / n, link_mbit_per_s=THIN, brokers=(1,)).best for n in (over, over - 1)]
    assert one[0] is not None and one[1] is None


def test_a_change_that_is_not_enough_alone_says_how_far_it_goes_or_that_it_does_not_help() -> None:
    plan = make_plan(MODEL, BIG, target_calls_per_s=1e7, link_mbit_per_s=THIN)
    text = "; ".join(plan.changes)
    assert re.search(r"a thicker link is not enough and carries [\d,]+ calls/s", text)
    assert re.search(r"a payload of 0 B (is not enough and carries [\d,]+ calls/s|does not help)", text)
    assert plan_sentence(plan).endswith(f"What would have to change, each alone and computed: {text}.")


def test_replicas_that_stand_alone_are_what_would_have_to_change() -> None:
    alone = msgspec.structs.replace(LOAD, replicas={"reader": 1, "writer": 2})
    plan = make_plan(MODEL, alone, target_calls_per_s=100)
    assert plan.best is None and plan.changes[:2] == ("a lower rate does not help", "at least 2 replicas of reader")


def test_a_plan_that_has_an_option_asks_for_no_change() -> None:
    assert make_plan(MODEL, LOAD, target_calls_per_s=1_000).changes == ()


# -- whole plans -------------------------------------------------------------------------------------------------

BY_COST = "computed from the broker's costs: which rate it sustains was not measured"
OTHER_LOAD = "computed from the broker's costs: measured were other events, replicas or batches"
DIVIDED = "not tested: computed from the costs of one broker, each on a core of its own, channels divided among them"
BEYOND = "36,259 calls/s held, 39,541 did not: p99 of lag is 80.0 ms, over 50 ms"

Told = tuple[str, tuple[int, int, int], float, float, tuple[str, ...], tuple[str, ...]]


def told(plan: Plan) -> list[Told]:
    """Every option in full: the choice, the low end, middle and high end of what it carries, used, headroom, excuses, notes."""
    return [
        (
            str(one.choice),
            (round(one.carries.low), round(one.carries.value), round(one.carries.high)),
            round(one.used, 4),
            round(one.headroom, 4),
            one.excuses,
            one.notes,
        )
        for one in plan.options
    ]


def at_risk(items: int, each: str, oldest: str) -> str:
    return f"items: {items} items at risk in {each}, the oldest {oldest} old"


def test_a_plan_by_cost_in_full() -> None:
    """A call costs 2.744 us with batches of 10, 2.36 of them for the news; 5 % of spread, ten degrees of freedom."""
    plan = make_plan(MODEL, LOAD, target_calls_per_s=106_000, brokers=(1, 2, 3), batches=(30,), link_mbit_per_s=5000)
    one, two = (93_891, 104_956, 117_325), (109_168, 122_034, 136_416)
    ten, thirty = at_risk(10, "each of 3 pods", "472 us"), at_risk(30, "each of 3 pods", "1.42 ms")
    full = "the fullest broker would be at {}% of its saturation rate; the rule keeps 71% free"
    idle = ("3 brokers for 2 channels: one has nothing to do",)
    now = "replicas as they are, "
    assert told(plan) == [
        (now + "1 broker, batches of 10", one, 0.3251, 0.712, (full.format(33),), (BY_COST, ten)),
        (now + "1 broker, batches of 30", (98_787, 110_429, 123_444), 0.309, 0.712, (full.format(31),), (BY_COST, thirty)),
        (now + "2 brokers, batches of 10", two, 0.2796, 0.712, (), (DIVIDED, ten)),
        (now + "2 brokers, batches of 30", two, 0.2796, 0.712, (), (DIVIDED, thirty)),
        (now + "3 brokers, batches of 10", two, 0.2796, 0.712, idle, (DIVIDED, ten)),
        (now + "3 brokers, batches of 30", two, 0.2796, 0.712, idle, (DIVIDED, thirty)),
    ]
    assert (plan.target_calls_per_s, plan.best, plan.changes, plan.measured) == (106_000, plan.options[2], (), "")


def test_a_plan_beyond_what_was_measured_in_full() -> None:
    """On four cores the rule keeps 38 % free, and no broker is planned to be fuller than the one that held."""
    plan = make_plan(ROOMY, LOAD, target_calls_per_s=70_000, brokers=(2, 1), batches=(5,), least_replicas=(0, 4), measured=FOUND, cores=4)
    like = "computed: its fullest broker would be as full as one at {} calls/s of what was measured, where " + BEYOND
    at_most = "computed from the broker's costs: measured was 36,259 calls/s at most"
    now, four = "replicas as they are, ", "at least 4 replicas, "
    ten, five = at_risk(10, "each of 3 pods", "714 us"), at_risk(5, "each of 3 pods", "357 us")
    ten_of_four, five_of_four = at_risk(10, "each of 4 pods", "952 us"), at_risk(5, "each of 4 pods", "476 us")
    assert told(plan) == [
        (now + "1 broker, batches of 10", (36_259,) * 3, 0.0215, 0.3826, ("measured: " + BEYOND,), (at_most, ten)),
        (now + "1 broker, batches of 5", (33_750,) * 3, 0.0231, 0.3826, (like.format("75,204"),), (OTHER_LOAD, five)),
        (four + "1 broker, batches of 10", (26_560,) * 3, 0.0293, 0.3826, (like.format("95,561"),), (OTHER_LOAD, ten_of_four)),
        (four + "1 broker, batches of 5", (24_738,) * 3, 0.0315, 0.3826, (like.format("102,602"),), (OTHER_LOAD, five_of_four)),
        (now + "2 brokers, batches of 10", (42_159,) * 3, 0.0185, 0.3826, (like.format("60,204"),), (DIVIDED, ten)),
        (now + "2 brokers, batches of 5", (42_159,) * 3, 0.0185, 0.3826, (like.format("60,204"),), (DIVIDED, five)),
        (four + "2 brokers, batches of 10", (31_092,) * 3, 0.025, 0.3826, (like.format("81,633"),), (DIVIDED, ten_of_four)),
        (four + "2 brokers, batches of 5", (31_092,) * 3, 0.025, 0.3826, (like.format("81,633"),), (DIVIDED, five_of_four)),
    ]
    assert plan.measured == BEYOND and plan.best is None
    assert plan.changes == (
        "at most 42,063 calls/s",
        "at most 2 replicas of a service is not enough and carries 47,807 calls/s",
        "each channel split by key over 2 brokers, each with 1/2 of the events",
    )


def test_a_plan_within_what_was_measured_in_full() -> None:
    plan = make_plan(ROOMY, LOAD, target_calls_per_s=30_000, brokers=(1,), batches=(5,), measured=FOUND)
    ten, five = at_risk(10, "each of 3 pods", "1.67 ms"), at_risk(5, "each of 3 pods", "833 us")
    assert told(plan) == [
        ("replicas as they are, 1 broker, batches of 10", (36_259,) * 3, 0.0092, 0.712, (), ("measured: 36,259 calls/s held", ten)),
        ("replicas as they are, 1 broker, batches of 5", (33_750,) * 3, 0.0099, 0.712, (), (OTHER_LOAD, five)),
    ]
    assert (plan.best, plan.changes, plan.measured) == (plan.options[0], (), BEYOND)


def test_a_plan_for_services_that_stand_alone_in_full() -> None:
    plan = make_plan(MODEL, LOAD.with_pods(1), target_calls_per_s=100, brokers=(1,), batches=())
    assert told(plan) == [
        (
            "replicas as they are, 1 broker, batches of 10",
            (141_326, 157_981, 176_599),
            0.0002,
            0.712,
            ("one replica of reader, writer: with one pod down nobody hears its events",),
            (BY_COST, at_risk(10, "one pod", "167 ms")),
        )
    ]
    assert plan.changes == (
        "a lower rate does not help",
        "at least 2 replicas of reader and writer",
        "each channel split by key over 256 brokers does not help",
    )


def test_what_if_in_full() -> None:
    assert what_if(MODEL, LOAD, calls_per_s=1_000, pods_per_service=2, batch_size=10).splitlines() == [
        "2 replicas of each service, 1 broker, batches of 10: carries 104,561 .. 130,658 calls/s with 71% kept free.",
        "It carries 1,000 calls/s, which is 0% of the fullest broker's saturation rate.",
        f"- {BY_COST}",
        f"- {at_risk(10, 'each of 2 pods', '33.3 ms')}",
    ]
    asked = {"calls_per_s": 70_000, "pods_per_service": 3, "batch_size": 30, "brokers": 2}
    assert what_if(ROOMY, LOAD, **asked, link_mbit_per_s=100, measured=FOUND).splitlines() == [  # type: ignore[arg-type]
        "3 replicas of each service, 2 brokers, batches of 30: carries 2,624 .. 2,624 calls/s with 71% kept free.",
        "It does not carry 70,000 calls/s, which is 2% of the fullest broker's saturation rate.",
        f"- computed: its fullest broker would be as full as one at 67,347 calls/s of what was measured, where {BEYOND}",
        "- its link would carry 768 Mbit/s of 100; the rule keeps 71% free",
        f"- {DIVIDED}",
        f"- {at_risk(30, 'each of 3 pods', '2.14 ms')}",
    ]


def test_a_teller_prints_what_its_sliders_come_to(capsys: pytest.CaptureFixture[str]) -> None:
    teller(ROOMY, LOAD, FOUND)(70_000.0, 3, 30, 2)
    wanted = what_if(ROOMY, LOAD, calls_per_s=70_000, pods_per_service=3, batch_size=30, brokers=2, measured=FOUND)
    assert capsys.readouterr().out == wanted + "\n"


@pytest.mark.parametrize(
    ("found", "ended", "said"),
    [
        (FOUND, True, BEYOND),
        (SustainedRate(LOAD, 0.0, 2_239.0, "it lagged"), True, "no rate was carried, the lowest that was not is 2,239 calls/s: it lagged"),
        (SustainedRate(LOAD, 5_000.0, math.inf, ""), False, "5,000 calls/s held, nothing higher was tried"),
    ],
)
def test_what_the_search_of_a_measurement_came_to_is_one_sentence(found: SustainedRate, ended: bool, said: str) -> None:
    assert (found.ended, str(found)) == (ended, said)


@pytest.mark.parametrize(("cores", "free"), [(0.0, 0.712), (0.5, 0.712), (1.0, 0.712), (2.0, 0.5219), (4.0, 0.3826)])
def test_headroom_is_the_stated_rule_from_one_core_on(cores: float, free: float) -> None:
    assert headroom(cores) == pytest.approx(free, abs=5e-5)


# -- one number or word at a time --------------------------------------------------------------------------------


def test_a_choice_is_one_phrase() -> None:
    assert [str(Choice(*one)) for one in ((0, 1, 0), (1, 1, 1), (1, 2, 0), (2, 3, 30))] == [
        "replicas as they are, 1 broker",
        "at least 1 replica, 1 broker, batches of 1",
        "at least 1 replica, 2 brokers",
        "at least 2 replicas, 3 brokers, batches of 30",
    ]


def test_a_choice_without_a_batch_size_leaves_the_workload_its_own() -> None:
    sizes = [(choice.of(LOAD).batch_size, choice.of(LOAD).replicas) for choice in (Choice(0, 1, 0), Choice(3, 1, 30), Choice(4, 2, 0))]
    assert sizes == [(10, LOAD.replicas), (30, {"reader": 3, "writer": 3}), (10, {"reader": 4, "writer": 4})]


def test_what_if_of_one_replica_that_hears_alone() -> None:
    first, second, *reasons = what_if(MODEL, LOAD, calls_per_s=1_000, pods_per_service=1, batch_size=10).splitlines()
    assert first.startswith("1 replica of each service, 1 broker, batches of 10: carries ")
    assert second.startswith("It does not carry 1,000 calls/s, ")
    assert reasons[0] == "- one replica of reader, writer: with one pod down nobody hears its events"


def test_channels_go_to_the_broker_with_the_least_to_do() -> None:
    """Costs of 5, 4, 3 and 1: the third joins the second, and the last the first. One broker has all, and of six two have nothing."""
    events = {"b": 4.0, "d": 1.0, "a": 5.0, "c": 3.0}
    kinds = tuple(EventType(name, many, False, 0.0, 0.0, (), ()) for name, many in events.items())
    load = Workload(kinds, {"x": 1}, 1, 1.0)
    names = [[[kind.name for kind in group] for group in split(MODEL, load, brokers, 1e3)] for brokers in (1, 2, 3, 6)]
    assert names == [[["a", "b", "c", "d"]], [["a", "d"], ["b", "c"]], [["a"], ["b"], ["c", "d"]], [["a"], ["b"], ["c"], ["d"], [], []]]


def test_a_broker_is_as_full_as_its_batches_are_at_the_target() -> None:
    """At 20 calls/s the interval ends batches of 5 items or so after 1 s: a call costs more than with full batches of 10."""
    load = msgspec.structs.replace(LOAD, batch_interval_s=1.0)
    (option,) = make_plan(MODEL, load, target_calls_per_s=20, brokers=(1,), batches=()).options
    items = batch_costs(rate_per_s=0.6 * 20 / 3, size=10, interval_ms=1000).items_per_batch
    cost_us = 0.6 / items * (2 + 0.001 * (200 + 150 * items) + 2 * (0.5 + 0.0005 * (200 + 150 * items))) + 0.4 * (2 + 0.4 + 5 * (0.5 + 0.2))
    assert items == pytest.approx(5, rel=0.01)
    cost = MODEL.cost_us(load.events(20))
    assert cost.value == pytest.approx(cost_us) and option.used == pytest.approx(20 * cost.high / 1e6, rel=1e-9)


def test_a_link_carries_its_megabits_less_the_headroom() -> None:
    bits = on_link(LOAD.sent(1_000)).most * 8
    (option,) = make_plan(MODEL, LOAD, target_calls_per_s=1_000, brokers=(1,), batches=(), link_mbit_per_s=10.0).options
    assert option.carries == Interval(*[pytest.approx(10e6 / bits * (1 - 0.712), rel=1e-9)] * 3)  # type: ignore[list-item]
    assert option.excuses == (f"its link would carry {1_000 * bits / 1e6:,.0f} Mbit/s of 10; the rule keeps 71% free",)


@pytest.mark.parametrize("kinds", [None, [ITEMS], [NEWS], [NEWS, ITEMS]])
def test_batches_are_as_full_as_they_are_at_the_saturation_rate_of_what_goes_over_the_broker(kinds: list[EventType] | None) -> None:
    """An interval of 5 us ends batches long before they are full; how long before is a matter of the rate that is asked for."""
    load = msgspec.structs.replace(LOAD, batch_interval_s=5e-6)
    rate = saturation(MODEL, load, kinds=kinds).value
    assert rate == pytest.approx(1e6 / MODEL.value_us(load.events(rate, kinds)), rel=1e-3)
    if kinds == [ITEMS]:
        items = load.items(ITEMS, rate)
        size = 200 + 150 * items
        assert 1 < items < 10 and rate == pytest.approx(1e6 / (0.6 / items * (2 + 0.001 * size + 2 * (0.5 + 0.0005 * size))), rel=1e-3)


def test_how_full_a_broker_was_is_told_by_its_batches_at_the_rate_that_held() -> None:
    """An interval of 1 ms ended batches of 7.81 items at 36,259 calls/s: with full ones the same rate would have been a smaller share."""
    load = msgspec.structs.replace(LOAD, batch_interval_s=1e-3)
    found = SustainedRate(load, HELD, TOO_MUCH, "it lagged")
    now, four = make_plan(ROOMY, load, target_calls_per_s=20_000, brokers=(1,), batches=(), least_replicas=(0, 4), measured=found).options
    share = HELD * ROOMY.value_us(load.events(HELD)) / 1e6
    cost_us = ROOMY.value_us(four.choice.of(load).events(20_000))
    assert now.carries == Interval(HELD, HELD, HELD)
    assert four.carries.value == pytest.approx(share * 1e6 / cost_us, rel=1e-9)
    theory = batch_costs(rate_per_s=0.6 * HELD / 3, size=10, interval_ms=1)
    assert load.items(ITEMS, HELD) == pytest.approx(theory.items_per_batch) == pytest.approx(7.80858, abs=1e-5)


def test_events_smaller_than_any_that_was_tested_are_not_refused_and_larger_ones_are() -> None:
    tiny, huge = (msgspec.structs.replace(LOAD, kinds=(msgspec.structs.replace(NEWS, head_bytes=size),)) for size in (50, 16_300))
    assert not_tested(MODEL, tiny, 100) == []
    assert not_tested(MODEL, huge, 100) == ["not tested: news has events of 16,300 B, tested were 300 to 16,000 B"]
    assert make_plan(MODEL, tiny, target_calls_per_s=100).best is not None
