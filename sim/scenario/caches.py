"""Caches of a service as a scenario describes them: how many copies they keep, and how often which keys are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from sim.bus.cache import CACHE_SIZE, MAX_SUBJECT
from sim.bus.key_caches import PATTERN
from sim.scenario.payloads import TRIED, make_content

_FIELD = "key"


class Cache(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What each pod of a service keeps by key; events of channels with `invalidates` that it hears drop copies.

    Attributes
    ----------
    reads
        The key of one read, in the words of a payload's template, such as `price:sku_{zipf(500)}`.
    reads_per_s
        How often all pods together read, on average, in warm-up and run; a miss loads the newest, which takes no time.
    entries
        How many copies one pod keeps at most; the one unused for longest leaves.
    """

    reads: Annotated[str, Meta(min_length=1, max_length=200)]
    reads_per_s: Annotated[float, Meta(ge=0, le=1_000_000)] = 0.0
    entries: Annotated[int, Meta(ge=1, le=1_000_000)] = CACHE_SIZE


def make_key(reads: str, *, seed: int, payload_bytes: int, templates: int) -> Callable[[int], str]:
    """Return the function that makes the key of the n-th read; the first `TRIED` are tried.

    Raises
    ------
    ValueError
        What is wrong with it, in words.
    """
    try:
        content = make_content({_FIELD: reads}, seed=seed, payload_bytes=payload_bytes, templates=templates)
    except ValueError as error:
        raise ValueError(str(error).removeprefix(f"/{_FIELD}: ")) from None

    def key(number: int) -> str:
        return str(content(number).get(_FIELD, ""))[:MAX_SUBJECT]

    for number in range(TRIED):
        tried = content(number)[_FIELD]
        if tried is None or str(tried) == "":
            raise ValueError(f"read {number} of it has no key")
        if len(str(tried)) > MAX_SUBJECT:
            raise ValueError(f"read {number} of it has a key of {len(str(tried)):,} characters: {MAX_SUBJECT} is the most")
        if PATTERN in str(tried):
            raise ValueError(f"read {number} of it is {str(tried)!r}, and a key with {PATTERN} means every key that matches: read one")
    return key
