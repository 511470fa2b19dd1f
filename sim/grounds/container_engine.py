"""The container engine of this machine: reached or refused, images found or pulled, and nothing of ours left in it.

Rules
-----
1. Every container of ours carries `LABEL`, whose value names the process that owns it.
2. `sweep` removes those whose process is dead, and no others: not a living run's, not another machine's or namespace's, not a stranger's.
3. Only an engine on this machine is used, because only loopback may carry load.
4. One name stands for an image: it is looked up, pulled, started and recorded. Testcontainers would put a prefix of the user's before it
   (TESTCONTAINERS_HUB_IMAGE_NAME_PREFIX, a company's mirror); `whole_name` does that once, and nobody after it.
5. What the user has set for Testcontainers stays, by a variable or in ``~/.testcontainers.properties``. Ours fills what is not set.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psutil

from sim.errors import BrokerError, BrokerRefused, BrokerUnreachable, Interrupted
from sim.grounds.server_binary import server_binary, server_version
from sim.machine.lease import place
from sim.machine.signals import asked_to_end
from sim.machine.words import duration

if TYPE_CHECKING:
    from docker import DockerClient

LABEL = "buslab"
RYUK = "TESTCONTAINERS_RYUK_DISABLED"
IMAGE_ENV = "BUSLAB_REDIS_IMAGE"
DEFAULT_IMAGE = "redis:8.2.1-alpine"
LOCAL_REPOSITORY = "buslab/valkey"
POD_REPOSITORY = "buslab/pod"
PULL_TIMEOUT_S = 600.0
_PULL_POLL_S = 0.1
_reaping = threading.Lock()
_START_TOLERANCE_S = 2  # psutil derives a start time from the wall clock, which may be set meanwhile
_SETTINGS = {  # read by testcontainers when it is imported
    "TESTCONTAINERS_CONNECTION_MODE": "docker_host",
    "TESTCONTAINERS_HOST_OVERRIDE": "127.0.0.1",
    "TC_POOLING_INTERVAL": "0.05",
}


@contextlib.contextmanager
def engine() -> Iterator[DockerClient]:
    """Reach the engine and yield a client of it.

    Raises
    ------
    BrokerUnreachable
        None answers, or the package that speaks to it is not installed.
    BrokerRefused
        It does not let this user in, or is on another machine.
    """
    os.environ.update({name: value for name, value in _SETTINGS.items() if not os.environ.get(name, "").strip()})
    try:
        from docker.errors import DockerException
        from testcontainers.core.config import testcontainers_config as settings
        from testcontainers.core.docker_client import DockerClient as EngineClient
        from testcontainers.core.docker_client import get_docker_host
    except ModuleNotFoundError as error:
        raise BrokerUnreachable(f"containers need the package {error.name}: pip install 'buslab[containers]'") from None
    if not os.environ.get(RYUK, "").strip() and "ryuk.disabled" not in settings.tc_properties:
        settings.ryuk_disabled = True  # its reaper is one more image; `sweep` does its work
    where = get_docker_host() or "its usual socket"
    if not _is_here(where):
        raise BrokerRefused(f"the container engine {where} is on another machine: unset DOCKER_HOST, or `docker context use default`")
    try:
        client: DockerClient = EngineClient().client
    except (DockerException, OSError, ValueError) as error:
        cause = _first_cause(error)
        if isinstance(cause, PermissionError):
            raise BrokerRefused(f"no permission to use the container engine at {where}: join the group docker and log in again") from None
        raise BrokerUnreachable(
            f"no container engine answers at {where} ({cause}): install and start Docker, or use --on embedded, which needs none"
        ) from None
    try:
        yield client
    finally:
        client.close()


def _first_cause(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def _is_here(where: str) -> bool:
    url = urlsplit(where)
    if url.scheme not in ("tcp", "http", "https", "ssh") or url.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(url.hostname or "").is_loopback
    except ValueError:
        return False


@contextlib.contextmanager
def asking(what: str) -> Iterator[None]:
    """Turn an error of the engine into one line that begins with what was asked of it.

    Raises
    ------
    BrokerError
    """
    from docker.errors import APIError, DockerException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (DockerException, HTTPError, OSError) as error:
        said = error.explanation if isinstance(error, APIError) else error
        raise BrokerError(f"{what}: the container engine says: {' '.join(str(said).split())}") from None


def shares_loopback(client: DockerClient) -> bool:
    """Return whether a container with host networking listens on the loopback that this process sees.

    It does on Linux, but not where the engine has a machine or a network namespace of its own.
    """
    with asking("cannot ask what engine this is"):
        about: dict[str, Any] = client.info()
    own_machine = "Docker Desktop" in str(about.get("OperatingSystem")) or not sys.platform.startswith("linux")
    return not own_machine and not any("rootless" in option for option in about.get("SecurityOptions") or ())


# -- whose a container is ---------------------------------------------------------------------------------------


def owner_label() -> str:
    """Return the value of `LABEL` that names this process: where it runs, its id, when it started (s since 1970)."""
    return f"{place()}:{os.getpid()}:{int(psutil.Process().create_time())}"


def is_left_over(owner: str) -> bool:
    """Return whether the process that an owner label names ran here and is dead."""
    where, _, process = owner.partition(":")
    pid, _, started = process.partition(":")
    if where != place() or not pid.isdigit() or not started.isdigit():
        return False
    try:
        started_s: float = psutil.Process(int(pid)).create_time()
    except psutil.NoSuchProcess:
        return True
    return abs(started_s - int(started)) > _START_TOLERANCE_S


def is_of(pid: int, owner: str) -> bool:
    """Return whether an owner label names a process that had this id, ran here and is dead."""
    return owner.split(":")[1:2] == [str(pid)] and is_left_over(owner)


def sweep(client: DockerClient) -> int:
    """Remove the containers that killed runs left; return how many there were."""
    removed = 0
    with asking("cannot look for containers that killed runs left"):
        for found in client.api.containers(all=True, filters={"label": LABEL}):
            if is_left_over(found["Labels"][LABEL]):
                remove(client, found["Id"])
                removed += 1
    return removed


def remove(client: DockerClient, name: str) -> None:
    """Remove one container with its volumes, whatever its state; nothing when it is gone or going.

    Raises
    ------
    BrokerError
        The engine does not; the next run's sweep will try again.
    """
    from docker.errors import APIError

    with asking(f"cannot remove the container {name}"):
        try:
            client.api.remove_container(name, force=True, v=True)
        except APIError as error:
            if error.status_code not in (404, 409):  # not found; its removal is already in progress
                raise


# -- images -----------------------------------------------------------------------------------------------------


def local_image() -> str:
    """Return the name of the image that `buslab image` builds: it names the embedded server's version."""
    return f"{LOCAL_REPOSITORY}:{server_version(server_binary())}"


def _is_built_here(image: str) -> bool:
    """Return whether an image is one that only `buslab image` makes."""
    return image.startswith((f"{LOCAL_REPOSITORY}:", f"{POD_REPOSITORY}:"))


def whole_name(client: DockerClient, image: str) -> str:
    """Return the name under which an image is looked up and run: behind the user's prefix, unless it stands there already.

    A local image is only ever built here, so that no mirror has it; where it was not given the prefix by hand, it has none.
    """
    from docker.errors import ImageNotFound
    from testcontainers.core.config import testcontainers_config as settings

    prefix = settings.hub_image_name_prefix.strip()
    if not prefix or image.startswith(prefix):
        return image
    if _is_built_here(image):
        with asking(f"cannot look up the image {prefix}{image}"):
            try:
                client.images.get(prefix + image)
            except ImageNotFound:
                return image
    return prefix + image


def ensure_image(
    client: DockerClient, image: str, *, tell: Callable[[str], None] = lambda text: None, hint: Callable[[], str] | None = None
) -> dict[str, str]:
    """Find an image, or pull it; return what identifies it: its `whole_name`, id and, where a registry gave it one, digest.

    Parameters
    ----------
    hint
        Gives what to do where it cannot be had; by default, to build one here.

    Raises
    ------
    BrokerError
        It is not here and no registry gives it; the message says how to build one here.
    Interrupted
        A signal asked this process to end while the image was pulled.
    """
    from docker.errors import ImageNotFound

    image = whole_name(client, image)
    with asking(f"cannot look up the image {image}"):
        try:
            found = client.images.get(image)
        except ImageNotFound:
            if _is_built_here(image):
                way_out = _use_local(client) if hint is None else hint()
                raise BrokerError(f"the image {image} is not on this machine: {way_out}") from None
            _pull(client, image, tell, hint or (lambda: _use_local(client)))
            found = client.images.get(image)
    digests = found.attrs.get("RepoDigests") or [""]
    own = [digest for digest in digests if image.startswith(digest.rpartition("@")[0])]
    return {"name": image, "id": str(found.id), "digest": (own or digests)[0].rpartition("@")[2]}


def ensure_reaper(client: DockerClient, *, tell: Callable[[str], None] = lambda text: None) -> None:
    """Start Testcontainers' reaper where the user asks for it, before anything that it is to remove.

    Raises
    ------
    BrokerError
        Its image cannot be had, or it does not start; the message names that image, and the variable that does without.
    """
    from testcontainers.core.config import testcontainers_config as settings
    from testcontainers.core.container import Reaper

    if settings.ryuk_disabled:
        return
    without = f"it is Testcontainers' reaper, which {RYUK}=true does without: containers of killed runs are removed by the next run, too"
    with _reaping:
        if Reaper._instance is not None:
            return
        name = ensure_image(client, settings.ryuk_image, tell=tell, hint=lambda: without)["name"]
        before = settings.hub_image_name_prefix, settings.ryuk_image
        settings.hub_image_name_prefix, settings.ryuk_image = "", name  # with a prefix, the reaper would start one for itself
        try:
            with asking(f"cannot start a container of {name}"):
                Reaper.get_instance()
        except (BrokerError, TimeoutError, ConnectionError) as error:
            Reaper.delete_instance()
            raise BrokerError(f"{error}; {without}") from None
        finally:
            settings.hub_image_name_prefix, settings.ryuk_image = before


def _use_local(client: DockerClient) -> str:
    from docker.errors import ImageNotFound

    name = local_image()
    choose = f"--image {name} or {IMAGE_ENV}={name}"
    try:
        client.images.get(name)
    except ImageNotFound:
        return f"`buslab image` builds {name} without a registry; choose it with {choose}"
    return f"{name}, which `buslab image` built, is: choose it with {choose}"


def _pull(client: DockerClient, image: str, tell: Callable[[str], None], hint: Callable[[], str]) -> None:
    """Pull from a registry in a thread, so that Ctrl-C need not wait for it."""
    failures: list[BaseException] = []
    tell(f"pulling {image}")

    def work() -> None:
        try:
            client.images.pull(image)
        except BaseException as error:
            failures.append(error)

    puller = threading.Thread(target=work, daemon=True, name="pull")
    puller.start()
    waited_s = 0.0
    while puller.is_alive() and waited_s < PULL_TIMEOUT_S:
        puller.join(_PULL_POLL_S)
        waited_s += _PULL_POLL_S
        if number := asked_to_end():
            raise Interrupted(number, f"interrupted while {image} was pulled; nothing was started")
    if puller.is_alive():
        raise BrokerError(f"the image {image} was not pulled within {duration(PULL_TIMEOUT_S)}: docker pull {image}, then try again")
    try:
        with asking(f"the image {image} is not on this machine, and pulling it failed"):
            if failures:
                raise failures[0]
    except BrokerError as error:
        raise BrokerError(f"{error}; {hint()}") from None
