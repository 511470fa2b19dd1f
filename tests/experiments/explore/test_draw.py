"""What is drawn is a plain scenario, within the bounds, and the same of the same seed."""

from __future__ import annotations

import tomllib
from random import Random

import pytest
import tomli_w

from sim.errors import ScenarioError, UsageError
from sim.experiments.explore.draw import base_tree, draw_schedule, draw_tree, spans_of
from sim.experiments.explore.mutate import mutated
from sim.scenario.explore_bounds import Explore, bounds_problem
from sim.scenario.file import check_tree, load_scenario, load_with_bounds

BASE = load_scenario("baseline")


def test_a_seed_draws_the_same_again_and_what_is_drawn_runs_anywhere_as_a_file() -> None:
    trees = [draw_schedule("5", base=base) for base in (None, None, BASE, BASE)]
    assert trees[0] == trees[1] and trees[2] == trees[3] != trees[0] and draw_schedule("6", base=BASE) != trees[2]
    for tree in trees:
        again = tomllib.loads(tomli_w.dumps(tree))
        assert check_tree(again, where="file") == check_tree(tree, where="tree")


def test_a_scenario_keeps_its_bus_and_its_services_and_gets_other_pods_load_and_faults() -> None:
    own = base_tree(BASE)
    trees = [draw_schedule(f"{seed}", base=BASE) for seed in range(40)]
    assert all(tree["bus"] == own["bus"] and tree["load"]["mix"] == own["load"]["mix"] for tree in trees)
    assert {len(tree["faults"]) for tree in trees} == {1, 2, 3, 4}
    replicas = [[one["replicas"] for one in tree["services"].values()] for tree in trees]
    most = [one["replicas"] for one in own["services"].values()]
    assert all(1 <= few <= many for some in replicas for few, many in zip(some, most, strict=True))
    assert len({tuple(some) for some in replicas}) > 5 and len({tree["load"]["shape"] for tree in trees}) > 2


def test_the_load_goes_on_until_all_must_have_healed() -> None:
    for seed in range(30):
        tree = draw_schedule(f"{seed}", bounds=Explore(heal_s=2.0))
        assert tree["load"]["run_s"] + 0.01 >= max(end for fault in tree["faults"] for _, end in spans_of(fault)) + 3.0


def test_bounds_narrow_every_draw() -> None:
    bounds = Explore(
        kinds=("pod_kill", "machine_down"), faults_min=2, faults_max=2, rate_min=7, rate_max=9, replicas_max=2, transports=("streams",)
    )
    for base in (None, BASE):
        trees = [draw_schedule(f"{seed}", base=base, bounds=bounds) for seed in range(40)]
        assert {fault["kind"] for tree in trees for fault in tree["faults"]} == {"pod_kill", "machine_down"}
        assert all(len(tree["faults"]) <= 2 and 7 <= tree["load"]["rate_per_s"] <= 9 for tree in trees)
        assert {tree["bus"]["transport"] for tree in trees} == {"streams"}
        assert max(one["replicas"] for tree in trees for one in tree["services"].values()) == 2
    only = [draw_schedule(f"{seed}", base=BASE, bounds=Explore(kinds=("machine_down",))) for seed in range(20)]
    assert {fault["kind"] for tree in only for fault in tree["faults"]} == {"machine_down"}
    drawn = [draw_schedule(f"{seed}", base=BASE, bounds=Explore(bus=("once_scope", "resync"))) for seed in range(20)]
    assert {tree["bus"]["once_scope"] for tree in drawn} == {"event", "service"} and len({tree["bus"]["resync"] for tree in drawn}) == 3


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ('explore.kinds=["broker_dwn"]', "no such fault (did you mean 'broker_down'?)"),
        ('explore.bus=["transport"]', "no such setting of the bus"),
        ("explore.faults_min=4\nexplore.faults_max=2", "leave nothing to draw"),
        ("explore.rate_min=9\nexplore.rate_max=2", "explore.rate_min = 9 and explore.rate_max = 2"),
        ("explore.heal_s=0", "explore.heal_s = 0: expected `float` > 0.0"),
        ("explore.heals=1", "unknown key 'explore.heals' (did you mean 'heal_s'?)"),
    ],
)
def test_bounds_that_are_wrong_are_told_in_one_line(setting: str, told: str) -> None:
    with pytest.raises(ScenarioError) as error:
        load_with_bounds("baseline", settings=tuple(setting.split("\n")))
    assert told in str(error.value) and "\n" not in str(error.value)


def test_the_table_is_no_part_of_a_run() -> None:
    scenario, bounds = load_with_bounds("baseline", settings=("explore.faults_max=2",))
    assert (bounds.faults_max, bounds_problem(bounds)) == (2, "") and scenario == BASE


def test_bounds_that_leave_no_fault_are_told() -> None:
    with pytest.raises(UsageError, match=r"leaves nothing to draw: the model does none of broker_failover with bus.transport = 'pubsub'"):
        draw_schedule("1", base=BASE, bounds=Explore(kinds=("broker_failover",)))


def test_a_changed_schedule_differs_and_stays_within_the_bounds() -> None:
    bounds = Explore(faults_min=1, faults_max=3)
    tree, seen = draw_schedule("3", base=BASE, bounds=bounds), set()
    for number in range(60):
        changed = mutated(f"{number}", tree, bounds=bounds, base=BASE)
        assert changed is not None and changed != tree and changed["bus"] == tree["bus"]
        assert mutated(f"{number}", tree, bounds=bounds, base=BASE) == changed
        assert 1 <= len(changed["faults"]) <= 3 and check_tree(changed, where="changed")
        seen |= {key for key in ("faults", "load", "seed") if changed[key] != tree[key]}
    assert seen == {"faults", "load", "seed"}
    anything = draw_tree(Random("1"), on="model")
    buses = [mutated(f"{number}", anything, bounds=Explore(), base=None) for number in range(40)]
    assert any(one is not None and one["bus"] != anything["bus"] for one in buses)
