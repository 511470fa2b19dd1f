"""JSON pointers: what they find, and how a business key is written down."""

from __future__ import annotations

import hashlib
import re
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


@pytest.mark.parametrize(
    ("text", "names"),
    [("", ()), ("/", ("",)), ("/a/b", ("a", "b")), ("/a//b/", ("a", "", "b", "")), ("/~01", ("~1",)), ("/~1~0", ("/~",)), ("/0", ("0",))],
)
def test_a_pointer_is_the_names_on_its_way(text: str, names: tuple[str, ...]) -> None:
    assert parse_pointer(text) == names


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data", "'data' is no JSON pointer: begin it with a slash, as /data/orderId"),
        ("/a~/b", "'/a~/b' is no JSON pointer: write ~0 for ~ and ~1 for a slash in a name"),
    ],
)
def test_why_it_is_no_pointer_is_said_in_one_sentence(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"\A" + re.escape(said) + r"\Z"):
        parse_pointer(text)


@pytest.mark.parametrize(
    ("pointer", "found"),
    [
        (("a", "1"), 2),
        (("b", "0"), 3),
        (("b", "1"), None),
        (("b", "-1"), None),
        (("b", "0", "x"), None),
        (("b", "000000000"), None),
        (("b", "1234567890"), None),
        (("c",), None),
        (("c", "x"), None),
        (("x",), None),
        ((), {"a": [1, 2], "b": (3,), "c": None}),
    ],
)
def test_what_is_not_there_is_none_where_nothing_else_is_asked_for(pointer: tuple[str, ...], found: object) -> None:
    assert find(pointer, {"a": [1, 2], "b": (3,), "c": None}) == found
    assert find(pointer, {"a": [1, 2], "b": (3,), "c": None}, 7) == (7 if found is None and pointer != ("c",) else found)


def test_a_key_may_have_as_many_characters_as_are_recorded_and_of_a_longer_one_the_hash_stands_behind() -> None:
    def key(value: object) -> str:
        return key_at(("k",), {"k": value})

    deep: list[object] = []
    deep.append(deep)
    assert key("é" * MAX_KEY) == "é" * MAX_KEY
    digest = hashlib.blake2b(("é" * (MAX_KEY + 1)).encode(), digest_size=16).hexdigest()
    assert key("é" * (MAX_KEY + 1)) == "é" * (MAX_KEY - 33) + "…" + digest
    assert key({"é": [1, "a"], "a": None}) == '{"a":null,"é":[1,"a"]}'
    assert [key(deep), key({1, 2}), key({("a",): 1})] == ["", "", ""]
    assert key_at((), "whole") == "whole"
