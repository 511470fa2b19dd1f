"""What of a scenario this machine carries: only what was measured here says so, and each statement says where it comes from.

Measured are the costs of a broker's steps (`buslab calibrate`), and what one process full of the lab's pods hears (`buslab capacity`).
Files of another machine are named and not used, unless the caller names their folder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from sim.errors import UsageError
from sim.grounds.model.costs import COLD_MAX_MS, SERVER_VALUES, read_costs_file
from sim.machine.facts import environment
from sim.machine.open_files import raise_open_files
from sim.measure.meaning.channels import ChannelLoad, has_broker, sent_of
from sim.run.fit import files_needed
from sim.run.folder import reports_folder
from sim.scenario.settings import Scenario

COSTS_FILE, CAPACITY_FILE = "costs.json", "capacity.json"
_WHAT = {COSTS_FILE: "what a broker's core carries", CAPACITY_FILE: "what one process of pods hears"}
MEASURE = {COSTS_FILE: "buslab calibrate", CAPACITY_FILE: "buslab capacity"}


class ResourceNeed(msgspec.Struct, frozen=True):
    """One thing that a scenario needs of this machine, beside what there is.

    Attributes
    ----------
    what
        The resource.
    needed, available
        In one unit, which `unit` names; at the peak of the load. `needed_low` and `needed_high` are its 95 % interval where it has one.
    source
        Where the numbers come from.
    """

    what: str
    unit: str
    needed: float
    needed_low: float
    needed_high: float
    available: float
    source: str

    @property
    def enough(self) -> bool | None:
        """Whether there is enough; None where the interval holds both."""
        return True if self.needed_high <= self.available else False if self.needed_low > self.available else None


def carried_here(scenario: Scenario, loads: Sequence[ChannelLoad], *, measured: Path | None = None) -> tuple[list[ResourceNeed], list[str]]:
    """Return what is known of this machine, and a sentence for each thing that was not measured here.

    Parameters
    ----------
    measured
        The folder of `costs.json` and `capacity.json`; by default the reports' folder, as far as they are of this machine.

    Raises
    ------
    UsageError
        The folder that was named has neither, or one of them is damaged.
    """
    files = files_needed(scenario)
    found = [ResourceNeed("open files of one process", "", files, files, files, raise_open_files(), "counted; what this shell allows")]
    unknown: list[str] = []
    folder = measured or reports_folder()
    if measured is not None and not any((measured / name).is_file() for name in MEASURE):
        raise UsageError(
            f"{measured} has neither {COSTS_FILE} nor {CAPACITY_FILE}: make them with `buslab calibrate` and `buslab capacity`"
        )
    for name, read in ((COSTS_FILE, _broker), (CAPACITY_FILE, _pods)):
        if not has_broker(scenario):
            break  # one process carries events by itself, and nothing of that was measured
        path = folder / name
        if not path.is_file():
            unknown.append(f"{_WHAT[name]} was not measured here: `{MEASURE[name]}` does that")
            continue
        try:
            one, machine = read(path, scenario, loads)
        except UsageError as error:
            if measured is not None:
                raise
            unknown.append(f"{_WHAT[name]} is not known: {error}")
            continue
        here = machine == environment(broker_says={})["machine"]
        if not here and measured is None:
            unknown.append(f"{_WHAT[name]} was not measured here ({path} is of another machine): `{MEASURE[name]}` does that")
        elif one is None:
            unknown.append(f"{_WHAT[name]} is not in {path}")
        else:
            found.append(one if here else msgspec.structs.replace(one, source=f"{one.source}, on another machine"))
    return found, unknown


def _broker(path: Path, scenario: Scenario, loads: Sequence[ChannelLoad]) -> tuple[ResourceNeed | None, Any]:
    """Return the share of the broker's core, were each event a turn of its own; under load turns carry several and it is less."""
    file = read_costs_file(path)
    if any(one.out_bytes_per_s is None for one in loads):
        return None, file.about.get("machine")
    ends = ("mean", "low", "high")
    share, low, high = (_core_share(scenario, loads, {name: getattr(file.values[name], end) for name in SERVER_VALUES}) for end in ends)
    source = f"{path}, `buslab calibrate` {file.measured_at[:10]}; each event a turn of its own"
    return ResourceNeed("the broker's core", "of a core", share, low, high, 1.0, source), file.about.get("machine")


def _core_share(scenario: Scenario, loads: Sequence[ChannelLoad], costs: dict[str, float]) -> float:
    """Return how much of its core a server is busy at the peak, with these costs in nanoseconds."""
    turns = busy_ns = 0.0
    for one in loads:
        sent = sent_of(scenario, one, events=1.0)
        writes = one.copies_per_event + 1
        each_ns = costs["turn_ns"] + costs["read_ns"] + costs["command_ns"] + one.copies_per_event * costs["copy_ns"]
        each_ns += writes * costs["write_ns"] + sent.counted_bytes * costs["byte_ns"]
        turns, busy_ns = turns + one.events_per_s_peak, busy_ns + one.events_per_s_peak * each_ns
    share = busy_ns / 1e9
    if turns and share < 1:  # a server that slept pays for it
        slept_ms = (1 - share) * 1e3 / turns
        share += turns * costs["cold_ns"] * math.sqrt(min(slept_ms, COLD_MAX_MS)) / 1e9
    return share


def _pods(path: Path, scenario: Scenario, loads: Sequence[ChannelLoad]) -> tuple[ResourceNeed | None, Any]:
    """Return the copies that one process of pods hears at the peak, beside the most that one heard."""
    from sim.measure.capacity.report import read_capacity  # pandas and scipy, which take a second

    found = read_capacity(path)
    machine = found.about.get("machine")
    if not found.host_copies_per_s:
        return None, machine
    copies = sum(one.copies_per_s_peak for one in loads) / (scenario.hosts.processes if scenario.hosts.kind != "inline" else 1)
    source = f"{path}, `buslab capacity {found.scenario}` {found.measured_at[:10]}; at most: small events, full reads"
    return ResourceNeed("one process of pods", "copies/s", copies, copies, copies, found.host_copies_per_s, source), machine
