"""What one publisher and subscriber of the bus counts of itself: plain integers that only grow.

They are counted once a read or once a publish, never once a delivery.
"""

from __future__ import annotations

PUBLISHED = frozenset({"acknowledged", "memory"})  # outcomes of a publish that are no error


class Counters:
    """The counts of what a pod or a client did since it was made.

    Attributes
    ----------
    received
        Events handed to handlers, probes too.
    malformed, unsupported
        Payloads that were no envelope, and envelopes of a schema version that is not read here.
    failures
        Events whose handler raised.
    published
        Events that the broker took, or that the pod delivered to itself in memory mode.
    analytics_published
        Analytics items, metrics and uses of a provider in the published events.
    publish_errors
        Events that were refused, never answered or never sent, and calls whose content could not be encoded.
    """

    __slots__ = ("analytics_published", "failures", "malformed", "publish_errors", "published", "received", "unsupported")

    def __init__(self) -> None:
        self.received = self.malformed = self.unsupported = self.failures = 0
        self.published = self.publish_errors = self.analytics_published = 0

    @property
    def subscribe_errors(self) -> int:
        """The reference's one number for everything that went wrong in hearing."""
        return self.malformed + self.unsupported + self.failures

    def publish_ended(self, outcome: str, *, analytics_items: int) -> None:
        """Count one publish by what became of it (`schema.OUTCOMES`)."""
        if outcome in PUBLISHED:
            self.published += 1
            self.analytics_published += analytics_items
        else:
            self.publish_errors += 1
