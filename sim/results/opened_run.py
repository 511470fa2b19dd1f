"""Open a run folder, sealed or not: its tables, the ledger of every copy, the story of one event."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sim.errors import RunFolderError
from sim.record.checksum import read_json
from sim.record.limits import flat_limits
from sim.record.reader import ENVIRONMENT, Array, categorical, check_files, check_sealed, gather, read_scenario, take_rows
from sim.record.recorded_run import RecordedRun
from sim.record.run_info import read_info
from sim.record.schema import LATER_TABLES, TABLES
from sim.results.books import Books, keep_books
from sim.results.copies import CAUSE, FATE, Copies, CopyIndex, account, make_index
from sim.results.lags import Lags, read_lags
from sim.results.pieces import Pieces, account_in_pieces
from sim.results.run_clocks import error_ns
from sim.results.run_tables import RunTables
from sim.results.service_books import ServiceBooks
from sim.results.story import stories_of, story_of
from sim.results.tally import Tally


class Run(RunTables):
    """One run's tables, ledger and stories; made by `open_run`."""

    @cached_property
    def index(self) -> CopyIndex:
        """Events by key and deliveries by pod."""
        return make_index(self)

    @cached_property
    def pieces(self) -> Pieces:
        """Every copy with its fate and cause, some pods' at a time: what judges walk through, however long the run was."""
        return account_in_pieces(self, self.index)

    @cached_property
    def copies(self) -> Copies:
        """Every copy with its fate and cause, see `sim.results.copies`: all of them in memory, and with them all deliveries."""
        if self.many_deliveries is None and self.pieces.whole is not None:
            return self.pieces.whole.copies
        whole = make_index(self, in_memory=True)
        return account(self, whole, whole.heard.of(whole.heard.pieces[0]))

    @cached_property
    def books(self) -> Books:
        """Every copy counted, see `sim.results.books`."""
        return keep_books(self, self.index, self.pieces)

    @cached_property
    def lags(self) -> Lags:
        """How late the copies of the run phase were handled, see `sim.results.lags`."""
        return read_lags(self, self.pieces)

    @property
    def service_books(self) -> ServiceBooks:
        """Every event at every service that should hear it, see `sim.results.service_books`."""
        return self.books.services

    @property
    def tally(self) -> Tally:
        """The books of the run phase, counted."""
        return self.books.tally

    @property
    def batched(self) -> tuple[str, ...]:
        """Event types whose calls are gathered into batches; of a run from before a bus was data, the reference's."""
        channels = self.scenario.get("channels")
        if channels is None:
            return ("analytics.events.batch",)
        return tuple(name for name, one in channels.items() if one.get("batched"))

    def copies_phase(self) -> Array:
        """Return the number of the phase of each of `copies`: of its event, or of its delivery when nobody published it."""
        return self._copies_phase

    def copies_in(self, phase: str) -> Array:
        """Return which of `copies` are of a phase; none where the run did not reach it."""
        names = list(self.phases)
        return self.copies_phase() == names.index(phase) if phase in names else np.zeros(len(self.copies.publish), dtype=bool)

    @cached_property
    def _copies_phase(self) -> Array:
        publish, delivery = self.copies.publish, self.copies.delivery
        phases = take_rows(self.phase_codes(self.meant_ns(self.publishes)), publish)
        foreign = publish < 0
        phases[foreign] = self.phase_codes(self.deliveries["received_ns"].to_numpy()[delivery[foreign]])
        return phases

    def ledger(self) -> pd.DataFrame:
        """Return one row a copy; of a service without a living pod one a missed event, whose pod is NaN.

        Returns
        -------
        DataFrame
            event (key, see `schema.event_id`), channel, publisher, phase, pod, service, fate, cause (empty when none),
            lag_us (intended time to handler start, NaN when not heard), path. See `sim.results.copies` and `sim.results.service_books` for
            every word. Where processes read several clocks there is lag_error_us too: by how much lag_us may be wrong.
        """
        copies, publishes, deliveries, books = self.copies, self.publishes, self.deliveries, self.service_books
        alone = books.alone
        publish = np.concatenate([copies.publish, books.publish[alone]])
        delivery = np.concatenate([copies.delivery, np.full(len(alone), -1, dtype=copies.delivery.dtype)])
        published = publish >= 0
        event = take_rows(publishes["event"].to_numpy(), publish)
        event[~published] = deliveries["event"].to_numpy()[delivery[~published]]
        handled_ns = take_rows(deliveries["handled_ns"].to_numpy(), delivery)
        intended_ns = publishes["intended_ns"].to_numpy()
        lag_ns = handled_ns - take_rows(intended_ns, publish)
        phase = np.concatenate([self.copies_phase(), self.phase_codes(self.meant_ns(publishes)[books.publish[alone]])])
        pod = np.concatenate([copies.pod, np.full(len(alone), -1, dtype=copies.pod.dtype)])
        columns: dict[str, Any] = {
            "event": event,
            "channel": gather(publishes["channel"], publish),
            "publisher": gather(publishes["publisher"], publish),
            "phase": categorical(phase, list(self.phases) or [""]),
            "pod": categorical(pod, [history.pod for history in self.pod_histories]),
            "service": categorical(np.concatenate([self.service_of_pod[copies.pod], books.service[alone]]), self.services),
            "fate": categorical(np.concatenate([copies.fate, books.fate[alone]]), list(FATE)),
            "cause": categorical(np.concatenate([copies.cause, books.cause[alone]]), list(CAUSE)),
            "lag_us": np.where(published & (delivery >= 0), lag_ns / 1e3, np.nan),
            "path": gather(deliveries["path"], delivery),
        }
        if self.clocks.differ:
            heard = np.flatnonzero(published & (delivery >= 0))
            columns["lag_error_us"] = np.full(len(publish), np.nan)
            columns["lag_error_us"][heard] = error_ns(publishes, publish[heard], deliveries, delivery[heard]) / 1e3
        return pd.DataFrame(columns, copy=False)

    def lost(self, *, services: Sequence[str] = ()) -> pd.DataFrame:
        """Return the calls of the run phase that a service never handled, with key, time and cause: see `sim.results.lost`.

        Raises
        ------
        UsageError
            One of `services` hears nothing in this run.
        """
        from sim.results.lost import lost_calls

        return lost_calls(self, services=services)

    def story(self, event: str) -> str:
        """Return the stations of one event's life, one a line, times relative to its intended time.

        Raises
        ------
        RunFolderError
            Nobody in this run published or heard the event.
        """
        return story_of(self, self.index, self.pieces, self.service_books, event)

    def stories(self, events: list[str]) -> dict[str, str]:
        """Return the story of each of these events, in their order; raises as `story` does."""
        return dict(zip(events, stories_of(self, self.index, self.pieces, self.service_books, events), strict=True))


def open_recorded(recorded: RecordedRun) -> Run:
    """Open a run that stands in memory: it is judged by the same rules as one in a folder."""
    scenario = recorded.scenario | {"slo": flat_limits(recorded.scenario.get("slo", {}))}
    return Run(Path("/nowhere"), info=recorded.info, scenario=scenario, environment=recorded.environment, recorded=recorded.tables)


def open_run(path: str | Path) -> Run:
    """Open a run folder, sealed or not; `path` may be a link such as `latest`.

    Raises
    ------
    RunFolderError
        The folder is missing, is not a run folder, is of another format, or a table is missing, truncated or foreign.
    """
    if not Path(path).is_dir():
        raise RunFolderError(f"no run folder at {path}; look into reports/runs for those there are")
    folder = Path(path).resolve()
    if not (folder / "run.json").is_file():
        hint = f"did you mean {path}/latest?" if (folder / "latest").exists() else "give the folder that `buslab run` printed"
        raise RunFolderError(f"{path} is not a run folder, it holds no run.json; {hint}")
    info = read_info(folder / "run.json")
    check_files(folder, info.files or {})
    environment = read_json(folder / ENVIRONMENT) if (folder / ENVIRONMENT).exists() else {}
    scenario = read_scenario(folder / "scenario.toml", promised=info.scenario_crc32)
    run = Run(folder, info=info, scenario=scenario, environment=environment)
    sealed = info.tables or {}
    for table in TABLES if run.sealed else ():
        if table in sealed or table not in LATER_TABLES:
            check_sealed(folder / f"{table}.parquet", table, promised=sealed.get(table))
    return run
