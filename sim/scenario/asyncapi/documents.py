"""The documents of an import: YAML or JSON within bounds, and where a reference in one of them leads.

Rules
-----
1. A file has at most `MAX_BYTES`, is nested at most `MAX_DEPTH` deep and holds at most `MAX_VALUES` values, those counted again that an
   alias repeats. An import reads at most `MAX_FILES`.
2. YAML is read as YAML 1.2 has it: ``on`` and ``2026-01-01`` are text. No tag makes anything but text, numbers, lists and objects.
3. A key that stands twice in one object is an error: which of the two was meant is not known.
4. A reference leads into the same file or into one whose path is relative to it; never to another machine.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

from sim.errors import DocumentError
from sim.scenario.problems import shown

MAX_BYTES = 4_000_000
MAX_DEPTH = 100
MAX_VALUES = 1_000_000
MAX_FILES = 100
_TAG = "tag:yaml.org,2002:"
_CORE: dict[str, re.Pattern[str]] = {  # the scalars of YAML 1.2 that are no text
    "null": re.compile(r"(~|null|Null|NULL|)$"),
    "bool": re.compile(r"(true|True|TRUE|false|False|FALSE)$"),
    "int": re.compile(r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"),
    "float": re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
}
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE = "<<"


class Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """A dumper whose text means the same in YAML 1.1 and 1.2, without aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        """Return that nothing is written as an alias."""
        return True


def _text_of(dumper: Dumper, value: str) -> Any:
    """Return text as a node of YAML: lines as lines, and in double quotes, with escapes, where a character of it may be lost without."""
    lines = value.split("\n")
    style = None if value.isprintable() else "|" if all(map(str.isprintable, lines)) else '"'
    return dumper.represent_scalar(f"{_TAG}str", value, style=style)


Dumper.add_representer(str, _text_of)
for _name, _pattern in _CORE.items():
    Dumper.add_implicit_resolver(_TAG + _name, _pattern, None)


@dataclass(frozen=True, eq=False)
class Document:
    """One file of an import: how a message calls it, where it is, and what it holds."""

    name: str
    path: Path
    tree: Any


@dataclass(frozen=True, eq=False)
class Located:
    """One value of a document, and the JSON pointer that leads to it."""

    value: Any
    home: Document
    pointer: str = "#"

    @property
    def key(self) -> tuple[int, str]:
        """What tells the place apart from all others: two files may have one name."""
        return id(self.home), self.pointer

    @property
    def where(self) -> str:
        """How a message calls the place: ``orders.yaml#/channels/orders``."""
        place = f"{self.home.name}{self.pointer if self.pointer != '#' else ''}"
        return "".join(one if one.isprintable() else repr(one)[1:-1] for one in place)

    def child(self, key: str | int) -> Located:
        """Return what stands under a key of an object or a place of a list."""
        return Located(self.value[key], self.home, f"{self.pointer}/{str(key).replace('~', '~0').replace('/', '~1')}")

    def items(self) -> Iterator[Located]:
        """Yield what is in a list."""
        return (self.child(place) for place in range(len(self.value)))

    def wrong(self, what: str) -> DocumentError:
        """Return the error that something is wrong here."""
        return DocumentError(f"{self.where[:300]}: {what}")


class Documents:
    """The files that an import has read, each once."""

    def __init__(self) -> None:
        self._read: dict[Path, Document] = {}

    def open(self, path: Path, *, name: str, beside: Located | None = None) -> Located:
        """Return the root of a file, called `name` in messages; `beside` is the reference that leads there.

        Raises
        ------
        DocumentError
            It cannot be read, or is out of bounds.
        """
        where = f"{beside.where}: $ref to {name}" if beside else name
        real = path.resolve()
        if real not in self._read:
            if len(self._read) == MAX_FILES:
                raise DocumentError(f"{where}: {MAX_FILES} files are the most that an import reads")
            self._read[real] = Document(name, path, read_tree(path, where=where))
        return Located(self._read[real].tree, self._read[real])

    def follow(self, at: Located, seen: tuple[Located, ...] = ()) -> Located:
        """Return what a value means: itself, or what its ``$ref`` leads to.

        Raises
        ------
        DocumentError
            It leads nowhere, or in a circle.
        """
        return self.trail(at, seen)[-1]

    def trail(self, at: Located, seen: tuple[Located, ...] = ()) -> list[Located]:
        """Return a value and each that a ``$ref`` leads to from there, the last one without."""
        trail = [at]
        while isinstance(at.value, dict) and isinstance(at.value.get("$ref"), str):
            if any(at.key == one.key for one in seen):
                raise at.wrong(f"a cyclic $ref: {' -> '.join(one.where for one in (*seen, at))[-600:]}")
            seen = (*seen, at)
            at = self._target(at, seen)
            trail.append(at)
        return trail

    def fields(self, at: Located) -> dict[str, Located]:
        """Return the fields of an object by their names; of a reference those of what it leads to, and an ``x-buslab`` beside it."""
        trail = self.trail(at)
        target = trail[-1]
        if not isinstance(target.value, dict):
            raise target.wrong(f"{shown(target.value)} stands where an object belongs")
        fields = {key: target.child(key) for key in target.value}
        for place in trail[:-1]:
            if "x-buslab" in place.value:
                fields.setdefault("x-buslab", place.child("x-buslab"))
        return fields

    def _target(self, at: Located, seen: tuple[Located, ...]) -> Located:
        reference = at.value["$ref"]
        file, _, fragment = reference.partition("#")
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:|//", file):
            raise at.wrong(f"$ref: {shown(reference)} is on another machine: save it beside the document and name the file")
        root = Located(at.home.tree, at.home)
        if file:
            if Path(unquote(file)).is_absolute():
                raise at.wrong(f"$ref: {shown(reference)} is no path relative to the document: give one")
            name = os.path.normpath(Path(at.home.name).parent / unquote(file))
            root = self.open(at.home.path.parent / unquote(file), name=name, beside=at)
        if fragment and not fragment.startswith("/"):
            raise at.wrong(f"$ref: {shown(reference)} is no JSON pointer: write #/components/…")
        found = root
        for part in fragment.split("/")[1:]:
            found = self._step(found, unquote(part).replace("~1", "/").replace("~0", "~"), at, seen)
        return found

    def _step(self, found: Located, key: str, at: Located, seen: tuple[Located, ...]) -> Located:
        """Return one step of a pointer further; it may lead through another reference."""
        for place in (found, self.follow(found, seen)):
            if isinstance(place.value, dict) and key in place.value:
                return place.child(key)
            if isinstance(place.value, list) and key.isdecimal() and int(key) < len(place.value):
                return place.child(int(key))
        raise at.wrong(f"$ref: {shown(at.value['$ref'])} leads nowhere: {found.where} has no {shown(key)}")


def read_tree(path: Path, *, where: str) -> Any:
    """Return what a file of YAML or JSON holds: objects, lists, text, numbers, true, false and null.

    Raises
    ------
    DocumentError
        It cannot be read, is neither, or is out of bounds.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        text = raw.decode("utf-8-sig") if len(raw) <= MAX_BYTES else ""
    except (OSError, ValueError) as error:
        raise DocumentError(f"{where}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(raw) > MAX_BYTES:
        raise DocumentError(
            f"{where}: it has more than {MAX_BYTES:,} bytes: give the document of one service, without what it does not use"
        )
    is_json = path.suffix.lower() == ".json"
    try:
        if is_json or text.lstrip().startswith("{"):
            try:
                tree = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
                _check_depth(tree, 0)
                return tree
            except json.JSONDecodeError as error:
                if is_json:
                    raise DocumentError(f"{where}: not valid JSON: {error}") from None
        return _YamlReader(yaml.parse(text, Loader=_LOADER)).document()
    except yaml.YAMLError as error:
        raise DocumentError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise DocumentError(f"{where}: it is nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise DocumentError(f"{where}: {error}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{shown(next(name for name in names if names.count(name) > 1))} stands twice in one object")
    return made


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _check_depth(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inner:
        _check_depth(one, depth + 1)


class _YamlReader:
    """Turns the events of YAML into values as they come; what an alias repeats is one value, and counted each time.

    PyYAML's own composer goes as deep as a document does, and takes the process with it.
    """

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._open: set[str] = set()

    def document(self) -> Any:
        """Return the one document.

        Raises
        ------
        ValueError
            What is wrong with it.
        yaml.YAMLError
            It is no YAML.
        """
        value = None
        for number, event in enumerate(one for one in self._events if isinstance(one, yaml.DocumentStartEvent)):
            if number:
                raise ValueError(f"{_place(event)}: a second document begins: give a file each")
            value = self._read(next(self._events), 0)[0]
        return value

    def _read(self, event: Any, depth: int) -> tuple[Any, int]:
        """Return the value that begins with an event, and how many values are in it."""
        if depth > MAX_DEPTH:
            raise ValueError(f"{_place(event)}: it is nested deeper than {MAX_DEPTH}")
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self._open or event.anchor not in self._anchors:
                what = "an alias holds itself" if event.anchor in self._open else f"nothing has the anchor {shown(event.anchor)}"
                raise ValueError(f"{_place(event)}: {what}")
            return self._anchors[event.anchor]
        if event.anchor:
            self._open.add(event.anchor)
        made: tuple[Any, int]
        if isinstance(event, yaml.MappingStartEvent):
            made = self._mapping(depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            made = self._sequence(depth)
        else:
            made = _scalar(event), 1
        if made[1] > MAX_VALUES:
            raise ValueError(f"{_place(event)}: its aliases make more than {MAX_VALUES:,} values of it")
        if event.anchor:
            self._open.discard(event.anchor)
            self._anchors[event.anchor] = made
        return made

    def _sequence(self, depth: int) -> tuple[list[Any], int]:
        values, total = list[Any](), 1
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            value, many = self._read(event, depth + 1)
            values.append(value)
            total += many
        return values, total

    def _mapping(self, depth: int) -> tuple[dict[str, Any], int]:
        own, merged, total = dict[str, Any](), dict[str, Any](), 1
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event)
            value, many = self._read(next(self._events), depth + 1)
            total += many
            if key == _MERGE and event.implicit[0]:
                for one in value if isinstance(value, list) else [value]:
                    if not isinstance(one, dict):
                        raise ValueError(f"{_place(event)}: << takes an object")
                    merged = one | merged
            elif key in own:
                raise ValueError(f"{_place(event)}: {shown(key)} stands twice in one object")
            else:
                own[key] = value
        return merged | own, total

    def _key(self, event: Any) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            raise ValueError(f"{_place(event)}: a key is text")
        if event.anchor:
            self._anchors[event.anchor] = _scalar(event), 1
        return str(event.value)


def _scalar(event: Any) -> str | int | float | bool | None:
    text = str(event.value)
    kind = str(event.tag or "").removeprefix(_TAG)
    if event.tag is None or event.tag == "!":
        plain = event.implicit[0] and event.tag is None
        kind = next((name for name, pattern in _CORE.items() if pattern.match(text)), "str") if plain else "str"
    if kind not in ("str", *_CORE):
        raise ValueError(f"{_place(event)}: the tag {shown(event.tag)} is not read: write plain values")
    try:
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        return float(text) if kind == "float" else text
    except ValueError:
        raise ValueError(f"{_place(event)}: {shown(text)} is no number") from None


def _place(event: Any) -> str:
    return f"line {event.start_mark.line + 1}"
