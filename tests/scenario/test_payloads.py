"""What a call carries: the same for the same seed and number, of the size or the shape that was described, or refused in words."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.scenario.payloads import FUNCTIONS, MAX_BYTES, drawn, make_content
from sim.scenario.schedule import TEMPLATE_COUNT


def content(payload: Any, *, seed: int = 1, payload_bytes: int = 5, templates: int = TEMPLATE_COUNT) -> Any:
    return make_content(payload, seed=seed, payload_bytes=payload_bytes, templates=templates)


def values(expression: str, *, many: int = 4_000, seed: int = 1) -> list[Any]:
    made = content({"a": f"{{{expression}}}"}, seed=seed)
    return [made(number)["a"] for number in range(many)]


def size(data: Any) -> int:
    return len(json.dumps(data, separators=(",", ":")))


@given(st.integers(20, 20_000), st.integers(0, 10**6))
def test_a_size_is_about_that_many_bytes_of_json(wanted: int, number: int) -> None:
    assert 0 <= size(content(wanted)(number)) - wanted < len(str(number))


def test_a_distribution_has_its_quantiles_and_its_bound() -> None:
    sizes = sorted(size(content("lognormal(p50=900, p99=4000)")(number)) for number in range(20_000))
    assert sizes[10_000] == pytest.approx(900, rel=0.03) and sizes[19_800] == pytest.approx(4_000, rel=0.06)
    assert max(size(content("lognormal(900, 4000, most=1000)")(number)) for number in range(2_000)) <= 1_010
    mean = sum(size(content("exponential(500)")(number)) for number in range(20_000)) / 20_000
    assert mean == pytest.approx(500, rel=0.04)
    assert {size(content("uniform(30, 32)")(number)) for number in range(10)} <= {30, 31, 32}


def test_a_template_is_filled_in_wherever_an_expression_stands() -> None:
    made = content(
        {
            "id": "order_{number}",
            "n": "{number}",
            "half": "{number / 2}",
            "deep": [{"odd": "{'odd' if number % 2 else 'even'}"}, "{-number + 1}", 2.5, True],
            "note": "<{filler}>",
            "of": "{number % templates}",
            "braces": "{{number}} {'}'}",
            "text": "{'a' + text(number // 3)}",
        },
        templates=4,
    )
    assert made(7) == {
        "id": "order_7",
        "n": 7,
        "half": 3.5,
        "deep": [{"odd": "odd"}, -6, 2.5, True],
        "note": "<xxxxx>",
        "of": 3,
        "braces": "{number} }",
        "text": "a2",
    }


def test_what_is_drawn_has_the_shares_and_the_bounds_that_were_asked_for() -> None:
    assert set(values("integer(3, 5)")) == {3, 4, 5}
    assert all(1.0 <= value <= 2.0 and round(value, 3) == value for value in values("real(1, 2, digits=3)"))
    assert Counter(values("choice('a', 'b')"))["a"] == pytest.approx(2_000, abs=150)
    ranks = Counter(values("zipf(50)"))
    assert set(ranks) <= set(range(1, 51)) and ranks[1] / ranks[2] == pytest.approx(2, rel=0.25), "the second half as often as the first"
    assert set(values("zipf(1)")) == {1}
    assert Counter(values("weighted('a', 9, 'b', 1)"))["b"] == pytest.approx(400, abs=90)
    assert len(set(values("uuid()"))) == 4_000 and {uuid.UUID(one).version for one in values("uuid()", many=50)} == {4}
    assert len(set(values("word()"))) > 20 and {len(one.split()) for one in values("words(3)", many=50)} == {3}
    assert {datetime.fromisoformat(one.replace("Z", "+00:00")).date().isoformat() for one in values("time()", many=50)} == {"2026-01-01"}
    assert values("letters(4)", many=1) == ["xxxx"] and values("text(4)", many=1) == ["4"]


def test_each_place_draws_for_itself_and_the_seed_decides() -> None:
    made = content({"a": "{integer(1, 1000000)}", "b": "{integer(1, 1000000)}"})
    assert all(made(number)["a"] != made(number)["b"] for number in range(50))
    assert values("uuid()", many=20) == values("uuid()", many=20) != values("uuid()", many=20, seed=2)


@given(st.integers(0, 2**63), st.integers(0, 2**40), st.integers(0, 2**32))
def test_a_drawn_number_is_from_0_up_to_1(seed: int, place: int, number: int) -> None:
    assert 0 <= drawn(seed, place, number) < 1


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ({"a": "{number"}, "has a { without its }"),
        ({"a": "number}"}, "has a } without its {"),
        ({"a": "{}"}, "'' is no expression"),
        ({"a": "{1 +}"}, "'1 +' is no expression"),
        ({"a": {"b": ["{numbr}"]}}, "/a/b/0: 'numbr' names 'numbr', which is none of number, filler, templates (did you mean 'number'?)"),
        ({"a": "{intger(1, 2)}"}, "(did you mean 'integer'?)"),
        ({"a": "{integer(1)}"}, "write integer(low, high)"),
        ({"a": "{integer(1, 2, many=3)}"}, "write integer(low, high)"),
        ({"a": "{choice()}"}, "write choice(a, b, …)"),
        ({"a": "{weighted('a')}"}, "write weighted(a, 3, b, 1, …)"),
        ({"a": "{number.real}"}, "is none of the expressions that may stand there"),
        ({"a": "{[number]}"}, "is none of the expressions that may stand there"),
        ({"a": "{(lambda: 1)()}"}, "is none of the expressions that may stand there"),
        ({"a": "{__import__('os')}"}, "calls '__import__'"),
        ({"a": "{choice(*filler)}"}, "is none of the expressions that may stand there"),
        ({"a": "{number ** 9}"}, "is none of the expressions that may stand there"),
        ({"a": "{1 / 0}"}, "divides by what may become 0"),
        ({"a": "{1 % (number - 500)}"}, "divides by what may become 0"),
        ({"a": "{'x' * number}"}, "calculates with text"),
        ({"a": "{choice('a', 1) * 3}"}, "calculates with text"),
        ({"a": "{'a' + number}"}, "call 0 of it cannot be made"),
        ({"a": "{1e999}"}, "/a: '1e999' holds a number that is too large"),
        ({"a": "{1e308 * 10}"}, "call 0 of it cannot be made: Out of range float"),
        ({"a": float("nan")}, "has what JSON cannot"),
        ({"a": datetime(2026, 1, 1)}, "has what JSON cannot"),
        ({"a": "{letters(3000000)}"}, f"{MAX_BYTES:,} is the most"),
        ({"a": "{letters(1000000000000)}"}, "letters(1000000000000): 1,000,000 is the most"),
        ({"a": "{words(1000000000000)}"}, "words(1000000000000): 200,000 is the most"),
        ({"a": "{integer(5, 1)}"}, "low = 5 is more than high = 1"),
        ({"a": "{real(5, 1)}"}, "low = 5 is more than high = 1"),
        ({"a": "{zipf(2.5)}"}, "zipf(2.5): give a whole number"),
        ({"a": "{weighted('x', -1, 'y', 2)}"}, "the weights are -1, 2: give none below 0"),
        ({"a": "{weighted('x', 0)}"}, "the weights are 0: give none below 0, and one above it"),
        ("uniform(2000, 100)", "low = 2000 is more than high = 100"),
        ("uniform(1, 2000000)", "'uniform(1, 2000000)' makes up to 2,000,000 bytes, and 1,000,000 is the most"),
        (
            "lognormal(900, 800000, most=1e12)",
            "makes up to 1,000,000,000,000 bytes, and 1,000,000 is the most: lower it, or give most=1000000",
        ),
        ("lognormal(p50=900, p99=40)", "lognormal(p50=900, p99=40, most=1000000): p50 is more than 0, p99 is not less"),
        ("exponential(-4)", "exponential(mean=-4, most=1000000): neither is below 0"),
        ("exponential(500, most=-1)", "exponential(mean=500, most=-1): neither is below 0"),
        ("exponential(1e400)", "'exponential(1e400)' holds a number that is too large"),
        ("gauss(3)", "'gauss(3)' is no distribution of sizes: write one of lognormal(p50, p99"),
        ("lognormal(p50=0, p99=3)", "call 0 of it cannot be made"),
        ("lognormal(900)", "'lognormal(900)' does not fit: write lognormal(p50, p99"),
        ("lognormal(900, 4000) + os", "names 'os'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_made_is_refused_in_words(payload: Any, says: str) -> None:
    with pytest.raises(ValueError) as refused:
        content(payload)
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_the_greatest_size_and_the_longest_tail_are_within_the_bound() -> None:
    assert [size(content(MAX_BYTES)(number)) - MAX_BYTES for number in (0, 99)] == [0, 1]
    for payload in ("exponential(900000)", "lognormal(p50=1, p99=1e300)"):
        assert max(size(content(payload)(number)) for number in range(200)) - MAX_BYTES < 3


def test_every_function_says_how_it_is_written() -> None:
    assert [name for name, (_, meaning) in FUNCTIONS.items() if not meaning.startswith(f"{name}(") or ": " not in meaning] == []
