"""The claim that a Redis Cluster carries more Pub/Sub than one server: both brought to their limit, and the lag at a rate below it.

It is asked of classic Pub/Sub, which the reference uses: each event goes to every node. (Sharded Pub/Sub passes nothing on, and is what
`bus.transport = "sharded"` and `buslab bench --clusters` are for.) A limit is the least and the most of some windows, so a gain has two
ends, too. What is between "no more" and "more" is what such figures move by between runs, and nothing is decided there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from sim.experiments.claims.claim import Claim, Evidence, Finding, Trial
from sim.machine.words import amount, count, duration

MORE, NO_MORE = 1.2, 1.1  # times what one server carries
FULL = 0.9  # of what a node may use: where the busiest used less, it was not what limited the rate
LAG_MS_P99 = 50.0
LIMITS = "limits"  # the result's name in the verdict of `sim.measure.capacity.cluster_limits`
CASES = {1: "classic, one pod hears each event", 20: "classic, 20 pods hear each event"}


def _more(evidence: Mapping[str, Evidence]) -> Finding:
    result = evidence[LIMITS].checkers[LIMITS]
    counts = result.counts
    if f"one.{min(CASES)}.core" not in counts:  # it had no cores, and says so
        return Finding({}, None, "", result.detail)
    cases: dict[str, bool | None] = {}
    numbers: dict[str, float] = {}
    parts, doubts = [], []
    whole = "a core" if (share := counts.get("share", 1.0)) == 1 else f"the {share:.0%} of a core that each server may use here"
    for hearers, words in CASES.items():
        one, cluster = (
            {name: counts[f"{who}.{hearers}.{name}"] for name in ("least_per_s", "most_per_s", "core", "lag_ms_p99", "at_per_s")}
            for who in ("one", "cluster")
        )
        least, most = cluster["least_per_s"] / one["most_per_s"], cluster["most_per_s"] / one["least_per_s"]
        cases[words] = _held(least, most, one=one, cluster=cluster)
        if cases[words] is None:
            doubts.append(f"{words}: {_undecided(one, cluster)}")
        numbers |= {f"least_gain_{hearers}": least, f"most_gain_{hearers}": most}
        numbers |= {f"lag_ms_one_{hearers}": one["lag_ms_p99"], f"lag_ms_cluster_{hearers}": cluster["lag_ms_p99"]}
        parts.append(
            f"{words}: three masters carry {least:.2f} to {most:.2f} times what one server carries, {_rates(one)} events/s; "
            f"p99 of lag is {_lag(one)}, and {_lag(cluster)} on the cluster (the busiest nodes used {one['core']:.0%} and "
            f"{cluster['core']:.0%} of {whole})"
        )
    return Finding(
        cases, numbers["least_gain_1"], "times the load of one server at least, one hearer", "; ".join(parts), numbers, "; ".join(doubts)
    )


def _held(least: float, most: float, *, one: Mapping[str, float], cluster: Mapping[str, float]) -> bool | None:
    """Return whether the cluster carries more: None where what was measured does not say.

    A server that was not full carries what was measured at least: then only the other end of the gain is known.
    """
    if not one["lag_ms_p99"] <= LAG_MS_P99:  # at a rate well below its limit: then it is not the broker
        return None
    if least >= MORE and one["core"] >= FULL:
        return cluster["lag_ms_p99"] <= LAG_MS_P99
    if most <= NO_MORE and cluster["core"] >= FULL:
        return False
    return None


def _undecided(one: Mapping[str, float], cluster: Mapping[str, float]) -> str:
    if not one["lag_ms_p99"] <= LAG_MS_P99:
        return f"one server was too late well below its limit, by {_lag(one)}: stop what else runs on this machine"
    if one["core"] < FULL or cluster["core"] < FULL:
        return "not the nodes but who publishes or drains was the limit, or what else runs here: stop it, or take a machine with more cores"
    return f"the gain is not certainly over {MORE:g} nor at most {NO_MORE:g}, which is as far as such figures lie apart: measure it again"


def _rates(of: Mapping[str, float]) -> str:
    return f"{amount(of['least_per_s'])} to {amount(of['most_per_s'])}"


def _lag(of: Mapping[str, float]) -> str:
    late = "without an end" if math.isnan(of["lag_ms_p99"]) else duration(of["lag_ms_p99"] / 1e3)  # those who heard were cut
    return f"{late} at {count(of['at_per_s'], 'event')}/s"


CLUSTER = Claim(
    words="A Redis Cluster carries more Pub/Sub",
    where="Architecture Overview: Redis Cluster",
    theory="classic, as there: each event goes to every node, so only the copies of one with many hearers spread",
    expects="depends",
    trials=(Trial(LIMITS, "cluster_limits", on="cluster:3", needs="only", program=("sim.measure.capacity.cluster_limits",), about_s=50.0),),
    rule=_more,
    false_if=(
        "three masters, each with a core or as much of one, carry at most 1.1 times what one server carries,"
        " with one hearer of each event and with 20"
    ),
)
