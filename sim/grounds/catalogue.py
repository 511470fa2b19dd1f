"""The grounds that `--on` names.

A member is a function that takes the text after the ground's name and returns a context manager; entering it starts (or
reaches) a server and returns a `Broker` that has answered PING, leaving it stops what was started.

To add one: write ``sim/grounds/<name>.py`` with such a function and list it in `GROUNDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from sim.errors import UsageError, did_you_mean
from sim.grounds.broker import Broker
from sim.grounds.cluster import cluster
from sim.grounds.container import container
from sim.grounds.container_cluster import container_cluster
from sim.grounds.embedded import embedded
from sim.grounds.external import external
from sim.grounds.model.ground import model
from sim.wire.address import SCHEMES
from sim.wire.shown import shown_url

GROUNDS: dict[str, tuple[Callable[..., AbstractContextManager[Broker]], str]] = {
    "embedded": (embedded, "a Valkey server of our own on loopback, nothing on disk; embedded:PORT fixes its port"),
    "model": (
        model,
        "virtual time: the same pods, a model of Redis, replayable by seed; model:FILE takes costs from `buslab calibrate`",
    ),
    "container": (container, "a server in a container on loopback; container:PORT fixes its port, --image chooses what it runs"),
    "cluster": (cluster, "3 masters and 3 replicas on loopback; cluster:N has N, cluster:1 no replica, cluster:N:PORT fixes ports"),
    "container-cluster": (container_cluster, "the same in containers"),
    "redis": (external, "redis://[USER:PASSWORD@]HOST[:PORT], or rediss:// for TLS: a server that runs already"),
}


def open_broker(
    on: str,
    *,
    load_this_server: bool = False,
    image: str | None = None,
    tell: Callable[[str], None] = lambda text: None,
    seed: int = 1,
) -> AbstractContextManager[Broker]:
    """Return the context manager of the ground that `--on` names.

    Parameters
    ----------
    load_this_server
        Whether a server on another machine may be loaded.
    image
        What the grounds of containers run, if not their default.
    tell
        Called with what is waited for, where that may take long.
    seed
        For what the model draws.

    Raises
    ------
    UsageError
        No such ground, or an image for a ground that has none.
    """
    on = on.strip()
    ground, _, rest = on.partition(":")
    if ground in ("container", "container-cluster"):
        return GROUNDS[ground][0](rest, image=image, tell=tell)
    if image is not None:
        raise UsageError(f"--image {image}: only --on container and container-cluster run an image")
    if ground in SCHEMES:
        return external(on, load_this_server=load_this_server)
    if ground in ("embedded", "cluster"):
        return GROUNDS[ground][0](rest)
    if ground == "model":
        return model(rest, seed=seed)
    known = ", ".join(name if name != "redis" else "redis://HOST:PORT" for name in GROUNDS)
    raise UsageError(f"--on {shown_ground(on)!r}: no such ground{did_you_mean(ground, GROUNDS)}; known: {known}")


def shown_ground(on: str) -> str:
    """Return what may be shown, and written down, of a ground as `--on` names it: no secret of a URL."""
    return on if on.partition(":")[0] in {*GROUNDS} - {*SCHEMES} else shown_url(on)
