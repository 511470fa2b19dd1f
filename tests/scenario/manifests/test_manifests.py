"""What Kubernetes is told of a bus: valid for it, what the reference shows, the same for any bus, and what the lab's own parts are."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils

from sim.grounds.container_engine import DEFAULT_IMAGE
from sim.scenario.file import built_in, load_bus, load_scenario
from sim.scenario.manifests.lab import REDIS_IMAGE, deadline_s
from sim.scenario.manifests.write import Manifests, manifests
from sim.scenario.settings import REFERENCE_FILE

NEWEST = list(dict.fromkeys(map(utils.major_minor, utils.all_versions())))[-2:]
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
EXAMPLES = Path("docs/examples")
STRANGE = """
[services."Büro_Nord!"]
subscribes = ["order.created"]

[services."büro-nord"]
subscribes = ["order.created"]

[services."9-to-5"]
publishes = ["order.created"]
replicas = 2

[services."注文"]
subscribes = ["order.created"]

[services.buslab-redis]
subscribes = ["order.created"]

[services."-v"]
subscribes = ["order.created"]

[services.{long}]
subscribes = ["order.created"]

[channels."order.created"]
payload = 100
rate_per_s = 10
"""


@pytest.fixture(autouse=True, scope="module")
def schemas_are_read_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", functools.cache(utils.schema_contents))
        yield


@pytest.fixture
def strange(tmp_path: Path) -> str:
    path = tmp_path / "Mein Bus.toml"
    path.write_text(STRANGE.format(long="a" * 90), "utf-8")
    return str(path)


def objects(found: Manifests) -> dict[tuple[str, str], Any]:
    """Return the objects as Kubernetes would read them, by kind and name."""
    texts = found.texts().values()
    read = [one for text in texts for one in yaml.load_all(text, Loader=LOADER)]
    by_name = {(one["kind"], one["metadata"]["name"]): one for one in read}
    assert len(by_name) == len(read), "no two have one name"
    return by_name


def pod_of(one: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = one["spec"]["template"]["spec"]
    return spec


def container_of(one: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod_of(one)["containers"]
    return dict(found)


def at(tree: Any, path: str) -> Any:
    for part in path.split("/"):
        tree = tree[int(part)] if isinstance(tree, list) else tree[part]
    return tree


def named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (found,) = [one for one in entries if one["name"] == name]
    return found


# -- the reference ----------------------------------------------------------------------------------------------------

ONE = "spec/template/spec/containers/0"
REFERENCE = {  # each field of the two pieces of YAML in the reference
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata/name": "music-service",
    "spec/replicas": 3,
    f"{ONE}/name": "music",
    f"{ONE}/env/0/name": "REDIS_URL",
    f"{ONE}/env/0/valueFrom/secretKeyRef/name": "redis-credentials",
    f"{ONE}/env/0/valueFrom/secretKeyRef/key": "url",
    f"{ONE}/livenessProbe/httpGet/path": "/health/live",
    f"{ONE}/livenessProbe/httpGet/port": 3000,
    f"{ONE}/livenessProbe/initialDelaySeconds": 10,
    f"{ONE}/livenessProbe/periodSeconds": 15,
    f"{ONE}/readinessProbe/httpGet/path": "/health/ready",
    f"{ONE}/readinessProbe/httpGet/port": 3000,
    f"{ONE}/readinessProbe/initialDelaySeconds": 5,
    f"{ONE}/readinessProbe/periodSeconds": 10,
}


@pytest.fixture(scope="module")
def baseline() -> dict[tuple[str, str], Any]:
    return objects(manifests("baseline"))


@pytest.mark.parametrize("field", REFERENCE)
def test_each_field_of_the_reference_s_yaml_is_in_ours(field: str, baseline: dict[tuple[str, str], Any]) -> None:
    assert at(baseline["Deployment", "music-service"], field) == REFERENCE[field]


def test_what_the_reference_implies_is_there_too(baseline: dict[tuple[str, str], Any]) -> None:
    replicas = {name: one["spec"]["replicas"] for (kind, name), one in baseline.items() if kind == "Deployment" and "buslab" not in name}
    drawn = {"music-service": 3, "ai-content-service": 2, "api-gateway": 4}
    assert replicas == drawn | {"ai-config-service": 1, "analytics-service": 1, "system-service": 1}
    for name in replicas:
        one = container_of(baseline["Deployment", name])
        env = {entry["name"]: entry.get("value") for entry in one["env"]}
        assert (env["EVENT_BUS_BATCH_SIZE"], env["EVENT_BUS_BATCH_INTERVAL_MS"]) == ("100", "30000")
        assert one["name"] == name.removesuffix("-service")
        template = baseline["Deployment", name]["spec"]["template"]
        notes = template["metadata"]["annotations"]
        assert [notes[f"prometheus.io/{key}"] for key in ("scrape", "port", "path")] == ["true", "3000", "/metrics"]
        assert template["spec"]["terminationGracePeriodSeconds"] == 30
    (web,) = baseline["Service", "api-gateway"]["spec"]["ports"]
    assert web["port"] == 80, "the runbook asks http://api-gateway/api/admin/cache/clear"
    admin = named(container_of(baseline["Deployment", "api-gateway"])["env"], "ADMIN_TOKEN")["valueFrom"]["secretKeyRef"]
    assert admin == {"name": "admin-credentials", "key": "token", "optional": True}
    assert "ADMIN_TOKEN" not in str(baseline["Deployment", "music-service"])


# -- valid, and safe ---------------------------------------------------------------------------------------------------

BUSES = ["baseline", "aiponge", *(str(EXAMPLES / one) for one in ("shop/everyday.toml", "own-code/day.toml", "chat/chat.bus.toml"))]


@pytest.mark.parametrize("version", NEWEST)
@pytest.mark.parametrize("bus", [*BUSES, "strange"])
def test_manifests_are_valid_in_the_newest_kubernetes(bus: str, version: str, strange: str) -> None:
    found = objects(manifests(strange if bus == "strange" else bus))
    for one in found.values():
        assert kubernetes_validate.validate(one, version, strict=True) == version


@pytest.mark.parametrize(
    ("place", "value"),
    [("spec/replicass", 3), ("spec/replicas", "3"), (f"{ONE}/livenessProbe/periodSecond", 3), (f"{ONE}/envv", [])],
)
def test_the_validator_finds_what_is_wrong(place: str, value: object, baseline: dict[tuple[str, str], Any]) -> None:
    one = copy.deepcopy(baseline["Deployment", "music-service"])
    way, _, key = place.rpartition("/")
    at(one, way)[key] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(one, NEWEST[-1], strict=True)


@pytest.mark.parametrize("bus", [*BUSES, "strange"])
def test_every_container_is_confined_and_finds_what_it_mounts_and_reads(bus: str, strange: str) -> None:
    found = objects(manifests(strange if bus == "strange" else bus))
    for (kind, name), one in found.items():
        if kind == "Service":
            selected = [
                other["spec"]["template"]
                for other in found.values()
                if "template" in other["spec" if "spec" in other else "metadata"]
                and one["spec"]["selector"].items() <= other["spec"]["template"]["metadata"]["labels"].items()
            ]
            assert len(selected) == 1, f"{name} finds the pods of one workload"
            (ports,) = [{port["name"] for port in container.get("ports", ())} for container in selected[0]["spec"]["containers"]]
            assert {port["targetPort"] for port in one["spec"]["ports"]} <= ports
        if kind not in ("Deployment", "Job"):
            continue
        pod = pod_of(one)
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        assert pod["enableServiceLinks"] is False and pod["automountServiceAccountToken"] is False
        if kind == "Deployment":
            assert one["spec"]["selector"]["matchLabels"].items() <= one["spec"]["template"]["metadata"]["labels"].items()
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            safe = container["securityContext"]
            assert safe["readOnlyRootFilesystem"] and not safe["allowPrivilegeEscalation"] and safe["capabilities"] == {"drop": ["ALL"]}
            assert set(container["resources"]) == {"requests", "limits"}
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
        for volume in volumes.values():
            if "configMap" in volume:
                data = found["ConfigMap", volume["configMap"]["name"]]["data"]
                assert {item["key"] for item in volume["configMap"]["items"]} == set(data)
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in found


# -- any bus -----------------------------------------------------------------------------------------------------------


def test_the_pods_read_the_scenario_s_own_bus(tmp_path: Path) -> None:
    name, settings = (
        str(EXAMPLES / "shop/everyday.toml"),
        ("bus.batch_size=7", "services.billing.replicas=3", "services.billing.cpu_limit=0.5"),
    )
    found, meant = objects(manifests(name, settings=settings)), load_scenario(name, settings=settings)
    ((file, text),) = found["ConfigMap", "buslab-bus"]["data"].items()
    (tmp_path / file).write_text(text, "utf-8")
    read = load_bus(str(tmp_path / file))
    assert (read.bus, read.services, read.channels, read.envelope) == (meant.bus, meant.services, meant.channels, meant.envelope)
    billing = container_of(found["Deployment", "billing"])
    env = {entry["name"]: entry.get("value") for entry in billing["env"]}
    assert env["EVENT_BUS_BATCH_SIZE"] == "7"
    assert env["BUSLAB_BUS"] == f"/etc/buslab/{file}"
    assert billing["resources"]["limits"]["cpu"] == "500m"
    assert found["Deployment", "billing"]["spec"]["replicas"] == 3


def test_another_bus_is_another_template_so_that_the_pods_are_rolled() -> None:
    def digest(*settings: str) -> str:
        one = objects(manifests("baseline", settings=settings))["Deployment", "music-service"]
        return str(one["spec"]["template"]["metadata"]["annotations"]["buslab/bus-sha256"])

    assert digest() == digest() != digest("bus.keep_alive_s=5")


def test_names_that_kubernetes_cannot_have_are_mapped_and_said(strange: str) -> None:
    found = manifests(strange)
    read = objects(found)
    names = {
        one["metadata"]["annotations"]["buslab/service"]: name
        for (kind, name), one in read.items()
        if kind == "Deployment" and "annotations" in one["metadata"]
    }
    assert names["Büro_Nord!"] == "buro-nord"
    assert re.fullmatch(r"buro-nord-[0-9a-f]{6}", names["büro-nord"])
    assert names["9-to-5"] == "s-9-to-5"
    assert re.fullmatch(r"service-[0-9a-f]{6}", names["注文"])
    assert names["buslab-redis"] == "s-buslab-redis"
    assert names["-v"] == "v"
    assert re.fullmatch(r"a{56}-[0-9a-f]{6}", names["a" * 90])
    for name, called in names.items():
        assert ("Service", called) in read
        assert any(name in note and f"is called {called} there" in note for note in found.notes), name
        assert container_of(read["Deployment", called])["args"][-2:] == ["--", name], "the pod is asked for by its own name"
    assert any("the scenario" in note and "mein-bus" in note for note in found.notes)
    assert manifests(strange).notes == found.notes, "the same names each time"


def test_a_bus_without_a_url_gets_none_and_a_quick_kubelet_is_rounded_and_said() -> None:
    found = manifests("memory_mode", settings=("kubelet.live_period_s=0.2", "kubelet.grace_s=2.5", "kubelet.ready_delay_s=0"))
    (one,) = {
        str(container_of(one)["env"]).count("REDIS_URL")
        for (kind, name), one in objects(found).items()
        if kind == "Deployment" and "buslab" not in name
    }
    assert one == 0
    probes = container_of(objects(found)["Deployment", "music-service"])
    assert (probes["livenessProbe"]["periodSeconds"], probes["readinessProbe"]["initialDelaySeconds"]) == (1, 0)
    assert pod_of(objects(found)["Deployment", "music-service"])["terminationGracePeriodSeconds"] == 3
    said = "\n".join(found.notes)
    assert "kubelet.live_period_s = 0.2 is 1 there" in said
    assert "kubelet.grace_s = 2.5 is 3 there" in said
    assert "ready_delay" not in said
    assert "memory mode" in said


# -- the lab -----------------------------------------------------------------------------------------------------------


def test_the_job_makes_the_run_on_dask_when_the_workers_are_there_and_keeps_its_folder(baseline: dict[tuple[str, str], Any]) -> None:
    job = baseline["Job", "buslab-run"]
    run = container_of(job)
    assert run["command"] + run["args"] == [
        *("buslab", "run", "/etc/buslab/baseline.toml", "--set", "hosts.kind=dask"),
        *("--set", "hosts.scheduler=tcp://buslab-dask-scheduler:8786", "--yes-load-this-server"),
    ]
    assert named(run["env"], "BUSLAB_ON")["valueFrom"]["secretKeyRef"] == {"name": "redis-credentials", "key": "url"}
    (wait,) = pod_of(job)["initContainers"]
    assert wait["args"] == ["tcp://buslab-dask-scheduler:8786", "2", "600"]
    (mount,) = [one for one in run["volumeMounts"] if one["name"] == "runs"]
    assert run["workingDir"] == mount["mountPath"], "reports/runs/… is in the volume"
    assert (job["spec"]["backoffLimit"], pod_of(job)["restartPolicy"]) == (0, "Never")
    assert job["spec"]["activeDeadlineSeconds"] == deadline_s(load_scenario("baseline")) > 15 + 30 + 15
    assert baseline["Service", "buslab-dask-scheduler"]["spec"]["ports"][0]["port"] == 8786
    assert "--no-nanny" in container_of(baseline["Deployment", "buslab-dask-worker"])["args"]


def test_the_number_of_workers_is_that_of_both_kinds_and_what_is_waited_for() -> None:
    found = objects(manifests("baseline", workers=5, image="registry:5000/team/lab:2"))
    assert found["Deployment", "buslab-dask-worker"]["spec"]["replicas"] == 5
    assert found["Deployment", "buslab-locust-worker"]["spec"]["replicas"] == 5
    assert pod_of(found["Job", "buslab-run"])["initContainers"][0]["args"][1] == "5"
    args = container_of(found["Job", "buslab-locust-master"])["args"]
    assert args[args.index("--expect-workers") + 1] == "5"
    images = {
        container["image"] for (kind, _), one in found.items() if kind in ("Deployment", "Job") for container in pod_of(one)["containers"]
    }
    assert images == {"registry:5000/team/lab:2", REDIS_IMAGE}
    assert REDIS_IMAGE == DEFAULT_IMAGE


def test_a_bus_file_has_no_load_so_there_is_nothing_that_runs() -> None:
    folders = {path.parts[0] for path in manifests("aiponge").files} | {
        path.parts[0] for path in manifests(str(EXAMPLES / "chat/chat.bus.toml")).files
    }
    assert folders == {"bus", "redis"}
    assert REFERENCE_FILE.name == "aiponge.bus.toml"


def test_faults_of_the_broker_cannot_be_in_kubernetes_and_that_is_said() -> None:
    assert any("the Job in lab/ will be refused: 1 fault (broker_down)" in note for note in manifests("broker_down").notes)
    assert not any("refused" in note for note in manifests("pod_kill").notes)
    assert not any("refused" in note for note in manifests("link_slow").notes), "the links of our pods are ours, wherever the broker is"
    said = "will be refused: scenario http_vs_bus: load.mix: 'http.events.batch' is a call from pod to pod on one machine"
    assert any(said in note for note in manifests("http_vs_bus").notes)


def test_all_built_in_scenarios_have_manifests() -> None:
    for name in built_in():
        assert {path.parts[0] for path in manifests(name).files} == {"bus", "redis", "lab", "locust"}, name
