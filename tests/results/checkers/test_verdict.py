"""How verdicts compose: a broken promise that was seen stays broken, and nothing is not valid."""

from __future__ import annotations

from sim.results.checkers.verdict import EXIT_CODES, VERDICTS, worst


def test_the_worst_of_several() -> None:
    assert worst(["valid", "unknown", "valid"]) == "unknown"
    assert worst(["unknown", "invalid", "valid"]) == "invalid"
    assert worst(["valid", "valid"]) == "valid"
    assert worst([]) == "unknown"


def test_every_verdict_has_its_exit_code() -> None:
    assert {word: EXIT_CODES[word] for word in VERDICTS} == {"invalid": 1, "unknown": 2, "valid": 0}
