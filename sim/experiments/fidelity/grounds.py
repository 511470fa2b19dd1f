"""The same scenario and seed on several grounds, in one table: the load must be the same, lag and the broker's work are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
from rich.table import Table

from sim.errors import BrokerError
from sim.experiments.fidelity.run import GroundRow, measure
from sim.experiments.many_runs import Job, run_many
from sim.grounds.catalogue import shown_ground
from sim.results.broker_costs import BrokerCosts, broker_costs
from sim.scenario.file import Scenario

SIDE_BY_SIDE = ("model", "embedded", "container", "cluster", "container-cluster")


@dataclass(frozen=True)
class OnGround:
    """What one run came to; where the ground could not be opened, `side` and `costs` are None and `why_not` says why."""

    ground: str
    side: GroundRow | None = None
    costs: BrokerCosts | None = None
    why_not: str = ""


def run_on_grounds(
    scenario: Scenario, *, grounds: Sequence[str] = SIDE_BY_SIDE, image: str | None = None, tell: Callable[[str], None] = lambda line: None
) -> list[OnGround]:
    """Run a scenario on each ground, its pods making the calls.

    Parameters
    ----------
    grounds
        As of `--on`. One that cannot be opened (no container engine) is left out with the reason.
    image
        What the grounds of containers run, if not their default.
    """
    load = msgspec.structs.replace(scenario.load, driver="pods")
    scenario = msgspec.structs.replace(scenario, load=load)
    jobs = [Job(str(place), scenario, on, image if "container" in on else None) for place, on in enumerate(grounds)]
    found = []
    for outcome in run_many(jobs, begin=lambda job: tell(f"{job.scenario.name} on {shown_ground(job.on)}")):
        if isinstance(outcome.error, BrokerError):
            found.append(OnGround(shown_ground(outcome.job.on), why_not=str(outcome.error)))
        else:
            judged = outcome.judged()
            found.append(OnGround(shown_ground(outcome.job.on), measure(judged), broker_costs(judged.run)))
    return found


def grounds_table(scenario: Scenario, found: Sequence[OnGround]) -> Table:
    """Return the comparison for a rich console; the broker's processor time is of all its nodes."""
    table = Table(title=f"{scenario.name}, seed {scenario.seed}, transport {scenario.bus.transport}: the same load on each ground")
    for heading in (
        "ground",
        "calls meant",
        "copies expected",
        "delivered",
        "lag us p50",
        "p99",
        "broker CPU, us a copy",
        "of a core",
        "verdict",
    ):
        table.add_column(heading, justify="left" if heading in ("ground", "verdict") else "right")
    for one in found:
        if one.side is None or one.costs is None:
            table.add_row(one.ground, *("-",) * 7, f"not run: {one.why_not}")
            continue
        side, costs = one.side, one.costs
        counts = (f"{count:,}" for count in (side.intended_calls, side.expected, side.delivered))
        lags = (f"{side.lag_us[name]:,.0f}" if name in side.lag_us else "-" for name in ("p50", "p99"))
        table.add_row(one.ground, *counts, *lags, f"{costs.all_in_copy_us:,.1f}", f"{costs.cpu_share:.2%}", side.verdict)
    return table


def exit_code(found: Sequence[OnGround]) -> int:
    """Return 0 when every run was valid and meant the same load, 1 when not, 2 when a ground could not be opened."""
    sides = [one.side for one in found if one.side is not None]
    if len({side.intended_calls for side in sides}) > 1 or any(side.verdict == "invalid" for side in sides):
        return 1
    return 2 if len(sides) < len(found) or any(side.verdict != "valid" for side in sides) else 0
