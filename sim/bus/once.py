"""Recipes for handling an event in one pod of a service only, each as a generator without I/O.

A recipe yields what it wants and is sent the answer: a command (a tuple of words for the broker) is answered with its reply,
`RUN` with True when the handler returned and False when it raised. It ends with "handled", "skipped" or "failed". The driver
decides how long anything takes, so tests can interleave several pods, let locks expire and stop a pod between any two steps.

Among whom an event is handled once is the *scope*, a part of the key. With ``event``, as in the reference, there is one key an event for
all services: of several services that should handle it the first one does, and the others skip it. With ``service`` each service has a key
of its own, and one pod of each handles it.

How long a key lives is counted by the server (``EX``), as in the reference; or the pod says until when, by its own clock (``PXAT``): then
a clock that is behind by more than that makes a lock that is over before it begins.

What each recipe can promise, with E the event, while the broker keeps its keys and all pods are of one scope:

============  ==========================================================================================================
recipe        promise
============  ==========================================================================================================
none          every pod handles E
finally-del   the reference's snippet. E is not handled by two pods *at the same time*, while the handler takes less than the
              lock's TTL. A pod that hears E after the first one has finished handles it again. A second holder's lock can be
              deleted by the first. A handler that raises leaves the lock free: whoever comes later tries.
token-del     as finally-del, but a pod deletes only its own lock
keep-marker   E is handled at most once. A pod that dies or raises inside has handled it zero times, for ever (until the TTL)
two-key       a lock while it runs, a marker when it is done: at most once among pods that do not outlive their lock, and a
              failed handler leaves E to the next pod that hears it
============  ==========================================================================================================

A recipe that is not ours (`sim.machine.user_code`: ``module:name``, or an entry point of ``buslab.recipes``) is such a generator function
with the same parameters. One that raises, or ends with another word, is a failed handling. Its keys begin with `LOCK_PREFIX` or
`DONE_PREFIX` and the event id that it is given, so that the run can delete what is left of them. It promises nothing that is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Literal

from sim.machine.user_code import find_member

Scope = Literal["event", "service"]

RUN = ("RUN",)
LOCK_PREFIX = "aiponge:locks:"
DONE_PREFIX = "aiponge:done:"
RUN_PREFIX = "buslab-"  # then the run's id: keys of two runs on one server never meet, and a run can delete its own
TTL_S = 300
# Delete a lock only when it is still ours: one step on the server, or another pod's lock could be deleted.
DELETE_IF_MINE = "if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end"

Command = tuple[str, ...]
Outcome = Literal["handled", "skipped", "failed"]
Recipe = Callable[..., Generator[Command, Any, Outcome]]
WallMs = Callable[[], int]  # a pod's wall clock, in milliseconds since 1970


def lock_name(event_id: str, *, scope: Scope, service: str, prefix: str = "") -> str:
    """Return what stands behind `LOCK_PREFIX` in the key of an event, for a pod of this service."""
    return f"{prefix}{service}:{event_id}" if scope == "service" else prefix + event_id


def none(event_id: str, *, token: str, ttl_s: int = TTL_S, wall_ms: WallMs | None = None) -> Generator[Command, Any, Outcome]:
    """Handle it, whoever else does."""
    return "handled" if (yield RUN) else "failed"


def finally_del(event_id: str, *, token: str, ttl_s: int = TTL_S, wall_ms: WallMs | None = None) -> Generator[Command, Any, Outcome]:
    """Take the lock, handle, delete the lock whatever happened: the reference's handleEventOnce."""
    if (yield _set_if_free(LOCK_PREFIX + event_id, "1", ttl_s, wall_ms)) is None:
        return "skipped"
    ran = yield RUN
    yield ("DEL", LOCK_PREFIX + event_id)
    return "handled" if ran else "failed"


def token_del(event_id: str, *, token: str, ttl_s: int = TTL_S, wall_ms: WallMs | None = None) -> Generator[Command, Any, Outcome]:
    """Take the lock with a token of our own, handle, delete the lock if it is still ours."""
    if (yield _set_if_free(LOCK_PREFIX + event_id, token, ttl_s, wall_ms)) is None:
        return "skipped"
    ran = yield RUN
    yield ("EVAL", DELETE_IF_MINE, "1", LOCK_PREFIX + event_id, token)
    return "handled" if ran else "failed"


def keep_marker(event_id: str, *, token: str, ttl_s: int = TTL_S, wall_ms: WallMs | None = None) -> Generator[Command, Any, Outcome]:
    """Take the lock, handle, and leave the lock as the sign that it was handled."""
    if (yield _set_if_free(LOCK_PREFIX + event_id, token, ttl_s, wall_ms)) is None:
        return "skipped"
    return "handled" if (yield RUN) else "failed"


def two_key(event_id: str, *, token: str, ttl_s: int = TTL_S, wall_ms: WallMs | None = None) -> Generator[Command, Any, Outcome]:
    """Take a lock, look for the marker, handle, set the marker before the lock goes."""
    lock, done = LOCK_PREFIX + event_id, DONE_PREFIX + event_id
    if (yield _set_if_free(lock, token, ttl_s, wall_ms)) is None:
        return "skipped"
    # Look for the marker only while we have the lock: without it, another pod could finish between the look and the lock.
    if (yield ("GET", done)) is not None:
        yield ("EVAL", DELETE_IF_MINE, "1", lock, token)
        return "skipped"
    ran = yield RUN
    if ran:
        yield ("SET", done, token, *_lifetime(ttl_s, wall_ms))
    yield ("EVAL", DELETE_IF_MINE, "1", lock, token)
    return "handled" if ran else "failed"


def _set_if_free(key: str, value: str, ttl_s: int, wall_ms: WallMs | None) -> Command:
    return ("SET", key, value, "NX", *_lifetime(ttl_s, wall_ms))


def _lifetime(ttl_s: int, wall_ms: WallMs | None) -> Command:
    return ("EX", str(ttl_s)) if wall_ms is None else ("PXAT", str(wall_ms() + 1000 * ttl_s))


RECIPES: dict[str, Recipe] = {
    "none": none,
    "finally-del": finally_del,
    "token-del": token_del,
    "keep-marker": keep_marker,
    "two-key": two_key,
}
ONCE_FOR_ALL = frozenset({"keep-marker", "two-key"})  # those that keep a second pod from handling it also after the first has finished


def find_recipe(name: str, *, folder: str = "") -> Recipe:
    """Return a recipe by its name: one of `RECIPES`, or one that is not ours, whose module may be in `folder`.

    Raises
    ------
    UsageError
        There is no such recipe, or it cannot be imported.
    """
    return find_member(name, kind="recipe", members=RECIPES, folder=folder)
