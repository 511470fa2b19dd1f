"""AsyncAPI documents as tests need them: a small one whose parts can be replaced, and one in the form in which nestjs-asyncapi writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FASTSTREAM = ROOT / "docs" / "examples" / "faststream"

NEST: dict[str, Any] = {
    "asyncapi": "3.0.0",
    "info": {"title": "Feline Shelter", "description": "Felines in and out", "version": "1.0", "contact": {}, "tags": []},
    "servers": {"bus": {"host": "redis:6379", "protocol": "redis", "security": [{"$ref": "#/components/securitySchemes/user-password"}]}},
    "defaultContentType": "application/json",
    "channels": {
        "createFeline": {"address": "create/feline", "messages": {"CreateFelineDto": {"$ref": "#/components/messages/CreateFelineDto"}}},
        "felineGone": {
            "address": "feline/gone",
            "messages": {"FelineGoneDto": {"$ref": "#/components/messages/FelineGoneDto"}},
        },
    },
    "operations": {
        "receiveCreateFeline": {
            "action": "receive",
            "channel": {"$ref": "#/channels/createFeline"},
            "messages": [{"$ref": "#/channels/createFeline/messages/CreateFelineDto"}],
            "tags": [{"name": "felines"}],
        },
        "sendFelineGone": {
            "action": "send",
            "channel": {"$ref": "#/channels/felineGone"},
            "messages": [{"$ref": "#/channels/felineGone/messages/FelineGoneDto"}],
        },
    },
    "components": {
        "securitySchemes": {"user-password": {"type": "userPassword"}},
        "messages": {
            "CreateFelineDto": {
                "name": "CreateFelineDto",
                "headers": {"type": "object", "properties": {"trace": {"type": "string"}}},
                "payload": {"$ref": "#/components/schemas/CreateFelineDto"},
            },
            "FelineGoneDto": {"payload": {"$ref": "#/components/schemas/FelineGoneDto"}},
        },
        "schemas": {
            "BreedDto": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
            "CreateFelineDto": {
                "type": "object",
                "properties": {
                    "id": {"type": "string", "format": "uuid"},
                    "age": {"type": "number", "exclusiveMinimum": 1, "maximum": 30},
                    "breed": {"description": "its breed", "allOf": [{"$ref": "#/components/schemas/BreedDto"}]},
                    "urls": {"type": "array", "items": {"type": "string", "example": "https://felines.example/1"}},
                    "options": {"type": "array", "items": {"type": "object", "properties": {"isReadonly": {"type": "boolean"}}}},
                    "arrived": {"format": "date-time", "type": "string", "example": "2026-01-01T00:00:00Z"},
                    "place": {"type": "string", "enum": ["cat house", "garden"], "nullable": True},
                },
                "required": ["id", "age", "breed", "urls"],
            },
            "FelineGoneDto": {
                "type": "object",
                "properties": {"felineId": {"type": "string", "format": "uuid"}, "weight": {"type": "number", "example": 4.5}},
                "required": ["felineId"],
            },
        },
    },
}


def document(title: str = "orders", *, schema: Any = None, action: str = "send", channel: Any = None, **root: Any) -> dict[str, Any]:
    """Return a document of one service with one channel, `orders.created`; further fields of the root replace those of it."""
    payload = {"type": "object", "required": ["orderId"], "properties": {"orderId": {"type": "string"}}} if schema is None else schema
    plain = {"address": "shop:orders.created", "messages": {"created": {"payload": payload}}}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": title, "version": "1.0.0"},
        "channels": {"created": plain | (channel or {})},
        "operations": {"op": {"action": action, "channel": {"$ref": "#/channels/created"}}},
        **root,
    }


def written(folder: Path, name: str, tree: Any) -> Path:
    """Write a document, as YAML or JSON by the name's end, or as it is when it is text; return its path."""
    path = folder / name
    if not isinstance(tree, str):
        tree = json.dumps(tree) if name.endswith(".json") else yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    path.write_text(tree, "utf-8")
    return path
