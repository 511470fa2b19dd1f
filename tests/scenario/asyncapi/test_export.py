"""A bus as AsyncAPI documents: an import of them gives the same bus, and AsyncAPI's own parser finds nothing wrong with them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.errors import ScenarioError, UsageError
from sim.scenario.asyncapi.bus import import_asyncapi
from sim.scenario.asyncapi.export import asyncapi_documents, export_asyncapi, is_bus_file, schema_of
from sim.scenario.file import load_bus, load_scenario
from sim.scenario.settings import Scenario
from tests.support.asyncapi_documents import FASTSTREAM, NEST, ROOT, document, written
from tests.support.examples import examples

SHOP = ROOT / "docs" / "examples" / "shop"
BUSES = [
    str(SHOP / "shop.bus.toml"),
    str(SHOP / "redis_away.toml"),
    str(FASTSTREAM / "sensors.bus.toml"),
    "baseline",
    "lock_lab",
    "aiponge",
]
PARSER = ROOT / "build" / "asyncapi-parser"
REQUIRED = "BUSLAB_REQUIRE_ASYNCAPI"


def loaded(name: str) -> Scenario:
    return load_bus(name) if is_bus_file(name) else load_scenario(name)


def bus_of(scenario: Scenario) -> tuple[Any, ...]:
    return scenario.channels, scenario.services, scenario.bus, scenario.envelope


def again(name: str, folder: Path) -> Scenario:
    """Export a bus and import the documents."""
    paths = export_asyncapi(name, out=folder / "documents", force=True)
    made = import_asyncapi(*paths, out=folder / "again.bus.toml", force=True)
    assert made.path is not None
    return load_bus(str(made.path))


@pytest.mark.parametrize("name", BUSES, ids=lambda name: Path(name).stem)
def test_an_import_of_an_export_is_the_same_bus(tmp_path: Path, name: str) -> None:
    one, two = loaded(name), again(name, tmp_path)
    missing = set(one.channels) - set(two.channels)
    assert missing == set(), "a channel that nobody publishes or hears is of the bus, too"
    assert bus_of(two) == bus_of(one) and list(two.services) == list(one.services)


NAME = st.text(st.characters(exclude_characters=",{}/\\", exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"]), min_size=1, max_size=12)
TEXT = st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"]), max_size=8)
VALUE = (
    TEXT
    | st.integers(-(10**9), 10**9)
    | st.booleans()
    | st.sampled_from(["{number}", "{{x}}", "{uuid()}", "{choice('a', None)}", "{None}"])
)
TEMPLATE = st.dictionaries(TEXT, VALUE | st.lists(VALUE, max_size=2) | st.dictionaries(TEXT, VALUE, max_size=2), max_size=3)
CHANNEL = st.fixed_dictionaries(
    {},
    optional={
        "payload": st.integers(0, 5000) | st.sampled_from(["lognormal(p50=900, p99=4000)", "uniform(1, 9)"]) | TEMPLATE,
        "batched": st.booleans(),
        "batch_size": st.integers(1, 500),
        "batch_interval_ms": st.integers(1, 5000),
        "rate_per_s": st.floats(0, 1000),
    },
)
SERVICE = st.fixed_dictionaries(
    {},
    optional={
        "replicas": st.integers(1, 20),
        "handler_ms": st.floats(0, 100) | st.just({"other": "lognormal(p50=5, p99=40)"}),
        "concurrency": st.integers(0, 9),
        "when_full": st.sampled_from(["queue", "stop-reading"]),
        "skew_ms": st.integers(0, 100),
        "must_not_double": st.booleans(),
        "behaviour": st.sampled_from(["hears", "metrics", "config-cache"]),
    },
)


META = {"id": "/meta/id", "type": "/meta/type", "time": "/meta/at", "source": "/meta/from"}
ENVELOPES: list[tuple[dict[str, Any], str]] = [  # and where what a call carries stands
    ({}, "/data"),
    ({"kind": "cloudevents"}, "/data"),
    ({"kind": "raw"}, ""),
    ({"kind": "plain"}, "/data"),
    ({"kind": "plain", "data": "/body/x", "correlation": "/cor", "version": "/v", "versions": ["2", "2.*"], **META}, "/body/x"),
    ({"kind": "plain", "data": "", **{name: f"/meta-of-the-event{at}" for name, at in META.items()}}, ""),
]


@st.composite
def buses(draw: st.DrawFn) -> dict[str, Any]:
    channels = draw(st.dictionaries(NAME, CHANNEL, min_size=1, max_size=4))
    some = st.lists(st.sampled_from(list(channels)), unique=True, max_size=3)
    services = {}
    for name, one in draw(st.dictionaries(NAME, SERVICE, min_size=1, max_size=3)).items():
        publishes, subscribes = draw(some), draw(some)
        if not services or not (publishes or subscribes):
            publishes = publishes or [next(iter(channels))]
        services[name] = one | {"publishes": publishes, "subscribes": subscribes}
    envelope, data_at = draw(st.sampled_from(ENVELOPES))
    for one in channels.values():
        if draw(st.booleans()):
            one["key"] = f"{data_at}/k"
    bus = draw(st.fixed_dictionaries({}, optional={"channel_prefix": NAME, "batch_size": st.integers(1, 9), "once": st.just("two-key")}))
    return {"bus": bus, "envelope": envelope, "channels": channels, "services": services}


@settings(max_examples=examples(40))
@given(buses())
def test_any_bus_comes_back_as_it_was(tree: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.bus.toml"
        path.write_text(tomli_w.dumps(tree), "utf-8")
        assert bus_of(again(str(path), Path(folder))) == bus_of(load_bus(str(path)))


def judged(folder: Path, *documents: Path) -> list[dict[str, Any]]:
    """Return what AsyncAPI's own parser finds wrong."""
    node, there = shutil.which("node"), (PARSER / "node_modules" / "@asyncapi" / "parser").is_dir()
    if not node or not there:
        what = f"{'there is no node' if not node else '@asyncapi/parser is not in build/'}: .ci/asyncapi installs it, with npm"
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{REQUIRED}=1, but {what}", pytrace=False)
        pytest.skip(what)
    script = ROOT / "tests" / "support" / "asyncapi_parser.mjs"
    done = subprocess.run([node, script, PARSER, *documents], capture_output=True, text=True, timeout=120, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    *found, last = map(json.loads, done.stdout.splitlines())
    assert last == {"judged": len(documents)}
    return found


AWKWARD: dict[str, Any] = {
    "bus": {"channel_prefix": "shop:"},
    "channels": {
        "价格/改变": {"payload": {"a b": ["{number}", "{None}", {}], "": 1.5}},
        "价格_改变": {"payload": 0, "batched": True},
        "yes": {"payload": {"no": "{choice(True, 'x', 3)}", "at": "{time()}", "id": "{uuid()}"}},
        "#/%": {},
    },
    "services": {
        "1e3": {"publishes": ["价格/改变", "价格_改变", "yes"]},
        "ж~": {"subscribes": ["yes", "#/%", "价格/改变"], "publishes": ["#/%"]},
    },
}


def test_asyncapis_own_parser_finds_nothing_wrong(tmp_path: Path) -> None:
    path = tmp_path / "awkward.bus.toml"
    path.write_text(tomli_w.dumps(AWKWARD), "utf-8")
    assert bus_of(again(str(path), tmp_path)) == bus_of(load_bus(str(path)))
    written_as = [one for bus in (BUSES[0], str(path)) for one in export_asyncapi(bus, out=tmp_path / Path(bus).stem)]
    assert bus_of(again("aiponge", tmp_path)) == bus_of(load_bus("aiponge"))
    written_as += export_asyncapi("aiponge", out=tmp_path / "reference")
    assert len(written_as) == len(load_bus(BUSES[0]).services) + len(AWKWARD["services"]) + 6
    written_as += export_asyncapi("baseline", service="ai-config-service", out=tmp_path / "ai-config.json")
    theirs = [FASTSTREAM / f"{name}.yaml" for name in ("gateway", "averages", "dashboard")] + [written(tmp_path, "nest.json", NEST)]
    operations = {"op": {"action": "publish", "channel": {"$ref": "#/channels/created"}}}
    wrong = written(tmp_path, "wrong.yaml", document(operations=operations))
    found = judged(tmp_path, *written_as, *theirs, wrong)
    assert {one["document"] for one in found} == {str(wrong)}, found


def test_a_document_says_what_travels_at_the_broker(tmp_path: Path) -> None:
    documents = asyncapi_documents(str(SHOP / "shop.bus.toml"))
    assert list(documents) == ["orders", "billing", "search", "notify"]
    search = documents["search"]
    assert search["x-buslab"] == {
        "replicas": 10,
        "caches": {"prices": {"reads": "price:sku_{zipf(500)}", "reads_per_s": 500}},
        "bus": {"channel_prefix": "shop:"},
    }
    asked = search["channels"]["search.asked"]
    assert asked["address"] == "shop:search.asked"
    assert asked["x-buslab"] == {"batched": True, "batch_size": 20, "batch_interval_ms": 500, "rate_per_s": 60}
    assert {name: one["action"] for name, one in search["operations"].items()} == {
        "send.search.asked": "send",
        "receive.order.created": "receive",
        "receive.price.invalidated": "receive",
    }
    event = search["components"]["schemas"]["search.asked"]["properties"]
    assert list(event) == ["eventId", "correlationId", "type", "version", "timestamp", "source", "data"]
    item = event["data"]["properties"]["events"]["items"]
    assert item["properties"] == {"words": {"type": "string"}, "user": {"type": "string", "format": "uuid"}}
    (path,) = export_asyncapi(
        str(SHOP / "everyday.toml"), service="billing", out=tmp_path / "b.yaml", settings=("services.billing.replicas=7",)
    )
    assert yaml.safe_load(path.read_text("utf-8"))["x-buslab"]["replicas"] == 7
    bare = {**search, "components": json.loads(json.dumps(search["components"]))}
    for message in bare["components"]["messages"].values():
        message.pop("x-buslab", None)
    made = import_asyncapi(written(tmp_path, "bare.yaml", bare)).tree["channels"]["price.invalidated"]["payload"]
    assert set(made) == {"sku", "reason", "at"}, "without x-buslab the schema's data, out of the envelope"


def test_a_schema_of_values_says_what_they_have_in_common() -> None:
    assert schema_of([{"a": 1, "b": "x"}, {"a": 1.5, "c": [True, None]}]) == {
        "type": "object",
        "required": ["a"],
        "properties": {"a": {"type": "number"}, "b": {"type": "string"}, "c": {"type": "array", "items": {"type": ["boolean", "null"]}}},
    }
    assert schema_of([]) == {} and schema_of([{}]) == {"type": "object", "properties": {}}
    assert schema_of(["2026-01-01T10:00:00.000Z"]) == {"type": "string", "format": "date-time"}


def test_what_asyncapi_cannot_say_and_what_is_there_is_refused(tmp_path: Path) -> None:
    shop = str(SHOP / "shop.bus.toml")
    with pytest.raises(ScenarioError, match=r"channels.'a\{b\}': AsyncAPI takes braces in an address for a parameter"):
        path = tmp_path / "a.bus.toml"
        path.write_text('[channels."a{b}"]\n[services.s]\npublishes = ["a{b}"]\n')
        export_asyncapi(str(path), out=tmp_path)
    with pytest.raises(
        ScenarioError, match=r"channels.'order.created'.payload: a field is called \$ref, which AsyncAPI takes for a reference"
    ):
        export_asyncapi(shop, out=tmp_path, settings=('channels."order.created".payload={a=[{"$ref"="x"}]}',))
    with pytest.raises(ScenarioError, match="music-service: it publishes nothing and subscribes to nothing"):
        export_asyncapi("aiponge", out=tmp_path, settings=("services.music-service={publishes=[], subscribes=[]}",))
    with pytest.raises(ScenarioError, match=r"services.api-gateway: it publishes nothing"):
        asyncapi_documents("baseline", settings=("services.api-gateway.publishes=[]", "services.api-gateway.subscribes=[]"))
    with pytest.raises(ScenarioError, match=r"no scenario 'basline' \(did you mean 'baseline'"):
        export_asyncapi("basline", out=tmp_path)
    with pytest.raises(UsageError, match=r"--service 'biling': no such service \(did you mean 'billing'"):
        export_asyncapi(shop, service="biling", out=tmp_path)
    with pytest.raises(UsageError, match="is one file, and there are 4 services"):
        export_asyncapi(shop, out=tmp_path / "all.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["a.bus.toml"]
    there = tmp_path / "notify.asyncapi.yaml"
    there.write_text("mine")
    with pytest.raises(UsageError, match=r"notify.asyncapi.yaml is there already: choose another --out, or --force"):
        export_asyncapi(shop, out=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bus.toml", "notify.asyncapi.yaml"] and there.read_text() == "mine"
    assert len(export_asyncapi(shop, out=tmp_path, force=True)) == 4 and "asyncapi: 3.0.0" in there.read_text()
