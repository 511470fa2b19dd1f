"""What checkers and limits return: results, and the verdict made of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sim.machine.words import measured, unit_of
from sim.record.checksum import KEY

Word = Literal["valid", "invalid", "unknown"]
VERDICTS: tuple[Word, ...] = ("invalid", "unknown", "valid")  # the worst first
EXIT_CODES = {"valid": 0, "invalid": 1, "unknown": 2}
MAX_WITNESSES = 3


@dataclass(frozen=True)
class Bounds:
    """The least and the most that something can be which is not known for sure; `why` goes on after "nobody knows".

    `high` is infinite where it is only known to be at least `low`.
    """

    low: float
    high: float
    why: str = field(default="", compare=False)


@dataclass(frozen=True)
class Result:
    """What one checker found: a verdict and one sentence, with the numbers and events behind it.

    A metric is NaN where it was not measured, or where nothing happened that it is about.
    """

    verdict: Word
    detail: str
    counts: dict[str, int | float] = field(default_factory=dict)
    witnesses: list[str] = field(default_factory=list)
    metrics: Mapping[str, float | Bounds] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class JudgedLimit:
    """Whether one limit of the scenario was kept; `measured` is None when it could not be measured, or only between two ends."""

    metric: str
    limit: float
    measured: float | None
    verdict: Word
    detail: str
    interval: Bounds | None = None

    @property
    def found(self) -> float | Bounds | None:
        """What was measured, a number or an interval."""
        return self.measured if self.interval is None else self.interval


@dataclass(frozen=True)
class Verdict:
    """What all checkers and limits say about a run; `not_measured` names the checkers that could not be asked of it, and why."""

    verdict: Word
    scenario: str
    ground: str
    seed: int | None
    checkers: dict[str, Result]
    slo: list[JudgedLimit]
    not_measured: dict[str, str] = field(default_factory=dict)

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
        """Return the content of verdict.json; a number that does not exist is null.

        What is an interval is null among the numbers, and stands beside them as [least, most], the most null where it has no end.
        """
        checkers = {name: result_json(result) for name, result in self.checkers.items()}
        slo = [
            {"metric": s.metric, "limit": s.limit, "measured": s.measured, "verdict": s.verdict, "detail": s.detail}
            | ({} if s.interval is None else {"interval": _ends(s.interval)})
            for s in self.slo
        ]
        head = {"verdict": self.verdict, "scenario": self.scenario, "ground": self.ground, "seed": self.seed}
        unmeasured = {"not_measured": self.not_measured} if self.not_measured else {}
        return {**head, "checkers": checkers, "slo": slo, **unmeasured}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Verdict:
        """Return the verdict that has this content of a verdict.json; a number that is null there is NaN."""
        content = {key: value for key, value in content.items() if key != KEY}  # of the file
        checkers = {name: read_result(one) for name, one in content["checkers"].items()}
        slo = [JudgedLimit(**{**one, "interval": _bounds(one["interval"]) if "interval" in one else None}) for one in content["slo"]]
        return cls(**{**content, "checkers": checkers, "slo": slo})


def own_result(found: object) -> Result:
    """Return what a checker of the user's own returned, with numbers that JSON has.

    Raises
    ------
    TypeError, ValueError
        It is no `Result`, or holds what a verdict cannot; the message says what.
    """
    if not isinstance(found, Result):
        raise TypeError(f"it returned an object of type {type(found).__name__}, not a Result")
    if found.verdict not in VERDICTS:
        raise ValueError(f"its verdict is {found.verdict!r}, not one of {', '.join(VERDICTS)}")
    counts = {str(key): _number(value) for key, value in dict(found.counts).items()}
    metrics = {str(key): value if isinstance(value, Bounds) else _number(value) for key, value in dict(found.metrics).items()}
    witnesses, warnings = ([str(one) for one in words] for words in (found.witnesses, found.warnings))
    return Result(found.verdict, str(found.detail), counts=counts, witnesses=witnesses, metrics=metrics, warnings=warnings)


def _number(value: Any) -> int | float:
    """Return a number as Python's own: numpy has others, which JSON has not."""
    number = value.item() if hasattr(value, "item") else value
    if not isinstance(number, int | float):
        raise TypeError(f"a count or metric is of type {type(number).__name__}, not a number")
    return number


def result_json(result: Result) -> dict[str, Any]:
    """Return a checker's part of verdict.json."""
    intervals = {key: _ends(value) for key, value in result.metrics.items() if isinstance(value, Bounds)}
    return {
        "verdict": result.verdict,
        "counts": {key: finite(value) for key, value in result.counts.items()},
        "witnesses": result.witnesses,
        "detail": result.detail,
        "metrics": {key: None if isinstance(value, Bounds) else finite(value) for key, value in result.metrics.items()},
        **({"intervals": intervals} if intervals else {}),
        "warnings": result.warnings,
    }


def read_result(content: Mapping[str, Any]) -> Result:
    """Return what a checker's part of a verdict.json says: the inverse of `result_json`."""
    one = dict(content)
    intervals = {key: _bounds(ends) for key, ends in one.pop("intervals", {}).items()}
    return Result(**{**one, "counts": _with_nan(one["counts"]), "metrics": {**_with_nan(one["metrics"]), **intervals}})


def _ends(bounds: Bounds) -> list[float | None]:
    return [finite(bounds.low), finite(bounds.high)]


def _bounds(ends: Sequence[float | None]) -> Bounds:
    low, high = ends
    return Bounds(0.0 if low is None else low, math.inf if high is None else high)


def worst(words: Collection[str]) -> Word:
    """Return the worst of some verdicts: invalid if there is one, else unknown if there is one, else valid; unknown of none at all."""
    return next((word for word in VERDICTS if word in words), "unknown")


def bound(metric: str, limit: object) -> str:
    """Return a limit in words, such as "at most 50 ms"; one that is no number as it is."""
    text = measured(metric, limit) if isinstance(limit, int | float) and not isinstance(limit, bool) else str(limit)
    return f"{'at least' if metric.endswith('_min') else 'at most'} {text}"


def told(metric: str, value: float | Bounds, *, beside: float = math.nan) -> str:
    """Return what was measured in words: "0.162 ms", "0 to 94", "at least 3.2 s"."""
    if not isinstance(value, Bounds):
        return measured(metric, value, beside=beside)
    if math.isinf(value.high):
        return f"at least {measured(metric, value.low, beside=beside)}"
    low = measured(metric, value.low, beside=value.high)
    return f"{low.removesuffix(unit_of(metric)).rstrip()} to {measured(metric, value.high, beside=value.low)}"


def beside_limit(metric: str, value: float | Bounds, limit: float) -> str:
    """Return what was measured beside its limit, such as "0.162 ms, at most 50 ms"."""
    return f"{told(metric, value, beside=limit)}, {bound(metric, limit)}"


def between(low: float, high: float, why: str) -> float | Bounds:
    """Return the interval from the least to the most, or the number where they are one."""
    return low if low == high or math.isnan(low) else Bounds(low, high, why)


CLOCKS = "the clocks of its machines better than that"


def widened(value: float | Bounds, by: float) -> float | Bounds:
    """Return what was measured between two clocks that are known to so much; NaN and 0 stay as they are."""
    return Bounds(least_of(value) - by, most_of(value) + by, CLOCKS) if by and not math.isnan(least_of(value)) else value


def least_of(value: float | Bounds) -> float:
    """Return the lower end of what was measured."""
    return value.low if isinstance(value, Bounds) else value


def most_of(value: float | Bounds) -> float:
    """Return the upper end of what was measured."""
    return value.high if isinstance(value, Bounds) else value


def finite(value: float) -> float | None:
    """Return the number, None when it is NaN or infinite."""
    return value if math.isfinite(value) else None


def _with_nan(numbers: Mapping[str, float | None]) -> dict[str, float]:
    return {key: math.nan if value is None else value for key, value in numbers.items()}


def greatest(ended: Sequence[float], unended: Sequence[float]) -> float | Bounds:
    """Return the greatest of some times, of which the `unended` are only known to be at least so long; NaN when there are none."""
    most = max([*ended, *unended], default=math.nan)
    return Bounds(most, math.inf, "how long what had not ended yet would have gone on") if unended else most


def united(one: float | Bounds, other: float | Bounds, why: str) -> float | Bounds:
    """Return what holds whichever of two was measured: the number where they are one, else all between them. NaN is no measure."""
    known = [value for value in (one, other) if not math.isnan(least_of(value))]
    if not known:
        return math.nan
    whys = [value.why for value in known if isinstance(value, Bounds)]
    return between(min(map(least_of, known)), max(map(most_of, known)), whys[0] if whys else why)
