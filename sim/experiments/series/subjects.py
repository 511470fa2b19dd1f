"""What a notebook is about, of any bus: a service, a channel, an outage; those that are named, else those that the scenario has most of."""

from __future__ import annotations

from collections.abc import Iterable

from sim.errors import UsageError, did_you_mean
from sim.faults.catalogue import FAULTS
from sim.scenario.file import Scenario

OUTAGE_AT_S, OUTAGE_S = 2.0, 5.0  # of a scenario that has none
AFTER_S = 5.0  # in which pods come back
AWAY = ("broker_down", "broker_stop")  # faults after which nothing answers


def heard_most(scenario: Scenario, *, service: str = "", channel: str = "") -> tuple[str, str]:
    """Return a service and a channel that it hears.

    What is not named is the service of which the most calls are heard, and of the channels that it hears the one with the most.

    Raises
    ------
    UsageError
        There is no such service or channel, the one does not hear the other, or no service hears anything that is called.
    """
    _check("service", service, scenario.services)
    _check("channel", channel, scenario.channels)
    called = {name: weight for name, weight in scenario.load.mix.items() if weight > 0 and name in scenario.channels}
    weights = {channel: called.get(channel, 1.0)} if channel else called
    heard = {
        name: [one for one in its.subscribes if one in weights] for name, its in scenario.services.items() if not service or name == service
    }
    heard = {name: its for name, its in heard.items() if its}
    if not heard:
        who, what = service or "no service", channel or "anything that is called"
        raise UsageError(f"scenario {scenario.name}: {who} {'does not hear' if service else 'hears'} {what}")
    most = max(heard, key=lambda name: sum(weights[one] for one in heard[name]))
    return most, max(heard[most], key=lambda one: weights[one])


def outage_settings(scenario: Scenario, *, kind: str) -> tuple[str, ...]:
    """Return the settings by which a fault of the broker is on for as long as the scenario's own outage, and no other.

    A scenario without an outage has one from its third second on, for five seconds, is as long as that asks for, and promises nothing.

    Parameters
    ----------
    kind
        The fault, such as ``broker_freeze``.
    """
    _check("fault", kind, FAULTS)
    own = next((fault for fault in scenario.faults if type(fault) in {FAULTS[name] for name in AWAY}), None)
    at_s, for_s = (own.at_s, own.for_s) if own is not None else (OUTAGE_AT_S, OUTAGE_S)
    fault = f'faults=[{{kind="{kind}", at_s={at_s}, for_s={for_s}}}]'
    if own is not None:
        return (fault,)
    return (fault, "slo={}", f"load.run_s={max(scenario.load.run_s, at_s + for_s + AFTER_S)}")


def _check(what: str, name: str, known: Iterable[str]) -> None:
    if name and name not in (names := list(known)):
        raise UsageError(f"unknown {what} {name!r}{did_you_mean(name, names)}; known: {', '.join(names)}")
