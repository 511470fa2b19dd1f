"""The services of a bus in Kubernetes: for each a Deployment of real pods (`buslab pod`) and a Service, as the reference's YAML has them.

Rules
-----
1. What the reference's YAML says is there as it says it: names, replicas, the Secret, both probes. What it implies too: the variables of
   batching with the scenario's values, the port of the probes, the gateway at port 80, where its runbook's curl asks it.
2. A pod reads the scenario's whole bus from a file, so that it hears and behaves as in a run. The file's hash stands in the pod's template:
   another bus is another template, and Kubernetes rolls the pods.
3. Kubernetes knows whole seconds only: what the scenario's kubelet says is rounded up, and said.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import msgspec
import tomli_w

from sim.scenario.file import BUS_TABLES
from sim.scenario.manifests.names import mapped
from sim.scenario.manifests.objects import (
    FILES,
    Container,
    Files,
    Object,
    config_map,
    deployment,
    labels,
    pod_template,
    secret_variable,
    service,
    variable,
)
from sim.scenario.settings import Scenario

PORT = 3000  # the reference's, of probes and metrics
WEB_PORT = 80  # of a Service, so that `curl http://api-gateway/…` works as the reference writes it
CONFIG = "buslab-bus"
ADMIN_SECRET = "admin-credentials"
MEMORY = (128, 512)  # MiB; a pod takes some 90 of them, and more while its handlers are behind
LEAST_CPU = 0.1


def bus_text(scenario: Scenario, *, code: bool) -> str:
    """Return a scenario's bus as the text of a bus file, every default written out."""
    tree = msgspec.to_builtins(scenario)
    text = tomli_w.dumps({table: tree[table] for table in BUS_TABLES})
    return f"# The bus of the scenario {scenario.name}{', with its code beside it' if code else ''}.\n{text}"


def bus_objects(scenario: Scenario, *, names: Mapping[str, str], image: str, code: Mapping[str, str]) -> dict[str, list[Object]]:
    """Return the objects of each service, and those that all have in common, by the name of their file.

    Parameters
    ----------
    names
        What each service is called there.
    image
        Of `buslab pod`.
    code
        The user's own code that the bus names, by its path.

    Raises
    ------
    ScenarioError
        The files are too big for Kubernetes.
    """
    part_of = mapped(scenario.name)
    path = f"{part_of}.bus.toml"
    files = Files(CONFIG, {path: bus_text(scenario, code=bool(code)), **code})
    digest = hashlib.sha256(repr(sorted(files.texts.items())).encode()).hexdigest()
    tags = labels(CONFIG, part_of=part_of, component="bus")
    found = {CONFIG: [config_map(files, tags=tags)]}
    for name, called in names.items():
        tags = labels(called, part_of=part_of, component="service")
        template = pod_template(
            [_container(scenario, name, called, image=image, files=files, path=path)],
            tags=tags,
            annotations={
                "prometheus.io/scrape": "true",
                "prometheus.io/port": str(PORT),
                "prometheus.io/path": "/metrics",
                "buslab/bus-sha256": digest,
            },
            grace_s=_whole(scenario.kubelet.grace_s),
            topologySpreadConstraints=[_spread(called, part_of)],
        )
        said = {"buslab/service": name} if name != called else None
        workload = deployment(called, template, replicas=scenario.services[name].replicas, annotations=said)
        found[called] = [workload, service(called, tags=tags, ports={"http": (WEB_PORT, "http")})]
    return found


def _container(scenario: Scenario, name: str, called: str, *, image: str, files: Files, path: str) -> Container:
    bus, one = scenario.bus, scenario.services[name]
    env = [secret_variable("REDIS_URL")] if bus.redis_url else []
    env += [
        variable("EVENT_BUS_BATCH_SIZE", str(bus.batch_size)),
        variable("EVENT_BUS_BATCH_INTERVAL_MS", str(bus.batch_interval_ms)),
        variable("BUSLAB_BUS", f"{FILES}/{path}"),
        variable("HOME", "/tmp"),
    ]
    if scenario.behaviour(name) == "gateway":
        env.append(secret_variable("ADMIN_TOKEN", secret=ADMIN_SECRET, key="token", optional=True))
    return Container(
        called.removesuffix("-service").strip("-"),
        image,
        ["buslab"],
        # A name that begins with a dash is no option.
        ["pod", "--bind", "0.0.0.0", "--port", str(PORT), "--", name],
        env=env,
        ports={"http": PORT},
        cpu=(min(LEAST_CPU, one.cpu_limit), one.cpu_limit),
        memory=MEMORY,
        probes=_probes(scenario),
        files=files,
    )


def _probes(scenario: Scenario) -> dict[str, Object]:
    """Return both probes, with the numbers of the scenario's kubelet: by default the reference's, and what Kubernetes takes without any."""
    kubelet = scenario.kubelet

    def probe(path: str, delay_s: float, period_s: float, successes: int) -> Object:
        return {
            "httpGet": {"path": path, "port": PORT},
            "initialDelaySeconds": _whole(delay_s, least=0),
            "periodSeconds": _whole(period_s),
            "timeoutSeconds": _whole(kubelet.timeout_s),
            "failureThreshold": kubelet.failure_threshold,
            "successThreshold": successes,
        }

    return {
        "livenessProbe": probe("/health/live", kubelet.live_delay_s, kubelet.live_period_s, 1),
        "readinessProbe": probe("/health/ready", kubelet.ready_delay_s, kubelet.ready_period_s, kubelet.success_threshold),
    }


def _spread(name: str, part_of: str) -> Object:
    """Return the wish that the pods of a service be spread over machines; where there are too few it is not granted."""
    tags = {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": part_of}
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": tags},
    }


def _whole(time_s: float, *, least: int = 1) -> int:
    return max(least, math.ceil(time_s))


def rounded(scenario: Scenario) -> list[str]:
    """Return which settings of the kubelet Kubernetes cannot have as they are, and what it gets."""
    times = {name: getattr(scenario.kubelet, name) for name in ("live_delay_s", "live_period_s", "ready_delay_s", "ready_period_s")}
    times |= {name: getattr(scenario.kubelet, name) for name in ("timeout_s", "grace_s")}
    changed = {name: (time_s, _whole(time_s, least=0 if name.endswith("delay_s") else 1)) for name, time_s in times.items()}
    why = "there: Kubernetes knows whole seconds only"
    return [f"kubelet.{name} = {time_s:g} is {whole} {why}" for name, (time_s, whole) in changed.items() if whole != time_s]
