"""Keys that events carry, as pointers into an event in its envelope: the business key of a call, and the key of a cache that it drops."""

from __future__ import annotations

import json
from collections.abc import Mapping

from sim.bus.key_caches import KeyRule, parse_key_rule
from sim.bus.pointer import Pointer, parse_pointer
from sim.errors import ScenarioError


def business_keys(told: Mapping[str, str], data_at: Pointer) -> dict[str, Pointer]:
    """Return where in the data of a call its business key stands.

    Parameters
    ----------
    told
        Event type -> pointer into the event; empty: it has no key.
    data_at
        Where in an event its data stand.

    Raises
    ------
    ScenarioError
        A key that is no pointer into the data of an event.
    """
    found = dict[str, Pointer]()
    for name, text in told.items():
        if text:
            where = _where(name, "key", text)
            try:
                found[name] = _into_data(parse_pointer(text), data_at, where)
            except ValueError as error:
                raise ScenarioError(f"{where}: {error}") from None
    return found


def cache_keys(told: Mapping[str, str], data_at: Pointer) -> dict[str, KeyRule]:
    """Return which key of a cache the events of a type make stale; as `business_keys`, of texts with pointers in braces."""
    found = dict[str, KeyRule]()
    for name, text in told.items():
        if text:
            where = _where(name, "invalidates", text)
            try:
                rule = parse_key_rule(text)
            except ValueError as error:
                raise ScenarioError(f"{where}: {error}") from None
            found[name] = tuple(part if isinstance(part, str) else _into_data(part, data_at, where) for part in rule)
    return found


def _where(channel: str, setting: str, text: str) -> str:
    return f"channels.{json.dumps(channel, ensure_ascii=False)}.{setting} = {text!r}"


def _into_data(pointer: Pointer, data_at: Pointer, where: str) -> Pointer:
    """Return a pointer into an event as one into the event's data."""
    at = len(data_at)
    if pointer[:at] != data_at or len(pointer) == at:
        begin = "".join(f"/{name}" for name in data_at)
        raise ScenarioError(f"{where}: a key stands in what a call carries: begin it with {begin}/")
    return pointer[at:]
