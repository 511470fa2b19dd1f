"""What checkers and limits return: results, and the verdict made of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sim.machine.words import measured
from sim.record.checksum import KEY

Word = Literal["valid", "invalid", "unknown"]
VERDICTS: tuple[Word, ...] = ("invalid", "unknown", "valid")  # the worst first
EXIT_CODES = {"valid": 0, "invalid": 1, "unknown": 2}
MAX_WITNESSES = 3


@dataclass(frozen=True)
class Result:
    """What one checker found: a verdict and one sentence, with the numbers and events behind it."""

    verdict: Word
    detail: str
    counts: dict[str, int | float] = field(default_factory=dict)
    witnesses: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class JudgedLimit:
    """Whether one limit of the scenario was kept; `measured` is None when it could not be measured."""

    metric: str
    limit: float
    measured: float | None
    verdict: Word
    detail: str


@dataclass(frozen=True)
class Verdict:
    """What all checkers and limits say about a run."""

    verdict: Word
    scenario: str
    ground: str
    seed: int | None
    checkers: dict[str, Result]
    slo: list[JudgedLimit]

    @property
    def exit_code(self) -> int:
        """Return 0 for valid, 1 for invalid, 2 for unknown."""
        return EXIT_CODES[self.verdict]

    @property
    def reasons(self) -> list[str]:
        """Return the sentences that decide the verdict, the worst first; every checker's when it is valid."""
        told = [(r.verdict, f"{name}: {r.detail}") for name, r in self.checkers.items()] + [(s.verdict, s.detail) for s in self.slo]
        return [text for word, text in told if word == self.verdict]

    def to_json(self) -> dict[str, Any]:
        """Return the content of verdict.json; a number that does not exist is null."""
        checkers = {
            name: {
                "verdict": result.verdict,
                "counts": {key: finite(value) for key, value in result.counts.items()},
                "witnesses": result.witnesses,
                "detail": result.detail,
                "metrics": {key: finite(value) for key, value in result.metrics.items()},
                "warnings": result.warnings,
            }
            for name, result in self.checkers.items()
        }
        slo = [{"metric": s.metric, "limit": s.limit, "measured": s.measured, "verdict": s.verdict, "detail": s.detail} for s in self.slo]
        head = {"verdict": self.verdict, "scenario": self.scenario, "ground": self.ground, "seed": self.seed}
        return {**head, "checkers": checkers, "slo": slo}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Verdict:
        """Return the verdict that has this content of a verdict.json; a number that is null there is NaN."""
        content = {key: value for key, value in content.items() if key != KEY}  # of the file
        checkers = {
            name: Result(**{**one, "counts": _with_nan(one["counts"]), "metrics": _with_nan(one["metrics"])})
            for name, one in content["checkers"].items()
        }
        return cls(**{**content, "checkers": checkers, "slo": [JudgedLimit(**one) for one in content["slo"]]})


def worst(words: Collection[str]) -> Word:
    """Return the worst of some verdicts: invalid if there is one, else unknown if there is one, else valid; unknown of none at all."""
    return next((word for word in VERDICTS if word in words), "unknown")


def bound(metric: str, limit: object) -> str:
    """Return a limit in words, such as "at most 50 ms"; one that is no number as it is."""
    text = measured(metric, limit) if isinstance(limit, int | float) and not isinstance(limit, bool) else str(limit)
    return f"{'at least' if metric.endswith('_min') else 'at most'} {text}"


def beside_limit(metric: str, value: float, limit: float) -> str:
    """Return what was measured beside its limit, such as "0.162 ms, at most 50 ms"."""
    return f"{measured(metric, value, beside=limit)}, {bound(metric, limit)}"


def finite(value: float) -> float | None:
    """Return the number, None when it is NaN or infinite."""
    return value if math.isfinite(value) else None


def _with_nan(numbers: Mapping[str, float | None]) -> dict[str, float]:
    return {key: math.nan if value is None else value for key, value in numbers.items()}


def greatest(ended: Sequence[float], unended: Sequence[float], *, limit: object) -> float:
    """Return the greatest of some times, of which the `unended` are only known to be at least so long.

    NaN, which no limit passes, when there are none, or when an unended one leaves open whether the limit was kept.
    """
    most = max([*ended, *unended], default=math.nan)
    broken = isinstance(limit, int | float) and most > limit
    return math.nan if unended and not broken else most
