"""A run that stands in memory and in no folder: what its folder would hold, for whoever makes thousands of runs and keeps a few."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sim.record.run_info import RunInfo


@dataclass(frozen=True)
class RecordedRun:
    """One finished run.

    Attributes
    ----------
    info
        As run.json holds it, without the sizes and checksums of files.
    scenario, environment
        As scenario.toml and environment.json hold them.
    tables
        By name, with the columns of `sim.record.schema.TABLES`; a table of which nothing was recorded is not there.
    """

    info: RunInfo
    scenario: dict[str, Any]
    environment: dict[str, Any]
    tables: Mapping[str, pa.Table]
