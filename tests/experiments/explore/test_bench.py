"""The schedules that the bench times are scenarios of the sizes that it says."""

from __future__ import annotations

import pytest

from sim.experiments.explore.bench import SHAPES, drawer
from sim.scenario.file import check_tree


@pytest.mark.parametrize(("place", "services", "pods", "run_s"), [(0, 6, 12, 10.0), (1, 3, 6, 3.0)])
def test_a_shape_has_its_size_and_only_the_faults_differ(place: int, services: int, pods: int, run_s: float) -> None:
    draw = drawer(SHAPES[place])
    scenarios = [check_tree(draw(number), where="bench") for number in range(12)]
    assert {(len(one.services), len(one.first_pods()), one.load.run_s) for one in scenarios} == {(services, pods, run_s)}
    assert all(1 <= len(one.faults) <= 4 and max(end for f in one.faults for _, end in f.spans_s()) < run_s for one in scenarios)
    assert len({one.faults for one in scenarios}) == 12
    assert 0.5 < len(scenarios[0].schedule()) / (run_s * (100, 20)[place]) < 1.5
