"""JSON Schema of scenario and bus files: it takes what the loader takes, and refuses what the loader refuses for its form."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from jsonschema import Draft202012Validator

from sim.bus.once import RECIPES
from sim.bus.services import BEHAVIOURS
from sim.errors import ScenarioError, UsageError
from sim.faults.catalogue import FAULTS
from sim.record.limits import SCOPED_METRICS, flat_limits, read_metric
from sim.record.schema import SLO_METRICS
from sim.scenario.file import BUS_TABLES, built_in, built_in_buses, check_tree, load_scenario
from sim.scenario.json_schema import KINDS, attributes, file_schema
from sim.scenario.run_settings import REPLAY
from sim.scenario.schedule import SHAPES
from sim.scenario.settings import Channel, Scenario
from sim.wire.transports import TRANSPORTS

ROOT = Path(__file__).parents[2]
SCENARIO, BUS = (Draft202012Validator(file_schema(kind)) for kind in KINDS)
EXAMPLES = sorted((ROOT / "docs" / "examples").rglob("*.toml"))
WORDS = {"transport": TRANSPORTS, "shape": (*SHAPES, REPLAY), "behaviour": ("", *BEHAVIOURS), "once": set(RECIPES)}
OTHERS: tuple[Any, ...] = ("x", "", 3, -1, 0.5, 10**9, float("inf"), True, [], [3], {}, {"x": 3}, ["x"])
SMALL = {"services": {"web": {"publishes": ["c"], "subscribes": ["c"]}}, "channels": {"c": {}}, "load": {"mix": {"c": 1}}}


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_is_one_by_the_standard_and_every_key_has_its_meaning(kind: str) -> None:
    schema = file_schema(kind)
    Draft202012Validator.check_schema(schema)
    tables = [schema, *schema["$defs"].values()]
    bare = [name for table in tables for name, key in table.get("properties", {}).items() if not key.get("description")]
    assert bare == []
    assert all(table["additionalProperties"] is False for table in tables if "properties" in table)
    used = str(schema)
    assert [name for name in schema["$defs"] if f"'#/$defs/{name}'" not in used] == []


def test_there_is_no_schema_of_anything_else() -> None:
    with pytest.raises(UsageError, match=r"no schema of 'scenari' \(did you mean 'scenario'\?\); there are scenario, bus"):
        file_schema("scenari")


@pytest.mark.parametrize("path", [*built_in().values(), *EXAMPLES, *built_in_buses().values()], ids=lambda path: path.name)
def test_every_file_of_the_project_fits(path: Path) -> None:
    validator = BUS if path.name.endswith(".bus.toml") else SCENARIO
    assert [error.message for error in validator.iter_errors(tomllib.loads(path.read_text("utf-8")))] == []


def test_a_bus_file_holds_nothing_but_a_bus() -> None:
    assert set(file_schema("bus")["properties"]) == set(BUS_TABLES)
    assert not BUS.is_valid({"load": {}}) and BUS.is_valid({})
    assert not SCENARIO.is_valid({}) and SCENARIO.is_valid({"bus_file": "x.bus.toml"}), "the services are there or in the bus file"


def test_what_a_key_means_is_what_its_struct_has_of_it() -> None:
    keys = file_schema("bus")["$defs"]["Channel"]["properties"]
    assert {name: key["description"] for name, key in keys.items()} == attributes(Channel)


def refused_for_its_form(tree: dict[str, Any]) -> bool:
    """Whether the structs refuse a tree, or a word in it is none of those that there are."""
    slo = tree.get("slo", {})
    try:
        scenario = msgspec.convert(tree | {"slo": flat_limits(slo) if isinstance(slo, dict) else slo}, Scenario)
    except (msgspec.ValidationError, ValueError):
        return True
    words = [("transport", scenario.bus.transport), ("shape", scenario.load.shape), ("once", scenario.bus.once)]
    words += [("behaviour", service.behaviour) for service in scenario.services.values()]
    known = all(read_metric(metric).known and math.isfinite(limit) for metric, limit in scenario.slo.items())
    return not known or any(word not in WORDS[name] for name, word in words)


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values in a tree, and of the tables and lists around them."""
    if path:
        yield path
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from leaves(value, (*path, key))


def changed(tree: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    tree = deepcopy(tree)
    inner: Any = tree
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return tree


def plain(struct: Any) -> Any:
    """A struct as TOML would have it: with lists, and no tuples."""
    return msgspec.json.decode(msgspec.json.encode(struct))


def trees() -> dict[str, dict[str, Any]]:
    """One tree with every key of every table but faults, and a small one with each fault."""
    whole = plain(load_scenario("baseline"))
    del whole["name"], whole["faults"]
    whole["services"] = {"web": whole["services"]["music-service"] | {"behaviour": "hears"}}
    full = {"payload": 3, "batched": True, "batch_size": 3, "batch_interval_ms": 3, "rate_per_s": 3.0}
    whole["channels"] = {"c": full, "d": {"payload": {"a": {"b": ["{number}"]}}}, "e": {"payload": "exponential(3)"}}
    whole["slo"] = {"lag_ms_max": 3, "missing": {"all": 3, "service": {"web": 3}, "channel": {"c": {"d": 4}}}, 'unserved.service."web"': 1}
    found = {"settings": whole}
    for kind, fault in FAULTS.items():
        made: Any = fault(**{field.name: 1 for field in msgspec.structs.fields(cast("type[Any]", fault)) if field.required})
        found[kind] = SMALL | {"faults": [plain(made)]}
    return found


@pytest.mark.parametrize("name", trees())
def test_what_the_loader_refuses_for_its_form_the_schema_refuses_and_nothing_else(name: str) -> None:
    tree = trees()[name]
    assert SCENARIO.is_valid(tree) and not refused_for_its_form(tree)
    tried = refused = 0
    for path in leaves(tree):
        if name != "settings" and path[0] != "faults":
            continue
        for value in OTHERS:
            other = changed(tree, path, value)
            expected = refused_for_its_form(other)
            assert SCENARIO.is_valid(other) is not expected, (path, value)
            tried, refused = tried + 1, refused + expected
        if isinstance(value := at(tree, path), dict) and path[:1] != ("slo",) and not {"payload", "env"} & {*path}:
            assert not SCENARIO.is_valid(changed(tree, (*path, "nonsense"), "x")), path
    assert tried > 10 < refused


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


@pytest.mark.parametrize(
    ("table", "fits"),
    [
        ({"missing": 3}, True),
        ({"missing": {"all": 3}}, True),
        ({"unexplained": {"all": 3}}, "unexplained" in SLO_METRICS),
        ({"missing": {"service": {"web": 3}}}, True),
        ({"missing": {"channel": {"a": {"b": 3}}}}, True),
        ({"missing": {"service.web": 3}}, True),
        ({"missing.service.web": 3}, True),
        ({"missing.service": {"web": 3}}, True),
        ({"missing": {}}, False),
        ({"missing": {"service": {}}}, False),
        ({"missing": {"service": 3}}, False),
        ({"missing": {"svc": {"web": 3}}}, False),
        ({"missing": "3"}, False),
        ({"missing": float("inf")}, False),
        ({"misssing": 3}, False),
        ({"deaf_s_max.service.web": 3}, False),
    ],
    ids=str,
)
def test_limits_of_the_run_a_service_and_a_channel(table: dict[str, Any], fits: bool) -> None:
    bus = {"services": {"web": {"publishes": ["a.b"], "subscribes": ["a.b"]}}, "channels": {"a.b": {}}, "load": {"mix": {"a.b": 1}}}
    assert SCENARIO.is_valid(bus | {"slo": table}) is fits
    assert "missing" in SCOPED_METRICS
    if fits:
        check_tree(bus | {"slo": table}, where="limits")
    else:
        with pytest.raises(ScenarioError):
            check_tree(bus | {"slo": table}, where="limits")


@pytest.mark.parametrize("name", ["", "a,b", "a\nb", "x" * 201])
def test_a_name_that_no_channel_and_no_service_has_is_refused(name: str) -> None:
    for table in ("channels", "services"):
        assert not BUS.is_valid({table: {name: {}}})
    assert BUS.is_valid({"channels": {"价格/改变 a": {}}, "services": {"价格": {}}})
    assert not BUS.is_valid({"services": {"a b": {}}})


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({"bus": {"once": "mine:recipe"}}, True),
        ({"services": {"a": {"behaviour": "my.shop:Billing", "subscribes": ["d"]}}}, True),
        ({"services": {"a": {"behaviour": "my shop", "subscribes": ["d"]}}}, False),
        ({"faults": [{"kind": "mine:PriceStorm", "at_s": 1, "how_bad": 3}]}, True),
        ({"faults": [{"kind": "mine", "at_s": 1}]}, False),
        ({"checkers": ["mine:every_order"]}, True),
    ],
)
def test_code_of_one_s_own_is_named_where_ours_is(change: dict[str, Any], fits: bool) -> None:
    assert SCENARIO.is_valid({"services": {"a": {"subscribes": ["d"]}}} | change) is fits
