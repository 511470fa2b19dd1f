"""Where a run folder goes, how it begins (empty, with the resolved scenario in it, and `latest` beside it), and its run.json."""

from __future__ import annotations

import os
from pathlib import Path

from sim.errors import RecordError, UsageError
from sim.machine.clock import utc_now
from sim.record.checksum import file_checksum
from sim.record.recorder import write_json
from sim.record.run_info import RunInfo, content_of
from sim.scenario.file import Scenario, to_toml
from sim.wire.shown import without_secrets

# What is whole when a run is sealed.
OTHER_FILES = ("environment.json", "proxy.log", "journals/*.log", "locust.log", "locust*.csv", "taps.log", "programs/*.log")
REPORTS_ENV = "BUSLAB_REPORTS"
_CHECKOUT = Path(__file__).parents[2]


def reports_folder() -> Path:
    """Return where results go that nobody gave a folder: ``reports`` of the checkout, seen from here, or of this folder without one.

    A command that was given a folder for all that it makes names it to its children as `REPORTS_ENV`.
    """
    if given := os.environ.get(REPORTS_ENV):
        return Path(given)
    reports = Path("reports")
    if not (_CHECKOUT / "pyproject.toml").is_file():
        return reports
    return reports if Path.cwd() == _CHECKOUT else _CHECKOUT / reports


def runs_folder() -> Path:
    """Return where run folders go that nobody named."""
    return reports_folder() / "runs"


def free_folder(scenario: Scenario, out: Path | None) -> Path:
    """Return the run folder to make; one that holds anything is refused."""
    return empty_folder(out or runs_folder() / scenario.name / utc_now().strftime("%Y%m%dT%H%M%S.%fZ"))


def empty_folder(folder: Path) -> Path:
    """Return a folder that results may go to; one that holds anything is refused."""
    check_name(folder)
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"--out {folder}: the folder exists and is not empty: choose a new one")
    except OSError as error:
        raise UsageError(f"--out {folder}: {error.strerror or error}; choose another") from None
    return folder


def check_name(folder: Path) -> None:
    """Refuse a folder whose path is not UTF-8: no table could be written there, and the run would be lost when it is sealed."""
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:
        raise UsageError(f"--out {str(folder.absolute())!r}: the name is not UTF-8; choose another") from None


def make_folder(folder: Path, scenario: Scenario, *, link_latest: bool) -> None:
    """Make the run folder, and point `latest` beside it to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scenario.toml").write_text(to_toml(scenario), "utf-8")
        if link_latest:
            point_latest_to(folder)
    except OSError as error:
        raise RecordError(f"cannot make the run folder {folder}: {error.strerror or error}; choose another --out") from None


def write_info(folder: Path, info: RunInfo) -> None:
    """Write run.json, whole or not at all, and without a secret that the text of an error may hold.

    Raises
    ------
    RecordError
        It could not be written.
    """
    info.reason, info.notes = without_secrets(info.reason), [without_secrets(note) for note in info.notes]
    write_json(folder / "run.json", content_of(info))


def other_files(folder: Path, *, but: str | None = None) -> dict[str, int]:
    """Return the checksums of what a run wrote beside its tables; not of files whose names begin with `but`. Files of others are not ours.

    Raises
    ------
    RecordError
        One could not be read.
    """
    try:
        paths = sorted({path for pattern in OTHER_FILES for path in folder.glob(pattern) if path.is_file()})
        return {path.relative_to(folder).as_posix(): file_checksum(path) for path in paths if but is None or not path.name.startswith(but)}
    except OSError as error:
        raise RecordError(f"cannot read what is in {folder}: {error.strerror or error}") from None


def point_latest_to(folder: Path) -> None:
    """Make `latest` beside a folder a link to it."""
    link = folder.parent / f".latest-{os.getpid()}"
    link.symlink_to(folder.name, target_is_directory=True)
    link.replace(folder.parent / "latest")
