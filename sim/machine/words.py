"""Numbers as a person would say them: a time in the unit that suits it, a count with its noun, a measured value in its metric's unit.

For what is printed; tables, files and the names of metrics keep the units that they have.
"""

from __future__ import annotations

import math

DIGITS = 3  # that a person compares
UNITS_S = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
MANY_TIMES = 2.0  # below it a ratio is a share: nobody says "1 times the lag"
MOST_DIGITS = 17  # no two floats are written alike with so many


def amount(value: float, *, digits: int = DIGITS) -> str:
    """Return a number with so many digits, and never fewer than all of its whole part: 0.162, 80.5, 1,234,567."""
    if not math.isfinite(value):
        return "not known" if math.isnan(value) else "no end" if value > 0 else "no beginning"
    if not value:
        return "0"
    places = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    text = f"{value:,.{places}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"


def duration(time_s: float) -> str:
    """Return a time in the unit that a person would choose: 640 us, 12 ms, 9.3 s, 2 min 5 s, 1 h 3 min.

    Parameters
    ----------
    time_s
        Seconds.
    """
    if not math.isfinite(time_s) or not time_s:
        return amount(time_s) if time_s else "0 s"
    if time_s < 0:
        return f"-{duration(-time_s)}"
    rounded = float(f"{time_s:.{DIGITS}g}")
    if rounded < 60:
        unit, size = next(((unit, size) for unit, size in reversed(UNITS_S.items()) if rounded >= size * (1 - 1e-9)), ("ns", 1e-9))
        return f"{amount(rounded / size)} {unit}"
    if round(time_s) < 3600:
        minutes, rest = divmod(round(time_s), 60)
        return f"{minutes} min" + (f" {rest} s" if rest else "")
    hours, rest = divmod(round(time_s / 60), 60)
    return f"{hours:,} h" + (f" {rest} min" if rest else "")


def count(many: float, noun: str, plural: str = "") -> str:
    """Return a count with its noun: 1 pod, 2 pods, 1,190 batches; `plural` where it is not the noun and an s (or es)."""
    return f"{amount(many)} {agreeing(many, noun, plural)}"


def agreeing(many: float, noun: str, plural: str = "") -> str:
    """Return the noun, or the verb, that goes with a count that stands elsewhere: pod for 1, pods for any other."""
    ends = ("s", "x", "ch", "sh")
    several = f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2] not in "aeiou" else noun + ("es" if noun.endswith(ends) else "s")
    return noun if many == 1 else plural or several


def times(many: int) -> str:
    """Return how often: once, twice, 3 times."""
    return {1: "once", 2: "twice"}.get(many) or f"{amount(many)} times"


def multiple(ratio: float) -> str:
    """Return a ratio as what stands before the other value: 98.3 % of (the other), from 2 on 3.5 times (the other)."""
    return f"{amount(ratio)} times" if ratio >= MANY_TIMES else f"{amount(100 * ratio)} % of"


def listed(parts: list[str]) -> str:
    """Return parts as a sentence lists them: a, b and c."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def unit_of(metric: str) -> str:
    """Return the unit in the name of a metric (`ms` of `lag_ms_p99`), empty when it is a plain number.

    What stands after a dot, such as the service of `lag_ms_p99.service."web"`, says nothing of it.
    """
    return next((word for word in reversed(metric.partition(".")[0].split("_")) if word in UNITS_S), "")


def measured(metric: str, value: float, *, beside: float = math.nan) -> str:
    """Return a value of a metric in the unit of its name: 0.162 ms.

    Parameters
    ----------
    beside
        A value that it is compared with: with enough digits to tell the two apart.
    """
    digits = DIGITS
    while (
        math.isfinite(value) and value != beside and amount(value, digits=digits) == amount(beside, digits=digits) and digits < MOST_DIGITS
    ):
        digits += 1
    return f"{amount(value, digits=digits)} {unit_of(metric)}".rstrip()
