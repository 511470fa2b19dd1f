"""What each service does with the events it hears.

A member is a class without constructor arguments whose `handlers` maps an event type to a function of one `Event`, and whose
`invalidations` counts the cache invalidations that it carried out.
One with a `ConfigSubscriber` as `config` is made to read templates and providers through it, when the scenario means reads.
One instance is made per pod. A handler that raises is recorded as a failed delivery and does not stop the pod.

To add one: write ``sim/bus/services/<name>.py`` with such a class, and list it in `SERVICES` under the name that scenarios use.
A probe (``data = {"probe": true}``) is kept from the handlers by the pod.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from sim.bus.cache import ConfigSubscriber
from sim.bus.envelope import Event
from sim.bus.services.ai_config import AiConfigService
from sim.bus.services.ai_content import AiContentService
from sim.bus.services.analytics import AnalyticsService
from sim.bus.services.api_gateway import ApiGateway
from sim.bus.services.music import MusicService
from sim.bus.services.system import SystemService


class ServiceLogic(Protocol):
    """What one pod of a service does with the events it hears."""

    @property
    def handlers(self) -> dict[str, Callable[[Event], None]]:
        """Event type -> what to do with one event."""

    @property
    def invalidations(self) -> int:
        """How many cache invalidations were carried out."""


@runtime_checkable
class ConfigReader(Protocol):
    """Logic that reads templates and providers through a cache of its own."""

    config: ConfigSubscriber


SERVICES: dict[str, Callable[[], ServiceLogic]] = {
    "music-service": MusicService,
    "ai-content-service": AiContentService,
    "api-gateway": ApiGateway,
    "ai-config-service": AiConfigService,
    "analytics-service": AnalyticsService,
    "system-service": SystemService,
}

# These count what analytics events bring, so an event that two replicas handle counts twice; the others only forget or replace.
ADDING_UP = frozenset({"analytics-service"})
