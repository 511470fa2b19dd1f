"""How long a client waits before it tries a lost connection again, and when it rejects what waits for it; no I/O.

An attempt counts from 1 at each loss; `drawn` is a number from 0 to 1, by which who tries draws what is left to chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

FIRST_S = 0.05
MOST_DOUBLED = 60  # a pause that was doubled so often is longer than any longest one
LATE_S = 0.004  # timers of Node on a busy machine: half of 768 pauses were over by 1.6 ms late, nine of ten by 4.3 ms


class Tries(Protocol):
    """How a client tries again."""

    def pause_s(self, attempt: int, drawn: float) -> float:
        """Return how long to wait before an attempt."""

    def rejects(self, attempt: int) -> bool:
        """Return whether all that waits for the connection is rejected before that pause."""


@dataclass(frozen=True)
class JitteredTries:
    """Exponential backoff from 50 ms with full jitter, for ever; nothing is rejected.

    Attributes
    ----------
    most_s
        Of one pause.
    """

    most_s: float = 2.0

    def pause_s(self, attempt: int, drawn: float) -> float:
        """Return a part of a pause that doubles up to the longest."""
        return drawn * min(FIRST_S * 2.0 ** min(attempt - 1, MOST_DOUBLED), self.most_s)

    def rejects(self, attempt: int) -> bool:
        """Return False."""
        return False


@dataclass(frozen=True)
class IoredisTries:
    """`retryStrategy` and `maxRetriesPerRequest` of ioredis: pauses that grow by a step, without jitter.

    All clients that lost one broker try again at the same moments, a timer's lateness apart: it decides which of them is back first.

    Attributes
    ----------
    step_s, most_s
        The n-th pause is n steps, up to the longest.
    most_retries
        What waits is rejected when the connection is lost, or an attempt fails, for the (n + 1)-th time, and every n + 1 times after that;
        negative: never.
    """

    step_s: float = 0.05
    most_s: float = 2.0
    most_retries: int = 20

    def pause_s(self, attempt: int, drawn: float) -> float:
        """Return the pause, and how late the timer is."""
        return min(attempt * self.step_s, self.most_s) + drawn * LATE_S

    def rejects(self, attempt: int) -> bool:
        """Return whether that many attempts are what one command may see."""
        return self.most_retries >= 0 and attempt % (self.most_retries + 1) == 0
