"""JSON pointers: what they find, and how a business key is written down."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.bus.pointer import MAX_KEY, find, key_at, parse_pointer

# the document and the pointers of RFC 6901, section 5
DOCUMENT = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, 'k"l': 6, " ": 7, "m~n": 8}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", DOCUMENT),
        ("/foo", ["bar", "baz"]),
        ("/foo/0", "bar"),
        ("/", 0),
        ("/a~1b", 1),
        ("/c%d", 2),
        ("/e^f", 3),
        ("/g|h", 4),
        ("/i\\j", 5),
        ('/k"l', 6),
        ("/ ", 7),
        ("/m~0n", 8),
        ("/foo/2", "nothing"),
        ("/foo/01", "nothing"),
        ("/foo/-", "nothing"),
        ("/foo/0/x", "nothing"),
        ("/nowhere", "nothing"),
    ],
)
def test_a_pointer_finds_what_the_standard_says(text: str, found: Any) -> None:
    assert find(parse_pointer(text), DOCUMENT, "nothing") == found


@pytest.mark.parametrize(("text", "why"), [("data", "begin it with a slash"), ("/a~2", "write ~0 for ~"), ("/a~", "write ~0 for ~")])
def test_what_is_no_pointer_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_pointer(text)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("order_17", "order_17"),
        (17, "17"),
        (1.5, "1.5"),
        (True, "true"),
        (None, ""),
        ({"b": 1, "a": [2]}, '{"a":[2],"b":1}'),
        ("\ud800", "\\ud800"),
        (object(), ""),
    ],
)
def test_a_key_is_text(value: Any, key: str) -> None:
    assert key_at(("orderId",), {"orderId": value}) == key
    assert key_at(("orderId",), {"another": value}) == ""


@given(st.text(min_size=MAX_KEY + 1, max_size=MAX_KEY + 50), st.text(min_size=1, max_size=5))
def test_long_keys_are_cut_and_stay_apart(text: str, more: str) -> None:
    one, other = key_at(("k",), {"k": text}), key_at(("k",), {"k": text + more})
    assert len(one) == len(other) == MAX_KEY and one != other
    assert one == key_at(("k",), {"k": text})
