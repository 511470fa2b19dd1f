"""Open a run folder, sealed or not: its tables, the ledger of every copy, the story of one event."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from sim.errors import RunFolderError
from sim.record.checksum import read_json
from sim.record.reader import ENVIRONMENT, Array, categorical, check_files, check_sealed, gather, read_scenario, take_rows
from sim.record.run_info import read_info
from sim.record.schema import TABLES
from sim.results.copies import CAUSE, FATE, Copies, CopyIndex, account, make_index
from sim.results.run_tables import RunTables
from sim.results.story import story_of


class Run(RunTables):
    """One run's tables, ledger and stories; made by `open_run`."""

    @cached_property
    def index(self) -> CopyIndex:
        """Events by key and deliveries by pod."""
        return make_index(self)

    @cached_property
    def copies(self) -> Copies:
        """Every copy with its fate and cause, see `sim.results.copies`."""
        return account(self, self.index)

    def copies_phase(self) -> Array:
        """Return the number of the phase of each of `copies`: of its event, or of its delivery when nobody published it."""
        publish, delivery = self.copies.publish, self.copies.delivery
        phases = take_rows(self.phase_codes(self.publishes["intended_ns"].to_numpy()), publish)
        foreign = publish < 0
        phases[foreign] = self.phase_codes(self.deliveries["received_ns"].to_numpy()[delivery[foreign]])
        return phases

    def ledger(self) -> pd.DataFrame:
        """Return one row a copy.

        Returns
        -------
        DataFrame
            event (key, see `schema.event_id`), channel, publisher, phase, pod, service, fate, cause (empty when none),
            lag_us (intended time to handler start, NaN when not heard), path. See `sim.results.copies` for every word.
        """
        copies, publishes, deliveries = self.copies, self.publishes, self.deliveries
        published = copies.publish >= 0
        event = take_rows(publishes["event"].to_numpy(), copies.publish)
        event[~published] = deliveries["event"].to_numpy()[copies.delivery[~published]]
        handled_ns = take_rows(deliveries["handled_ns"].to_numpy(), copies.delivery)
        lag_ns = handled_ns - take_rows(publishes["intended_ns"].to_numpy(), copies.publish)
        services = sorted({history.service for history in self.pod_histories})
        service_of_pod = np.array([services.index(history.service) for history in self.pod_histories], dtype=np.int16)
        columns = {
            "event": event,
            "channel": gather(publishes["channel"], copies.publish),
            "publisher": gather(publishes["publisher"], copies.publish),
            "phase": categorical(self.copies_phase(), list(self.phases) or [""]),
            "pod": categorical(copies.pod, [history.pod for history in self.pod_histories]),
            "service": categorical(service_of_pod[copies.pod], services),
            "fate": categorical(copies.fate, list(FATE)),
            "cause": categorical(copies.cause, list(CAUSE)),
            "lag_us": np.where(published & (copies.delivery >= 0), lag_ns / 1e3, np.nan),
            "path": gather(deliveries["path"], copies.delivery),
        }
        return pd.DataFrame(columns, copy=False)

    def story(self, event: str) -> str:
        """Return the stations of one event's life, one a line, times relative to its intended time.

        Raises
        ------
        RunFolderError
            Nobody in this run published or heard the event.
        """
        return story_of(self, self.index, self.copies, event)


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
    for table in TABLES if run.sealed else ():
        check_sealed(folder / f"{table}.parquet", table, promised=(info.tables or {}).get(table))
    return run
