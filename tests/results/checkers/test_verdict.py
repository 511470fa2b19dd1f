"""How verdicts compose: a broken promise that was seen stays broken, and nothing is not valid."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sim.results.checkers.verdict import (
    EXIT_CODES,
    VERDICTS,
    Bounds,
    JudgedLimit,
    Result,
    Verdict,
    beside_limit,
    between,
    bound,
    finite,
    greatest,
    least_of,
    most_of,
    own_result,
    read_result,
    result_json,
    told,
    united,
    worst,
)


def test_the_worst_of_several() -> None:
    assert worst(["valid", "unknown", "valid"]) == "unknown"
    assert worst(["unknown", "invalid", "valid"]) == "invalid"
    assert worst(["valid", "valid"]) == "valid"
    assert worst([]) == "unknown"


def test_every_verdict_has_its_exit_code() -> None:
    assert {word: EXIT_CODES[word] for word in VERDICTS} == {"invalid": 1, "unknown": 2, "valid": 0}


ONE = Result(
    "valid",
    "fine",
    counts={"copies": 3, "lag": math.nan},
    witnesses=["evt_1"],
    metrics={"missing": Bounds(1, math.inf, "why"), "unserved": Bounds(0, 2), "lag_ms_p99": 1.5, "lag_ms_max": math.nan},
    warnings=["odd"],
)
ONE_JSON = {
    "verdict": "valid",
    "counts": {"copies": 3, "lag": None},
    "witnesses": ["evt_1"],
    "detail": "fine",
    "metrics": {"missing": None, "unserved": None, "lag_ms_p99": 1.5, "lag_ms_max": None},
    "intervals": {"missing": [1, None], "unserved": [0, 2]},
    "warnings": ["odd"],
}


def test_a_result_as_it_stands_in_verdict_json_and_back() -> None:
    assert result_json(ONE) == ONE_JSON
    again = read_result(ONE_JSON)
    assert result_json(again) == ONE_JSON
    assert math.isnan(again.counts["lag"]) and again.metrics["missing"] == Bounds(1, math.inf)
    plain = Result("unknown", "no data")
    assert result_json(plain) == {
        "verdict": "unknown", "counts": {}, "witnesses": [], "detail": "no data", "metrics": {}, "warnings": [],
    }  # fmt: skip
    assert read_result(result_json(plain)) == plain
    assert read_result(ONE_JSON | {"intervals": {"missing": [None, 2]}}).metrics["missing"] == Bounds(0.0, 2)


def test_a_whole_verdict_as_it_stands_in_verdict_json_and_back() -> None:
    limits = [
        JudgedLimit("lag_ms_p99", 50, 1.5, "valid", "kept"),
        JudgedLimit("missing", 0, None, "unknown", "nobody knows", Bounds(0, 2)),
    ]
    verdict = Verdict("unknown", "baseline", "model", 7, {"lag": ONE, "order": Result("unknown", "no data")}, limits)
    content = verdict.to_json()
    assert content == {
        "verdict": "unknown",
        "scenario": "baseline",
        "ground": "model",
        "seed": 7,
        "checkers": {"lag": ONE_JSON, "order": result_json(Result("unknown", "no data"))},
        "slo": [
            {"metric": "lag_ms_p99", "limit": 50, "measured": 1.5, "verdict": "valid", "detail": "kept"},
            {"metric": "missing", "limit": 0, "measured": None, "verdict": "unknown", "detail": "nobody knows", "interval": [0, 2]},
        ],
    }
    again = Verdict.from_json(content | {"crc32": "of the file"})
    assert again.to_json() == content and again.slo == limits
    assert (verdict.exit_code, verdict.reasons) == (2, ["order: no data", "nobody knows"])
    assert [limit.found for limit in limits] == [1.5, Bounds(0, 2)]


@pytest.mark.parametrize(
    ("metric", "value", "words"),
    [
        ("lag_ms_p99", 0.1625, "0.163 ms"),
        ("missing", Bounds(0, 94), "0 to 94"),
        ("lag_ms_p99", Bounds(1, 20), "1 to 20 ms"),
        ("time_to_recover_s_max", Bounds(3.2, math.inf), "at least 3.2 s"),
    ],
)
def test_what_was_measured_in_words(metric: str, value: float | Bounds, words: str) -> None:
    assert told(metric, value) == words


@pytest.mark.parametrize(
    ("metric", "limit", "words"),
    [
        ("lag_ms_p99", 50, "at most 50 ms"),
        ("offered_ratio_min", 0.99, "at least 0.99"),
        ("missing", True, "at most True"),
        ("missing", "x", "at most x"),
    ],
)
def test_a_limit_in_words(metric: str, limit: object, words: str) -> None:
    assert bound(metric, limit) == words


def test_a_number_so_near_its_limit_that_it_needs_more_digits_gets_them() -> None:
    assert beside_limit("lag_ms_p99", 50.0001, 50) == "50.0001 ms, at most 50 ms"
    assert beside_limit("time_to_recover_s_max", Bounds(3.0001, math.inf), 3) == "at least 3.0001 s, at most 3 s"
    assert told("lag_ms_p99", Bounds(50, 50.0001)) == "50 to 50.0001 ms"


def test_what_lies_between() -> None:
    assert between(2, 2, "why") == 2 and math.isnan(least_of(between(math.nan, 3, "why")))
    found = between(1, 2, "why")
    assert found == Bounds(1, 2) and isinstance(found, Bounds) and found.why == "why"
    assert (least_of(found), most_of(found), least_of(7), most_of(7)) == (1, 2, 7, 7)


def test_the_greatest_of_times_of_which_some_had_not_ended() -> None:
    assert greatest([1, 3], []) == 3 and math.isnan(least_of(greatest([], [])))
    open_end = greatest([1, 5], [2])
    assert open_end == Bounds(5, math.inf) and isinstance(open_end, Bounds)
    assert open_end.why == "how long what had not ended yet would have gone on"
    assert greatest([], [2, 4]) == Bounds(4, math.inf)


def test_what_holds_whichever_of_two_was_measured() -> None:
    assert united(1, 1, "why") == 1 == united(math.nan, 1, "why") == united(1, math.nan, "why")
    assert math.isnan(least_of(united(math.nan, math.nan, "why")))
    both = united(3, 1, "why")
    assert both == Bounds(1, 3) and isinstance(both, Bounds) and both.why == "why"
    wider = united(Bounds(2, 5, "its own"), 1, "why")
    assert wider == Bounds(1, 5) and isinstance(wider, Bounds) and wider.why == "its own"


def test_numbers_that_json_cannot_hold_are_null() -> None:
    assert [finite(value) for value in (1.5, 0.0, math.nan, math.inf, -math.inf)] == [1.5, 0.0, None, None, None]


def test_two_ends_that_are_close_are_told_apart() -> None:
    assert told("lag_ms_p99", Bounds(49.99999, 50.00001)) == "49.99999 to 50.00001 ms"
    assert told("lag_ms_p99", Bounds(1.0, 50.0)) == "1 to 50 ms"


def test_what_a_checker_of_one_s_own_returns_has_numbers_and_texts_that_json_has() -> None:
    interval = Bounds(1.0, 2.0, "why")
    found = Result(
        "valid",
        7,  # type: ignore[arg-type]
        counts={1: np.int64(3), "share": 0.5, "yes": True},  # type: ignore[dict-item]
        witnesses=[5, "evt_1"],  # type: ignore[list-item]
        metrics={"lag": np.float64(2.5), "between": interval, "whole": 4},
        warnings=(8,),  # type: ignore[arg-type]
    )
    own = own_result(found)
    assert own == Result(
        "valid", "7", {"1": 3, "share": 0.5, "yes": True}, ["5", "evt_1"], {"lag": 2.5, "between": interval, "whole": 4}, ["8"]
    )
    assert [type(value) for value in (own.counts["1"], own.metrics["lag"], own.metrics["whole"])] == [int, float, int]
    assert own.metrics["between"] is interval


@pytest.mark.parametrize(
    ("found", "error", "said"),
    [
        ({"verdict": "valid"}, TypeError, "it returned an object of type dict, not a Result"),
        (None, TypeError, "it returned an object of type NoneType, not a Result"),
        (Result("fine", ""), ValueError, "its verdict is 'fine', not one of invalid, unknown, valid"),  # type: ignore[arg-type]
        (Result("valid", "", counts={"a": "3"}), TypeError, "a count or metric is of type str, not a number"),  # type: ignore[dict-item]
        (Result("valid", "", metrics={"a": None}), TypeError, "a count or metric is of type NoneType, not a number"),  # type: ignore[dict-item]
        (Result("valid", "", metrics={"a": np.array(["x"])}), TypeError, "a count or metric is of type str, not a number"),  # type: ignore[dict-item]
    ],
    ids=str,
)
def test_what_is_no_result_is_refused_in_one_sentence(found: object, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as refused:
        own_result(found)
    assert str(refused.value) == said
