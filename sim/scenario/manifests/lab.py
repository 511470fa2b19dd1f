"""The lab itself in Kubernetes: a Redis for tests, a Dask cluster that holds the pods of a run, and a Job that makes the run.

Rules
-----
1. The Job's exit code is the verdict's, and its run folder stays in a volume. It never tries again: what failed is to be looked at.
2. It begins when the workers are there, and has a deadline: the longest that the scenario's steps may take, and time to pull images.
3. Dask starts no worker anew behind our back: no nanny. A worker that ends is Kubernetes' to restart, and the run's to notice.
4. The Redis is one for tests: it keeps nothing on disk, and takes its password from the same Secret as everybody.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from msgspec.structs import replace

from sim.scenario.file import to_toml
from sim.scenario.manifests.names import file_key, mapped
from sim.scenario.manifests.objects import (
    FILES,
    SECRET,
    Container,
    Files,
    Object,
    claim,
    claimed,
    config_map,
    deployment,
    job,
    labels,
    pod_template,
    secret_variable,
    service,
    variable,
)
from sim.scenario.settings import Scenario

SCHEDULER, WORKER, REDIS, RUN = "buslab-dask-scheduler", "buslab-dask-worker", "buslab-redis", "buslab-run"
SCHEDULER_PORT, REDIS_PORT = 8786, 6379
RUNS = "/runs"
REDIS_IMAGE = "redis:8.2.1-alpine"  # as the ground `container` has it by default
REDIS_USER = 999  # of that image
WAIT_S = 600  # for workers, and for what pulls images
HEAL_S = 120  # from SIGTERM until the run is killed: it heals, drains, seals and judges
WAIT = (  # a program: wait until a scheduler has so many workers
    "import sys; from distributed import Client; at, many, wait_s = sys.argv[1:]; "
    "Client(at, timeout=wait_s).wait_for_workers(int(many), timeout=int(wait_s))"
)


def scenario_files(scenario: Scenario, *, name: str, code: Mapping[str, str], users: Mapping[str, str]) -> tuple[Files, str]:
    """Return a scenario with its bus and the user's own files as a container finds them, and where it finds the scenario."""
    path = file_key(f"{scenario.name}.toml", [*code, *users])
    load = replace(scenario.load, locustfile=next(iter(users), ""))
    moved = replace(scenario, load=load, code_folder="." if code else "")
    return Files(name, {path: to_toml(moved), **code, **users}), f"{FILES}/{path}"


def redis_objects(part_of: str) -> list[Object]:
    """Return the Redis for tests."""
    tags = labels(REDIS, part_of=part_of, component="broker")
    ping = {"exec": {"command": ["redis-cli", "ping"]}, "periodSeconds": 5, "timeoutSeconds": 3}
    server = Container(
        "redis",
        REDIS_IMAGE,
        ["redis-server"],
        ["--save", "", "--appendonly", "no", "--dir", "/tmp", "--requirepass", "$(REDIS_PASSWORD)", "--maxclients", "20000"],
        env=[secret_variable("REDIS_PASSWORD", key="password"), secret_variable("REDISCLI_AUTH", key="password")],
        ports={"redis": REDIS_PORT},
        cpu=(0.5, None),
        memory=(128, 1024),
        probes={"livenessProbe": ping, "readinessProbe": ping},
    )
    template = pod_template([server], tags=tags, user=REDIS_USER)
    return [
        deployment(REDIS, template, replicas=1, recreate=True),
        service(REDIS, tags=tags, ports={"redis": (REDIS_PORT, "redis")}),
    ]


def redis_url() -> str:
    """Return the URL of the Redis for tests, with the place of its password."""
    return f"redis://:PASSWORD@{REDIS}:{REDIS_PORT}"


def dask_objects(part_of: str, *, image: str, workers: int) -> dict[str, list[Object]]:
    """Return the Dask scheduler and its workers, by the name of their file."""
    env = [variable("HOME", "/tmp"), variable("DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED", "false")]
    tags = labels(SCHEDULER, part_of=part_of, component="dask-scheduler")
    open_port = {"tcpSocket": {"port": SCHEDULER_PORT}, "periodSeconds": 5}
    scheduler = Container(
        "scheduler",
        image,
        ["dask", "scheduler"],
        ["--host", "0.0.0.0", "--port", str(SCHEDULER_PORT), "--no-dashboard"],
        env=env,
        ports={"scheduler": SCHEDULER_PORT},
        memory=(256, 1024),
        probes={"livenessProbe": open_port, "readinessProbe": open_port},
    )
    held = Container(
        "worker",
        image,
        ["dask", "worker"],
        [scheduler_url(), "--no-nanny", "--no-dashboard", "--memory-limit", "0", "--local-directory", "/tmp", "--name", "$(POD_NAME)"],
        env=[*env, {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        cpu=(1, None),
        memory=(512, 2048),
    )
    worker_tags = labels(WORKER, part_of=part_of, component="dask-worker")
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app.kubernetes.io/name": WORKER, "app.kubernetes.io/part-of": part_of}},
    }
    return {
        SCHEDULER: [
            deployment(SCHEDULER, pod_template([scheduler], tags=tags), replicas=1, recreate=True),
            service(SCHEDULER, tags=tags, ports={"scheduler": (SCHEDULER_PORT, "scheduler")}),
        ],
        WORKER: [deployment(WORKER, pod_template([held], tags=worker_tags, topologySpreadConstraints=[spread]), replicas=workers)],
    }


def job_settings(scheduler: str) -> tuple[str, ...]:
    """Return what the Job's run sets: that its pods live in a Dask cluster, that of these manifests unless another one is named."""
    return "hosts.kind=dask", f"hosts.scheduler={scheduler or scheduler_url()}"


def scheduler_url() -> str:
    """Return where the Dask scheduler of these manifests is."""
    return f"tcp://{SCHEDULER}:{SCHEDULER_PORT}"


def run_objects(
    scenario: Scenario, *, image: str, workers: int, code: Mapping[str, str], users: Mapping[str, str], scheduler: str
) -> list[Object]:
    """Return the Job that makes the run, the volume that keeps its folder, and the scenario.

    Parameters
    ----------
    scheduler
        Where the Dask cluster is; empty for that of these manifests.
    """
    part_of = mapped(scenario.name)
    tags = labels(RUN, part_of=part_of, component="run")
    files, path = scenario_files(scenario, name=RUN, code=code, users=users)
    at = scheduler or scheduler_url()
    wait = Container(
        "workers-are-there",
        image,
        ["python", "-c", WAIT],
        [at, str(workers), str(WAIT_S)],
        env=[variable("HOME", "/tmp")],
        memory=(128, 512),
    )
    run = Container(
        "run",
        image,
        ["buslab"],
        ["run", path, *(word for one in job_settings(at) for word in ("--set", one)), "--yes-load-this-server"],
        env=[secret_variable("BUSLAB_ON"), variable("HOME", "/tmp")],
        cpu=(1, None),
        memory=(1024, 4096),
        files=files,
        volumes={RUNS: claimed(RUN)},
        working_dir=RUNS,
    )
    template = pod_template([run], first=[wait], tags=tags, grace_s=HEAL_S, restartPolicy="Never")
    return [config_map(files, tags=tags), claim(RUN, tags=tags), job(RUN, template, deadline_s=deadline_s(scenario))]


def deadline_s(scenario: Scenario) -> int:
    """Return how long a Job of the scenario may take."""
    load, limits = scenario.load, scenario.limits
    return math.ceil(load.warm_up_s + load.run_s + limits.start_s + limits.probe_s + 4 * limits.drain_s) + 2 * WAIT_S


def secret_command(*, url: str = "") -> str:
    """Return the command that makes the Secret, which no manifest holds."""
    at = url or redis_url()
    password = "" if url else " --from-literal=password=PASSWORD"
    return f"kubectl create secret generic {SECRET} --from-literal=url={at}{password}"
