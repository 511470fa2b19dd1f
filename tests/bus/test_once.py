"""Once-only recipes, interleaved in every way that hypothesis finds, over a small model of Redis' keys."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.bus.once import DELETE_IF_MINE, RECIPES, RUN, Scope, lock_name

LOCKING = sorted(set(RECIPES) - {"none"})


class Keys:
    """Redis as far as the recipes use it; `expire` is the passing of a TTL."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def answer(self, command: tuple[str, ...]) -> Any:
        if command[0] == "SET" and "NX" in command:
            return None if command[1] in self.values else self.put(command[1], command[2])
        if command[0] == "SET":
            return self.put(command[1], command[2])
        if command[0] == "GET":
            return self.values.get(command[1])
        if command[0] == "DEL":
            return int(self.values.pop(command[1], None) is not None)
        assert command[:3] == ("EVAL", DELETE_IF_MINE, "1")
        return int(self.values.get(command[3]) == command[4] and self.values.pop(command[3], None) is not None)

    def put(self, key: str, value: str) -> str:
        self.values[key] = value
        return "OK"

    def expire(self) -> None:
        self.values = {key: value for key, value in self.values.items() if not key.startswith("aiponge:locks:")}


class Pods:
    """Several pods that heard one event; `step` lets one of them go on by one exchange."""

    def __init__(self, recipe: str, count: int, *, raising: frozenset[int] = frozenset()) -> None:
        self.keys = Keys()
        self.running: set[int] = set()
        self.runs = self.overlaps = 0
        self.raising = raising
        self.outcomes: dict[int, str] = {}
        self.generators = [RECIPES[recipe]("evt_1", token=f"pod-{n}") for n in range(count)]
        self.wants = [next(g) for g in self.generators]

    def step(self, pod: int) -> None:
        if pod in self.outcomes:
            return
        want = self.wants[pod]
        if want == RUN and pod not in self.running:
            self.overlaps += bool(self.running)
            self.running.add(pod)
            return
        if want == RUN:
            self.running.discard(pod)
            answer: Any = pod not in self.raising
            self.runs += answer
        else:
            answer = self.keys.answer(want)
        try:
            self.wants[pod] = self.generators[pod].send(answer)
        except StopIteration as end:
            self.outcomes[pod] = end.value

    def finish(self) -> None:
        for pod in range(len(self.generators)):
            while pod not in self.outcomes:
                self.step(pod)


schedules = st.lists(st.integers(0, 2), max_size=40)


@pytest.mark.parametrize("recipe", LOCKING)
@given(schedule=schedules)
def test_while_no_lock_expires_no_two_pods_handle_an_event_at_the_same_time(recipe: str, schedule: list[int]) -> None:
    pods = Pods(recipe, 3)
    for pod in schedule:
        pods.step(pod)
    pods.finish()
    assert pods.overlaps == 0
    assert pods.runs == sum(outcome == "handled" for outcome in pods.outcomes.values()) >= 1


@pytest.mark.parametrize("recipe", ["keep-marker", "two-key"])
@given(schedule=schedules)
def test_a_marker_makes_it_exactly_once_while_nothing_fails(recipe: str, schedule: list[int]) -> None:
    pods = Pods(recipe, 3)
    for pod in schedule:
        pods.step(pod)
    pods.finish()
    assert pods.runs == 1


@pytest.mark.parametrize("recipe", ["finally-del", "token-del"])
def test_a_pod_that_hears_it_after_the_first_has_finished_handles_it_again(recipe: str) -> None:
    pods = Pods(recipe, 2)
    pods.finish()
    assert pods.runs == 2, "the reference's snippet is not once-only when the start skew exceeds the handler's time"


@pytest.mark.parametrize(("scope", "keys"), [("event", {"run:evt_1"}), ("service", {"run:music:evt_1", "run:system:evt_1"})])
def test_the_reference_s_key_is_one_for_all_services(scope: Scope, keys: set[str]) -> None:
    assert {lock_name("evt_1", scope=scope, service=service, prefix="run:") for service in ("music", "system")} == keys
    assert lock_name("evt_1", scope="event", service="music") == "evt_1", "without a run: exactly aiponge:locks:<eventId>"


@pytest.mark.parametrize("recipe", LOCKING)
def test_keys_live_by_the_server_s_clock_or_until_a_time_by_the_pod_s(recipe: str) -> None:
    relative = next(RECIPES[recipe]("evt_1", token="t", ttl_s=300))
    absolute = next(RECIPES[recipe]("evt_1", token="t", ttl_s=300, wall_ms=lambda: 1_000_000))
    assert (relative[-2:], absolute[-2:]) == (("EX", "300"), ("PXAT", "1300000"))


def test_none_lets_every_pod_handle_it() -> None:
    pods = Pods("none", 3)
    pods.finish()
    assert pods.runs == 3


def overtaken(recipe: str) -> Pods:
    """Pod 0's lock expires while it runs, pod 1 takes it, pod 0 finishes, pod 2 comes."""
    pods = Pods(recipe, 3)
    for pod in (0, 0):
        pods.step(pod)
    pods.keys.expire()
    while 1 not in pods.running:
        pods.step(1)
    while 0 not in pods.outcomes:
        pods.step(0)
    pods.step(2)
    return pods


def test_finally_del_deletes_another_pods_lock_and_token_del_does_not() -> None:
    assert 2 not in overtaken("finally-del").outcomes, "pod 2 got in beside pod 1"
    assert overtaken("token-del").outcomes[2] == "skipped"


@pytest.mark.parametrize(("recipe", "runs"), [("none", 2), ("finally-del", 2), ("token-del", 2), ("keep-marker", 0), ("two-key", 1)])
def test_what_a_handler_that_raises_in_the_first_pod_leaves_for_the_others(recipe: str, runs: int) -> None:
    pods = Pods(recipe, 3, raising=frozenset({0}))
    pods.finish()
    assert pods.outcomes[0] == "failed"
    assert pods.runs == runs


@pytest.mark.parametrize("recipe", LOCKING)
def test_a_pod_that_dies_inside_leaves_the_event_unhandled_while_its_lock_lives(recipe: str) -> None:
    pods = Pods(recipe, 2)
    while 0 not in pods.running:
        pods.step(0)
    while 1 not in pods.outcomes:
        pods.step(1)
    assert pods.outcomes == {1: "skipped"}
    assert pods.runs == 0


LOCK, DONE = "aiponge:locks:evt_1", "aiponge:done:evt_1"
TAKE = ("SET", LOCK, "pod-1", "NX", "EX", "300")
GIVE_BACK = ("EVAL", DELETE_IF_MINE, "1", LOCK, "pod-1")
LOOK, MARK = ("GET", DONE), ("SET", DONE, "pod-1", "EX", "300")
FIRST = ("SET", LOCK, "1", "NX", "EX", "300")  # the reference's lock has no owner

# recipe, the answers that it gets, what it asks for, how it ends
TALKS: list[tuple[str, list[Any], list[tuple[str, ...]], str]] = [
    ("none", [True], [RUN], "handled"),
    ("none", [False], [RUN], "failed"),
    ("finally-del", [None], [FIRST], "skipped"),
    ("finally-del", ["OK", True, 1], [FIRST, RUN, ("DEL", LOCK)], "handled"),
    ("finally-del", ["OK", False, 1], [FIRST, RUN, ("DEL", LOCK)], "failed"),
    ("token-del", [None], [TAKE], "skipped"),
    ("token-del", ["OK", True, 0], [TAKE, RUN, GIVE_BACK], "handled"),
    ("token-del", ["OK", False, 1], [TAKE, RUN, GIVE_BACK], "failed"),
    ("keep-marker", [None], [TAKE], "skipped"),
    ("keep-marker", ["OK", True], [TAKE, RUN], "handled"),
    ("keep-marker", ["OK", False], [TAKE, RUN], "failed"),
    ("two-key", [None], [TAKE], "skipped"),
    ("two-key", ["OK", "pod-2", 1], [TAKE, LOOK, GIVE_BACK], "skipped"),
    ("two-key", ["OK", None, True, "OK", 1], [TAKE, LOOK, RUN, MARK, GIVE_BACK], "handled"),
    ("two-key", ["OK", None, False, 1], [TAKE, LOOK, RUN, GIVE_BACK], "failed"),
]


def talk(recipe: str, answers: list[Any], **settings: Any) -> tuple[list[tuple[str, ...]], str]:
    """What a recipe asks for when it gets these answers, and how it ends."""
    generator = RECIPES[recipe]("evt_1", token="pod-1", **settings)
    asked = [next(generator)]
    try:
        for answer in answers:
            asked.append(generator.send(answer))
    except StopIteration as end:
        return asked, end.value
    raise AssertionError(f"{recipe} wants more than these answers: {asked}")


@pytest.mark.parametrize(("recipe", "answers", "asked", "outcome"), TALKS)
def test_a_recipe_asks_for_these_and_nothing_else(recipe: str, answers: list[Any], asked: list[tuple[str, ...]], outcome: str) -> None:
    assert talk(recipe, answers) == (asked, outcome)


@pytest.mark.parametrize(("recipe", "answers", "asked", "outcome"), TALKS)
def test_every_key_of_a_recipe_lives_as_long_as_it_is_told(
    recipe: str, answers: list[Any], asked: list[tuple[str, ...]], outcome: str
) -> None:
    for settings, lifetime in (({"ttl_s": 7}, ("EX", "7")), ({"ttl_s": 7, "wall_ms": lambda: 1_000}, ("PXAT", "8000"))):
        wanted = [(*one[:-2], *lifetime) if one[0] == "SET" else one for one in asked]
        assert talk(recipe, answers, **settings) == (wanted, outcome)
