"""What is shrunk is as small as the thing that is wrong, by predicates that need no run."""

from __future__ import annotations

from sim.experiments.explore.draw import Tree, draw_schedule
from sim.experiments.explore.shrink import shrink, without_defaults
from sim.scenario.explore_bounds import Explore
from sim.scenario.file import check_tree, load_scenario

BASE = load_scenario("baseline")


def kinds(tree: Tree) -> list[str]:
    return [fault["kind"] for fault in tree["faults"]]


def pods(tree: Tree, service: str) -> int:
    return tree["services"].get(service, {"replicas": 0}).get("replicas", 1)


def drawn(*wanted: str) -> Tree:
    trees = [draw_schedule(f"{kind}", base=BASE, bounds=Explore(kinds=(kind,))) for kind in (*wanted, "broker_freeze", "keys_lost")]
    return trees[0] | {"faults": [tree["faults"][0] for tree in trees]}


def test_only_the_faults_that_are_needed_stay() -> None:
    tree = drawn("pod_kill", "link_cut")
    found = shrink(tree, lambda one: {"pod_kill", "link_cut"} <= set(kinds(one)))
    assert sorted(kinds(found.tree)) == ["link_cut", "pod_kill"] and found.whole
    assert found.tree["seed"] == 1 and "bus" not in found.tree and "slo" not in found.tree
    assert len(found.tree["services"]) == 1 and found.lines < 20
    assert {fault["at_s"] for fault in found.tree["faults"]} <= {float(n) for n in range(1, 9)}, "times are rounded"


def test_what_the_failure_needs_is_kept_whatever_it_is() -> None:
    tree = drawn("pod_stop") | {"seed": 4711}
    tree["services"]["music-service"]["replicas"] = 3
    tree["load"] |= {"shape": "spike"}

    def shows(one: Tree) -> bool:
        scenario = check_tree(one, where="test")
        return scenario.load.shape == "spike" and pods(one, "music-service") >= 2 and one["seed"] == 4711

    found = shrink(tree, shows)
    assert shows(found.tree) and pods(found.tree, "music-service") == 2 and found.tree["seed"] == 4711


def test_it_stops_when_it_has_looked_often_enough() -> None:
    looks: list[Tree] = []
    found = shrink(drawn("pod_kill"), lambda one: bool(looks.append(one)), most_looks=7)
    assert (len(looks), found.looks, found.whole) == (7, 7, False)
    assert found.tree["faults"] and not shrink(drawn("pod_kill"), lambda one: True, stop=lambda: True).whole


def test_a_tree_without_its_defaults_is_the_same_scenario() -> None:
    for seed in range(40):
        tree = draw_schedule(f"{seed}")
        plain = without_defaults(tree)
        assert check_tree(plain, where="plain") == check_tree(tree, where="tree") and len(repr(plain)) < len(repr(tree)) + 200
