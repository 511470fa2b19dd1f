"""What a measurement of capacity had measured when it was interrupted: a row a window, and no answer to plan with."""

from __future__ import annotations

import csv
from pathlib import Path

from sim.errors import UsageError

INTERRUPTED_FILE = "capacity.interrupted.csv"
WINDOW = (
    *("at_s", "what", "pods", "payload_bytes", "batch", "calls_per_s"),
    *("events_per_s", "us_per_event", "core", "lag_ms_p99", "why_not"),
)


def write_windows(windows: list[dict[str, float | str]], folder: Path) -> Path:
    """Write the windows of a measurement that was interrupted, a row each with the columns `WINDOW`, beside what an earlier one found.

    Raises
    ------
    UsageError
        It cannot be written.
    """
    path = folder / INTERRUPTED_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, WINDOW)
            writer.writeheader()
            writer.writerows(windows)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}; choose another folder with --out") from None
    return path
