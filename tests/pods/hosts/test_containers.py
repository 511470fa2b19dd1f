"""Host `containers`: pods in containers are heard, hurt and counted like any, and `buslab pod` runs in the same image."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from sim.errors import BrokerError, ScenarioError
from sim.grounds.catalogue import open_broker
from sim.grounds.container_engine import LABEL, engine, owner_label
from sim.grounds.pod_image import CODE_LABEL, build_pod_image, code_digest, pod_image
from sim.pods.hosts.containers import IMAGE_ENV, check_engine
from sim.results.checkers import judge
from sim.results.opened_run import open_run
from sim.run.status import Status
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario
from sim.wire.address import free_port

BOUND_S = 60.0
KILLED, FROZEN, WHOLE = "music-service-0", "api-gateway-0", "analytics-service-0"
SCENARIO = """
[services.music-service]
publishes = ["analytics.metric.recorded"]
subscribes = ["config.cache.invalidate"]

[services.api-gateway]
publishes = ["analytics.metric.recorded", "config.cache.invalidate"]
subscribes = ["config.cache.invalidate"]

[services.analytics-service]
publishes = ["config.cache.invalidate"]
subscribes = ["analytics.metric.recorded", "config.cache.invalidate"]

[hosts]
kind = "containers"

[load]
driver = "pods"
rate_per_s = 300
warm_up_s = 0.5
run_s = 3
mix = { "analytics.metric.recorded" = 2, "config.cache.invalidate" = 1 }
"""
HURT = f"""faults=[{{kind="pod_kill",pods=["{KILLED}"],at_s=0.5,for_s=0.5}},
    {{kind="pod_freeze",pods=["{FROZEN}"],at_s=0.7,for_s=1.0}}]"""


@pytest.fixture(scope="module")
def image(image_or_reason: tuple[str, str]) -> str:
    """Give the image of pods, built once; the tests that ask for it are marked `container`."""
    if not image_or_reason[0]:
        return ""
    try:
        return check_engine()
    except BrokerError:
        return build_pod_image().name


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    path = tmp_path / "three.toml"
    path.write_text(SCENARIO, "utf-8")
    return str(path)


def of_pods(pid: int = 0) -> list[dict[str, Any]]:
    """The containers that hold pods of a process, by default of this one, as the engine tells of them."""
    with engine() as client:
        found = client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True)
        return [one.attrs for one in found if str(one.name).startswith(f"buslab-pod-{pid or os.getpid()}-")]


@pytest.mark.broker
@pytest.mark.container
def test_three_containers_are_heard_and_counted_while_one_is_killed_and_one_frozen(image: str, scenario: str, tmp_path: Path) -> None:
    seen: dict[str, dict[str, Any]] = {}
    states: set[str] = set()

    def watch(status: Status) -> None:
        if status.phase in ("warm-up", "run"):
            for one in of_pods():
                seen[one["Name"]] = one
                if one["State"]["Running"]:
                    states.add(Path(f"/proc/{one['State']['Pid']}/stat").read_text().rpartition(")")[2].split()[0])

    folder = run_scenario(load_scenario(scenario, settings=(HURT,)), on="container", out=tmp_path / "run", watch=watch)
    run = open_run(folder)
    found = judge(run).checkers
    assert {name: one.detail for name, one in found.items() if one.verdict != "valid"} == {}
    counts = found["ledger"].counts
    assert counts["unexplained"] == counts["unexpected"] == 0
    heard = run.deliveries.groupby("pod", observed=True).size().to_dict()
    assert set(heard) == {KILLED, FROZEN, WHOLE}
    assert min(heard.values()) > 100
    held = run.pods.drop_duplicates(["pod", "host"]).groupby("host", observed=True)["pod"].unique().map(list).to_dict()
    assert held == {f"{KILLED}.1": [KILLED], f"{KILLED}.2": [KILLED], f"{FROZEN}.1": [FROZEN], "container-0": [WHOLE]}
    told = run.pods[run.pods["pod"] == KILLED].sort_values("at_ns")["state"].astype(str).tolist()
    assert told.count("aborted") == 1
    assert told[-1] == "stopped"
    at = run.pods[run.pods["state"] == "frozen"]["at_ns"].iloc[0]
    assert not run.deliveries[run.deliveries["pod"] == FROZEN]["received_ns"].between(at, at + 900_000_000).any()
    assert "T" in states, "the kernel said that it stood still"
    assert len(seen) >= 3
    for one in seen.values():
        assert one["Image"] and one["Config"]["Image"] == image
        assert one["HostConfig"]["ReadonlyRootfs"] and one["HostConfig"]["CapDrop"] == ["ALL"]
        assert one["Config"]["User"] == f"{os.getuid()}:{os.getgid()}"
        assert "redis" not in json.dumps([one["Config"]["Env"], one["Config"]["Cmd"]]), "where the broker is stands nowhere"
    assert of_pods() == []


@contextmanager
def a_run(scenario: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-m", "sim.cli", "run", scenario, "--out", str(folder), "--set", "load.run_s=60", "--no-report"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


def await_containers(process: subprocess.Popen[str], many: int) -> None:
    await_true(lambda: process.poll() is not None or len(of_pods(process.pid)) >= many)
    assert process.poll() is None, process.communicate()[1]


@pytest.mark.broker
@pytest.mark.container
def test_containers_of_a_run_that_is_killed_end_by_themselves_and_the_next_run_removes_them(
    image: str, scenario: str, tmp_path: Path
) -> None:
    with a_run(scenario, tmp_path / "run") as process:
        await_containers(process, 3)
        process.kill()
    await_true(lambda: all(not one["State"]["Running"] for one in of_pods(process.pid)))  # another run may have removed them already
    assert check_engine() == image
    assert of_pods(process.pid) == []


@pytest.mark.broker
@pytest.mark.container
def test_a_ctrl_c_while_containers_start_leaves_none(image: str, scenario: str, tmp_path: Path) -> None:
    with a_run(scenario, tmp_path / "run") as process:
        await_containers(process, 1)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=BOUND_S)[1]
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert of_pods(process.pid) == []


def await_true(true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + BOUND_S
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


@pytest.mark.broker
@pytest.mark.container
@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("missing", "the image buslab/pod:0 is not on this machine: `buslab image --pods` builds one here"),
        ("stale", "was built of other code than this: run `buslab image --pods` again"),
        ("no interpreter", "the container engine says: .*python.* not found"),
    ],
)
def test_an_image_that_cannot_hold_pods_is_refused(
    image: str, scenario: str, other: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"missing": "buslab/pod:0", "stale": "buslab/pod:stale", "no interpreter": os.environ["BUSLAB_REDIS_IMAGE"]}
    monkeypatch.setenv(IMAGE_ENV, names[other])
    with engine() as client:
        if other == "stale":
            labels = [f"LABEL {CODE_LABEL}=another"]
            client.api.import_image_from_data(b"\0" * 10240, repository="buslab/pod", tag="stale", changes=labels)
        try:
            with pytest.raises(BrokerError, match=said):
                run_scenario(load_scenario(scenario), out=tmp_path / "run")
        finally:
            if other == "stale":
                client.images.remove("buslab/pod:stale")
    assert (tmp_path / "run").exists() == (other == "no interpreter"), "what can be known before is asked before there is a folder"
    assert of_pods() == []


def test_as_many_containers_as_a_machine_can_hold_and_no_bus_inside_one_process() -> None:
    with pytest.raises(ScenarioError, match=r"hosts\.kind = 'containers' gives each pod a container of its own: 100 are more than 64"):
        load_scenario("baseline", settings=("hosts.kind=containers", "services.music-service.replicas=91"))
    with pytest.raises(ScenarioError, match=r"hosts\.kind = 'containers': bus.transport = 'memory'"):
        load_scenario("baseline", settings=("hosts.kind=containers", "load.driver=pods", "bus.transport=memory"))


@pytest.fixture
def real_pod(image: str) -> Iterator[tuple[str, redis.Redis, Any]]:
    """Give the URL of a `buslab pod` of the gateway in a container, a client of its broker, and the container."""
    port = free_port()
    with open_broker("container") as broker, engine() as client:
        container = client.containers.run(
            image,
            ["buslab", "pod", "api-gateway", "--port", str(port)],
            name=f"buslab-pod-{os.getpid()}-{secrets.token_hex(4)}",
            labels={LABEL: owner_label()},
            environment={"REDIS_URL": broker.address.url, "ADMIN_TOKEN": "t"},
            network_mode="host",
            read_only=True,
            cap_drop=["ALL"],
            detach=True,
        )
        try:
            with redis.Redis.from_url(broker.address.url) as asked:
                yield f"http://127.0.0.1:{port}", asked, container
        finally:
            container.remove(force=True)


@pytest.mark.broker
@pytest.mark.container
def test_buslab_pod_in_the_image_hears_publishes_answers_and_ends_in_order(real_pod: tuple[str, redis.Redis, Any]) -> None:
    url, broker, container = real_pod
    await_true(lambda: ready(url))
    channel = "aiponge:events:config.cache.invalidate"
    assert ask(f"{url}/api/admin/cache/clear", body={"pattern": "aiponge:*:templates:*"}, token="t")[0] == 202
    event = {"eventId": "evt_1", "type": "config.cache.invalidate", "version": "1.0", "timestamp": "2026-11-29T00:00:00Z"}
    assert broker.publish(channel, json.dumps(event | {"source": "test", "data": {"pattern": "*"}})) == 1
    await_true(lambda: metrics(url)["received_total"] == 2)
    assert metrics(url)["published_total"] == 1
    container.reload()
    assert container.attrs["Config"]["User"] == "10001:10001"
    container.stop(timeout=20)
    assert container.wait()["StatusCode"] == 0
    told = [json.loads(line)["event"] for line in container.logs().decode().splitlines()]
    assert [event for event in told if event in ("started", "stopping", "stopped")] == ["started", "stopping", "stopped"]


def ask(url: str, *, body: Any = None, token: str = "") -> tuple[int, str]:
    """Send a GET, or with a body a POST, and return (status, text)."""
    asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(asked, None if body is None else json.dumps(body).encode(), timeout=BOUND_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def ready(url: str) -> bool:
    try:
        return ask(f"{url}/health/ready")[0] == 200
    except OSError:
        return False


def metrics(url: str) -> dict[str, float]:
    start = "aiponge_api_gateway_event_bus_events_"
    samples = [one for family in text_string_to_metric_families(ask(f"{url}/metrics")[1]) for one in family.samples]
    return {one.name.removeprefix(start): one.value for one in samples if one.name.startswith(start)}


@pytest.mark.deep  # it reads all that goes in once more
@pytest.mark.broker
@pytest.mark.container
def test_the_image_says_of_which_code_it_is_and_is_built_once(image: str) -> None:
    assert image == pod_image()
    assert not build_pod_image().built
    with engine() as client:
        assert client.images.get(image).labels[CODE_LABEL] == code_digest()
