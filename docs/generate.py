"""Write the pages of docs/reference/ from the code that knows what is in them.

``python -m docs.generate`` writes them; tests/house/test_docs.py says when one is stale. What a page says of a setting, a column, a metric
or a fault stands beside the thing itself, in a docstring or in `sim.record.schema`; only the words around it stand here.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import inspect as shapes

import sim
from docs.glossary import TERMS
from sim.bus.once import RECIPES
from sim.bus.services import BEHAVIOURS
from sim.cli.main import cli
from sim.faults.catalogue import FAULTS
from sim.faults.times import FaultTimes
from sim.grounds.catalogue import GROUNDS
from sim.record import schema
from sim.record.limits import SCOPED_METRICS
from sim.results.checkers import CHECKERS
from sim.scenario.explore_bounds import Explore
from sim.scenario.file import built_in, load_scenario
from sim.scenario.json_schema import KINDS, attributes, schema_name, schema_text
from sim.scenario.payloads import FUNCTIONS, NAMES
from sim.scenario.run_settings import REPLAY
from sim.scenario.schedule import SHAPES
from sim.scenario.settings import Scenario
from sim.wire.transports import TRANSPORTS

REFERENCE = Path(__file__).parent / "reference"
COMMAND = "python -m docs.generate"
OWN = "; or [your own](../how-to/own-code.md), as `module:Name`."
HEAD = f"<!-- made by `{COMMAND}`; write over there, not here -->\n"
MANY = {"services": "services.<service>", "channels": "channels.<channel>", "caches": "caches.<cache>"}  # tables of tables
WORDS = {  # what a column of a run folder may say -> where the words are
    "see OUTCOMES": "[see outcomes](#outcomes-of-a-publish)",
    "see CALL_OUTCOMES": "[see outcomes of a call](#outcomes-of-a-call)",
    "see POD_STATES": "[see states](#states-of-a-pod)",
    "see FELT": "[see how far](#how-far-a-fault-was-felt)",
    "one of NO_ANSWER": "[one of these](#probes-without-an-answer)",
    "see `bus.fallback`": "see [When Redis is away](../explanation/faults.md#when-redis-is-away)",
}
FILES = {
    "scenario.toml": "what ran, with every default",
    "environment.json": "versions, git commit, machine, what the broker is",
    "run.json": "phases, load, notes, how it ended, a checksum of each other file",
    "programs/": "what programs of yours printed, a file for each start of each",
    "verdict.json": "the verdict: checkers, counts, witnesses, limits",
    "junit.xml": "the same for CI",
    "report.html": "the same for people: the answer, every copy in one picture, and all the rest",
}


def pages() -> dict[str, str]:
    """Return each generated file: its name in docs/reference/ and its text."""
    made = {
        "cli.md": _cli(),
        "settings.md": _settings(),
        "scenarios.md": _scenarios(),
        "faults.md": _faults(),
        "metrics.md": _metrics(),
        "run-folder.md": _run_folder(),
        "python.md": _python(),
        "glossary.md": _glossary(),
    }
    schemas = {schema_name(kind): schema_text(kind) for kind in KINDS}
    return {name: HEAD + "\n" + text.rstrip() + "\n" for name, text in made.items()} | schemas


def _cli() -> str:
    assert isinstance(cli, click.Group)
    parts = ["# The command buslab", _paragraphs(cli.help or "")]
    parts += [
        '`.venv/bin/buslab COMMAND --help` says the same in the terminal. On the path for one shell: `export PATH="$PWD/.venv/bin:$PATH"`.'
    ]
    for name, command in cli.commands.items():
        context = click.Context(command, info_name=name)
        usage = " ".join(piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]")
        parts += [f"## {name}", f"`buslab {f'{name} {usage}'.strip()}`", _paragraphs(command.help or "")]
        options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
        if options:
            parts.append(_table(("option", "value", "default", "meaning"), (_option(one, context) for one in options)))
    return "\n\n".join(parts)


def _option(option: click.Option, context: click.Context) -> tuple[str, str, str, str]:
    kind = option.type
    value = "" if option.is_flag else option.metavar or kind.name
    if isinstance(kind, click.Choice):
        value = ", ".join(map(str, kind.choices))
    elif isinstance(kind, click.IntRange | click.FloatRange):
        value = f"{kind.name.split()[0]}, {_bounds(kind.min, kind.max, open_min=kind.min_open, open_max=kind.max_open)}"
    default = option.get_default(context)
    shown = "" if option.is_flag or option.required or not isinstance(default, str | int | float) or default == "" else f"`{default}`"
    text = (option.help or "").replace("\n", " ")
    said = re.search(r"\s*\[default: ([^\]]+)\]", text)
    if said:
        shown, text = f"`{said[1]}`" if "<" in said[1] else said[1], text.replace(said[0], "")
    variable = f" In the environment: `{option.envvar}`." if option.envvar else ""
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    return (
        names,
        f"{value}, required" if option.required else value,
        shown,
        text + variable + (" May be repeated." if _unsaid(option, text) else ""),
    )


def _unsaid(option: click.Option, text: str) -> bool:
    return option.multiple and "repeat" not in text


def _bounds(low: Any, high: Any, *, open_min: bool = False, open_max: bool = False) -> str:
    words = []
    if low is not None:
        words.append(f"{'more than' if open_min else 'at least'} {_number(low)}")
    if high is not None:
        words.append(f"{'less than' if open_max else 'at most'} {_number(high)}")
    return ", ".join(words)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.12g}"


def _settings() -> str:
    parts = [
        "# Settings of a scenario",
        "A scenario is a TOML file with these keys; unknown ones are refused. `--set KEY=VALUE` changes one for a run, as "
        "`--set load.run_s=5` does. How to write one is in [Write a scenario](../how-to/scenarios.md). The same as JSON Schema, "
        "for [editors](../how-to/scenarios.md#in-an-editor): [scenario files](scenario.schema.json), [bus files](bus.schema.json).",
    ]
    for title, struct in (*_tables(Scenario), ("explore", Explore)):
        where = f"In the table `[{title}]`." if title else "At the top of the file."
        parts += [f"## {title.replace('<', '').replace('>', '') or 'The file'}", f"{_first_line(struct)} {where}" if title else where]
        parts.append(_fields(struct))
    calls = _ticked(load_scenario("baseline").calls)
    parts += ["## Words that a setting takes", f"**`load.mix`, `publishes`, `subscribes`**, of the reference's bus: {calls}."]
    parts += ["**`behaviour`**: " + _ticked(BEHAVIOURS) + OWN, "**`bus.once`**: " + _ticked(RECIPES) + OWN]
    parts += ["**Names in a template**: " + _ticked(NAMES) + "."]
    parts += ["**Functions in a template**: " + "; ".join(f"`{how}`: {what}" for how, what in map(_split_use, FUNCTIONS.values())) + "."]
    parts += ["**`load.shape`**: " + _ticked((*SHAPES, REPLAY)) + ".", "**`bus.transport`**: " + _ticked(TRANSPORTS) + "."]
    parts += ["**`slo`**: [metrics](metrics.md). **`faults`**: [faults](faults.md)."]
    return "\n\n".join(parts)


def _tables(struct: type[Any], prefix: str = "") -> Iterator[tuple[str, type[Any]]]:
    """Yield a struct and those inside it, each with the name of its table."""
    yield prefix, struct
    for field in msgspec.structs.fields(struct):
        inner = shapes.type_info(field.type)
        if isinstance(inner, shapes.DictType):
            inner = inner.value_type
        if isinstance(inner, shapes.StructType):
            yield from _tables(inner.cls, f"{prefix}." * bool(prefix) + MANY.get(field.name, field.name))


def _fields(struct: type[Any], *, without: tuple[str, ...] = ()) -> str:
    meaning = attributes(struct)
    rows = []
    for field in shapes.type_info(struct).fields:  # type: ignore[attr-defined]
        inner = field.type.value_type if isinstance(field.type, shapes.DictType) else field.type
        if field.name in without or isinstance(inner, shapes.StructType):
            continue
        rows.append((f"`{field.name}`", _type(field.type), _default(field), meaning.get(field.name, "")))
    return _table(("key", "value", "default", "meaning"), rows)


def _type(kind: Any) -> str:
    if isinstance(kind, shapes.LiteralType):
        return _ticked(kind.values)
    if isinstance(kind, shapes.BoolType):
        return "`true`, `false`"
    if isinstance(kind, shapes.IntType | shapes.FloatType):
        word = "whole number" if isinstance(kind, shapes.IntType) else "number"
        low, high = (kind.ge if kind.gt is None else kind.gt), (kind.le if kind.lt is None else kind.lt)
        bounds = _bounds(low, high, open_min=kind.gt is not None, open_max=kind.lt is not None)
        return f"{word}, {bounds}" if bounds else word
    if isinstance(kind, shapes.UnionType):
        return "; or ".join(_type(one) for one in kind.types if not isinstance(one, shapes.NoneType))
    if isinstance(kind, shapes.StrType) and kind.pattern:
        return f"text that matches `{kind.pattern}`"
    if isinstance(kind, shapes.StrType):
        return "text" + (f", {_bounds(kind.min_length, kind.max_length)} letters" if kind.max_length else "")
    if isinstance(kind, shapes.VarTupleType):
        return "a list of tables" if isinstance(kind.item_type, shapes.UnionType) else f"a list of {_type(kind.item_type)}s"
    if isinstance(kind, shapes.DictType) and isinstance(kind.value_type, shapes.AnyType):
        return "a table"
    if isinstance(kind, shapes.DictType):
        return f"a table: name = {_type(kind.value_type)}"
    raise TypeError(f"a setting of a type that the reference has no word for: {kind}")


def _split_use(function: tuple[Any, str]) -> tuple[str, str]:
    how, _, what = function[1].partition(": ")
    return how, what


def _default(field: Any) -> str:
    if field.required:
        return "required"
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if value is None:
        return "none"
    if value in ((), {}, ""):
        return "empty"
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value:,}`" if isinstance(value, int | float) else f"`{value}`"


def _scenarios() -> str:
    loaded = {name: load_scenario(name) for name in built_in()}
    rows = (
        (
            f"[`{name}`](../../sim/scenario/built_in/{name}.toml)",
            one.title,
            _ticked(sorted({type(f).__struct_config__.tag for f in one.faults})),
        )
        for name, one in loaded.items()
    )
    return "\n\n".join(
        ["# Scenarios", "Those that are built in; `buslab run NAME` runs one.", _table(("name", "what it asks", "faults"), rows)]
    )


def _faults() -> str:
    parts = [
        "# Faults",
        "What a scenario can break, each a table of `[[faults]]` with its `kind`. How to use them is in "
        "[Break something on purpose](../how-to/faults.md); what they do in [What faults do](../explanation/faults.md).",
        "## When a fault is on",
        "Every fault has these keys:",
        _fields(FaultTimes),
    ]
    common = tuple(field.name for field in msgspec.structs.fields(FaultTimes))
    for kind, fault in FAULTS.items():
        assert isinstance(fault, type)
        parts += [f"## {kind}", _module_line(fault.__module__)]
        own = [field.name for field in msgspec.structs.fields(fault) if field.name not in common]
        parts.append(_fields(fault, without=common) if own else "It has no keys of its own.")
        needs = ", ".join(getattr(fault, "needs", ()))
        more = " Several may be on at once on one target." if getattr(fault, "adds_up", False) else ""
        parts.append(f"It acts on: {needs}.{more}" if needs else more.strip())
    return "\n\n".join(part for part in parts if part)


def _metrics() -> str:
    limits = ((f"`{name}`", text, "least" if name.endswith("_min") else "most") for name, text in schema.SLO_METRICS.items())
    checkers = ((f"`{name}`", _module_line(check.__module__)) for name, check in CHECKERS.items())
    grounds = ((f"`{name}`", text) for name, (_, text) in GROUNDS.items())
    return "\n\n".join(
        [
            "# Metrics, checkers, grounds",
            "## Metrics",
            "What a limit in `[slo]` may bound; all over the phase `run`. A limit is the most that a metric may be, or the least.",
            _table(("metric", "meaning", "a limit is the"), limits),
            f"Of one service or one channel are {_ticked(SCOPED_METRICS)}: "
            '`slo.missing.service."analytics-service"`, `slo.missing.channel."config.cache.invalidate"`. A limit on the whole run that '
            "stands beside such ones is `slo.missing.all`. [What nobody knows](../explanation/verdict.md) is an interval.",
            "## Checkers",
            "Each says valid, invalid or unknown; the verdict of a run is the worst of them and of its limits.",
            _table(("checker", "what it asks"), checkers),
            "## Grounds",
            "Where a run happens: `--on GROUND`. More in [Choose where the broker runs](../how-to/grounds.md).",
            _table(("ground", "what it is"), grounds),
        ]
    )


def _run_folder() -> str:
    parts = [
        "# What a run folder holds",
        "`buslab run` makes it, and seals it when the run ends; it does not change after that. `sim.open_run(folder)` opens it: each "
        "table is a DataFrame of its name.",
        _table(("file", "what it holds"), ((f"`{name}`", text) for name, text in FILES.items())),
        f"The tables are Parquet files of format {schema.FORMAT}. Times are nanoseconds of the monotonic clock of the process that wrote "
        "them, one for all processes of the machine; 0 in a column of times means that it did not happen. The type `name` is a word from a "
        "small set, dictionary-encoded.",
        "Where processes of a run read several clocks, the table `clocks` says how each went against the run's, and run.json which process "
        "wrote which rows (`tables.<table>.sources`). `sim.open_run` puts times into the run's clock, and gives the tables two more "
        "columns: `clock`, the number of the clock that wrote the row, 0 being the run's, and `bound_ns`, by how much its last time may be "
        "wrong. "
        "[How clocks are compared](../explanation/instrument.md#several-clocks).",
    ]
    for table, columns in schema.COLUMNS.items():
        rows = ((f"`{name}`", kind, _linked(meaning)) for name, (kind, meaning) in columns.items())
        parts += [f"## {table}", f"A row is {schema.ROWS[table]}.", _table(("column", "type", "meaning"), rows)]
    sets = {
        "How a run ended": schema.RUN_STATES,
        "Phases": schema.PHASES,
        "Outcomes of a publish": schema.OUTCOMES,
        "Outcomes of a call": schema.CALL_OUTCOMES,
        "States of a pod": schema.POD_STATES,
        "How far a fault was felt": schema.FELT,
        "Probes without an answer": schema.NO_ANSWER,
        "How a clock was compared": schema.CLOCK_WAYS,
        "Fates of a copy": schema.FATES,
        "Causes of a missing copy": schema.CAUSES,
    }
    for title, words in sets.items():
        parts += [f"## {title}", _table(("word", "meaning"), ((f"`{word}`", text) for word, text in words.items()))]
    return "\n\n".join(parts)


def _linked(meaning: str) -> str:
    for words, link in WORDS.items():
        meaning = meaning.replace(words, link)
    return meaning


def _python() -> str:
    names = sorted(getattr(sim, "__all__", ()))
    rows = ((f"`sim.{name}`", _first_line(getattr(sim, name))) for name in names)
    return "\n\n".join(
        [
            "# In Python",
            "What the command does is one call away, with the same names: `import sim`. They are loaded when they are used.",
            _table(("name", "what it does"), rows),
        ]
    )


def _glossary() -> str:
    words: dict[str, list[str]] = {term: [text] for term, text in TERMS.items()}
    sets: dict[str, Mapping[str, str]] = {
        "a cause": schema.CAUSES,
        "a fate of a copy": schema.FATES,
        "an outcome of a publish": schema.OUTCOMES,
        "a phase": schema.PHASES,
        "a state of a pod": schema.POD_STATES,
        "how a run ended": schema.RUN_STATES,
    }
    for what, some in sets.items():
        for word, text in some.items():
            words.setdefault(word, []).append(f"({what}) {text}")
    rows = ((f"**{word}**", "; ".join(words[word])) for word in sorted(words, key=str.casefold))
    return "\n\n".join(
        [
            "# Glossary",
            "The words as this lab uses them. What tables hold is in [What a run folder holds](run-folder.md).",
            _table(("word", "meaning"), rows),
        ]
    )


def _first_line(thing: Any) -> str:
    if isinstance(thing, type) or callable(thing):
        return (inspect.getdoc(thing) or "").split("\n")[0]
    return _module_line(thing.__name__) if inspect.ismodule(thing) else f"a table of {len(thing)}: " + _ticked(thing)


def _module_line(module: str) -> str:
    return (sys.modules[module].__doc__ or "").strip().splitlines()[0]


def _paragraphs(text: str) -> str:
    return "\n\n".join(_one_line(part) for part in inspect.cleandoc(text).replace("\b\n", "").split("\n\n"))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _ticked(words: Any) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _table(heads: tuple[str, ...], rows: Any) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def main() -> None:
    """Write every page."""
    REFERENCE.mkdir(exist_ok=True)
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
