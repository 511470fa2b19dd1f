"""The data of an event as another program wrote it: the reference fixes no shape of it, so it is read, and counted, whatever is in it.

Rules
-----
1. A field is looked for under the names that publishers give it, ours first. Where it has none of them, the event counts as unnamed: it
   was heard and handled, and only what it is about cannot be told.
2. A name that is no text counts as what it is: the number 1, the text "1" and true are three names.
3. Each name has a label of its own. Text that a person can read is its own label; any other is written as JSON writes it, in quotes and
   with escapes, so that names which print alike do not look alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from typing import Any

# Keys of counts that no name of an event is: of what has no name, and of the names beyond a limit, which are counted together.
UNNAMED = ("unnamed", "")
BEYOND = ("others", "")
ITEMS = ("events", "items", "batch", "records")
ITEM_NAMES = ("eventType", "type", "name", "event")
METRIC_NAMES = ("name", "metricName", "metric", "metricType")
PROVIDERS = ("providerId", "provider", "providerName", "provider_id")
TOKENS = ("tokens", "totalTokens", "tokensUsed", "tokenCount")
VALUES = ("value", "metricValue", "count", "amount")

_OTHER_THAN_TEXT = {bool: "boolean", int: "number", float: "number", list: "list", dict: "object"}
_LOOKS_LIKE_OURS = re.compile(r'".*|.* \((boolean|number|list|object)\)|\((unnamed|others)\)', re.DOTALL)
MAX_NUMBER = 2**53
MAX_LABEL = 200  # characters of what is no text


def find(data: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Return the first of these fields that is there and not null; None where none is."""
    for name in names:
        if (value := data.get(name)) is not None:
            return value
    return None


def name_of(data: object, names: tuple[str, ...]) -> Hashable:
    """Return what one of these fields calls its subject, as a key of counts: text itself, else its kind and its JSON, or `UNNAMED`."""
    value = find(data, names) if isinstance(data, dict) else data
    if isinstance(value, str):
        return value
    if value is None:
        return UNNAMED
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = str(type(value))
    return (_OTHER_THAN_TEXT.get(type(value), "object"), text[:MAX_LABEL])


def label_of(key: Hashable) -> str:
    """Return the text under which `BEYOND` or a key of `name_of` is shown; no other key has the same."""
    if isinstance(key, tuple):
        kind, text = key
        return f"{text} ({kind})" if text else f"({kind})"
    text = str(key)
    return text if text.isprintable() and not _LOOKS_LIKE_OURS.fullmatch(text) else json.dumps(text)


def number_in(data: Mapping[str, Any], names: tuple[str, ...]) -> int | float:
    """Return the first of these fields that is a number, below what JavaScript counts exactly; 0 where none is."""
    for name in names:
        value = data.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and -MAX_NUMBER < value < MAX_NUMBER:
            return value
    return 0
