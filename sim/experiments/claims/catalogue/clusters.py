"""The claim that a Redis Cluster carries more Pub/Sub than one server, at the same load: by its busiest node, and by what a copy costs.

The busiest node is full first. So if each node had a core of its own, a broker would carry more load the smaller the share of a core that
its busiest node uses. What all nodes use together is the price.
"""

from __future__ import annotations

from collections.abc import Mapping

from sim.experiments.claims.claim import EMBEDDED, Claim, Evidence, Finding, Trial
from sim.machine.words import multiple
from sim.results.broker_costs import broker_costs
from sim.results.opened_run import Run

MORE = 1.2  # times the load of one server; figures of processor time move by a tenth between runs
MANY = ("load.run_s=3", "load.rate_per_s=500")
FEW = ("load.run_s=3", "load.rate_per_s=1000", "services.music-service.replicas=1")
PAIRS = {  # case -> one server, the cluster
    "classic, 20 pods hear each event": ("one_many", "classic_many"),
    "sharded, 20 pods hear each event": ("one_many", "sharded_many"),
    "classic, one pod hears each event": ("one_few", "classic_few"),
}


def busiest_share(run: Run) -> float:
    """Return the share of a core that the busiest node used in the run phase; of the one server where there is one."""
    begin_ns, end_ns = run.phases["run"]
    rows = run.broker[run.broker["at_ns"].between(begin_ns, end_ns)]
    used = rows[rows["metric"].isin(["node_used_cpu_user_s", "node_used_cpu_sys_s"])]
    if not len(used):
        return broker_costs(run).cpu_share
    sums = used.groupby(["subject", "at_ns"], observed=True)["value"].sum().reset_index()
    shares = [(one["value"].iloc[-1] - one["value"].iloc[0]) * 1e9 / float(one["at_ns"].iloc[-1] - one["at_ns"].iloc[0])
              for _, one in sums.groupby("subject", observed=True)]  # fmt: skip
    return float(max(shares))


def _more(evidence: Mapping[str, Evidence]) -> Finding:
    cases: dict[str, bool | None] = {}
    numbers: dict[str, float] = {}
    parts = []
    for words, (one, cluster) in PAIRS.items():
        shares = [busiest_share(evidence[name].run) for name in (one, cluster)]
        prices = [broker_costs(evidence[name].run).all_in_copy_us for name in (one, cluster)]
        gain, price = shares[0] / shares[1], prices[1] / prices[0]
        cases[words] = gain >= MORE
        numbers |= {f"gain_{cluster}": gain, f"price_{cluster}": price}
        parts.append(
            f"{words}: the busiest of six nodes could carry {multiple(gain)} one server's load, and a copy costs {multiple(price)} its CPU"
        )
    return Finding(cases, numbers["gain_classic_few"], "times the load of one server, one hearer", "; ".join(parts), numbers)


CLUSTER = Claim(
    words="A Redis Cluster carries more Pub/Sub",
    where="Architecture Overview: Redis Cluster",
    theory="classic: each event goes to every node, so only the copies of one with many hearers spread; sharded: channels spread",
    expects="depends",
    trials=(
        Trial("one_many", "cluster_fanout", MANY, on=EMBEDDED, needs="only"),
        Trial("classic_many", "cluster_fanout", MANY, on="cluster:3", needs="only"),
        Trial("sharded_many", "cluster_fanout", (*MANY, "bus.transport=sharded"), on="cluster:3", needs="only"),
        Trial("one_few", "cluster_fanout", FEW, on=EMBEDDED, needs="only"),
        Trial("classic_few", "cluster_fanout", FEW, on="cluster:3", needs="only"),
    ),
    rule=_more,
    false_if="the busiest node of a cluster could carry less than 1.2 times the load of one server in each case",
)
