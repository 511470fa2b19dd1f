"""What a sweep runs: every combination of some settings, several times each, in an order by which a machine's drift favours none.

No run is made here.

Rules
-----
1. A setting is ``key=value``. A comma between values makes an axis: ``bus.batch_size=1,10,100``. One value is fixed for all cells.
2. A comma inside quotes, brackets or braces is part of a value, as in TOML: ``faults=[{kind="broker_down", at_s=2}]`` is one value,
   and a text that holds a comma is quoted: ``title="one, two"``.
3. A *cell* is one value of each axis. Its repeats take the scenario's seed and the ones after it, the same seeds in each cell: cells
   with the same load settings meet the same load, so their differences are paired. So `seed` is no axis.
4. Each repeat is a block that holds every cell once, in an order of its own, drawn from the scenario's seed. A machine that warms up or
   slows down then hurts no setting more than another, and an interrupted sweep leaves whole repeats.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim.errors import UsageError

MAX_CELLS = 10_000  # with repeats
MAX_REPEATS = 1000
_OPEN, _CLOSE = "[{(", "]})"
EXAMPLE = "bus.batch_size=1,10,100"


@dataclass(frozen=True)
class Axis:
    """One setting and its values, as they were written."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class GridCell:
    """One run to make: its settings, and which repeat of them it is, counted from 0."""

    number: int
    repeat: int
    settings: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """What its run folder and its row are called."""
        return f"c{self.number:04d}-r{self.repeat:03d}"

    def arguments(self) -> tuple[str, ...]:
        """Return the settings as `load_scenario` takes them."""
        return tuple(f"{key}={value}" for key, value in self.settings)


def read_axes(settings: Sequence[str]) -> tuple[Axis, ...]:
    """Read settings of which some are axes.

    Raises
    ------
    UsageError
        One is no ``key=value``, has an empty value or one twice, a bracket or quote is not closed, or a key stands twice.
    """
    axes: dict[str, Axis] = {}
    for setting in settings:
        key, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or not key:
            raise UsageError(f"--set {setting!r}: write key=value or key=value,value, for example {EXAMPLE}")
        values = tuple(split_values(text, setting))
        if "" in values:
            raise UsageError(f"--set {setting!r}: a value is empty; write {EXAMPLE}, or quote an empty text")
        if len({repr(plain_value(value)) for value in values}) < len(values):
            raise UsageError(f"--set {setting!r}: a value stands twice; for more runs of each give --repeats")
        if key in axes:
            raise UsageError(f"--set {setting!r}: {key} was given before; write its values with commas between: {EXAMPLE}")
        for other in axes:
            inner, outer = sorted((f"{_plain(key)}.", f"{_plain(other)}."), key=len, reverse=True)
            if inner.startswith(outer):
                raise UsageError(f"--set {setting!r}: {other} was given before, and they are the same or one holds the other; give it once")
        if key == "seed" and len(values) > 1:
            raise UsageError(f"--set {setting!r}: seed is no axis; --repeats N runs each cell with N seeds, from the scenario's on")
        axes[key] = Axis(key, values)
    return tuple(axes.values())


def _plain(key: str) -> str:
    """Return a key without quotes and spaces, to compare it."""
    return "".join(char for char in key if char not in "\"' ")


def split_values(text: str, setting: str) -> list[str]:
    """Split at the commas outside quotes, brackets and braces."""
    parts, depth, quote, escaped = [""], 0, "", False
    for char in text:
        if char == "," and not depth and not quote:
            parts.append("")
            continue
        parts[-1] += char
        if escaped:
            escaped = False
        elif quote:
            escaped = char == "\\" and quote == '"'
            quote = "" if char == quote else quote
        elif (char in "\"'" and parts[-1].strip() == char) or (char in "\"'" and depth):
            quote = char
        else:
            depth += (char in _OPEN) - (char in _CLOSE)
    if quote or depth:
        raise UsageError(f"--set {setting!r}: a {'quote' if quote else 'bracket'} is not closed")
    return [part.strip() for part in parts]


def plain_value(text: str) -> Any:
    """Return the value as a table holds it: a number, a truth value, or text; a list or a table stays as it was written."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # no TOML, a number of thousands of digits, nested too deep
        return text
    return value if isinstance(value, bool | int | float | str) else text


def make_cells(axes: Sequence[Axis], *, repeats: int) -> list[GridCell]:
    """Return every cell and repeat, in plain order.

    Raises
    ------
    UsageError
        `repeats` is out of bounds, or there are more than `MAX_CELLS`.
    """
    if not 1 <= repeats <= MAX_REPEATS:
        raise UsageError(f"--repeats {repeats}: give 1 to {MAX_REPEATS}")
    count = repeats
    for axis in axes:
        count *= len(axis.values)
    if count > MAX_CELLS:
        raise UsageError(f"this sweep has {count:,} runs, more than {MAX_CELLS:,}: give fewer values or repeats")
    chosen = [tuple(zip((axis.key for axis in axes), values, strict=True)) for values in itertools.product(*(a.values for a in axes))]
    return [GridCell(number, repeat, settings) for repeat in range(repeats) for number, settings in enumerate(chosen)]


def shuffle(cells: Sequence[GridCell], *, seed: int) -> list[GridCell]:
    """Return the cells block by block of repeats, each block in an order drawn from the seed."""
    ordered: list[GridCell] = []
    for repeat in sorted({cell.repeat for cell in cells}):
        block = [cell for cell in cells if cell.repeat == repeat]
        ordered += [block[place] for place in np.random.default_rng([seed, repeat, 3]).permutation(len(block))]
    return ordered
