"""What another program wrote: found under the names that publishers give it, and each name with a label of its own."""

from __future__ import annotations

from typing import Any

import pytest

from sim.bus.foreign_data import BEYOND, MAX_LABEL, MAX_NUMBER, METRIC_NAMES, TOKENS, UNNAMED, find, label_of, name_of, number_in

DEEP: list[Any] = []
DEEP.append(DEEP)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ({}, None),
        ({"other": 1}, None),
        ({"metric": "c", "name": "a", "metricName": "b"}, "a"),
        ({"metric": "c", "name": None}, "c"),
        ({"name": "", "metricName": "b"}, ""),
        ({"name": 0}, 0),
        ({"name": False}, False),
    ],
)
def test_the_first_of_its_names_that_is_not_null_is_what_is_found(data: dict[str, Any], value: Any) -> None:
    assert find(data, METRIC_NAMES) == value


@pytest.mark.parametrize(
    ("value", "key", "label"),
    [
        ("latency", "latency", "latency"),
        ("", "", ""),
        ("two words", "two words", "two words"),
        (None, UNNAMED, "(unnamed)"),
        (1, ("number", "1"), "1 (number)"),
        (1.5, ("number", "1.5"), "1.5 (number)"),
        ("1", "1", "1"),
        (True, ("boolean", "true"), "true (boolean)"),
        ([1, "a"], ("list", '[1, "a"]'), '[1, "a"] (list)'),
        ({"a": 1}, ("object", '{"a": 1}'), '{"a": 1} (object)'),
        ({1, 2}, ("object", "<class 'set'>"), "<class 'set'> (object)"),
        (DEEP, ("list", "<class 'list'>"), "<class 'list'> (list)"),
        ("x" * 300, "x" * 300, "x" * 300),
        (["x" * 300], ("list", '["' + "x" * (MAX_LABEL - 2)), '["' + "x" * (MAX_LABEL - 2) + " (list)"),
        ("a\nb", "a\nb", '"a\\nb"'),
        ("\u202eabc", "\u202eabc", '"\\u202eabc"'),
        ("1 (number)", "1 (number)", '"1 (number)"'),
        ("(unnamed)", "(unnamed)", '"(unnamed)"'),
        ("(others)", "(others)", '"(others)"'),
        ('"a"', '"a"', '"\\"a\\""'),
        ('"a', '"a', '"\\"a"'),
        ('a"', 'a"', 'a"'),
        ("(others) too", "(others) too", "(others) too"),
    ],
    ids=lambda value: ascii(value)[:24],
)
def test_a_name_has_a_key_and_a_label_that_no_other_has(value: Any, key: object, label: str) -> None:
    assert name_of({"metricName": value}, METRIC_NAMES) == key
    assert label_of(key) == label


def test_names_beyond_a_limit_have_a_label_that_no_name_has() -> None:
    assert label_of(BEYOND) == "(others)"
    assert BEYOND not in {name_of(name, METRIC_NAMES) for name in ("(others)", ["others", ""], {"others": ""}, "others")}


def test_data_that_is_no_object_is_its_own_name() -> None:
    named: list[object] = ["a", 7, None, {}]
    assert [name_of(data, METRIC_NAMES) for data in named] == ["a", ("number", "7"), UNNAMED, UNNAMED]


@pytest.mark.parametrize(
    ("data", "number"),
    [
        ({}, 0),
        ({"tokens": 3, "totalTokens": 4}, 3),
        ({"tokens": "3", "totalTokens": 4}, 4),
        ({"tokens": True, "totalTokens": 4.5}, 4.5),
        ({"tokens": None}, 0),
        ({"tokens": MAX_NUMBER}, 0),
        ({"tokens": MAX_NUMBER - 1}, MAX_NUMBER - 1),
        ({"tokens": -MAX_NUMBER}, 0),
        ({"tokens": 1 - MAX_NUMBER}, 1 - MAX_NUMBER),
        ({"tokens": float("nan"), "totalTokens": 4}, 4),
        ({"tokenCount": float("inf")}, 0),
        ({"tokenCount": 1}, 1),
    ],
)
def test_a_number_is_the_first_that_javascript_counts_exactly(data: dict[str, Any], number: float) -> None:
    assert number_in(data, TOKENS) == number
    assert type(number_in(data, TOKENS)) is type(number)
