"""The seam between the live half and the offline half: what a run folder holds.

The live half writes these tables, the offline half reads them; nothing else passes between them.

Rules
-----
1. Times are nanoseconds of the CLOCK_MONOTONIC of the process that wrote the row, comparable across the processes of one machine. Of a
   process with another clock than the run's the table `clocks` says how the two went. Its rows are kept as it wrote them; whoever reads
   them to judge puts its times (`TIMES`) into the run's clock (`sim.results.run_clocks`).
2. A column of type ``name`` holds a word from a small set and is dictionary-encoded (Categorical in pandas). Its first
   `MAX_WORDS` words are kept; any further one becomes `OTHERS`. A column of type ``text`` holds any number of short texts.
3. Rows of one pod stand in the order in which the pod heard them.
4. 0 in a time column means "did not happen".

Event keys
----------
An event id that this lab made is ``evt_`` and 16 hex digits: a 63-bit key, ``run nonce (15) | publisher (16) |
sequence (32)``. The sequence rises by one per event of a publisher. Any other id (another program's) is hashed and has the top bit set.

What is true of the whole run stands in run.json: `sim.record.run_info`.
"""

from __future__ import annotations

import hashlib

FORMAT = 3

LATER_TABLES = ("keys", "identities", "clocks")  # that run folders from before do not have
MAX_WORDS = 60_000  # of one `name` column, because codes are uint16
OTHERS = "(others)"

# table -> what one of its rows stands for.
ROWS = {
    "publishes": "an event that a publisher sent, or meant to",
    "keys": "a call whose channel has a business key, in the event that carried it",
    "identities": "an event that travelled without an id",
    "calls": "a call of an application",
    "deliveries": "a copy that a pod heard",
    "reads": "a read of what a pod keeps in a cache",
    "pods": "a change of a pod's state, or of what it believes of its connections",
    "faults": "a fault on its target, once each time it was on",
    "broker": "a number that the broker, or the lab asking it, gave",
    "hosts": "a sample of a process of the lab",
    "probes": "a question of the kubelet",
    "clocks": "a time at which the clock of a process with another clock than the run's was compared with the run's",
}

# table -> column -> (type, meaning). `name` is a dictionary-encoded string, `text` a string, the rest are numpy type names.
COLUMNS: dict[str, dict[str, tuple[str, str]]] = {
    "publishes": {
        "event": ("uint64", "event key"),
        "channel": ("name", "event type, without the channel prefix"),
        "publisher": ("name", "who sent it; one publisher = one connection = one sequence"),
        "items": ("uint32", "calls of the application that this event carries; 0 for a probe"),
        "bytes": ("uint32", "encoded size of the envelope; 0 where its process was killed before it was encoded"),
        "first_item_ns": ("int64", "intended time of its oldest item"),
        "items_wait_ns": ("int64", "sum over its items of (intended_ns - the item's intended time)"),
        "intended_ns": ("int64", "when the schedule (or the batcher's rule) meant it to be sent"),
        "sent_ns": ("int64", "when it was handed to the socket"),
        "acked_ns": ("int64", "when PUBLISH was answered"),
        "outcome": ("name", "see OUTCOMES"),
        "receivers": ("int32", "what PUBLISH returned, of its node's subscribers; -1 = no answer, or one that does not say (a stream's)"),
        "subject": ("name", "what an invalidation is about: the cache key or pattern that it names; empty otherwise"),
        "stamped_ns": (
            "int64",
            "when it was made, as its timestamp says: by its publisher's wall clock; 0 = never encoded",
        ),
    },
    "keys": {
        "event": ("uint64", "event key"),
        "channel": ("name", "event type"),
        "item": ("uint32", "its place in the event's batch; 0 of an event that is a call of its own"),
        "key": ("text", "the business key; empty where the call has none at its pointer"),
    },
    "identities": {
        "event": ("uint64", "event key"),
        "identity": ("uint64", "the hash of its payload, by which pods knew it: so it stands in `deliveries`"),
    },
    "calls": {
        "intended_ns": ("int64", "when the schedule meant the application to call; without a schedule, when it did"),
        "publisher": ("name", "as in `publishes`"),
        "channel": ("name", "event type"),
        "took_ns": ("int64", "from the call to its return: what the caller's own code waited"),
        "outcome": ("name", "see CALL_OUTCOMES"),
    },
    "deliveries": {
        "event": ("uint64", "event key"),
        "pod": ("name", "who heard it"),
        "received_ns": ("int64", "the read that brought it returned"),
        "handled_ns": ("int64", "its handler started"),
        "path": ("name", "broker | memory"),
        "outcome": ("name", "handled | skipped | failed"),
    },
    "reads": {
        "at_ns": ("int64", "when it was read"),
        "pod": ("name", "whose cache it was"),
        "subject": ("name", "the cache key that was read"),
        "loaded_ns": ("int64", "when the copy that was served was loaded from the database; at_ns for a miss"),
        "outcome": ("name", "hit | miss"),
    },
    "pods": {
        "pod": ("name", "its name: its service and its number"),
        "service": ("name", "its service"),
        "host": ("name", "the process that holds it, as in `hosts`"),
        "channels": ("name", "event types it is meant to hear, comma-separated"),
        "at_ns": ("int64", "when it changed"),
        "state": ("name", "see POD_STATES"),
        "bus": (
            "name",
            "see `bus.fallback`: what the pod itself believes of its connections; of a program `connected` or `not-ready`, as its "
            "readiness says, or `untold`",
        ),
        "clock_ahead_ns": ("int64", "how far its wall clock is ahead of the true time from now on"),
    },
    "faults": {
        "fault": ("name", "its kind"),
        "target": ("name", "pods, comma-separated, or `broker`"),
        "begin_ns": ("int64", "when it began"),
        "end_ns": ("int64", "when it was healed; 0 = not any more in this run"),
        "felt": ("name", "see FELT; empty in a run folder from before there was this column"),
        "felt_ns": ("int64", "when the first of it was carried out; 0 = nothing was"),
    },
    "broker": {
        "at_ns": ("int64", "when it was asked"),
        "metric": ("name", "the list, with what the subject of each is, stands at the head of sampler.py"),
        "subject": ("name", "what it is about: a channel, a pod, a node of several (HOST:PORT), or empty for the whole broker"),
        "value": ("float64", "the number, in the unit that the metric's name ends in"),
    },
    "hosts": {
        "at_ns": ("int64", "when it was sampled"),
        "host": (
            "name",
            "a process that holds pods (`sim.pods.hosts`), the load generator, beside processes of pods the run itself, the proxy of "
            "links, a program (`PROGRAM`), or a server of ours (`BROKER`)",
        ),
        "cpu_ns": ("int64", "processor time of the process since it started, of a server or the proxy since it was first seen"),
        "loop_lag_ns": ("int64", "worst lateness of a timer since the row before; -1 of a server or the proxy, which do not tell"),
        "waited_ns": ("float64", "how long its threads could have run and had no core, summed"),
        "stood_ns": ("float64", "how long it neither ran nor waited for a core although it was due: stopped, or held by the kernel"),
        "throttled_ns": ("float64", "how long its cgroup, and those above it, were throttled"),
        "major_faults": ("float64", "its page faults that had to wait for a disk"),
        "steal_ns": ("float64", "of the machine: how long its processors could have run and their host ran others, summed"),
        "pressure_ns": ("float64", "of the machine: how long some task waited for a core (/proc/pressure/cpu)"),
        "swapped_in": ("float64", "of the machine: pages read back from swap"),
        "suspended_ns": ("float64", "of the machine: how long it was suspended, in which the clock of all times here stands"),
        "wall_offset_ns": ("float64", "its wall clock - the clock of all times here: a jump is a step of the wall clock"),
    },
    "probes": {
        "at_ns": ("int64", "when the kubelet asked"),
        "pod": ("name", "whom it asked"),
        "probe": ("name", "live | ready"),
        "status": ("int32", "of HTTP; 0 = no answer"),
        "body": ("name", "as it came; without an answer, one of NO_ANSWER"),
    },
    "clocks": {
        "host": ("name", "the process, as in `hosts`, and in the names of the parts that it wrote"),
        "clock": ("name", "what processes that read the same clock have in common"),
        "way": ("name", "see CLOCK_WAYS"),
        "at_ns": ("int64", "when, by the clock of this process"),
        "offset_ns": ("int64", "how far its clock was ahead of the run's"),
        "drift_ppm": ("float64", "by how many millionths its clock was faster than the run's from then until the next row"),
        "round_trip_ns": ("int64", "how long the round trip took that showed it: the fastest of its time"),
        "residual_ns": ("int64", "how far other trips until the next row lie from the line between the two"),
        "bound_ns": ("int64", "by how much a time until the next row may be wrong in the run's clock"),
    },
}

# table -> columns that folders from before they were do not have. They count from any beginning, so only differences say something, and
# are null where the platform does not tell, or this row was not the one to ask (what is of the machine is asked once a second).
OPTIONAL = {
    "hosts": (
        "waited_ns",
        "stood_ns",
        "throttled_ns",
        "major_faults",
        "steal_ns",
        "pressure_ns",
        "swapped_in",
        "suspended_ns",
        "wall_offset_ns",
    )
}

BROKER = "broker"  # the first word of the `host` of a server of ours; of several nodes, the node (HOST:PORT) follows
PROXY = "proxy"  # the first word of the `host` of the proxy of links; `proxy taps` is that of the taps of programs
PROGRAM = "program"  # the first word of the `host` of a program of the user's own; its pod and the number of its start follow

# table -> column -> type, as the files are written and read.
TABLES: dict[str, dict[str, str]] = {table: {name: kind for name, (kind, _) in columns.items()} for table, columns in COLUMNS.items()}

# Columns that run folders from before do not have -> what they are read as there.
LATER_COLUMNS: dict[str, dict[str, str | int]] = {
    "faults": {"felt": "", "felt_ns": 0},
    "publishes": {"stamped_ns": 0},
    "pods": {"clock_ahead_ns": 0},
}

# table -> columns that are times of the clock of the process that wrote the row, and not how long something took. `clocks` itself has
# none: it is what times are translated by.
TIMES: dict[str, tuple[str, ...]] = {
    "publishes": ("first_item_ns", "intended_ns", "sent_ns", "acked_ns", "stamped_ns"),
    "calls": ("intended_ns",),
    "deliveries": ("received_ns", "handled_ns"),
    "reads": ("at_ns", "loaded_ns"),
    "pods": ("at_ns",),
    "faults": ("begin_ns", "end_ns", "felt_ns"),
    "broker": ("at_ns",),
    "hosts": ("at_ns",),
    "probes": ("at_ns",),
}

# How the clock of a process was compared with the run's.
CLOCK_WAYS = {
    "echo": "the process answered the run directly",
    "broker": "the run could not reach the process: question and answer went through the broker, on a channel of the lab's own",
}

NOT_COMPARED_NS = 1 << 60  # the `bound_ns` of a process whose clock was compared with nothing

RUN_STATES = {
    "running": "not sealed: still going, or its process was killed and no command of the lab came after it",
    "killed": "not sealed: its process was killed, as a later command found; what was written by then is kept",
    "complete": "every phase was reached",
    "interrupted": "ended early by Ctrl-C, SIGTERM or SIGHUP; what was recorded is kept",
    "failed": "ended early by an error; what was recorded is kept",
}

# What became of a publish, as its publisher saw it.
OUTCOMES = {
    "acknowledged": "the broker answered PUBLISH",
    "refused": "the broker was not reachable or answered with an error: nothing was delivered",
    "unknown": "the bytes left and no answer came: neither lost nor delivered can be claimed",
    "memory": "published only inside the pod, in memory mode",
    "never-sent": "its publisher ended before it was sent",
}

# What was known of a call when it returned. A call may carry several items, and an item may wait in a batch.
CALL_OUTCOMES = {
    "ok": "queued, handed to the socket or kept; what becomes of it stands in `publishes`. By HTTP: answered with success",
    "failed": "what it carried could not be encoded and was dropped, or its publish was refused at once. By HTTP: no such answer",
}

# How far a fault was carried out in its time. What it means to hurt may be away then: a broker that another fault took down.
FELT = {
    "whole": "as it was meant",
    "late": "only some time after it began: until then what it hurts was away",
    "in part": "not on all that it was meant for, not all the time, or not on all of it at the same time",
    "late, in part": "both",
    "not at all": "what it hurts was away until the fault was over",
}

# Why a probe of the kubelet had no answer.
NO_ANSWER = {
    "refused": "nothing listens on the pod's port",
    "timeout": "no whole answer came in time",
    "closed": "the connection ended before the answer did, or what came is not HTTP",
}

# A call whose `channel` is no event type: one item POSTed to an analytics-service pod, the way before the bus. It publishes nothing.
HTTP_CALL = "http.events.batch"

POD_STATES = {
    "starting": "alive, not yet subscribed",
    "subscribed": "the broker confirmed every subscription",
    "disconnected": "the subscribing connection is gone; the pod reconnects",
    "frozen": "alive and standing still, as after SIGSTOP; the row after it says how it goes on",
    "stopped": "ended gracefully",
    "aborted": "ended without flushing",
}
ALIVE_STATES = ("starting", "subscribed", "disconnected", "frozen")

PHASES = {
    "provision": "broker and load generator come up",
    "start": "the pods connect and subscribe",
    "probe": "one event per channel until every pod has heard it; time zero follows",
    "warm-up": "load that is not judged",
    "run": "load that is judged",
    "heal": "every fault is ended, and every subscription is proven again",
    "drain": "publishers flush, then the subscribers hear what is on its way",
}

FATES = {
    "delivered": "expected, and heard at least once",
    "duplicate": "heard again by a pod that had heard it",
    "missing": "expected, never heard; has a cause",
    "unexpected": "heard by a pod that should not have, or an event nobody published",
    "unknown": "not heard, and whether it was published is not known",
}

CAUSES = {
    "never-sent": "the publisher ended before sending it",
    "publish-refused": "the broker did not take it",
    "sent-in-memory-mode": "published only inside its own pod",
    "deaf": "the pod was not subscribed when it was published",
    "cut": "the broker closed the pod's connection for a full output buffer",
    "cut-link": "the network between broker and pod lost it",
    "taken-by-peer": "another pod of its service took it: a consumer group hands an entry to one consumer",
    "pod-down": "the pod was not running any more",
    "behind": "its pod's handlers were behind, and the run ended before it had read it",
    "no-pod": "no pod of the service was alive when it was published: the one copy that the service is owed then",
    "not-whole": "the cluster was hurt and not whole again: the node that took it did not reach the pod's",
    "keys-lost": "the broker lost what it kept for the pods before one of them had handled it",
    "trimmed": "so many events came after it that the broker dropped it from its stream before a pod had handled it",
    "unexplained": "no evidence explains it: the verdict cannot be better than unknown",
}

# SLO keys a scenario may set, each an upper bound unless it ends in `_min`. All over the `run` phase, and NaN where nothing happened that
# they are about. What is not known for sure is an interval. Some can be of one service or channel: `sim.record.limits`.
SLO_METRICS = {
    "lag_ms_p50": "median lag, milliseconds",
    "lag_ms_p90": "90th percentile of lag, milliseconds",
    "lag_ms_p99": "99th percentile of lag, milliseconds",
    "lag_ms_p999": "99.9th percentile of lag, milliseconds",
    "lag_ms_p9999": "99.99th percentile of lag, milliseconds",
    "lag_ms_max": "greatest lag, milliseconds",
    "missing": "missing copies; of a service without a living pod, one copy an event",
    "missing_ratio": "missing copies / expected copies",
    "unserved": "events that none of a service's pods heard, counted once for each such service",
    "unserved_ratio": "unserved / events that services should hear, counted once for each service",
    "half_served": "events that some of a service's pods heard and some did not, counted once for each such service",
    "duplicates": "copies heard again by a pod that had heard them",
    "unexpected": "copies nobody should have heard",
    "out_of_order": "deliveries that overtook an earlier event of their publisher and channel",
    "handled_twice": "events run more than once despite a recipe: by a service or, with bus.once_scope = 'event', by all together",
    "handled_never": "events that no pod ran although the bus has a recipe: of a service or, with bus.once_scope = 'event', of any",
    "handled_elsewhere": "events of a service that it never ran because another service had their lock (bus.once_scope = 'event')",
    "stale_reads": "reads of caches that were served a copy older than the newest update",
    "stale_ms_p99": "99th percentile of how long a stale read's copy had been out of date, milliseconds",
    "stale_ms_max": "greatest time that a stale read's copy had been out of date, milliseconds",
    "stated_age_ms_p99": "99th percentile of an event's age by its timestamp and the clock of the pod that handles it, milliseconds",
    "stated_age_ms_max": "greatest age of an event by its timestamp and the clock of the pod that handles it, milliseconds",
    "from_future": "copies whose event was made later, by its timestamp, than it is by the clock of the pod that handles it",
    "send_delay_ms_p99": "99th percentile of (sent - intended), milliseconds",
    "time_to_notice_s_max": "greatest time from the beginning of a fault until a pod noticed it, seconds",
    "time_to_recover_s_max": "greatest time from the end of a fault until a pod that had noticed it was connected again, seconds",
    "truth_gap_s_max": "greatest time that one pod called itself connected while it did not hear or its publishes had no answer, seconds",
    "heard_only_here": "events that only the pod that published them heard: in memory mode",
    "steady_s_max": "longest time from a fault's end until every pod was connected and, before the next, no copy was lost, seconds",
    "deaf_s_max": "greatest time from the end of a fault until a pod heard again, seconds",
    "deaf_copies": "copies that a pod lost after the end of a fault because it did not hear yet",
    "deaf_untold": "times that a pod lost copies in a fault or after it and its application was not told",
    "items_lost": "items of batches that no pod heard",
    "item_age_ms_p99": "99th percentile over the delivered batches of their oldest item's age when it was handled, milliseconds",
    "item_age_ms_max": "greatest age of an item when it was handled, milliseconds",
    "backlog_drain_s_max": "greatest time from the end of an outage until no batch that a publisher had kept stood any more, seconds",
    "utilisation_max": "greatest share of what a pod's handlers can do that was asked of them",
    "queue_max": "most events that were sent and waited for the handlers of one pod at a time",
    "drain_s_max": "greatest time from the end of the load until a pod had begun all that was sent in it, seconds",
    "call_ms_p99": "99th percentile of how long a fire-and-forget call took, milliseconds",
    "call_ms_p999": "99.9th percentile of how long a fire-and-forget call took, milliseconds",
    "call_ms_max": "greatest time that a fire-and-forget call took, milliseconds",
    "calls_failed": "fire-and-forget calls whose content was dropped or whose publish was refused at once",
    "offered_ratio_min": "calls made / calls the schedule meant running pods to make",
}

# Those of them that are times from what one process did to what another did: between two clocks they are as exact as these are known. Lag
# is one too, copy by copy.
TIMES_BETWEEN_PROCESSES = (
    "item_age_ms_p99",
    "item_age_ms_max",
    "stale_ms_p99",
    "stale_ms_max",
    "stated_age_ms_p99",
    "stated_age_ms_max",
    "time_to_notice_s_max",
    "time_to_recover_s_max",
    "truth_gap_s_max",
    "steady_s_max",
    "deaf_s_max",
    "drain_s_max",
)

EVENT_ID_PREFIX = "evt_"
FOREIGN_BIT = 1 << 63
_HEX = frozenset("0123456789abcdef")


def source_of(part: str, table: str) -> str:
    """Return which process wrote a part, by the name of its file without the ending: ``<table>-<source>-<n>``."""
    return part.removeprefix(f"{table}-").rpartition("-")[0]


def compose_key(*, nonce: int, publisher: int, sequence: int) -> int:
    """Return the event key of a publisher's n-th event (15, 16 and 32 bits)."""
    return (nonce & 0x7FFF) << 48 | (publisher & 0xFFFF) << 32 | (sequence & 0xFFFFFFFF)


def event_id(key: int) -> str:
    """Return the event id of a key."""
    return f"{EVENT_ID_PREFIX}{key:016x}"


def event_key(event_id: str) -> int:
    """Return the key of an event id; another program's id is hashed into the range above `FOREIGN_BIT`."""
    digits = event_id[4:]
    if len(digits) == 16 and event_id.startswith(EVENT_ID_PREFIX) and _HEX.issuperset(digits):
        key = int(digits, 16)
        if key < FOREIGN_BIT:
            return key
    return hashed_key(event_id.encode("utf-8", "surrogatepass"))


def hashed_key(content: bytes) -> int:
    """Return the key of what has no key of ours, in the range above `FOREIGN_BIT`: the hash (BLAKE2b) of its id, or of its payload."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") | FOREIGN_BIT
