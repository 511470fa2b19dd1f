"""One name stands for an image: what is looked up, pulled, started and recorded is the same, with a mirror's prefix or without."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sim.grounds.container_engine import IMAGE_ENV, LABEL, LOCAL_REPOSITORY, engine, owner_label, whole_name

PREFIX = "registry.example.test/hub/"
BOUND_S = 90.0


class FewImages:
    """An engine as far as `whole_name` asks it: which images it has."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self.images = self

    def get(self, name: str) -> str:
        from docker.errors import ImageNotFound

        if name not in self._names:
            raise ImageNotFound(name)
        return name


LOCAL = f"{LOCAL_REPOSITORY}:9.1.2"
NAMES = [
    ("", "redis:8", (), "redis:8"),
    (PREFIX, "redis:8", (), PREFIX + "redis:8"),
    (f" {PREFIX}\n", "redis:8", (), PREFIX + "redis:8"),
    (PREFIX, PREFIX + "redis:8", (), PREFIX + "redis:8"),
    (PREFIX, LOCAL, (LOCAL,), LOCAL),
    (PREFIX, LOCAL, (), LOCAL),
    (PREFIX, LOCAL, (LOCAL, PREFIX + LOCAL), PREFIX + LOCAL),
    ("", LOCAL, (), LOCAL),
]


@pytest.mark.parametrize(("prefix", "image", "there", "whole"), NAMES)
def test_the_prefix_of_the_user_stands_before_a_name_once(
    prefix: str, image: str, there: tuple[str, ...], whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from testcontainers.core.config import testcontainers_config as settings

    monkeypatch.setattr(settings, "hub_image_name_prefix", prefix)
    engine_with: Any = FewImages(*there)
    assert whole_name(engine_with, image) == whole


RYUKS = [
    ({}, "", True),
    ({"TESTCONTAINERS_RYUK_DISABLED": ""}, "", True),
    ({"TESTCONTAINERS_RYUK_DISABLED": "false"}, "", False),
    ({"TESTCONTAINERS_RYUK_DISABLED": "true"}, "ryuk.disabled=false", True),
    ({}, "ryuk.disabled=false", False),
    ({}, "ryuk.disabled=true", True),
]
ASK = """
import contextlib
from sim.errors import BuslabError
from sim.grounds.container_engine import engine
with contextlib.suppress(BuslabError):
    with engine():
        pass
from testcontainers.core.config import testcontainers_config as settings
print(settings.ryuk_disabled, settings.connection_mode_override.value)
"""


@pytest.mark.parametrize(("variables", "properties", "disabled"), RYUKS)
def test_what_the_user_says_of_the_reaper_holds(tmp_path: Path, variables: dict[str, str], properties: str, disabled: bool) -> None:
    (tmp_path / ".testcontainers.properties").write_text(properties + "\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TESTCONTAINERS_")}
    environment = clean | {"HOME": str(tmp_path), "DOCKER_HOST": "unix:///nowhere/docker.sock"} | variables
    said = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, timeout=BOUND_S, check=True, env=environment)
    assert said.stdout.split() == [str(disabled), "docker_host"]


# -- with an engine --------------------------------------------------------------------------------------------


def containers_of(pid: int) -> list[dict[str, Any]]:
    owner = owner_label().split(":")[0] + f":{pid}:"
    with engine() as client:
        found: list[dict[str, Any]] = client.api.containers(all=True, filters={"label": LABEL})
        return [one for one in found if one["Labels"][LABEL].startswith(owner)]


@contextlib.contextmanager
def two_images() -> Iterator[tuple[str, dict[str, str]]]:
    """Give the local image's name, and the ids by name of it and of another one behind the prefix."""
    name = os.environ[IMAGE_ENV]
    with engine() as client:
        made, _ = client.images.build(fileobj=io.BytesIO(f"FROM {name}\nLABEL mine=1\n".encode()), tag=PREFIX + name)
        try:
            yield name, {name: str(client.images.get(name).id), PREFIX + name: str(made.id)}
        finally:
            client.images.remove(PREFIX + name, force=True)


def run_it(folder: Path, *more: str, look: Callable[[int], None] = lambda pid: None, **variables: str) -> tuple[int, str]:
    settings = ("load.warm_up_s=0.3", "load.run_s=1", "load.driver=pods", "slo.lag_ms_p99=10000")
    argv = [sys.executable, "-m", "sim.cli", "run", "baseline", "--on", "container", "--out", str(folder), "--no-report", *more]
    argv += [word for setting in settings for word in ("--set", setting)]
    environment = dict(os.environ) | variables
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        watching = threading.Thread(target=look, args=(process.pid,))
        watching.start()
        try:
            _, errors = process.communicate(timeout=BOUND_S)
        finally:
            process.kill()
            watching.join(BOUND_S)
    return process.returncode, errors


@pytest.mark.broker
@pytest.mark.container
@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_the_image_that_runs_is_the_one_that_is_recorded(tmp_path: Path, prefix: str) -> None:
    running: list[str] = []

    def look(pid: int) -> None:
        until_s = time.monotonic() + BOUND_S
        while not running and time.monotonic() < until_s:
            running.extend(one["ImageID"] for one in containers_of(pid))
            time.sleep(0.02)

    with two_images() as (name, ids):
        run_it(tmp_path / "run", "--image", name, look=look, TESTCONTAINERS_HUB_IMAGE_NAME_PREFIX=prefix)
        recorded = json.loads((tmp_path / "run" / "environment.json").read_text())["broker"]["image"]
        assert (recorded["name"], recorded["id"]) == (prefix + name, ids[prefix + name])
        assert running == [ids[prefix + name]]


@pytest.mark.broker
@pytest.mark.container
def test_the_local_image_needs_no_mirror(tmp_path: Path) -> None:
    name = os.environ[IMAGE_ENV]
    run_it(tmp_path / "run", "--image", name, TESTCONTAINERS_HUB_IMAGE_NAME_PREFIX=PREFIX)
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["broker"]["image"]["name"] == name


MIRROR = {"TESTCONTAINERS_HUB_IMAGE_NAME_PREFIX": PREFIX}
REAPER = {"TESTCONTAINERS_RYUK_DISABLED": "false", "RYUK_CONTAINER_IMAGE": "no-such-reaper:1"}
MISSING = [
    ("no-such-image:1", {}, "no-such-image:1"),
    ("no-such-image:1", MIRROR, f"{PREFIX}no-such-image:1"),
    ("", REAPER, "no-such-reaper:1"),
    ("", REAPER | MIRROR, f"{PREFIX}no-such-reaper:1"),
]


@pytest.mark.broker
@pytest.mark.container
@pytest.mark.parametrize(("image", "variables", "named"), MISSING)
def test_an_image_that_cannot_be_had_is_named_and_no_other(tmp_path: Path, image: str, variables: dict[str, str], named: str) -> None:
    name = image or os.environ[IMAGE_ENV]
    code, said = run_it(tmp_path / "run", "--image", name, **variables)
    (line,) = [line for line in said.splitlines() if line.startswith("buslab:")]
    assert code == 2 and line.startswith(f"buslab: the image {named} is not on this machine")
    assert ("RYUK_DISABLED=true" in line) == ("reaper" in named)
    assert containers_of(os.getpid()) == []
