"""The processes that look at schedules: one after another here, or several beside each other, each warm from its second schedule on.

Schedules are handed out in turn, and what was seen comes back in the order of the schedules, so a search finds the same with one process as
with four; more of them draw further ahead of what they have seen. A worker is this module as a process of its own; it ends with its parent.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from sim.errors import BuslabError, Interrupted
from sim.experiments.explore.draw import Tree
from sim.experiments.explore.look import Looker, Seen, Setup, Task, warm_up
from sim.machine.line import Line, inherited_line, start_child

AHEAD = 8  # schedules that are drawn before the first of them was looked at: as many for one process as for four
ANSWER_TIMEOUT_S = 300.0
END_TIMEOUT_S = 5.0

Draw = Callable[[int], Tree]


class Crew:
    """Some processes, and the schedules that they are at.

    Parameters
    ----------
    jobs
        How many processes; with 1 this one looks.
    log
        Where what workers print goes.
    """

    def __init__(self, setup: Setup, *, jobs: int, log: Path) -> None:
        self._here = Looker(setup) if jobs <= 1 else None
        self._lines: list[Line] = []
        self._log = log
        for _ in range(jobs if jobs > 1 else 0):
            line = start_child("sim.experiments.explore.crew", name="a process that looks at schedules", log=log)
            line.send(setup)
            self._lines.append(line)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for line in self._lines:
            line.child.process.terminate()
            line.close()
        for line in self._lines:
            line.child.end(timeout_s=END_TIMEOUT_S)
        if self._log.exists() and not self._log.stat().st_size:
            self._log.unlink()

    def looked(self, numbers: Iterator[int], draw: Draw) -> Iterator[tuple[Tree, Seen]]:
        """Yield each schedule with what was seen of it, in order; some places before it is yielded it is drawn, see `AHEAD`.

        Raises
        ------
        BuslabError
            A worker died, or the user's property is at fault.
        """
        waiting: deque[tuple[int, Tree]] = deque()
        more = True
        while more or waiting:
            while more and len(waiting) < max(AHEAD, 2 * len(self._lines)):
                number = next(numbers, None)
                if number is None:
                    more = False
                    break
                waiting.append((number, tree := draw(number)))
                if self._lines:
                    self._of(number).send(Task(number, tree))
            if waiting:
                number, tree = waiting.popleft()
                yield tree, self._seen(number, tree)

    def _of(self, number: int) -> Line:
        return self._lines[number % len(self._lines)]

    def _seen(self, number: int, tree: Tree) -> Seen:
        seen = self._here.look(Task(number, tree)) if self._here else self._of(number).receive(Seen, timeout_s=ANSWER_TIMEOUT_S)
        if seen.error:
            raise BuslabError(seen.error)
        return seen


def _work() -> None:
    """Look at schedules until the line closes."""
    line = inherited_line(name="the search")
    try:
        looker = Looker(line.receive(Setup, timeout_s=None))
    except BuslabError:
        return  # the search ended before it said what to look for
    warm_up()
    with contextlib.suppress(Interrupted, KeyboardInterrupt):
        for task in line.messages(Task):
            line.send(looker.look(task))


if __name__ == "__main__":
    _work()
