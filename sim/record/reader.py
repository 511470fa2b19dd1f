"""Read the files of a run folder, say in one line what is wrong with a missing, truncated or foreign one, and take columns apart.

What they mean is in `results`; this file knows names, sizes and columns only.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sim.errors import RunFolderError
from sim.record.arrow import arrow_schema
from sim.record.checksum import file_checksum
from sim.record.limits import flat_limits
from sim.record.run_info import SealedTable
from sim.record.schema import LATER_COLUMNS, OPTIONAL, TABLES

Array = npt.NDArray[Any]
ENVIRONMENT = "environment.json"
FOREVER_NS = np.iinfo(np.int64).max
_FEW = 1000


def quantiles(values: Array, ranks: Mapping[str, float]) -> dict[str, int]:
    """Return the values at some ranks (name -> 0 to 1), each one that occurred; empty for no values."""
    if not len(values):
        return {}
    found = np.quantile(values, list(ranks.values()), method="higher")
    return {name: int(value) for name, value in zip(ranks, found, strict=True)}


def read_scenario(path: Path, *, promised: int | None = None) -> dict[str, Any]:
    """Return the resolved scenario, or raise `RunFolderError`; `promised` is its checksum, None where none is known."""
    try:
        scenario = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        if promised is not None and file_checksum(path) != promised:
            raise RunFolderError(f"{path} was damaged or changed after the run: its checksum differs; copy it again or repeat the run")
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"cannot read {path}: {error}; without it nothing says what the run promised") from error
    if not isinstance(scenario.get("slo", {}), dict):
        raise RunFolderError(f"{path}: slo is {scenario['slo']!r}; write [slo] and one `metric = limit` a line")
    try:
        return scenario | {"slo": flat_limits(scenario.get("slo", {}))}
    except ValueError as error:
        raise RunFolderError(f"{path}: {error}") from None


def check_files(folder: Path, promised: Mapping[str, int]) -> None:
    """Raise `RunFolderError` when a file beside the tables is not what run.json says; a log may be gone, environment.json may not."""
    for name, crc32 in promised.items():
        path = folder / name
        if not path.is_file() and name == ENVIRONMENT:
            raise RunFolderError(f"{path} is missing; the run folder is incomplete, copy it again or repeat the run")
        try:
            changed = path.is_file() and file_checksum(path) != crc32
        except OSError as error:
            raise RunFolderError(f"cannot read {path}: {error.strerror or error}") from error
        if changed:
            raise RunFolderError(f"{path} was damaged or changed after the run: its checksum differs; copy it again or repeat the run")


def check_sealed(path: Path, table: str, *, promised: SealedTable | None) -> None:
    """Raise `RunFolderError` when a sealed table is not there, or is not what run.json says of it."""
    if not path.is_file():
        raise RunFolderError(f"{path} is missing; the run folder is incomplete, copy it again or repeat the run")
    size, said = path.stat().st_size, None if promised is None else promised.bytes
    if promised is None or size != said:
        raise RunFolderError(f"{path} has {size} bytes, run.json says {said}; it was truncated or changed, copy it again")
    if promised.crc32 is not None and file_checksum(path) != promised.crc32:
        raise RunFolderError(f"{path} is not what run.json says: its checksum differs; it was damaged or changed, copy it again")
    _check_columns(path, table)


def _check_columns(path: Path, table: str) -> None:
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise RunFolderError(f"cannot read {path}: {str(error).splitlines()[0]}; the file is damaged, copy it again") from error
    for name, kind in ((field.name, field.type) for field in arrow_schema(table)):
        if name not in schema.names and (name in OPTIONAL.get(table, ()) or name in LATER_COLUMNS.get(table, ())):
            continue
        found = schema.field(name).type if name in schema.names else "not there"
        if found != kind:
            raise RunFolderError(f"{path}: column {name} is {found}, expected {kind}; it is another table or of another version")


def read_table(path: Path, table: str) -> pd.DataFrame:
    """Return one table, its columns checked, or raise `RunFolderError`; an optional column that the file does not have is all NaN."""
    _check_columns(path, table)
    try:
        there = set(pq.read_schema(path).names)
        rows = pq.read_table(path, columns=[column for column in TABLES[table] if column in there]).unify_dictionaries()
    except (OSError, pa.ArrowException) as error:
        raise RunFolderError(f"cannot read {path}: {str(error).splitlines()[0]}; the file is damaged, copy it again") from error
    return _completed(pd.DataFrame(rows.to_pandas(split_blocks=True, self_destruct=True)), table)


def frame_of(rows: pa.Table, table: str) -> pd.DataFrame:
    """Return the rows of a table that stands in memory, as `read_table` returns those of a file; the table stays as it is."""
    return _completed(pd.DataFrame({name: _values_of(rows.column(name)) for name in TABLES[table]}, copy=False), table)


def _values_of(column: pa.ChunkedArray) -> Any:
    """Return a column as pandas holds it: pyarrow's own way costs a millisecond a table, however short it is."""
    if pa.types.is_string(column.type) or not len(column):
        return column.to_pandas()
    if not pa.types.is_dictionary(column.type):
        return column.to_numpy()
    chunk = column.combine_chunks() if column.num_chunks > 1 else column.chunk(0)
    return categorical(chunk.indices.to_numpy(), chunk.dictionary.to_pylist())


def _completed(read: pd.DataFrame, table: str) -> pd.DataFrame:
    """Return rows with every column: one that came later has its value of then, an optional one that is not there is all NaN."""
    there = set(read)
    for name, value in LATER_COLUMNS.get(table, {}).items():
        if name not in read:
            read[name] = pd.Categorical([value] * len(read)) if TABLES[table][name] == "name" else np.full(len(read), value)
    return read.assign(**{column: np.nan for column in OPTIONAL.get(table, ()) if column not in there})


def join_parts(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the parts of one table as one, their words numbered anew."""
    columns = {c: pd.api.types.union_categoricals([p[c] for p in parts]) for c in parts[0] if parts[0][c].dtype == "category"}
    return pd.concat(parts, ignore_index=True).assign(**{str(c): words for c, words in columns.items()})


def codes_of(column: pd.Series[Any]) -> tuple[Array, list[str]]:
    """Return the codes and the words of a Categorical column."""
    return column.cat.codes.to_numpy(), [str(word) for word in column.cat.categories]


def codes_in(column: pd.Series[Any], words: Mapping[str, int]) -> Array:
    """Return the code that `words` gives each row's word, -1 when it gives none."""
    codes, known = codes_of(column)
    return np.array([*(words.get(word, -1) for word in known), -1], dtype=np.int16)[codes]


def categorical(codes: Array, words: list[str]) -> pd.Categorical:
    """Return a Categorical of codes into words."""
    if len(words) > _FEW:
        return pd.Categorical.from_codes(codes, categories=pd.Index(words, dtype="str"))
    return pd.Categorical.from_codes(codes, dtype=_type_of(tuple(words)))


@lru_cache(256)
def _type_of(words: tuple[str, ...]) -> pd.CategoricalDtype:
    """Return the type of a Categorical column of these words; making one takes longer than making a short column."""
    return pd.CategoricalDtype(pd.Index(words, dtype="str"))


def gather(column: pd.Series[Any], rows: Array) -> pd.Categorical:
    """Return a Categorical column at some rows, empty where the row is -1."""
    codes, words = codes_of(column)
    return categorical(take_rows(codes, rows, none=-1), words)


def take_rows(values: Array, rows: Array, none: int = 0) -> Array:
    """Return values[rows], `none` where the row is -1."""
    return np.append(values, values.dtype.type(none))[rows]


def positions(keys: Array, wanted: Array) -> Array:
    """Return the position of each wanted key in the sorted keys, len(keys) when it is not there."""
    at = np.searchsorted(keys, wanted).astype(np.int32)
    found = keys[np.minimum(at, len(keys) - 1)] == wanted if len(keys) else np.zeros(len(wanted), dtype=bool)
    at[~found] = len(keys)
    return at
