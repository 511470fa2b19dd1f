"""Tell whoever watches how far a run is: the display, and Locust's own tables where Locust started it."""

from __future__ import annotations

import asyncio
import time

from sim.grounds.model.loop import JumpingLoop
from sim.machine.clock import NS_PER_S, now_ns
from sim.pods.hosts import Counts
from sim.run.fleet import Fleet
from sim.run.generator import Generator
from sim.run.status import Status, Watch

STATUS_PERIOD_S = 0.25


class Reporter:
    """One that looks at the fleet and the generator of a run, once there are any, and tells `watch`.

    Attributes
    ----------
    failure
        Why nobody is told any more; empty while all goes well.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.failure = ""
        self.phase = "provision"
        self.phase_ends_ns: int | None = None
        self.fleet: Fleet | None = None
        self.generator: Generator | None = None
        self._shown_s = 0.0

    def watch(self, status: Status) -> None:
        """Tell one status, unless telling has failed: who reads may go, the run goes on."""
        if self.failure:
            return
        try:
            self._watch(status)
        except (OSError, UnicodeError, SystemExit) as error:  # rich asks for the process's end where its reader is gone
            cause = error.__context__ if isinstance(error, SystemExit) and error.__context__ is not None else error
            self.failure = f"from phase {self.phase} on nobody was told how far the run was: {type(cause).__name__}: {cause}"

    def say(self, text: str, *, stays: bool = False) -> None:
        """Tell a sentence in the place of a phase; see `Status`."""
        self.watch(Status(text, stays=stays))

    def show(self) -> None:
        """Show how far the run is now."""
        left_s = None if self.phase_ends_ns is None else max(0.0, (self.phase_ends_ns - now_ns()) / NS_PER_S)
        counts = self.fleet.host.counts() if self.fleet else Counts()
        self.watch(
            Status(
                self.phase,
                left_s,
                published=counts.published + (self.generator.published if self.generator else 0),
                delivered=counts.delivered,
                lag_ms_p99=counts.lag_ms_p99,
                pods=dict(self.fleet.host.states()) if self.fleet else {},
            )
        )
        if self.generator is not None and self.phase == "run":
            self.generator.heard(counts.lags_ms)

    async def keep_showing(self) -> None:
        """Show how far the run is some times a second of real time, whatever the run's own clock does."""
        loop = asyncio.get_running_loop()
        if isinstance(loop, JumpingLoop):
            loop.aside = self._show_in_time
            return
        while True:
            await asyncio.sleep(STATUS_PERIOD_S)
            self.show()

    def _show_in_time(self) -> None:
        if time.monotonic() - self._shown_s >= STATUS_PERIOD_S:
            self._shown_s = time.monotonic()
            self.show()
