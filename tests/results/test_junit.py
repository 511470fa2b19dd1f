"""JUnit XML as a CI server reads it."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from sim.results.junit import to_junit

CHECKER = {"verdict": "valid", "counts": {}, "witnesses": [], "detail": "fine", "metrics": {}, "warnings": []}
VERDICT = {
    "verdict": "invalid",
    "scenario": "a<b>&\x00",
    "checkers": {
        "order": CHECKER,
        "ledger": {**CHECKER, "verdict": "invalid", "detail": "1 copy <lost>", "witnesses": ["evt_1 at web-0"]},
        "harness": {**CHECKER, "verdict": "unknown", "detail": "busy"},
    },
    "slo": [{"metric": "missing", "limit": 0, "measured": 1.0, "verdict": "invalid", "detail": "missing is 1, at most 0 was promised"}],
}


def test_each_checker_and_limit_is_a_case_and_the_sums_are_right() -> None:
    suite = ET.fromstring(to_junit(VERDICT))
    assert (suite.tag, suite.get("name")) == ("testsuite", "buslab.a<b>&?")
    assert [suite.get(key) for key in ("tests", "failures", "errors")] == ["4", "2", "1"]
    assert [case.get("name") for case in suite.iter("testcase")] == ["order", "ledger", "harness", "missing"]


def test_invalid_is_a_failure_and_unknown_an_error_with_their_sentences() -> None:
    cases = {case.get("name"): case for case in ET.fromstring(to_junit(VERDICT)).iter("testcase")}
    failure = cases["ledger"].find("failure")
    assert failure is not None and failure.get("message") == "1 copy <lost>"
    assert "evt_1 at web-0" in (failure.text or "")
    error = cases["harness"].find("error")
    assert error is not None and error.get("message") == "busy"
    assert cases["order"].find("failure") is None and cases["order"].find("error") is None
    limit = cases["missing"].find("failure")
    assert limit is not None and "at most 0" in (limit.get("message") or "")
