"""What all manifests share: labels, security, a container, a workload, a Service, and files in a ConfigMap.

Rules
-----
1. No container runs as root, gains rights, writes into its image or calls the API of Kubernetes.
2. Kubernetes puts no variable of its own into a container: a service named `redis` would give every pod a `REDIS_PORT` of another meaning.
3. A variable with a URL of the broker comes from the Secret `redis-credentials`, never from a manifest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sim.errors import ScenarioError
from sim.scenario.manifests.names import file_key

Object = dict[str, Any]

SECRET = "redis-credentials"
USER = 10_001
FILES = "/etc/buslab"
MOST_BYTES = 1_000_000  # of a ConfigMap: Kubernetes takes 1 MiB with its own words
GRACE_S = 30
MEBI = "Mi"
WORKERS = 2
FOLDERS = ("bus", "redis", "lab", "locust")
MAX_WORKERS = 1000


@dataclass(frozen=True)
class Files:
    """Files that a container finds in the folder `FILES`: the ConfigMap's name, and each file by its path there."""

    name: str
    texts: Mapping[str, str]

    def keys(self) -> dict[str, str]:
        """Return the key of each file in the ConfigMap, by its path.

        A key has no slash, and a path may have any.
        """
        found = dict[str, str]()
        for path in self.texts:
            found[path] = file_key(path, found.values())
        return found

    def volume(self) -> Object:
        """Return the volume of a pod that has them."""
        items = [{"key": key, "path": path} for path, key in self.keys().items()]
        return {"name": "files", "configMap": {"name": self.name, "items": items}}


@dataclass(frozen=True)
class Container:
    """One container: what it runs, with what, and how much of a machine it asks for.

    Attributes
    ----------
    cpu, memory
        What it is given for certain, and what it may have at most: cores and MiB; a most of None is no limit.
    volumes
        Where it writes: the path, and the volume there, beside `/tmp`, which each has.
    """

    name: str
    image: str
    command: Sequence[str]
    args: Sequence[str] = ()
    env: Sequence[Object] = ()
    ports: Mapping[str, int] = field(default_factory=dict)
    cpu: tuple[float, float | None] = (0.1, None)
    memory: tuple[int, int] = (128, 256)
    probes: Mapping[str, Object] = field(default_factory=dict)
    files: Files | None = None
    volumes: Mapping[str, Object] = field(default_factory=dict)
    working_dir: str = ""

    def manifest(self) -> Object:
        """Return it as an entry of a pod's containers."""
        mounts: list[Object] = [{"name": "tmp", "mountPath": "/tmp"}]
        mounts += [{"name": volume["name"], "mountPath": path} for path, volume in self.volumes.items()]
        mounts += [] if self.files is None else [{"name": "files", "mountPath": FILES, "readOnly": True}]
        limits = ({} if self.cpu[1] is None else {"cpu": _cores(self.cpu[1])}) | {"memory": f"{self.memory[1]}{MEBI}"}
        return {
            "name": self.name,
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            "command": list(self.command),
            **({"args": list(self.args)} if self.args else {}),
            **({"workingDir": self.working_dir} if self.working_dir else {}),
            **({"ports": [{"name": name, "containerPort": port} for name, port in self.ports.items()]} if self.ports else {}),
            **({"env": list(self.env)} if self.env else {}),
            **self.probes,
            "resources": {"requests": {"cpu": _cores(self.cpu[0]), "memory": f"{self.memory[0]}{MEBI}"}, "limits": limits},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": mounts,
        }


def _cores(cores: float) -> str:
    return f"{cores:g}" if float(cores).is_integer() else f"{round(cores * 1000)}m"


def variable(name: str, value: str) -> Object:
    """Return a variable with its value in the manifest."""
    return {"name": name, "value": value}


def secret_variable(name: str, *, secret: str = SECRET, key: str = "url", optional: bool = False) -> Object:
    """Return a variable whose value stands in a Secret."""
    of = {"name": secret, "key": key} | ({"optional": True} if optional else {})
    return {"name": name, "valueFrom": {"secretKeyRef": of}}


def labels(name: str, *, part_of: str, component: str) -> dict[str, str]:
    """Return the labels of an object, as Kubernetes recommends them."""
    return {
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": part_of,
        "app.kubernetes.io/managed-by": "buslab",
    }


def pod_template(
    containers: Sequence[Container],
    *,
    tags: Mapping[str, str],
    first: Sequence[Container] = (),
    annotations: Mapping[str, str] | None = None,
    user: int = USER,
    grace_s: int = GRACE_S,
    **more: Any,
) -> Object:
    """Return the template of a pod; `first` are the containers that end before the others begin."""
    volumes: dict[str, Object] = {"tmp": {"name": "tmp", "emptyDir": {}}}
    for one in (*first, *containers):
        volumes |= {volume["name"]: volume for volume in one.volumes.values()}
        volumes |= {} if one.files is None else {"files": one.files.volume()}
    return {
        "metadata": {"labels": dict(tags)} | ({"annotations": dict(annotations)} if annotations else {}),
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": grace_s,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": user,
                "runAsGroup": user,
                "fsGroup": user,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            **more,
            **({"initContainers": [one.manifest() for one in first]} if first else {}),
            "containers": [one.manifest() for one in containers],
            "volumes": list(volumes.values()),
        },
    }


def deployment(
    name: str, template: Object, *, replicas: int, annotations: Mapping[str, str] | None = None, recreate: bool = False
) -> Object:
    """Return a Deployment of a pod template, whose labels it takes."""
    tags = template["metadata"]["labels"]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": tags} | ({"annotations": dict(annotations)} if annotations else {}),
        "spec": {
            "replicas": replicas,
            **({"strategy": {"type": "Recreate"}} if recreate else {}),
            "selector": {"matchLabels": selector(tags)},
            "template": template,
        },
    }


def job(name: str, template: Object, *, deadline_s: int) -> Object:
    """Return a Job that runs once, to its end or to its deadline; it stays, so that its log and its exit code do."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": template["metadata"]["labels"]},
        "spec": {"backoffLimit": 0, "activeDeadlineSeconds": deadline_s, "template": template},
    }


def selector(tags: Mapping[str, str]) -> dict[str, str]:
    """Return those labels of a pod by which it is found: they may not change."""
    return {name: tags[name] for name in ("app.kubernetes.io/name", "app.kubernetes.io/part-of")}


def service(name: str, *, tags: Mapping[str, str], ports: Mapping[str, tuple[int, int | str]]) -> Object:
    """Return a Service for the pods that have these labels: port name -> (its port, that of the pod)."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": dict(tags)},
        "spec": {
            "selector": selector(tags),
            "ports": [{"name": one, "port": port, "targetPort": target} for one, (port, target) in ports.items()],
        },
    }


def config_map(files: Files, *, tags: Mapping[str, str]) -> Object:
    """Return the ConfigMap of files.

    Raises
    ------
    ScenarioError
        They are more than it holds.
    """
    keys = files.keys()
    size = sum(len(text.encode()) for text in files.texts.values())
    if size > MOST_BYTES:
        raise ScenarioError(
            f"the files {', '.join(files.texts)} have {size:,} bytes, and a ConfigMap holds {MOST_BYTES:,}: build an image of your own "
            "with your code installed in it, and name that code by entry points"
        )
    data = {keys[path]: text for path, text in files.texts.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": files.name, "labels": dict(tags)}, "data": data}


def claim(name: str, *, tags: Mapping[str, str], size: str = "10Gi") -> Object:
    """Return the claim of a volume that outlives its pods."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "labels": dict(tags)},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
    }


def claimed(name: str) -> Object:
    """Return the volume of a pod that is a claim's."""
    return {"name": "runs", "persistentVolumeClaim": {"claimName": name}}
