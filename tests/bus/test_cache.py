"""The LRU cache against a plain model, and the subscriber that empties it."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.bus.cache import CACHE_SIZE, PROVIDERS, TEMPLATES, ConfigSubscriber, LruCache, subject_of
from sim.bus.envelope import BATCH, Event
from tests.support.reference import content

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


T1, T2, P1 = f"{TEMPLATES}1", f"{TEMPLATES}2", f"{PROVIDERS}1"


def event(kind: str, **data: object) -> Event:
    return Event("evt_1", "", kind, "1.0", "", "test", data)


@pytest.mark.parametrize(
    ("kind", "data", "templates", "providers"),
    [
        ("config.template.invalidated", {"templateId": "1"}, {T2}, {P1}),
        ("config.provider.invalidated", {"providerId": "1"}, {T1, T2}, set()),
        ("config.cache.invalidate", {"pattern": "aiponge:*:templates:*"}, set(), {P1}),  # the reference's admin example
        ("config.cache.invalidate", {"pattern": T1}, {T2}, {P1}),
        ("config.cache.invalidate", {"pattern": P1}, {T1, T2}, set()),
        ("config.cache.invalidate", {"pattern": "*:[12]"}, set(), set()),
        ("config.cache.invalidate", {"pattern": "1"}, {T1, T2}, {P1}),
        ("config.cache.invalidate", {"pattern": "*"}, set(), set()),
        ("config.template.invalidated", {"templateId": "unknown"}, {T1, T2}, {P1}),
        ("config.template.invalidated", {"templateId": 1}, {T2}, {P1}),
    ],
)
@pytest.mark.parametrize("times", [1, 2])
def test_an_invalidation_drops_what_it_names_however_often_it_comes(
    kind: str, data: dict[str, str], templates: set[str], providers: set[str], times: int
) -> None:
    subscriber = ConfigSubscriber()
    for key in (T1, T2, P1):
        subscriber.read(key, now_ns=1)
    for _ in range(times):
        subscriber.handlers()[kind](event(kind, **data))
    assert {key for key in (T1, T2) if subscriber.templates.get(key)} == templates
    assert {key for key in (P1,) if subscriber.providers.get(key)} == providers
    assert subscriber.invalidations == times


def test_a_read_loads_what_is_not_there_and_serves_the_same_copy_until_it_is_dropped() -> None:
    config = ConfigSubscriber()
    assert config.read(T1, now_ns=5) == (5, False)
    assert config.read(T1, now_ns=9) == (5, True)
    config.template_invalidated(event("config.template.invalidated", templateId="1"))
    assert config.read(T1, now_ns=12) == (12, False)
    assert config.read(P1, now_ns=13) == (13, False)
    assert (len(config.templates), len(config.providers)) == (1, 1)


def test_the_template_used_least_recently_leaves_a_full_cache() -> None:
    config = ConfigSubscriber()
    for number in range(CACHE_SIZE):
        config.read(f"{TEMPLATES}{number}", now_ns=number)
    assert config.read(f"{TEMPLATES}0", now_ns=1000) == (0, True)
    assert config.read(f"{TEMPLATES}new", now_ns=1001) == (1001, False)
    assert config.read(f"{TEMPLATES}1", now_ns=1002) == (1002, False), "0 had been used since, 1 had not"
    assert len(config.templates) == CACHE_SIZE


CONFIG_KINDS = ("config.template.invalidated", "config.provider.invalidated", "config.cache.invalidate")
doings = st.lists(st.tuples(st.sampled_from(["read", *CONFIG_KINDS]), st.integers(0, 7)), max_size=40)


@given(doings, st.integers(1, 4))
def test_each_invalidation_twice_leaves_the_caches_that_once_leaves(doings: list[tuple[str, int]], times: int) -> None:
    once, often = ConfigSubscriber(limit=3), ConfigSubscriber(limit=3)
    for at, (what, number) in enumerate(doings):
        if what == "read":
            key = f"{TEMPLATES if number % 2 else PROVIDERS}{'tpl' if number % 2 else 'prov'}_{number}"
            assert once.read(key, now_ns=at) == often.read(key, now_ns=at)
            continue
        data = content(what, number, 0, templates=8)
        once.handlers()[what](event(what, **data))
        for _ in range(times):
            often.handlers()[what](event(what, **data))
    for name in ("templates", "providers"):
        assert list(getattr(once, name)._entries.items()) == list(getattr(often, name)._entries.items())


@pytest.mark.parametrize(
    ("kind", "data", "subject"),
    [
        ("config.template.invalidated", {"templateId": "1"}, T1),
        ("config.provider.invalidated", {"providerId": "1"}, P1),
        ("config.cache.invalidate", {"pattern": "aiponge:*"}, "aiponge:*"),
        ("config.cache.invalidate", {"round": 1}, ""),
        ("config.template.invalidated", {"templateId": "x" * 999}, f"{TEMPLATES}{'x' * 999}"[:200]),
        ("config.template.invalidated", {"templateId": None}, ""),
        ("config.template.invalidated", {"templateId": 0}, f"{TEMPLATES}0"),
        ("config.provider.invalidated", {"providerId": None}, ""),
        ("config.provider.invalidated", {"templateId": "1"}, ""),
        ("config.cache.invalidate", {"pattern": None}, ""),
        ("config.cache.invalidate", {"pattern": ["a"]}, "['a']"),
        ("config.cache.invalidate", {"": "1"}, ""),
        ("analytics.provider.usage", {"providerId": "1"}, ""),
        ("analytics.provider.usage", {"": "1"}, ""),
        (BATCH, {"events": []}, ""),
    ],
)
def test_an_invalidation_is_about_the_key_or_pattern_that_it_names(kind: str, data: dict[str, object], subject: str) -> None:
    assert subject_of(kind, data) == subject


@pytest.mark.parametrize("number", range(1, 60))
def test_what_the_load_invalidates_is_what_a_cache_holds(number: int) -> None:
    """The ids of the load and the keys of the caches are written in two files: a pattern that matches nothing would clear nothing."""
    config = ConfigSubscriber()
    for kind in CONFIG_KINDS:
        data = content(kind, number, 0, templates=5)
        named = subject_of("config.provider.invalidated" if "providerId" in data else "config.template.invalidated", data)
        key = named or f"{TEMPLATES}tpl_{number % 5}"
        config.read(key, now_ns=1)
        config.handlers()[kind](event(kind, **data))
        assert config.read(key, now_ns=2) == (2, False)


def test_a_pod_that_heard_nothing_for_a_while_forgets_all_copies_and_keeps_its_limits() -> None:
    config = ConfigSubscriber(limit=2)
    for key, at in ((T1, 1), (P1, 2), (T2, 3)):
        config.read(key, now_ns=at)
    assert (config.templates.entries(), config.providers.entries()) == ([(T1, 1), (T2, 3)], [(P1, 2)])
    config.forget()
    assert (config.templates.entries(), config.providers.entries(), config.invalidations) == ([], [], 0)
    for cache in (config.templates, config.providers):
        for number in range(3):
            cache.put(str(number), number)
        assert cache.entries() == [("1", 1), ("2", 2)]


def test_while_it_does_not_serve_every_read_goes_to_the_database_and_nothing_is_kept() -> None:
    config = ConfigSubscriber()
    assert (config.templates.limit, config.providers.limit, config.serves) == (CACHE_SIZE, CACHE_SIZE, True)
    config.serves = False
    assert [config.read(T1, now_ns=at) for at in (1, 2)] == [(1, False), (2, False)]
    assert config.templates.entries() == []


def test_what_an_invalidation_drops_is_counted() -> None:
    cache: LruCache[str, int] = LruCache(9)

    def filled() -> LruCache[str, int]:
        for number, key in enumerate(("a:1", "a:2", "b:1")):
            cache.put(key, number)
        return cache

    dropped = {pattern: (filled().drop(pattern), [key for key, _ in cache.entries()]) for pattern in ("a:*", "a:1", "a:3", "?:1", None, 7)}
    assert dropped == {
        "a:*": (2, ["b:1"]),
        "a:1": (1, ["a:2", "b:1"]),
        "a:3": (0, ["a:1", "a:2", "b:1"]),
        "?:1": (2, ["a:2"]),
        None: (3, []),
        7: (3, []),
    }


@pytest.mark.parametrize("data", [{}, {"templateId": None, "providerId": None}, {"pattern": "*"}])
def test_an_event_that_names_no_template_or_provider_drops_none_whatever_its_id(data: dict[str, object]) -> None:
    config = ConfigSubscriber()
    odd = [f"{prefix}{id}" for prefix in (TEMPLATES, PROVIDERS) for id in ("", "None", "null", "undefined")]
    for key in odd:
        config.read(key, now_ns=1)
    for kind in CONFIG_KINDS[:2]:
        config.handlers()[kind](event(kind, **data))
    assert [config.read(key, now_ns=2) for key in odd] == [(1, True)] * len(odd)
    assert config.invalidations == 2


def test_a_pattern_without_a_wildcard_is_a_key_and_no_search() -> None:
    cache: LruCache[object, int] = LruCache(9)
    for key in (1, "1", "a\\"):
        cache.put(key, 7)
    assert [cache.drop(pattern) for pattern in ("1", "1", "a\\")] == [1, 0, 1]
    assert cache.entries() == [(1, 7)]
