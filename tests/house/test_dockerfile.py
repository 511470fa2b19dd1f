"""The Dockerfile: on a root that debootstrap makes, as no registry need be there, it gives an image of which the manifests can be run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from sim.grounds.container_engine import engine
from sim.pods.hosts.containers import IMAGE_ENV
from sim.results.checkers import judge
from sim.results.opened_run import open_run
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario
from sim.scenario.manifests.objects import USER
from sim.scenario.manifests.write import manifests

ROOT = Path(__file__).parents[2]
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
BASE, IMAGE = "buslab-test-base:1", "buslab-test:1"
BOUND_S = 1800.0


def debian() -> str:
    """Return the name of the Debian that this machine is, empty when it is another system."""
    lines = Path("/etc/os-release").read_text("utf-8").splitlines() if Path("/etc/os-release").exists() else []
    about = dict(line.partition("=")[::2] for line in lines)
    return about.get("VERSION_CODENAME", "") if about.get("ID") == "debian" else ""


def index() -> list[str]:
    """Return the lines of a Dockerfile by which pip finds packages as it does here."""
    asked = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    url = os.environ.get("PIP_INDEX_URL") or said
    return [f"ENV PIP_CERT={CERTIFICATES}", *([f"ENV PIP_INDEX_URL={url}"] if url else [])]


@pytest.fixture(scope="module")
def built() -> Iterator[str]:
    """Give the image, on a root of this machine's Debian."""
    if not debian() or shutil.which("debootstrap") is None or os.geteuid():
        pytest.skip("debootstrap, which only root can run, makes a root of this machine's Debian")
    mirrors = subprocess.run(["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)"], capture_output=True, text=True, check=True)
    mirror = next(line.split()[1] for line in mirrors.stdout.splitlines() if line.split()[0] == debian())
    with tempfile.TemporaryDirectory() as folder, engine() as client:
        root = Path(folder) / "root"
        argv = ["debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", debian(), str(root), mirror]
        subprocess.run(argv, check=True, timeout=BOUND_S, stdout=subprocess.DEVNULL)
        if Path(CERTIFICATES).exists():
            shutil.copy(CERTIFICATES, root / CERTIFICATES.lstrip("/"))
        with tarfile.open(Path(folder) / "root.tar", "w") as tar:
            tar.add(root, arcname=".")
        repository, _, tag = BASE.partition(":")
        client.api.import_image_from_file(str(Path(folder) / "root.tar"), repository=repository, tag=tag, changes=index())
        try:
            image, _ = client.images.build(path=str(ROOT), tag=IMAGE, buildargs={"BASE": BASE}, network_mode="host", rm=True)
            yield IMAGE
            client.images.remove(image.id, force=True)
        finally:
            client.images.remove(BASE, force=True)


def said(image: str, *command: str) -> str:
    with engine() as client:
        more = {"network_mode": "host", "read_only": True, "tmpfs": {"/tmp": ""}, "cap_drop": ["ALL"], "remove": True}
        return str(client.containers.run(image, list(command), **more).decode()).strip()


@pytest.mark.deep
@pytest.mark.broker
@pytest.mark.container
def test_it_has_what_the_manifests_run_and_is_no_root(built: str) -> None:
    assert said(built, "id", "-u") == str(USER)
    assert said(built, "buslab", "--version").startswith("buslab, version ")
    commands = {
        container["command"][0]
        for objects in manifests("baseline", image=built).files.values()
        for one in objects
        if "template" in one.get("spec", {})
        for container in one["spec"]["template"]["spec"]["containers"]
        if container["image"] == built
    }
    assert commands == {"buslab", "dask", "locust"}
    for command in ("locust", "dask"):
        assert said(built, command, "--version"), command
    assert {one["kind"] for one in yaml.safe_load_all(said(built, "buslab", "manifests", "aiponge"))} >= {"Deployment"}
    locustfile = manifests("baseline").files[Path("locust/buslab-locust-worker.yaml")][0]["spec"]["template"]["spec"]["containers"][0][
        "args"
    ][1]
    assert "ScheduledUser" in said(built, "locust", "-f", locustfile, "--list")


@pytest.mark.deep
@pytest.mark.broker
@pytest.mark.container
def test_pods_of_it_are_heard_in_a_run(built: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IMAGE_ENV, built)
    replicas = ("services.music-service.replicas=1", "services.api-gateway.replicas=1", "services.ai-content-service.replicas=1")
    quick = ("hosts.kind=containers", "load.driver=pods", "load.warm_up_s=0.5", "load.run_s=2")
    run = open_run(run_scenario(load_scenario("baseline", settings=(*replicas, *quick)), on="container", out=tmp_path / "run"))
    counts = judge(run).checkers["ledger"].counts
    assert counts["unexplained"] == counts["missing"] == 0
    assert run.deliveries["pod"].nunique() == 6
