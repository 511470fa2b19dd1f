"""A third way for a test to end: unknown, because the machine withheld processor time by more than the test's claim can bear.

Rules
-----
1. A test of behaviour waits for conditions and never needs this. Only a claim about a real server's or process's *timing* may ask.
2. A claim is checked first. What holds is passed, on any machine; only a claim that fails asks how much time was withheld.
3. Unknown is then said only when what was measured exceeds the claim's slack: the time by which something would have had to be late for
   the claim to fail. What was measured, the slack and the failure stand in the reason. Less than the slack, and where the kernel keeps
   no account, the failure stands.
4. The kernel measures, not we: `/proc/PID/task/*/schedstat` says how long runnable threads waited for a core. A loop of ours that is
   blocked by its own work waits for no core, so a defect of ours is no excuse. Of a run, its own loops must have been late as well,
   by the table `hosts`.
5. At the end of the session every unknown is listed with its reason. More than `MAX_UNKNOWN` of them fail the session, whose count
   begins with what earlier sessions of one `make test` wrote into the file that `BUSLAB_UNKNOWNS` names.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from sim.results.opened_run import Run

MARK = "unknown: "
MAX_UNKNOWN = 5
MAX_ENV = "BUSLAB_MAX_UNKNOWN"
EARLIER_ENV = "BUSLAB_UNKNOWNS"


def waited_ns(pid: int | None = None, *, proc: Path = Path("/proc")) -> dict[tuple[int, str], int]:
    """Return how long each thread of a process waited for a core while it could have run: (process, thread) -> ns. None: of this one."""
    found = {}
    process = os.getpid() if pid is None else pid
    with contextlib.suppress(OSError):
        for thread in (proc / str(process) / "task").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                found[process, thread.name] = int((thread / "schedstat").read_text().split()[1])
    return found


class Starvation:
    """The processor time that the machine withheld from this process, and from others that are named, since it was made."""

    def __init__(self, *pids: int, proc: Path = Path("/proc")) -> None:
        self._pids, self._proc = (os.getpid(), *pids), proc
        self._before = self._read()
        self._last = dict(self._before)

    def _read(self) -> dict[tuple[int, str], int]:
        return {who: waited for pid in self._pids for who, waited in waited_ns(pid, proc=self._proc).items()}

    def sample(self) -> None:
        """Read the account while the processes live: an ended one has none."""
        self._last |= self._read()

    @property
    def withheld_s(self) -> float:
        """How long the thread waited that waited longest."""
        self.sample()
        waits = [now - self._before.get(who, 0) for who, now in self._last.items()]
        return max(waits, default=0) / 1e9

    @contextlib.contextmanager
    def excuses(self, slack_s: float, *, run: Run | None = None) -> Iterator[None]:
        """Check a claim of timing: where it fails, and more than `slack_s` was withheld, the test is unknown; else it has failed.

        Parameters
        ----------
        slack_s
            By how much something must be late for the claim to fail.
        run
            The run that the claim is about: one of its loops must have been so late too.
        """
        try:
            yield
        except AssertionError as failed:
            withheld_s, late_s = self.withheld_s, latest_s(run)
            if withheld_s <= slack_s or (late_s is not None and late_s <= slack_s):
                raise
            loops = "" if late_s is None else f" and a loop of the run was {late_s:.3f} s late at once"
            (*_, where) = traceback.extract_tb(failed.__traceback__)
            said = f"{where.line} ({' '.join(str(failed).split())[:200]})"
            _end(f"the machine withheld a core for {withheld_s:.3f} s{loops}, {slack_s:g} s would be enough to fail this: {said}")


def latest_s(run: Run | None) -> float | None:
    """Return how late a loop of a run was at most, in seconds; 0 when it has no samples, None when there is no run."""
    if run is None:
        return None
    return float(run.hosts["loop_lag_ns"].max()) / 1e9 if len(run.hosts) else 0.0


def _end(reason: str) -> NoReturn:
    __tracebackhide__ = True
    pytest.skip(MARK + reason)


# -- hooks of the session, for conftest -------------------------------------------------------------------------------


def of_session(config: pytest.Config) -> list[str]:
    """Return the reasons of the session so far, of every worker; empty in a worker, which reports to its controller."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput"):
        return []
    skipped = [(one.nodeid, one.longrepr[2]) for one in reporter.stats.get("skipped", []) if isinstance(one.longrepr, tuple)]
    start = f"Skipped: {MARK}"
    return [f"{test}: {why.removeprefix(start)}" for test, why in skipped if why.startswith(start)]


def _earlier() -> list[str]:
    path = os.environ.get(EARLIER_ENV)
    return Path(path).read_text("utf-8").splitlines() if path and Path(path).is_file() else []


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session when too many tests are unknown."""
    if hasattr(session.config, "workerinput"):
        return
    reasons = [" ".join(reason.split()) for reason in of_session(session.config)]
    said = _earlier() + reasons
    if path := os.environ.get(EARLIER_ENV):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text("".join(f"{line}\n" for line in said), "utf-8")
    if len(said) > int(os.environ.get(MAX_ENV, MAX_UNKNOWN)) and session.exitstatus in (pytest.ExitCode.OK, 0):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print how many tests are unknown, and why."""
    mine = of_session(config)
    total, most = len(_earlier()) if os.environ.get(EARLIER_ENV) else len(mine), int(os.environ.get(MAX_ENV, MAX_UNKNOWN))
    terminalreporter.section(f"unknown: {len(mine)}")
    for reason in mine:
        terminalreporter.line(reason)
    if total > len(mine):
        terminalreporter.line(f"with the sessions before: {total}")
    if total > most:
        terminalreporter.line(f"{total} tests are unknown, at most {most} may be: the machine was too busy to judge", red=True)
