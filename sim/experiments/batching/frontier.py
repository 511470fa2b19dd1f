"""Which batch settings are worth having at a load: the frontier of staleness, items at risk, publishes and bytes, and one to recommend.

Of one load, a setting is **dominated** when another is no worse in all of `COSTS` and better in at least one; differences within `TIE`
count as none, as repeats differ by that. Of settings that are alike in all costs the one with the smaller size stays, then the one with the
shorter interval: at this load it costs no more, and at another it is the safer one. What is left is the frontier.

**Recommended** is, of the frontier settings that keep both limits, the one with the fewest publishes per second, as each costs the broker
and every subscriber. The limits: 99 % of the batches are handled within `max_age_ms` of their oldest item, and a crash of a pod loses at
most `max_at_risk` items; both within `TIE`. If none keeps both, the one that exceeds them by the smallest factor is given, and
`keeps_limits` is False.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import pandas as pd

from sim.errors import UsageError
from sim.experiments.batching.theory import batch_costs
from sim.machine.words import count, duration
from sim.results.checkers.verdict import worst
from sim.scenario.settings import Scenario

LOAD, SIZE, INTERVAL = "load.rate_per_s", "bus.batch_size", "bus.batch_interval_ms"
AGE, AT_RISK, PUBLISHES, BYTES = "item_age_ms_p99", "batching.at_risk.max", "batching.batches_per_s", "batching.batch_bytes_per_s"
COSTS = (AGE, AT_RISK, PUBLISHES, BYTES)
TIE = 0.02
DEFAULT_SIZE, DEFAULT_INTERVAL_MS = 100, 30_000
MAX_AGE_MS, MAX_AT_RISK = 5000.0, 100.0
MAX_THEORY_ERROR = 0.1
LIMITS = ("missing", "duplicates", "items_lost", "offered_ratio_min")  # that a channel which stands alone can keep as well


class BatchedAlone(NamedTuple):
    """How a batched channel of a bus is swept: what makes it stand alone, the keys of its rule, and the rule that it has.

    `columns` are the names under which the rest of this module knows the keys.
    """

    settings: tuple[str, ...]
    size_key: str
    interval_key: str
    size: int
    interval_ms: int

    @property
    def columns(self) -> dict[str, str]:
        """Names of a sweep's columns by which `batch_frontier` and `against_theory` know them."""
        return {self.size_key: SIZE, self.interval_key: INTERVAL}


def batched_alone(scenario: Scenario, channel: str = "") -> BatchedAlone:
    """Return the settings by which one pod publishes on a batched channel alone, and one pod of each service hears it.

    Parameters
    ----------
    channel
        By default the first of the scenario's that is batched and that somebody publishes.

    Raises
    ------
    UsageError
        The scenario has no such batched channel, or nobody publishes it.
    """
    published = {name for one in scenario.services.values() for name in one.publishes}
    channel = channel or next((name for name in scenario.batches() if name in published), "")
    rule = scenario.batches().get(channel)
    batched = ", ".join(scenario.batches()) or "none"
    if rule is None:
        which = f" {channel!r}" if channel else " that a service publishes"
        raise UsageError(f"scenario {scenario.name}: no batched channel{which}; batched are {batched}")
    name, own = json.dumps(channel, ensure_ascii=False), scenario.channels[channel]
    publishing = [service for service, one in scenario.services.items() if channel in one.publishes]
    if not publishing:
        raise UsageError(f"scenario {scenario.name}: no service publishes {channel}")
    settings = [f"load.mix={{{name}=1}}", "load.driver=pods", "load.shape=steady", "load.arrivals=poisson", "faults=[]"]
    settings += ["slo={}"] if set(scenario.slo) - set(LIMITS) else []  # of services that hear nothing now, or of lag
    for service, one in scenario.services.items():
        me = f"services.{json.dumps(service, ensure_ascii=False)}"
        if service in publishing[1:]:
            rest = [other for other in one.publishes if other != channel]
            spare = [other for other in scenario.channels if other != channel][:1]
            settings.append(f"{me}.publishes={json.dumps(rest or ([] if one.subscribes else spare), ensure_ascii=False)}")
        if channel in (*one.publishes, *one.subscribes):
            settings.append(f"{me}.replicas=1")
    size, interval = (f"channels.{name}.{key}" if getattr(own, key) else f"bus.{key}" for key in ("batch_size", "batch_interval_ms"))
    return BatchedAlone(tuple(settings), size, interval, rule.size, rule.interval_ms)


def batch_frontier(
    table: pd.DataFrame,
    *,
    max_age_ms: float = MAX_AGE_MS,
    max_at_risk: float = MAX_AT_RISK,
    default: tuple[int, int] = (DEFAULT_SIZE, DEFAULT_INTERVAL_MS),
) -> pd.DataFrame:
    """Judge every batch setting of a sweep.

    Parameters
    ----------
    table
        Of `run_sweep`, over `bus.batch_size`, `bus.batch_interval_ms` and perhaps `load.rate_per_s`, one publisher.
    max_age_ms, max_at_risk
        The limits of what is recommended.
    default
        The size and the interval in milliseconds that the bus has.

    Returns
    -------
    DataFrame
        A row a load and setting, `COSTS` as the mean of its repeats, ``dominated_by`` (empty on the frontier), ``keeps_limits``,
        ``recommended``, ``default``.

    Raises
    ------
    UsageError
        The sweep has other settings, or a run measured no batches.
    """
    keys = [LOAD, SIZE, INTERVAL]
    missing = [key for key in (*keys, *COSTS) if key not in table]
    if missing:
        raise UsageError(f"this sweep has no {', '.join(missing)}: set {LOAD}, {SIZE} and {INTERVAL} of a scenario with batches")
    judged = table.groupby(keys, as_index=False)[list(COSTS)].mean().sort_values(keys, ignore_index=True)
    if judged[list(COSTS)].isna().any(axis=None):
        row = judged[judged[list(COSTS)].isna().any(axis=1)].iloc[0]
        raise UsageError(f"a run with {_said(row)} at {row[LOAD]:g}/s measured no batches: give it more time (load.run_s)")
    judged["dominated_by"] = ""
    for _, rows in judged.groupby(LOAD):
        for place in rows.index:
            better = [other for other in rows.index if other != place and _beats(judged, other, place)]
            judged.loc[place, "dominated_by"] = _said(judged.loc[better[0]]) if better else ""
    over = pd.concat([judged[AGE] / max_age_ms, judged[AT_RISK] / max_at_risk], axis=1).max(axis=1)
    judged["keeps_limits"] = over <= 1 + TIE
    judged["recommended"] = False
    for _, rows in judged[judged["dominated_by"] == ""].groupby(LOAD):
        kept = rows[rows["keeps_limits"]]
        best = kept[PUBLISHES].idxmin() if len(kept) else over[rows.index].idxmin()
        judged.loc[best, "recommended"] = True
    judged["default"] = (judged[SIZE] == default[0]) & (judged[INTERVAL] == default[1])
    judged.attrs["default"] = f"{default[0]:,} items / {duration(default[1] / 1e3)}"
    return judged


def _beats(judged: pd.DataFrame, one: int, other: int) -> bool:
    """Return whether one setting dominates another, or is alike and smaller (rows are in rising order)."""
    ours, theirs = judged.loc[one, list(COSTS)], judged.loc[other, list(COSTS)]
    if not (ours <= theirs * (1 + TIE)).all():
        return False
    return bool((ours < theirs * (1 - TIE)).any()) or one < other


def _said(row: pd.Series) -> str:
    return f"{int(row[SIZE]):,} / {duration(row[INTERVAL] / 1e3)}"


def against_theory(table: pd.DataFrame, *, arrivals: str = "poisson") -> pd.DataFrame:
    """Return what theory predicts beside what was measured, a row a load and setting.

    Bytes are left out: their two constants would be fitted to the same runs.

    Returns
    -------
    DataFrame
        Load, size, interval; ``wait_ms``, ``publishes_per_s``, ``at_risk`` each as ``_predicted`` and ``_measured``; ``wait_error`` and
        ``publishes_error`` relative to the prediction.
    """
    keys = [LOAD, SIZE, INTERVAL]
    measured = ["batching.wait_ms.mean", PUBLISHES, "batching.at_risk.mean"]
    rows = table.groupby(keys, as_index=False)[measured].mean()
    rows.columns = pd.Index([*keys, "wait_ms_measured", "publishes_per_s_measured", "at_risk_measured"])
    predicted = [
        batch_costs(rate_per_s=row[LOAD], size=int(row[SIZE]), interval_ms=row[INTERVAL], arrivals=arrivals)
        for row in rows.to_dict("records")
    ]
    rows["wait_ms_predicted"] = [costs.wait_ms_mean for costs in predicted]
    rows["publishes_per_s_predicted"] = [costs.publishes_per_s for costs in predicted]
    rows["at_risk_predicted"] = [costs.at_risk_mean for costs in predicted]
    waits = rows["wait_ms_predicted"] > 0
    rows["wait_error"] = ((rows["wait_ms_measured"] / rows["wait_ms_predicted"]) - 1).where(waits, 0.0)
    rows["publishes_error"] = rows["publishes_per_s_measured"] / rows["publishes_per_s_predicted"] - 1
    return rows


def judge_default(table: pd.DataFrame, judged: pd.DataFrame, compared: pd.DataFrame) -> tuple[str, str]:
    """Return a verdict on the sweep, and the answer in one sentence.

    The verdict is of the measurement, not of the default: invalid when a run was, or when the mean wait is further than
    `MAX_THEORY_ERROR` from theory; unknown when a run was, or no run had the default setting.

    Parameters
    ----------
    table, judged, compared
        Of `run_sweep`, `batch_frontier` and `against_theory`.
    """
    words, error = set(table["verdict"]), float(compared["wait_error"].abs().max())
    default, kept = judged[judged["default"]], judged[judged["default"] & judged["keeps_limits"]]
    best = judged[judged["recommended"]]
    if not len(default):
        return "unknown", f"no run had the default setting of {judged.attrs['default']}"
    verdict = worst(words | ({"invalid"} if error > MAX_THEORY_ERROR else set()))
    costs = "; ".join(
        f"at {count(r[LOAD], 'item')}/s {duration(r[AGE] / 1e3)} old, {r[AT_RISK]:,.0f} at risk" for r in default.to_dict("records")
    )
    advice = ", ".join(
        f"{_said(r)} at {count(r[LOAD], 'item')}/s" + ("" if r["keeps_limits"] else " (limits not kept)") for _, r in best.iterrows()
    )
    loads = count(len(default), "load")
    return verdict, (
        f"The default of {judged.attrs['default']} keeps the limits at {len(kept)} of {loads} of a pod ({costs}); "
        f"recommended are {advice}; "
        f"theory and measurement of the mean wait differ by {error:.1%} at most."
    )
