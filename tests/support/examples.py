"""How many examples a property is tried with: a few for each change, many times as many by `make deep`."""

from __future__ import annotations

import os

FACTOR_ENV = "BUSLAB_EXAMPLES_FACTOR"


def examples(number: int) -> int:
    """Return so many, times the factor that the environment names."""
    return number * int(os.environ.get(FACTOR_ENV, "1"))
