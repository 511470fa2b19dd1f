"""Patterns among what a service subscribes to: they stand for the channels of the bus that match, by the rules of Redis' PSUBSCRIBE.

A pod subscribes to each of those channels by its name, so it hears what PSUBSCRIBE would bring. What a pattern costs the broker itself,
which holds each publish against every pattern, is not played. A pod whose patterns and names overlap would hear an event twice on Redis,
so that is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sim.errors import ScenarioError
from sim.scenario.problems import quoted

MAX_SHOWN = 20  # names in one message
_GLOB = re.compile(r"[*?\[]")


def expand_patterns(tree: dict[str, Any], channels: Iterable[str], *, where: str) -> dict[str, Any]:
    """Return a scenario's tree in which each pattern of a service's `subscribes` is the channels that it stands for.

    Raises
    ------
    ScenarioError
        A pattern matches no channel, or a channel is named twice.
    """
    services, known = tree.get("services"), list(channels)
    if not isinstance(services, Mapping):
        return tree
    changed = {name: _expanded(str(name), service, known, where) for name, service in services.items()}
    return tree if changed == services else tree | {"services": changed}


def _expanded(name: str, service: Any, channels: list[str], where: str) -> Any:
    named = service.get("subscribes") if isinstance(service, Mapping) else None
    if not isinstance(named, list) or not any(isinstance(one, str) and _is_pattern(one, channels) for one in named):
        return service
    found: dict[str, str] = {}  # channel -> what named it
    for one in named:
        if not isinstance(one, str):
            return service  # it is refused by its type
        matches = _matching(one, channels) if _is_pattern(one, channels) else [one]
        if not matches:
            there = ", ".join(channels[:MAX_SHOWN])
            bytewise = "?" in one and not "".join(channels).isascii()
            hint = " (a ? is one byte, and a letter beyond ASCII has several)" if bytewise else ""
            raise ScenarioError(f"{where}: services.{quoted(name)}.subscribes: {one!r} matches no channel{hint}; there are {there}")
        for channel in matches:
            if channel in found:
                raise ScenarioError(
                    f"{where}: services.{quoted(name)}.subscribes: {channel!r} is named by {found[channel]!r} and by {one!r}: on Redis a "
                    "pod would hear it twice; leave one of them out"
                )
            found[channel] = one
    return {**service, "subscribes": list(found)}


def _is_pattern(text: str, channels: list[str]) -> bool:
    return _GLOB.search(text) is not None and text not in channels


def _matching(pattern: str, channels: list[str]) -> list[str]:
    matches = re.compile(_regular(pattern.encode()), re.DOTALL).fullmatch
    return [channel for channel in channels if matches(channel.encode())]


def _regular(pattern: bytes) -> bytes:
    """Return a pattern of Redis' as a regular expression: of bytes, as Redis counts them, so that `?` is one byte."""
    found, at = b"", 0
    while at < len(pattern):
        one, at = pattern[at : at + 1], at + 1
        if one == b"[":
            part, at = _class(pattern, at)
            found += part
        elif one == b"\\" and at < len(pattern):
            found, at = found + re.escape(pattern[at : at + 1]), at + 1
        else:
            found += {b"*": b".*", b"?": b"."}.get(one) or re.escape(one)
    return found


def _class(pattern: bytes, at: int) -> tuple[bytes, int]:
    """Return the bytes that may stand where a `[` was, as a regular expression, and where the pattern goes on; without a `]` it ends."""
    wrong = pattern[at : at + 1] == b"^"
    at, members = at + wrong, set[int]()
    while at < len(pattern) and pattern[at : at + 1] != b"]":
        if pattern[at : at + 1] == b"\\" and at + 1 < len(pattern):
            at += 1
            members.add(pattern[at])
        elif pattern[at + 1 : at + 2] == b"-" and at + 2 < len(pattern):
            low, high = sorted((one ^ 128) - 128 for one in (pattern[at], pattern[at + 2]))  # a byte from 128 on is below 0 there
            members |= {one % 256 for one in range(low, high + 1)}
            at += 2
        else:
            members.add(pattern[at])
        at += 1
    members = set(range(256)) - members if wrong else members
    return b"(?:" + b"|".join(re.escape(bytes([one])) for one in sorted(members)) + b")" if members else b"(?!)", at + 1
