"""A message's schema as a payload of a bus file: a template whose fields are drawn, in the language of `sim.scenario.payloads`.

Rules
-----
1. What a schema says of a value counts in this order: ``const``, ``enum``, a known ``format``, ``examples`` or ``example``, then its type
   with its bounds, then ``default``. Every property is made, required or not.
2. ``allOf`` is all of its parts. Of ``oneOf`` and ``anyOf`` the first that is not null is made; where each is a plain value, one is drawn.
3. A schema that leads back to itself ends there, where an optional property or a list can: else it is an error that names the circle.
4. Text that is an id by its name (``id``, ``orderId``, ``order_id``) has the number of the call in it, so each call has another one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sim.errors import DocumentError
from sim.scenario.asyncapi.documents import Documents, Located
from sim.scenario.problems import shown

MAX_FIELDS = 10_000  # of one message
MAX_ITEMS = 1000  # of one list
WORD_LETTERS = 5  # of a word that `word()` draws
SPAN = 1000  # of a number that has no bounds
ID = re.compile(r"^(id|key|uuid|guid)$|[_-](id|key|uuid|guid)$|[a-z0-9](Id|ID|Key|Uuid|UUID|Guid)$", re.ASCII)
FORMATS = {
    "uuid": "{uuid()}",
    "date-time": "{time()}",
    "date": "2026-01-{integer(10, 28)}",
    "time": "{integer(10, 23)}:{integer(10, 59)}:{integer(10, 59)}Z",
    "email": "{word()}.{integer(1, 9999)}@example.com",
    "idn-email": "{word()}.{integer(1, 9999)}@example.com",
    "hostname": "{word()}.example.com",
    "ipv4": "10.{integer(0, 255)}.{integer(0, 255)}.{integer(1, 254)}",
    "ipv6": "fd00::{integer(1, 9999)}",
    "uri": "https://example.com/{word()}/{number}",
    "url": "https://example.com/{word()}/{number}",
    "uri-reference": "/{word()}/{number}",
}
_PLAIN = (str, int, float, bool, type(None))


class _Circle(Exception):
    """A schema that leads back to itself, and how."""


@dataclass
class _Schema:
    """One schema with all of its parts as one."""

    trail: tuple[Located, ...]
    where: Located
    facets: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, list[Located]] = field(default_factory=dict)
    required: set[str] = field(default_factory=set)
    items: list[Located] = field(default_factory=list)
    first_items: list[Located] = field(default_factory=list)
    choices: list[list[Located]] = field(default_factory=list)


@dataclass
class Template:
    """What a message's schema became.

    Attributes
    ----------
    value
        The payload; None where the schema says nothing of it.
    optional
        Pointers to the fields that a message may lack: ``/note``.
    notes
        Sentences about what could not be taken from the schema.
    envelope
        The kind of envelope whose schema it is, and whose data became the payload; empty where it is that of the data itself.
    """

    value: dict[str, Any] | None = None
    optional: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    envelope: str = ""


ENVELOPES = {  # fields that only an event of this envelope has; what it carries stands under data
    "aiponge": {"eventId", "type", "data"},
    "cloudevents": {"specversion", "id", "source", "type"},
}


def literal(value: Any) -> Any:
    """Return a template that is exactly this value."""
    if isinstance(value, str):
        return value.replace("{", "{{").replace("}", "}}")
    if value is None:
        return "{None}"
    if isinstance(value, dict):
        return {key: literal(one) for key, one in value.items()}
    return [literal(one) for one in value] if isinstance(value, list) else value


def make_template(documents: Documents, schema: Located, *, whole: bool = False) -> Template:
    """Return the payload that a schema describes; of an event in an envelope that is known by its fields, that of its data.

    Parameters
    ----------
    whole
        Whether an envelope is taken for a part of the payload.

    Raises
    ------
    DocumentError
        It leads back to itself without an end, has no value, or has more than `MAX_FIELDS` fields.
    """
    maker = _TemplateMaker(documents)
    try:
        said = maker.merged([schema], ())
        envelope = "" if whole else next((name for name, its in ENVELOPES.items() if its <= set(said.properties)), "")
        if envelope:
            if "data" not in said.properties:
                return Template(envelope=envelope)
            said = maker.merged(said.properties["data"], said.trail)
        made = maker.of(said, "value", "") if _says_something(said) else None
    except _Circle as circle:
        raise DocumentError(f"{schema.where}: a cyclic $ref that no optional property and no list ends: {circle}") from None
    if made is not None and not isinstance(made, dict):
        maker.notes.append("it is no object: it stands under `value`, as an event's data is one")
        made, maker.optional = {"value": made}, set()
    return Template(made, maker.optional, maker.notes, envelope)


def _says_something(schema: _Schema) -> bool:
    ours = set(schema.facets) & {"type", "const", "enum", "examples", "example", "default", "format"}
    return bool(schema.properties or schema.choices or schema.items or schema.required or ours) and schema.facets.get("type") != "null"


class _TemplateMaker:
    """Makes the template of one message, and keeps what is to be said of it."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._made = 0
        self.optional: set[str] = set()
        self.notes: list[str] = []

    def merged(self, places: list[Located], trail: tuple[Located, ...]) -> _Schema:
        """Return schemas, which must all hold, as one."""
        whole = _Schema(trail, places[0])
        for place in places:
            self._merge(whole, place)
        return whole

    def _merge(self, whole: _Schema, place: Located) -> None:
        self._made += 1
        if self._made > MAX_FIELDS:
            raise place.wrong(f"the message has more than {MAX_FIELDS:,} fields: give its x-buslab a payload, such as 900 bytes")
        steps = self._documents.trail(place)
        for step in steps[1:]:
            self._enter(whole, step)
        schema = steps[-1]
        if schema.value is True or schema.value is None:
            return
        if not isinstance(schema.value, dict):
            raise schema.wrong(f"{shown(schema.value)} is no schema")
        for part in self._list(schema, "allOf"):
            self._merge(whole, part)
        whole.choices += [choices for name in ("oneOf", "anyOf") if (choices := self._list(schema, name))]
        for key, value in schema.value.items():
            self._facet(whole, schema, key, value)
        for step in steps[:-1]:
            whole.facets |= {key: step.value[key] for key in ("default", "examples", "example") if key in step.value}

    def _enter(self, whole: _Schema, step: Located) -> None:
        """Go through a reference; one that was gone through on the way leads in a circle."""
        for place, one in enumerate(whole.trail):
            if one.key == step.key:
                raise _Circle(" -> ".join(some.where for some in (*whole.trail[place:], step)))
        whole.trail = (*whole.trail, step)

    def _facet(self, whole: _Schema, schema: Located, key: str, value: Any) -> None:
        if key == "properties":
            for name in self._object(schema.child(key)):
                whole.properties.setdefault(name, []).append(schema.child(key).child(name))
        elif key == "required" and isinstance(value, list):
            whole.required |= {name for name in value if isinstance(name, str)}
        elif key == "prefixItems" or (key == "items" and isinstance(value, list)):
            whole.first_items = list(self._list(schema, key))
        elif key == "items":
            whole.items.append(schema.child(key))
        elif key not in ("allOf", "oneOf", "anyOf"):
            whole.facets[key] = value

    def _list(self, schema: Located, key: str) -> list[Located]:
        if key not in schema.value:
            return []
        place = schema.child(key)
        if not isinstance(place.value, list):
            raise place.wrong(f"{shown(place.value)} stands where a list belongs")
        return list(place.items())

    def _object(self, place: Located) -> dict[str, Any]:
        if not isinstance(place.value, dict):
            raise place.wrong(f"{shown(place.value)} stands where an object belongs")
        return place.value

    def of(self, schema: _Schema, name: str, path: str) -> Any:
        """Return the template of one value."""
        facets = schema.facets
        if "const" in facets:
            return literal(facets["const"])
        if isinstance(facets.get("enum"), list) and facets["enum"]:
            return self._one_of(facets["enum"])
        if schema.choices:
            return self._chosen(schema, name, path)
        kind = _kind(schema)
        examples = _examples(facets)
        if kind == "object":
            whole = literal(examples[0]) if examples and not schema.properties and isinstance(examples[0], dict) else {}
            return whole | self._object_of(schema, path)
        if kind == "array":
            return literal(examples[0]) if examples and not schema.items and not schema.first_items else self._array_of(schema, name, path)
        if kind == "string":
            return self._text(schema, name, path, examples)
        if kind in ("integer", "number"):
            return self._number(schema, name, whole=kind == "integer", examples=examples)
        if kind == "boolean":
            return self._one_of(examples) if examples else "{choice(True, False)}"
        if kind == "null":
            return "{None}"
        return self._one_of(examples) if examples else literal(facets["default"]) if "default" in facets else "{word()}"

    def _chosen(self, schema: _Schema, name: str, path: str) -> Any:
        """Return the value that the first fitting part of each ``oneOf`` and ``anyOf`` makes, with what stands beside them."""
        places: list[Located] = []
        for choices in schema.choices:
            kept = [one for one in choices if not self._is_null(one)] or choices
            consts = [self._const(one) for one in kept]
            if len(kept) > 1 and all(len(one) == 1 for one in consts):
                return self._one_of([one[0] for one in consts])
            places.append(self._first_with_an_end(kept, schema, name, path))
            if len(kept) > 1:
                self.notes.append(f"{path or 'it'} is one of {len(kept)} schemas: the first is made")
        whole = self.merged(places, schema.trail)
        below = _Schema(whole.trail, schema.where, schema.facets | whole.facets, required=schema.required | whole.required)
        below.properties = {
            key: schema.properties.get(key, []) + whole.properties.get(key, []) for key in schema.properties | whole.properties
        }
        below.items, below.first_items = schema.items + whole.items, whole.first_items or schema.first_items
        below.choices = whole.choices
        return self.of(below, name, path)

    def _first_with_an_end(self, choices: list[Located], schema: _Schema, name: str, path: str) -> Located:
        """Return the first of several schemas that does not lead back to itself."""
        if len(choices) == 1:
            return choices[0]
        for one in choices:
            notes, optional = list(self.notes), set(self.optional)
            try:
                self.of(self.merged([one], schema.trail), name, path)
                return one
            except _Circle:
                if one is choices[-1]:
                    raise
            finally:
                self.notes, self.optional = notes, optional
        raise AssertionError(choices)

    def _is_null(self, place: Located) -> bool:
        value = self._documents.follow(place).value
        return isinstance(value, dict) and value.get("type") == "null"

    def _const(self, place: Located) -> list[Any]:
        """Return the one plain value that a schema allows, or nothing."""
        value = self._documents.follow(place).value
        if not isinstance(value, dict):
            return []
        only = [value["const"]] if "const" in value else value.get("enum")
        return only if isinstance(only, list) and len(only) == 1 and isinstance(only[0], _PLAIN) else []

    def _one_of(self, values: list[Any]) -> Any:
        plain = [one for one in values if isinstance(one, _PLAIN)]
        if len(plain) < len(values) or len(values) == 1:
            return literal(values[0])
        return f"{{choice({', '.join(map(_code, plain))})}}"

    def _object_of(self, schema: _Schema, path: str) -> dict[str, Any]:
        made = {}
        for name, places in schema.properties.items():
            below = f"{path}/{name}"
            try:
                made[name] = self.of(self.merged(places, schema.trail), name, below)
            except _Circle:
                if name in schema.required:
                    raise
                self.notes.append(f"{below} leads back to where it stands, and is left out")
                continue
            if name not in schema.required:
                self.optional.add(below)
        return made | {name: "{word()}" for name in sorted(schema.required - set(schema.properties))}

    def _array_of(self, schema: _Schema, name: str, path: str) -> list[Any]:
        least, most = (_bound(schema, key, whole) for key, whole in (("minItems", 0), ("maxItems", MAX_ITEMS)))
        if not 0 <= least <= MAX_ITEMS or most < least:
            raise schema.where.wrong(f"a list of {least:g} to {most:g} items: {MAX_ITEMS} are the most")
        singular = name.removesuffix("s")
        made = [self.of(self.merged([one], schema.trail), singular, f"{path}/{place}") for place, one in enumerate(schema.first_items)]
        many = int(min(most, max(least, 1))) - len(made)
        if many <= 0 or (not schema.items and schema.first_items and least <= len(made)):
            return made
        try:
            item = self.of(self.merged(schema.items, schema.trail), singular, f"{path}/0") if schema.items else "{word()}"
        except _Circle:
            if least:
                raise
            self.notes.append(f"{path} leads back to where it stands, and is empty")
            return made
        return made + [item] * many

    def _text(self, schema: _Schema, name: str, path: str, examples: list[Any]) -> Any:
        facets = schema.facets
        if (known := FORMATS.get(str(facets.get("format")))) is not None:
            return known
        if examples:
            return self._one_of(examples)
        if "pattern" in facets:
            self.notes.append(f"{path} has a pattern, which is not followed: give it examples")
        least, most = _bound(schema, "minLength", 0), _bound(schema, "maxLength", math.inf)
        if most < least:
            raise schema.where.wrong(f"no text has {least:g} to {most:g} characters")
        if ID.search(name) and most >= 8:
            stem = re.sub(r"[_-]?(id|key|uuid|guid)$", "", name, flags=re.I) or name
            prefix = f"{literal(stem)}_" if most >= len(stem) + 9 else ""
            missing = int(least) - len(prefix) - 1
            filler = f"{{letters({missing})}}" if missing > 0 else ""
            return f"{prefix}{filler}{{number}}" if prefix or filler else "{text(number)}"
        if most < WORD_LETTERS:
            return f"{{letters({int(most)})}}"
        return "{word()}" if least <= WORD_LETTERS else f"{{word()}}{{letters({int(least) - WORD_LETTERS})}}"

    def _number(self, schema: _Schema, name: str, *, whole: bool, examples: list[Any]) -> Any:
        low, high = _bounds(schema.facets, whole=whole)
        if low is None and high is None and examples:
            return self._one_of(examples)
        if whole and high is None and ID.search(name) and "multipleOf" not in schema.facets:
            return f"{{number + {int(low)}}}" if low else "{number}"
        if low is None:
            low = min(0.0, high - SPAN) if high is not None else 0.0
        if high is None:
            high = low + SPAN
        step = schema.facets.get("multipleOf", 0)
        step = step if isinstance(step, int | float) and step > 0 else 0
        first, last = (math.ceil(low / step), math.floor(high / step)) if step else (low, high)
        if first > last:
            raise schema.where.wrong(f"no number is from {low:g} to {high:g}")
        if step:
            return f"{{integer({first}, {last}) * {_code(step)}}}"
        if whole:
            return f"{{integer({int(low)}, {int(min(high, low + 10**15))})}}"
        digits = 2 if high - low >= 1 else min(15, 3 - math.floor(math.log10(high - low or 1)))
        return f"{{real({_code(low)}, {_code(high)}, {digits})}}" if digits != 2 else f"{{real({_code(low)}, {_code(high)})}}"


def _kind(schema: _Schema) -> str:
    """Return the type of a value: the first that is not null, or the one that what else is said fits."""
    said = schema.facets.get("type")
    kinds = [said] if isinstance(said, str) else [one for one in said if isinstance(one, str)] if isinstance(said, list) else []
    if kinds:
        return next((kind for kind in kinds if kind != "null"), "null")
    if schema.properties or schema.required:
        return "object"
    if schema.items or schema.first_items:
        return "array"
    bounds: dict[str, Callable[[str], bool]] = {
        "number": lambda key: key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        "string": lambda key: key in ("minLength", "maxLength", "pattern", "format"),
    }
    return next((kind for kind, fits in bounds.items() if any(map(fits, schema.facets))), "")


def _examples(facets: dict[str, Any]) -> list[Any]:
    several = facets.get("examples")
    if isinstance(several, list) and several:
        return several
    return [facets["example"]] if "example" in facets else []


def _bound(schema: _Schema, key: str, otherwise: float) -> float:
    value = schema.facets.get(key, otherwise)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise schema.where.wrong(f"{key}: {shown(value)} is no number")
    return value


def _bounds(facets: dict[str, Any], *, whole: bool) -> tuple[float | None, float | None]:
    """Return the least and the most that a number may be; one that excludes its bound, by a number or an old flag, is beyond it."""
    low, high = (facets.get(key) if _is_number(facets.get(key)) else None for key in ("minimum", "maximum"))
    beyond_low, beyond_high = facets.get("exclusiveMinimum"), facets.get("exclusiveMaximum")
    open_low, open_high = beyond_low is True, beyond_high is True
    if _is_number(beyond_low) and (low is None or beyond_low >= low):
        low, open_low = beyond_low, True
    if _is_number(beyond_high) and (high is None or beyond_high <= high):
        high, open_high = beyond_high, True
    if whole:
        low = None if low is None else math.floor(low) + 1 if open_low else math.ceil(low)
        high = None if high is None else math.ceil(high) - 1 if open_high else math.floor(high)
        return low, high
    width = high - low if low is not None and high is not None else SPAN
    return (
        low + width / 100 if low is not None and open_low else low,
        high - width / 100 if high is not None and open_high else high,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _code(value: Any) -> str:
    """Return a plain value as an expression of a template: text without a quote or a backslash that its end could be mistaken for."""
    if not isinstance(value, str):
        return repr(value)
    return "'" + "".join(one if one.isprintable() and one not in "'\"\\" else _escaped(one) for one in value) + "'"


def _escaped(one: str) -> str:
    code = ord(one)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
