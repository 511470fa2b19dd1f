"""music-service: renders prompts from cached templates and provider settings."""

from __future__ import annotations

from sim.bus.cache import ConfigSubscriber


class MusicService:
    """Templates and provider settings, kept until an event drops them."""

    def __init__(self) -> None:
        self.config = ConfigSubscriber()
        self.handlers = self.config.handlers()

    @property
    def invalidations(self) -> int:
        """Invalidations carried out."""
        return self.config.invalidations
