"""When a pod uses the broker and when only itself: one table of states, no I/O.

A pod has two connections: it *hears* on one and *speaks* on the other. Its state says which of them are up:

==============  ======  ======  ==========================================================================================
state           hears   speaks  meaning
==============  ======  ======  ==========================================================================================
memory-only     no      no      started without REDIS_URL: events stay in the pod, for ever
connecting      no      no      started, never connected yet
connected       yes     yes     normal
deaf            no      yes     it publishes and does not hear
mute            yes     no      it hears and cannot publish
outage          no      no      both connections are gone
stopped         no      no      ended
==============  ======  ======  ==========================================================================================

Rules
-----
1. Only `step` changes the state. A stimulus that the table does not have for a state changes nothing (it came too late).
2. Recovery subscribes first and opens the publishing connection second, so a pod never publishes before it hears; but where `recovery`
   is ``each-alone``, each connection comes back by itself (`ALONE`), and which one is first is chance.
3. What a publish does depends on the state and the policy alone (`route`).

Where the reference can be read in two ways, the policy decides; the first value of each is the default:

- ``fallback``: ``on-failure`` ("automatic in-memory fallback when Redis is unavailable") or ``no-url`` (its snippet tests only
  for a missing REDIS_URL: in an outage publishes are refused).
- ``reattach``: ``automatic`` ("the client automatically reconnects"), ``if-connected-once`` (a pod that started in the outage stays
  alone) or ``restart`` ("restart pods after Redis recovery to re-establish connections").
- ``outage_queue``: ``none`` (an event published in an outage is heard in its pod or by nobody) or ``keep`` (it is kept, up to
  a limit, and published after recovery).
- ``recovery``: ``subscriber-first`` (rule 2) or ``each-alone``, as two clients of ioredis do that know nothing of each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["memory-only", "connecting", "connected", "deaf", "mute", "outage", "stopped"]
Stimulus = Literal["connect-failed", "subscribed", "subscription-lost", "publisher-opened", "publisher-lost", "stopped"]
Effect = Literal["subscribe", "open-publisher", "drop-publisher", "send-queue"]
Route = Literal["broker", "memory", "queue", "refuse"]

TABLE: dict[tuple[State, Stimulus], tuple[State, tuple[Effect, ...]]] = {
    ("connecting", "subscribed"): ("mute", ("open-publisher",)),
    ("connecting", "connect-failed"): ("outage", ("subscribe",)),
    ("connected", "subscription-lost"): ("deaf", ("subscribe",)),
    ("connected", "publisher-lost"): ("mute", ("open-publisher",)),
    ("deaf", "subscribed"): ("connected", ()),
    ("deaf", "publisher-lost"): ("outage", ()),
    ("mute", "publisher-opened"): ("connected", ("send-queue",)),
    ("mute", "subscription-lost"): ("outage", ("drop-publisher", "subscribe")),
    ("outage", "subscribed"): ("mute", ("open-publisher",)),
}
ALONE: dict[tuple[State, Stimulus], tuple[State, tuple[Effect, ...]]] = {
    ("connecting", "subscribed"): ("mute", ()),
    ("connecting", "publisher-opened"): ("deaf", ("send-queue",)),
    ("connecting", "connect-failed"): ("outage", ()),
    ("connected", "subscription-lost"): ("deaf", ("subscribe",)),
    ("connected", "publisher-lost"): ("mute", ("open-publisher",)),
    ("deaf", "subscribed"): ("connected", ()),
    ("deaf", "publisher-lost"): ("outage", ("open-publisher",)),
    ("mute", "publisher-opened"): ("connected", ("send-queue",)),
    ("mute", "subscription-lost"): ("outage", ("subscribe",)),
    ("outage", "subscribed"): ("mute", ()),
    ("outage", "publisher-opened"): ("deaf", ("send-queue",)),
}
SPEAKING: tuple[State, ...] = ("connected", "deaf")
HEARING: tuple[State, ...] = ("connected", "mute")


@dataclass(frozen=True)
class Policy:
    """The choices that the reference leaves open."""

    fallback: Literal["on-failure", "no-url"] = "on-failure"
    reattach: Literal["automatic", "if-connected-once", "restart"] = "automatic"
    outage_queue: Literal["none", "keep"] = "none"
    recovery: Literal["subscriber-first", "each-alone"] = "subscriber-first"


class Fallback:
    """The state of one pod's bus.

    Attributes
    ----------
    state
        See the table above.
    """

    def __init__(self, policy: Policy, *, has_url: bool) -> None:
        self.policy = policy
        self.state: State = "connecting" if has_url else "memory-only"
        self._was_connected = False
        self._table = TABLE if policy.recovery == "subscriber-first" else ALONE

    @property
    def connected(self) -> bool:
        """What the reference's health check and `connection_status` say: both connections are up as far as the pod knows."""
        return self.state == "connected"

    def step(self, stimulus: Stimulus) -> tuple[Effect, ...]:
        """Take one stimulus and return what the driver must do, in order."""
        if stimulus == "stopped":
            self.state = "stopped"
            return ()
        row = self._table.get((self.state, stimulus))
        if row is None:
            return ()
        lost = stimulus in ("subscription-lost", "publisher-lost", "connect-failed")
        self.state, effects = row
        self._was_connected = self._was_connected or self.state == "connected"
        if lost and not self._may_reattach():
            return tuple(effect for effect in effects if effect == "drop-publisher")
        return effects

    def _may_reattach(self) -> bool:
        reattach = self.policy.reattach
        return reattach == "automatic" or (reattach == "if-connected-once" and self._was_connected)

    def route(self) -> Route:
        """Return where a publish goes now."""
        if self.state in SPEAKING:
            return "broker"
        if self.state == "memory-only":
            return "memory"
        if self.state == "stopped":
            return "refuse"
        if self.policy.outage_queue == "keep":
            return "queue"
        return "memory" if self.policy.fallback == "on-failure" else "refuse"


def diagram() -> str:
    """Return the table as a Mermaid state diagram, as docs/explanation/faults.md shows it."""
    lines = ["stateDiagram-v2", "    [*] --> connecting: REDIS_URL is set", "    [*] --> memory_only: REDIS_URL is not set"]
    for (state, stimulus), (after, effects) in TABLE.items():
        does = f" / {', '.join(effects)}" if effects else ""
        lines.append(f"    {state} --> {after}: {stimulus}{does}")
    return "\n".join(lines) + "\n"
