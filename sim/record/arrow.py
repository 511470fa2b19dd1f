"""The tables of `schema` in arrow's types."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from sim.record.schema import TABLES


def arrow_schema(table: str) -> pa.Schema:
    """Return the arrow schema of one of `schema.TABLES`."""
    return pa.schema([(column, _arrow_type(kind)) for column, kind in TABLES[table].items()])


def _arrow_type(kind: str) -> pa.DataType:
    if kind == "name":
        return pa.dictionary(pa.uint16(), pa.string())
    return pa.string() if kind == "text" else pa.from_numpy_dtype(np.dtype(kind))
