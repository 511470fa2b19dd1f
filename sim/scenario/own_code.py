"""The code of the user's own that a scenario names, tried before anything starts: what cannot work is one line and not a failed run.

Behaviours and recipes are tried here, and whether the scenario's other parts agree with them. How code is found, and the rules of each
family, stand elsewhere (`sim.machine.user_code`; `sim.bus.services.ServiceLogic`, `sim.bus.once`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Union

import msgspec

from sim.bus.once import RECIPES, find_recipe
from sim.bus.services import BEHAVIOURS, find_behaviour
from sim.errors import UsageError, did_you_mean
from sim.faults.catalogue import FAULTS, Fault
from sim.faults.own_faults import find_fault
from sim.machine.user_code import find_member, first_line, is_named, takes_turns
from sim.scenario.settings import Scenario


def scenario_of(tree: dict[str, Any]) -> Scenario:
    """Return a tree as a scenario, with the faults in it that are not ours.

    Raises
    ------
    msgspec.ValidationError
        A value is not of its type, or not within its bounds.
    UsageError
        There is no such fault.
    """
    faults, folder = tree.get("faults"), tree.get("code_folder", "")
    kinds = {str(one.get("kind")) for one in faults if isinstance(one, dict)} if isinstance(faults, list | tuple) else set()
    own = [find_fault(kind, folder=folder) for kind in sorted(kinds - set(FAULTS))]
    if not own:
        return msgspec.convert(tree, Scenario)
    # The union of the catalogue's faults is that of the type checkers; with the user's own it is one of this scenario only.
    one: Any = Union[(Fault, *own)]
    read: Any = msgspec.convert({"faults": faults}, msgspec.defstruct("Faults", [("faults", tuple[one, ...])]))
    return msgspec.structs.replace(msgspec.convert({**tree, "faults": []}, Scenario), faults=read.faults)


def names_own_code(tree: Mapping[str, Any]) -> bool:
    """Return whether a scenario's tree names anything as ``module:Name``."""
    services, bus = tree.get("services"), tree.get("bus")
    names = [one.get("behaviour") for one in services.values() if isinstance(one, dict)] if isinstance(services, dict) else []
    names += [bus.get("once")] if isinstance(bus, dict) else []
    faults, checkers = tree.get("faults"), tree.get("checkers")
    names += [one.get("kind") for one in faults if isinstance(one, dict)] if isinstance(faults, list) else []
    names += checkers if isinstance(checkers, list) else []
    return any(isinstance(name, str) and is_named(name) for name in names)


def behaviour_problem(name: str, *, heard: Iterable[str], folder: str) -> str:
    """Return why a behaviour cannot be that of a service that hears these channels, empty when it can."""
    if name in BEHAVIOURS:
        return ""
    try:
        make: Any = find_behaviour(name, folder=folder)
    except UsageError as error:
        return str(error)
    if not isinstance(make, type):
        return f"it is not a class, but {_article(make)}"
    try:
        logic = make()
        handlers, invalidations = logic.handlers, getattr(logic, "invalidations", 0)
    except (Exception, SystemExit) as error:  # the user's code may do anything
        if isinstance(error, AttributeError) and error.name == "handlers" and isinstance(error.obj, make):
            return "its instances have no handlers: give it a dict of event type and function"
        return f"making one raised {first_line(error, folder=folder)}"
    if not isinstance(invalidations, int):
        return f"its invalidations are not a whole number, but {_article(invalidations)}"
    return _handlers_problem(handlers, tuple(heard))


def _handlers_problem(handlers: object, heard: tuple[str, ...]) -> str:
    """Return why an object cannot be the handlers of a service that hears these channels, empty when it can."""
    if not isinstance(handlers, dict):
        return f"its handlers are not a dict, but {_article(handlers)}"
    for channel, handler in handlers.items():
        if not isinstance(channel, str):
            return f"its handlers have the key {channel!r}, which is no event type: give text"
        if not callable(handler):
            return f"its handler of {channel!r} cannot be called: it is {_article(handler)}"
        if takes_turns(handler):
            return f"its handler of {channel!r} is a coroutine or a generator: a handler is called, and nobody awaits it"
    if handlers and not set(handlers) & set(heard):
        return f"none of its handlers would ever be called: {_unheard(handlers, heard)}"
    return ""


def own_code_notes(scenario: Scenario) -> list[str]:
    """Return a sentence for each handler of the user's that no event of the scenario would reach."""
    notes = []
    for name, service in scenario.services.items():
        if (behaviour := scenario.behaviour(name)) not in BEHAVIOURS:
            handlers = scenario.new_logic(name).handlers
            if not set(handlers) <= set(service.subscribes):
                never = _unheard(handlers, service.subscribes)
                notes.append(f"the behaviour {behaviour!r} of {name} has handlers that are never called: {never}")
    return notes


def recipe_problem(name: str, *, folder: str) -> str:
    """Return why a recipe for handling once cannot be used, empty when it can."""
    if name in RECIPES:
        return ""
    try:
        recipe: Any = find_recipe(name, folder=folder)
    except UsageError as error:
        return str(error)
    if not callable(recipe) or not inspect.isgeneratorfunction(recipe):
        return f"it is not a generator function, but {_article(recipe)}"
    try:
        inspect.signature(recipe).bind("event", token="", ttl_s=1, wall_ms=None)
    except TypeError as error:
        return f"it cannot be called as recipe(event_id, token=…, ttl_s=…, wall_ms=…): {error}"
    return ""


def checker_problem(name: str, *, folder: str) -> str:
    """Return why a checker cannot be one of the user's own, empty when it can."""
    try:
        check: Any = find_member(name, kind="checker", members={}, folder=folder)
    except UsageError as error:
        return str(error)
    if not callable(check) or takes_turns(check):
        return f"it is not a function of a run, but {_article(check)}"
    try:
        inspect.signature(check).bind("run")
    except (TypeError, ValueError) as error:
        return f"it cannot be called as checker(run): {error}"
    return ""


def _unheard(handlers: Iterable[str], heard: Iterable[str]) -> str:
    heard = tuple(heard)
    never = [f"{channel!r}{did_you_mean(channel, heard)}" for channel in handlers if channel not in heard]
    return f"the service does not subscribe to {', '.join(never)}"


def _article(value: object) -> str:
    return f"of type {type(value).__name__}"
