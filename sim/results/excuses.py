"""Who waited for the machine, for how long, and what to do about it: the words that stand beside limits and checkers."""

from __future__ import annotations

from sim.machine.words import duration, listed
from sim.record.reader import FOREVER_NS
from sim.results.opened_run import Run
from sim.results.withheld import Withheld

NOTABLE_SHARE = 0.05  # of the run phase, withheld: worth a word although nothing is wrong
NOTABLE_S = 0.1  # stood still
ALTHOUGH = ", although "  # between the sentence of a limit that holds and who waited all the same
MINOR = 0.1  # who has less than this part of the most is not named


def spent(run: Run) -> tuple[int, int]:
    """Return from when until when a run's processes were to work: from its run phase to the end of its drain, as far as it came."""
    begin = run.run_span[0]
    ends = [end for name, (_, end) in run.phases.items() if name in ("run", "heal", "drain") and end < FOREVER_NS]
    return begin, max(ends, default=FOREVER_NS)


def who_waited(run: Run, withheld: Withheld) -> str:
    """Return who waited for what and how long since the run phase began, such as "inline stood still for 3 s"."""
    begin, end = spent(run)
    sums = {host: withheld.sums(host, begin, end) for host in withheld.accounts}
    most = max((one["withheld"] for one in sums.values()), default=0.0)
    named = sorted((host for host, one in sums.items() if one["withheld"] > MINOR * most), key=lambda host: -sums[host]["withheld"])
    parts = [_of_host(host, sums[host]) for host in named] + _of_clock(withheld, begin, end)
    return listed(parts) or "nobody waited"


def _of_host(host: str, sums: dict[str, float]) -> str:
    stood, waited, throttled = sums["stood"], sums["waited"], sums["throttled"]
    parts = []
    if stood > max(NOTABLE_S, MINOR * waited):
        parts.append(f"stood still for {duration(stood)}")
    if waited > max(MINOR * stood, 0.0):
        parts.append(f"waited {duration(waited)} for a core")
    if not parts:
        parts.append(f"had no core for {duration(sums['withheld'])}")
    text = f"{host} {' and '.join(parts)}"
    beside = [f"its loop up to {duration(sums['late'])} late"] if sums["late"] > NOTABLE_S else []
    beside += [f"its cgroup throttled for {duration(throttled)}"] if throttled > NOTABLE_S else []
    return text + (f" ({', '.join(beside)})" if beside else "")


def _of_clock(withheld: Withheld, begin_ns: int, end_ns: int) -> list[str]:
    texts = []
    for step in withheld.steps:
        if begin_ns <= step.at_ns <= end_ns:
            by = duration(abs(step.by_ns) / 1e9)
            way = "forward" if step.by_ns > 0 else "back"
            texts.append(f"the machine was suspended for {by}" if step.suspended else f"the wall clock was set {by} {way}")
    return texts


def advice(run: Run, withheld: Withheld) -> str:
    """Return what to do so that the machine withholds less the next time."""
    begin, end = spent(run)
    sums = [withheld.sums(host, begin, end) for host in withheld.accounts]
    waited, stood, throttled = (max((one[word] for one in sums), default=0.0) for word in ("waited", "stood", "throttled"))
    if throttled > MINOR * waited and throttled > NOTABLE_S:
        return "raise the limit of the lab's cgroup"
    if stood > waited:
        return "repeat the run, and let nothing stop or suspend the lab"
    if any(begin <= step.at_ns <= end for step in withheld.steps) and waited < NOTABLE_S:
        return "repeat the run, and leave the clock alone"
    return "stop what else runs on this machine, or give the lab more cores"


def notable(run: Run, withheld: Withheld) -> str:
    """Return who waited so long in the run phase that a reader should know, although nothing is wrong; else an empty string."""
    begin, end = run.run_span
    length = (end - begin) / 1e9
    texts = []
    for host in withheld.accounts:
        sums = withheld.sums(host, begin, end)
        if sums["withheld"] > NOTABLE_SHARE * length or sums["stood"] > NOTABLE_S:
            texts.append(_of_host(host, sums))
    return listed(texts + _of_clock(withheld, begin, end))
