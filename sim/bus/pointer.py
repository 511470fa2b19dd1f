"""JSON pointers (RFC 6901): where in an event its business key stands, or its id; and what stands there, as text."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

MAX_KEY = 200  # characters of a key that are recorded
_HASH_DIGITS = 32
_ESCAPE = re.compile(r"~[01]")
_BAD_ESCAPE = re.compile(r"~(?![01])")
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)
_NOTHING = object()

Pointer = tuple[str, ...]


def parse_pointer(text: str) -> Pointer:
    """Return the names on the way of a pointer such as ``/data/orderId``; of the empty one, which is the whole, none.

    Raises
    ------
    ValueError
        It does not begin with a slash, or has a ``~`` that is not followed by 0 or 1.
    """
    if text and not text.startswith("/"):
        raise ValueError(f"{text!r} is no JSON pointer: begin it with a slash, as /data/orderId")
    if _BAD_ESCAPE.search(text):
        raise ValueError(f"{text!r} is no JSON pointer: write ~0 for ~ and ~1 for a slash in a name")
    return tuple(_ESCAPE.sub(lambda found: "~" if found[0] == "~0" else "/", name) for name in text.split("/")[1:])


def find(pointer: Pointer, value: Any, default: Any = None) -> Any:
    """Return what stands at a pointer, `default` where nothing does."""
    for name in pointer:
        if isinstance(value, Mapping):
            value = value.get(name, _NOTHING)
        elif isinstance(value, list | tuple):
            value = value[int(name)] if _INDEX.fullmatch(name) and int(name) < len(value) else _NOTHING
        else:
            return default
        if value is _NOTHING:
            return default
    return value


def key_at(pointer: Pointer, value: Any) -> str:
    """Return the business key at a pointer as it is recorded: text as it is, null and what is not there as "", anything else as JSON.

    A key of more than `MAX_KEY` characters is cut, and its hash (BLAKE2b) put behind it, so that two of one beginning stay apart.
    """
    found = find(pointer, value)
    if found is None:
        return ""
    try:
        text = found if isinstance(found, str) else json.dumps(found, separators=(",", ":"), ensure_ascii=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        return ""  # an event with such data is refused, so its key is of no use
    encoded = text.encode("utf-8", "backslashreplace")
    if len(text) <= MAX_KEY:
        return encoded.decode()
    digest = hashlib.blake2b(encoded, digest_size=_HASH_DIGITS // 2).hexdigest()
    return f"{encoded.decode()[: MAX_KEY - _HASH_DIGITS - 1]}…{digest}"
