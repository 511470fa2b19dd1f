"""Calibration: the fit finds costs that are known, the experiments do what they say, and a real one ends in a file that is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import UsageError
from sim.grounds.embedded import embedded
from sim.grounds.model.costs import VALUES, read_costs, write_costs
from sim.measure.calibrate import COLUMNS, SUBSCRIBERS, Bench, experiments, fit, frame_bytes, interval, link_of, measure, run_calibration

# What the experiments make a real server count: turns, cold, reads, writes, commands, copies, bytes out, stops, INFO, seconds.
COUNTS = np.array(
    [
        [1, 0, 1, 1, 1, 0, 2e3, 0, 1, 0.001],
        [4, 12, 1, 1, 1, 0, 2e3, 0, 1, 0.3],
        [103, 140, 101, 101, 101, 0, 3e3, 0, 1, 0.2],
        [45, 140, 41, 41, 41, 0, 3e3, 0, 1, 0.5],
        [1001, 100, 1001, 1001, 1001, 0, 9e3, 0, 1, 0.02],
        [201, 30, 201, 201, 20001, 0, 1.4e5, 0, 1, 0.02],
        [120, 50, 601, 601, 601, 0, 6e3, 60, 1, 0.05],
        [61, 20, 3001, 3001, 3001, 0, 2.3e4, 30, 1, 0.06],
        [81, 30, 81, 8081, 81, 8e3, 2.7e6, 0, 1, 0.07],
        [41, 15, 41, 4041, 641, 6.4e4, 2.1e7, 0, 1, 0.06],
        [61, 30, 61, 6061, 61, 6e3, 1.2e8, 0, 1, 0.15],
    ]
)
KNOWN = np.array([4500, 31_000, 1900, 5700, 300, 160, 0.4, 50_000, 70_000, 1_300_000])


@given(st.lists(st.floats(0.01, 10_000), min_size=len(COLUMNS), max_size=len(COLUMNS)))
def test_the_fit_finds_costs_that_are_known(costs: list[float]) -> None:
    cost = COUNTS @ np.array(costs)
    found = fit(np.column_stack([COUNTS, cost]))
    assert (found >= 0).all()
    assert np.allclose(COUNTS @ found, cost, rtol=1e-3)


def test_every_cost_is_told_from_the_others() -> None:
    scaled = COUNTS / COUNTS.max(axis=0)
    assert np.linalg.matrix_rank(scaled) == len(COLUMNS)
    assert np.allclose(fit(np.column_stack([COUNTS, COUNTS @ KNOWN])), KNOWN, rtol=1e-6)


def test_a_cost_that_would_be_negative_is_none() -> None:
    known = np.where(np.array(COLUMNS) == "copy_ns", -5, KNOWN)
    found = fit(np.column_stack([COUNTS, COUNTS @ known]))
    assert (found >= 0).all()
    assert found[COLUMNS.index("copy_ns")] == 0


def test_an_interval_is_students() -> None:
    assert (interval([1.0, 2.0, 3.0]).mean, interval([5.0] * 31).low) == (2.0, 5.0)
    assert interval([11.0, 12.0, 13.0]).high == pytest.approx(12 + 4.302653 / 3**0.5)
    assert interval([0.0, 0.0, 9.0]).low == 0, "no cost is below 0"


@given(st.floats(0, 1e5), st.floats(0, 1e5), st.floats(0, 1e5))
def test_the_link_is_found_again_in_its_round_trips(delay_ns: float, jitter_ns: float, server_ns: float) -> None:
    draws = (np.arange(100) + 0.5) / 100
    trips = 2 * delay_ns + server_ns + jitter_ns * np.add.outer(draws, draws).ravel()
    found = link_of(trips.astype(int).tolist(), server_ns)
    assert found == pytest.approx((delay_ns, jitter_ns), abs=0.02 * jitter_ns + 2)


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(UsageError, match="--rounds 2"):
        run_calibration(rounds=2)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with embedded() as broker:
        opened = Bench.open(broker)
        yield opened
        opened.close()


@pytest.mark.broker
def test_the_server_counts_what_each_experiment_says(bench: Bench) -> None:
    for name, experiment in experiments(bench).items():
        counted = dict(zip((*COLUMNS, "cpu"), measure(bench, experiment).tolist(), strict=True))
        done = counted["command_ns"] - 1  # without INFO
        per_block = {"nothing": 0, "asleep for 0.3 s": 0, "PING 100 deep": 100}.get(name, 1)
        if " clients in one turn" in name:
            per_block = int(name.split()[2])
            assert counted["read_ns"] > 2 * counted["turn_ns"], "many clients share a turn"
        if name.startswith("PUBLISH"):
            per_block = 16 if "16 deep" in name else 1
            heard = SUBSCRIBERS if f"to {SUBSCRIBERS}" in name else 0
            size = 20_000 if "20,000" in name else 300
            assert counted["copy_ns"] == done * heard
            assert counted["byte_ns"] >= done * heard * frame_bytes(size)
            assert counted["write_ns"] >= experiment.blocks * (heard + 1)
        assert done == per_block * experiment.blocks, name
        assert counted["cpu"] > 0


@pytest.mark.broker
def test_the_window_is_that_of_a_kernel(bench: Bench) -> None:
    assert 64 * 1024 < bench.window_bytes() < 32 * 1024 * 1024


@pytest.mark.broker
def test_a_calibration_ends_in_a_file_that_the_model_reads(tmp_path: Path) -> None:
    said: list[str] = []
    costs = run_calibration(rounds=3, tell=said.append)
    assert set(costs.values) == set(VALUES)
    assert all(one.low <= one.mean <= one.high for one in costs.values.values())
    assert len(said) == 3
    write_costs(costs, tmp_path / "costs.json")
    read = read_costs(tmp_path / "costs.json")
    assert read.server.write_ns == pytest.approx(costs.values["write_ns"].mean)
    assert read.server.write_ns > 0
    assert all(one.measured_us > 0 for one in costs.fits.values())
