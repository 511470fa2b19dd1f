"""What of a scenario this shell can run: a run that needs more open files is refused before anything was started."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from sim.errors import BrokerError, UsageError
from sim.pods.blocking_client import BusClient
from sim.run.fit import check_open_files, files_needed
from sim.run.steps import run_scenario
from sim.scenario.file import Scenario, load_scenario
from sim.wire.address import Address
from sim.wire.connection import open_wire
from tests.support.strange_server import strange_server

Small = Callable[..., Scenario]
Run = Callable[[Coroutine[Any, Any, Any]], Any]


MORE = ("services.music-service.replicas=100", "bus.once=two-key", "kubelet.enabled=true", "load.driver=locust")


@pytest.mark.parametrize("more", MORE)
def test_more_of_what_opens_connections_needs_more_files(small: Small, more: str) -> None:
    assert files_needed(small("load.driver=pods", more)) > files_needed(small("load.driver=pods"))


def test_a_proxy_a_cluster_and_several_processes_are_counted() -> None:
    cut = load_scenario("link_cut")
    assert files_needed(cut) > 5 * len(cut.pods())
    sharded = load_scenario("baseline", settings=("bus.transport=sharded", "load.driver=pods"))
    assert files_needed(sharded, nodes=6, server_is_ours=False) > files_needed(sharded, nodes=1, server_is_ours=False)
    apart = load_scenario("baseline", settings=("hosts.kind=local", "hosts.processes=4", "load.driver=pods"))
    together = load_scenario("baseline", settings=("load.driver=pods",))
    assert files_needed(apart, server_is_ours=False) < files_needed(together, server_is_ours=False)


@pytest.fixture
def few() -> Iterator[None]:
    """Make the limit one that cannot be raised: a test could not take back a hard limit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sim.run.fit.raise_open_files", lambda: 64)
        yield


@pytest.mark.usefixtures("few")
def test_what_needs_more_is_refused_with_the_number_that_it_needs(small: Small, tmp_path: Path) -> None:
    scenario = small("load.driver=pods", "services.music-service.replicas=20")
    for attempt in (lambda: check_open_files(scenario), lambda: run_scenario(scenario, out=tmp_path / "run")):
        with pytest.raises(UsageError, match=f"`ulimit -n {files_needed(scenario)}`") as refused:
            attempt()
        assert "29 pods" in str(refused.value) and "allows 64" in str(refused.value)
    assert not (tmp_path / "run").exists()
    run_scenario(small(), on="model", out=tmp_path / "model")  # needs none


def in_a_shell(limits: str, *args: str, folder: Path) -> tuple[int, str]:
    command = f'{limits}; exec "$0" -m sim.cli run baseline --no-report --set load.run_s=1 --set slo.lag_ms_p99=10000 "$@"'
    argv = ["bash", "-c", command, sys.executable, "--out", str(folder), *args]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, env=dict(os.environ))
    return done.returncode, done.stdout + done.stderr


@pytest.mark.broker
@pytest.mark.parametrize("driver", ["pods", "locust"])
def test_a_low_soft_limit_is_no_limit(tmp_path: Path, driver: str) -> None:
    many = ("--set", f"load.driver={driver}", "--set", "services.music-service.replicas=150")
    code, said = in_a_shell("ulimit -Sn 256", *many, folder=tmp_path / "run")
    assert code in (0, 2) and "open files" not in said and (tmp_path / "run" / "verdict.json").exists()


@pytest.mark.broker
@pytest.mark.parametrize("hard", [40, 64])
def test_a_low_hard_limit_is_named_and_redis_is_not(tmp_path: Path, hard: int) -> None:
    code, said = in_a_shell(f"ulimit -n {hard}", "--set", "load.driver=pods", folder=tmp_path / "run")
    (line,) = [line for line in said.splitlines() if line.startswith("buslab:")]
    assert code == 2 and re.search(r"`ulimit -n \d+`", line)
    assert "maxclients" not in said and "reachable" not in said and "Traceback" not in said


def test_files_that_run_out_later_are_named_by_both_drivers(run_async: Run) -> None:
    """As many as there may be are open already; the server would take us."""

    async def ours(address: Address) -> None:
        await asyncio.sleep(0)
        with all_open():
            await open_wire(address, client_name="buslab-t")

    def theirs(address: Address) -> None:
        with all_open():
            BusClient(address, source="music-service").connect()

    with strange_server(lambda words: b"+OK\r\n") as server:
        for attempt in (lambda: run_async(ours(server.address)), lambda: theirs(server.address)):
            with pytest.raises(BrokerError) as refused:
                attempt()
            assert "`ulimit -n`" in str(refused.value) and "maxclients" not in str(refused.value)


class all_open:
    def __enter__(self) -> None:
        self.before = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.kept: list[Any] = []
        most = max(int(name) for name in os.listdir("/proc/self/fd")) + 2
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, self.before[1]))
        try:
            while True:
                self.kept.append(open(os.devnull))
        except OSError:
            pass

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, self.before)
        for one in self.kept:
            one.close()
