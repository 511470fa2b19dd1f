"""Change a schedule a little: what was interesting is tried again with a time shifted, a target swapped, a fault more or less."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from sim.errors import BuslabError
from sim.experiments.explore.draw import BUS_SETTINGS, CHOICES, Tree, draw_fault, with_tail
from sim.scenario.explore_bounds import Explore
from sim.scenario.file import Scenario, check_tree
from sim.scenario.schedule import SHAPES

MOST_TRIES = 20
TIMES = ("at_s", "for_s", "within_s", "times", "every_s")


def mutated(seed: str, tree: Tree, *, bounds: Explore, base: Scenario | None) -> Tree | None:
    """Return a schedule that differs from another one in one to three places; None where none was found that may run."""
    draw = Random(seed)
    changes = (_shift, _stretch, _swap_target, _add, _drop, _set, _reload)
    for _ in range(MOST_TRIES):
        changed = tree
        for change in draw.choices(changes, weights=(4, 3, 2, 3, 2, 2, 1), k=draw.choice((1, 1, 2, 3))):
            changed = change(draw, changed, bounds, base)
        changed = with_tail(changed, bounds)
        if changed != tree and bounds.faults_min <= len(changed["faults"]) <= bounds.faults_max and may_run(changed):
            return changed
    return None


def may_run(tree: Tree) -> bool:
    """Return whether a tree is a scenario."""
    try:
        check_tree(tree, where="changed")
    except BuslabError:
        return False
    return True


Change = Callable[[Random, Tree, Explore, Scenario | None], Tree]


def _with(tree: Tree, place: int, **changes: Any) -> Tree:
    faults = list(tree["faults"])
    faults[place] = {**faults[place], **changes}
    return {**tree, "faults": faults}


def _shift(draw: Random, tree: Tree, bounds: Explore, base: Scenario | None) -> Tree:
    place = draw.randrange(len(tree["faults"]))
    at_s = tree["faults"][place]["at_s"] + draw.choice((draw.gauss(0, 0.1), draw.gauss(0, 1)))
    return _with(tree, place, at_s=round(min(max(at_s, 0.05), bounds.run_s_max), 3))


def _stretch(draw: Random, tree: Tree, bounds: Explore, base: Scenario | None) -> Tree:
    place = draw.randrange(len(tree["faults"]))
    for_s = tree["faults"][place]["for_s"] * 2 ** draw.uniform(-2, 2)
    return _with(tree, place, for_s=round(min(max(for_s, 0.01), bounds.run_s_max), 3))


def _swap_target(draw: Random, tree: Tree, bounds: Explore, base: Scenario | None) -> Tree:
    places = [place for place, fault in enumerate(tree["faults"]) if "pods" in fault]
    if not places:
        return tree
    pods = [f"{name}-{n}" for name, one in tree["services"].items() for n in range(one.get("replicas", 1))]
    some = draw.choice(([], [draw.choice(pods)], draw.sample(pods, min(2, len(pods))), [draw.choice(list(tree["services"]))]))
    return _with(tree, draw.choice(places), pods=some)


def _add(draw: Random, tree: Tree, bounds: Explore, base: Scenario | None) -> Tree:
    services = {name: {"replicas": 1, **one} for name, one in tree["services"].items()}
    run_s = draw.uniform(bounds.run_s_min, bounds.run_s_max)
    fault = draw_fault(draw, bounds, on="model", bus={"transport": "pubsub", **tree["bus"]}, run_s=run_s, services=services)
    beside = draw.choice(tree["faults"]) if tree["faults"] else fault
    if draw.random() < 0.6:  # overlapping is what nobody tries by hand
        fault = {**fault, "at_s": round(max(0.05, beside["at_s"] + draw.uniform(-0.5, 1) * beside["for_s"]), 3)}
    return {**tree, "faults": [*tree["faults"], fault]}


def _drop(draw: Random, tree: Tree, bounds: Explore, base: Scenario | None) -> Tree:
    place = draw.randrange(len(tree["faults"]))
    return {**tree, "faults": tree["faults"][:place] + tree["faults"][place + 1 :] or tree["faults"]}


def _set(draw: Random, tree: Tree, bounds: Explore, base: Scenario | None) -> Tree:
    settings = list(bounds.bus) if base is not None else list(CHOICES)
    if not settings:
        return _reload(draw, tree, bounds, base)
    key = draw.choice(settings)
    return {**tree, "bus": {**tree["bus"], key: draw.choice(BUS_SETTINGS[key])}}


def _reload(draw: Random, tree: Tree, bounds: Explore, base: Scenario | None) -> Tree:
    load = {**tree["load"], "shape": draw.choice(list(SHAPES)), "rate_per_s": round(draw.uniform(bounds.rate_min, bounds.rate_max), 1)}
    return {**tree, "load": load, "seed": draw.randrange(1 << 20)}
