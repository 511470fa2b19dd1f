"""Ask a program over HTTP whether it is ready, for as long as it runs: what it answers is what it believes of its connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sim.machine.http_client import HttpFailure, ask_once

PERIOD_S = 0.25
TIMEOUT_S = 1.0


class ReadinessWatch:
    """The answers of one program to one address.

    Attributes
    ----------
    ready
        Whether the last answer had a status from 200 to 399.
    last
        The last answer in words, for the message of an error.

    Parameters
    ----------
    asleep
        Whether it stands still now, so that it is not asked.
    changed
        Called when `ready` changes.
    """

    def __init__(self, port: int, path: str, *, asleep: Callable[[], bool], changed: Callable[[bool], None]) -> None:
        self.ready = False
        self.last = "it was not asked yet"
        self._port, self._path, self._asleep, self._changed = port, path, asleep, changed
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            if not self._asleep():
                try:
                    reply = await ask_once(self._port, self._path, timeout_s=TIMEOUT_S)
                    ready, self.last = 200 <= reply.status < 400, f"its last answer was {reply.status}"
                except HttpFailure as failure:
                    ready, self.last = False, f"it gave no answer ({failure})"
                if not self._asleep() and ready != self.ready:
                    self.ready = ready
                    self._changed(ready)
            await asyncio.sleep(PERIOD_S)

    def close(self) -> None:
        """Ask no more."""
        self._task.cancel()
