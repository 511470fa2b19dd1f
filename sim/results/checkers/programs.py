"""Judge the pods that are programs by how they lived: did they run until they were told to stop, and handle what they had heard?

- **ended by itself**: its process ended and nobody had told it to: neither a fault, nor the kubelet, nor the end of the run.
- **given and not handled**: of a program that reports what it handles (`reports_handled`): it had been given an event, by its tap, and
  had not reported it when it ended. Where it was told to stop and ended in its grace period, it had the time to handle it, or to leave it
  where somebody else finds it; where it was killed, or ended by itself, that is what a kill costs. What was given to it in the last quarter
  of a second before it was told to stop, or after that, may not have been read: it is counted, and no finding.
- **past its grace**: it was told to stop, did not end in time and was killed.
- **round the tap**: a connection of its own to the broker that its tap did not see.

A program that ended by itself, or left events when it had been told to stop, makes the run invalid. What passes round a tap, or through
it and could not be read, is in no book: then the run is unknown.
"""

from __future__ import annotations

from sim.machine.words import count, duration, times
from sim.record.run_info import ProgramLife
from sim.record.schema import event_id
from sim.results.checkers.verdict import MAX_WITNESSES, Result
from sim.results.heard import RESULTS
from sim.results.opened_run import Run

MOST_NAMED = 3


def check(run: Run) -> Result:
    """Count the lives of programs by their ends, and what they left."""
    lives = run.info.programs
    if not lives:
        text = "no pod is a program" if lives is None else "no program has ended: the run has no account of them"
        return Result("valid" if lives is None else "unknown", text)
    by_itself = [one for one in lives if one.end == "by-itself"]
    left = [one for one in lives if one.unhandled and one.end == "in-order"]
    lost = [one for one in lives if one.unhandled and one.end != "in-order"]
    late = [one for one in lives if one.end == "after-grace"]
    counts: dict[str, int | float] = {"lives": len(lives), "by_itself": len(by_itself), "past_grace": len(late)}
    counts |= {"killed": sum(one.end == "killed" for one in lives)}
    counts |= {word: sum(getattr(one, word) for one in lives) for word in ("heard", "handled", "published")}
    counts |= {
        "on_the_way": sum(one.on_the_way for one in lives),
        "left": _unhandled(left),
        "lost": _unhandled(lost),
        "unread_bytes": sum(one.unread for one in lives),
    }
    counts |= {"round_tap": sum(len(one.round_tap) for one in lives), "unknown_reports": sum(one.unknown_reports for one in lives)}
    warnings = _warnings(run, lives, late, lost)
    broken = [_of_life(run, one) for one in by_itself[:MOST_NAMED]] + [_of_left(one) for one in left[:MOST_NAMED]]
    if broken:
        witnesses = _witnesses(run, left or by_itself)
        return Result("invalid", "; ".join(broken), counts=counts, witnesses=witnesses, warnings=warnings)
    if hidden := _hidden(lives):
        return Result("unknown", hidden, counts=counts, warnings=warnings)
    return Result("valid", _sentence(counts, lives), counts=counts, warnings=warnings)


def _unhandled(lives: list[ProgramLife]) -> int:
    return sum(one.unhandled or 0 for one in lives)


def _of_life(run: Run, one: ProgramLife) -> str:
    at_s = (one.ended_ns - run.run_span[0]) / 1e9
    when = f"{duration(at_s)} into the run phase" if at_s >= 0 else "before the run phase"
    return f"{one.pod} ended by itself {when}, {one.why}"


def _of_left(one: ProgramLife) -> str:
    many = count(one.unhandled or 0, "event")
    return f"{one.pod} was told to stop, ended in its grace period, and left {many} that it had been given and had not handled"


def _hidden(lives: list[ProgramLife]) -> str:
    """Return what passed that is in no book, empty where nothing did."""
    found = [
        f"{one.pod} has connections of its own to the broker that go round its tap ({', '.join(one.round_tap)}): what passes there "
        "is in no book; let it connect to REDIS_URL alone"
        for one in lives
        if one.round_tap
    ]
    found += [
        f"{one.unread:,} bytes passed through the tap of {one.pod} and could not be read: what was in them is in no book"
        for one in lives
        if one.unread
    ]
    return "; ".join(found[:MOST_NAMED])


def _sentence(counts: dict[str, int | float], lives: list[ProgramLife]) -> str:
    pods = len({one.pod for one in lives})
    text = f"{count(pods, 'program')} ran until told to stop" if pods > 1 else "the program ran until it was told to stop"
    if len(lives) > pods:
        text += f", started {times(len(lives))} in all"
    text += f"; {'they were' if pods > 1 else 'it was'} given {count(counts['heard'], 'copy')}"
    text += f" and sent {count(counts['published'], 'event')}"
    if any(one.unhandled is not None for one in lives):
        lost = f", {counts['lost']:,.0f} were lost with a process that was killed" if counts["lost"] else ""
        text += f"; {count(counts['handled'], 'copy was', 'copies were')} reported as handled{lost}"
    return text


def _warnings(run: Run, lives: list[ProgramLife], late: list[ProgramLife], lost: list[ProgramLife]) -> list[str]:
    services = run.scenario.get("services", {})
    owner = {history.pod: history.service for history in run.pod_histories}
    found = []
    for one in late[:MOST_NAMED]:
        settings = services.get(owner.get(one.pod, ""), {})
        told = f"told to stop by {settings.get('stop', 'SIGTERM')}"
        found.append(f"{one.pod} was {told}, had not ended when its grace period was over, and was killed")
    for one in lost[:MOST_NAMED]:
        found.append(f"{one.pod} had {count(one.unhandled or 0, 'event')} given and not handled when it was killed or ended")
    if left_out := sum(one.left_out for one in lives):
        many = count(left_out, "byte was", "bytes were")
        found.append(f"of the output of programs {many} left out: their logs hold its beginning and its end")
    if reports := sum(one.unknown_reports for one in lives):
        found.append(f"{count(reports, 'report')} of events that no tap had given to the program")
    return found


def _witnesses(run: Run, lives: list[ProgramLife]) -> list[str]:
    """Return some of the events that the programs of these lives had been given and did not handle."""
    failed = run.deliveries[run.deliveries["outcome"].astype(str) == next(word for word in RESULTS if word == "failed")]
    found = []
    for one in lives:
        lived = (failed["received_ns"] >= one.started_ns) & (failed["received_ns"] <= one.ended_ns)
        mine = failed[(failed["pod"].astype(str) == one.pod) & lived]
        found += [f"{event_id(int(key))}: given to {one.pod} and not handled" for key in mine["event"].tolist()[-MAX_WITNESSES:]]
    return found[:MAX_WITNESSES]
