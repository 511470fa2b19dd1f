"""The commands in the manifests work: they are run here as they stand there, on loopback in the place of the names of Services."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from sim.grounds.catalogue import open_broker
from sim.scenario.manifests.write import manifests
from sim.wire.address import free_port

BIN = Path(sys.executable).parent
BOUND_S = 60.0
pytestmark = pytest.mark.broker


class Cluster:
    """The manifests of a scenario, whose containers run as processes of this machine."""

    def __init__(self, name: str, folder: Path, *, settings: tuple[str, ...] = (), ports: dict[str, str] | None = None) -> None:
        found = manifests(name, settings=settings, workers=1)
        self.objects = {(one["kind"], one["metadata"]["name"]): one for objects in found.files.values() for one in objects}
        self.folder, self.words = folder, {"/opt/buslab/locustfiles": "locustfiles", "0.0.0.0": "127.0.0.1", **(ports or {})}
        self.secrets = {("redis-credentials", "url"): ""}

    def container(self, kind: str, name: str, which: str = "containers") -> dict[str, Any]:
        (found,) = self.objects[kind, name]["spec"]["template"]["spec"][which]
        return dict(found)

    def command(self, kind: str, name: str, which: str = "containers") -> tuple[list[str], dict[str, str]]:
        """Return what a container runs and its variables, with its files where they are mounted here."""
        one, etc = self.container(kind, name, which), self.folder / name
        etc.mkdir(exist_ok=True)
        for volume in self.objects[kind, name]["spec"]["template"]["spec"]["volumes"]:
            for item in volume.get("configMap", {}).get("items", ()):
                (etc / item["path"]).write_text(self.objects["ConfigMap", volume["configMap"]["name"]]["data"][item["key"]], "utf-8")
        environment = {"PATH": os.environ["PATH"]}
        for entry in one.get("env", ()):
            secret = entry.get("valueFrom", {}).get("secretKeyRef")
            if secret is None or (secret["name"], secret["key"]) in self.secrets:
                value = self.secrets[secret["name"], secret["key"]] if secret else entry.get("value", f"{name}-0")
                environment[entry["name"]] = self._here(value, etc)
        words = [self._here(word, etc) for word in [*one["command"], *one.get("args", ())]]
        return [str(BIN / words[0]), *(word.replace("$(POD_NAME)", environment.get("POD_NAME", "")) for word in words[1:])], environment

    def _here(self, word: str, etc: Path) -> str:
        for there, here in self.words.items():
            word = (here if word == there else word) if there.isdigit() else word.replace(there, here)
        return word.replace("/etc/buslab", str(etc))

    @contextmanager
    def running(self, kind: str, name: str) -> Iterator[subprocess.Popen[str]]:
        """Run a container's process; when the block ends, it ends in order."""
        argv, environment = self.command(kind, name)
        with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                yield process
            finally:
                for one in (*psutil.Process(process.pid).children(recursive=True), process) if process.poll() is None else ():
                    one.terminate()
                process.communicate(timeout=BOUND_S)


@contextmanager
def real_pods(cluster: Cluster, *names: str) -> Iterator[redis.Redis]:
    """Run one pod of each of these services, with a broker, and give a client of it when their probes succeed."""
    with ExitStack() as until:
        broker = until.enter_context(open_broker("embedded"))
        cluster.secrets["redis-credentials", "url"] = broker.address.url
        for name in names:
            cluster.words["3000"] = str(free_port())
            until.enter_context(cluster.running("Deployment", name))
            for probe in ("livenessProbe", "readinessProbe"):
                await_ok(f"http://127.0.0.1:{cluster.words['3000']}{cluster.container('Deployment', name)[probe]['httpGet']['path']}")
        yield until.enter_context(redis.Redis.from_url(broker.address.url, decode_responses=True))


def subscribers(broker: redis.Redis, *channels: str) -> dict[str, int]:
    return {name.rpartition(":")[2]: many for name, many in broker.pubsub_numsub(*(f"aiponge:events:{one}" for one in channels))}


def test_a_pod_answers_its_probes_and_hears_what_the_scenario_says(tmp_path: Path) -> None:
    settings = ('services.api-gateway.subscribes=["config.cache.invalidate","config.provider.invalidated"]',)
    with real_pods(Cluster("baseline", tmp_path, settings=settings), "api-gateway") as broker:
        channels = ("config.cache.invalidate", "config.provider.invalidated", "config.template.invalidated")
        assert subscribers(broker, *channels) == dict(zip(channels, (1, 1, 0), strict=True))


@pytest.mark.deep  # two pods, a master, its run, and a worker
def test_locust_loads_the_real_pods_and_its_master_ends_with_the_verdict(tmp_path: Path) -> None:
    port, out = free_port(), tmp_path / "run"
    quick = ("load.warm_up_s=0.5", "load.run_s=2", "load.rate_per_s=50")
    cluster = Cluster("baseline", tmp_path, settings=quick, ports={"buslab-locust-master": "127.0.0.1"})
    with real_pods(cluster, "analytics-service", "api-gateway"), ExitStack() as until:
        worker, worker_env = cluster.command("Deployment", "buslab-locust-worker")
        argv = [*worker, "--master-port", str(port)]
        one = subprocess.Popen(argv, env=worker_env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until.callback(one.wait, BOUND_S)
        until.callback(one.terminate)
        master, master_env = cluster.command("Job", "buslab-locust-master")
        argv = [*master, "--master-bind-port", str(port), "--out", str(out)]
        done = subprocess.run(argv, env=master_env, capture_output=True, text=True, timeout=BOUND_S, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    verdict = json.loads((out / "verdict.json").read_text("utf-8"))
    assert verdict["verdict"] == "valid"
    assert verdict["ground"].startswith("redis://127.0.0.1:")


def await_ok(url: str) -> None:
    deadline_s = time.monotonic() + BOUND_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                assert answer.status == 200
                return
        except OSError:
            assert time.monotonic() < deadline_s, url
            time.sleep(0.05)


@pytest.mark.deep  # Dask takes some seconds to import, in each of its processes
def test_the_job_waits_for_the_workers_and_runs_the_scenario_on_them(tmp_path: Path) -> None:
    port, out = free_port(), tmp_path / "run"
    quick = ("load.driver=pods", "load.warm_up_s=0.5", "load.run_s=2", "slo.lag_ms_p99=1000")
    ports = {"buslab-dask-scheduler:8786": f"127.0.0.1:{port}", "8786": str(port)}
    cluster = Cluster("baseline", tmp_path, settings=quick, ports=ports)
    wait, wait_env = cluster.command("Job", "buslab-run", "initContainers")
    with open_broker("embedded") as broker, cluster.running("Deployment", "buslab-dask-scheduler"), ExitStack() as until:
        cluster.secrets["redis-credentials", "url"] = broker.address.url
        waiting = subprocess.Popen(wait, env=wait_env, stderr=subprocess.PIPE, text=True)
        until.callback(waiting.kill)
        time.sleep(0.5)
        assert waiting.poll() is None, "there is no worker yet"
        until.enter_context(cluster.running("Deployment", "buslab-dask-worker"))
        assert waiting.wait(BOUND_S) == 0, waiting.communicate()[1]
        run, environment = cluster.command("Job", "buslab-run")
        done = subprocess.run([*run, "--out", str(out)], env=environment, capture_output=True, text=True, timeout=BOUND_S, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    verdict = json.loads((out / "verdict.json").read_text("utf-8"))
    assert verdict["verdict"] == "valid"
    assert verdict["checkers"]["ledger"]["counts"]["unexplained"] == 0
