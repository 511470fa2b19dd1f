"""The grid of a sweep: what is an axis, which runs there are, and in which order."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import UsageError
from sim.experiments.sweep.plan import Axis, make_cells, plain_value, read_axes, shuffle, split_values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,10, 100", ["1", "10", "100"]),
        ("500", ["500"]),
        ('[{kind="broker_down",at_s=2,for_s=3}]', ['[{kind="broker_down",at_s=2,for_s=3}]']),
        ('[],[{kind="broker_down",at_s=2}]', ["[]", '[{kind="broker_down",at_s=2}]']),
        ('"one, two",three', ['"one, two"', "three"]),
        ("none,keep-marker", ["none", "keep-marker"]),
        (r'"a\",b",c', [r'"a\",b"', "c"]),
        ("it's,so", ["it's", "so"]),
    ],
)
def test_commas_split_outside_quotes_brackets_and_braces(text: str, values: list[str]) -> None:
    assert split_values(text, text) == values


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["bus.batch_size"], "write key=value"),
        (["=5"], "write key=value"),
        (["bus.batch_size=1,,2"], "a value is empty"),
        (["bus.batch_size=1,1"], "stands twice"),
        (["load.rate_per_s=5", "load.rate_per_s=6"], "was given before"),
        (["seed=1,2"], "--repeats"),
        (["faults=[{kind=1"], "bracket is not closed"),
        (['title="a,b'], "quote is not closed"),
    ],
)
def test_what_is_no_axis_is_refused_with_a_sentence(settings: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        read_axes(settings)


def test_values_are_numbers_where_they_look_like_it() -> None:
    assert [plain_value(text) for text in ("1", "0.5", "true", '"x,y"', "keep-marker", "[1]")] == [
        1,
        0.5,
        True,
        "x,y",
        "keep-marker",
        "[1]",
    ]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 4), st.integers(0, 9))
def test_each_cell_stands_once_in_each_repeat_whatever_the_order(sizes: list[int], repeats: int, seed: int) -> None:
    axes = [Axis(f"k{n}", tuple(map(str, range(size)))) for n, size in enumerate(sizes)]
    cells = make_cells(axes, repeats=repeats)
    ordered = shuffle(cells, seed=seed)
    assert ordered == shuffle(cells, seed=seed)
    assert Counter(ordered) == Counter(cells)
    assert [cell.repeat for cell in ordered] == sorted(cell.repeat for cell in ordered), "repeats are whole blocks"
    assert len({cell.name for cell in cells}) == len(cells)


def test_the_order_is_not_the_grid_s_and_differs_from_block_to_block() -> None:
    ordered = shuffle(make_cells([Axis("k", tuple(map(str, range(20))))], repeats=2), seed=1)
    first, second = ([cell.number for cell in ordered if cell.repeat == repeat] for repeat in (0, 1))
    assert first != second
    assert first != sorted(first)


def test_a_grid_too_large_is_refused() -> None:
    with pytest.raises(UsageError, match="20,000 runs"):
        make_cells([Axis("k", tuple(map(str, range(200))))], repeats=100)
    with pytest.raises(UsageError, match="--repeats 0"):
        make_cells([], repeats=0)


@pytest.mark.parametrize(
    "settings",
    [
        ("load.rate_per_s=1,2", "load={rate_per_s=3}"),
        ("load={rate_per_s=3}", "load.rate_per_s=1,2"),
        ('load."rate_per_s"=1,2', "load.rate_per_s=3"),
    ],
)
def test_a_setting_inside_another_is_refused_as_one_would_override_the_other(settings: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="one holds the other"):
        read_axes(settings)
    assert len(read_axes(("load.rate_per_s=1", "load.rate=2", 'load.mix."a.b"=1', 'load.mix."a.c"=1'))) == 4
