"""Promises of the bus that no checker judges, because each is of one moment: here they are asked of every run.

- A pod that ends in order, while it is connected, leaves no item of its part-full batch unsent.
- Pub/Sub hands a copy over once: no pod hears an event twice. A stream does so too, to a pod whose connection was never lost.
- With `bus.resync`, a pod that has subscribed again serves no copy from before; and with `read-through` none while it is not subscribed.
"""

from __future__ import annotations

import numpy as np

from sim.experiments.explore.flaw import Flaw
from sim.machine.words import count
from sim.record.reader import Array, codes_in, codes_of
from sim.record.schema import event_id
from sim.results.copies import FATE
from sim.results.opened_run import Run
from sim.results.outages import read_beliefs

AT_ONCE_NS = 5_000_000  # between the end of a pod and what it wrote down of it
HANDS_OVER_AGAIN = ("broker_down", "broker_stop", "keys_lost", "pod_start_in_outage", "connections_refused")  # a stream begun anew


def broken_promises(run: Run) -> list[Flaw]:
    """Return each of these promises that was broken."""
    return [*_left_unsent(run), *_heard_twice(run), *_served_from_before(run)]


def _left_unsent(run: Run) -> list[Flaw]:
    publishes = run.publishes
    rows = np.flatnonzero(codes_in(publishes["outcome"], {"never-sent": 1}) == 1)
    publisher, names = codes_of(publishes["publisher"])
    meant, beliefs = publishes["intended_ns"].to_numpy(), read_beliefs(run)
    for row in rows.tolist():
        belief = beliefs.get(names[publisher[row]])
        if belief is None:
            continue
        near = np.flatnonzero(np.abs(belief.at_ns - meant[row]) <= AT_ONCE_NS).tolist()
        if any(n and belief.state[n] == "stopped" and belief.bus[n - 1] == "connected" for n in near):
            items = count(int(publishes["items"].to_numpy()[row]), "item")
            text = f"{names[publisher[row]]} ended in order while it was connected, and {items} of its batch never left"
            return [Flaw("promise: graceful stop", text, event_id(int(publishes["event"].iloc[row])))]
    return []


def _heard_twice(run: Run) -> list[Flaw]:
    again = np.flatnonzero((run.copies.fate == FATE["duplicate"]) & (run.copies.publish >= 0))
    if not len(again) or len(run.identities):
        return []
    if run.one_per_service:
        kinds = {fault["kind"] for fault in run.scenario.get("faults", ())}
        again = again[~np.isin(run.copies.pod[again], _hurt(run))] if not kinds & set(HANDS_OVER_AGAIN) else again[:0]
    if not len(again):
        return []
    pod = run.pod_histories[int(run.copies.pod[again[0]])].pod
    event = int(run.publishes["event"].iloc[int(run.copies.publish[again[0]])])
    return [Flaw("promise: heard once", f"{count(len(again), 'copy', 'copies')} came twice to a pod, first to {pod}", event_id(event))]


def _hurt(run: Run) -> Array:
    """Return the numbers of the pods that lost a connection, stood still, or began more than once."""
    calm = {"starting", "subscribed", "stopped", "aborted"}
    beliefs = read_beliefs(run)
    once = {pod: one for pod, one in beliefs.items() if set(one.state) <= calm and one.state.count("starting") == 1}
    whole = {pod for pod, one in once.items() if "mute" not in one.bus[2:]}
    return np.array([number for number, history in enumerate(run.pod_histories) if history.pod not in whole], dtype=np.int64)


def _served_from_before(run: Run) -> list[Flaw]:
    resync = run.scenario["bus"]["resync"]
    if resync == "none" or not len(run.reads):
        return []
    reads, beliefs = run.reads, read_beliefs(run)
    pod, names = codes_of(reads["pod"])
    at_ns, loaded_ns = reads["at_ns"].to_numpy(), reads["loaded_ns"].to_numpy()
    for number, name in enumerate(names):
        if (belief := beliefs.get(name)) is None:
            continue
        mine = np.flatnonzero(pod == number)
        row = np.searchsorted(belief.at_ns, at_ns[mine], side="left") - 1  # what changed in the very moment may have come after
        began = np.zeros(len(belief.at_ns) + 1, dtype=np.int64)
        for place, (state, before) in enumerate(zip(belief.state, ("", *belief.state), strict=False)):
            anew = state == "subscribed" and before == "disconnected"
            began[place] = belief.at_ns[place] if anew else began[place - 1] if place else 0
        old = mine[(row >= 0) & (loaded_ns[mine] < began[row]) & (at_ns[mine] > began[row])]
        if len(old):
            told = f"{count(len(old), 'copy', 'copies')} that it had from before it subscribed again"
            return [Flaw("promise: resync", f"{name} served {told}, with bus.resync = {resync!r}")]
    return []
