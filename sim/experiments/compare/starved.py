"""A run that is worse because its machine withheld itself is not worse: what the machine may have done, nobody can lay to the bus.

The time that a metric would have taken at best is that of a limit on it (`sim.results.at_best`). What it does not know, such as a broker's
processor time per copy, is at best anything once something stalled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sim.results.at_best import AtBest
from sim.results.checkers import at_best_of
from sim.results.excuses import advice, notable, who_waited
from sim.results.opened_run import Run

LIMITS = {"offered_ratio": "offered_ratio_min"}  # metrics whose limits have another name


def starved(runs: Sequence[Run]) -> dict[str, AtBest]:
    """Return what the metrics of each run would have been at best, by the run's folder, for those whose machine withheld a notable time."""
    found = {str(run.folder): at_best_of(run) for run in runs}
    return {name: best for name, best in found.items() if best.withheld.accounts and notable(best.run, best.withheld)}


def made_by_machine(metric: str, values: Mapping[str, float], starved: Mapping[str, AtBest], *, most: float, high: bool) -> str:
    """Return who waited how long, where the runs' mean may be no worse than `most` without that; else an empty string.

    Parameters
    ----------
    metric
        One of the comparison's.
    values
        What it is in each run, by folder.
    starved
        See `starved`.
    most
        What is tolerated of the mean; the least, of a metric that should be `high`.
    """
    name = LIMITS.get(metric, metric)
    best = [starved[run].value(name, value, most) if run in starved else value for run, value in values.items()]
    mean = sum(best) / len(best)
    if not (mean >= most if high else mean <= most):
        return ""
    parts = [f"in {one.run.folder.name} {who_waited(one.run, one.withheld)}" for one in starved.values()]
    first = next(iter(starved.values()))
    return f"{'; '.join(parts)}, which may have made it: {advice(first.run, first.withheld)}"
