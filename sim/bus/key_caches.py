"""Caches of a service by key, from which an event drops what it names (`channels.X.invalidates`, `services.X.caches`).

A copy is represented by the time at which it was loaded: that is all that decides whether it is stale.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

from sim.bus.cache import MAX_SUBJECT, LruCache, read_through
from sim.bus.envelope import Event
from sim.bus.pointer import Pointer, key_at, parse_pointer

PATTERN = "*"  # a key with one in it means every key that matches
_POINTER = re.compile(r"\{([^{}]*)\}")

KeyRule = tuple[str | Pointer, ...]
"""Text, and pointers to what stands between it."""


def parse_key_rule(text: str) -> KeyRule:
    """Return the parts of a key that has JSON pointers in braces, such as ``price:{/data/sku}``.

    Raises
    ------
    ValueError
        A pointer that is none, or a brace without its other half.
    """
    parts = list[str | Pointer]()
    for place, part in enumerate(_POINTER.split(text)):
        if place % 2:
            parts.append(parse_pointer(part))
        elif "{" in part or "}" in part:
            raise ValueError(f"{text!r} has a brace without its other half: write a JSON pointer in braces, as price:{{/data/sku}}")
        elif part:
            parts.append(part)
    return tuple(parts)


def named_key(rule: KeyRule, data: object) -> str:
    """Return the key that an event names, empty where what a pointer asks for is not there; it is cut to `MAX_SUBJECT` characters."""
    found = [part if isinstance(part, str) else key_at(part, data) for part in rule]
    return "".join(found)[:MAX_SUBJECT] if all(found) else ""


class KeyCaches:
    """The caches of one pod.

    Parameters
    ----------
    entries
        Cache -> how many copies it keeps at most.
    rules
        Event type -> which key its events name.

    Attributes
    ----------
    invalidations
        Events that were carried out.
    serves
        Whether copies are served; while they are not, every read loads, and nothing is kept.
    """

    def __init__(self, entries: Mapping[str, int], rules: Mapping[str, KeyRule]) -> None:
        self._caches: dict[str, LruCache[str, int]] = {name: LruCache(limit) for name, limit in entries.items()}
        self._rules = dict(rules)
        self.invalidations = 0
        self.serves = True

    def handlers(self, others: Mapping[str, Callable[[Event], None]]) -> dict[str, Callable[[Event], None]]:
        """Return the handlers of the events that name a key; each drops it, then does what the service does with the event."""
        return {type: partial(self._invalidated, rule, others.get(type)) for type, rule in self._rules.items()}

    def read(self, cache: str, key: str, *, now_ns: int) -> tuple[int, bool]:
        """Return when the served copy was loaded, and whether it was in the cache; one that was not is loaded now."""
        if not self.serves:
            return now_ns, False
        return read_through(self._caches[cache], key, now_ns=now_ns)

    def forget(self) -> None:
        """Drop every copy, because nobody knows what was missed while nobody listened. It does not count as an invalidation."""
        self._caches = {name: LruCache(cache.limit) for name, cache in self._caches.items()}

    def _invalidated(self, rule: KeyRule, then: Callable[[Event], None] | None, event: Event) -> None:
        key = named_key(rule, event.data)
        for cache in self._caches.values():
            if key and PATTERN not in key:
                cache.delete(key)
            else:  # an event that names no key means all: a stale copy would be the worse error
                cache.delete_matching(_glob(key) if key else PATTERN)
        self.invalidations += 1
        if then is not None:
            then(event)


def _glob(key: str) -> str:
    """Return the pattern in which only `*` has a meaning of its own."""
    return re.sub(r"[?\[]", lambda found: f"[{found[0]}]", key)
