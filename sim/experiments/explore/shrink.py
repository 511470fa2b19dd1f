"""Make a schedule smaller with which the same is wrong: delta debugging of what it is made of, what takes most away first.

Faults go first, half of them at a time and then one by one; then services, channels and pods; then how long the load goes on and how much
there is of it; then settings, back to their defaults; then times are rounded. The same is wrong where a finding has the same name. What
no run needs is not in the result: a default is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import tomli_w

from sim.experiments.explore.draw import Tree, spans_of
from sim.faults.catalogue import FAULTS
from sim.scenario.file import check_tree
from sim.scenario.settings import Scenario, Service

MOST_LOOKS = 400
PLAIN_LOAD = {"reads_per_s": 0.0, "payload_bytes": 64, "shape": "steady", "warm_up_s": 0.0, "arrivals": "uniform"}


@dataclass(frozen=True)
class Shrunk:
    """A smaller schedule, how many were tried for it, and whether nothing smaller was left to try."""

    tree: Tree
    looks: int
    whole: bool

    @property
    def lines(self) -> int:
        """How many lines it has as a file."""
        return sum(bool(line.strip()) for line in tomli_w.dumps(self.tree).splitlines())


def shrink(tree: Tree, shows: Callable[[Tree], bool], *, most_looks: int = MOST_LOOKS, stop: Callable[[], bool] = lambda: False) -> Shrunk:
    """Return the smallest schedule that was found which still shows what the first one does.

    Parameters
    ----------
    shows
        Whether a schedule shows it.
    stop
        Asked before each: whether to be content with what there is.
    """
    looks = 0

    def holds(candidate: Tree) -> bool:
        nonlocal looks
        looks += 1
        return shows(candidate)

    tree = without_defaults(tree)
    smaller, whole = True, True
    while smaller and whole:
        smaller = False
        for step in _STEPS:
            changed = True
            while changed:
                changed = False
                for candidate in step(tree):
                    if looks >= most_looks or stop():
                        whole = False
                        break
                    if candidate != tree and _is_scenario(candidate) and holds(candidate):
                        tree, changed, smaller = without_defaults(candidate), True, True
                        break
                if not whole:
                    return Shrunk(tree, looks, whole)
    return Shrunk(tree, looks, whole)


def _is_scenario(tree: Tree) -> bool:
    try:
        check_tree(tree, where="smaller")
    except Exception:  # whatever is wrong with it, it is not the smaller schedule that is looked for
        return False
    return True


def without_defaults(tree: Tree) -> Tree:
    """Return a tree without what a scenario has by itself."""
    scenario = check_tree(tree, where="smaller")
    whole: Tree = msgspec.json.decode(msgspec.json.encode(scenario))
    plain: Tree = msgspec.json.decode(msgspec.json.encode(Scenario(services={})))
    services = {name: _different(one, Service()) for name, one in whole["services"].items()}
    left: Tree = {"seed": whole["seed"], "services": services}
    for key in ("load", "bus", "limits", "kubelet", "envelope"):
        if differs := {name: value for name, value in whole[key].items() if value != plain[key].get(name)}:
            left[key] = differs
    for key in ("channels", "slo", "checkers", "code_folder"):
        if whole[key] != plain[key]:
            left[key] = tree[key]
    return left | {"faults": [_plain_fault(fault) for fault in tree["faults"]]}


def _different(given: Tree, default: msgspec.Struct) -> Tree:
    usual = msgspec.json.decode(msgspec.json.encode(default))
    return {name: value for name, value in given.items() if value != usual[name]}


def _plain_fault(fault: Tree) -> Tree:
    kind = FAULTS.get(fault["kind"])
    defaults = {} if kind is None else {f.encode_name: f.default for f in msgspec.structs.fields(kind)}  # type: ignore[arg-type]
    kept = ("kind", "at_s", "for_s")
    return {k: v for k, v in fault.items() if k in kept or _listed(defaults.get(k, msgspec.NODEFAULT)) != v}


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


# -- steps: each yields trees that have less ---------------------------------------------------------------------------------


def _fewer_faults(tree: Tree) -> Iterator[Tree]:
    faults, size = tree["faults"], len(tree["faults"]) // 2
    while size:
        for begin in range(0, len(faults), size):
            yield {**tree, "faults": faults[:begin] + faults[begin + size :]}
        size //= 2


def _fewer_services(tree: Tree) -> Iterator[Tree]:
    for name in tree["services"]:
        yield {**tree, "services": {key: value for key, value in tree["services"].items() if key != name}}
    for name, service in tree["services"].items():
        for many in sorted({1, service.get("replicas", 1) - 1}):
            if 0 < many < service.get("replicas", 1):
                yield _with_service(tree, name, {**service, "replicas": many})
        for key in ("publishes", "subscribes"):
            for one in service.get(key, ()):
                yield _with_service(tree, name, {**service, key: [other for other in service[key] if other != one]})
    for type in tree.get("load", {}).get("mix", {}):
        mix = {key: value for key, value in tree["load"]["mix"].items() if key != type}
        yield {**tree, "load": {**tree["load"], "mix": mix}}


def _with_service(tree: Tree, name: str, service: Tree) -> Tree:
    return {**tree, "services": {**tree["services"], name: service}}


def _shorter(tree: Tree) -> Iterator[Tree]:
    load = tree.get("load", {})
    last_s = max((end for fault in tree["faults"] for _, end in spans_of(fault)), default=0.0)
    run_s = load.get("run_s", 10.0)
    for shorter in (last_s + 0.5, (last_s + run_s) / 2, run_s * 0.8):
        if last_s < shorter < run_s - 0.05:
            yield {**tree, "load": {**load, "run_s": round(shorter, 1)}}
    rate = load.get("rate_per_s", 100.0)
    for less in (rate / 4, rate / 2):
        if less >= 1:
            yield {**tree, "load": {**load, "rate_per_s": float(round(less))}}


def _plainer(tree: Tree) -> Iterator[Tree]:
    for table in ("kubelet", "envelope", "limits", "slo"):
        if table in tree:
            yield {key: value for key, value in tree.items() if key != table}
    for key in tree.get("bus", {}):
        yield {**tree, "bus": {other: value for other, value in tree["bus"].items() if other != key}}
    for name, service in tree["services"].items():
        for key in service:
            if key not in ("replicas", "publishes", "subscribes", "behaviour"):
                yield _with_service(tree, name, {other: value for other, value in service.items() if other != key})
    yield from _plainer_load(tree, tree.get("load", {}))


def _plainer_load(tree: Tree, load: Tree) -> Iterator[Tree]:
    for key, value in PLAIN_LOAD.items():
        if load.get(key, value) != value:
            yield {**tree, "load": {**load, key: value}}
    for type, weight in load.get("mix", {}).items():
        if weight != 1:
            yield {**tree, "load": {**load, "mix": {**load["mix"], type: 1.0}}}


def _plainer_faults(tree: Tree) -> Iterator[Tree]:
    for place, fault in enumerate(tree["faults"]):
        for key in fault:
            if key not in ("kind", "at_s", "for_s"):
                yield _with_fault(tree, place, {other: value for other, value in fault.items() if other != key})
        if len(fault.get("pods", ())) > 1:
            for pod in fault["pods"]:
                yield _with_fault(tree, place, {**fault, "pods": [pod]})


def _rounder(tree: Tree) -> Iterator[Tree]:
    for place, fault in enumerate(tree["faults"]):
        for key in ("at_s", "for_s"):
            for digits in (0, 1, 2):
                value = round(float(fault[key]), digits)
                if value > 0 and value != fault[key]:
                    yield _with_fault(tree, place, {**fault, key: value})
    if tree["seed"] != 1:
        yield {**tree, "seed": 1}


def _with_fault(tree: Tree, place: int, fault: Tree) -> Tree:
    return {**tree, "faults": [*tree["faults"][:place], fault, *tree["faults"][place + 1 :]]}


_STEPS: tuple[Callable[[Tree], Iterator[Tree]], ...] = (_fewer_faults, _fewer_services, _shorter, _plainer, _plainer_faults, _rounder)
