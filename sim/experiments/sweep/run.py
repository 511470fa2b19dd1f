"""Run a scenario over a grid of settings, each cell several times, and gather one table.

`sim.experiments.sweep.plan` says what the grid is. The folder of a sweep::

    plan.json      what is run: a folder goes on only with the same plan
    rows/          one file a finished cell: written whole when its run was judged, so whatever ends a sweep, finished cells are known
    runs/          run folders, those that `keep` lets stay
    sweep.parquet  the table: one row a cell and repeat, in the order of the grid
    sweep.csv      the same

A cell whose run failed has a row too (state `failed`, verdict unknown); going on runs it again. On the model two cells run at a time, in
processes of their own: virtual time does not notice a neighbour. On a real ground they run one at a time, as they would disturb each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
from msgspec.structs import replace

from sim.errors import Interrupted, RecordError, RunFolderError, UsageError
from sim.experiments.many_runs import Job, check_keep, run_many
from sim.experiments.sweep.plan import Axis, GridCell, make_cells, plain_value, read_axes, shuffle
from sim.experiments.sweep.row import sweep_row
from sim.grounds.catalogue import open_broker, shown_ground
from sim.machine.clock import utc_now
from sim.machine.files import whole_file
from sim.machine.signals import interruptible, signal_of
from sim.machine.words import count, duration
from sim.record.checksum import KEY, is_whole, with_checksum
from sim.record.recorder import write_json
from sim.results.checkers.verdict import EXIT_CODES, worst
from sim.run.folder import check_name, reports_folder
from sim.run.status import Watch
from sim.scenario.file import Scenario, load_scenario, to_toml
from sim.scenario.settings import MAX_SEED
from sim.wire.shown import without_secrets

FORMAT = 1
MODEL_JOBS = 2
MAX_JOBS = 64
MIN_FREE_BYTES = 500_000_000
HEAD = ("cell", "repeat", "seed", "place", "state", "verdict", "reasons", "run_folder", "took_s")

Tell = Callable[[str], None]


def run_sweep(
    scenario: str,
    *,
    settings: Sequence[str] = (),
    repeats: int = 1,
    on: str = "embedded",
    out: Path | None = None,
    jobs: int | None = None,
    resume: bool = False,
    keep: str = "not-valid",
    load_this_server: bool = False,
    image: str | None = None,
    tell: Tell = lambda line: None,
    watch: Watch = lambda status: None,
) -> pd.DataFrame:
    """Run a scenario over a grid and return one row a run.

    Parameters
    ----------
    scenario
        As of `load_scenario`.
    settings
        ``key=value``; a comma list of values is an axis, see `sim.experiments.sweep.plan`.
    repeats
        Runs of each cell, with the scenario's seed and the ones after it.
    out
        The sweep's folder; by default ``reports/sweeps/<scenario>/<UTC time>``, and with `resume` the latest there.
    jobs
        Cells at a time; by default 2 on the model, 1 elsewhere.
    resume
        Go on with a folder: finished cells are not run again.
    keep
        Which run folders stay once their row is written: a key of `sim.experiments.many_runs.KEEP`.
    tell
        Called with a line when a cell begins or ends.
    watch
        As of `run_scenario`; only with one job.

    Returns
    -------
    DataFrame
        `HEAD`, a column for each setting, all metrics and counts (see `sim.experiments.sweep.row`); `attrs["folder"]` is its folder.

    Raises
    ------
    UsageError, ScenarioError
        The grid, a cell of it, or an argument is wrong; nothing was run.
    Interrupted
        Ctrl-C or SIGTERM; the table holds what was finished.
    """
    axes = read_axes(settings)
    cells = make_cells(axes, repeats=repeats)
    scenarios = {cell.number: load_scenario(scenario, settings=cell.arguments()) for cell in cells if not cell.repeat}
    open_broker(on, load_this_server=load_this_server, image=image)  # refuses what is no ground; starts nothing
    at_once = _at_once(jobs, on)
    check_keep(keep)
    name = scenarios[0].name
    plan = _plan(name, axes, repeats=repeats, on=on, scenarios=scenarios)
    folder = _folder(name, out, resume=resume)
    planned = {
        cell: Job(cell.name, replace(scenarios[cell.number], seed=scenarios[cell.number].seed + cell.repeat), on, image, load_this_server)
        for cell in shuffle(cells, seed=scenarios[0].seed)
    }
    with _held(folder, plan, on=on, resume=resume), _to_the_table(folder, cells):
        _run_all(folder, planned, at_once=at_once, keep=keep, tell=tell, watch=watch)
    return read_sweep(folder)


@contextlib.contextmanager
def _to_the_table(folder: Path, cells: Sequence[GridCell]) -> Iterator[None]:
    """Write the table when the runs inside are done, and when they are interrupted."""
    try:
        with interruptible(_stop):
            yield
    except (KeyboardInterrupt, Interrupted) as error:
        done = len(_write_table(folder, cells))
        number = error.signal_number if isinstance(error, Interrupted) else signal_of(error)
        text = f"interrupted; {done} of {len(cells)} runs are done and in {folder}: the same command with --out {folder} --resume goes on"
        raise Interrupted(number, text) from None
    finally:
        with contextlib.suppress(OSError):
            (folder / "runs").rmdir()  # when nothing was kept
    _write_table(folder, cells)


def read_sweep(folder: str | Path) -> pd.DataFrame:
    """Return the table of a sweep, whole or interrupted; `attrs` holds its folder and plan.

    Raises
    ------
    RunFolderError
        It is no sweep's folder, or its table cannot be read.
    """
    folder = Path(folder)
    if not (folder / "plan.json").is_file():
        raise RunFolderError(f"{folder} is not the folder of a sweep, it holds no plan.json; give the one that `buslab sweep` printed")
    try:
        plan = json.loads((folder / "plan.json").read_bytes())
        if not is_whole(plan):
            raise ValueError("plan.json was damaged or changed")
        cells = make_cells([Axis(key, tuple(values)) for key, values in plan["settings"].items()], repeats=plan["repeats"])
        table = pd.read_parquet(folder / "sweep.parquet") if (folder / "sweep.parquet").exists() else pd.DataFrame(_rows(folder, cells))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunFolderError(f"cannot read the sweep in {folder}: {error}; run it again with --resume") from None
    table.attrs = {"folder": str(folder), "plan": plan}
    return table


def exit_code(table: pd.DataFrame) -> int:
    """Return the exit code of the worst verdict: 0 valid, 1 invalid, 2 unknown."""
    return EXIT_CODES[worst(list(table["verdict"]) if len(table) else [])]


def _stop(number: int) -> None:
    raise KeyboardInterrupt(number)


def _at_once(jobs: int | None, on: str) -> int:
    if jobs is None:
        return min(MODEL_JOBS, os.cpu_count() or 1) if on.partition(":")[0] == "model" else 1
    if not 1 <= jobs <= MAX_JOBS:
        raise UsageError(f"--jobs {jobs}: give 1 to {MAX_JOBS}")
    return jobs


def _plan(name: str, axes: Sequence[Axis], *, repeats: int, on: str, scenarios: dict[int, Scenario]) -> dict[str, Any]:
    if (last := scenarios[0].seed + repeats - 1) > MAX_SEED:
        raise UsageError(f"--repeats {repeats}: the last one's seed would be {last}, above {MAX_SEED}; give a smaller --set seed=")
    content = "\0".join(to_toml(scenario) for scenario in scenarios.values())
    return {
        "format": FORMAT,
        "scenario": name,
        "settings": {axis.key: list(axis.values) for axis in axes},
        "repeats": repeats,
        "on": shown_ground(on),  # no password goes into a file
        "content": hashlib.sha256(content.encode()).hexdigest(),
    }


def _folder(name: str, out: Path | None, *, resume: bool) -> Path:
    sweeps = reports_folder() / "sweeps" / name
    if out is None and resume:
        if not (sweeps / "latest").exists():
            raise UsageError(f"--resume: there is no sweep of {name} in {sweeps}; name its folder with --out")
        return (sweeps / "latest").resolve()
    return out or sweeps / utc_now().strftime("%Y%m%dT%H%M%S.%fZ")


@contextlib.contextmanager
def _held(folder: Path, plan: dict[str, Any], *, on: str, resume: bool) -> Iterator[None]:
    """Make the folder or check that it is of the same plan, and keep other sweeps out of it meanwhile."""
    check_name(folder)
    try:
        there = (folder / "plan.json").exists()
        if there and resume:
            _check_plan(folder, plan, on=on)
        elif there:
            raise UsageError(f"--out {folder}: a sweep lies there; go on with it by --resume, or choose a new folder")
        elif resume:
            raise UsageError(f"--resume --out {folder}: no sweep lies there, it holds no plan.json")
        elif folder.exists() and any(folder.iterdir()):
            raise UsageError(f"--out {folder}: the folder exists and is not empty: choose a new one")
        (folder / "rows").mkdir(parents=True, exist_ok=True)
        (folder / "runs").mkdir(exist_ok=True)
        with (folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"{folder}: another process runs this sweep; wait for it or end it") from None
            if not there:
                write_json(folder / "plan.json", with_checksum(plan))
                _link_latest(folder)
            yield
    except OSError as error:
        raise RecordError(f"cannot write the sweep's folder {folder}: {error.strerror or error}; choose another --out") from None


def _link_latest(folder: Path) -> None:
    if folder.parent.parent.name == "sweeps":
        link = folder.parent / f".latest-{os.getpid()}"
        link.symlink_to(folder.name, target_is_directory=True)
        link.replace(folder.parent / "latest")


def _check_plan(folder: Path, plan: dict[str, Any], *, on: str) -> None:
    try:
        before = json.loads((folder / "plan.json").read_bytes())
        if not isinstance(before, dict) or not is_whole(before):
            raise ValueError
    except (ValueError, RecursionError):
        raise UsageError(f"{folder}: its plan.json is damaged; choose a new folder") from None
    if before.get("on") == (on.partition("@")[2] if "@" in on else on):  # as sweeps wrote it down once, with path and query
        before["on"] = plan["on"]
    for key, what in {"format": "format", "scenario": "scenario", "on": "--on", "repeats": "--repeats"}.items():
        if before.get(key) != plan[key]:
            was = without_secrets(str(before.get(key)))
            raise UsageError(f"{folder} holds another sweep: {what} was {was} and is {plan[key]}; choose a new folder")
    old, new = before.get("settings", {}), plan["settings"]
    for key in [*old, *new]:
        was, now = (",".join(side[key]) if key in side else "not set" for side in (old, new))
        if was != now:
            raise UsageError(f"{folder} holds another sweep: {key} was {was} and is {now}; choose a new folder")
    if before.get("content") != plan["content"]:
        raise UsageError(f"{folder} holds another sweep: the scenario {plan['scenario']} has changed since; choose a new folder")


def _run_all(folder: Path, planned: dict[GridCell, Job], *, at_once: int, keep: str, tell: Tell, watch: Watch) -> None:
    """Run what has no finished row yet, and write a row for each that ends."""
    places = {cell.name: place for place, cell in enumerate(planned)}
    todo = {cell.name: cell for cell in planned if _row(folder, cell).get("state") != "complete"}
    total, begun_s, at_once = len(planned), time.monotonic(), min(at_once, len(todo))
    if len(todo) < total:
        tell(f"{total - len(todo)} of {count(total, 'run')} were done before")

    def begin(job: Job) -> None:
        _check_room(folder)
        if at_once == 1:
            tell(f"{_said(todo[job.key], total)} runs")

    jobs = [planned[cell] for cell in todo.values()]
    for ended, outcome in enumerate(run_many(jobs, out=folder / "runs", at_once=at_once, keep=keep, begin=begin, watch=watch), 1):
        cell = todo[outcome.job.key]
        head = {"cell": cell.number, "repeat": cell.repeat, "seed": outcome.job.scenario.seed, "place": places[cell.name]}
        row = {**head, **sweep_row(outcome, keep=keep)}
        write_json(folder / "rows" / f"{cell.name}.json", with_checksum({key: _finite(value) for key, value in row.items()}))
        took_s = time.monotonic() - begun_s
        left = f"about {duration(round(took_s / ended * (len(todo) - ended)))} left" if ended < len(todo) else f"took {duration(took_s)}"
        why = f" ({row['reasons']})" if row["verdict"] != "valid" else ""
        tell(f"{total - len(todo) + ended}/{total} {_said(cell, total)}: {row['verdict']}{why} | {left}")


def _check_room(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        raise RecordError(f"only {free / 1e6:,.0f} MB are free for {folder}; make room and go on with --resume, or give --keep none")


def _said(cell: GridCell, total: int) -> str:
    text = " ".join(cell.arguments()) or "as it is"
    return f"{text} repeat {cell.repeat + 1}"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _row(folder: Path, cell: GridCell) -> dict[str, Any]:
    """Return a cell's row; empty when it has none, or one that is damaged or another cell's: it is run again then."""
    try:
        row = msgspec.json.decode((folder / "rows" / f"{cell.name}.json").read_bytes(), type=dict[str, Any])
    except (FileNotFoundError, IsADirectoryError, msgspec.DecodeError):
        return {}
    whole = KEY in row and is_whole(row) and (row["cell"], row["repeat"]) == (cell.number, cell.repeat)
    return {key: value for key, value in row.items() if key != KEY} if whole else {}


def _rows(folder: Path, cells: Sequence[GridCell]) -> list[dict[str, Any]]:
    rows = []
    for cell in cells:
        row = _row(folder, cell)
        if row:
            chosen = {key: plain_value(value) for key, value in cell.settings}
            where = folder / "runs" / row["run_folder"] if row["run_folder"] else ""
            rows.append({key: row.get(key) for key in HEAD} | chosen | row | {"run_folder": str(where)})
    return rows


def _write_table(folder: Path, cells: Sequence[GridCell]) -> pd.DataFrame:
    """Write the table of the rows there are, each file whole or not at all."""
    table = pd.DataFrame(_rows(folder, cells))
    for column in table.columns:
        values = table[column]
        if values.dtype == object:  # None for a number that does not exist, or an axis with words and numbers
            numbers = values.dropna().map(lambda value: isinstance(value, int | float) and not isinstance(value, bool)).all()
            table[column] = pd.to_numeric(values) if numbers else values.map(str)
    for name in ("sweep.parquet", "sweep.csv"):
        with whole_file(folder / name) as unfinished:
            if name.endswith("csv"):
                table.to_csv(unfinished, index=False)
            else:
                table.to_parquet(unfinished, index=False)
    return table
