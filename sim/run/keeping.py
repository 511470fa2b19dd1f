"""Where what a run records is kept: in its folder, or in memory for whoever makes thousands of short runs in virtual time.

The steps of a run are the same; what they write goes through one of these two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import msgspec
import pyarrow as pa

from sim.machine.lease import note_folder
from sim.record.checksum import file_checksum
from sim.record.recorded_run import RecordedRun
from sim.record.recorder import Recorder, joined_parts, seal_tables, write_json
from sim.record.run_info import RunInfo
from sim.run.folder import make_folder, other_files, write_info
from sim.scenario.file import Scenario


class Keeping(Protocol):
    """The place for what one run records."""

    folder: Path

    def begin(self, scenario: Scenario) -> None:
        """Make the place."""

    def record(self, recorder: Recorder) -> None:
        """Take the rows of this process from now on."""

    def environment(self, content: dict[str, Any]) -> None:
        """Keep what environment.json holds."""

    def note(self, info: RunInfo) -> None:
        """Keep how far the run is."""

    def seal(self, info: RunInfo) -> None:
        """End it: nothing more is recorded."""


class FolderKeeping:
    """A run folder.

    Parameters
    ----------
    named
        Whether the user gave the folder; else `latest` beside it becomes a link to it.
    but
        Files of names that begin so are written on after the seal, and have no checksum.
    """

    def __init__(self, folder: Path, *, named: bool, but: str | None) -> None:
        self.folder = folder
        self._named, self._but = named, but

    def begin(self, scenario: Scenario) -> None:
        """Make the folder."""
        make_folder(self.folder, scenario, link_latest=not self._named)
        note_folder(self.folder)

    def record(self, recorder: Recorder) -> None:
        """Do nothing: a recorder writes its parts into the folder."""

    def environment(self, content: dict[str, Any]) -> None:
        """Write environment.json."""
        write_json(self.folder / "environment.json", content)

    def note(self, info: RunInfo) -> None:
        """Write run.json."""
        write_info(self.folder, info)

    def seal(self, info: RunInfo) -> None:
        """Join the parts, and write run.json with the checksums of all files.

        Raises
        ------
        RecordError
            A file could not be written or read.
        """
        info.tables = seal_tables(self.folder)
        info.scenario_crc32 = file_checksum(self.folder / "scenario.toml")
        info.files = other_files(self.folder, but=self._but)
        self.note(info)


class MemoryKeeping:
    """The memory of this process, for a run whose pods are all in it.

    Attributes
    ----------
    kept
        The run, once it is sealed.
    """

    folder = Path("/nowhere")  # for what is told of a run that fails; nothing is written

    def __init__(self) -> None:
        self.kept: RecordedRun | None = None
        self._scenario: dict[str, Any] = {}
        self._environment: dict[str, Any] = {}
        self._parts: dict[str, list[pa.Table]] = {}

    def begin(self, scenario: Scenario) -> None:
        """Keep the scenario."""
        self._scenario = msgspec.json.decode(msgspec.json.encode(scenario))  # lists, as a file has them

    def record(self, recorder: Recorder) -> None:
        """Take the parts that the recorder would write."""
        recorder.keep_parts(self._keep)

    def _keep(self, table: str, rows: pa.Table) -> None:
        self._parts.setdefault(table, []).append(rows)

    def environment(self, content: dict[str, Any]) -> None:
        """Keep it."""
        self._environment = content

    def note(self, info: RunInfo) -> None:
        """Do nothing: nobody looks at a run in memory while it goes on."""

    def seal(self, info: RunInfo) -> None:
        """Join the parts."""
        tables = {table: joined_parts(parts) for table, parts in self._parts.items()}
        self.kept = RecordedRun(info, self._scenario, self._environment, tables)
