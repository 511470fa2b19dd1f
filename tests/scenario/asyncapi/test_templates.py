"""A schema becomes a payload whose every call keeps it, or is refused by name."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import DocumentError
from sim.scenario.asyncapi.documents import Document, Documents, Located
from sim.scenario.asyncapi.export import schema_of
from sim.scenario.asyncapi.templates import Template, literal, make_template
from sim.scenario.payloads import make_content

CALLS = 60
AWKWARD = ["it's", 'a "b"', "c\\", "{d}", 3, None, True, "é\n"]


def template_of(schema: Any, **schemas: Any) -> Template:
    home = Document("a.yaml", Path("a.yaml"), {"schema": schema, "components": {"schemas": schemas}})
    return make_template(Documents(), Located(home.tree, home).child("schema"))


def calls_of(schema: Any, **schemas: Any) -> list[dict[str, Any]]:
    template = template_of(schema, **schemas).value
    assert template is not None
    content = make_content(template, seed=7, payload_bytes=64, templates=600)
    return [content(number) for number in range(CALLS)]


def values_of(schema: Any, name: str = "x") -> list[Any]:
    return [one[name] for one in calls_of({"type": "object", "properties": {name: schema}})]


def ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def refusal(schema: Any, **schemas: Any) -> str:
    with pytest.raises(DocumentError) as refused:
        template_of(schema, **schemas)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("schema", "keeps"),
    [
        ({"const": "{a} 'b' \\"}, lambda x: x == "{a} 'b' \\"),
        ({"const": {"a": [1, None, "}"]}}, lambda x: x == {"a": [1, None, "}"]}),
        ({"enum": AWKWARD}, lambda x: x in AWKWARD),
        ({"enum": [{"a": 1}, {"a": 2}]}, lambda x: x == {"a": 1}),
        ({"type": "string", "format": "uuid"}, lambda x: uuid.UUID(x).version == 4),
        ({"type": "string", "format": "date-time"}, lambda x: x.endswith("Z") and "T" in x),
        ({"type": "string", "format": "date"}, lambda x: re.fullmatch(r"2026-01-\d\d", x)),
        ({"type": "string", "format": "email", "example": "no"}, lambda x: x.endswith("@example.com")),
        ({"type": "string", "format": "ipv4"}, lambda x: all(0 <= int(part) <= 255 for part in x.split("."))),
        ({"type": "string", "examples": ["a", "b"]}, lambda x: x in "ab"),
        ({"type": "string", "example": "only"}, lambda x: x == "only"),
        ({"type": "string", "minLength": 9}, lambda x: len(x) >= 9),
        ({"type": "string", "maxLength": 3}, lambda x: len(x) <= 3),
        ({"type": ["null", "string"]}, lambda x: isinstance(x, str)),
        ({"type": "integer", "minimum": 3, "maximum": 5}, lambda x: x in (3, 4, 5)),
        ({"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5}, lambda x: x == 4),
        ({"type": "integer", "minimum": 3, "exclusiveMinimum": True, "maximum": 4}, lambda x: x == 4),
        ({"type": "integer", "maximum": -5}, lambda x: isinstance(x, int) and x <= -5),
        ({"type": "integer", "minimum": 10, "multipleOf": 7}, lambda x: x >= 10 and x % 7 == 0),
        ({"type": "integer", "examples": [1, 2]}, lambda x: x in (1, 2)),
        ({"type": "number", "minimum": 5, "maximum": 400}, lambda x: 5 <= x <= 400),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, lambda x: 0 < x < 1),
        ({"type": "number", "minimum": 0.001, "maximum": 0.002}, lambda x: 0.001 <= x <= 0.002),
        ({"minimum": 1, "maximum": 2}, lambda x: 1 <= x <= 2),
        ({"type": "boolean"}, lambda x: x in (True, False)),
        ({"type": "null"}, lambda x: x is None),
        ({"default": 7}, lambda x: x == 7),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 3}, lambda x: len(x) == 3 and isinstance(x[0], int)),
        ({"type": "array", "maxItems": 0}, lambda x: x == []),
        ({"type": "array", "items": [{"type": "integer"}, {"type": "string"}]}, lambda x: [type(one) for one in x] == [int, str]),
        ({"type": "array", "prefixItems": [{"const": 1}], "items": {"const": 2}, "minItems": 3}, lambda x: x == [1, 2, 2]),
        ({"type": "array", "examples": [[1, 2]]}, lambda x: x == [1, 2]),
        ({"required": ["a"]}, lambda x: isinstance(x["a"], str)),
        ({"type": "object", "example": {"a": "{"}}, lambda x: x == {"a": "{"}),
        ({"anyOf": [{"type": "null"}, {"type": "integer", "maximum": 1, "minimum": 1}]}, lambda x: x == 1),
        ({"oneOf": [{"const": "a"}, {"const": "b"}]}, lambda x: x in "ab"),
        ({"oneOf": [{"properties": {"a": {"const": 1}}}, {}], "properties": {"b": {"const": 2}}}, lambda x: x == {"b": 2, "a": 1}),
        ({"allOf": [{"type": "integer", "minimum": 4}, {"maximum": 4}]}, lambda x: x == 4),
        (True, lambda x: isinstance(x, str)),
    ],
    ids=lambda value: json.dumps(value)[:60] if not callable(value) else "",
)
def test_every_call_keeps_the_schema(schema: Any, keeps: Any) -> None:
    assert [one for one in values_of(schema) if not keeps(one)] == []


def test_every_value_of_an_enum_is_drawn_and_an_id_is_another_one_each_time() -> None:
    assert set(values_of({"enum": ["paid", "failed"]})) == {"paid", "failed"}
    for name in ("id", "orderId", "order_id", "order-key"):
        drawn = values_of({"type": "string"}, name)
        assert len(set(drawn)) == CALLS and {type(one) for one in drawn} == {str}
    assert len(set(values_of({"type": "integer", "minimum": 1}, "orderId"))) == CALLS
    assert set(map(len, values_of({"type": "string", "minLength": 30}, "orderId"))) <= {30, 31}
    assert max(map(len, values_of({"type": "string", "maxLength": 8}, "veryLongOrderId"))) <= 8
    assert "paid" not in template_of({"type": "object", "properties": {"paid": {"type": "string"}}}).value["paid"]  # type: ignore[index]


def test_parts_references_and_what_stands_beside_them_are_one_schema() -> None:
    schema = {
        "allOf": [ref("Head"), {"properties": {"total": {"maximum": 9}, "b": {"const": 2}}}],
        "properties": {"total": {"type": "integer", "minimum": 9}, "at": {"$ref": "#/components/schemas/At", "description": "when"}},
        "required": ["total"],
    }
    made = template_of(schema, Head={"type": "object", "required": ["a"], "properties": {"a": {"const": 1}}}, At={"const": "now"})
    assert made.value == {"a": 1, "total": "{integer(9, 9)}", "b": 2, "at": "now"}
    assert made.optional == {"/b", "/at"}


def test_a_schema_that_leads_back_to_itself_ends_where_it_can() -> None:
    tree = {
        "type": "object",
        "required": ["kids"],
        "properties": {"kids": {"type": "array", "items": ref("Tree")}},
    }
    made = template_of(ref("Tree"), Tree=tree)
    assert made.value == {"kids": []} and "leads back" in made.notes[0]
    node = {"type": "object", "properties": {"v": {"const": 1}, "next": ref("Node")}}
    assert template_of(ref("Node"), Node=node).value == {"v": 1}
    endless_one = {"type": "object", "required": ["x"], "properties": {"x": ref("E")}}
    either = {"oneOf": [endless_one, {"properties": {"y": {"const": 1}}}]}
    assert template_of(ref("E"), E=either).value == {"y": 1}
    endless = {"type": "object", "required": ["next"], "properties": {"next": ref("N")}}
    circle = "a.yaml#/components/schemas/N -> a.yaml#/components/schemas/N"
    assert f"a cyclic $ref that no optional property and no list ends: {circle}" in refusal(ref("N"), N=endless)
    alone = refusal({"properties": {"a": ref("A")}}, A=ref("B"), B=ref("A"))
    assert "a cyclic $ref: " in alone
    least = {"type": "array", "minItems": 1, "items": ref("L")}
    assert "a cyclic $ref" in refusal(ref("L"), L=least)


def test_schemas_that_multiply_are_refused_before_they_do() -> None:
    schemas = {f"S{n}": {"type": "object", "properties": {k: {"$ref": f"#/components/schemas/S{n + 1}"} for k in "abc"}} for n in range(30)}
    schemas["S30"] = {"type": "string"}
    assert "more than 10,000 fields" in refusal(ref("S0"), **schemas)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "integer", "minimum": 4, "maximum": 3}, "no number is from 4 to 3"),
        ({"type": "string", "minLength": 4, "maxLength": 3}, "no text has 4 to 3 characters"),
        ({"type": "string", "minLength": "4"}, "minLength: '4' is no number"),
        ({"type": "array", "minItems": 100_000}, "1000 are the most"),
        ({"type": "object", "properties": [1]}, "[1] stands where an object belongs"),
        ({"allOf": {}}, "{} stands where a list belongs"),
        (False, "False is no schema"),
        (3, "3 is no schema"),
    ],
    ids=lambda value: json.dumps(value),
)
def test_a_schema_that_nothing_keeps_is_refused_with_its_place(schema: Any, says: str) -> None:
    message = refusal({"type": "object", "required": ["x"], "properties": {"x": schema}})
    assert says in message and message.startswith("a.yaml#/schema/properties/x")


def test_what_is_no_object_stands_under_value_and_what_says_nothing_is_no_payload() -> None:
    assert template_of({"type": "string", "format": "uuid"}).value == {"value": "{uuid()}"}
    assert template_of({"type": "array", "items": {"const": 1}}).value == {"value": [1]}
    assert [template_of(one).value for one in ({}, {"title": "Payload"}, {"type": "null"}, True)] == [None] * 4


def test_the_schema_of_an_envelope_is_that_of_its_data() -> None:
    data = {"type": "object", "properties": {"orderId": {"const": 1}}}
    ours = {"type": "object", "properties": {"eventId": {}, "type": {}, "data": data}}
    cloud = {"type": "object", "properties": {"specversion": {}, "id": {}, "source": {}, "type": {}, "data": data}}
    for schema, name in ((ours, "aiponge"), (cloud, "cloudevents")):
        made = template_of(schema)
        assert (made.value, made.envelope) == ({"orderId": 1}, name)
    del cloud["properties"]["data"]  # type: ignore[attr-defined]
    assert template_of(cloud).value is None


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(TEXT, JSON, max_size=4))
def test_a_literal_is_exactly_that_and_is_made_by_an_enum_and_a_const(value: dict[str, Any]) -> None:
    assert make_content(literal(value), seed=1, payload_bytes=64, templates=1)(0) == value
    plain = [one for one in value.values() if not isinstance(one, dict | list)]
    if plain:
        schema = {"type": "object", "properties": {"x": {"enum": plain}}}
        assert all(one["x"] in plain for one in calls_of(schema))


@given(st.lists(st.dictionaries(st.sampled_from("abc"), JSON, max_size=3), min_size=1, max_size=3))
def test_a_schema_of_values_makes_values_of_their_kinds(values: list[dict[str, Any]]) -> None:
    schema = schema_of(values)
    made = template_of(schema).value
    assert set(made or {}) == {name for one in values for name in one}
