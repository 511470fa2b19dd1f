"""Begin a bus of one's own: a folder with a bus file, scenarios, a notebook, a CI file and schemas that run at once.

Rules
-----
1. All but the bus file is made from the bus itself: its services and channels are named in the notebook and the limits. So a bus from
   anywhere (a template of `sim.scenario.starts`, an imported document) begins in the same way.
2. The folder is written whole or not at all: what is made is read as a run would read it, before anything is moved to its place.
3. Any name that a file may have will do. Where it stands in TOML, YAML, Python or a shell it is quoted as these want it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from sim.errors import UsageError, did_you_mean
from sim.machine.files import made_folders
from sim.scenario.file import check_tree, load_scenario
from sim.scenario.json_schema import HEADER, KINDS, schema_name, schema_text
from sim.scenario.settings import Scenario
from sim.scenario.starts import STARTS

TEMPLATES = Path(__file__).parent / "starts"
MOST_BYTES = 200  # of a name: a file's has at most 255, and some of ours have endings
MOST_PREFIX = 60
SHOWN_SERVICES = 20  # in the notebook's text
WORKFLOW = Path(".github") / "workflows" / "bus.yml"
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def new_bus(name: str, *, like: str = "shop", bus_text: str | None = None, folder: Path | None = None) -> Path:
    """Write a folder in which a bus of one's own begins, and return it.

    Parameters
    ----------
    name
        Of the bus; its files begin with it.
    like
        One of `sim.scenario.starts.STARTS`: what the bus file is at first.
    bus_text
        The bus file itself, in place of `like`.
    folder
        Where to; by default a folder of the name. One that is there must be empty.

    Raises
    ------
    UsageError
        The name cannot be that of a file, there is no such start, or the folder is not empty or cannot be written. Nothing was written.
    ScenarioError
        `bus_text` is no bus that can run.
    """
    check_file_name(name)
    target = Path(name) if folder is None else folder
    _check_empty(target)
    if bus_text is None:
        bus_text = start_text(name, like)
    _write_folder(target, start_files(name, bus_text), scenarios=scenario_names(name))
    return target


def check_file_name(name: str) -> None:
    """Refuse a name that no file can have."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise UsageError(f"the name {name!r} is not UTF-8: choose another") from None
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise UsageError(f"the name {name!r} cannot be that of a file: give a name without a slash, and the place with --dir")
    if size > MOST_BYTES:
        raise UsageError(f"the name {name[:40]!r}… has {size:,} bytes, more than {MOST_BYTES}: choose a shorter one")


def start_text(name: str, like: str) -> str:
    """Return the bus file that a start is.

    Raises
    ------
    UsageError
        There is no such start.
    """
    if like not in STARTS:
        raise UsageError(f"no bus like {like!r}{did_you_mean(like, STARTS)}; there are {', '.join(STARTS)}")
    prefix = re.sub(r"[^\w.-]+", "-", name)[:MOST_PREFIX] + ":"
    return _rendered(f"{like}.bus.toml", {"prefix": _text(prefix)})


def scenario_names(name: str) -> tuple[str, str]:
    """Return the files of the two scenarios: an ordinary day, and an outage."""
    return f"{name}.toml", f"{name}-outage.toml"


def next_commands(name: str, folder: Path) -> list[str]:
    """Return what to type next, as a shell wants it."""
    everyday, outage = (_shell(_path(one)) for one in scenario_names(name))
    return [f"cd {_shell(_path(str(folder)))}", f"buslab check-scenario {everyday}"] + [
        f"buslab run {one} --on model" for one in (everyday, outage)
    ]


def start_files(name: str, bus_text: str) -> dict[Path, str]:
    """Return all files of a start, by their paths in its folder.

    Raises
    ------
    ScenarioError
        It is no bus that can run.
    """
    bus_file, notebook = f"{name}.bus.toml", f"{name}-notebook"
    everyday, outage = scenario_names(name)
    header = HEADER.format(name=schema_name("bus"))
    try:
        tree = tomllib.loads(bus_text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{bus_file}: not valid TOML: {error}") from None
    facts = _facts(check_tree(tree, where=bus_file)) | {
        "bus_file": bus_file,
        "outage_file": outage,
        "everyday_path": _path(everyday),
        "everyday_arg": _shell(_path(everyday)),
        "outage_arg": _shell(_path(outage)),
        "table": [
            (bus_file, "the bus: channels, payloads, services"),
            (everyday, "a scenario for every day"),
            (outage, "one in which Redis is away"),
            (f"{notebook}.ipynb", "what is lost and how late the rest is; the .py is the same for review (jupytext)"),
            (str(WORKFLOW), "runs the scenario in CI"),
            *((schema_name(kind), f"what an editor knows of a {kind} file") for kind in KINDS),
        ],
    }
    script = _rendered("notebook.py", facts)
    return {
        Path(bus_file): bus_text if bus_text.startswith("#:schema") else f"{header}\n{bus_text}",
        Path(everyday): _rendered("everyday.toml", facts),
        Path(outage): _rendered("outage.toml", facts),
        Path(f"{notebook}.py"): script,
        Path(f"{notebook}.ipynb"): notebook_json(script),
        WORKFLOW: _rendered("ci.yml", facts),
        Path("README.md"): _rendered("README.md", facts),
        **{Path(schema_name(kind)): schema_text(kind) for kind in KINDS},
    }


def _facts(scenario: Scenario) -> dict[str, Any]:
    """Return what the templates name of a bus."""
    hearing = {name: service for name, service in scenario.services.items() if service.subscribes}
    published = {name for service in scenario.services.values() for name in service.publishes if scenario.load.mix.get(name, 0) > 0}
    reached = [name for name, service in hearing.items() if published & set(service.subscribes)]  # of the others a limit says nothing
    watched = next(iter([*(name for name in reached if hearing[name].must_not_double), *reached]), "")
    names = list(scenario.services)
    more = len(hearing) - SHOWN_SERVICES
    hears = [
        f"`{name}` ({service.replicas} {'pod' if service.replicas == 1 else 'pods'}): {', '.join(f'`{one}`' for one in service.subscribes)}"
        for name, service in list(hearing.items())[:SHOWN_SERVICES]
    ]
    rate = scenario.load.rate_per_s
    return {
        "watched": watched or "anybody",
        "watched_key": watched and (watched if _BARE.fullmatch(watched) else _text(watched)),
        "rate": f"{rate:g}",
        "more_rate": f"{2 * rate:g}",
        "services": ", ".join(names[:SHOWN_SERVICES]) + (" and others" if len(names) > SHOWN_SERVICES else ""),
        "many_services": "One service" if len(names) == 1 else f"{len(names):,} services",
        "hears": hears + ([f"and {more:,} more"] if more > 0 else []),
    }


def _rendered(template: str, facts: Mapping[str, Any]) -> str:
    """Return a template of `sim.scenario.starts` with what it names."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        variable_start_string="<<",
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        comment_start_string="<#",
        comment_end_string="#>",
    )
    made.filters |= {"text": _text, "code": _code, "workflow": _workflow}
    return made.get_template(f"{template}.template").render(facts)


def _printable(text: str) -> str:
    """Return text in which what cannot be printed is written as its number, as TOML, YAML and Python read it in quotes."""
    return "".join(one if one.isprintable() else f"\\u{ord(one):04x}" if ord(one) < 1 << 16 else f"\\U{ord(one):08x}" for one in text)


def _text(text: str) -> str:
    """Return a text in double quotes, which means the same in TOML, YAML and Python."""
    return _printable(json.dumps(text, ensure_ascii=False))


def _workflow(text: str) -> str:
    """Return a text as a value in a workflow, which would calculate what stands in ``${{ }}``."""
    return _text(text).replace("${{", "${{ '${{' }}")


def _path(file: str) -> str:
    """Return a file's name as an argument of a command that would take a dash for an option."""
    return f"./{file}" if file.startswith("-") else file


def _shell(word: str) -> str:
    """Return a word as a shell wants it."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + _printable(word.replace("\\", "\\\\").replace("'", "\\'")) + "'"


def _code(text: str) -> str:
    """Return a text as code in a cell of a table in Markdown."""
    ticks = "``" if "`" in text else "`"
    space = " " if "`" in text else ""
    return f"{ticks}{space}{_printable(text)}{space}{ticks}".replace("|", "\\|")


def notebook_json(script: str) -> str:
    """Return a script in jupytext's percent form as the text of a notebook (nbformat 4.5)."""
    head, *parts = re.split(r"^# %%", script, flags=re.M)
    assert head.startswith("# ---"), "the head says what the script is"
    cells = []
    for place, part in enumerate(parts):
        mark, _, body = part.partition("\n")
        source = body.strip("\n")
        cell: dict[str, Any] = {"id": sha256(f"{place}{source}".encode()).hexdigest()[:8], "metadata": {}}
        if "[markdown]" in mark:
            source = re.sub(r"^# ?", "", source, flags=re.M)
            cells.append({"cell_type": "markdown", **cell, "source": source.splitlines(keepends=True)})
            continue
        if tags := re.search(r"tags=(\[.*\])", mark):
            cell["metadata"] = {"tags": json.loads(tags[1])}
        cells.append({"cell_type": "code", **cell, "execution_count": None, "outputs": [], "source": source.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    metadata = {"jupytext": {"formats": "ipynb,py:percent"}, "kernelspec": kernel, "language_info": {"name": "python"}}
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}, indent=1, ensure_ascii=False) + "\n"


# -- the folder ----------------------------------------------------------------------------------------------------


def _check_empty(target: Path) -> None:
    """Refuse a folder that holds anything, and what is no folder."""
    try:
        if target.is_symlink() and not target.exists():
            raise UsageError(f"{target} is a link that leads nowhere: choose another with --dir")
        if target.exists() and any(target.iterdir()):
            raise UsageError(f"{target}: the folder exists and is not empty: choose a new one with --dir")
    except (OSError, ValueError) as error:
        raise UsageError(f"{target}: {getattr(error, 'strerror', None) or error}; choose another with --dir") from None


def _write_folder(target: Path, files: Mapping[Path, str], *, scenarios: tuple[str, ...]) -> None:
    """Write files beside their place, read the scenarios there as a run would, and move all of it when that went well.

    Raises
    ------
    UsageError
        They cannot be written.
    """
    there = target.exists()
    parent = target if there else target.absolute().parent
    try:
        with made_folders(parent), _scratch(parent) as unfinished:
            for file, text in files.items():
                (unfinished / file).parent.mkdir(parents=True, exist_ok=True)
                (unfinished / file).write_text(text, "utf-8", newline="\n")
            for scenario in scenarios:
                load_scenario(str(unfinished / scenario))
            if there:
                _move_into(unfinished, target)
            else:
                unfinished.rename(target)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write {target}: {getattr(error, 'strerror', None) or error}; choose another with --dir") from None


@contextlib.contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """Yield a new folder in another one, and remove what is still there at the end."""
    folder = parent / f".buslab-new-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)  # of a process of that number that was killed
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move_into(folder: Path, target: Path) -> None:
    """Move what is in a folder into another one, which holds nothing yet; all of it or nothing."""
    moved: list[Path] = []
    try:
        for one in sorted(folder.iterdir()):
            moved.append(one.rename(target / one.name))
    except BaseException:
        for one in moved:
            shutil.rmtree(one) if one.is_dir() else one.unlink()
        raise
