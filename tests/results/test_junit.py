"""JUnit XML as a CI server reads it."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from sim.results.junit import cases_to_junit, to_junit

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


def test_the_whole_file_to_the_character() -> None:
    order = CHECKER | {"witnesses": ["evt_2"], "warnings": ["odd"]}
    lost = CHECKER | {"verdict": "invalid", "detail": "lost", "witnesses": ["evt_1 at web-0"]}
    busy = {key: value for key, value in CHECKER.items() if key != "warnings"} | {"verdict": "unknown", "detail": "busy"}
    limit = {"metric": "missing", "limit": 0, "measured": 1.0, "verdict": "valid", "detail": "missing is 0"}
    verdict = {"verdict": "invalid", "scenario": "base", "checkers": {"order": order, "ledger": lost, "harness": busy}, "slo": [limit]}
    assert (
        to_junit(verdict)
        == """\
<?xml version='1.0' encoding='utf-8'?>
<testsuite name="buslab.base" tests="4" failures="1" errors="1">
  <testcase classname="buslab.base.checkers" name="order">
    <system-out>fine
evt_2
odd</system-out>
  </testcase>
  <testcase classname="buslab.base.checkers" name="ledger">
    <failure message="lost" type="invalid">lost
evt_1 at web-0</failure>
  </testcase>
  <testcase classname="buslab.base.checkers" name="harness">
    <error message="busy" type="unknown">busy</error>
  </testcase>
  <testcase classname="buslab.base.slo" name="missing">
    <system-out>missing is 0</system-out>
  </testcase>
</testsuite>
"""
    )


def test_plain_cases() -> None:
    assert (
        cases_to_junit("buslab.claims", "claims", [("one", "valid", "holds"), ("two\x01", "invalid", "does not")])
        == """\
<?xml version='1.0' encoding='utf-8'?>
<testsuite name="buslab.claims" tests="2" failures="1" errors="0">
  <testcase classname="buslab.claims.claims" name="one">
    <system-out>holds</system-out>
  </testcase>
  <testcase classname="buslab.claims.claims" name="two?">
    <failure message="does not" type="invalid">does not</failure>
  </testcase>
</testsuite>
"""
    )
