"""Who publishes and hears what was captured: what a bus file or AsyncAPI documents say, else one publisher a channel and one listener.

A capture shows events and not who sent them, so this is told or made up. What comes out are the tables of a scenario without its load.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sim.errors import UsageError
from sim.machine.words import count, listed
from sim.record.capture_file import Capture
from sim.scenario.asyncapi.bus import PREFIX, import_asyncapi
from sim.scenario.file import load_bus
from sim.scenario.problems import MAX_NAME
from sim.scenario.replay import names_in_bus
from sim.scenario.settings import Bus, Channel, EnvelopeForm, Scenario, Service

DOCUMENTS = (".yaml", ".yml", ".json")
MAX_PUBLISHERS = 200  # that are made up; more channels share them
LISTENER = "listener"
SHOWN = 5  # names in one note
_NO_NAME = re.compile(r"[^\w.:-]+")
_NO_CHANNEL = re.compile(r"[,\x00-\x1f\x7f\u2028\u2029]")
_GLOB = re.compile(r"[*?\[\\]")


@dataclass(frozen=True)
class BusTables:
    """The tables of a scenario that say what its bus is: of all that was captured and can be played.

    Attributes
    ----------
    tables
        `code_folder`, `bus`, `envelope`, `channels`, `services`, as far as there is anything in them.
    notes
        Sentences about what was left out or made up.
    """

    tables: dict[str, Any]
    notes: tuple[str, ...]


def services_of(files: Sequence[Path]) -> dict[str, Any]:
    """Return the tables of a bus file, or of the AsyncAPI documents of its services; nothing where there are none.

    Raises
    ------
    UsageError, ScenarioError, DocumentError
        It cannot be read, or both kinds were named.
    """
    if not files:
        return {}
    documents = [one for one in files if one.suffix.lower() in DOCUMENTS]
    if documents and len(documents) == len(files):
        return import_asyncapi(*documents).tree
    if len(files) > 1:
        raise UsageError(f"--services {files[0]} and {files[1]}: give one bus file, or AsyncAPI documents (.yaml, .json), one a service")
    scenario = load_bus(str(files[0]))
    return _told(scenario)


def _told(scenario: Scenario) -> dict[str, Any]:
    """Return the tables of a bus without what is a default."""
    tables: dict[str, Any] = {
        "bus": _changed(scenario.bus, Bus()),
        "envelope": _changed(scenario.envelope, EnvelopeForm()),
        "channels": {name: _changed(one, Channel()) for name, one in scenario.channels.items()},
        "services": {name: _changed(one, Service()) for name, one in scenario.services.items()},
    }
    return ({"code_folder": scenario.code_folder} if scenario.code_folder else {}) | {key: one for key, one in tables.items() if one}


def _changed(struct: msgspec.Struct, default: msgspec.Struct) -> dict[str, Any]:
    told, usual = msgspec.to_builtins(struct), msgspec.to_builtins(default)
    return {key: value for key, value in told.items() if value is not None and (key not in usual or value != usual[key])}


def bus_tables(capture: Capture, told: Mapping[str, Any]) -> BusTables:
    """Return the tables of a bus that carries what was captured.

    Parameters
    ----------
    told
        What `services_of` read.
    """
    bus, notes = dict(told.get("bus", {})), list[str]()
    if told:
        bus.setdefault("channel_prefix", Bus().channel_prefix)
        prefix = bus["channel_prefix"]
    else:
        prefix = bus["channel_prefix"] = _prefix_of(capture)
        if prefix == PREFIX:
            notes.append(f"the channels have no prefix in common, and a bus has one: in a run they are called {PREFIX}… at the broker")
    names = names_in_bus(capture, prefix)
    playable = [name for name in dict.fromkeys(names) if 0 < len(name) <= MAX_NAME and not _NO_CHANNEL.search(name)]
    if left := [name for name in names if name not in set(playable)]:
        notes.append(f"{_few(left)} cannot be the name of a scenario's channel (a comma, a control, or longer than {MAX_NAME}): not played")
    channels = {name: dict(one) for name, one in told.get("channels", {}).items()}
    for name in playable:
        if channels.setdefault(name, {}).pop("batched", False):
            notes.append(f"{name} is batched there, and was captured as batches: a replay plays those, so it is not batched here")
            channels[name] = {key: one for key, one in channels[name].items() if key not in ("batch_size", "batch_interval_ms")}
    services, published = (
        dict(told.get("services", {})),
        {name for one in told.get("services", {}).values() for name in one.get("publishes", ())},
    )
    alone = [name for name in playable if name not in published]
    services |= _publishers(alone, taken=set(services))
    if told and alone:
        notes.append(f"no service publishes {_few(alone)}: a publisher of its own does")
    if not told:
        services[_free(LISTENER, set(services))] = {"subscribes": playable}
    envelope = dict(told.get("envelope", {})) if told else {"kind": form_of(capture)}
    head = {"code_folder": told["code_folder"]} if "code_folder" in told else {}
    envelope_table = {"envelope": envelope} if envelope and envelope != {"kind": "aiponge"} else {}
    return BusTables(head | {"bus": bus} | envelope_table | {"channels": channels, "services": services}, tuple(notes))


def form_of(capture: Capture) -> str:
    """Return the envelope that every event has which was looked at, ``raw`` where that is none of those that are known."""
    forms = {form for form, many in capture.info.forms.items() if many}
    return forms.pop() if len(forms) == 1 and forms <= {"aiponge", "cloudevents"} else "raw"


def _prefix_of(capture: Capture) -> str:
    """Return what all channels begin with: what stands before the pattern's first star, else up to their last colon in common."""
    (first, *_) = capture.info.names
    literal = _GLOB.split(first)[0] if capture.info.heard_by == "PSUBSCRIBE" else ""
    shortest, longest = min(capture.channels, default=""), max(capture.channels, default="")
    common = next((shortest[:place] for place, one in enumerate(shortest) if longest[place : place + 1] != one), shortest)
    for prefix in (literal, common[: common.rfind(":") + 1]):
        if prefix and len(prefix) <= MAX_NAME and all(name.startswith(prefix) and name != prefix for name in capture.channels):
            return prefix
    return PREFIX


def _publishers(channels: Sequence[str], *, taken: set[str]) -> dict[str, dict[str, Any]]:
    """Return a service that publishes each channel, and no more than `MAX_PUBLISHERS` in all."""
    found: dict[str, dict[str, Any]] = {}
    many = min(len(channels), MAX_PUBLISHERS)
    for number in range(many):
        its = list(channels[number::many])
        name = _NO_NAME.sub("-", its[0])[: MAX_NAME - 20].strip("-") if len(channels) == many else str(number)
        found[_free(f"publisher-of-{name}" if name else f"publisher-{number}", taken | set(found))] = {"publishes": its}
    return found


def _free(name: str, taken: set[str]) -> str:
    return next(one for one in (name, *(f"{name}-{number}" for number in range(2, len(taken) + 3))) if one not in taken)


def _few(names: Sequence[str]) -> str:
    shown = listed([json.dumps(one, ensure_ascii=False) for one in names[:SHOWN]])
    return shown if len(names) <= SHOWN else f"{shown} and {count(len(names) - SHOWN, 'more channel')}"
