"""The fallback's table, against a model that knows only which connections are up."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sim.bus.fallback import ALONE, HEARING, SPEAKING, TABLE, Fallback, Policy, State, Stimulus, diagram

POLICIES = st.builds(
    Policy,
    st.sampled_from(["on-failure", "no-url"]),
    st.sampled_from(["automatic", "if-connected-once", "restart"]),
    st.sampled_from(["none", "keep"]),
)


class TwoConnections(RuleBasedStateMachine):
    """A driver that does what it is told, over a broker that comes and goes."""

    @initialize(policy=POLICIES)
    def start(self, policy: Policy) -> None:
        self.bus = Fallback(policy, has_url=True)
        self.policy = policy
        self.hears = self.speaks = self.ever = False
        self.work: list[str] = ["subscribe"]  # what the driver has been told and not yet done
        self.sent_queue_while: list[str] = []

    def tell(self, stimulus: Stimulus) -> None:
        for effect in self.bus.step(stimulus):
            if effect == "drop-publisher":
                self.speaks = False
                self.work = [w for w in self.work if w != "open-publisher"]
            elif effect == "send-queue":
                assert self.hears, "nothing is published before the pod hears"
                assert self.speaks
            else:
                self.work.append(effect)
        self.ever = self.ever or (self.hears and self.speaks)

    @precondition(lambda self: "subscribe" in self.work)
    @rule()
    def subscribing_works(self) -> None:
        self.work.remove("subscribe")
        self.hears = True
        self.tell("subscribed")

    @precondition(lambda self: self.bus.state == "connecting")
    @rule()
    def the_first_connection_fails(self) -> None:
        self.work.remove("subscribe")
        self.tell("connect-failed")

    @precondition(lambda self: "open-publisher" in self.work)
    @rule()
    def opening_the_publisher_works(self) -> None:
        self.work.remove("open-publisher")
        self.speaks = True
        self.tell("publisher-opened")

    @precondition(lambda self: self.hears)
    @rule()
    def the_subscription_breaks(self) -> None:
        self.hears = False
        self.tell("subscription-lost")

    @precondition(lambda self: self.speaks)
    @rule()
    def the_publisher_breaks(self) -> None:
        self.speaks = False
        self.tell("publisher-lost")

    @rule()
    def nothing_happens(self) -> None:
        """The broker may stay away, and a pod that may not come back waits for ever."""

    @invariant()
    def the_state_says_which_connections_are_up(self) -> None:
        assert (self.bus.state in HEARING) == self.hears
        assert (self.bus.state in SPEAKING) == self.speaks

    @invariant()
    def a_publish_goes_to_the_broker_exactly_when_the_pod_speaks(self) -> None:
        assert (self.bus.route() == "broker") == self.speaks
        if not self.speaks:
            alone = "queue" if self.policy.outage_queue == "keep" else "memory" if self.policy.fallback == "on-failure" else "refuse"
            assert self.bus.route() == alone

    @invariant()
    def what_is_down_is_being_repaired_where_the_policy_lets_it(self) -> None:
        assert len(self.work) == len(set(self.work)), "nothing is repaired twice at once"
        if self.policy.reattach == "automatic" and self.bus.state != "connected":
            assert self.work
        if self.policy.reattach == "restart" and self.bus.state == "outage" and not self.hears:
            assert "open-publisher" not in self.work


TestTwoConnections = TwoConnections.TestCase


class TwoClients(RuleBasedStateMachine):
    """Two connections that know nothing of each other, as two clients of ioredis, over a broker that comes and goes."""

    @initialize(queue=st.sampled_from(["none", "keep"]))
    def start(self, queue: str) -> None:
        self.bus = Fallback(Policy(outage_queue=queue, recovery="each-alone"), has_url=True)  # type: ignore[arg-type]
        self.alone = {"keep": "queue", "none": "memory"}[queue]
        self.hears = self.speaks = False
        self.work = ["subscribe", "open-publisher"]

    def tell(self, stimulus: Stimulus) -> None:
        effects = self.bus.step(stimulus)
        assert ("send-queue" in effects) == (stimulus == "publisher-opened"), "what waits leaves at once, whether or not the pod hears"
        assert "drop-publisher" not in effects
        self.work += [effect for effect in effects if effect != "send-queue"]

    @precondition(lambda self: "subscribe" in self.work)
    @rule()
    def subscribing_works(self) -> None:
        self.work.remove("subscribe")
        self.hears = True
        self.tell("subscribed")

    @precondition(lambda self: "open-publisher" in self.work)
    @rule()
    def opening_the_publisher_works(self) -> None:
        self.work.remove("open-publisher")
        self.speaks = True
        self.tell("publisher-opened")

    @precondition(lambda self: self.bus.state == "connecting")
    @rule()
    def both_first_attempts_fail(self) -> None:
        self.tell("connect-failed")

    @precondition(lambda self: self.hears)
    @rule()
    def the_subscription_breaks(self) -> None:
        self.hears = False
        self.tell("subscription-lost")

    @precondition(lambda self: self.speaks)
    @rule()
    def the_publisher_breaks(self) -> None:
        self.speaks = False
        self.tell("publisher-lost")

    @invariant()
    def the_state_says_which_connections_are_up(self) -> None:
        assert (self.bus.state in HEARING, self.bus.state in SPEAKING) == (self.hears, self.speaks)
        assert self.bus.connected == (self.hears and self.speaks)

    @invariant()
    def what_is_down_is_being_repaired_and_nothing_twice(self) -> None:
        down = [effect for effect, is_up in (("subscribe", self.hears), ("open-publisher", self.speaks)) if not is_up]
        assert sorted(self.work) == sorted(down)

    @invariant()
    def a_publish_goes_to_the_broker_exactly_when_the_pod_speaks(self) -> None:
        assert self.bus.route() == ("broker" if self.speaks else self.alone)


TestTwoClients = TwoClients.TestCase


def test_without_a_url_the_pod_is_alone_for_ever() -> None:
    bus = Fallback(Policy(), has_url=False)
    for stimulus in get_args(Stimulus)[:-1]:
        assert bus.step(stimulus) == ()
        assert (bus.state, bus.route(), bus.connected) == ("memory-only", "memory", False)


@pytest.mark.parametrize(
    ("reattach", "fresh", "was_up"),
    [("automatic", ("subscribe",), ("subscribe",)), ("if-connected-once", (), ("subscribe",)), ("restart", (), ())],
)
def test_who_comes_back_by_itself(reattach: str, fresh: tuple[str, ...], was_up: tuple[str, ...]) -> None:
    started_in_the_outage = Fallback(Policy(reattach=reattach), has_url=True)  # type: ignore[arg-type]
    assert started_in_the_outage.step("connect-failed") == fresh
    up = Fallback(Policy(reattach=reattach), has_url=True)  # type: ignore[arg-type]
    up.step("subscribed")
    up.step("publisher-opened")
    assert up.step("subscription-lost") == was_up


def test_recovery_resubscribes_before_it_publishes_again() -> None:
    bus = Fallback(Policy(), has_url=True)
    told = [
        bus.step(s) for s in ("subscribed", "publisher-opened", "publisher-lost", "subscription-lost", "subscribed", "publisher-opened")
    ]
    assert told == [
        ("open-publisher",),
        ("send-queue",),
        ("open-publisher",),
        ("drop-publisher", "subscribe"),
        ("open-publisher",),
        ("send-queue",),
    ]


def test_every_state_of_the_table_has_a_line_in_its_docstring() -> None:
    import sim.bus.fallback as module

    states = set(get_args(State))
    for table in (TABLE, ALONE):
        assert {state for state, _ in table} | {after for after, _ in table.values()} <= states
    assert all(f"\n{state} " in (module.__doc__ or "") for state in states)


def test_the_page_of_faults_shows_the_table_as_it_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "faults.md").read_text("utf-8")
    assert f"```mermaid\n{diagram()}```" in page, "paste sim.bus.fallback.diagram() into docs/explanation/faults.md"


ROUTES: dict[tuple[State, ...], str] = {("connected", "deaf"): "broker", ("memory-only",): "memory", ("stopped",): "refuse"}


@pytest.mark.parametrize("state", get_args(State))
@pytest.mark.parametrize(
    ("fallback", "outage_queue", "alone"),
    [("on-failure", "none", "memory"), ("no-url", "none", "refuse"), ("on-failure", "keep", "queue"), ("no-url", "keep", "queue")],
)
def test_where_a_publish_goes_depends_on_the_state_and_the_policy_alone(state: State, fallback: str, outage_queue: str, alone: str) -> None:
    bus = Fallback(Policy(fallback=fallback, outage_queue=outage_queue), has_url=True)  # type: ignore[arg-type]
    bus.state = state
    assert bus.route() == next((route for states, route in ROUTES.items() if state in states), alone)
    assert bus.connected == (state == "connected")


@pytest.mark.parametrize("state", get_args(State))
def test_a_pod_that_stopped_stays_so_whatever_comes_later(state: State) -> None:
    bus = Fallback(Policy(), has_url=True)
    bus.state = state
    for stimulus in ("stopped", *get_args(Stimulus)):
        assert (bus.step(stimulus), bus.state, bus.route()) == ((), "stopped", "refuse")


@pytest.mark.parametrize(("reattach", "tries"), [("automatic", True), ("if-connected-once", True), ("restart", False)])
@pytest.mark.parametrize(
    ("lost", "after", "effects"),
    [
        (["subscription-lost"], "deaf", ["subscribe"]),
        (["publisher-lost"], "mute", ["open-publisher"]),
        (["subscription-lost", "publisher-lost"], "outage", []),
        (["publisher-lost", "subscription-lost"], "outage", ["drop-publisher", "subscribe"]),
    ],
)
def test_what_a_pod_that_was_connected_does_about_a_lost_connection(
    reattach: str, tries: bool, lost: list[Stimulus], after: State, effects: list[str]
) -> None:
    bus = Fallback(Policy(reattach=reattach), has_url=True)  # type: ignore[arg-type]
    bus.step("subscribed")
    bus.step("publisher-opened")
    *_, told = [bus.step(stimulus) for stimulus in lost]
    assert (bus.state, list(told)) == (after, [effect for effect in effects if tries or effect == "drop-publisher"])
