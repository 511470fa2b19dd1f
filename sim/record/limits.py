"""The names of what a limit may bound: a metric of the whole run, of one service, or of one channel.

``missing`` is a metric of the run, ``missing.service."web"`` what of it the pods of web should have heard, and
``missing.channel."config.updated"`` what of it was published there; `SCOPED_METRICS` are those that can be told apart so. In TOML a name
is the path of nested tables. A key cannot be a number and a table, so beside a table the run's own limit is its ``all``::

    [slo.missing]
    all = 20
    service."web" = 0
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sim.record.schema import SLO_METRICS

SCOPES = ("service", "channel")
SCOPED_METRICS = (
    *(name for name in SLO_METRICS if name.startswith("lag_ms_")),
    *("missing", "missing_ratio", "unserved", "unserved_ratio", "half_served", "duplicates"),
)
WHOLE = "all"


class MetricName(NamedTuple):
    """The parts of a metric's name; without a scope it is of the whole run."""

    base: str
    scope: str = ""
    subject: str = ""

    def __str__(self) -> str:
        return f'{self.base}.{self.scope}."{self.subject}"' if self.scope else self.base

    @property
    def known(self) -> bool:
        """Whether there is such a metric; whether there is such a service or channel, the run must say."""
        return self.base in SCOPED_METRICS and self.scope in SCOPES if self.scope else self.base in SLO_METRICS


def read_metric(name: str) -> MetricName:
    """Return the parts of a name; the quotes of its subject may be left out."""
    found = re.fullmatch(r"([^.]+)\.([^.]+)\.(.+)", name, re.DOTALL)
    if not found:
        return MetricName(name)
    base, scope, subject = found.groups()
    quoted = len(subject) > 1 and subject[0] == subject[-1] and subject[0] in "\"'"
    return MetricName(base, scope, subject[1:-1] if quoted else subject)


def flat_limits(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the limits of a TOML table `slo` by the full names of their metrics; what is flat already stays so.

    Raises
    ------
    ValueError
        One metric has two limits.
    """
    flat: dict[str, Any] = {}
    for path, limit in _leaves(table):
        name = str(read_metric(path[0] if path[1:] == (WHOLE,) else ".".join(path)))
        if name in flat:
            raise ValueError(f"slo.{name} has two limits, {flat[name]!r} and {limit!r}: leave one out")
        flat[name] = limit
    return flat


def _leaves(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def nested_limits(limits: Mapping[str, Any]) -> dict[str, Any]:
    """Return limits as the nested tables in which a person writes them: the inverse of `flat_limits`."""
    nested: dict[str, Any] = {}
    scoped = {name: read_metric(name) for name in limits}
    tables = {one.base for one in scoped.values() if one.scope}
    for name, limit in limits.items():
        base, scope, subject = scoped[name]
        if scope:
            nested.setdefault(base, {}).setdefault(scope, {})[subject] = limit
        elif base in tables:
            nested.setdefault(base, {})[WHOLE] = limit
        else:
            nested[base] = limit
    return nested
