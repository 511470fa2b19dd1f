"""Read CLIENT LIST: which subscribers have output waiting in the broker, and whom the broker cut for it. No I/O.

A broker that cannot write to a slow subscriber keeps the output in a buffer (`omem`), and closes the connection when that passes
`client-output-buffer-limit`. It tells nobody which one: INFO only counts (`client_output_buffer_limit_disconnections`). So two
listings are compared, each taken together with the counter in one write, which the broker runs with nothing in between.

The rule
--------
*Gone* is a subscriber of the listing before that is not in this one, or is flagged `A` (to be closed as soon as possible); known by
its id, which a broker gives once. The counter rose by R between the two listings.

1. R = 0: nobody was cut, whatever went (killed, reset, stopped).
2. As many gone as R, or fewer: all of them were cut.
3. More gone than R: the R of them with the longest output before. Those without any are not named, though they may have gone from
   nothing to the limit between two listings: no evidence, no cut.
4. No counter (Redis 7.0 and older): gone, and before it at least `NEAR` of the limit. A client killed with that much output cannot be
   told from one that was cut.

Valkey 9 keeps a payload above 16 KB once for all its subscribers and counts some 120 bytes of it for each (with a channel of 38): there
the limit hardly ever cuts who is slow to hear large batches, and `omem` does not show them.

Subscribers of other programs count in these numbers and are never named. Two listings are parsed whole only when the counter rose;
else only lines with output are looked at, so the cost does not grow with subscribers that keep up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

NEAR = 0.5
DEFAULT_LIMIT_BYTES = 8 * 1024 * 1024  # soft limit of class pubsub, as the server ships
_ID = re.compile(rb"id=(\d+) addr=")  # found at the beginning of every line and nowhere else: a name has no spaces
_WAITING = re.compile(rb" omem=[1-9]")
_CLOSING = re.compile(rb" flags=\S*A")


@dataclass(frozen=True)
class Subscriber:
    """What one line of CLIENT LIST says."""

    id: int
    name: str
    output_bytes: int


@dataclass(frozen=True)
class Listing:
    """One answer of CLIENT LIST TYPE pubsub, and the counter of buffer cuts that was read with it (None: there is none)."""

    text: bytes
    cuts: int | None

    def waiting(self) -> list[Subscriber]:
        """Return the subscribers that have output waiting."""
        return [self._at(match.start()) for match in _WAITING.finditer(self.text)]

    def there(self) -> set[int]:
        """Return the ids of the subscribers that are not being closed."""
        closing = {self._at(match.start()).id for match in _CLOSING.finditer(self.text)}
        return {int(number) for number in _ID.findall(self.text)} - closing

    def of(self, ids: set[int]) -> list[Subscriber]:
        """Return the subscribers of these ids that are listed."""
        places = (match.start() for match in _ID.finditer(self.text) if int(match[1]) in ids) if ids else ()
        return [self._at(place) for place in places]

    def _at(self, place: int) -> Subscriber:
        """Return the subscriber of the line that a place is in."""
        end = self.text.find(b"\n", place)
        line = self.text[self.text.rfind(b"\n", 0, place) + 1 : end if end >= 0 else len(self.text)]
        return Subscriber(int(_value(line, b"id=")), _value(line, b" name=").decode("utf-8", "replace"), int(_value(line, b" omem=") or 0))


def _value(line: bytes, key: bytes) -> bytes:
    begin = line.find(key)
    if begin < 0:
        return b""
    return line[begin + len(key) :].partition(b" ")[0]


def cut_between(before: Listing, after: Listing, *, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> list[Subscriber]:
    """Return the subscribers that were cut between two listings, as the earlier one shows them; see the module for the rule."""
    if before.cuts is not None and after.cuts is not None:
        rise = after.cuts - before.cuts
        if rise <= 0:  # it falls when the server was started again, and then nobody was cut
            return []
        went = before.of(before.there() - after.there())
        if len(went) <= rise:
            return went
        longest = sorted((one for one in went if one.output_bytes), key=lambda one: -one.output_bytes)
        return longest[:rise]
    near = [one for one in before.waiting() if one.output_bytes >= NEAR * limit_bytes]
    there = after.there() if near else set()
    return [one for one in near if one.id not in there]


def read_limit(config: Sequence[str]) -> int:
    """Return the smallest limit of class pubsub, in bytes, in an answer to CONFIG GET client-output-buffer-limit."""
    words = config[1].split() if len(config) == 2 else []
    for at in range(0, len(words) - 3, 4):
        if words[at] == "pubsub":
            limits = [int(word) for word in words[at + 1 : at + 3] if word.isdigit() and int(word)]
            return min(limits, default=DEFAULT_LIMIT_BYTES)
    return DEFAULT_LIMIT_BYTES
