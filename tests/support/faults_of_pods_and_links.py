"""What theory says of the scenarios whose fault is on pods or on links; it holds on every ground. For `test_scenarios`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sim.bus.envelope import BATCH
from sim.results.checkers import judge
from sim.results.opened_run import Run
from sim.scenario.file import check_tree
from tests.support.unknown import latest_s

SETTLED_NS = 3_000_000_000  # reconnecting backs off to 2 s at most


def of_fault(run: Run) -> tuple[int, int, set[str]]:
    """Return when the only fault began and ended, and on which pods it was."""
    (fault,) = run.faults.to_dict("records")
    assert fault["fault"] == run.scenario["name"]
    return fault["begin_ns"], fault["end_ns"], set(fault["target"].split(","))


def copies(run: Run) -> pd.DataFrame:
    """Return the ledger with the time at which each event was meant to be sent."""
    events = run.publishes.drop_duplicates("event").set_index("event")["intended_ns"]
    return run.ledger().assign(intended_ns=lambda rows: rows["event"].map(events))


def lost(run: Run) -> pd.DataFrame:
    rows = copies(run)
    return rows[rows["fate"] == "missing"]


def assert_well_after(run: Run) -> None:
    """Check that everybody is back: what was sent later was heard by all."""
    _, end_ns, _ = of_fault(run)
    rows = copies(run)
    rows = rows[rows["intended_ns"] > end_ns + SETTLED_NS]
    assert len(rows) > 100
    assert (rows["fate"] == "delivered").all()


def causes(run: Run, *pods: str) -> set[str]:
    """Return why copies for these pods are missing; for all pods, when none is named."""
    rows = lost(run)
    return set(rows.loc[rows["pod"].isin(pods) if pods else slice(None), "cause"].astype(str))


def alone_at_its_start(run: Run, pods: set[str]) -> set[int]:
    """Return the events that a restarted pod published only inside itself before it was connected, by its own record.

    On a real server that takes some milliseconds, on a busy machine more, and its calls fall due meanwhile; in virtual time none does.
    """
    events: set[int] = set()
    inside = run.publishes[run.publishes["outcome"] == "memory"]
    for pod in pods:
        rows = run.pods[run.pods["pod"] == pod]
        again_ns = rows.loc[rows["state"] == "starting", "at_ns"].iloc[1]
        connected_ns = rows.loc[(rows["bus"] == "connected") & (rows["at_ns"] > again_ns), "at_ns"].min()
        mine = inside[(inside["publisher"] == pod) & inside["sent_ns"].between(again_ns, connected_ns)]
        events |= set(mine["event"])
    assert not events or run.info.ground != "model"
    return events


def causes_of_other(run: Run, events: set[int]) -> set[str]:
    """Return why copies of other events than these are missing."""
    rows = lost(run)
    return set(rows.loc[~rows["event"].isin(events), "cause"].astype(str))


def assert_only_one_service_was_without(run: Run) -> None:
    """Check that both pods of one service were away, and that it missed what came meanwhile; of the other one pod of three was."""
    rows = lost(run)
    alone = rows[rows["cause"] == "no-pod"]
    assert set(alone["service"]) == {"ai-content-service"} and alone["pod"].isna().all() and len(alone) > 50
    begin_ns, end_ns, _ = of_fault(run)
    assert alone["intended_ns"].between(begin_ns - int(1e9 * (latest_s(run) or 0)), end_ns + int(1e9)).all()


def bus_states(run: Run, pod: str) -> list[str]:
    return run.pods.loc[run.pods["pod"] == pod, "bus"].astype(str).tolist()


def starts(run: Run) -> pd.Series:
    return run.pods.loc[run.pods["state"] == "starting", "pod"].astype(str).value_counts()


def outcomes_unsent(run: Run) -> set[str]:
    return set(run.publishes["outcome"].astype(str)) - {"acknowledged"}


def clock_skew(run: Run, counts: dict[str, float]) -> None:
    """Check that nothing is measured by the clock that is wrong: no lag is negative, none is of seconds."""
    assert counts["delivered"] == counts["expected"] > 1000
    rows = copies(run)
    begin_ns, end_ns, pods = of_fault(run)
    skewed = rows[rows["publisher"].isin(pods) & rows["intended_ns"].between(begin_ns, end_ns)]
    assert len(skewed) > 100
    assert skewed["lag_us"].min() > 0
    assert skewed["lag_us"].median() < 5_000_000 / 2


def handler_error(run: Run, counts: dict[str, float]) -> None:
    """Check that the pod that took the marker raises and the others skip: no run, and only while the fault was on."""
    begin_ns, end_ns, pods = of_fault(run)
    assert counts["missing"] == 0
    failed = run.deliveries[run.deliveries["outcome"] == "failed"]
    assert len(failed) > 50
    assert set(failed["pod"]) <= pods
    assert failed["received_ns"].between(begin_ns, end_ns).all()
    assert judge(run).checkers["once"].counts["never"] == failed["event"].nunique() == len(failed)


def link_blackhole(run: Run, counts: dict[str, float]) -> None:
    """Check that nobody notices: no state changes, no copy is lost, and what TCP repeats arrives when the fault is over."""
    begin_ns, end_ns, pods = of_fault(run)
    assert counts["missing"] == counts["unknown"] == 0
    assert set(run.pods["state"].astype(str)) == {"starting", "subscribed", "stopped"}
    heard = run.deliveries[run.deliveries["pod"].isin(pods)]["received_ns"]
    assert not heard.between(begin_ns + 500_000_000, end_ns - 500_000_000).any(), "but for what was on its way"
    rows = copies(run)
    held = rows[rows["pod"].isin(pods) & rows["intended_ns"].between(begin_ns + 500_000_000, end_ns - 500_000_000)]
    assert len(held) > 50
    assert (held["intended_ns"] + held["lag_us"] * 1e3 >= end_ns - 500_000_000).all()


def link_cut(run: Run, counts: dict[str, float]) -> None:
    """Check that every cut connection is noticed and opened again; no half of an event was handled."""
    _, _, pods = of_fault(run)
    assert causes(run) <= {"cut-link", "deaf", "sent-in-memory-mode", "publish-refused"}
    losers = set(lost(run).loc[lambda rows: rows["cause"].isin(["cut-link", "deaf"]), "pod"].astype(str))
    assert losers <= pods and (losers == pods or run.info.ground != "model"), "on a real link an answer may be what is cut, not an event"
    assert counts["cut-link"] >= len(losers) > 0, "at least the event that was cut, in each of them"
    for pod in {history.pod for history in run.pod_histories} - pods:
        assert bus_states(run, pod) == ["connecting", "mute", "connected", "stopped"]
    assert all(bus_states(run, pod)[-2:] == ["connected", "stopped"] and {"deaf", "outage"} & set(bus_states(run, pod)) for pod in pods)
    assert_well_after(run)


def link_reset(run: Run, counts: dict[str, float]) -> None:
    """Check that each reset costs what comes until the pod is subscribed again, and events of the pod that stay inside it."""
    begin_ns, end_ns, pods = of_fault(run)
    assert causes(run) <= {"cut-link", "deaf", "sent-in-memory-mode", "publish-refused"}
    assert counts["cut-link"] > 0
    away = run.pods[run.pods["state"] == "disconnected"]
    assert set(away["pod"]) == pods
    assert away["pod"].value_counts().loc[sorted(pods)].min() >= 4, "again and again"
    gone = lost(run)
    assert set(gone.loc[gone["cause"] == "cut-link", "pod"]) == pods
    assert gone["intended_ns"].between(begin_ns - SETTLED_NS, end_ns + SETTLED_NS).all()
    assert_well_after(run)


def link_slow(run: Run, counts: dict[str, float]) -> None:
    """Check that copies come later by what the link adds, only for the pods behind it, and that none is lost."""
    begin_ns, end_ns, pods = of_fault(run)
    assert counts["missing"] == counts["unknown"] == 0
    rows = copies(run)
    meanwhile = rows[rows["intended_ns"].between(begin_ns + 500_000_000, end_ns - 500_000_000)]
    slow = meanwhile["pod"].isin(pods)
    assert slow.sum() > 50
    assert meanwhile.loc[slow, "lag_us"].min() >= 50_000
    assert meanwhile.loc[~slow, "lag_us"].median() < meanwhile.loc[slow, "lag_us"].median()


def partition(run: Run, counts: dict[str, float]) -> None:
    """Check the split brain: on the side that is cut off each pod hears itself only, the other side goes on, and both serve old copies."""
    _, end_ns, pods = of_fault(run)
    rest = {history.pod for history in run.pod_histories} - pods
    for pod in rest:
        assert bus_states(run, pod) == ["connecting", "mute", "connected", "stopped"]
    assert all("outage" in bus_states(run, pod) and bus_states(run, pod)[-2:] == ["connected", "stopped"] for pod in pods)
    at_the_cut = set() if run.info.ground == "model" else {"publish-refused"}  # by a pod whose loop had not seen the loss yet
    assert causes(run, *rest) - at_the_cut == {"sent-in-memory-mode"}, "what the cut-off side says, the other never hears"
    gone = lost(run)
    assert set(gone.loc[gone["pod"].isin(rest), "publisher"]) <= pods
    cut = gone[gone["cause"] == "cut-link"]
    assert set(cut["pod"]) == pods
    assert set(cut["publisher"]).isdisjoint(pods)
    assert (cut["intended_ns"] <= end_ns).all(), "later the pod was deaf: the network was there again"
    rows = copies(run)
    inside = rows[rows["path"] == "memory"]
    assert len(inside) > 0
    assert (inside["pod"].astype(str) == inside["publisher"].astype(str)).all(), "each pod of that side is alone"
    assert set(inside["pod"]) <= pods
    stale = judge(run).checkers["staleness"].counts
    assert stale["never_heard"] > 0
    assert_well_after(run)


def pod_freeze(run: Run, counts: dict[str, float]) -> None:
    """Check that the frozen pod runs again what it hears late, and that nobody runs what it locked without knowing.

    What it heard late, the others had run and unlocked. And where the answer to its SET came while it stood still, it had given up waiting
    when it read on, and the others had skipped.
    """
    begin_ns, end_ns, (pod,) = of_fault(run)
    once = judge(run).checkers["once"].counts
    assert counts["missing"] == 0
    failed = run.deliveries[run.deliveries["outcome"] == "failed"]
    assert set(failed["pod"]) <= {pod}
    assert once["never"] <= len(failed) < once["pairs"] / 10, "a busy machine lets another pod run some of them"
    assert once["never"] == len(failed) or run.info.ground != "model"
    assert once["twice_or_more"] > 50
    assert once["once"] > 100
    loaded = run.publishes[(run.publishes["phase"] == "run") & (run.publishes["items"] > 0)]["event"]
    ran = run.deliveries[(run.deliveries["outcome"] == "handled") & run.deliveries["event"].isin(loaded)]
    twice = ran[ran["event"].duplicated(keep=False)].sort_values("handled_ns").drop_duplicates("event", keep="last")
    assert (twice["pod"] == pod).mean() > 0.9
    assert (twice.loc[twice["pod"] == pod, "handled_ns"] >= begin_ns).all()
    frozen = run.pods[run.pods["state"] == "frozen"]
    assert frozen["pod"].tolist() == [pod]
    heard = run.deliveries[run.deliveries["pod"] == pod]["received_ns"]
    assert not heard.between(frozen["at_ns"].iloc[0] + 1, end_ns - 500_000_000).any()


def pod_kill(run: Run, counts: dict[str, float]) -> None:
    """Check that the part-full batches are gone with what was in them, and that the new pods hear again."""
    _, _, pods = of_fault(run)
    unsent = run.publishes[run.publishes["outcome"] == "never-sent"]
    assert set(unsent["publisher"]) == pods
    assert set(unsent["channel"]) == {BATCH}
    assert unsent["items"].sum() > len(pods)
    assert counts["never-sent"] == len(unsent), "one pod hears batches"
    assert causes_of_other(run, alone_at_its_start(run, pods)) <= {"never-sent", "pod-down", "deaf", "no-pod"}
    assert_only_one_service_was_without(run)
    assert starts(run).to_dict() == {history.pod: 1 + (history.pod in pods) for history in run.pod_histories}
    dead = run.pods[run.pods["state"] == "aborted"]
    assert set(dead["pod"]) == pods
    assert run.info.load.calls_not_made > 0
    assert_well_after(run)


def machine_down(run: Run, counts: dict[str, float]) -> None:
    """Check that every third pod went at once and ran again, when it was to: what nobody heard meanwhile has its causes."""
    begin_ns, end_ns, pods = of_fault(run)
    numbered = [name for name, _ in check_tree(run.scenario, where="run").first_pods()]
    assert pods == set(numbered[0::3])
    assert causes_of_other(run, alone_at_its_start(run, pods)) <= {"never-sent", "pod-down", "deaf", "no-pod"}
    assert causes(run) >= {"never-sent", "no-pod"}, "part-full batches, and a service that had no pod on another machine"
    assert starts(run).to_dict() == {history.pod: 1 + (history.pod in pods) for history in run.pod_histories}
    rows = run.pods[run.pods["pod"].isin(pods) & (run.pods["at_ns"] >= begin_ns)]
    assert set(rows.loc[rows["state"] == "aborted", "pod"]) == pods
    again_ns = rows[rows["state"] == "starting"].groupby("pod", observed=True)["at_ns"].min()
    elsewhere_ns = int(run.scenario["faults"][0]["elsewhere_s"] * 1e9)
    assert (again_ns >= begin_ns + elsewhere_ns - SETTLED_NS // 10).all()
    assert run.info.ground != "model" or ((again_ns == begin_ns + elsewhere_ns).all() and again_ns.max() < end_ns)
    assert run.info.load.calls_not_made > 0
    assert_well_after(run)


def pod_stop(run: Run, counts: dict[str, float]) -> None:
    """Check that no item is lost: each pod that ended published its part-full batch first."""
    begin_ns, end_ns, pods = of_fault(run)
    assert "never-sent" not in outcomes_unsent(run)
    assert causes_of_other(run, alone_at_its_start(run, pods)) <= {"pod-down", "deaf", "no-pod"}
    assert_only_one_service_was_without(run)
    assert "aborted" not in set(run.pods["state"].astype(str))
    assert starts(run).to_dict() == {history.pod: 1 + (history.pod in pods) for history in run.pod_histories}
    batches = run.publishes[(run.publishes["channel"] == BATCH) & (run.publishes["items"] > 0)]
    flushed = batches[batches["sent_ns"].between(begin_ns, end_ns)]
    assert pods <= set(flushed["publisher"])
    assert batches["items"].sum() == (run.calls["channel"] == BATCH).sum()
    assert_well_after(run)


def pod_start_in_outage(run: Run, counts: dict[str, float]) -> None:
    """Check that the pods join when the broker is back, by the policy `automatic`, and that each is alone until then."""
    begin_ns, end_ns, pods = of_fault(run)
    for pod in pods:
        rows = run.pods[(run.pods["pod"] == pod) & (run.pods["at_ns"] >= begin_ns)]
        states = rows.loc[rows["state"] != "aborted", "bus"].astype(str).tolist()
        first = states.index("connecting")
        assert states[first + 1] == "outage"
        assert states[-2:] == ["connected", "stopped"]
        assert rows.loc[rows["bus"] == "connected", "at_ns"].min() >= end_ns - SETTLED_NS
    inside = copies(run).loc[lambda rows: rows["path"] == "memory"]
    assert inside["intended_ns"].min() > begin_ns - SETTLED_NS
    assert counts["sent-in-memory-mode"] > 0
    assert causes(run) <= {"sent-in-memory-mode", "deaf", "never-sent", "publish-refused", "pod-down"}
    assert_well_after(run)


def rolling_restart(run: Run, counts: dict[str, float]) -> None:
    """Check that a new pod is there before an old one goes, so that three always hear and never more than four."""
    begin_ns, _, pods = of_fault(run)
    assert pods == {f"music-service-{number}" for number in range(6)}, "a new pod has a new name"
    assert set(starts(run)) == {1}, "nobody starts twice"
    assert "never-sent" not in outcomes_unsent(run)
    assert causes(run) <= {"pod-down", "deaf"}
    rows = run.pods[run.pods["pod"].isin(pods)]
    ends = np.sort(rows.loc[rows["state"] == "stopped", "at_ns"].to_numpy())[:3]
    new = rows[rows["at_ns"] > begin_ns].groupby("pod", observed=True)
    begins = np.sort(new.apply(lambda one: one.loc[one["state"] == "starting", "at_ns"].min()).dropna().to_numpy())
    backs = np.sort(new.apply(lambda one: one.loc[one["bus"] == "connected", "at_ns"].min()).dropna().to_numpy())
    early_ns = int(1e9 * (latest_s(run) or 0))  # a timer counts from when its loop last looked at the clock
    assert len(begins) == len(backs) == len(ends) == 3
    assert (ends - backs >= 1_000_000_000 - early_ns).all(), "an old one goes when a new one was ready for so long"
    assert (begins[1:] > ends[:-1] - SETTLED_NS // 10).all(), "one more than the replicas at a time"
    music = copies(run).loc[lambda rows: rows["pod"].isin(pods) & (rows["phase"] == "run")]
    heard = music[music["fate"] == "delivered"].groupby("event", observed=True).size()
    assert set(heard) <= {3, 4}
    calls = run.publishes.drop_duplicates("event").loc[lambda rows: rows["phase"] != "probe", "items"].sum()
    assert calls == run.info.load.offered_calls, "whoever has a pod's place makes its calls"


def slow_handler(run: Run, counts: dict[str, float]) -> None:
    """Check that Redis keeps 32 MB for the slow pods, then cuts them off and forgets that, and that the others hear everything."""
    _, _, pods = of_fault(run)
    assert counts["missing"] > 0
    assert counts["cut"] >= counts["missing"] * 0.9
    assert causes(run) <= {"cut", "deaf"}
    assert set(lost(run)["pod"]) == pods
    metrics = run.broker
    cuts = metrics[(metrics["metric"] == "buffer_cuts") & (metrics["value"] > 0)]
    assert set(cuts["subject"]) == pods
    away = run.pods[run.pods["state"] == "disconnected"]
    assert set(away["pod"]) == pods
