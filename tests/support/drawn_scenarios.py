"""Scenarios drawn from a seed, what must hold of the run of any of them, and a smaller one that fails in the same way.

A drawn scenario has one to four faults of any kind that its ground can do, at times that overlap as they like, on a bus with settings of
any kind. Nothing is known of it beforehand, so what is demanded is what holds of every run:

1. It ends by itself, complete, and no checker fails.
2. The books balance, also by a count of their own (`_balance`), and every missing copy has a cause.
3. A verdict that is not valid has a reason that its own rows bear out (`UNKNOWN`, `INVALID`). Any other is a wrong verdict.

To look at one seed: ``python -m tests.support.drawn_scenarios --on model 17``; a range: ``0:200``.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import tomli_w

from sim.results.checkers import Result, Verdict, judge
from sim.results.checkers.once import PROMISE_ONCE
from sim.results.opened_run import Run, open_run
from sim.run.steps import run_scenario
from sim.scenario.client_settings import DECIDED_BY_IOREDIS
from sim.scenario.file import Scenario, check_tree
from sim.scenario.schedule import SHAPES
from tests.support.unknown import latest_s

Tree = dict[str, Any]

CONFIG = ("config.template.invalidated", "config.provider.invalidated", "config.cache.invalidate")
ANALYTICS = ("analytics.events.batch", "analytics.metric.recorded", "analytics.provider.usage")
HEARS = {
    "music-service": CONFIG,
    "ai-content-service": CONFIG,
    "ai-config-service": CONFIG,
    "api-gateway": ("config.cache.invalidate",),
    "analytics-service": (*ANALYTICS, "config.cache.invalidate"),
    "system-service": ("analytics.metric.recorded", "config.cache.invalidate"),
}
MIX = (*ANALYTICS, *CONFIG)
OF_PODS = ("clock_skew", "handler_error", "pod_freeze", "pod_kill", "pod_stop", "rolling_restart", "slow_handler")
OF_BROKER = ("broker_down", "broker_freeze", "broker_slow", "broker_stop", "buffer_limit", "keys_lost", "pod_start_in_outage")
OF_BROKER += ("publishers_cut", "reconnect_stampede", "subscribers_cut")
OF_LINKS = ("link_blackhole", "link_cut", "link_reset", "link_slow", "partition")
KINDS = {  # what each ground can do
    "model": (*OF_PODS, *OF_BROKER, *OF_LINKS, "connections_refused"),
    "embedded": (*OF_PODS, *OF_BROKER, *OF_LINKS, "connections_refused"),
    "cluster": (*OF_PODS, *OF_BROKER, "broker_failover"),
}
TRANSPORTS = {"model": ("pubsub", "streams", "memory"), "embedded": ("pubsub", "streams", "memory"), "cluster": ("pubsub", "sharded")}
AWAY = ("broker_down", "broker_failover", "broker_freeze", "broker_stop", "connections_refused", "pod_start_in_outage")
FORGETS = ("broker_down", "broker_failover", "broker_stop", "connections_refused", "keys_lost", "pod_start_in_outage")
HANG_S = 240  # on a real ground
HANG_CPU_S = 60  # in virtual time, where nothing waits: on a busy machine only its own processor time says that it does not end


# -- drawing ------------------------------------------------------------------------------------------------------


def draw_scenario(seed: int, *, on: str = "model") -> Scenario:
    """Return the scenario of a seed for a ground; the same seed gives the same."""
    return check_tree(draw_tree(Random(f"{on}/{seed}"), on=on), where=f"drawn {on} {seed}")


def draw_tree(draw: Random, *, on: str) -> Tree:
    """Return one scenario as the tree of its file."""
    services, bus = _services(draw), _bus(draw, on)
    kinds = [kind for kind in KINDS[on] if kind not in OF_LINKS or bus["transport"] != "memory"]
    run_s = round(draw.uniform(3, 8), 2)
    faults: list[Tree] = []
    wanted = draw.choice((1, 1, 2, 2, 3, 4))
    while len(faults) < wanted:
        fault = _fault(draw, draw.choice(kinds), run_s, services)
        if not any(_same(fault, other) for other in faults):
            faults.append(fault)
    sent = {type for service in services.values() for type in service["publishes"]}
    mix = {type: draw.randint(1, 50) for type in MIX if type in sent and draw.random() < 0.7}
    load = {
        "driver": "pods",
        "rate_per_s": round(draw.choice((draw.uniform(5, 60), draw.uniform(60, 250))), 1),
        "shape": draw.choice(list(SHAPES)),
        "arrivals": draw.choice(("poisson", "uniform")),
        "warm_up_s": draw.choice((0.0, round(draw.uniform(0.1, 1), 2))),
        "run_s": run_s,
        "payload_bytes": draw.choice((0, 64, 64, 2000, 20_000)),
        "mix": mix or {draw.choice(sorted(sent)): 1},
    }
    if draw.random() < 0.4 and any(HEARS[name] is CONFIG for name in services):
        load["reads_per_s"] = draw.choice((20, 200))
        load["templates"] = draw.choice((3, 600))
    tree: Tree = {"seed": draw.randrange(1 << 20), "load": load, "bus": bus, "services": services, "faults": faults}
    tree["envelope"] = draw.choice(({}, {}, {"kind": "cloudevents"}, {"kind": "plain", "id": "/meta/id"}, {"kind": "raw"}))
    if draw.random() < 0.15 and bus["transport"] != "memory":
        periods = {"live_period_s": 0.5, "ready_period_s": 0.4, "live_delay_s": 0.5, "ready_delay_s": 0.2, "timeout_s": 0.3}
        tree["kubelet"] = {"enabled": True, **periods, "grace_s": 2.0, "back_off_s": 0.5, "back_off_max_s": 2.0}
    return tree


def _services(draw: Random) -> dict[str, Tree]:
    names = draw.sample(list(HEARS), draw.randint(2, 4))
    services: dict[str, Tree] = {}
    for name in names:
        service: Tree = {"replicas": draw.choice((1, 1, 2, 2, 3, 4))}
        service["publishes"] = [type for type in MIX if draw.random() < 0.4]
        service["subscribes"] = [type for type in HEARS[name] if draw.random() < 0.8]
        if draw.random() < 0.25:
            service["handler_ms"] = draw.choice((0.5, 5.0, 50.0, "exponential(3)", {"other": 2.0}))
        if draw.random() < 0.15:
            service["handler_cpu_ms"] = draw.choice((0.2, 2.0, "lognormal(p50=1, p99=9)"))
            service["cpu_limit"] = draw.choice((0.5, 1.0))
        if draw.random() < 0.2:
            service["concurrency"] = draw.choice((1, 2, 20))
            service["when_full"] = draw.choice(("stop-reading", "queue"))
            service["queue_limit"] = draw.choice((20, 1000))
        if draw.random() < 0.25:
            service["skew_ms"] = draw.choice((1.0, 20.0))
        services[name] = service
    if not any(one["subscribes"] for one in services.values()):
        services[names[0]]["subscribes"] = list(HEARS[names[0]])
    heard = next(one["subscribes"] for one in services.values() if one["subscribes"])
    if not any(type in one["publishes"] for one in services.values() for type in heard):
        services[names[-1]]["publishes"] = sorted({*services[names[-1]]["publishes"], heard[0]})
    return services


def _bus(draw: Random, on: str) -> Tree:
    bus: Tree = {"transport": draw.choice(TRANSPORTS[on])}
    choices: dict[str, Sequence[Any]] = {
        "batch_size": (1, 3, 25, 100),
        "batch_interval_ms": (50, 400, 5_000, 30_000),
        "fallback": ("on-failure", "no-url"),
        "reattach": ("automatic", "automatic", "if-connected-once", "restart"),
        "outage_queue": ("none", "keep"),
        "outage_queue_limit": (5, 1000),
        "reconnect_max_s": (0.1, 0.5, 2.0),
        "outage_hold_s": (0.0, 0.05, 0.5),
        "resync": ("none", "drop-caches", "read-through"),
        "keep_alive_s": (0.0, 0.2, 1.0),
        "once": ("none", "none", "finally-del", "token-del", "keep-marker", "two-key"),
        "once_ttl_s": (1, 300),
        "stream_max_len": (5, 150, 100_000),
        "stream_claim_s": (0.2, 1.0, 5.0, 60.0),
    }
    bus |= {key: draw.choice(values) for key, values in choices.items() if draw.random() < 0.5}
    if draw.random() < 0.03:
        bus["redis_url"] = False
    return _with_its_client(bus)


def _with_its_client(bus: Tree) -> Tree:
    """Return every fourth bus with the client of ioredis, by a draw of its own: so what other seeds draw stays."""
    draw = Random(repr(bus))
    if draw.random() < 0.75:
        return bus
    options: dict[str, Sequence[Any]] = {
        "enableOfflineQueue": (True, True, False),
        "maxRetriesPerRequest": (20, 3, 0, -1),
        "autoResendUnfulfilledCommands": (True, False),
        "retryMaxMs": (100, 500, 2000),
    }
    chosen = {key: draw.choice(values) for key, values in options.items() if draw.random() < 0.5}
    rest = {key: value for key, value in bus.items() if key not in DECIDED_BY_IOREDIS}
    return {"client": "ioredis", "ioredis": chosen, **rest}


def _fault(draw: Random, kind: str, run_s: float, services: dict[str, Tree]) -> Tree:
    for_s = round(draw.choice((draw.uniform(0.05, 0.5), draw.uniform(0.3, 0.6 * run_s))), 3)
    fault: Tree = {"kind": kind, "at_s": round(draw.uniform(0.3, run_s - for_s - 0.1), 3) if run_s - for_s > 0.5 else 0.3, "for_s": for_s}
    if fault["at_s"] + 3 * for_s + 0.5 < run_s and draw.random() < 0.3:
        fault["times"], fault["every_s"] = 2, round(for_s + draw.uniform(0.2, 1) * for_s, 3)
    elif fault["at_s"] + for_s + 0.3 < run_s and draw.random() < 0.3:
        fault["within_s"] = round(draw.uniform(0, run_s - fault["at_s"] - for_s), 3)
    if kind in (*OF_PODS, *OF_LINKS, "pod_start_in_outage", "publishers_cut", "reconnect_stampede", "subscribers_cut"):
        pods = [f"{name}-{n}" for name, one in services.items() for n in range(one["replicas"])]
        fault["pods"] = draw.choice(([], draw.sample(pods, draw.randint(1, min(3, len(pods)))), [draw.choice(list(services))]))
    for key, values in _fields(kind, run_s).items():
        if kind == "buffer_limit" or draw.random() < 0.7 or key in ("skew_ms", "delay_ms"):
            fault[key] = draw.choice(values)
    return _with_its_machine(fault) if kind == "pod_kill" else fault


def _with_its_machine(kill: Tree) -> Tree:
    """Return every other kill as one of a whole machine, by a draw of its own: so what other seeds draw stays."""
    draw = Random(repr(kill))
    if draw.random() < 0.5:
        return kill
    at = {key: value for key, value in kill.items() if key not in ("kind", "pods")}
    machine = {"machine": draw.choice((0, 1)), "machines": draw.choice((2, 3))}
    return {"kind": "machine_down", **at, **machine, "elsewhere_s": draw.choice((0.0, round(kill["for_s"] / 3, 3)))}


def _fields(kind: str, run_s: float) -> dict[str, Sequence[Any]]:
    """Return what else a fault of a kind can have."""
    repeats = {"every_ms": (20, 100, 1000)}
    return {
        "broker_slow": {"every_ms": (300, 700), "stall_ms": (20, 250), "how": ("script", "pause")},
        "buffer_limit": {"hard_bytes": (0, 1, 20_000), "soft_bytes": (0, 1, 5_000), "soft_s": (0, 1)},
        "clock_skew": {"skew_ms": (-5_000, 60_000)},
        "connections_refused": {"how": ("maxclients", "password")},
        "keys_lost": {"every_ms": (0, 50, 400)},
        "link_blackhole": {"direction": ("both", "to_broker", "to_pod")},
        "link_reset": {"every_ms": (0, 50, 400)},
        "link_slow": {"delay_ms": (1, 80), "jitter_ms": (0, 50), "bytes_per_s": (0, 20_000), "direction": ("both", "to_broker", "to_pod")},
        "pod_stop": {"grace_s": (0.05, 1.0, 30.0)},
        "publishers_cut": repeats,
        "rolling_restart": {"each_s": (0.0, 0.3), "down_s": (0.0, 0.2), "grace_s": (0.1, 30.0)},
        "slow_handler": {"handler_ms": (5, 60, 400), "at_once": (1, 3, 50)},
        "subscribers_cut": repeats,
    }.get(kind, {})


def _spans(fault: Tree) -> list[tuple[float, float]]:
    begins = [fault["at_s"] + n * fault.get("every_s", 0) for n in range(fault.get("times", 1))]
    return [(begin, begin + fault.get("within_s", 0) + fault["for_s"]) for begin in begins]


def _same(one: Tree, other: Tree) -> bool:
    """Whether two of one kind would be on at one time, which a scenario may not ask for."""
    spans = [(a, b) for a in _spans(one) for b in _spans(other)]
    return one["kind"] == other["kind"] and any(a[0] < b[1] and b[0] < a[1] for a, b in spans)


# -- what must hold -----------------------------------------------------------------------------------------------


def findings(run: Run, verdict: Verdict) -> list[str]:
    """Return what is wrong with a run and its verdict, see the module; empty when nothing is."""
    found = [f"the run is {run.info.state}: {run.info.reason}"] if run.info.state != "complete" else []
    found += [_balance(run)] if _balance(run) else []
    causes = run.ledger()["cause"].astype(str)
    if (causes == "unexplained").any():
        found.append(f"unexplained: {int((causes == 'unexplained').sum())}")
    for name, result in verdict.checkers.items():
        if result.verdict != "valid" and not any(holds(run, name, result) for holds in (UNKNOWN, INVALID)[result.verdict == "invalid"]):
            found.append(f"{name} is {result.verdict}: {result.detail}")
    return found


def _balance(run: Run) -> str:
    """Count pairs of event and pod anew, with no code of the books."""
    heard = run.deliveries.drop_duplicates(["event", "pod"])
    ledger = run.ledger()
    fates = ledger["fate"].astype(str)
    once = ledger[fates != "duplicate"].drop_duplicates(["event", "pod", "fate"])
    booked = int((once["fate"].astype(str).isin(["delivered", "unexpected"])).sum())
    rows = int(fates.isin(["delivered", "duplicate", "unexpected"]).sum())
    if (booked, rows) == (len(heard), len(run.deliveries)):
        return ""
    return f"the books do not balance: {booked} of {len(heard)} pairs, {rows} of {len(run.deliveries)} rows"


def _published(run: Run) -> int:
    return int((run.publishes["phase"] == "run").sum())


def _delivered(run: Run) -> int:
    mine = run.publishes.loc[run.publishes["phase"] == "run", "event"]
    return int(run.deliveries["event"].isin(mine).sum())


def _kinds(run: Run) -> set[str]:
    return {fault["kind"] for fault in run.scenario.get("faults", ())}


def _nothing_published(run: Run, name: str, result: Result) -> bool:
    return result.detail == "no data: nothing was published in the run phase" and not _published(run)


def _nothing_delivered(run: Run, name: str, result: Result) -> bool:
    said = ("no data: nothing was delivered in the run phase", "no data: no event with a timestamp was delivered in the run phase")
    return result.detail in said and not _delivered(run)


def _nobody_to_hear(run: Run, name: str, result: Result) -> bool:
    ledger = run.ledger()
    mine = ledger["event"].isin(run.publishes.loc[run.publishes["phase"] == "run", "event"])
    return (
        result.detail == "no data: no pod was to hear what was published in the run phase"
        and not (mine & (ledger["fate"] != "unexpected")).any()
    )


def _machine_busy(run: Run, name: str, result: Result) -> bool:
    """On real grounds the lab may lack a core; then every part of the sentence must be about that."""
    busy = ("of a core", "generator saturated")
    return (
        name == "harness" and run.info.ground != "model" and all(any(word in part for word in busy) for part in result.detail.split("; "))
    )


def _fault_came_late(run: Run, name: str, result: Result) -> bool:
    """A loop that stood still for longer than was left of the load when a fault was to begin could not begin it."""
    said = result.detail == "no data: the scenario means faults, and none is recorded in the run phase"
    left_s = min(run.scenario["load"]["run_s"] - fault["at_s"] - fault["within_s"] for fault in run.scenario["faults"])
    return said and run.info.ground != "model" and (latest_s(run) or 0.0) >= left_s


def _keys_were_lost(run: Run, name: str, result: Result) -> bool:
    """A marker that is gone keeps nobody from handling an event again."""
    bus = run.scenario["bus"]
    return name == "once" and bus["once"] in PROMISE_ONCE and (bool(_kinds(run) & set(FORGETS)) or bus["once_ttl_s"] == 1)


def _no_batches(run: Run, name: str, result: Result) -> bool:
    """A mix gives an event type a chance, not a number."""
    said = result.detail == "no data: the load's mix means batches, and none waited in the run phase"
    begin_ns, end_ns = run.phases["run"]
    mine = run.publishes[(run.publishes["channel"] == ANALYTICS[0]) & (run.publishes["items"] > 0)]
    return said and not ((mine["first_item_ns"] < end_ns) & (mine["intended_ns"] >= begin_ns)).any()


def _sent_before_its_connection_was_lost(run: Run, name: str, result: Result) -> bool:
    """What a publisher had no answer for may still reach the broker when it goes on by another way: memory, or a new connection."""
    rows = run.deliveries.drop_duplicates(["event", "pod"])
    rows = rows.merge(
        run.publishes[["event", "channel", "publisher", "outcome"]].drop_duplicates("event"), on="event", suffixes=("", "_sent")
    )
    newest = rows.groupby(["pod", "publisher", "channel"], observed=True)["event"].cummax()
    late = rows.loc[rows["event"] < newest, "outcome_sent"]
    return name == "order" and len(late) > 0 and bool((late == "unknown").all())


Reason = Callable[[Run, str, Result], bool]


def _behind_before_the_faults(run: Run, name: str, result: Result) -> bool:
    """Handlers that take time fell behind by themselves, and what they had not read was dropped before any fault began."""
    if name != "steady" or "not in its steady state before the first fault" not in result.detail:
        return False
    times = ("handler_ms", "handler_cpu_ms", "concurrency", "skew_ms")
    slow = {name for name, one in run.scenario["services"].items() if any(one.get(key) for key in times)}
    sent = run.publishes.drop_duplicates("event").set_index("event")["sent_ns"]
    lost = run.ledger().query("fate == 'missing' and phase == 'run' and cause != 'taken-by-peer'")
    early = lost[sent.reindex(lost["event"]).to_numpy() < run.faults["begin_ns"].min()]
    return len(early) > 0 and set(early["cause"].astype(str)) <= {"trimmed", "cut", "behind"} and set(early["service"].astype(str)) <= slow


UNKNOWN: tuple[Reason, ...] = (
    _nothing_published, _nothing_delivered, _nobody_to_hear, _no_batches, _machine_busy, _fault_came_late, _behind_before_the_faults
)  # fmt: skip
INVALID: tuple[Reason, ...] = (_keys_were_lost, _sent_before_its_connection_was_lost)


# -- running ------------------------------------------------------------------------------------------------------


def try_scenario(scenario: Scenario, *, on: str, folder: Path) -> list[str]:
    """Run and judge a scenario; return what is wrong, also that it hangs or breaks."""

    timer, alarm, most_s = (
        (signal.ITIMER_PROF, signal.SIGPROF, HANG_CPU_S) if on == "model" else (signal.ITIMER_REAL, signal.SIGALRM, HANG_S)
    )

    def hangs(number: int, frame: object) -> None:
        raise TimeoutError(f"it hangs: not over after {most_s} s")

    before = signal.signal(alarm, hangs)
    signal.setitimer(timer, most_s)
    try:
        run = open_run(run_scenario(scenario, on=on, out=folder))
        return findings(run, judge(run))
    except Exception as error:
        return [f"{type(error).__name__}: {error}", traceback.format_exc()]
    finally:
        signal.setitimer(timer, 0)
        signal.signal(alarm, before)


def try_seed(seed: int, on: str) -> tuple[int, list[str]]:
    """Draw, run and judge the scenario of a seed."""
    with tempfile.TemporaryDirectory(prefix="drawn-") as folder:
        return seed, try_scenario(draw_scenario(seed, on=on), on=on, folder=Path(folder) / "run")


def try_seeds(seeds: Sequence[int], *, on: str, jobs: int = 1) -> Iterator[tuple[int, list[str]]]:
    """Yield what is wrong with each seed's scenario, in order; those with which nothing is are left out."""
    with ProcessPoolExecutor(jobs) as pool:
        yield from ((seed, found) for seed, found in pool.map(try_seed, seeds, [on] * len(seeds), chunksize=4) if found)


def shrink(scenario: Scenario, *, on: str) -> tuple[Tree, list[str]]:
    """Return a smaller scenario with which the same is wrong: fewer faults, services, pods and settings."""
    import msgspec

    tree = _plain(msgspec.to_builtins(scenario))
    found = _try_tree(tree, on)
    kind = _kind(found)
    smaller = True
    while smaller:
        smaller = False
        for candidate in _smaller(tree):
            try:
                check_tree(candidate, where="smaller")
            except Exception:
                continue
            now = _try_tree(candidate, on)
            if now and _kind(now) == kind:
                tree, found, smaller = candidate, now, True
                break
    return tree, found


def _plain(tree: Tree) -> Tree:
    """Return a scenario without what is the default."""
    bus = check_tree({"services": tree["services"], "load": {**tree["load"]}}, where="defaults").bus
    tree["bus"] = {key: value for key, value in tree["bus"].items() if value != getattr(bus, key)}
    if not tree["kubelet"]["enabled"]:
        del tree["kubelet"]
    return {key: value for key, value in tree.items() if key not in ("name", "title", "limits", "hosts", "slo")}


def _kind(found: Sequence[str]) -> str:
    return " ".join(found[0].split(":")[0].split()[:4]) if found else ""


def _try_tree(tree: Tree, on: str) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="drawn-") as folder:
        return try_scenario(check_tree(tree, where="smaller"), on=on, folder=Path(folder) / "run")


def _smaller(tree: Tree) -> Iterator[Tree]:
    """Yield the same scenario with one thing less, what takes most away first."""
    for place in range(len(tree["faults"])):
        yield {**tree, "faults": tree["faults"][:place] + tree["faults"][place + 1 :]}
    yield from _fewer_services(tree)
    if "kubelet" in tree:
        yield {key: value for key, value in tree.items() if key != "kubelet"}
    for key in tree["bus"]:
        yield {**tree, "bus": {other: value for other, value in tree["bus"].items() if other != key}}
    yield from _plainer_load(tree)
    for place, fault in enumerate(tree["faults"]):
        for key, value in (("times", 1), ("within_s", 0.0)):
            if fault[key] != value:
                yield {**tree, "faults": [*tree["faults"][:place], {**fault, key: value}, *tree["faults"][place + 1 :]]}


def _fewer_services(tree: Tree) -> Iterator[Tree]:
    for name in tree["services"]:
        yield {**tree, "services": {key: value for key, value in tree["services"].items() if key != name}}
    for name, service in tree["services"].items():
        for key, less in (
            ("replicas", service["replicas"] - 1),
            ("handler_ms", 0.0),
            ("handler_cpu_ms", 0.0),
            ("concurrency", 0),
            ("skew_ms", 0.0),
        ):
            if service[key] != less >= (key == "replicas"):
                yield {**tree, "services": {**tree["services"], name: {**service, key: less}}}
        for key in ("publishes", "subscribes"):
            for one in service[key]:
                fewer = [other for other in service[key] if other != one]
                yield {**tree, "services": {**tree["services"], name: {**service, key: fewer}}}


def _plainer_load(tree: Tree) -> Iterator[Tree]:
    for type in tree["load"]["mix"]:
        yield {**tree, "load": {**tree["load"], "mix": {key: value for key, value in tree["load"]["mix"].items() if key != type}}}
    for key, value in (("reads_per_s", 0), ("payload_bytes", 64), ("shape", "steady"), ("warm_up_s", 0.0), ("arrivals", "uniform")):
        if tree["load"][key] != value:
            yield {**tree, "load": {**tree["load"], key: value}}


def main() -> int:
    """Try seeds, and print what is wrong with the scenario of each, as TOML."""
    options = argparse.ArgumentParser(description=main.__doc__)
    options.add_argument("seeds", help="one seed, or FROM:TO")
    options.add_argument("--on", default="model")
    options.add_argument("--jobs", type=int, default=1)
    options.add_argument("--shrink", action="store_true")
    given = options.parse_args()
    first, _, last = given.seeds.partition(":")
    seeds = range(int(first), int(last or int(first) + 1))
    wrong = 0
    for wrong, (seed, found) in enumerate(try_seeds(seeds, on=given.on, jobs=given.jobs), start=1):  # noqa: B007 - counted
        print(f"# seed {seed}:", *(found if len(seeds) == 1 else [line for line in found if "\n" not in line]), sep="\n# ", flush=True)
        if given.shrink:
            tree, left = shrink(draw_scenario(seed, on=given.on), on=given.on)
            print(f"# smaller, {left[0]}", tomli_w.dumps(tree), sep="\n", flush=True)
    print(f"{wrong} of {len(seeds)} are wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
