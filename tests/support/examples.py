"""How many examples a property is tried with: a few for each change, half of them in CI, many times as many by `make deep`."""

from __future__ import annotations

import os

FACTOR_ENV = "BUSLAB_EXAMPLES_FACTOR"
LEAST = 5


def examples(number: int) -> int:
    """Return so many, times the factor that the environment names."""
    return max(LEAST, round(number * float(os.environ.get(FACTOR_ENV, "1"))))
