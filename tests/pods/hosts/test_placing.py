"""Where pods go: spread over machines first, never more than a worker can hold, and the same each time."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import UsageError
from sim.pods.hosts.placing import Room, place_pods, share_processes

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


@given(st.integers(1, 64), st.lists(st.integers(0, 200), min_size=1, max_size=8))
def test_processes_are_shared_out_by_how_many_pods_a_worker_holds(processes: int, pods: list[int]) -> None:
    shares = share_processes(processes, pods)
    assert all(share <= held and (share > 0) == (held > 0) for share, held in zip(shares, pods, strict=True))
    holding = sum(held > 0 for held in pods)
    assert sum(shares) == min(sum(pods), max(processes, holding))


def test_one_worker_with_twice_the_pods_gets_twice_the_processes() -> None:
    assert share_processes(6, [200, 100, 0]) == [4, 2, 0]
