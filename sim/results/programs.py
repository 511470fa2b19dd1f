"""What of a run is of programs of the user's own: which services and pods, what they sent, and what nobody could measure of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.record.reader import Array, codes_of

if TYPE_CHECKING:
    from sim.results.opened_run import Run

UNTOLD = "untold"  # the belief of a program that has no address to ask whether it is ready


def program_services(run: Run) -> dict[str, Mapping[str, Any]]:
    """Return the services whose pods are programs, with their settings."""
    services = run.scenario.get("services", {}) if run.info.fleet == "ours" else {}
    return {name: one for name, one in services.items() if one.get("command")}


def sent_by_programs(run: Run) -> Array:
    """Return which publishes are of programs."""
    programs = program_services(run)
    if not programs:
        return np.zeros(len(run.publishes), dtype=bool)
    pods = {history.pod for history in run.pod_histories if history.service in programs}
    publisher, words = codes_of(run.publishes["publisher"])
    found: Array = np.array([*(word.partition("/")[0] in pods for word in words), False])[publisher]
    return found


def not_measured(run: Run) -> dict[str, str]:
    """Return why a checker says nothing of this run, by its name: it needs what only pods of ours tell, and here no such pod tells it."""
    programs = program_services(run)
    if not programs:
        return {}
    ours = {name: one for name, one in run.scenario.get("services", {}).items() if name not in programs}
    first = next(iter(programs))
    found = {"once": f"whether {first} handles an event once is known to itself alone"}
    if not run.info.load.offered_reads:
        found["staleness"] = "what programs keep in caches, and when they read it, cannot be seen"
    if not run.info.load.offered_calls:
        found["callers"] = "the calls inside programs cannot be seen"
        found["batching"] = "what waits in a program until its batch leaves cannot be seen"
    if not any(one.get("handler_ms") or one.get("handler_cpu_ms") for one in ours.values()):
        found["consumers"] = "how long the handlers of programs take cannot be seen"
    if not ours:
        found["clocks"] = "the wall clocks of programs cannot be seen"
    asked = any(one.get("ready", "").startswith("http") for one in programs.values())
    if not asked and not any(one.get("subscribes") for one in ours.values()):
        found["fallback"] = f"what {first} believes of its connections cannot be seen: give it an address to ask, as services.{first}.ready"
    return found
