"""What is true of a whole run, as run.json holds it: one struct that the live half fills in and the offline half reads.

Rules
-----
1. The fields are the keys of run.json, in its order. A field that is None is not known (yet), and its key is not in the file.
2. A key that is not a field is passed over: a newer writer of this format may add some. A key that is missing, or of another type,
   makes the file unreadable: it was damaged or edited.
3. What a run of this format wrote before a key was added is read as what was true then (`_as_written_now`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec

from sim.errors import RunFolderError
from sim.record.checksum import is_whole, read_json, with_checksum
from sim.record.schema import FORMAT, RUN_STATES

Nanoseconds = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Phase(msgspec.Struct, omit_defaults=True):
    """One phase of a run (see `schema.PHASES`); without an end it had not ended."""

    name: str
    start_ns: Nanoseconds
    end_ns: Nanoseconds | None = None


class LoadInfo(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a run's load was meant to be, and what became of it.

    Attributes
    ----------
    offered_calls, offered_reads
        Application calls and reads of caches that the schedule meant to make in warm-up and run.
    generators
        The processes that published, by their names in `hosts.host`.
    calls
        Calls that were made.
    calls_not_made
        Calls whose pod was not running: its application was gone too.
    record_kept
        Whether the generator lived to hand over what it recorded.
    closed_by_server
        How often the generator found, before a publish, that the server had closed its connection, and connected anew.
    """

    offered_calls: Count | None = None
    generators: list[str] = []
    offered_reads: Count | None = None
    calls: Count | None = None
    calls_not_made: Count | None = None
    record_kept: bool | None = None
    closed_by_server: Count | None = None


class LostProcess(msgspec.Struct, frozen=True, omit_defaults=True):
    """A process of pods whose record was lost with its machine while the run went on (`hosts.on_loss = "count"`).

    Attributes
    ----------
    host
        Its name, as in the tables.
    pods
        The pods that it held.
    publishers
        Their numbers in event keys.
    calls
        How many calls they were meant to make until then: so many events at most, of which no publish is recorded.
    at_ns, reason
        When that was noticed, and what was.
    """

    host: str
    pods: list[str]
    publishers: list[int]
    calls: Count
    at_ns: Nanoseconds
    reason: str


class ProgramLife(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One incarnation of a pod that is a program, from its start to its end.

    Attributes
    ----------
    number
        Counts the incarnations of the pod from 1.
    started_ns, up_ns, ended_ns
        When its process was started, was up by the scenario's rule (0 = never), and was gone.
    end
        One of `PROGRAM_ENDS`.
    code
        Its exit code; negative for the signal that ended it.
    why
        Of an end by itself: the last lines of its output.
    log, left_out
        The file of its output in the run folder, and how many bytes of it were left out there.
    heard, handled, published
        Copies that its tap gave to it, those that it handled (as it reported), and events that it sent.
    unhandled, on_the_way
        Copies that it had been given and had not reported when it ended, and those of the last moment before it was told to stop, or after
        that; None where it does not report.
    unknown_reports
        Reports of events that were never given to it.
    outside
        Events on channels that are not of the bus.
    unread
        Bytes that passed through its tap and could not be read.
    round_tap
        Connections of its own to the broker that were seen to go round its tap.
    """

    pod: str
    number: int
    started_ns: Nanoseconds
    up_ns: Nanoseconds = 0
    ended_ns: Nanoseconds = 0
    end: str
    code: int
    why: str = ""
    log: str = ""
    left_out: Count = 0
    heard: Count = 0
    handled: Count = 0
    published: Count = 0
    unhandled: Count | None = None
    on_the_way: Count = 0
    unknown_reports: Count = 0
    outside: Count = 0
    unread: Count = 0
    round_tap: list[str] = []


# How a program ended.
PROGRAM_ENDS = {
    "in-order": "it was told to stop, and ended in its grace period",
    "after-grace": "it was told to stop, and was killed when its grace period was over",
    "killed": "the lab killed it: a fault, or the run's early end",
    "by-itself": "nobody had told it to",
}


class SealedTable(msgspec.Struct, frozen=True, omit_defaults=True):
    """Size and checksum of a sealed table; the oldest runs of this format have no checksum.

    `sources` says which process wrote its rows, as many in turn: only where not all of them read one clock.
    """

    rows: Count
    bytes: Count
    crc32: int | None = None
    sources: list[tuple[str, Count]] | None = None


class RunInfo(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The content of run.json. It is not frozen: a run fills it in from its first step to its seal.

    Attributes
    ----------
    nodes
        Of how many servers the broker is made.
    nonce
        The upper 15 bits of the run's event keys.
    state, reason
        See `schema.RUN_STATES`; the reason of an interruption or a failure, else empty.
    started_at, wall_offset_ns
        ISO time in UTC; wall clock minus CLOCK_MONOTONIC.
    phases
        In order.
    fleet
        ``ours``, or ``none`` where the pods were there already.
    notes
        Sentences for the reader.
    links_us
        Where pods reach the broker through links that can be made bad, what they add to a round trip with no fault on them
        (``direct_p50``, ``through_p50``, …); empty else.
    lost
        The processes of pods whose record was lost, where the run went on without them; else not there.
    programs
        The lives of the pods that are programs, in the order of their ends; None where there are none.
    changed
        Which settings differ from those of the built-in scenario of the same name, as ``load.rate_per_s = 500 (built-in: 200)``; None where
        no built-in scenario has the name, and in older runs.
    recovered
        Whether, after the load, every pod that runs heard a probe again.
    tables, scenario_crc32
        Once sealed: what each table is, and the checksum of scenario.toml.
    files
        Once sealed: the checksum of every other file that was there then, by its path in the folder; older runs have none.
    """

    format: int
    scenario: str
    ground: str
    nodes: int
    seed: int
    driver: str
    nonce: int
    state: str
    reason: str
    started_at: str
    wall_offset_ns: Nanoseconds
    phases: list[Phase]
    load: LoadInfo
    fleet: str
    notes: list[str]
    links_us: dict[str, float] | None = None
    lost: list[LostProcess] | None = None
    programs: list[ProgramLife] | None = None
    changed: list[str] | None = None
    recovered: bool | None = None
    tables: dict[str, SealedTable] | None = None
    scenario_crc32: int | None = None
    files: dict[str, int] | None = None


def content_of(info: RunInfo) -> dict[str, Any]:
    """Return what goes into run.json: the struct, and the checksum of all of it (`sim.record.checksum`)."""
    content: dict[str, Any] = msgspec.to_builtins(info)
    return with_checksum(content)


def read_info(path: Path) -> RunInfo:
    """Return what a run.json says.

    Raises
    ------
    RunFolderError
        It is missing, of another format, or was damaged or edited.
    """
    content = read_json(path)
    if not is_whole(content):
        raise RunFolderError(f"{path} was damaged or changed after the run: its checksum differs; copy it again or repeat the run")
    if content.get("format") != FORMAT:
        raise RunFolderError(f"{path} is of format {content.get('format')!r}, this version reads {FORMAT}; use the version that wrote it")
    try:
        info = msgspec.convert(_as_written_now(content), RunInfo)
    except msgspec.ValidationError as error:
        raise RunFolderError(f"cannot read {path}: {error}; the file is damaged, copy it again or repeat the run") from error
    if info.state not in RUN_STATES:
        raise RunFolderError(f"{path}: state is {info.state!r}, not one of {', '.join(RUN_STATES)}; the file is damaged")
    return info


def _as_written_now(content: dict[str, Any]) -> dict[str, Any]:
    """Return a run.json of this format as a run of today would have written it."""
    content = {"nodes": 1, "fleet": "ours", **content}
    load = content.get("load")
    if isinstance(load, dict) and "generators" not in load and "generator" in load:  # from a time when a run had one generator at most
        content["load"] = load | {"generators": [load["generator"]]}
    return content
