"""What a program reports of itself: a line on its standard output, or a POST, for each event that it has handled.

The line is ``buslab handled EVENT_ID``, alone on its line; ``at=NANOSECONDS`` after it says when, by CLOCK_MONOTONIC, else it is when the
line was read. An id with blanks in it is given by POST, as JSON: ``{"event": "EVENT_ID"}``, or a list of ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sim.machine.http_server import HttpAnswer, Refusal, Request, as_json, from_json

MOST_AT_ONCE = 10_000  # ids in one POST
MAX_LINE = 4096
WORD = b"buslab handled "
_LINE = re.compile(rb"^buslab handled (\S+)(?: at=(\d{1,19}))?[ \t]*\r?$", re.M)

Handled = Callable[[str, int], None]
"""Takes the id of an event that was handled, and when."""


class ReportReader:
    """The reports in a program's output, which comes in pieces."""

    def __init__(self, handled: Handled) -> None:
        self._handled = handled
        self._rest = b""

    def take(self, data: bytes, at_ns: int) -> None:
        """Take some output, and tell what is reported in its whole lines."""
        if self._rest:
            data = self._rest + data
        end = data.rfind(b"\n") + 1
        rest = data[end:]
        self._rest = rest if len(rest) <= MAX_LINE else b""  # no report is so long
        if WORD not in data[:end]:
            return
        for found in _LINE.finditer(data[:end]):
            said_ns = int(found[2]) if found[2] else at_ns
            self._handled(found[1].decode("utf-8", "replace"), min(said_ns, at_ns))  # nobody has handled what is yet to come


def handled_endpoint(handled: Handled, now_ns: Callable[[], int]) -> Callable[[Request], HttpAnswer]:
    """Return what answers the POST of one pod."""

    def post(request: Request) -> HttpAnswer:
        ids = _ids_in(from_json(request.body))
        at_ns = now_ns()
        for one in ids:
            handled(one, at_ns)
        return as_json({"taken": len(ids)})

    return post


def _ids_in(said: Any) -> list[str]:
    """Return the ids in a body; raise `Refusal` where it is none of the forms."""
    given = said.get("event", said.get("events")) if isinstance(said, dict) else said
    many = given if isinstance(given, list) else [given]
    ids = [one for one in many if isinstance(one, str) and one]
    if len(ids) < len(many):
        raise Refusal(400, 'give the id of the event that was handled, as {"event": "ID"}, or a list of ids')
    if len(ids) > MOST_AT_ONCE:
        raise Refusal(400, f"{len(ids):,} ids are more than {MOST_AT_ONCE:,} at once: send several")
    return ids
