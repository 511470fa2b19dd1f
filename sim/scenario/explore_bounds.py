"""What of a scenario a search may draw anew: its table `[explore]`, which no run needs (see `sim.experiments.explore`)."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from sim.errors import did_you_mean
from sim.faults.catalogue import FAULTS
from sim.scenario.settings import MAX_PODS, Bus
from sim.wire.transports import TRANSPORTS

MOST_FAULTS = 8
NOT_DRAWN = ("channel_prefix", "metrics_prefix", "redis_url", "transport")  # of the bus: they change nothing, or everything
Seconds = Annotated[float, Meta(gt=0, le=3600)]
Rate = Annotated[float, Meta(gt=0, le=100_000)]


class Explore(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The bounds within which `buslab explore` draws, and what it need not tell.

    Attributes
    ----------
    kinds
        Faults that may be drawn; without it all that the model can do.
    faults_min, faults_max
        How many at a time.
    run_s_min, run_s_max
        In how long a time faults begin and end; the load goes on `heal_s` and a second after the last one.
    heal_s
        So long after the last fault has ended every pod hears again, and nothing is lost any more: what is then is a finding.
    rate_min, rate_max
        Calls a second.
    replicas_max
        Pods of a service at most; without it, as many as the scenario gives it.
    transports
        How events may travel; without it, as the scenario says.
    bus
        Settings of `[bus]` that are drawn anew, such as `reconnect_max_s`; the others stay as the scenario has them.
    known
        Findings that do not count, by their name or its beginning, such as `order` or `slo: missing`.
    """

    kinds: tuple[str, ...] = ()
    faults_min: Annotated[int, Meta(ge=1, le=MOST_FAULTS)] = 1
    faults_max: Annotated[int, Meta(ge=1, le=MOST_FAULTS)] = 4
    run_s_min: Seconds = 3.0
    run_s_max: Seconds = 8.0
    heal_s: Seconds = 3.0
    rate_min: Rate = 5.0
    rate_max: Rate = 250.0
    replicas_max: Annotated[int, Meta(ge=0, le=MAX_PODS)] = 0
    transports: tuple[str, ...] = ()
    bus: tuple[str, ...] = ()
    known: tuple[Annotated[str, Meta(min_length=1)], ...] = ()


def bounds_problem(bounds: Explore) -> str:
    """Return what is wrong with bounds, empty when nothing is."""
    for low, high in (("faults_min", "faults_max"), ("run_s_min", "run_s_max"), ("rate_min", "rate_max")):
        if getattr(bounds, low) > getattr(bounds, high):
            values = f"explore.{low} = {getattr(bounds, low):g} and explore.{high} = {getattr(bounds, high):g}"
            return f"{values} leave nothing to draw: raise the one or lower the other"
    settings = [name for name in Bus.__struct_fields__ if name not in NOT_DRAWN]
    for key, known in (("kinds", FAULTS), ("transports", TRANSPORTS), ("bus", settings)):
        for name in getattr(bounds, key):
            if name not in known:
                return f"explore.{key} = {name!r}: no such {_one(key)}{did_you_mean(name, known)}; known: {', '.join(known)}"
    return ""


def _one(key: str) -> str:
    return {"kinds": "fault", "transports": "transport", "bus": "setting of the bus"}[key]
