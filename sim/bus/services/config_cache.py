"""A service that works from cached configuration: templates and provider settings, as half of the reference's services do."""

from __future__ import annotations

from sim.bus.cache import ConfigSubscriber


class ConfigCache:
    """Templates and provider settings, kept until an event drops them."""

    def __init__(self) -> None:
        self.config = ConfigSubscriber()
        self.handlers = self.config.handlers()

    @property
    def invalidations(self) -> int:
        """Invalidations carried out."""
        return self.config.invalidations
