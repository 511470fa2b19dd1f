"""What a service does with the events it hears: behaviour that is code, chosen by its name in a bus file (``behaviour = "analytics"``).

A member is a class without constructor arguments whose instances are a `ServiceLogic`, which has the rules.
One with a `ConfigSubscriber` as `config` is made to read templates and providers through it, when the scenario means reads. Caches that a
scenario gives to a service of any behaviour (`services.X.caches`) are the pod's (`sim.bus.key_caches`).

To add one: write ``sim/bus/services/<name>.py`` with such a class, and list it in `BEHAVIOURS` under the name that bus files use. One that
is not ours is found without being listed (`sim.machine.user_code`): as ``module:Class``, or as an entry point of ``buslab.behaviours``.
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
from sim.errors import UsageError
from sim.machine.user_code import find_member, first_line


class ServiceLogic(Protocol):
    """What one pod of a service does with the events it hears.

    Rules
    -----
    1. It is made without arguments: once when the scenario is checked, then once for each start of each pod, in whichever process the
       pod lives. So pods share nothing but what their process has, and a pod that is killed begins anew.
    2. A handler is called in the receive path, with one `Event` at a time and no await: what it takes, every pod of its process waits.
       To say how long it would take in production is the scenario's part (`services.X.handler_ms`).
    3. A handler that raises is a failed handling: it is recorded as one, and the pod goes on.
    4. What a service hears without a handler for it is recorded as handled, and that is all. A probe of the lab reaches no handler.
    5. It may remember what it likes, but a run goes on for long: what it keeps needs a bound. What comes may be of another program, so
       nothing in an event's data is certain. It decides; it neither publishes nor speaks to a broker.
    """

    @property
    def handlers(self) -> dict[str, Callable[[Event], None]]:
        """Event type -> what to do with one event; asked for once, when the pod is made."""

    @property
    def invalidations(self) -> int:
        """How many cache invalidations were carried out; one that is not ours may leave it out: then none were."""


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


def find_behaviour(name: str, *, folder: str = "") -> Callable[[], ServiceLogic]:
    """Return what makes the logic of one pod: one of `BEHAVIOURS`, or one that is not ours.

    Parameters
    ----------
    folder
        Where modules of the user's are.

    Raises
    ------
    UsageError
        There is no such behaviour, or it cannot be imported.
    """
    return find_member(name, kind="behaviour", members=BEHAVIOURS, folder=folder)


def make_logic(name: str, *, folder: str, where: str) -> ServiceLogic:
    """Return the logic of one new pod.

    Parameters
    ----------
    where
        Which service it is of, as an error says it.

    Raises
    ------
    UsageError
        As `find_behaviour`, or the user's code raised: the first pod's may have worked, and this one's not.
    """
    make = find_behaviour(name, folder=folder)
    if name in BEHAVIOURS:
        return make()
    try:
        return make()
    except (Exception, SystemExit) as error:
        raise UsageError(f"{where}.behaviour: making one more {name} raised {first_line(error, folder=folder)}") from error
