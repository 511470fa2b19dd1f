"""The processes that do not sample themselves, a server and the proxy, stand in the table `hosts` all the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sim.grounds.catalogue import open_broker
from sim.record.reader import read_table
from sim.record.recorder import Recorder, seal_tables
from sim.results.opened_run import open_run
from sim.run.bystanders import NO_LOOP, Bystanders, bystanders_of
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario
from sim.wire.address import join_nodes, parse_address

linux = pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel keeps no account of its threads")


@pytest.fixture
def child() -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    children: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        children.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
        return children[-1]

    yield start
    for one in children:
        one.kill()
        one.wait()


def broker(*nodes: str, pids: dict[str, int]) -> Any:
    return SimpleNamespace(address=join_nodes([parse_address(f"redis://{node}") for node in nodes]), pids=pids)


def test_a_single_server_is_the_broker_and_each_of_several_has_its_node() -> None:
    assert bystanders_of(broker("127.0.0.1:1", pids={"127.0.0.1:1": 7}), None) == {"broker": 7}
    of_two = broker("127.0.0.1:1", "127.0.0.1:2", pids={"127.0.0.1:2": 8})  # the other one does not run just now
    assert bystanders_of(of_two, None) == {"broker 127.0.0.1:2": 8}
    assert bystanders_of(broker("127.0.0.1:1", pids={}), None) == {}


@linux
def test_a_process_that_is_started_again_goes_on_with_its_account_and_one_that_is_down_has_no_row(
    tmp_path: Path, child: Callable[[], subprocess.Popen[bytes]]
) -> None:
    pids = {"broker": child().pid}
    recorder = Recorder(tmp_path, source="run")
    bystanders = Bystanders(recorder, lambda: pids)
    bystanders.take()
    pids.clear()
    bystanders.take()
    pids["broker"] = child().pid
    bystanders.take()
    bystanders.close()
    bystanders.close()
    recorder.close()
    seal_tables(tmp_path)
    rows = read_table(tmp_path / "hosts.parquet", "hosts")
    assert rows["host"].tolist() == ["broker"] * 2 and (rows["loop_lag_ns"] == NO_LOOP).all()
    assert rows["cpu_ns"].is_monotonic_increasing and rows["waited_ns"].is_monotonic_increasing
    assert rows["steal_ns"].isna().all(), "what is of the machine, the run's own rows say"


@linux
@pytest.mark.broker
def test_a_run_has_the_account_of_every_process_that_took_part(tmp_path: Path) -> None:
    fault = 'faults=[{kind="link_slow", at_s=0.2, for_s=0.5, delay_ms=5.0}]'
    quick = ("load.driver=pods", "load.run_s=2", "load.warm_up_s=0.2", fault)
    run_scenario(load_scenario("baseline", settings=quick), on="embedded", out=tmp_path / "run")
    hosts = open_run(tmp_path / "run").hosts
    assert set(hosts["host"]) == {"inline", "broker", "proxy"}
    for _, rows in hosts.groupby("host", observed=True):
        assert len(rows) > 4 and rows["waited_ns"].notna().all() and (rows["cpu_ns"].diff().dropna() >= 0).all()
    assert hosts.loc[hosts["host"] == "inline", "wall_offset_ns"].notna().any()


@pytest.mark.broker
def test_pods_of_other_processes_and_the_nodes_of_a_cluster_have_theirs(tmp_path: Path) -> None:
    quick = ("load.driver=pods", "load.run_s=1", "load.warm_up_s=0.2", 'hosts.kind="local"', "hosts.processes=2")
    run_scenario(load_scenario("baseline", settings=quick), on="cluster", out=tmp_path / "run")
    hosts = open_run(tmp_path / "run").hosts
    names = set(hosts["host"])
    assert {"local", "local-0", "local-1"} <= names
    assert not linux.args[0] or {name.split(" ")[0] for name in names - {"local", "local-0", "local-1"}} == {"broker"}
    if not linux.args[0]:
        assert len([name for name in names if name.startswith("broker ")]) == 6


@pytest.mark.broker
@pytest.mark.container
@linux
def test_a_server_in_a_container_is_seen_where_its_processes_are(run_async: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    with open_broker("container") as server:
        (pid,) = server.pids.values()
        assert b"server" in Path(f"/proc/{pid}/cmdline").read_bytes()

        async def again() -> None:
            assert server.control is not None
            await server.control.kill()
            await server.control.start()

        run_async(again())
        (later,) = server.pids.values()
        assert later != pid and Path(f"/proc/{later}").exists()
