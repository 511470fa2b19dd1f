"""Which worker holds which pod, when there are several machines.

Rules
-----
1. The pods of one service are spread over machines first, then over the workers of a machine: what one of them takes away when it is lost
   is as little of each service as can be.
2. Of places that are equal by that rule, the one with the fewest pods is chosen, then the first: the same workers give the same places.
3. A worker holds no more pods than it can.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sim.errors import UsageError
from sim.machine.words import count


@dataclass(frozen=True)
class Room:
    """The room for pods on one worker.

    Attributes
    ----------
    worker
        Its name in messages.
    machine
        What workers of one machine have in common.
    most
        How many pods it can hold.
    """

    worker: str
    machine: str
    most: int


def place_pods(services: Sequence[str], rooms: Sequence[Room]) -> list[int]:
    """Return for each pod, given by its service, the number of the room that holds it.

    Raises
    ------
    UsageError
        There are more pods than the workers can hold.
    """
    if len(services) > sum(room.most for room in rooms):
        each = ", ".join(f"{room.worker} {room.most:,}" for room in rooms) or "there is no worker"
        raise UsageError(
            f"{count(len(services), 'pod')} are more than the workers can hold ({each}): start more workers, raise their limit of open "
            "files (ulimit -n), hosts.processes or hosts.per_worker, or run fewer pods"
        )
    of_machine: Counter[tuple[str, str]] = Counter()
    of_room: Counter[tuple[str, int]] = Counter()
    on_machine: Counter[str] = Counter()
    in_room: Counter[int] = Counter()
    places = []
    for service in services:
        free = [number for number, room in enumerate(rooms) if in_room[number] < room.most]

        def crowd(number: int, service: str = service) -> tuple[int, int, int, int, int]:
            machine = rooms[number].machine
            return of_machine[service, machine], of_room[service, number], on_machine[machine], in_room[number], number

        place = min(free, key=crowd)
        machine = rooms[place].machine
        of_machine[service, machine] += 1
        of_room[service, place] += 1
        on_machine[machine] += 1
        in_room[place] += 1
        places.append(place)
    return places


def next_room(service: str, rooms: Sequence[Room], *, there: Sequence[int], placed: Sequence[tuple[str, int]]) -> int | None:
    """Return the number of the room that a pod of a service moves to, None where none of those that are there has any left.

    Parameters
    ----------
    there
        The numbers of the rooms that it may move to.
    placed
        The service and the room of each pod.
    """
    of_service = Counter(room for name, room in placed if name == service)
    held = Counter(room for _, room in placed)
    free = [number for number in there if held[number] < rooms[number].most]
    return min(free, key=lambda number: (of_service[number], held[number], number), default=None)


def share_processes(processes: int, pods: Sequence[int]) -> list[int]:
    """Return how many processes each worker gets, given how many pods it holds: one at least where it holds any, never more than pods.

    Parameters
    ----------
    processes
        How many there are for all of them together, as far as that goes.
    """
    shares = [min(1, held) for held in pods]
    while sum(shares) < processes:
        able = [number for number, held in enumerate(pods) if shares[number] < held]
        if not able:
            break
        fullest = max(able, key=lambda number: (pods[number] / shares[number], -number))
        shares[fullest] += 1
    return shares
