"""Draw a scenario from a seed: services, bus, load, and one to four faults of any kind, at times that overlap as they like.

A *tree* is a scenario as its file has it. What is drawn is a plain scenario: it can be printed as TOML and run on any ground that can do
its faults. With a scenario to begin from, only its load, replicas and faults are drawn anew, and what its table `[explore]` names; without
one, everything is, within the same bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec

from sim.errors import UsageError
from sim.record.limits import nested_limits
from sim.scenario.client_settings import DECIDED_BY_IOREDIS
from sim.scenario.explore_bounds import Explore
from sim.scenario.file import Scenario, check_tree
from sim.scenario.schedule import SHAPES

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
OF_BROKER = (
    "broker_down", "broker_freeze", "broker_slow", "broker_stop", "buffer_limit", "keys_lost", "pod_start_in_outage", "publishers_cut",
    "reconnect_stampede", "subscribers_cut",
)  # fmt: skip
OF_LINKS = ("link_blackhole", "link_cut", "link_reset", "link_slow", "partition")
KINDS = {  # what each ground can do
    "model": (*OF_PODS, *OF_BROKER, *OF_LINKS, "connections_refused"),
    "embedded": (*OF_PODS, *OF_BROKER, *OF_LINKS, "connections_refused"),
    "cluster": (*OF_PODS, *OF_BROKER, "broker_failover"),
}
WAYS = {"model": ("pubsub", "streams", "memory"), "embedded": ("pubsub", "streams", "memory"), "cluster": ("pubsub", "sharded")}
CHOICES: dict[str, Sequence[Any]] = {
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
BUS_SETTINGS = CHOICES | {"once_scope": ("event", "service"), "once_ttl_clock": ("server", "pod")}
ANY = Explore()
MOST_TRIES = 200  # to find a fault that does not overlap one of its kind


def draw_scenario(seed: int, *, on: str = "model") -> Scenario:
    """Return the scenario of a seed for a ground; the same seed gives the same."""
    return check_tree(draw_tree(Random(f"{on}/{seed}"), on=on), where=f"drawn {on} {seed}")


def draw_schedule(seed: str, *, base: Scenario | None = None, bounds: Explore = ANY) -> Tree:
    """Return the tree of one schedule for the model, whose load goes on until all must have healed.

    Parameters
    ----------
    seed
        Any text; the same one gives the same schedule.
    base
        The scenario to begin from; None: everything is drawn.

    Raises
    ------
    UsageError
        The bounds leave nothing to draw.
    """
    draw = Random(seed)
    tree = draw_tree(draw, on="model", bounds=bounds) if base is None else _of_base(draw, base, bounds)
    return with_tail(tree, bounds)


def with_tail(tree: Tree, bounds: Explore) -> Tree:
    """Return a tree whose load goes on for so long after its last fault that all must have healed, and a second more."""
    last_s = max((end for fault in tree["faults"] for _, end in spans_of(fault)), default=0.0)
    return {**tree, "load": {**tree["load"], "run_s": round(max(bounds.run_s_min, last_s + bounds.heal_s + 1.0), 2)}}


def base_tree(base: Scenario) -> Tree:
    """Return the tree of a scenario to begin from, its calls made by the pods.

    Raises
    ------
    UsageError
        It lives in real time only.
    """
    if base.load.locustfile:
        raise UsageError("explore: the users of load.locustfile live in real time; name a scenario whose load has a mix")
    tree: Tree = msgspec.json.decode(msgspec.json.encode(base))
    own = {key: value for key, value in tree.items() if key not in ("name", "title", "hosts")}
    return own | {"slo": nested_limits(tree["slo"]), "load": tree["load"] | {"driver": "pods"}}


def _of_base(draw: Random, base: Scenario, bounds: Explore) -> Tree:
    """Draw load, replicas and faults of a scenario, and of its bus what the bounds name."""
    tree = base_tree(base)
    bus = tree["bus"] = dict(tree["bus"])
    if bounds.transports:
        bus["transport"] = draw.choice(bounds.transports)
    bus |= {key: draw.choice(BUS_SETTINGS[key]) for key in bounds.bus}
    for service in tree["services"].values():
        most = bounds.replicas_max or service["replicas"]
        service["replicas"] = draw.choice((most, draw.randint(1, most))) if most else 1
    run_s = round(draw.uniform(bounds.run_s_min, bounds.run_s_max), 2)
    load = {"rate_per_s": round(draw.uniform(bounds.rate_min, bounds.rate_max), 1), "shape": draw.choice(list(SHAPES))}
    load |= {"arrivals": draw.choice(("poisson", "uniform")), "warm_up_s": draw.choice((0.0, round(draw.uniform(0.1, 1), 2)))}
    tree["load"] |= load | {"run_s": run_s}
    return tree | {"seed": draw.randrange(1 << 20), "faults": _faults(draw, bounds, "model", bus, run_s, tree["services"])}


def _faults(draw: Random, bounds: Explore, on: str, bus: Tree, run_s: float, services: dict[str, Tree]) -> list[Tree]:
    faults: list[Tree] = []
    many = range(bounds.faults_min, bounds.faults_max + 1)
    wanted = draw.choice([n for n in (1, 1, 2, 2, 3, 4) if n in many] or many)
    for _ in range(MOST_TRIES):
        if len(faults) == wanted:
            break
        fault = draw_fault(draw, bounds, on=on, bus=bus, run_s=run_s, services=services)
        if not any(_same(fault, other) for other in faults):
            faults.append(fault)
    return faults


def draw_fault(draw: Random, bounds: Explore, *, on: str, bus: Tree, run_s: float, services: dict[str, Tree]) -> Tree:
    """Return one fault of a kind that the ground, the bounds and the transport allow.

    Raises
    ------
    UsageError
        There is none.
    """
    wanted = {"pod_kill" if kind == "machine_down" else kind for kind in bounds.kinds}
    kinds = [kind for kind in KINDS[on] if (not wanted or kind in wanted) and (kind not in OF_LINKS or bus["transport"] != "memory")]
    if not kinds:
        told = ", ".join(bounds.kinds)
        why = f"the {on} does none of {told} with bus.transport = {bus['transport']!r}"
        raise UsageError(f"explore.kinds leaves nothing to draw: {why}; name one of {', '.join(KINDS[on])}")
    fault = _fault(draw, draw.choice(kinds), run_s, services)
    return _with_its_machine(fault, bounds.kinds) if fault["kind"] == "pod_kill" else fault


def draw_tree(draw: Random, *, on: str, bounds: Explore = ANY) -> Tree:
    """Return one scenario as the tree of its file."""
    services, bus = _services(draw, bounds), _bus(draw, on, bounds)
    run_s = round(draw.uniform(bounds.run_s_min, bounds.run_s_max), 2)
    faults = _faults(draw, bounds, on, bus, run_s, services)
    slow = bounds.rate_min + (bounds.rate_max - bounds.rate_min) * 55 / 245
    sent = {type for service in services.values() for type in service["publishes"]}
    mix = {type: draw.randint(1, 50) for type in MIX if type in sent and draw.random() < 0.7}
    load = {
        "driver": "pods",
        "rate_per_s": round(draw.choice((draw.uniform(bounds.rate_min, slow), draw.uniform(slow, bounds.rate_max))), 1),
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


def _services(draw: Random, bounds: Explore) -> dict[str, Tree]:
    names = draw.sample(list(HEARS), draw.randint(2, 4))
    services: dict[str, Tree] = {}
    for name in names:
        service: Tree = {"replicas": draw.choice([n for n in (1, 1, 2, 2, 3, 4) if n <= (bounds.replicas_max or 4)])}
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


def _bus(draw: Random, on: str, bounds: Explore) -> Tree:
    bus: Tree = {"transport": draw.choice(bounds.transports or WAYS[on])}
    bus |= {key: draw.choice(values) for key, values in CHOICES.items() if draw.random() < 0.5}
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
    return fault


def _with_its_machine(kill: Tree, kinds: Sequence[str]) -> Tree:
    """Return every other kill as one of a whole machine, by a draw of its own: so what other seeds draw stays."""
    draw = Random(repr(kill))
    if (draw.random() < 0.5 and kinds != ("machine_down",)) or (kinds and "machine_down" not in kinds):
        return kill
    at = {key: value for key, value in kill.items() if key not in ("kind", "pods")}
    machine = {"machine": draw.choice((0, 1)), "machines": draw.choice((2, 3))}
    return {"kind": "machine_down", **at, **machine, "elsewhere_s": draw.choice((0.0, round(kill["for_s"] / 3, 3)))}


def _fields(kind: str, run_s: float) -> dict[str, Sequence[Any]]:
    """Return what else a fault of a kind can have."""
    repeats: dict[str, Sequence[Any]] = {"every_ms": (20, 100, 1000)}
    fields: dict[str, dict[str, Sequence[Any]]] = {
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
    }
    return fields.get(kind, {})


def spans_of(fault: Tree) -> list[tuple[float, float]]:
    """Return from when to when a fault may be on, each time, whatever is drawn."""
    begins = [fault["at_s"] + n * fault.get("every_s", 0) for n in range(fault.get("times", 1))]
    return [(begin, begin + fault.get("within_s", 0) + fault["for_s"]) for begin in begins]


def _same(one: Tree, other: Tree) -> bool:
    """Whether two of one kind would be on at one time, which a scenario may not ask for."""
    spans = [(a, b) for a in spans_of(one) for b in spans_of(other)]
    return one["kind"] == other["kind"] and any(a[0] < b[1] and b[0] < a[1] for a, b in spans)
