"""Join the documents of several services to one bus file.

Rules
-----
1. A document is a service; it publishes what it sends, and subscribes to what it receives.
2. A channel is known by its address. Who sends on it says what travels there: what others expect of it must be in that, of the same kind,
   or the two documents contradict each other, which is an error. Where nobody sends, all that hearers expect is made.
3. What AsyncAPI cannot say comes from `x-buslab`; what nobody says is a comment of the file.
4. The file is checked as a scenario would check it before it is written, and written whole or not at all.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import tomli_w

from sim.errors import DocumentError, ScenarioError, UsageError
from sim.machine.files import why_not_written, write_whole
from sim.machine.words import count, listed
from sim.record.durations import OTHER_CHANNELS
from sim.scenario.asyncapi.documents import Documents, Located
from sim.scenario.asyncapi.service import BUS_TABLES, ChannelUse, ServiceDocument, bus_settings, check_settings, read_service
from sim.scenario.asyncapi.templates import ID
from sim.scenario.file import check_tree
from sim.scenario.payloads import make_content
from sim.scenario.problems import shown
from sim.scenario.settings import Channel, Service

PREFIX = "bus:"  # of channels whose addresses have no prefix in common
MAX_NOTES = 20  # that the file shows


@dataclass(frozen=True)
class ImportedBus:
    """A bus that was made of documents.

    Attributes
    ----------
    text
        The bus file.
    tree
        Its tables, as a scenario has them.
    notes
        Sentences about what was left out or chosen.
    path
        Where it was written; None where it was not.
    """

    text: str
    tree: dict[str, Any]
    notes: tuple[str, ...]
    path: Path | None = None


@dataclass
class _Joined:
    """One channel as all documents say it is."""

    settings: dict[str, Any] = field(default_factory=dict)
    payload: Any = None
    correlation: str = ""
    sent: bool = False


def import_asyncapi(*documents: str | os.PathLike[str], out: str | os.PathLike[str] | None = None, force: bool = False) -> ImportedBus:
    """Make a bus file of AsyncAPI 3 documents, one a service.

    Parameters
    ----------
    documents
        Paths of YAML or JSON files.
    out
        The bus file to write; without it nothing is written.
    force
        Whether a file that is there is replaced.

    Raises
    ------
    DocumentError
        A document cannot be read, is no AsyncAPI 3, or says what a bus cannot have. Nothing is written then.
    UsageError
        The file is there, or cannot be written.
    """
    if not documents:
        raise UsageError("give at least one AsyncAPI document: one a service")
    target = None if out is None else Path(out)
    if target is not None:
        check_new(target, force=force)
        if target.resolve() in {Path(one).resolve() for one in documents}:
            raise UsageError(f"--out {target} is one of the documents: choose another")
    reader = Documents()
    names = [_shown_path(Path(one)) for one in documents]
    try:
        roots = [reader.open(Path(one), name=name) for one, name in zip(documents, names, strict=True)]
        tables = _bus_tables([(root, bus_settings(reader, root)) for root in roots])
        services = [read_service(reader, root, envelope=tables["envelope"]) for root in roots]
        made = _BusMaker(services, tables).made()
    except RecursionError:
        raise DocumentError(f"{listed(names)}: a schema or a chain of $ref is nested too deep") from None
    if target is not None:
        try:
            write_whole(target, made.text)
        except OSError as error:
            raise UsageError(f"cannot write {target}: {why_not_written(error)}") from None
    return replace(made, path=target)


def _shown_path(path: Path) -> str:
    """Return how messages and the bus file call a document: its path from here, or its name and its folder's."""
    if not path.is_absolute():
        return str(path)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else f"{path.parent.name}/{path.name}"


def _bus_tables(said: list[tuple[Located, dict[str, dict[str, Any]]]]) -> dict[str, dict[str, Any]]:
    """Return what all documents say of the bus; two must not differ."""
    whole: dict[str, dict[str, Any]] = {name: {} for name in BUS_TABLES}
    for root, tables in said:
        for name, table in tables.items():
            for key, value in table.items():
                if key in whole[name] and whole[name][key] != value:
                    other = f"{shown(whole[name][key])} in another document"
                    raise root.wrong(f"x-buslab.{name}.{key} = {shown(value)}, and {other}: it is one bus")
                whole[name][key] = value
    return whole


def check_new(path: Path, *, force: bool) -> None:
    """Refuse a file that is there, unless it may be replaced.

    Raises
    ------
    UsageError
        It is there, or its folder is not.
    """
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder; choose another --out")
    if os.path.lexists(path) and not force:
        raise UsageError(f"{path} is there already: choose another --out, or --force to replace it")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {path.parent}; make it, or choose another --out")


class _BusMaker:
    """Makes a bus of what the documents of its services say."""

    def __init__(self, services: list[ServiceDocument], tables: dict[str, dict[str, Any]]) -> None:
        self._services = services
        self._tables = tables
        self._names = [one.root.home.name for one in services]
        self.notes = [note for one in services for note in one.notes]

    def made(self) -> ImportedBus:
        """Return the bus."""
        self._check_names()
        bus = self._tables["bus"]
        uses = {service.name: self._known(service) for service in self._services}
        addresses: dict[str, list[ChannelUse]] = {}
        for some in uses.values():
            for use in some:
                addresses.setdefault(use.address, []).append(use)
        prefix = self._prefix(bus, list(addresses))
        bus = {"channel_prefix": prefix} | bus
        channels = {address.removeprefix(prefix): self._joined(address, some) for address, some in addresses.items()}
        envelope = self._envelope([use for some in uses.values() for use in some])
        services = {one.name: self._service(one, uses[one.name], prefix) for one in self._services}
        tree: dict[str, Any] = {
            "bus": bus,
            **({"envelope": envelope} if envelope else {}),
            "channels": {name: _channel_table(one) for name, one in channels.items()},
            "services": services,
        }
        text = self._checked(tree, channels)
        return ImportedBus(text, tree, tuple(self.notes))

    def _check_names(self) -> None:
        first: dict[str, ServiceDocument] = {}
        for one in self._services:
            if one.name in first:
                both = f"{first[one.name].root.home.name} and {one.root.home.name}"
                raise DocumentError(f"{both} are both of a service {shown(one.name)}: give one of them another x-buslab.service")
            first[one.name] = one

    def _envelope(self, uses: list[ChannelUse]) -> dict[str, Any]:
        """Return the settings of the envelope: what a document says, else CloudEvents where every message is one."""
        if said := self._tables["envelope"]:
            return said
        kinds = {use.template.envelope for use in uses if use.template.envelope or use.template.value is not None}
        if kinds == {"cloudevents"}:
            return {"kind": "cloudevents"}
        if "cloudevents" in kinds:
            self.notes.append("some messages are CloudEvents and others not: events travel in the reference's envelope")
        return {}

    def _known(self, service: ServiceDocument) -> list[ChannelUse]:
        """Return a service's uses of single channels: a pattern is each channel of any document that it matches."""
        single = {use.address: None for one in self._services for use in one.uses if use.pattern is None}
        known = []
        for use in service.uses:
            if use.pattern is None:
                known.append(use)
                continue
            found = [address for address in single if use.pattern.fullmatch(address)]
            if not found:
                raise use.where.wrong(f"{use.address} matches no channel of these documents: give its parameters an enum")
            self.notes.append(f"{use.where.where}: {use.address} is heard as {count(len(found), 'channel')}")
            known += [replace(use, address=address, pattern=None, settings={}) for address in found]
        return known

    def _prefix(self, bus: Mapping[str, Any], addresses: list[str]) -> str:
        """Return what all addresses begin with, up to the first colon, unless a document says the prefix."""
        said = bus.get("channel_prefix")
        if isinstance(said, str):
            for address in addresses:
                if not address.startswith(said) or address == said:
                    raise DocumentError(
                        f"{self._names[0]}: x-buslab.bus.channel_prefix = {shown(said)}: the address {shown(address)} is not of it"
                    )
            return said
        prefix = addresses[0][: addresses[0].find(":") + 1] if addresses else ""
        if prefix and all(one.startswith(prefix) and one != prefix for one in addresses):
            return prefix
        self.notes.append(f"the addresses have no prefix in common, and a bus has one: its channels are called {PREFIX}… at the broker")
        return PREFIX

    def _joined(self, address: str, uses: list[ChannelUse]) -> _Joined:
        """Return what several documents, or several channels of one, say of an address."""
        joined = _Joined(sent=any(use.sends for use in uses))
        said: dict[str, ChannelUse] = {}
        for use in uses:
            check_settings(use.where, "", use.settings, Channel)
            for key, value in use.settings.items():
                if key in said and joined.settings[key] != value:
                    both = f"{shown(joined.settings[key])} in {said[key].where.where}"
                    raise use.where.wrong(f"x-buslab.{key} = {shown(value)}, and {both}: the channel {shown(address)} is one: say it once")
                joined.settings[key], said[key] = value, use
        joined.correlation = next((use.correlation for use in uses if use.correlation), "")
        joined.payload = joined.settings.pop("payload") if "payload" in joined.settings else self._payload(address, uses)
        return joined

    def _payload(self, address: str, uses: list[ChannelUse]) -> Any:
        told = [use for use in uses if use.template.value is not None]
        senders = [use for use in told if use.sends]
        whole: ChannelUse | None = None
        for use in senders or told:
            if whole is None:
                whole = use
                continue
            self._compare(address, whole, use)
            if senders:
                self._compare(address, use, whole)
            else:
                whole = replace(whole, template=replace(whole.template, value=_union(whole.template.value, use.template.value)))
        if whole is None:
            return None
        for use in told:
            if senders and not use.sends:
                self._compare(address, whole, use)
        return whole.template.value

    def _compare(self, address: str, sender: ChannelUse, other: ChannelUse) -> None:
        """Refuse what one document expects of a channel, and another does not send or sends as something else."""
        has, wants = _sample(sender), _sample(other)
        only_kinds = not sender.sends
        for pointer, found, wanted in _differences(has, wants, ""):
            if pointer in other.template.optional and found == "nothing":
                continue
            if only_kinds and found == "nothing":
                continue
            there = f"{other.where.where} says {pointer or 'it'} is {wanted}, {sender.where.where} says {found}"
            raise DocumentError(f"channel {shown(address)}: {there}: let both $ref to one schema, or give one x-buslab a payload")

    def _service(self, service: ServiceDocument, uses: list[ChannelUse], prefix: str) -> dict[str, Any]:
        check_settings(service.root, "", service.settings, Service)
        said = dict(service.settings)
        for key, does in (("publishes", "sends"), ("subscribes", "hears")):
            ordered = sorted((use for use in uses if getattr(use, does)), key=attrgetter(does))
            names = list(dict.fromkeys(use.address.removeprefix(prefix) for use in ordered))
            if names:
                said[key] = names
        for use in uses:
            for key, time in use.handlers.items():
                table = said.get(key, {})
                table = dict(table) if isinstance(table, dict) else {OTHER_CHANNELS: table}
                channel = use.address.removeprefix(prefix)
                if table.setdefault(channel, time) != time:
                    raise use.where.wrong(
                        f"x-buslab.{key} = {shown(time)}, and {shown(table[channel])} elsewhere for this channel: say it once"
                    )
                said[key] = table
        check_settings(service.root, "", said, Service)
        return said

    def _text(self, tree: dict[str, Any], channels: dict[str, _Joined]) -> str:
        heading = [
            f"# Imported by `buslab import asyncapi` from {_comment(listed(self._names))}.",
            "# What AsyncAPI cannot say stands as a comment: take the # away and fill it in.",
            *(f"# Note: {_comment(note)}" for note in self.notes[:MAX_NOTES]),
            *([f"# and {len(self.notes) - MAX_NOTES} notes more"] if len(self.notes) > MAX_NOTES else []),
        ]
        parts = ["\n".join(heading) + "\n", *(tomli_w.dumps({name: tree[name]}) for name in BUS_TABLES if name in tree)]
        form = tree.get("envelope", {})
        data_at = str(form.get("data", "/data")) if form.get("kind") == "plain" else "/data"
        parts += [_channel_text(name, table, channels[name], data_at) for name, table in tree["channels"].items()]
        parts += [_service_text(name, table) for name, table in tree["services"].items()]
        return "\n".join(parts)

    def _checked(self, tree: dict[str, Any], channels: dict[str, _Joined]) -> str:
        """Return the file, of which a scenario refuses nothing, whatever its load: each channel is called for this, by one service more."""
        where = "that is imported"
        documents = listed(self._names)
        try:
            text = self._text(tree, channels)
            text.encode()
            read = tomllib.loads(text)
        except UnicodeEncodeError:
            raise DocumentError(f"{documents}: half a pair of surrogates is no text: a bus file cannot hold it") from None
        except (TypeError, ValueError, RecursionError) as error:
            raise DocumentError(f"{documents}: x-buslab holds what TOML cannot: {error}; null in a payload is '{{None}}'") from None
        if read != tree:
            raise DocumentError(f"{documents}: the bus file would not say the same as they do: report it, and what they hold")
        caller = "x" * (1 + max(len(name) for name in tree["services"]))
        services = read["services"] | {caller: {"publishes": list(read["channels"])}}
        try:
            check_tree(read | {"services": services, "load": {"mix": dict.fromkeys(read["channels"], 1.0)}}, where=where)
        except ScenarioError as error:
            said = str(error).removeprefix(f"scenario {where}: ")
            raise DocumentError(f"{documents}: the bus file would be refused: {said}") from None
        return text


def _sample(use: ChannelUse) -> dict[str, Any]:
    try:
        assert use.template.value is not None
        return make_content(use.template.value, seed=1, payload_bytes=64, templates=1)(0)
    except ValueError as error:
        raise use.where.wrong(f"its payload cannot be made: {error}") from None


def _differences(has: Any, wants: Any, pointer: str) -> Iterator[tuple[str, str, str]]:
    """Yield where one value is not of the kind that another one wants: the pointer, and the two kinds."""
    found, wanted = _kind(has), _kind(wants)
    if "null" in (found, wanted):
        return
    if found != wanted:
        yield pointer, found, wanted
    elif isinstance(wants, dict):
        for key, value in wants.items():
            below = f"{pointer}/{key}"
            if key in has:
                yield from _differences(has[key], value, below)
            else:
                yield below, "nothing", _kind(value)
    elif isinstance(wants, list) and wants and has:
        yield from _differences(has[0], wants[0], f"{pointer}/0")


def _kind(value: Any) -> str:
    kinds = ((bool, "true or false"), (int | float, "a number"), (str, "text"), (dict, "an object"), (list, "a list"))
    return next((word for kind, word in kinds if isinstance(value, kind)), "null")


def _union(one: Any, other: Any) -> Any:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return one
    return one | {key: _union(one[key], value) if key in one else value for key, value in other.items()}


def _channel_table(channel: _Joined) -> dict[str, Any]:
    return channel.settings if channel.payload is None else channel.settings | {"payload": channel.payload}


def _channel_text(name: str, table: dict[str, Any], channel: _Joined, data_at: str) -> str:
    plain, tables = _parted(table)
    lines = [tomli_w.dumps({"channels": {name: plain}}).rstrip("\n")]
    if channel.sent and "rate_per_s" not in table:
        lines.append("# rate_per_s = 10")
    if "payload" not in table:
        lines.append("# payload = 900                   # bytes, a distribution of sizes or a template: the documents do not say")
    if "key" not in table and (key := _key_like(channel.payload)):
        lines.append("# " + _comment(tomli_w.dumps({"key": f"{data_at}/{key}"}).strip()))
    if channel.correlation:
        lines.append(f"# correlation id: {_comment(channel.correlation)}; every event has one in its envelope")
    if tables:
        lines += ["", tomli_w.dumps({"channels": {name: tables}}).rstrip("\n")]
    return "\n".join(lines) + "\n"


def _parted(table: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the plain keys of a table, and those that are tables: a comment to fill in stands between the two."""
    tables = {key: value for key, value in table.items() if isinstance(value, dict)}
    return {key: value for key, value in table.items() if key not in tables}, tables


def _key_like(payload: Any) -> str:
    """Return the first field of a payload that is an id by its name; empty where none is."""
    names = payload if isinstance(payload, dict) else ()
    return next((name.replace("~", "~0").replace("/", "~1") for name in names if ID.search(name)), "")


def _service_text(name: str, table: dict[str, Any]) -> str:
    plain, tables = _parted(table)
    lines = [tomli_w.dumps({"services": {name: plain}}).rstrip("\n")]
    if "replicas" not in table:
        lines.append("# replicas = 2")
    if "subscribes" in table:
        lines += [
            *(["# handler_ms = 5"] if "handler_ms" not in table else []),
            *(["# must_not_double = true            # two pods that handle one event do harm"] if "must_not_double" not in table else []),
        ]
    if tables:
        lines += ["", tomli_w.dumps({"services": {name: tables}}).rstrip("\n")]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> str:
    """Return a text that can stand in a comment of TOML."""
    return "".join(one if one.isprintable() else " " for one in text)
