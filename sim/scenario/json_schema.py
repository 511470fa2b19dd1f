"""JSON Schema of scenario and bus files, made from the structs that read them: editors complete and check with it.

Rules
-----
1. There is one source. Types, bounds, defaults and words are those of `settings` and of the faults; what a key means is what their
   docstrings have under Attributes.
2. What the loader takes the schema takes. What the loader refuses for its form (an unknown key, a wrong type, a value out of bounds or
   none of the words) the schema refuses, but for 2.0 in the place of 2, which JSON Schema takes for the same number. Whether parts fit
   each other, only the loader knows.
3. A schema has no `$id`: it is a file beside those that it describes, and no host is asked for it.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator
from typing import Any, Literal, get_args

import msgspec
from msgspec import inspect as shapes

from sim.bus.once import RECIPES
from sim.bus.services import BEHAVIOURS
from sim.errors import UsageError, did_you_mean
from sim.faults.times import FaultTimes
from sim.record.limits import SCOPED_METRICS, SCOPES, WHOLE
from sim.record.schema import SLO_METRICS
from sim.scenario.explore_bounds import Explore
from sim.scenario.file import BUS_TABLES
from sim.scenario.problems import MAX_NAME
from sim.scenario.run_settings import REPLAY
from sim.scenario.schedule import SHAPES
from sim.scenario.settings import Scenario
from sim.wire.transports import TRANSPORTS

DRAFT = "https://json-schema.org/draft/2020-12/schema"
Kind = Literal["scenario", "bus"]
KINDS: tuple[Kind, ...] = get_args(Kind)
HEADER = "#:schema ./{name}"  # the first line of a TOML file, by which editors find the schema beside it
BUS_FILE = "The file beside this one that has the bus: its channels, services and settings, below those of this file; or `aiponge`."
_WORDS: dict[tuple[str, str], tuple[str, ...]] = {  # settings that are plain text to msgspec, and one of some words to the loader
    ("Bus", "transport"): tuple(TRANSPORTS),
    ("Load", "shape"): (*SHAPES, REPLAY),
    ("Service", "behaviour"): (*BEHAVIOURS, ""),
    ("Bus", "once"): tuple(RECIPES),
}
_MAY_BE_OWN = {("Service", "behaviour"), ("Bus", "once")}  # words in whose place code of one's own may be named
OWN_CODE = {"type": "string", "pattern": r"^[\w.]+:\w+$"}  # module:Name
_NO_NAME = {"channels": r"[,\x00-\x1f\x7f\u2028\u2029]", "services": r"[\s,/\\\x00-\x1f\x7f]"}  # what a name cannot have in it


def attributes(struct: type[Any]) -> dict[str, str]:
    """Return what the section Attributes of a struct's docstring, and of those that it inherits from, has of each name."""
    found: dict[str, str] = {}
    for one in reversed(struct.__mro__[:-1]):
        text = inspect.cleandoc(one.__dict__.get("__doc__") or "")
        _, _, section = text.partition("Attributes\n----------\n")
        for names, body in re.findall(r"^(\w[\w, ]*)\n((?:    .*\n?)+)", section, re.M):
            found |= dict.fromkeys(names.split(", "), " ".join(body.split()))
    return found


def schema_name(kind: Kind) -> str:
    """Return the name of a schema's file."""
    return f"{kind}.schema.json"


def schema_text(kind: str = "scenario") -> str:
    """Return a schema as the text of its file; raises as `file_schema` does."""
    return json.dumps(file_schema(kind), indent=2, ensure_ascii=False) + "\n"


def file_schema(kind: str = "scenario") -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of scenario files, or of bus files.

    Parameters
    ----------
    kind
        ``scenario`` or ``bus``.

    Raises
    ------
    UsageError
        There is no such kind of file.
    """
    if kind not in KINDS:
        raise UsageError(f"no schema of {kind!r}{did_you_mean(kind, KINDS)}; there are {', '.join(KINDS)}")
    definitions = _definitions()
    whole = definitions.pop(Scenario.__name__)
    keys = whole["properties"]
    head: dict[str, Any] = {"$schema": DRAFT, "title": f"A {kind} of buslab", "type": "object"}
    if kind == "bus":
        head |= {"description": "A bus: what its channels carry, and which services publish and hear them. Several scenarios may name it."}
        head |= {"properties": {key: keys[key] for key in BUS_TABLES}}
    else:
        head |= {"description": "One experiment: a bus, the load on it, what is broken and when, and the limits that it must keep."}
        own = {key: value for key, value in keys.items() if key != "name"}  # the name is that of the file
        head |= {"properties": {"title": own.pop("title"), "bus_file": {"description": BUS_FILE, "type": "string", "minLength": 1}} | own}
        head["properties"]["explore"] = {"description": definitions["Explore"]["description"], **_ref("Explore")}
        head |= {"anyOf": [{"required": ["services"]}, {"required": ["bus_file"]}]}
    used = _used(head["properties"], definitions)
    return head | {"additionalProperties": False, "$defs": {name: one for name, one in definitions.items() if name in used}}


def _definitions() -> dict[str, dict[str, Any]]:
    """Return the schema of each struct of a scenario by its name, with what the structs alone do not know."""
    _, found = msgspec.json.schema_components([Scenario, Explore], ref_template="#/$defs/{name}")
    structs = {struct.__name__: struct for one in (Scenario, Explore) for struct in _structs(shapes.type_info(one))}
    made = {name: _definition(structs[name], schema) for name, schema in found.items()}
    keys = made[Scenario.__name__]["properties"]
    for table, barred in _NO_NAME.items():
        keys[table]["propertyNames"] = {"minLength": 1, "maxLength": MAX_NAME, "not": {"pattern": barred}}
    kinds = [one.__struct_config__.tag for one in structs.values() if issubclass(one, FaultTimes)]
    keys["faults"]["items"] = {
        "type": "object",
        "required": ["kind"],
        "properties": {"kind": {"description": "What is broken.", "anyOf": [{"enum": kinds}, OWN_CODE]}},
        "anyOf": [*keys["faults"]["items"]["anyOf"], {"properties": {"kind": OWN_CODE}}],
    }
    keys["slo"] = {"description": keys["slo"]["description"]} | _limits()
    for key in keys.values():  # of a table the struct itself says more than the list of tables
        inner = key if "$ref" in key else key.get("additionalProperties")
        if isinstance(inner, dict) and "$ref" in inner:
            key["description"] = made[inner["$ref"].rpartition("/")[2]]["description"]
    return made | _limit_definitions()


def _structs(shape: Any) -> Iterator[type[Any]]:
    """Yield a struct and all that may stand inside it."""
    if isinstance(shape, shapes.StructType):
        yield shape.cls
        for field in shape.fields:
            yield from _structs(field.type)
    elif isinstance(shape, shapes.UnionType):
        for one in shape.types:
            yield from _structs(one)
    elif isinstance(shape, shapes.DictType):
        yield from _structs(shape.value_type)
    elif isinstance(shape, shapes.VarTupleType):
        yield from _structs(shape.item_type)


def _definition(struct: type[Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of one struct, its keys with their meaning."""
    meaning = attributes(struct)
    keys: dict[str, Any] = {}
    for name, key in schema["properties"].items():
        if name == "kind" and issubclass(struct, FaultTimes):
            module = (sys.modules[struct.__module__].__doc__ or "").split("\n")[0]
            keys[name] = {"description": module, "const": struct.__struct_config__.tag}
            continue
        words = _WORDS.get((struct.__name__, name))
        one = {"enum": list(words)} if words else key
        if (struct.__name__, name) in _MAY_BE_OWN:
            one = {"anyOf": [one, OWN_CODE]}
        keys[name] = {"description": meaning.get(name, "")} | _without_null(one)
    made = {"description": (inspect.getdoc(struct) or "").split("\n")[0], "type": "object", "properties": keys}
    made |= {"required": schema["required"]} if schema.get("required") else {}
    return made | {"additionalProperties": False}


def _without_null(key: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a key without the null that TOML has not, and without the default of a whole table."""
    key = key.copy()
    if key.get("default", "") is None or "$ref" in key:
        key.pop("default", None)
    several = [one for one in key.get("anyOf", ()) if one != {"type": "null"}]
    if len(several) == 1:
        del key["anyOf"]
        key |= several[0]
    elif several:
        key["anyOf"] = several
    return key


def _limits() -> dict[str, Any]:
    """Return the schema of `[slo]`: each metric with its bound, of the run or in nested tables (`sim.record.limits`)."""
    keys: dict[str, Any] = {}
    for name, text in SLO_METRICS.items():
        bound = "least" if name.endswith("_min") else "most"
        keys[name] = {"description": f"The {bound} that may be: {text}", **_ref("ScopedLimit" if name in SCOPED_METRICS else "WholeLimit")}
    scoped = rf"^({'|'.join(SCOPED_METRICS)})\.({'|'.join(SCOPES)})"  # a whole name in quotes
    quoted = {rf"{scoped}$": _ref("NamedLimits"), rf"{scoped}\..": _ref("NamedLimit")}
    return {"type": "object", "properties": keys, "patternProperties": quoted, "additionalProperties": False, "default": {}}


def _limit_definitions() -> dict[str, dict[str, Any]]:
    """Return the schemas of a limit: a number, or tables by scope and name; a name with dots may stand there as tables in tables."""
    table = {"type": "object", "minProperties": 1}
    whole = {WHOLE: {"description": "Of the whole run.", **_ref("Limit")}}
    scopes = {scope: {"description": f"Of one {scope} each.", **_ref("NamedLimits")} for scope in SCOPES}
    one = table | {"additionalProperties": False, "properties": whole}
    several = one | {"properties": whole | scopes, "patternProperties": {rf"^({'|'.join(SCOPES)})\..": _ref("NamedLimit")}}
    most = sys.float_info.max  # TOML has infinity
    return {
        "Limit": {"description": "A bound.", "type": "number", "minimum": -most, "maximum": most},
        "WholeLimit": {"description": "A bound of the run.", "anyOf": [_ref("Limit"), one]},
        "ScopedLimit": {"description": "A bound of the run, of services or of channels.", "anyOf": [_ref("Limit"), several]},
        "NamedLimit": {"description": "A bound of what is named.", "anyOf": [_ref("Limit"), _ref("NamedLimits")]},
        "NamedLimits": {"description": "Bounds by name.", **table, "additionalProperties": _ref("NamedLimit")},
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}


def _used(schema: Any, definitions: dict[str, dict[str, Any]]) -> set[str]:
    """Return the names of the definitions that a schema needs."""
    found: set[str] = set()
    waiting = [schema]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            name = str(one.get("$ref", "")).rpartition("/")[2]
            if name and name not in found:
                found.add(name)
                waiting.append(definitions[name])
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return found
