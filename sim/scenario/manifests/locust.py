"""Locust in Kubernetes: a master and its workers, which load the services' real pods as they run there (`--fleet none`).

Only publishes are judged so, because nobody keeps the books of those pods: faults and limits of what pods heard are left out. The master is
a Job whose exit code is the verdict's; workers that outlive it wait for the next one.
"""

from __future__ import annotations

from collections.abc import Mapping

from sim.scenario.manifests.lab import HEAL_S, RUNS, WAIT_S, deadline_s, scenario_files
from sim.scenario.manifests.names import mapped
from sim.scenario.manifests.objects import (
    FILES,
    Container,
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

MASTER, WORKER = "buslab-locust-master", "buslab-locust-worker"
PORT = 5557  # Locust's own
LOCUSTFILE = "/opt/buslab/locustfiles/bus_user.py"  # where the Dockerfile puts it


def locust_objects(
    scenario: Scenario, *, image: str, workers: int, code: Mapping[str, str], users: Mapping[str, str]
) -> dict[str, list[Object]]:
    """Return the master with the scenario and the volume of its run folder, and the workers, by the name of their file."""
    part_of = mapped(scenario.name)
    tags = labels(MASTER, part_of=part_of, component="locust-master")
    files, path = scenario_files(scenario, name=MASTER, code=code, users=users)
    own = next(iter(users), "")
    both = ["-f", f"{FILES}/{own}" if own else LOCUSTFILE, "--headless", "--scenario", path]
    for setting in ("load.driver=locust", "faults=[]", "slo={}", "checkers=[]", "kubelet.enabled=false", "hosts={}"):
        both += ["--set", setting]
    env = [secret_variable("BUSLAB_ON"), variable("HOME", "/tmp")]
    master = Container(
        "master",
        image,
        ["locust"],
        [
            *both,
            *("--fleet", "none", "--yes-load-this-server", "--master", "--master-bind-host", "0.0.0.0"),
            *("--expect-workers", str(workers), "--expect-workers-max-wait", str(WAIT_S)),
        ],
        env=env,
        ports={"locust": PORT},
        cpu=(1, None),
        memory=(512, 2048),
        files=files,
        volumes={RUNS: claimed(MASTER)},
        working_dir=RUNS,
    )
    worker = Container(
        "worker",
        image,
        ["locust"],
        [*both, "--worker", "--master-host", MASTER],
        env=env,
        cpu=(1, None),
        memory=(256, 1024),
        files=files,
        working_dir="/tmp",
    )
    worker_tags = labels(WORKER, part_of=part_of, component="locust-worker")
    template = pod_template([master], tags=tags, grace_s=HEAL_S, restartPolicy="Never")
    return {
        MASTER: [
            config_map(files, tags=tags),
            claim(MASTER, tags=tags),
            job(MASTER, template, deadline_s=deadline_s(scenario)),
            service(MASTER, tags=tags, ports={"locust": (PORT, "locust")}),
        ],
        WORKER: [deployment(WORKER, pod_template([worker], tags=worker_tags), replicas=workers)],
    }
