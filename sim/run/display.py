"""Show a run while it goes on: one live line on a terminal, plain lines where there is none."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sim.machine.words import duration
from sim.run.status import Status

PLAIN_PERIOD_S = 2.0  # of real time, also for a run in virtual time
RATE_WINDOW_NS = 1_000_000_000


class Display:
    """The display of a run on a console: each `Status` becomes a line.

    Use as a context manager and pass `show` to `run_scenario` as ``watch``.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._recent: deque[Status] = deque(maxlen=64)
        self._shown_phase = ""
        self._shown_s = 0.0

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, status: Status) -> None:
        """Show one status; without a terminal, one line per phase and per two seconds."""
        if status.stays:
            self._console.print(status.phase, highlight=False, soft_wrap=True, markup=False, emoji=False)
            return
        self._recent.append(status)
        while len(self._recent) > 2 and status.at_ns - self._recent[1].at_ns > RATE_WINDOW_NS:
            self._recent.popleft()
        line = self.line(status)
        if self._live is not None:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"))
        elif status.phase != self._shown_phase or time.monotonic() - self._shown_s >= PLAIN_PERIOD_S:
            self._shown_phase, self._shown_s = status.phase, time.monotonic()
            self._console.print(line, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def line(self, status: Status) -> str:
        """Return the line: phase, time left, rates over the last second, p99 so far, pods by state."""
        parts = [f"{status.phase:<9}"]
        if status.left_s is not None:
            parts.append(f"{duration(round(status.left_s, 1)):>9} left")
        first = self._recent[0]
        seconds = (status.at_ns - first.at_ns) / 1e9
        if seconds > 0 and status.delivered:
            parts.append(f"published {max(0, status.published - first.published) / seconds:,.0f}/s")
            parts.append(f"delivered {max(0, status.delivered - first.delivered) / seconds:,.0f}/s")
        if status.lag_ms_p99 is not None:
            parts.append(f"lag p99 ~{duration(status.lag_ms_p99 / 1e3)}")
        if status.pods:
            parts.append("pods " + " ".join(f"{count} {state}" for state, count in sorted(status.pods.items())))
        return " | ".join(parts)


class Countdown:
    """How far a series of runs is, and how much time is left if the rest takes as long as those before."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._say = tell
        self._began_s = time.monotonic()

    def tell(self, done: int, all: int, text: str) -> None:
        """Report in one line that `done` of `all` are done; `text` describes the last of them."""
        left_s = (time.monotonic() - self._began_s) / done * (all - done)
        self._say(f"{done:>4} of {all}  {duration(round(left_s)):>11} left  {text}")
