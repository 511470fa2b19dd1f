"""A bus as AsyncAPI 3 documents, one a service: what travels at the broker, and in `x-buslab` what AsyncAPI cannot say.

Rules
-----
1. A message's schema is that of the event in its envelope, its data as the first `SAMPLES` calls of the payload have it. The payload itself
   stands in `x-buslab`, so that an import of the documents gives the same bus.
2. What is a default is not written, but for the prefix of channels.
3. A channel that no service publishes or hears stands in the first document.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from sim.bus.envelope import VERSION, Event
from sim.errors import ScenarioError, UsageError, did_you_mean
from sim.machine.files import file_name, why_not_written, write_all
from sim.scenario.asyncapi.bus import check_new
from sim.scenario.asyncapi.documents import Dumper
from sim.scenario.file import built_in_buses, load_bus, load_scenario
from sim.scenario.problems import shown
from sim.scenario.settings import Bus, Channel, EnvelopeForm, Scenario, Service

SAMPLES = 50  # calls of a payload that its schema is made of
SUFFIX = ".asyncapi.yaml"
FILE_SUFFIXES = (".yaml", ".yml", ".json")
_FORMATS = {
    "uuid": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    "date-time": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"),
}


def export_asyncapi(
    name: str, *, out: str | os.PathLike[str], service: str | None = None, settings: tuple[str, ...] = (), force: bool = False
) -> list[Path]:
    """Write the documents of a bus and return their paths.

    Parameters
    ----------
    name
        A scenario or a bus, built in or a file; that of a bus ends in ``.bus.toml``.
    out
        The folder for a file a service, or, for one service, the file: ``.yaml`` or ``.json``.
    service
        The one service to write; without it all.
    settings
        ``key=value`` each, as of a run.
    force
        Whether files that are there are replaced.

    Raises
    ------
    ScenarioError
        The bus is wrong, or has what AsyncAPI cannot say.
    UsageError
        There is no such service, or a file is there or cannot be written.
    """
    documents = asyncapi_documents(name, settings=settings)
    if service is not None and service not in documents:
        raise UsageError(f"--service {service!r}: no such service{did_you_mean(service, documents)}; there are {', '.join(documents)}")
    chosen = list(documents) if service is None else [service]
    place = Path(out)
    if place.suffix.lower() in FILE_SUFFIXES:
        if len(chosen) > 1:
            raise UsageError(f"--out {place} is one file, and there are {len(chosen)} services: give --service or a folder")
        paths = {chosen[0]: place}
    else:
        paths = {one: place / f"{file_name(one)}{SUFFIX}" for one in chosen}
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot make the folder {place}: {error.strerror or error}; choose another --out") from None
    for path in paths.values():
        check_new(path, force=force)
    texts = {path: _text(documents[one], path) for one, path in paths.items()}
    try:
        write_all(texts)
    except OSError as error:
        raise UsageError(f"cannot write {place}: {why_not_written(error)}") from None
    return list(texts)


def asyncapi_documents(name: str, *, settings: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """Return the document of each service of a bus: its name and the tree of objects.

    Raises
    ------
    ScenarioError
        The bus is wrong, or has what AsyncAPI cannot say.
    """
    scenario = load_bus(name, settings=settings) if is_bus_file(name) else load_scenario(name, settings=settings)
    for channel in scenario.channels:
        if re.search(r"[{}]", scenario.bus.channel_prefix + channel):
            raise ScenarioError(f"channels.{shown(channel)}: AsyncAPI takes braces in an address for a parameter: rename the channel")
        if _has_reference(scenario.channels[channel].payload):
            where = f"channels.{shown(channel)}.payload"
            raise ScenarioError(f"{where}: a field is called $ref, which AsyncAPI takes for a reference: rename it")
    used = {one for service in scenario.services.values() for one in (*service.publishes, *service.subscribes)}
    idle = [one for one in scenario.channels if one not in used]
    documents = dict[str, dict[str, Any]]()
    for service, one in scenario.services.items():
        if not one.publishes and not one.subscribes:
            raise ScenarioError(f"services.{service}: it publishes nothing and subscribes to nothing: a document needs an operation")
        documents[service] = _Document(scenario, service, () if documents else tuple(idle)).tree()
    return documents


def is_bus_file(name: str) -> bool:
    """Return whether a name is that of a bus file."""
    return name.endswith(".bus.toml") or name in built_in_buses()


def _text(document: Mapping[str, Any], path: Path) -> str:
    if path.suffix.lower() == ".json":
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    return str(yaml.dump(document, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120))


class _Document:
    """The document of one service."""

    def __init__(self, scenario: Scenario, service: str, idle: tuple[str, ...]) -> None:
        self._scenario = scenario
        self._name = service
        self._service = scenario.services[service]
        names = dict.fromkeys((*self._service.publishes, *self._service.subscribes, *idle))
        self._keys = _keys(list(names))

    def tree(self) -> dict[str, Any]:
        """Return it as objects, lists and plain values."""
        ours = _beyond_defaults(self._service, Service(), leave=("publishes", "subscribes"))
        ours["bus"] = {"channel_prefix": self._scenario.bus.channel_prefix} | _beyond_defaults(self._scenario.bus, Bus())
        if envelope := _beyond_defaults(self._scenario.envelope, EnvelopeForm()):
            ours["envelope"] = envelope
        operations = [("send", one) for one in self._service.publishes] + [("receive", one) for one in self._service.subscribes]
        return {
            "asyncapi": "3.0.0",
            "info": {"title": self._name, "version": "1.0.0"},
            "x-buslab": ours,
            "defaultContentType": "application/json",
            "servers": {"broker": {"host": "localhost:6379", "protocol": "redis"}},
            "channels": {key: self._channel(name, key) for name, key in self._keys.items()},
            "operations": {f"{action}.{self._keys[name]}": self._operation(action, self._keys[name]) for action, name in operations},
            "components": {
                "messages": {key: self._message(name, key) for name, key in self._keys.items()},
                "schemas": {key: self._schema(name) for name, key in self._keys.items()},
            },
        }

    def _channel(self, name: str, key: str) -> dict[str, Any]:
        ours = _beyond_defaults(self._scenario.channels[name], Channel(), leave=("payload",))
        return {
            "address": self._scenario.bus.channel_prefix + name,
            "messages": {key: {"$ref": f"#/components/messages/{key}"}},
            **({"x-buslab": ours} if ours else {}),
        }

    def _operation(self, action: str, key: str) -> dict[str, Any]:
        return {
            "action": action,
            "channel": {"$ref": f"#/channels/{key}"},
            "messages": [{"$ref": f"#/channels/{key}/messages/{key}"}],
        }

    def _message(self, name: str, key: str) -> dict[str, Any]:
        return {
            "name": key,
            "title": name,
            **self._correlation(),
            "payload": {"$ref": f"#/components/schemas/{key}"},
            "x-buslab": {"payload": self._scenario.channels[name].payload},
        }

    def _schema(self, name: str) -> dict[str, Any]:
        """Return the schema of an event as it travels, from the first calls of its payload."""
        channel, envelope = self._scenario.channels[name], self._scenario.new_envelope()
        content: Callable[[int], dict[str, Any]] = (lambda _: {}) if channel.payload is None else self._scenario.content(name)
        events = list[Any]()
        for number in range(SAMPLES):
            data = {"events": [content(number)]} if channel.batched else content(number)
            event = Event(f"evt_{number}", f"cor_{number}", name, VERSION, "2026-01-01T00:00:00.000Z", self._name, data)
            try:
                events.append(json.loads(envelope.encode(event)))
            except (TypeError, ValueError, OverflowError, RecursionError) as error:
                raise ScenarioError(f"channels.{shown(name)}.payload: call {number} of it does not fit its envelope: {error}") from None
        return schema_of(events)

    def _correlation(self) -> dict[str, Any]:
        """Return where an event has its correlation id."""
        form = self._scenario.envelope
        at = {"aiponge": "/correlationId", "cloudevents": "/correlationid", "plain": form.correlation or "", "raw": ""}[form.kind]
        return {"correlationId": {"location": f"$message.payload#{at}"}} if at else {}


def _has_reference(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (isinstance(value, dict) and "$ref" in value) or any(map(_has_reference, inner))


def _keys(names: list[str]) -> dict[str, str]:
    """Return for each channel a name that a component of AsyncAPI may have, each another."""
    taken = dict[str, str]()
    for name in names:
        plain = key = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)
        number = 2
        while key in taken:
            key, number = f"{plain}_{number}", number + 1
        taken[key] = name
    return {name: key for key, name in taken.items()}


def _beyond_defaults(one: msgspec.Struct, default: msgspec.Struct, *, leave: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the fields of a struct that are not as they are by default."""
    said, plain = ({name: msgspec.to_builtins(getattr(some, name)) for name in some.__struct_fields__} for some in (one, default))
    return {name: value for name, value in said.items() if name not in leave and value != plain[name]}


def schema_of(values: list[Any]) -> dict[str, Any]:
    """Return a JSON Schema that all of these values keep."""
    kinds = dict.fromkeys(_type_of(one) for one in values)
    if "number" in kinds:
        kinds.pop("integer", None)
    schema: dict[str, Any] = {"type": next(iter(kinds))} if len(kinds) == 1 else {"type": list(kinds)} if kinds else {}
    if objects := [one for one in values if isinstance(one, dict)]:
        names = dict.fromkeys(name for one in objects for name in one)
        schema["required"] = [name for name in names if all(name in one for one in objects)]
        schema["properties"] = {name: schema_of([one[name] for one in objects if name in one]) for name in names}
        if not schema["required"]:
            del schema["required"]
    if lists := [one for one in values if isinstance(one, list)]:
        schema["items"] = schema_of([item for one in lists for item in one])
    texts = [one for one in values if isinstance(one, str)]
    for name, pattern in _FORMATS.items():
        if texts and len(kinds) == 1 and all(pattern.fullmatch(one) for one in texts):
            schema["format"] = name
    return schema


def _type_of(value: Any) -> str:
    kinds = ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (dict, "object"), (list, "array"))
    return next((word for kind, word in kinds if isinstance(value, kind)), "null")
