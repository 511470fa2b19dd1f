"""What stands in an open run folder: run.json, the scenario, the tables, the phases, and who lived when."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa

from sim.errors import RunFolderError
from sim.record.arrow import arrow_schema
from sim.record.reader import FOREVER_NS, Array, categorical, frame_of, join_parts, read_table
from sim.record.run_info import RunInfo
from sim.record.schema import LATER_TABLES, TABLES, source_of
from sim.results import heard
from sim.results.identities import name_deliveries
from sim.results.pod_histories import PodHistory, read_pod_histories
from sim.results.run_clocks import RunClocks

ONE_PER_SERVICE = ("streams",)  # transports that hand an event to one pod of each service

Made = TypeVar("Made")


def _lazy(table: str) -> cached_property[pd.DataFrame]:
    return cached_property(lambda run: run._table(table))


class RunTables:
    """One run's tables, each read when it is asked for.

    `info` is run.json; `scenario` and `environment` are scenario.toml and environment.json as dicts; `slo` is the scenario's `[slo]`;
    `phases` maps a name to (start_ns, end_ns), in order, `FOREVER_NS` for one that had not ended; `sealed` is False when the run's
    process ended before it could join its tables (what it wrote is still read). Times are in the run's clock (`sim.results.run_clocks`).
    A run in memory has its tables in `recorded`, and no folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        info: RunInfo,
        scenario: dict[str, Any],
        environment: dict[str, Any],
        recorded: Mapping[str, pa.Table] | None = None,
    ) -> None:
        self._recorded = recorded
        self._kept: dict[str, Any] = {}
        self.folder, self.info, self.scenario, self.environment = folder, info, scenario, environment
        self.slo: dict[str, Any] = scenario.get("slo", {})
        self.sealed = (info.tables is not None or recorded is not None) and info.state != "running"
        self.phases = {phase.name: (phase.start_ns, phase.end_ns or FOREVER_NS) for phase in info.phases}
        self.unreadable_parts: list[str] = []
        self.of_unknown_clocks: list[str] = []  # tables of which nobody knows which of several clocks wrote which rows

    pods, faults, reads, keys, identities = _lazy("pods"), _lazy("faults"), _lazy("reads"), _lazy("keys"), _lazy("identities")
    broker, hosts, probes, calls = _lazy("broker"), _lazy("hosts"), _lazy("probes"), _lazy("calls")

    @cached_property
    def clocks(self) -> RunClocks:
        """The clocks of its processes."""
        return RunClocks(self._rows("clocks")[0])

    @cached_property
    def deliveries(self) -> pd.DataFrame:
        """One row a delivery, by the key of its event also where events travelled without an id."""
        hearer = None
        if self.one_per_service and len(self.identities):
            services = dict(zip(self.pods["pod"].astype(str), self.pods["service"].astype(str), strict=True))
            numbers = {service: number for number, service in enumerate(sorted(set(services.values())))}
            hearer = {pod: numbers[service] for pod, service in services.items()}
        return name_deliveries(
            self._table("deliveries"), self._table("publishes"), self.identities, hearer=hearer, error_ns=self.clocks.greatest_error_ns
        )

    @cached_property
    def many_deliveries(self) -> heard.PodsOfTable | None:
        """Which pods the table of deliveries names, where it is too long to be held in memory; else None.

        An unsealed run, and one whose events travelled without an id, has to be held there all the same. Where processes read several
        clocks, the times of its groups of rows are translated whenever they are read.
        """
        sealed = (self.info.tables or {}).get("deliveries")
        if not self.sealed or sealed is None or sealed.rows <= heard.ROWS_IN_MEMORY or len(self.identities):
            return None
        path = self.folder / "deliveries.parquet"
        if not self.clocks.differ:
            return heard.PodsOfTable(path)
        sources = sealed.sources or [("", sealed.rows)]
        if sealed.sources is None:
            self._note_unknown_clocks("deliveries")
        return heard.PodsOfTable(path, translated=lambda times, first: self.clocks.translated_times(times, sources, first=first))

    def first_handled_ns(self, many: int) -> Array:
        """Return when the handlers of so many deliveries started, those that stand first in the table."""
        table = self.many_deliveries
        if table is None:
            return self.deliveries["handled_ns"].to_numpy()[:many]
        return table.first_handled_ns(many)

    @cached_property
    def alike(self) -> Array:
        """Which publishes travelled without an id and have the payload of another one, so that only their times tell them apart."""
        known = self.identities.drop_duplicates("event")
        several = known.loc[known["identity"].duplicated(keep=False), "event"]
        found: Array = np.isin(self.publishes["event"].to_numpy(), several.to_numpy())
        return found

    @cached_property
    def publishes(self) -> pd.DataFrame:
        """One row a publish, with its phase by intended time."""
        rows = self._table("publishes")
        return rows.assign(phase=categorical(self.phase_codes(self.meant_ns(rows)), list(self.phases) or [""]))

    def meant_ns(self, publishes: pd.DataFrame) -> Array:
        """Return the intended times by which publishes belong to a phase.

        By another clock than the run's what was meant for the very beginning of a phase must not seem to be before it.
        """
        intended: Array = publishes["intended_ns"].to_numpy()
        return intended + 2 * publishes["bound_ns"].to_numpy() if self.clocks.differ else intended

    @cached_property
    def pod_histories(self) -> list[PodHistory]:
        """Every pod of the pods table, then those that only deliveries name (never alive)."""
        many = self.many_deliveries
        named = self.deliveries if many is None else pd.DataFrame({"pod": categorical(np.array([], dtype=np.int16), many.words)})
        return read_pod_histories(self.pods, named)

    @cached_property
    def unrecorded_pods(self) -> Array:
        """Of which of `pod_histories` the record was lost with their machine: nobody knows what they heard."""
        names = {pod for lost in self.info.lost or () for pod in lost.pods}
        return np.array([history.pod in names for history in self.pod_histories], dtype=bool)

    @cached_property
    def services(self) -> list[str]:
        """Every service of the pods table, and of the scenario those that hear something though no pod of theirs ever began."""
        meant = self.scenario.get("services", {}) if self.info.fleet == "ours" else {}
        never = {name for name, service in meant.items() if service.get("subscribes")}
        return sorted({history.service for history in self.pod_histories} | never)

    @cached_property
    def service_of_pod(self) -> Array:
        """The service of each of `pod_histories`, as its number among `services`."""
        number = {service: code for code, service in enumerate(self.services)}
        return np.array([number[history.service] for history in self.pod_histories], dtype=np.int16)

    @cached_property
    def service_channels(self) -> list[frozenset[str]]:
        """What each of `services` is meant to hear: the channels of its pods, or those that the scenario gives it if it never had one."""
        heard: dict[str, set[str]] = {}
        for history in self.pod_histories:
            heard.setdefault(history.service, set()).update(history.channels)
        meant = self.scenario.get("services", {})
        return [frozenset(heard[name] if name in heard else meant[name]["subscribes"]) for name in self.services]

    @property
    def one_per_service(self) -> bool:
        """Whether the transport hands an event to one pod of each service."""
        return self.transport in ONE_PER_SERVICE

    @property
    def transport(self) -> str:
        """How events travelled."""
        return str(self.scenario.get("bus", {}).get("transport", "pubsub"))

    @property
    def many_nodes(self) -> bool:
        """Whether the broker is a cluster of several nodes."""
        return self.info.nodes > 1

    @property
    def handed_on(self) -> bool:
        """Whether nodes hand events on to each other, so that one node's answer says nothing of when the others have them."""
        return self.many_nodes and self.transport == "pubsub"

    def kept(self, name: str, make: Callable[[], Made]) -> Made:
        """Return what several ask of this run under one name, made when it is first asked for; nobody may change it."""
        if name not in self._kept:
            self._kept[name] = make()
        made: Made = self._kept[name]
        return made

    def felt_faults(self) -> list[dict[str, Any]]:
        """Return the rows of the faults table whose fault was carried out, as a whole or in part."""

        def felt() -> list[dict[str, Any]]:
            rows = self.faults[self.faults["felt"] != "not at all"]
            columns = [str(column) for column in rows]
            return [dict(zip(columns, row, strict=True)) for row in zip(*(rows[column].tolist() for column in columns), strict=True)]

        return self.kept("felt", felt)

    def _table(self, table: str) -> pd.DataFrame:
        rows, sources = self._rows(table)
        if sources is None and self.clocks.differ:
            self._note_unknown_clocks(table)
        return self.clocks.translated(rows, table, sources or [("", len(rows))])

    def _note_unknown_clocks(self, table: str) -> None:
        if table not in self.of_unknown_clocks:
            self.of_unknown_clocks.append(table)

    def _rows(self, table: str) -> tuple[pd.DataFrame, list[tuple[str, int]] | None]:
        """Return the rows of a table as they were written, and which process wrote how many of them; None where that is not known."""
        if self._recorded is not None:
            rows = self._recorded.get(table)
            return frame_of(arrow_schema(table).empty_table() if rows is None else rows, table), []
        whole, parts, sources = self.folder / f"{table}.parquet", [], []
        sealed = self.info.tables or {}
        if whole.exists() or (self.sealed and (table not in LATER_TABLES or table in sealed)):
            return read_table(whole, table), sealed[table].sources if table in sealed else None
        for part in sorted((self.folder / "parts").glob(f"{table}-*.parquet")):
            try:
                parts.append(read_table(part, table))
                sources.append((source_of(part.stem, table), len(parts[-1])))
            except RunFolderError:
                self.unreadable_parts.append(part.name)
        dtypes = {"name": "category", "text": "str"}
        empty = pd.DataFrame({column: pd.Series([], dtype=dtypes.get(kind, kind)) for column, kind in TABLES[table].items()})
        return join_parts(parts) if parts else empty, sources

    def phase(self, name: str) -> tuple[int, int] | None:
        """Return (start_ns, end_ns) of a phase, None when the run did not reach it."""
        return self.phases.get(name)

    @property
    def run_span(self) -> tuple[int, int]:
        """From when until when the run phase went; no time at all where the run did not reach it."""
        return self.phases.get("run", (0, 0))

    def phase_codes(self, at_ns: Array) -> Array:
        """Return the number of the phase of each time; a gap belongs to the phase before it, what precedes all to the first."""
        starts = np.array([start for start, _ in self.phases.values()], dtype=np.int64)
        return np.maximum(np.searchsorted(starts, at_ns, side="right") - 1, 0).astype(np.int8)
