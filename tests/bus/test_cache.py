"""The LRU cache against a plain model, and the subscriber that empties it."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.bus.cache import ConfigSubscriber, LruCache
from sim.bus.envelope import Event

keys = st.sampled_from([f"{kind}:{n}" for kind in "ab" for n in range(4)])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), keys),
        st.tuples(st.just("get"), keys),
        st.tuples(st.just("delete"), keys),
        st.tuples(st.just("match"), st.sampled_from(["*", "a:*", "?:1", "[ab]:2", "nothing", ""])),
    ),
    max_size=60,
)


@given(steps, st.integers(1, 6))
def test_the_cache_does_what_a_list_of_pairs_would(steps: list[tuple[str, str]], limit: int) -> None:
    cache: LruCache[str, int] = LruCache(limit)
    model: list[tuple[str, int]] = []  # the one unused for longest first
    for number, (what, key) in enumerate(steps):
        there = [pair for pair in model if pair[0] == key]
        others = [pair for pair in model if pair[0] != key]
        if what == "put":
            cache.put(key, number)
            model = [*others, (key, number)][-limit:]
        elif what == "get":
            assert cache.get(key) == (there[0][1] if there else None)
            model = others + there
        elif what == "delete":
            assert cache.delete(key) is bool(there)
            model = others
        else:
            kept = [pair for pair in model if not fnmatchcase(pair[0], key)]
            assert cache.delete_matching(key) == len(model) - len(kept)
            model = kept
        assert len(cache) == len(model) <= limit
    assert [(key, cache.get(key)) for key, _ in model] == model


def event(kind: str, **data: object) -> Event:
    return Event("evt_1", "", kind, "1.0", "", "test", data)


@pytest.mark.parametrize(
    ("kind", "data", "templates", "providers"),
    [
        ("config.template.invalidated", {"templateId": "t1"}, {"t2"}, {"p1"}),
        ("config.provider.invalidated", {"providerId": "p1"}, {"t1", "t2"}, set()),
        ("config.cache.invalidate", {"pattern": "t*"}, set(), {"p1"}),
        ("config.cache.invalidate", {"pattern": "*"}, set(), set()),
        ("config.template.invalidated", {"templateId": "unknown"}, {"t1", "t2"}, {"p1"}),
    ],
)
@pytest.mark.parametrize("times", [1, 2])
def test_an_invalidation_drops_what_it_names_however_often_it_comes(
    kind: str, data: dict[str, str], templates: set[str], providers: set[str], times: int
) -> None:
    subscriber = ConfigSubscriber()
    for key in ("t1", "t2"):
        subscriber.templates.put(key, key)
    subscriber.providers.put("p1", "p1")
    for _ in range(times):
        subscriber.handlers()[kind](event(kind, **data))
    assert {key for key in ("t1", "t2") if subscriber.templates.get(key)} == templates
    assert {key for key in ("p1",) if subscriber.providers.get(key)} == providers
    assert subscriber.invalidations == times
