"""Bugs of a bus, each a switch of the tests' own: what the search finds of them says whether its judge is any good.

A plant changes one method of the code that pods run, for as long as it is on. Nothing of it is in the product. Run as a program, this
module prints the table of all of them: ``python -m tests.support.planted_bugs --seeds 10``.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

from sim.bus import fallback, once
from sim.bus.cache import ConfigSubscriber
from sim.experiments.explore.look import look_at, warm_up
from sim.experiments.explore.search import Search, SearchPlan, run_search
from sim.experiments.explore.shrink import shrink
from sim.pods.connections import Connections
from sim.pods.pod import Pod
from sim.pods.slow_handling import SlowHandling
from sim.scenario.explore_bounds import Explore
from sim.wire.transports.streams import Subscription as StreamSubscription

Patch = contextlib.AbstractContextManager[Any]
STREAMS = Explore(run_s_min=1.0, run_s_max=3.0, rate_max=80.0, heal_s=2.5, transports=("streams",), kinds=("slow_handler", "pod_kill"))
BOUNDS = Explore(run_s_min=1.0, run_s_max=3.0, rate_max=80.0, heal_s=2.5)


@dataclass(frozen=True)
class Plant:
    """One bug: what is wrong, how it is put in, and the bounds of a search that can meet it."""

    name: str
    what: str
    patch: Callable[[], Patch]
    bounds: Explore = BOUNDS


def _method(owner: type, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[[], Patch]:
    return lambda: mock.patch.object(owner, name, make(getattr(owner, name)))


def _no_second_subscribe(real: Callable[..., Any]) -> Callable[..., Any]:
    def repair(self: Connections, effect: str) -> None:
        self.__dict__.setdefault("repairs_of", []).append(effect)
        if effect != "subscribe" or self.__dict__["repairs_of"].count("subscribe") < 2:
            real(self, effect)

    return repair


def _half_subscribe(real: Callable[..., Any]) -> Callable[..., Any]:
    async def subscribe(self: Connections) -> None:
        if self._has_subscribed and len(self._channels) > 1:
            self._channels = self._channels[:-1]
        await real(self)

    return subscribe


def _believes_connected(real: Callable[..., Any]) -> Callable[..., Any]:
    def lost(self: Connections, reason: str) -> None:
        self.__dict__["lost"] = self.__dict__.get("lost", 0) + 1
        if self.__dict__["lost"] < 2:
            real(self, reason)

    return lost


def _stays_in_memory(real: Callable[..., Any]) -> Callable[..., Any]:
    def route(self: fallback.Fallback) -> str:
        told = real(self)
        self.__dict__["was_away"] = self.__dict__.get("was_away", False) or (told == "memory" and self._was_connected)
        return "memory" if self.__dict__["was_away"] and told == "broker" else str(told)

    return route


def _newest_first(real: Callable[..., Any]) -> Callable[..., Any]:
    def send_kept(self: Pod) -> None:
        self._kept = deque(reversed(self._kept))
        real(self)

    return send_kept


def _overtakes(real: Callable[..., Any]) -> Callable[..., Any]:
    def carry_out(self: Pod, send: Any) -> None:
        holding, self._holding = self._holding, None
        try:
            real(self, send)
        finally:
            self._holding = holding

    return carry_out


def _forgets_batch(real: Callable[..., Any]) -> Callable[..., Any]:
    async def stop(self: Pod, *, timeout_s: float) -> None:
        await self._connections.finish_hearing()
        self._end("stopped")

    return stop


def _retries(real: Callable[..., Any]) -> Callable[..., Any]:
    def unanswered(self: Pod, tokens: list[Any]) -> None:
        real(self, tokens)
        if self.state not in ("stopped", "aborted"):
            self._kept.extend(send for send, _ in tokens)

    return unanswered


def _keeps_copies(real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self: None


def _handles_again(real: Callable[..., Any]) -> Callable[..., Any]:
    def claimed(self: StreamSubscription[Any], reply: Any, at_ns: int) -> None:
        self._handling.clear()  # so that what it is handling itself is taken for another's
        real(self, reply, at_ns)

    return claimed


def _never_claims(real: Callable[..., Any]) -> Callable[..., Any]:
    def claimed(self: StreamSubscription[Any], reply: Any, at_ns: int) -> None:
        real(self, [reply[0], []] if isinstance(reply, list) else reply, at_ns)

    return claimed


def _drops_every_tenth(real: Callable[..., Any]) -> Callable[..., Any]:
    def take(self: SlowHandling, handler: Any, event: Any, key: int, received_ns: int, *, path: int = 0) -> Any:
        task = real(self, handler, event, key, received_ns, path=path)
        if len(self._tasks) > 5:  # its queue is long: it forgets the newest
            task.cancel()
        return task

    return take


def _recipe(name: str, make: Callable[[once.Recipe], once.Recipe]) -> Callable[[], Patch]:
    return lambda: mock.patch.dict(once.RECIPES, {name: make(once.RECIPES[name])})


def _forgets_marker(real: once.Recipe) -> once.Recipe:
    def recipe(event_id: str, **more: Any) -> Any:
        outcome = yield from real(event_id, **more)
        if outcome == "handled":
            yield ("DEL", once.LOCK_PREFIX + event_id)
        return outcome

    return recipe


def _marker_after_lock(real: once.Recipe) -> once.Recipe:
    def recipe(event_id: str, *, token: str, ttl_s: int = 300, wall_ms: Any = None) -> Any:
        if (yield ("SET", once.LOCK_PREFIX + event_id, token, "NX", "EX", str(ttl_s))) is None:
            return "skipped"
        ran = yield once.RUN
        yield ("EVAL", once.DELETE_IF_MINE, "1", once.LOCK_PREFIX + event_id, token)
        if ran:
            yield ("SET", once.DONE_PREFIX + event_id, token, "EX", str(ttl_s))
        return "handled" if ran else "failed"

    return recipe


def _deletes_anothers(real: once.Recipe) -> once.Recipe:
    def recipe(event_id: str, *, token: str, ttl_s: int = 300, wall_ms: Any = None) -> Any:
        lock = once.LOCK_PREFIX + event_id
        if (yield ("SET", lock, token, "NX", "EX", str(ttl_s))) is None:
            yield ("DEL", lock)  # "it will be a stale one"
            return "skipped"
        return "handled" if (yield once.RUN) else "failed"

    return recipe


def _gives_up_memory(real: Callable[..., Any]) -> Callable[..., Any]:
    def keep(self: Pod, send: Any) -> None:
        if len(self._kept) < 3:
            real(self, send)

    return keep


PLANTS: tuple[Plant, ...] = (
    Plant("no-second-subscribe", "does not subscribe again after the second cut", _method(Connections, "_repair", _no_second_subscribe)),
    Plant("half-subscribe", "subscribes again to all channels but one", _method(Connections, "_subscribe", _half_subscribe)),
    Plant("believes-connected", "does not notice the second cut", _method(Connections, "_lost_subscription", _believes_connected)),
    Plant("stays-in-memory", "stays in memory mode once it was there", _method(fallback.Fallback, "route", _stays_in_memory)),
    Plant("newest-first", "sends what it kept newest first", _method(Pod, "_send_kept", _newest_first)),
    Plant("overtakes", "sends new events past those it holds back", _method(Pod, "_carry_out", _overtakes)),
    Plant("forgets-batch", "forgets the part-full batch on SIGTERM", _method(Pod, "stop", _forgets_batch)),
    Plant("retries", "sends again what had no answer", _method(Pod, "unanswered", _retries)),
    Plant("stale-cache", "serves old copies after reconnecting", _method(ConfigSubscriber, "forget", _keeps_copies)),
    Plant("claims-own", "claims an entry that it is handling itself", _method(StreamSubscription, "_claimed", _handles_again), STREAMS),
    Plant("never-claims", "never takes over what a dead pod was given", _method(StreamSubscription, "_claimed", _never_claims), STREAMS),
    Plant("drops-when-full", "forgets an event when many are being handled", _method(SlowHandling, "take", _drops_every_tenth)),
    Plant("forgets-marker", "keep-marker deletes its marker", _recipe("keep-marker", _forgets_marker)),
    Plant("marker-after-lock", "two-key sets the marker after the lock is gone", _recipe("two-key", _marker_after_lock)),
    Plant("deletes-anothers", "keep-marker deletes another's lock", _recipe("keep-marker", _deletes_anothers)),
    Plant("loses-kept", "loses what it keeps beyond three events", _method(Pod, "_keep", _gives_up_memory)),
)  # fmt: skip


# Not found yet. Every fault heals, so a dead pod comes back under its name and reads what it was given: who never takes that over only
# makes it late. And a pod meets an entry of its own again only where handling takes longer than `bus.stream_claim_s` while it reads on.
NOT_FOUND = ("never-claims", "claims-own")


@dataclass(frozen=True)
class Found:
    """The first find of a plant: after how many runs and seconds, by which name; None of nothing."""

    runs: int | None
    seconds: float
    name: str = ""
    tree: dict[str, Any] | None = None


def first_find(plant: Plant, *, seed: int, guided: bool, most: int) -> Found:
    """Search until the plant is found, or so many schedules were looked at."""
    search, began_s = Search(SearchPlan(bounds=plant.bounds, seed=seed, guided=guided)), time.process_time()
    with plant.patch():
        progress = run_search(search, runs=most, until=lambda progress: bool(progress.counting))
    took_s = time.process_time() - began_s
    if not progress.counting:
        return Found(None, took_s)
    case = progress.counting[0]
    return Found(progress.looked, took_s, case.finding.name, case.tree)


def shrunk_lines(plant: Plant, found: Found, *, most_looks: int = 150) -> int:
    """Return how many lines the smallest schedule has that shows a plant."""
    assert found.tree is not None
    with plant.patch():
        return shrink(found.tree, lambda tree: found.name in look_at(tree, heal_s=plant.bounds.heal_s).names, most_looks=most_looks).lines


def rate(plant: Plant, runs: int) -> Iterator[set[str]]:
    """Yield the names of what is found in each of so many drawn schedules."""
    search = Search(SearchPlan(bounds=plant.bounds, seed=7, guided=False))
    with plant.patch():
        for number in range(runs):
            yield look_at(search.draw(number), heal_s=plant.bounds.heal_s).names


def main() -> int:
    """Print one line a plant: violations per 1,000 schedules, runs to the first find guided and blind, lines after shrinking."""
    options = argparse.ArgumentParser(description=main.__doc__)
    options.add_argument("names", nargs="*")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--most", type=int, default=300)
    options.add_argument("--runs", type=int, default=200)
    given = options.parse_args()
    warm_up()
    print("| planted bug | found by | per 1,000 | runs, guided | runs, blind | seconds, guided | lines |", flush=True)
    print("|---|---|---:|---:|---:|---:|---:|", flush=True)
    for plant in PLANTS:
        if given.names and plant.name not in given.names:
            continue
        hits = list(rate(plant, given.runs))
        finds = {how: [first_find(plant, seed=seed, guided=how, most=given.most) for seed in range(given.seeds)] for how in (True, False)}
        runs = {how: statistics.median(one.runs or given.most * 2 for one in some) for how, some in finds.items()}
        first = next((one for one in finds[True] + finds[False] if one.runs), None)
        lines = shrunk_lines(plant, first) if first else ""
        seconds = statistics.median(one.seconds for one in finds[True])
        share = 1000 * sum(map(bool, hits)) / max(len(hits), 1)
        told = ", ".join(sorted({name for names in hits for name in names} or ({first.name} if first else set()))) or "nothing"
        print(f"| {plant.what} | {told} | {share:.0f} | {runs[True]:g} | {runs[False]:g} | {seconds:.1f} | {lines} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
