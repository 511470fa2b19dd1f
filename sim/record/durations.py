"""How long something takes, as a scenario says it: a number of milliseconds, or a distribution of them.

``5``, ``fixed(5)``, ``exponential(mean=5)``, ``uniform(low=2, high=8)``, ``lognormal(p50=5, p99=40)``; names of arguments may be
left out. What is drawn is `MOST_MS` at most. The live half draws from it, the offline half takes its mean and variance, so it stands here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from random import Random
from statistics import NormalDist

import numpy as np

from sim.errors import did_you_mean

MOST_MS = 600_000.0
OTHER_CHANNELS = "other"  # in a table of event types: all that are not named
_Z99 = NormalDist().inv_cdf(0.99)
_ARGUMENTS = {"fixed": ("ms",), "exponential": ("mean",), "uniform": ("low", "high"), "lognormal": ("p50", "p99")}
_FORM = re.compile(r"\s*(\w+)\s*\(([^()]*)\)\s*", re.ASCII)
_GRID = 100_000  # points of a quantile function where a distribution is cut off


@dataclass(frozen=True)
class Duration:
    """A distribution of times, in milliseconds: its kind and two numbers (see the module), the second 0 where there is one."""

    kind: str = "fixed"
    one: float = 0.0
    other: float = 0.0

    def __bool__(self) -> bool:
        return self != Duration()

    def __str__(self) -> str:
        numbers = (self.one, self.other)[: len(_ARGUMENTS[self.kind])]
        arguments = ", ".join(f"{name}={number:g}" for name, number in zip(_ARGUMENTS[self.kind], numbers, strict=True))
        return f"{self.one:g} ms" if self.kind == "fixed" else f"{self.kind}({arguments}) ms"

    def scaled(self, share: float) -> Duration:
        """Return the distribution of so much of each time."""
        return Duration(self.kind, self.one * share, self.other * share)

    def draw(self, random: Random) -> float:
        """Return one time; a fixed one draws nothing."""
        if self.kind == "fixed":
            return self.one
        return self.quantile(random.random())

    def quantile(self, share: float) -> float:
        """Return the time that a share of all, from 0 to less than 1, are below."""
        if self.kind == "fixed":
            return self.one
        if self.kind == "uniform":
            return self.one + share * (self.other - self.one)
        if self.kind == "exponential":
            return min(MOST_MS, -self.one * math.log1p(-share))
        return min(MOST_MS, self.one * math.exp(self._sigma * NormalDist().inv_cdf(share or 1e-300)))

    @property
    def _sigma(self) -> float:
        return math.log(self.other / self.one) / _Z99

    @cached_property
    def _moments(self) -> tuple[float, float]:
        if self.kind == "fixed":
            return self.one, self.one**2
        if self.kind == "uniform":
            return (self.one + self.other) / 2, (self.one**2 + self.one * self.other + self.other**2) / 3
        if self.kind == "exponential" and self.one * 40 < MOST_MS:
            return self.one, 2 * self.one**2
        if self.kind == "lognormal" and self.one * math.exp(8 * self._sigma) < MOST_MS:
            return self.one * math.exp(self._sigma**2 / 2), self.one**2 * math.exp(2 * self._sigma**2)
        values = np.array([self.quantile((place + 0.5) / _GRID) for place in range(_GRID)])
        return float(values.mean()), float((values**2).mean())

    @property
    def mean_ms(self) -> float:
        """The mean."""
        return self._moments[0]

    @property
    def square_ms2(self) -> float:
        """The mean of its square."""
        return self._moments[1]


def duration_of(time: float | str | Mapping[str, float | str], channel: str) -> Duration:
    """Return how long something takes for an event of a type, where it may have a time of its own; raises as `parse_duration` does."""
    if isinstance(time, Mapping):
        time = time.get(channel, time.get(OTHER_CHANNELS, 0.0))
    return parse_duration(time)


@lru_cache(maxsize=1024)
def parse_duration(text: float | str) -> Duration:
    """Return the distribution that a number or a text describes.

    Raises
    ------
    ValueError
        What is wrong with it, in words.
    """
    if not isinstance(text, str):
        return _checked("fixed", [float(text)])
    found = _FORM.fullmatch(text)
    known = "; ".join(f"{kind}({', '.join(names)})" for kind, names in _ARGUMENTS.items())
    if found is None:
        raise ValueError(f"{text!r} is no time: give milliseconds, or one of {known}")
    kind, inside = found.groups()
    if kind not in _ARGUMENTS:
        raise ValueError(f"{text!r}: no distribution {kind!r}{did_you_mean(kind, _ARGUMENTS)}; there are {known}")
    given = [part.strip() for part in inside.split(",")] if inside.strip() else []
    if len(given) != len(_ARGUMENTS[kind]):
        raise ValueError(f"{text!r}: {kind} takes {', '.join(_ARGUMENTS[kind])}")
    numbers = {}
    for place, part in zip(_ARGUMENTS[kind], given, strict=True):
        name, equals, value = (piece.strip() for piece in part.rpartition("="))
        if (equals and name not in _ARGUMENTS[kind]) or (name or place) in numbers:
            raise ValueError(f"{text!r}: {kind} takes {', '.join(_ARGUMENTS[kind])}, each once")
        try:
            numbers[name or place] = float(value)
        except ValueError:
            raise ValueError(f"{text!r}: {value!r} is no number") from None
    if set(numbers) != set(_ARGUMENTS[kind]):
        raise ValueError(f"{text!r}: {kind} takes {', '.join(_ARGUMENTS[kind])}, each once")
    return _checked(kind, [numbers[name] for name in _ARGUMENTS[kind]])


def _checked(kind: str, numbers: list[float]) -> Duration:
    for name, number in zip(_ARGUMENTS[kind], numbers, strict=True):
        if not 0 <= number <= MOST_MS:
            raise ValueError(f"{name} = {number:g}: a time is from 0 to {MOST_MS:,.0f} ms")
    if kind == "lognormal" and not 0 < numbers[0] <= numbers[1]:
        raise ValueError(f"p50 = {numbers[0]:g}, p99 = {numbers[1]:g}: p50 is more than 0, and p99 is not less")
    if kind == "uniform" and numbers[0] > numbers[1]:
        raise ValueError(f"low = {numbers[0]:g} is more than high = {numbers[1]:g}")
    return Duration(kind, *numbers)
