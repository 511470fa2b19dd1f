"""What the machine withheld from the processes of a run: who could have run and did not, when, and for how long.

The words
---------
- **withheld** from a process in a row of `hosts`: what it waited for a core (or, where that is more, what its cgroup was throttled; or,
  where neither is known, what any task of the machine waited), and what it stood still. Never more than the row is long. A hypervisor's
  share (steal) is laid evenly over the rows. A row in which a process read pages back from swap, or in which the machine was suspended,
  is withheld whole: nobody counted how long that took.
- **carried** out of a row: what the next row may still be late by. A process that was idle for a moment has caught up with all but the
  row's own; one that was not has the rows before it to catch up with too.
- what **piled up** while it was withheld is done after it, and makes others late too: of what a process has when nothing is withheld it
  uses a share, so that much of what was withheld is work that waits.
- a **stall** is `STALL_NS` of it within `WINDOW_NS`: enough to make something that waits with a bound give up.
- a **step** is a jump of the wall clock, by which a server ends its keys' lives and counts how long an entry is pending.

A process that a fault froze on purpose did what was asked: that is not withheld. A folder from before there were such columns has none
of it, and is judged as it was.

`Withheld.over` is an upper bound: at the ends of an interval all that its row withheld may lie inside. So what is left of a time when it
is taken off is what the time would have been at best.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd

from sim.record.reader import FOREVER_NS, Array
from sim.record.schema import BROKER, PROGRAM, PROXY
from sim.results.opened_run import Run
from sim.results.outages import union
from sim.results.run_clocks import RUNS

STALL_NS = 100_000_000
WINDOW_NS = 1_000_000_000
STEP_NS = 50_000_000  # less is how a clock is kept right
IDLE_SHARE = 0.05  # a row with so much of it left over had a moment to catch up in
FROZEN = ("broker_freeze",)  # faults that make a server stand still


class Account(NamedTuple):
    """One process, row by row in the order of time: what each row withheld from it, and of what kind that was (nanoseconds)."""

    begin_ns: Array
    end_ns: Array
    withheld_ns: Array
    carried_ns: Array
    late_ns: Array
    waited_ns: Array
    stood_ns: Array
    throttled_ns: Array
    busy: float = 0.0  # the share of what it had that it used


class Step(NamedTuple):
    """A jump of the wall clock or a suspension of the machine, seen at a time; `by_ns` is negative where the clock was set back."""

    at_ns: int
    by_ns: int
    suspended: bool


class Withheld:
    """What was withheld in one run; made by `read_withheld`.

    `accounts` are by process, `steps` in the order of time.
    """

    def __init__(self, accounts: dict[str, Account], steps: list[Step], stall_ns: int) -> None:
        self.accounts = accounts
        self.steps = steps
        self._sums = {host: np.append(0, np.cumsum(one.withheld_ns)) for host, one in accounts.items()}
        self.stalls = {host: _stalls(one, stall_ns) for host, one in accounts.items()}

    def of(self, host: str, begin_ns: Array, end_ns: Array) -> Array:
        """Return at most how late a process was in each interval because of what was withheld; 0 of one without samples.

        That is what was withheld, what was carried into it, and the work that piled up meanwhile.
        """
        length = np.maximum(end_ns - begin_ns, 0)
        account = self.accounts.get(host)
        if account is None or not len(account.end_ns):
            return np.zeros(len(length), dtype=np.int64)
        sums, last = self._sums[host], len(account.end_ns) - 1
        first = np.searchsorted(account.end_ns, begin_ns, side="left")  # the row that holds the beginning
        final = np.searchsorted(account.end_ns, end_ns, side="left")
        inside = sums[np.minimum(final, last + 1)] - sums[np.minimum(first + 1, last + 1)]
        head = np.minimum(np.append(account.withheld_ns, 0)[first], np.maximum(np.append(account.end_ns, FOREVER_NS)[first] - begin_ns, 0))
        tail = np.minimum(np.append(account.withheld_ns, 0)[final], np.maximum(end_ns - np.append(account.begin_ns, FOREVER_NS)[final], 0))
        carried = np.append(0, account.carried_ns)[first]
        found = carried + np.where(first == final, np.append(account.withheld_ns, 0)[first], head + np.maximum(inside, 0) + tail)
        piled_up = (found * account.busy).astype(np.int64)
        bounded: Array = np.minimum(found + piled_up, length)
        return bounded

    def over(self, hosts: Iterable[str], begin_ns: Array, end_ns: Array) -> Array:
        """Return at most how long was withheld in each interval from what passes through these processes, one after another."""
        length = np.maximum(end_ns - begin_ns, 0)
        total = np.zeros(len(length), dtype=np.int64)
        for host in dict.fromkeys(hosts):
            total += self.of(host, begin_ns, end_ns)
        bounded: Array = np.minimum(total, length)
        return bounded

    def total(self, begin_ns: int, end_ns: int) -> int:
        """Return at most how long was withheld in a time from all processes together."""
        begin, end = np.array([begin_ns]), np.array([end_ns])
        return sum(int(self.of(host, begin, end)[0]) for host in self.accounts)

    def stalled(self, hosts: Iterable[str], begin_ns: Array, end_ns: Array) -> Array:
        """Return for each interval whether a stall of one of these processes touches it."""
        touched = np.zeros(len(begin_ns), dtype=bool)
        for host in dict.fromkeys(hosts):
            spans = self.stalls.get(host)
            if spans is not None and len(spans):
                touched |= np.searchsorted(spans[:, 0], end_ns, side="right") > np.searchsorted(spans[:, 1], begin_ns, side="left")
        return touched

    @cached_property
    def servers(self) -> list[str]:
        """The servers of ours and the proxy: what every copy passes beside its publisher and its pod."""
        return [host for host in self.accounts if host.split(" ")[0] in (BROKER, PROXY)]

    def stepped(self, begin_ns: int, end_ns: int) -> bool:
        """Return whether the wall clock jumped, or the machine was suspended, in this time."""
        return any(begin_ns <= step.at_ns <= end_ns for step in self.steps)

    def late_ns(self, host: str, at_ns: Array) -> Array:
        """Return how late the loop of a process was at most in the row that holds each time, 0 where it does not tell."""
        account = self.accounts.get(host)
        if account is None:
            return np.zeros(len(at_ns), dtype=np.int64)
        return np.append(np.maximum(account.late_ns, 0), 0)[np.searchsorted(account.end_ns, at_ns, side="left")]

    def sums(self, host: str, begin_ns: int, end_ns: int) -> dict[str, float]:
        """Return how long a process waited, stood still, was throttled and had withheld, in the rows that touch this time; seconds.

        `late` is the longest lateness of its loop in them.
        """
        account = self.accounts[host]
        here = (account.end_ns > begin_ns) & (account.begin_ns < end_ns)
        kinds = {"waited": account.waited_ns, "stood": account.stood_ns, "throttled": account.throttled_ns, "withheld": account.withheld_ns}
        return {word: float(column[here].sum()) / 1e9 for word, column in kinds.items()} | {
            "late": float(account.late_ns[here].max(initial=0)) / 1e9
        }


def looked_at(host: str) -> bool:
    """Return whether the run looks at a process of the table `hosts` from outside: a server of ours, the proxy, or a program."""
    return host.split(" ")[0] in (BROKER, PROXY, PROGRAM)


def hosts_of_pods(run: Run) -> dict[str, list[str]]:
    """Return the processes that held each pod, by its name."""
    found: dict[str, list[str]] = {}
    for (pod, host), _ in run.pods.groupby(["pod", "host"]):
        found.setdefault(str(pod), []).append(str(host))
    return found


def frozen_on(run: Run) -> dict[str, list[tuple[int, int]]]:
    """Return when a process was made to stand still: one that had a single pod, while that was frozen."""
    hosts = run.pods.groupby("host")["pod"].unique()
    freezes = {history.pod: history.freezes for history in run.pod_histories}
    return {str(host): list(freezes[pods[0]]) for host, pods in hosts.items() if len(pods) == 1}


def read_withheld(run: Run) -> Withheld:
    """Return what the machine withheld from each process of a run; nothing on the ground `model`, where time is virtual."""
    accounts: dict[str, Account] = {}
    if run.info.ground == "model":
        return Withheld(accounts, [], STALL_NS)
    rows = run.hosts.sort_values("at_ns", kind="stable")
    clock_of = dict(zip(rows["host"], rows["clock"], strict=True)) if run.clocks.differ else {}
    machines = {code: _of_machine(rows[rows["clock"] == code]) for code in set(clock_of.values())} or {RUNS: _of_machine(rows)}
    steps_of = {code: _steps(machine) for code, machine in machines.items()}
    frozen = frozen_on(run)
    asleep = [(int(row["begin_ns"]), int(row["end_ns"]) or FOREVER_NS) for row in run.faults.to_dict("records") if row["fault"] in FROZEN]
    for host, its in rows.groupby("host"):
        on_purpose = asleep if str(host).split(" ")[0] == BROKER else frozen.get(str(host), [])
        code = clock_of.get(host, RUNS)
        if len(its) > 1:
            accounts[str(host)] = _account(its, machines[code], steps_of[code], on_purpose)
    keep_alive_ns = int(float(run.scenario.get("bus", {}).get("keep_alive_s", 0.0)) * 1e9)
    steps = sorted(step for some in steps_of.values() for step in some)
    return Withheld(accounts, steps, min(STALL_NS, keep_alive_ns) if keep_alive_ns else STALL_NS)


def _of_machine(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what was told of a machine: its processes tell the same, so the one that told most often will do."""
    machine = rows[rows["wall_offset_ns"].notna()].drop_duplicates("at_ns")
    if not len(machine):
        return machine
    return machine[machine["host"] == machine["host"].value_counts().idxmax()]


def _account(rows: pd.DataFrame, machine: pd.DataFrame, steps: Sequence[Step], frozen: Sequence[tuple[int, int]]) -> Account:
    at = rows["at_ns"].to_numpy()
    begin, end = at[:-1], at[1:]
    length = end - begin
    risen = {column: _risen(rows[column]) for column in ("waited_ns", "stood_ns", "throttled_ns", "cpu_ns", "major_faults")}
    known = rows["waited_ns"].notna().to_numpy()[1:]
    waited = np.where(known, risen["waited_ns"], _evenly(machine, "pressure_ns", begin, end) if len(machine) else 0)
    waited = _settled(waited, length, risen["cpu_ns"])
    stood, throttled = risen["stood_ns"], risen["throttled_ns"]
    late = rows["loop_lag_ns"].to_numpy()[1:].copy()
    for since, until in frozen:
        here = (end >= since) & (begin <= until)
        stood[here] = late[here] = 0
    steal = _evenly(machine, "steal_ns", begin, end)
    withheld = np.minimum(np.maximum(waited, throttled) + stood + steal, length)
    whole = (risen["major_faults"] > 0) & (_evenly(machine, "swapped_in", begin, end) > 0)
    for step in steps:
        whole |= step.suspended & (begin < step.at_ns) & (end >= step.at_ns - WINDOW_NS)
    withheld[whole] = length[whole]
    carried = np.zeros(len(end), dtype=np.int64)
    busy = length - withheld - risen["cpu_ns"] < IDLE_SHARE * length
    before = 0
    for row in range(len(end)):
        before = carried[row] = withheld[row] + (before if busy[row] else 0)
    had = float((length - withheld).sum())
    used = min(float(risen["cpu_ns"].sum()) / had, 1.0) if had > 0 else 1.0
    return Account(begin, end, withheld.astype(np.int64), carried, late, waited, stood, throttled, used)


def _settled(waited: Array, length: Array, cpu_ns: Array) -> Array:
    """Return the waits in the rows in which they were, and in none more than it is long.

    The kernel counts a wait when it is over, so what is more than a row lies in the rows before, as far back as the process did not run
    at all. Where many threads waited at once, their sum is no longer than the time was, but for the row in which it may have begun.
    """
    waited, later = waited.copy(), 0.0
    for row in range(len(waited) - 1, -1, -1):
        if later > 0:
            taken = min(later, max(length[row] - cpu_ns[row] - waited[row], 0.0))
            waited[row] += taken
            later = later - taken if cpu_ns[row] < IDLE_SHARE * length[row] else 0.0
        if waited[row] > length[row]:
            later += waited[row] - max(length[row] - cpu_ns[row], 0.0)
            waited[row] = length[row]
    return waited


def _risen(column: pd.Series[float]) -> Array:
    """Return what a counter rose by in each row; 0 where it fell, because it was begun anew, or is not known."""
    steps = np.diff(column.to_numpy(dtype=np.float64))
    return np.where(np.isnan(steps), 0.0, np.maximum(steps, 0.0))


def _evenly(machine: pd.DataFrame, column: str, begin: Array, end: Array) -> Array:
    """Return what a counter of the machine rose by in each row, laid evenly over the times between its own readings."""
    at, values = machine["at_ns"].to_numpy(), machine[column].to_numpy(dtype=np.float64)
    known = ~np.isnan(values)
    if known.sum() < 2:
        return np.zeros(len(begin))
    rise: Array = np.interp(end, at[known], values[known]) - np.interp(begin, at[known], values[known])
    return np.maximum(rise, 0.0)


def _steps(machine: pd.DataFrame) -> list[Step]:
    at = machine["at_ns"].to_numpy()
    slept = np.diff(machine["suspended_ns"].to_numpy(dtype=np.float64), prepend=np.nan)
    moved = np.diff(machine["wall_offset_ns"].to_numpy(dtype=np.float64), prepend=np.nan)
    found = []
    for time, sleep, move in zip(at.tolist(), slept.tolist(), moved.tolist(), strict=True):
        if sleep > STEP_NS:
            found.append(Step(time, round(sleep), True))  # the wall clock went on: that it did is no step of its own
        elif abs(move) > STEP_NS:
            found.append(Step(time, round(move), False))
    return found


def _stalls(account: Account, stall_ns: int) -> Array:
    """Return the times in which a stall was, as spans: the rows that withheld so much within a window, and the window before."""
    sums = np.append(0, np.cumsum(account.withheld_ns))
    before = np.searchsorted(account.end_ns, account.end_ns - WINDOW_NS, side="right")
    rows = np.flatnonzero(sums[1:] - sums[before] >= stall_ns)
    begins = np.minimum(account.end_ns[rows] - WINDOW_NS, account.begin_ns[rows])
    return union(np.column_stack([begins, account.end_ns[rows]]))
