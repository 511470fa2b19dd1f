"""Ten thousand pods, twenty thousand connections: over the processes that file limits ask for, and a cluster of three masters."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from sim.machine.open_files import most_open_files, raise_open_files
from sim.results.checkers import judge
from sim.results.opened_run import open_run
from sim.run.status import Status
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario
from sim.scenario.settings import reference_channels

PODS = {"music-service": 1000, "ai-content-service": 500, "api-gateway": 8000, "ai-config-service": 100, "system-service": 400}
ALL_HEAR = "config.cache.invalidate"
FILES = 15_000  # of one process; a server and its connections are the most
SUBSCRIBED_S = 60.0


@pytest.mark.deep
@pytest.mark.broker
def test_ten_thousand_pods_subscribe_within_a_minute_and_every_copy_is_accounted_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is deep because it takes all of two cores for a minute."""
    raise_open_files()
    if most_open_files() < FILES:
        pytest.skip(f"one process may open {most_open_files():,} files here, and this needs {FILES:,}")
    settings = [f"services.{service}.replicas={many}" for service, many in PODS.items()]
    settings += ["hosts.kind=dask", "hosts.processes=4", "load.driver=pods", "load.rate_per_s=1", "load.reads_per_s=0"]
    settings += [f'load.mix."{channel}"={int(channel == ALL_HEAR)}' for channel in reference_channels()]
    settings += ["load.warm_up_s=2", "load.run_s=15", "slo.missing=0", "slo.duplicates=0", "slo.lag_ms_p99=60000"]
    settings += [
        f"limits.start_s={SUBSCRIBED_S:g}",  # later ones fail the run
        "limits.probe_s=60",
        "limits.drain_s=60",
    ]
    began_s: dict[str, float] = {}
    bytes_of: dict[int, int] = {}

    def watch(status: Status) -> None:
        began_s.setdefault(status.phase, time.monotonic())
        if status.phase == "run" and not bytes_of:
            for child in psutil.Process().children(recursive=True):
                if "sim.pods.hosts.local_child" in " ".join(child.cmdline()):
                    bytes_of[child.pid] = child.memory_info().rss

    run = open_run(run_scenario(load_scenario("baseline", settings=settings), on="cluster:3", out=tmp_path / "run", watch=watch))
    verdict = judge(run)
    pods = run.pods["pod"].nunique()
    took_s = began_s["probe"] - began_s["start"]
    with capsys.disabled():
        each_kb = sum(bytes_of.values()) / pods / 1024
        print(f"\n{pods:,} pods in {len(bytes_of)} processes: subscribed in {took_s:.1f} s, {each_kb:.0f} KiB a pod; {verdict.verdict}")
    assert pods == sum(PODS.values()) + 1 > 10_000
    counts = verdict.checkers["ledger"].counts
    assert (counts["unexplained"], counts["unexpected"], counts["missing"]) == (0, 0, 0)
    assert counts["delivered"] > 100_000
    assert {name: one.detail for name, one in verdict.checkers.items() if one.verdict != "valid"} == {}
    assert verdict.verdict == "valid", [one.detail for one in verdict.slo if one.verdict != "valid"]
