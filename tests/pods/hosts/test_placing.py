"""Where pods go: spread over machines first, never more than a worker can hold, and the same each time."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import UsageError
from sim.faults.catalogue.machine_down import MachineDown
from sim.pods.hosts.placing import Room, next_room, place_pods, share_processes

rooms = st.lists(st.builds(Room, st.just("w"), st.sampled_from("abc"), st.integers(0, 9)), min_size=1, max_size=6)
services = st.lists(st.sampled_from(("music", "gateway", "system")), max_size=30)


def test_two_replicas_are_on_two_machines_though_one_machine_has_two_workers() -> None:
    room = [Room("a1", "a", 99), Room("a2", "a", 99), Room("b1", "b", 99)]
    places = place_pods(["music", "music", "gateway", "gateway"], room)
    assert [room[place].machine for place in places] == ["a", "b", "a", "b"]
    assert places[:3:2] == [0, 1], "and then over the workers of a machine"


@given(services, rooms)
def test_no_room_is_overfull_and_services_are_spread_as_far_as_rooms_allow(wanted: list[str], room: list[Room]) -> None:
    if len(wanted) > sum(one.most for one in room):
        with pytest.raises(UsageError, match="more than the workers can hold"):
            place_pods(wanted, room)
        return
    places = place_pods(wanted, room)
    held = Counter(places)
    assert all(held[number] <= one.most for number, one in enumerate(room))
    assert places == place_pods(wanted, room)
    machines = Counter(room[place].machine for place in places)
    full = {one.machine for one in room} - {one.machine for number, one in enumerate(room) if held[number] < one.most}
    for service in set(wanted):
        of_machine = Counter(room[place].machine for place, one in zip(places, wanted, strict=True) if one == service)
        most = max(of_machine.values())
        for machine in {one.machine for one in room} - full:
            assert of_machine[machine] >= most - 1, "a machine with room has as many pods of each service as any, but for one"
    assert machines.total() == len(wanted)


@given(services, st.integers(1, 5))
def test_machines_of_one_worker_each_have_what_a_fault_deals_out_where_hosts_say_nothing(wanted: list[str], many: int) -> None:
    """So `machine_down` takes the same pods on the model as on a cluster of so many workers."""
    wanted = sorted(wanted)  # the pods of a service stand together
    names = [f"pod-{number}" for number in range(len(wanted))]
    places = place_pods(wanted, [Room("w", str(number), 99) for number in range(many)])
    for machine in range(many):
        fault = MachineDown(at_s=0, for_s=1, machine=machine, machines=many)
        assert fault.held(names) == fault.held(names, lambda name: places[names.index(name)])


def test_a_pod_moves_to_where_its_service_has_fewest_and_nowhere_when_all_are_full() -> None:
    rooms = [Room("a", "a", 9), Room("b", "b", 9), Room("c", "c", 2)]
    placed = [("music", 0), ("music", 1), ("system", 2), ("system", 1)]
    assert next_room("music", rooms, there=[1, 2], placed=placed) == 2
    assert next_room("system", rooms, there=[1, 2], placed=placed) == 2, "of equals the one that holds fewer"
    assert next_room("music", rooms, there=[2], placed=[*placed, ("api", 2)]) is None
    assert next_room("music", rooms, there=[], placed=placed) is None


@given(st.integers(1, 64), st.lists(st.integers(0, 200), min_size=1, max_size=8))
def test_processes_are_shared_out_by_how_many_pods_a_worker_holds(processes: int, pods: list[int]) -> None:
    shares = share_processes(processes, pods)
    assert all(share <= held and (share > 0) == (held > 0) for share, held in zip(shares, pods, strict=True))
    holding = sum(held > 0 for held in pods)
    assert sum(shares) == min(sum(pods), max(processes, holding))


def test_one_worker_with_twice_the_pods_gets_twice_the_processes() -> None:
    assert share_processes(6, [200, 100, 0]) == [4, 2, 0]
