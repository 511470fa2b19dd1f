"""Caches by key: which key an event names, and what it drops."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.bus.cache import MAX_SUBJECT
from sim.bus.envelope import Event
from sim.bus.key_caches import KeyCaches, named_key, parse_key_rule

PRICE = parse_key_rule("price:{/sku}")


def event(**data: Any) -> Event:
    return Event("evt", "", "price.changed", "1.0", "", "orders", data)


def caches(*, entries: int = 10, rule: str = "price:{/sku}") -> KeyCaches:
    return KeyCaches({"prices": entries, "stock": entries}, {"price.changed": parse_key_rule(rule)})


def is_kept(one: KeyCaches, cache: str, key: str) -> bool:
    return one.read(cache, key, now_ns=99)[1]


@pytest.mark.parametrize(
    ("text", "data", "key"),
    [
        ("price:{/sku}", {"sku": "a"}, "price:a"),
        ("price:{/sku}", {"sku": 7}, "price:7"),
        ("{/a/b}-{/c/0}", {"a": {"b": "x"}, "c": ["y"]}, "x-y"),
        ("{/a~1b}", {"a/b": "x"}, "x"),
        ("all", {}, "all"),
        ("price:{/sku}", {}, ""),
        ("price:{/sku}", {"sku": None}, ""),
        ("price:{/sku}", {"sku": ""}, ""),
        ("price:{/sku}", "no object", ""),
        ("price:{/sku}", {"sku": "x" * 300}, None),
    ],
)
def test_an_event_names_the_key_whose_parts_stand_in_it_and_none_where_one_is_missing(text: str, data: Any, key: str | None) -> None:
    named = named_key(parse_key_rule(text), data)
    assert named == key if key is not None else len(named) == MAX_SUBJECT


@pytest.mark.parametrize("text", ["price:{sku}", "price:{/sku", "price:/sku}", "{{/sku}}", "{/a~2}"])
def test_what_is_no_pointer_in_braces_is_refused_with_the_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"no JSON pointer|without its other half"):
        parse_key_rule(text)


def test_an_event_drops_its_key_from_every_cache_then_does_what_the_service_does_with_it() -> None:
    one, done = caches(), list[str]()
    for cache in ("prices", "stock"):
        for key in ("price:a", "price:b"):
            assert one.read(cache, key, now_ns=5) == (5, False)
    one.handlers({"price.changed": lambda event: done.append(event.data["sku"])})["price.changed"](event(sku="a"))
    assert done == ["a"] and one.invalidations == 1
    assert [is_kept(one, cache, key) for cache in ("prices", "stock") for key in ("price:a", "price:b")] == [False, True, False, True]
    assert one.read("prices", "price:b", now_ns=9) == (5, True)


@pytest.mark.parametrize(
    ("sku", "left"),
    [("*", []), ("a*", ["b", "a"]), (None, []), ("[ab]*", ["a", "a1", "b"]), ("a?*", ["a", "a1", "b"]), ("nothing", ["a", "a1", "b"])],
)
def test_a_star_means_every_key_that_matches_and_no_key_means_all(sku: str | None, left: list[str]) -> None:
    one = caches(rule="{/sku}" if sku in ("a*",) else "price:{/sku}")
    for key in ("a", "a1", "b"):
        one.read("prices", f"price:{key}", now_ns=1)
    one.handlers({})["price.changed"](event(sku="price:a1*" if sku == "a*" else sku))
    assert [key for key in ("a", "a1", "b") if is_kept(one, "prices", f"price:{key}")] == sorted(left)


def test_a_pod_that_must_not_serve_loads_at_each_read_and_forgets_what_it_had() -> None:
    one = caches()
    one.read("prices", "price:a", now_ns=1)
    one.serves = False
    assert one.read("prices", "price:a", now_ns=2) == (2, False)
    one.serves = True
    assert one.read("prices", "price:a", now_ns=3) == (1, True)
    one.forget()
    assert one.read("prices", "price:a", now_ns=4) == (4, False) and one.invalidations == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=60), st.integers(1, 4))
def test_a_copy_is_served_as_a_plain_list_of_the_last_used_says(steps: list[tuple[bool, int]], entries: int) -> None:
    one, used = caches(entries=entries), list[tuple[str, int]]()  # the one unused for longest first
    drop = one.handlers({})["price.changed"]
    for at, (is_read, number) in enumerate(steps):
        key = f"price:{number}"
        held = [loaded for name, loaded in used if name == key]
        if is_read:
            assert one.read("prices", key, now_ns=at) == ((held[0], True) if held else (at, False))
            used = [*(pair for pair in used if pair[0] != key), (key, held[0] if held else at)][-entries:]
        else:
            drop(event(sku=str(number)))
            used = [pair for pair in used if pair[0] != key]
