from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from sim.record.reader import quantiles
from sim.results.values import Values, joined, new_values

RANKS = {"p0": 0.0, "p50": 0.5, "p99": 0.99, "max": 1.0}
PARTS = st.lists(st.lists(st.integers(-(2**62), 2**62) | st.integers(-3, 3), max_size=20), min_size=1, max_size=6)


@given(parts=PARTS)
@example(parts=[[-(2**63), 2**63 - 1], [0]])  # their difference does not fit
def test_quantiles_are_those_of_all_values_wherever_they_are_kept(parts: list[list[int]]) -> None:
    every = np.array([value for part in parts for value in part], dtype=np.int64)
    for in_file in (False, True):
        values = new_values(in_file=in_file)
        for part in parts:
            values.add(np.sort(np.array(part, dtype=np.int64)))
        assert len(values) == len(every)
        assert values.quantiles(RANKS) == quantiles(every, RANKS)
        if len(every):
            assert values.at(np.arange(len(every))).tolist() == sorted(every.tolist())


@given(parts=PARTS)
def test_several_are_joined(parts: list[list[int]]) -> None:
    every = [value for part in parts for value in part]
    for in_file in (False, True):
        some = []
        for part in parts:
            some.append(new_values(in_file=in_file))
            some[-1].add(np.sort(np.array(part, dtype=np.int64)))
        assert joined(some).quantiles(RANKS) == quantiles(np.array(every, dtype=np.int64), RANKS)
    assert len(joined([])) == 0


@given(times=st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 4)), max_size=9))
def test_a_value_may_stand_for_itself_several_times(times: list[tuple[int, int]]) -> None:
    every = [value for value, many in times for _ in range(many)]
    columns = [np.array([row[place] for row in times], dtype=np.int64) for place in (0, 1)]
    values = Values([columns[0]], times=columns[1])
    assert len(values) == len(every)
    assert values.quantiles(RANKS) == quantiles(np.array(every, dtype=np.int64), RANKS)
