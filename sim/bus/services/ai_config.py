"""ai-config-service: owns templates and providers; its other pods hear of a change as everyone does."""

from __future__ import annotations

from sim.bus.cache import ConfigSubscriber


class AiConfigService:
    """A read cache in front of the configuration that the service owns."""

    def __init__(self) -> None:
        self.config = ConfigSubscriber()
        self.handlers = self.config.handlers()

    @property
    def invalidations(self) -> int:
        """Invalidations carried out."""
        return self.config.invalidations
