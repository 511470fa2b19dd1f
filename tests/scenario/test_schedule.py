"""The load schedule: the same seed is the same load, and the load is the one that was asked for."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.bus.envelope import EVENT_TYPES
from sim.errors import ScenarioError
from sim.scenario.schedule import ARRIVALS, PROVIDER_READS, SHAPES, IntendedReads, Schedule, make_cache_reads, make_reads, make_schedule
from tests.support.examples import examples
from tests.support.reference import content

MEAN_RATE = {"steady": 1.0, "ramp": 0.55, "steps": 0.625, "spike": 0.36, "day": 0.565}  # of the peak, by hand
asked = st.fixed_dictionaries(
    {
        "rate_per_s": st.floats(0.5, 2_000),
        "shape": st.sampled_from(sorted(SHAPES)),
        "arrivals": st.sampled_from(ARRIVALS),
        "warm_up_s": st.sampled_from([0.0, 0.3, 2.0]),
        "run_s": st.sampled_from([0.1, 1.0, 5.0]),
        "seed": st.integers(0, 2**63 - 1),
    }
)


def schedule(**changes: Any) -> Schedule:
    return make_schedule(
        **(
            {"rate_per_s": 1000.0, "shape": "steady", "arrivals": "poisson", "warm_up_s": 0.0, "run_s": 10.0, "seed": 1}
            | {"mix": {"a": 3.0, "b": 1.0}, "publishers": {"a": [0, 1, 2], "b": [2, 7]}}
            | changes
        )
    )


def expected_calls(rate_per_s: float, shape: str, warm_up_s: float, run_s: float) -> float:
    return rate_per_s * (warm_up_s * SHAPES[shape][0][1] + run_s * MEAN_RATE[shape])


@given(asked)
@settings(max_examples=examples(60))
def test_the_same_seed_is_the_same_schedule(asked: dict[str, Any]) -> None:
    first, second = schedule(**asked), schedule(**asked)
    for column in ("offset_ns", "kind", "pod"):
        np.testing.assert_array_equal(getattr(first, column), getattr(second, column))


def by_hand(rate_per_s: float, shape: str, warm_up_s: float, run_s: float) -> tuple[list[float], list[float]]:
    """The cumulative rate point by point, as the sum of what came before."""
    grid_s, calls = [0.0], [0.0]
    if warm_up_s > 0:
        grid_s.append(warm_up_s)
        calls.append(warm_up_s * rate_per_s * SHAPES[shape][0][1])
    for (from_u, from_rate), (to_u, to_rate) in pairwise(SHAPES[shape]):
        steps = round(4096 * (to_u - from_u))
        for step in range(1, steps + 1):
            done = step / steps
            mean_rate = from_rate + (to_rate - from_rate) * (done - 0.5 / steps)
            grid_s.append(warm_up_s + run_s * (from_u + (to_u - from_u) * done))
            calls.append(calls[-1] + mean_rate * rate_per_s * run_s * (to_u - from_u) / steps)
    return grid_s, calls


@given(asked)
@settings(max_examples=examples(60))
def test_a_seed_s_schedule_is_to_the_nanosecond_that_of_a_sum_point_by_point(asked: dict[str, Any]) -> None:
    grid_s, calls = by_hand(asked["rate_per_s"], asked["shape"], asked["warm_up_s"], asked["run_s"])
    total, rng = calls[-1], np.random.default_rng([asked["seed"], 0])
    if asked["arrivals"] == "poisson":
        units = np.cumsum(rng.exponential(size=int(total + 10 * total**0.5 + 10)))
    else:
        units = np.arange(int(total)) + 0.5
    times_s = np.interp(units[units < total], calls, grid_s)
    np.testing.assert_array_equal(schedule(**asked).offset_ns, (times_s * 1e9).astype(np.int64))


@given(asked)
@settings(max_examples=examples(60))
def test_calls_are_in_time_order_within_the_run_and_as_many_as_asked(asked: dict[str, Any]) -> None:
    calls = schedule(**asked)
    expected = expected_calls(asked["rate_per_s"], asked["shape"], asked["warm_up_s"], asked["run_s"])
    assert (np.diff(calls.offset_ns) >= 0).all()
    assert ((calls.offset_ns >= 0) & (calls.offset_ns <= (asked["warm_up_s"] + asked["run_s"]) * 1e9)).all()
    allowed = 1.01 if asked["arrivals"] == "uniform" else 6 * expected**0.5 + 6
    assert abs(len(calls) - expected) <= allowed


@given(asked, st.integers(1, 5))
@settings(max_examples=examples(60))
def test_the_parts_of_pods_partition_the_schedule(asked: dict[str, Any], parts: int) -> None:
    calls = schedule(**asked)
    shares = [calls.of_pods(pods, part=part, parts=parts) for pods in ([0, 7], [1], [2]) for part in range(parts)]
    rows = sorted(row for share in shares for row in zip(share.offset_ns, share.kind, share.pod, strict=True))
    assert rows == sorted(zip(calls.offset_ns, calls.kind, calls.pod, strict=True))
    assert all((np.diff(share.offset_ns) >= 0).all() for share in shares)


def test_another_seed_is_another_schedule_of_the_same_load() -> None:
    first, second = schedule(seed=1), schedule(seed=2)
    assert not np.array_equal(first.offset_ns[:50], second.offset_ns[:50])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("arrivals", ARRIVALS)
def test_a_shape_has_its_rate_in_every_tenth_of_the_run(shape: str, arrivals: str) -> None:
    calls = schedule(shape=shape, arrivals=arrivals, rate_per_s=20_000.0, run_s=10.0)
    points = SHAPES[shape]
    at = np.linspace(0, 1, 100_001)
    shares, rates = zip(*points, strict=True)
    rate = np.interp(at, np.array(shares) + np.arange(len(points)) * 1e-9, rates)
    for tenth in range(10):
        wanted = 20_000 * rate[tenth * 10_000 : (tenth + 1) * 10_000].mean()
        got = np.count_nonzero((calls.offset_ns >= tenth * 1e9) & (calls.offset_ns < (tenth + 1) * 1e9))
        assert abs(got - wanted) <= 6 * wanted**0.5 + 3, (tenth, got, wanted)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_warm_up_runs_at_the_shape_s_first_rate(shape: str) -> None:
    calls = schedule(shape=shape, arrivals="uniform", warm_up_s=5.0)
    assert abs(np.count_nonzero(calls.offset_ns < 5e9) - 5_000 * SHAPES[shape][0][1]) <= 1


def test_uniform_arrivals_are_evenly_spaced() -> None:
    gaps = np.diff(schedule(arrivals="uniform").offset_ns)
    assert gaps.max() - gaps.min() <= 2


def test_the_mix_and_the_publishers_have_their_shares() -> None:
    calls = schedule(rate_per_s=20_000.0)
    assert set(zip(calls.kind.tolist(), calls.pod.tolist(), strict=True)) == {(0, 0), (0, 1), (0, 2), (1, 2), (1, 7)}
    share_of_a = np.mean(calls.kind == 0)
    assert abs(share_of_a - 0.75) < 6 * (0.75 * 0.25 / len(calls)) ** 0.5
    for pod in (0, 1, 2):
        share = np.mean(calls.pod[calls.kind == 0] == pod)
        assert abs(share - 1 / 3) < 6 * (2 / 9 / (0.75 * len(calls))) ** 0.5


def test_more_calls_than_memory_holds_are_refused_before_they_are_drawn() -> None:
    with pytest.raises(ScenarioError, match=r"1,000,000,000,000 calls.*load\.rate"):
        schedule(rate_per_s=1e8, run_s=1e4)


def test_a_load_too_small_for_one_call_is_empty() -> None:
    calls = schedule(rate_per_s=0.001, run_s=0.1, arrivals="uniform")
    assert len(calls) == len(calls.of_pods([0, 1])) == 0


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_contents_differ_by_number_and_carry_the_filler(kind: str) -> None:
    assert content(kind, 3, 100) == content(kind, 3, 100) != content(kind, 4, 100)
    if kind != "config.cache.invalidate":
        assert "x" * 100 in repr(content(kind, 3, 100))


def reads(**changes: Any) -> IntendedReads:
    return make_reads(**({"rate_per_s": 2000.0, "seconds": 10.0, "seed": 1, "pods": [1, 4, 5], "templates": 600} | changes))


def test_the_same_seed_is_the_same_reads_and_they_do_not_move_the_calls() -> None:
    first, second, other = reads(), reads(), reads(seed=2)
    for column in ("offset_ns", "pod", "subject"):
        np.testing.assert_array_equal(getattr(first, column), getattr(second, column))
    assert not np.array_equal(first.offset_ns[:50], other.offset_ns[:50])
    assert not np.array_equal(first.offset_ns[:50], schedule(rate_per_s=2000.0).offset_ns[:50]), "a random stream of its own"


def test_reads_are_in_time_order_at_their_rate_by_every_reader_and_favour_the_first_templates() -> None:
    drawn = reads(seconds=20.0)
    count = len(drawn)
    assert abs(count - 40_000) < 6 * 40_000**0.5
    assert (np.diff(drawn.offset_ns) >= 0).all()
    assert drawn.offset_ns[0] >= 0 and drawn.offset_ns[-1] < 20e9
    assert set(drawn.pod.tolist()) == {1, 4, 5}
    of_provider = drawn.subject >= 600
    assert abs(of_provider.mean() - PROVIDER_READS) < 6 * (0.09 / count) ** 0.5
    often = np.bincount(drawn.subject, minlength=len(drawn.subjects))
    assert abs(often[0] / often[1] - 2) < 0.3, "Zipf: the second is read half as often as the first"
    keys = ["templates:tpl_0", "templates:tpl_599", "providers:prov_0", "providers:prov_6"]
    assert [drawn.subjects[n] for n in (0, 599, 600, -1)] == [("", f"aiponge:cache:{key}") for key in keys]
    assert len(set(drawn.subject[~of_provider].tolist())) > 500, "more templates than a cache holds"


def test_reads_of_a_cache_are_by_its_pods_at_its_rate_and_stand_in_time_order_among_others() -> None:
    own = make_cache_reads("prices", rate_per_s=300.0, seconds=10.0, seed=(1, 3, 0), pods=[7, 8], key=lambda number: f"sku_{number % 40}")
    assert abs(len(own) - 3000) < 6 * 3000**0.5
    assert set(own.pod.tolist()) == {7, 8}
    assert [own.subjects[n] for n in own.subject] == [("prices", f"sku_{number % 40}") for number in range(len(own))]
    both = reads().with_others(own)
    assert len(both) == len(reads()) + len(own) and (np.diff(both.offset_ns) >= 0).all()
    mine = [(at, pod, both.subjects[n]) for at, pod, n in zip(both.offset_ns, both.pod, both.subject, strict=True) if both.subjects[n][0]]
    assert mine == [(at, pod, own.subjects[n]) for at, pod, n in zip(own.offset_ns, own.pod, own.subject, strict=True)]
    again = make_cache_reads("prices", rate_per_s=300.0, seconds=10.0, seed=(1, 3, 1), pods=[7, 8], key=str)
    assert not np.array_equal(again.offset_ns[:50], own.offset_ns[:50]), "each cache has a random stream of its own"


@pytest.mark.parametrize("none", [{"rate_per_s": 0.0}, {"pods": []}])
def test_no_rate_or_no_reader_is_no_reads(none: dict[str, Any]) -> None:
    assert len(reads(**none)) == 0


def test_more_reads_than_memory_holds_are_refused_before_they_are_drawn() -> None:
    with pytest.raises(ScenarioError, match=r"1,000,000,000 reads.*load\.reads_per_s"):
        reads(rate_per_s=1e6, seconds=1e3)


def test_contents_are_about_the_templates_there_are_and_some_clear_them_all() -> None:
    assert {content("config.template.invalidated", n, 0, templates=5)["templateId"] for n in range(100)} == {f"tpl_{n}" for n in range(5)}
    patterns = [content("config.cache.invalidate", n, 0)["pattern"] for n in range(100)]
    assert patterns.count("aiponge:*:templates:*") == 5
    assert patterns[1] == "aiponge:cache:templates:tpl_1"
