"""A machine that withholds itself from the lab never makes the bus invalid, and a bus that is slow on a quiet machine always is.

Whole runs of the command, each on a real server and with nothing beside it. A lab that is stopped and some cells of the matrix are tried
with every change, all of it and the counter-proofs with `make deep`; those that speak of a quiet machine are the only ones that may be
unknown to the test itself.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.support.starving import CONDITIONS, STEP_S, STOP_S, judged, run_under
from tests.support.unknown import MARK

pytestmark = [pytest.mark.broker, pytest.mark.alone]

MATRIX = ("baseline", "lock_lab", "cache_invalidation", "streams_vs_pubsub", "broker_down")
# Limits that a starved lab breaks: without one a run is valid because nothing was asked.
TIGHT = {
    "baseline": ("slo.lag_ms_p99=5", "slo.call_ms_p99=5", "slo.send_delay_ms_p99=2"),
    "lock_lab": ("slo.lag_ms_p99=15", "bus.once=keep-marker", "slo.handled_twice=0", "slo.handled_never=0"),
    "cache_invalidation": ("slo.lag_ms_p99=5", "slo.stale_ms_p99=20"),
    "streams_vs_pubsub": ("slo.lag_ms_p99=10", "slo.item_age_ms_max=30000"),
    "broker_down": ("slo.time_to_recover_s_max=3", "slo.deaf_s_max=3", "slo.steady_s_max=4"),
}
CELLS = (("busy", "lock_lab"), ("cgroup", "streams_vs_pubsub"), ("stopped", "cache_invalidation"), ("step", "lock_lab"))
TIMES = 20
MOST_WRONG = 1
# A bus that is slow by a fault: every copy waits for the link, or for a server that is busy with something else.
SLOW = 'faults=[{{kind="{kind}", at_s=0.0, for_s={for_s}{more}}}]'


def said(text: str) -> str:
    """Return what the terminal said as one line, without the table."""
    return " ".join(text.translate(str.maketrans("│┃┏┓┗┛━─", "        ")).split())


# -- case: the lab is stopped, the bus is blamed --------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["pods", "locust"])
def test_a_run_that_stood_still_is_unknown_and_says_so(tmp_path: Path, driver: str) -> None:
    settings = (f"load.driver={driver}", "load.warm_up_s=1", "load.run_s=6", "slo={}", "slo.lag_ms_p99=1000")
    code, text = run_under("run stopped", "baseline", tmp_path / "run", *settings, after_s=1.5)
    assert code == 2, text
    run, verdict = judged(tmp_path / "run")
    (limit,) = verdict.slo
    assert limit.verdict == "unknown" and limit.measured is not None and limit.measured > 1000
    assert "inline stood still for" in limit.detail
    assert run.hosts["stood_ns"].max() > 0.9 * STOP_S * 1e9
    assert "inline stood still for" in said(text)


# -- the matrix -----------------------------------------------------------------------------------------------------


def check_cell(condition: str, scenario: str, folder: Path, *settings: str) -> None:
    code, text = run_under(condition, scenario, folder, *TIGHT[scenario], *settings)
    assert code != 1, said(text)
    run, verdict = judged(folder)
    assert verdict.verdict != "invalid", [one.detail for one in verdict.slo]
    withheld = {host: run.hosts.loc[run.hosts["host"] == host, "waited_ns"].max() for host in run.info.load.generators}
    if condition in ("busy", "cgroup"):
        assert all(ns > 0 for ns in withheld.values())
    if condition == "cgroup":
        assert run.hosts["throttled_ns"].max() > 0
    if condition == "stopped":
        assert run.hosts["stood_ns"].max() > 0.9 * STOP_S * 1e9
    if condition == "step":
        offsets = run.hosts["wall_offset_ns"].dropna()
        assert offsets.max() - offsets.min() > 0.99 * STEP_S * 1e9
    for limit in verdict.slo:
        if limit.verdict == "unknown" and limit.measured is not None and verdict.checkers["harness"].verdict == "valid":
            assert any(word in limit.detail for word in ("for a core", "stood still", "wall clock", "was late by itself")), limit.detail


@pytest.mark.parametrize(("condition", "scenario"), CELLS)
def test_a_cell_of_the_matrix_is_never_invalid(tmp_path: Path, condition: str, scenario: str) -> None:
    check_cell(condition, scenario, tmp_path / "run", "load.run_s=4")


@pytest.mark.deep
@pytest.mark.parametrize("scenario", MATRIX)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_whole_matrix_is_never_invalid(tmp_path: Path, condition: str, scenario: str) -> None:
    check_cell(condition, scenario, tmp_path / "run")


# -- a quiet machine ------------------------------------------------------------------------------------------------


def quiet_or_unknown(wait_s: float = 600.0) -> None:
    """Wait until nothing else runs on this machine; else the test cannot say anything of a quiet one."""
    deadline = time.monotonic() + wait_s
    while busy_share() > 0.1:
        if time.monotonic() > deadline:
            pytest.skip(f"{MARK}something else kept this machine busy for {wait_s:.0f} s")
        time.sleep(2)


def busy_share() -> float:
    """Return which share of the processors was in use in a second."""

    def read() -> tuple[int, int]:
        fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        return sum(fields[:8]), fields[3] + fields[4]

    if not Path("/proc/stat").exists():
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    before = read()
    time.sleep(1)
    after = read()
    return 1 - (after[1] - before[1]) / max(after[0] - before[0], 1)


@pytest.mark.deep
@pytest.mark.parametrize("driver", ["pods", "locust"])
def test_on_a_quiet_machine_a_healthy_bus_is_valid(tmp_path: Path, driver: str) -> None:
    wrong = []
    for number in range(TIMES):
        quiet_or_unknown()
        code, text = run_under("quiet", "baseline", tmp_path / f"{number}", f"load.driver={driver}", "load.run_s=5", "load.warm_up_s=1")
        wrong += [said(text)] if code else []
    assert len(wrong) <= MOST_WRONG, wrong


@pytest.mark.deep
@pytest.mark.parametrize(("kind", "more"), [("broker_slow", ""), ("link_slow", ", delay_ms=100.0")], ids=["a busy server", "a long link"])
def test_on_a_quiet_machine_a_bus_that_is_slow_by_a_fault_is_invalid(tmp_path: Path, kind: str, more: str) -> None:
    fault = SLOW.format(kind=kind, for_s=5.0, more=more)
    wrong = []
    for number in range(TIMES):
        quiet_or_unknown()
        settings = ("load.driver=pods", "load.run_s=5", "load.warm_up_s=1", fault)
        code, text = run_under("quiet", "baseline", tmp_path / f"{number}", *settings)
        wrong += [said(text)] if code != 1 else []
    assert len(wrong) <= MOST_WRONG, wrong
