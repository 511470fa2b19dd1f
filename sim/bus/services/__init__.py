"""What a service does with the events it hears: behaviour that is code, chosen by its name in a bus file (``behaviour = "analytics"``).

A member is a class without constructor arguments whose `handlers` maps an event type to a function of one `Event`, and whose
`invalidations` counts the cache invalidations that it carried out.
One with a `ConfigSubscriber` as `config` is made to read templates and providers through it, when the scenario means reads.
One instance is made per pod. A handler that raises is recorded as a failed delivery and does not stop the pod. What a service hears
without a handler for it is recorded, and that is all.

To add one: write ``sim/bus/services/<name>.py`` with such a class, and list it in `BEHAVIOURS` under the name that bus files use.
A probe (``data = {"probe": true}``) is kept from the handlers by the pod.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from sim.bus.cache import ConfigSubscriber
from sim.bus.envelope import Event
from sim.bus.services.analytics import AnalyticsService
from sim.bus.services.api_gateway import ApiGateway
from sim.bus.services.config_cache import ConfigCache
from sim.bus.services.hears import Hears
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


BEHAVIOURS: dict[str, Callable[[], ServiceLogic]] = {
    "hears": Hears,
    "config-cache": ConfigCache,
    "gateway": ApiGateway,
    "analytics": AnalyticsService,
    "metrics": SystemService,
}

# These count what analytics events bring, so an event that two replicas handle counts twice; the others only forget or replace.
ADDING_UP = frozenset({"analytics"})
