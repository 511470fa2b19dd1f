"""Write a scenario's manifests: all of them, as one text or as files of a folder, and never a part.

Rules
-----
1. Four folders, each for `kubectl apply -f`: `bus` the services' real pods, `redis` one for tests, `lab` a Dask cluster and the Job of a
   run, `locust` a master and workers that load the real pods. A bus file has no load, so there is only `bus` and `redis`.
2. No URL with a user or a password goes into a manifest, from wherever it came; the message says where it stands, not what it is.
3. The folder is new, empty, or one of ours (it has `MARK`) that `force` replaces whole: no file of an earlier bus stays to be applied.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec.structs import replace

from sim.errors import ScenarioError, UsageError
from sim.machine.files import made_folders
from sim.machine.words import count
from sim.scenario.asyncapi.documents import Dumper
from sim.scenario.asyncapi.export import is_bus_file
from sim.scenario.file import load_bus, load_scenario
from sim.scenario.manifests.lab import RUN, dask_objects, job_settings, redis_objects, run_objects, secret_command
from sim.scenario.manifests.locust import locust_objects
from sim.scenario.manifests.names import mapped, service_names
from sim.scenario.manifests.objects import WORKERS, Object
from sim.scenario.manifests.own_files import code_files, locust_files
from sim.scenario.manifests.services import ADMIN_SECRET, bus_objects, rounded
from sim.scenario.problems import quoted
from sim.scenario.programs import programs_of
from sim.scenario.settings import Scenario

MARK = ".buslab-manifests"
_IMAGE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)*(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?", re.ASCII)
_SECRET_URL = re.compile(
    r"""[A-Za-z][A-Za-z0-9+.-]{0,15}://[^\s/?\#'"<>]*@                       # a user, or a password
    |(?:rediss?|valkeys?|tcp|tls|amqps?|nats|kafka)://[^\s'"<>]*@           # a password with a slash in it
    |[A-Za-z][A-Za-z0-9+.-]{0,15}://[^\s'"<>]*[?&](?:ssl_)?(?:password|passwd|pwd|secret|token)=[^&\s]""",
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True)
class Manifests:
    """What is to be applied: the objects of each file, by its path, and what a reader has to know of it."""

    files: Mapping[Path, list[Object]]
    notes: tuple[str, ...]

    def texts(self) -> dict[Path, str]:
        """Return each file as text."""
        return {path: _text(objects) for path, objects in self.files.items()}


def manifests(
    name: str, *, settings: tuple[str, ...] = (), image: str = "", workers: int = WORKERS, only: Collection[str] = ()
) -> Manifests:
    """Return the manifests of a scenario, or of a bus file.

    Parameters
    ----------
    name
        A scenario or a bus, built in or a file; that of a bus ends in ``.bus.toml``.
    settings
        ``key=value`` each, as of a run.
    image
        With `buslab`, `dask` and `locust`; by default what the Dockerfile makes.
    workers
        Of Dask, and of Locust.
    only
        The folders that are wanted, of `sim.scenario.manifests.objects.FOLDERS`; empty: all.

    Raises
    ------
    ScenarioError
        Something in it is wrong, or Kubernetes cannot have it.
    UsageError
        The image is no name of one, or a folder is wanted that a bus file has not.
    """
    image = image or default_image()
    if not _IMAGE.fullmatch(image):
        raise UsageError("--image: this is no name of an image: write it as registry:5000/team/buslab:1.0, with no scheme or password")
    of_bus = is_bus_file(name)
    scenario = load_bus(name, settings=settings) if of_bus else load_scenario(name, settings=settings)
    if of_bus:
        scenario = replace(scenario, name=Path(name).name.removesuffix(".bus.toml"))
    if not scenario.services:
        raise ScenarioError(f"{name}: it has no services: there is nothing to deploy")
    if programs := programs_of(scenario):
        raise ScenarioError(
            f"{name}: services.{programs[0]} is a program of yours, whose manifests are yours to write: leave it out, or its command"
        )
    code, users = code_files(scenario), locust_files(scenario)
    _refuse_secrets(scenario, {**code, **users})
    names, part_of = service_names(scenario.services), mapped(scenario.name)
    folders = {
        "bus": bus_objects(scenario, names=names, image=image, code=code),
        "redis": {"buslab-redis": redis_objects(part_of)},
    }
    scheduler = scenario.hosts.scheduler  # a cluster that is there already
    notes = list(_notes(scenario, names, of_bus=of_bus))
    if not of_bus:
        notes += _refused(name, settings, scheduler)
        run = run_objects(scenario, image=image, workers=workers, code=code, users=users, scheduler=scheduler)
        folders["lab"] = ({} if scheduler else dask_objects(part_of, image=image, workers=workers)) | {RUN: run}
        folders["locust"] = locust_objects(scenario, image=image, workers=workers, code=code, users=users)
    if missing := [one for one in only if one not in folders]:
        raise UsageError(f"--only {missing[0]}: of this there are only {', '.join(folders)}; give a scenario of the bus, which has a load")
    folders = {folder: found for folder, found in folders.items() if not only or folder in only}
    files = {Path(folder) / f"{file}.yaml": objects for folder, found in folders.items() for file, objects in found.items()}
    return Manifests(files, tuple(notes))


def default_image() -> str:
    """Return the name under which the manifests expect the image of the Dockerfile."""
    from sim import __version__

    return f"buslab:{__version__}"


def write_manifests(found: Manifests, *, out: str | os.PathLike[str], force: bool = False) -> list[Path]:
    """Write manifests into a folder, whole or not at all, and return their paths.

    Raises
    ------
    UsageError
        The folder holds something, or cannot be written.
    """
    target = Path(out)
    try:
        _check_place(target, force=force)
        place = Path(os.path.realpath(target))
        with made_folders(place.parent), _beside(place) as fresh:
            for path, text in found.texts().items():
                (fresh / path).parent.mkdir(exist_ok=True)
                (fresh / path).write_text(text, "utf-8")
            (fresh / MARK).write_text("Made by `buslab manifests`, which may replace this folder.\n", "utf-8")
            _exchange(fresh, place)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write {target}: {getattr(error, 'strerror', None) or error}; choose another --out") from None
    return [target / path for path in found.files]


def one_text(found: Manifests) -> str:
    """Return all manifests as one text, for `kubectl apply -f -`."""
    return "".join(f"---\n# {path}\n{text.removeprefix('---' + chr(10))}" for path, text in found.texts().items())


def _text(objects: list[Object]) -> str:
    documents = [yaml.dump(one, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=140) for one in objects]
    return "---\n" + "---\n".join(documents)


def _notes(scenario: Scenario, names: Mapping[str, str], *, of_bus: bool) -> Iterator[str]:
    for name, called in names.items():
        if name != called:
            yield f"the service {quoted(name)} is called {called} there: Kubernetes cannot have its name"
    if not of_bus and mapped(scenario.name) != scenario.name:
        yield f"the scenario {quoted(scenario.name)} is called {mapped(scenario.name)} there: Kubernetes cannot have its name"
    yield from rounded(scenario)
    if not scenario.bus.redis_url:
        yield "bus.redis_url = false: the pods get no REDIS_URL, and are in memory mode"
    else:
        yield f"make the Secret yourself, of the Redis in redis/ or of yours: {secret_command()}"
    if any(scenario.behaviour(name) == "gateway" for name in names):
        yield f"the gateway's admin API stays closed without a Secret {ADMIN_SECRET} with the key token"
    needing = {type(fault).__struct_config__.tag for fault in scenario.faults if set(fault.needs) & {"broker"}}
    if needing:
        named, many = ", ".join(sorted(str(kind) for kind in needing)), count(len(needing), "fault")
        yield f"the Job in lab/ will be refused: {many} ({named}) would hurt the broker, and one in Kubernetes is not ours to hurt"


def _refused(name: str, settings: tuple[str, ...], scheduler: str) -> list[str]:
    """Return why the Job's run would be refused, as `buslab run` would say it there."""
    try:
        load_scenario(name, settings=(*settings, *job_settings(scheduler)))
    except ScenarioError as error:
        return [f"the Job in lab/ will be refused: {error}"]
    return []


# -- secrets -------------------------------------------------------------------------------------------------------


def _refuse_secrets(scenario: Scenario, files: Mapping[str, str]) -> None:
    """Refuse a URL with a user or a password, wherever it stands.

    Raises
    ------
    ScenarioError
        The message names its place.
    """
    for where, text in _strings(msgspec.to_builtins(scenario), ""):
        if _SECRET_URL.search(text):
            raise ScenarioError(f"{where}: a URL with a user or a password does not go into a manifest, which many may read: {_WAY_OUT}")
    for path, text in files.items():
        for number, line in enumerate(text.splitlines(), 1):
            if _SECRET_URL.search(line):
                raise ScenarioError(f"{path}, line {number}: a URL with a user or a password does not go into a manifest: {_WAY_OUT}")


_WAY_OUT = "take it out, and let the program read it from a variable that a Secret fills"


def _strings(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Yield each text of a tree, keys too, with the dotted key where it stands."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            name = quoted(str(key)) if not _SECRET_URL.search(str(key)) else "…"
            yield f"{where}.{name}".lstrip("."), str(key)
            yield from _strings(inner, f"{where}.{name}".lstrip("."))
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from _strings(inner, f"{where}[{place}]")


# -- the folder ----------------------------------------------------------------------------------------------------


def _check_place(target: Path, *, force: bool) -> None:
    if target.is_symlink() and not target.exists():
        raise UsageError(f"{target} is a link that leads nowhere: choose another --out")
    if not target.exists():
        return
    if not target.is_dir():
        raise UsageError(f"{target} is a file: choose another --out")
    if any(target.iterdir()) and not (target / MARK).is_file():
        raise UsageError(f"{target}: the folder holds what `buslab manifests` did not write: choose a new one with --out")
    if (target / MARK).is_file() and not force:
        raise UsageError(f"{target}: there are manifests already: choose another --out, or --force to replace them all")


@contextlib.contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """Yield a new folder beside a place, and remove what is still there at the end."""
    folder = place.with_name(f".{place.name[:200]}-{secrets.token_hex(4)}")
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _exchange(fresh: Path, place: Path) -> None:
    """Put a folder into a place; what was there stays when that fails."""
    if not place.exists():
        fresh.rename(place)
        return
    old = fresh.with_name(f"{fresh.name}-old")
    place.rename(old)
    try:
        fresh.rename(place)
    except BaseException:
        old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)
