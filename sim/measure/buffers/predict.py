"""When does a server cut a subscriber that reads too little? Arithmetic only; `sim.measure.buffers.run` measures the same.

A copy for a subscriber that stands still waits first in the kernel's sockets, then in the server, in a client's own buffer that no
limit counts, then in its output buffer: a list of nodes.

Rules
-----
1. Every node counts with all that was allocated for it. So a limit is reached when the node is made that crosses it.
2. Hard limit: cut with the copy that reaches it.
3. Soft limit: the server compares whole seconds of its clock, and cuts when more than `soft_s` of them have begun since it was
   reached: up to a second later than `soft_s`. It looks at each copy, and at every client once a second besides.
4. Valkey 9 keeps a payload of 16 KB or more once for all its subscribers, and each one's nodes hold only what precedes it and a
   reference. So its limits are hardly ever reached by large payloads. A copy that a node's end would split costs a second node.
   Payloads of the node under way to the socket count: one, or as many as one turn queued, 64 KB at most.
5. What is in the sockets can still be read after the cut. What is in the output buffer is forgotten.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sim.errors import UsageError
from sim.grounds.model.costs import MIB, WINDOW_BYTES, OutputBufferLimit
from sim.machine.words import amount, count, duration
from sim.wire.resp import bulk_size, message_bytes

OWN_BYTES = 16 * 1024
TURN_BYTES = 64 * 1024  # a server writes no more than this, and the copy that crosses it, to a client in one turn
READING = (0.6, 1.45)  # what the sockets of one that reads take, relative to one that never read: 2.8 to 5.7 MB were seen


@dataclass(frozen=True)
class ServerRules:
    """How a server counts what waits for a subscriber.

    Attributes
    ----------
    node_bytes, node_extra_bytes
        What a node of the list holds, and what it counts beyond that.
    shared_from_bytes, reference_bytes, split_bytes
        From which payload on it is kept once for all (0 = never), what each subscriber's reference takes beside the words before it,
        and from which rest of a node on a copy is split.
    """

    name: str
    node_bytes: int
    node_extra_bytes: int
    shared_from_bytes: int = 0
    reference_bytes: int = 0
    split_bytes: int = 0


# Read from omem in CLIENT LIST, copy by copy; Redis asks for nodes of 16 KB, and its allocator gives 20.
REDIS_7 = ServerRules("Redis 7.0", node_bytes=20_464, node_extra_bytes=40)
VALKEY_9 = ServerRules("Valkey 9.1", node_bytes=16_384, node_extra_bytes=64, shared_from_bytes=16_384, reference_bytes=56, split_bytes=20)
RULES = {"valkey": VALKEY_9, "redis": REDIS_7}


def rules_of(info: dict[str, str]) -> ServerRules:
    """Return the rules of the server whose INFO server this is: those of a Valkey from 9 on, else Redis's."""
    version = info.get("valkey_version", "")
    return VALKEY_9 if version and int(version.partition(".")[0]) >= 9 else REDIS_7


@dataclass(frozen=True)
class Stall:
    """What comes for a subscriber, and how little it reads.

    Attributes
    ----------
    rate_per_s
        Copies for it each second, evenly.
    payload_bytes, channel_bytes
        Length of the envelope, and of the whole channel name.
    reads_bytes_per_s
        What it still reads; 0 = it stands still.
    """

    rate_per_s: float
    payload_bytes: int
    channel_bytes: int
    reads_bytes_per_s: float = 0.0

    @property
    def frame_bytes(self) -> int:
        """Length of one copy on the wire."""
        return message_bytes(self.channel_bytes, self.payload_bytes)

    @property
    def stays(self) -> float:
        """Share of what comes that is not read; 0 for a reader that keeps up."""
        comes = self.rate_per_s * self.frame_bytes
        return max(0.0, 1 - self.reads_bytes_per_s / comes) if comes else 0.0


@dataclass(frozen=True)
class Cutoff:
    """When a subscriber is cut; times are in seconds since it stands still, which is when the first copy comes.

    Attributes
    ----------
    by
        ``hard``, ``soft``, or ``never``.
    full_s
        When the sockets are full and the server begins to keep output; None for a reader that keeps up.
    earliest_s, latest_s
        It is cut between these; they differ by a soft limit's second (and the hard limit may come in between). None when never.
    kept_copies, forgotten_copies
        What then waits in the sockets and may still be read, and what waits in the server and is lost; both at the latest time.
    why
        One sentence.
    """

    by: str
    full_s: float | None
    earliest_s: float | None
    latest_s: float | None
    kept_copies: int
    forgotten_copies: int
    why: str


def predict_cut(
    stall: Stall,
    *,
    limit: OutputBufferLimit = OutputBufferLimit(),  # noqa: B008 - frozen
    rules: ServerRules = VALKEY_9,
    window_bytes: int = WINDOW_BYTES,
    began_s: float | None = None,
) -> Cutoff:
    """Return when the server cuts a subscriber that stands still, or reads too little.

    Parameters
    ----------
    limit
        client-output-buffer-limit pubsub of the server.
    window_bytes
        What the sockets take first, both ends together: `buslab calibrate` measures it.
    began_s
        Seconds of the server's clock when the first copy comes: then a soft limit's time is exact.

    Raises
    ------
    UsageError
        A number that cannot be.

    Notes
    -----
    Not counted: a reader that has read a lot may have a larger window, as kernels widen it (4.0 to 5.7 MB were seen, up to 33 MB
    are allowed on some machines); TLS; and bursts, of which one that is larger than the hard limit in a single turn of the server cuts
    whoever hears it, however fast it reads.
    """
    _check(stall, limit, window_bytes)
    if not stall.stays:
        why = "nothing is published to it" if not stall.rate_per_s else "it reads as fast as copies come"
        return Cutoff("never", None, None, None, 0, 0, f"{why}: the output buffer does not grow")
    full_s = window_bytes / stall.frame_bytes / stall.stays / stall.rate_per_s
    if not limit.hard_bytes and not limit.soft_bytes:
        return Cutoff("never", full_s, None, None, 0, 0, "there is no limit: the server keeps it all, until its memory ends")
    least, most = (share * window_bytes for share in READING) if stall.reads_bytes_per_s else (window_bytes, window_bytes)
    early = _reached_s(stall, limit, rules, least, early=True, began_s=began_s)
    late = _reached_s(stall, limit, rules, most, early=False, began_s=began_s)
    (hard_s, soft_s), (hard_late_s, soft_late_s) = early, late
    if hard_s <= soft_s:
        why = f"the hard limit of {_mib(limit.hard_bytes)} is reached"
        return _cut("hard", full_s, hard_s, min(hard_late_s, soft_late_s), stall, why)
    why = (
        f"more than the soft limit of {_mib(limit.soft_bytes)} waits for over {duration(limit.soft_s)}, "
        f"counted in whole seconds of its clock"
    )
    return _cut("soft", full_s, soft_s, min(hard_late_s, soft_late_s), stall, why)


def _check(stall: Stall, limit: OutputBufferLimit, window_bytes: int) -> None:
    numbers = {
        "rate_per_s": stall.rate_per_s, "payload_bytes": stall.payload_bytes, "channel_bytes": stall.channel_bytes,
        "reads_bytes_per_s": stall.reads_bytes_per_s, "hard_bytes": limit.hard_bytes, "soft_bytes": limit.soft_bytes,
        "soft_s": limit.soft_s, "window_bytes": window_bytes,
    }  # fmt: skip
    for name, value in numbers.items():
        if not 0 <= value < math.inf:
            raise UsageError(f"{name} = {value}: it is a number and not below 0")


def _reached_s(
    stall: Stall, limit: OutputBufferLimit, rules: ServerRules, window_bytes: float, *, early: bool, began_s: float | None
) -> tuple[float, float]:
    """Return when the hard and when the soft limit cuts, at the earliest or at the latest; infinite for no limit."""

    def counted_s(limit_bytes: int) -> float:
        if not limit_bytes:
            return math.inf
        return _copies(stall, limit_bytes, rules, window_bytes, early=early) / stall.stays / stall.rate_per_s

    soft_s = counted_s(limit.soft_bytes)
    if began_s is not None and soft_s < math.inf:
        soft_s = math.floor(began_s + soft_s) + limit.soft_s + 1 - began_s
    else:
        soft_s += limit.soft_s + (not early)
    return counted_s(limit.hard_bytes), soft_s


def _copies(stall: Stall, limit_bytes: int, rules: ServerRules, window_bytes: float, *, early: bool) -> int:
    """Return the copy with which a server counts so many bytes, when none is read."""
    frame, payload = stall.frame_bytes, stall.payload_bytes
    counts = rules.node_bytes + rules.node_extra_bytes
    if not rules.shared_from_bytes or payload < rules.shared_from_bytes:
        holds = max(rules.node_bytes, payload)
        nodes = math.ceil(limit_bytes / (holds + rules.node_extra_bytes))
        return int((window_bytes + OWN_BYTES + (nodes - 1) * holds) // frame) + 1
    under_way = payload * (max(1, TURN_BYTES // payload) if early else 1)
    nodes = math.ceil(max(1, limit_bytes - under_way) / counts)
    words = frame - bulk_size(payload)
    fit, rest = divmod(rules.node_bytes, words + rules.reference_bytes)
    split = rest >= rules.split_bytes
    return int(window_bytes // frame) + 1 + math.ceil((nodes - 1) / (2 if split else 1)) * (fit + split)


def _cut(by: str, full_s: float, earliest_s: float, latest_s: float, stall: Stall, why: str) -> Cutoff:
    per_s = stall.rate_per_s * stall.stays
    kept = int(full_s * per_s)
    return Cutoff(by, full_s, earliest_s, latest_s, kept, max(0, round(latest_s * per_s) - kept), why)


def _mib(size: float) -> str:
    return f"{size / MIB:,.0f} MiB" if size >= 100 * MIB else f"{size / MIB:.3g} MiB"


def say(cutoff: Cutoff, stall: Stall, *, rules: ServerRules) -> str:
    """Return a prediction as sentences."""
    if cutoff.full_s is None:
        return f"Never cut: {cutoff.why}."
    grows = stall.rate_per_s * stall.frame_bytes * stall.stays
    first = (
        f"The sockets take the first {duration(cutoff.full_s)}, at {_mib(grows)}/s ({count(stall.frame_bytes, 'byte')} a copy on the wire)"
    )
    if cutoff.earliest_s is None or cutoff.latest_s is None:
        return f"{first}; then the output buffer grows. Never cut: {cutoff.why}."
    exact = cutoff.latest_s - cutoff.earliest_s < 0.0005
    when = f"after {duration(cutoff.latest_s)}" if exact else f"between {duration(cutoff.earliest_s)} and {duration(cutoff.latest_s)}"
    fate = (
        f"{count(cutoff.forgotten_copies, 'copy in its buffer is', 'copies in its buffer are')} forgotten, "
        f"{amount(cutoff.kept_copies)} in the sockets can still be read"
    )
    if rules.shared_from_bytes and stall.payload_bytes >= rules.shared_from_bytes:
        fate += f". Until then the server holds {_mib(cutoff.forgotten_copies * stall.payload_bytes)} of payloads that no limit counts"
    return f"{first}; then the output buffer grows. {rules.name} cuts it {when}: {cutoff.why}; {fate}."
