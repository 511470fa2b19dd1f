"""Documents of services become one bus file, or one clear line and nothing written."""

from __future__ import annotations

import copy
import json
import os
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from docs.blocks import fences
from sim.errors import BuslabError, DocumentError, UsageError
from sim.results.checkers import judge
from sim.results.opened_run import open_run
from sim.run.steps import run_scenario
from sim.scenario.asyncapi.bus import ImportedBus, import_asyncapi
from sim.scenario.file import load_bus, load_scenario
from tests.support.asyncapi_documents import FASTSTREAM, NEST, ROOT, document, written
from tests.support.examples import examples

ADDRESS = "orders.created"


def imported(folder: Path, *trees: Any, **more: Any) -> ImportedBus:
    paths = [written(folder, f"d{place}.yaml", tree) for place, tree in enumerate(trees)]
    return import_asyncapi(*paths, **more)


def refusal(folder: Path, *trees: Any) -> str:
    """The one line that an import of these documents ends with; nothing is written."""
    before = set(folder.iterdir())
    with pytest.raises(DocumentError) as refused:
        imported(folder, *trees, out=folder / "out.bus.toml")
    assert "\n" not in str(refused.value)
    assert {path.name for path in set(folder.iterdir()) - before} <= {f"d{place}.yaml" for place in range(len(trees))}
    return str(refused.value)


def test_the_example_of_faststream_is_the_bus_file_beside_it_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    folder = FASTSTREAM.relative_to(ROOT)
    made = import_asyncapi(*(folder / f"{name}.yaml" for name in ("gateway", "averages", "dashboard")))
    assert made.text == (FASTSTREAM / "sensors.bus.toml").read_text("utf-8")
    run = open_run(run_scenario(load_scenario(str(FASTSTREAM / "everyday.toml")), on="model", out=tmp_path / "run"))
    assert judge(run).verdict == "valid"
    heard = run.ledger().groupby("service", observed=True)["channel"].unique()
    assert {name: set(channels) for name, channels in heard.items()} == {"averages": {"readings"}, "dashboard": {"readings", "averages"}}


def test_a_document_in_the_form_of_nestjs_asyncapi_becomes_a_bus(tmp_path: Path) -> None:
    other = document("keeper", action="send", channel={"address": "create/feline", "messages": {}})
    bus = imported(tmp_path, NEST, other, out=tmp_path / "felines.bus.toml")
    scenario = load_bus(str(bus.path))
    assert scenario.services["Feline-Shelter"].publishes == ("feline/gone",)
    assert scenario.services["Feline-Shelter"].subscribes == scenario.services["keeper"].publishes == ("create/feline",)
    one = scenario.content("create/feline")(5)
    assert 1 < one["age"] <= 30 and isinstance(one["breed"]["name"], str) and one["urls"] == ["https://felines.example/1"]
    assert one["place"] in ("cat house", "garden") and one["arrived"].endswith("Z") and one["options"][0]["isReadonly"] in (True, False)
    assert set(scenario.content("feline/gone")(5)) == {"felineId", "weight"}


def test_a_receive_operation_says_how_long_its_handler_takes(tmp_path: Path) -> None:
    def billing(time: Any, **ours: Any) -> dict[str, Any]:
        tree = document("billing", action="receive", **{"x-buslab": ours})
        tree["operations"]["op"]["x-buslab"] = {"handler_ms": time}
        return tree

    pattern = document("audit", action="receive", channel={"address": "shop:{x}"})
    pattern["operations"]["op"]["x-buslab"] = {"handler_cpu_ms": 2}
    services = imported(tmp_path, billing("lognormal(p50=5, p99=40)", handler_ms=1), document("orders"), pattern).tree["services"]
    assert services["billing"]["handler_ms"] == {"other": 1, ADDRESS: "lognormal(p50=5, p99=40)"}
    assert services["audit"]["handler_cpu_ms"] == {ADDRESS: 2}
    assert "x-buslab.handler_ms = 5, and 4 elsewhere for this channel" in refusal(tmp_path, billing(5, handler_ms={ADDRESS: 4}))
    assert "x-buslab.handler_ms" in refusal(tmp_path, billing([5])) and "handler_ms" in refusal(tmp_path, billing("gauss(3)"))
    sender = document(operations={"op": {"action": "send", "channel": {"$ref": "#/channels/created"}, "x-buslab": {"handler_ms": 3}}})
    assert "'handler_ms' is no setting of a send operation: it belongs to the x-buslab of the document" in refusal(tmp_path, sender)


def test_the_document_of_the_page_is_what_it_says(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "asyncapi.md").read_text("utf-8")
    (body,) = ["\n".join(body) for _, language, body, _ in fences(page) if language == "yaml"]
    tree = imported(tmp_path, body).tree
    payload = {"orderId": "order_{number}", "note": "{letters(lognormal(p50=900, p99=4000))}"}
    assert tree["channels"] == {"order.created": {"rate_per_s": 400, "key": "/data/orderId", "payload": payload}, "order.paid": {}}
    assert tree["bus"] == {"channel_prefix": "shop:", "batch_size": 50}
    said = {"replicas": 6, "must_not_double": False, "handler_ms": {"other": 1, "order.paid": 5}}
    assert tree["services"] == {"orders": {**said, "publishes": ["order.created"], "subscribes": ["order.paid"]}}


def test_what_asyncapi_cannot_say_comes_from_x_buslab_and_the_rest_is_a_comment(tmp_path: Path) -> None:
    orders = document(
        "orders",
        channel={"x-buslab": {"rate_per_s": 40, "batched": True, "batch_size": 20, "batch_interval_ms": 500}},
        **{"x-buslab": {"service": "shop-orders", "replicas": 6, "skew_ms": 3, "bus": {"batch_size": 7, "channel_prefix": "shop:"}}},
    )
    billing = document("billing", action="receive", **{"x-buslab": {"handler_ms": 5, "must_not_double": True, "behaviour": "metrics"}})
    bus = imported(tmp_path, orders, billing, out=tmp_path / "shop.bus.toml")
    assert bus.path is not None and bus.path.read_text("utf-8") == bus.text
    scenario = load_bus(str(bus.path))
    channel, (one, two) = scenario.channels[ADDRESS], scenario.services.values()
    assert (channel.rate_per_s, channel.batched, channel.batch_size, channel.batch_interval_ms) == (40, True, 20, 500)
    assert (one.replicas, one.skew_ms, one.publishes) == (6, 3, (ADDRESS,)) and list(scenario.services) == ["shop-orders", "billing"]
    assert (two.handler_ms, two.must_not_double, two.behaviour, two.subscribes) == (5, True, "metrics", (ADDRESS,))
    assert (scenario.bus.channel_prefix, scenario.bus.batch_size) == ("shop:", 7)
    timed = document("billing", action="receive", **{"x-buslab": {"handler_ms": {ADDRESS: "lognormal(p50=5, p99=40)", "other": 1}}})
    text = imported(tmp_path, document("orders"), timed).text.replace("# must_not_double", "must_not_double")
    (tmp_path / "timed.bus.toml").write_text(text)
    service = load_bus(str(tmp_path / "timed.bus.toml")).services["billing"]
    assert service.handler_ms == {ADDRESS: "lognormal(p50=5, p99=40)", "other": 1} and service.must_not_double
    bare = imported(tmp_path, document("orders", schema={}), document("billing", action="receive", schema={}))
    comments = [line for line in bare.text.splitlines() if line.startswith("# ") and " = " in line]
    assert [line.split()[1] for line in comments] == ["rate_per_s", "payload", "replicas", "replicas", "handler_ms", "must_not_double"]
    filled = "\n".join(line.removeprefix("# ") if line in comments else line for line in bare.text.splitlines())
    (tmp_path / "filled.bus.toml").write_text(filled)
    assert load_bus(str(tmp_path / "filled.bus.toml")).services["billing"].must_not_double, "a comment is filled in by taking its # away"


def test_a_business_key_and_a_correlation_id_are_told(tmp_path: Path) -> None:
    message = {
        "payload": {"type": "object", "properties": {"no": {"type": "integer"}}},
        "correlationId": {"$ref": "#/components/correlationIds/c"},
    }
    tree = document(channel={"messages": {"created": message | {"x-buslab": {"key": "/data/no"}}}})
    tree["components"] = {"correlationIds": {"c": {"location": "$message.payload#/requestId"}}}
    bus = imported(tmp_path, tree)
    assert bus.tree["channels"][ADDRESS]["key"] == "/data/no" and "# correlation id: $message.payload#/requestId" in bus.text
    assert bus.tree["channels"][ADDRESS]["payload"] == {"no": "{integer(0, 1000)}", "requestId": "{uuid()}"}
    assert '# key = "/data/orderId"' in imported(tmp_path, document()).text, "the first field that is an id by its name"
    tree["components"]["correlationIds"]["c"]["location"] = "$header"
    assert "location: '$header': write $message.header#" in refusal(tmp_path, tree)


def test_traits_references_to_files_and_messages_of_operations_work(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    written(
        tmp_path / "parts",
        "common.json",
        {
            "channel": {"address": "shop:paid", "messages": {"other": {"payload": {"const": 1}}, "paid": {"$ref": "#/paid"}}},
            "paid": {"payload": {"$ref": "schemas.yaml#/Paid"}, "traits": [{"$ref": "#/trait"}]},
            "trait": {"contentType": "application/vnd.paid+json", "x-buslab": {"rate_per_s": 3, "batched": True}},
        },
    )
    written(tmp_path / "parts", "schemas.yaml", {"Paid": {"type": "object", "properties": {"paidId": {"type": "string"}}}})
    tree = document(channels={"paid": {"$ref": "./parts/common.json#/channel"}})
    operation = {"action": "send", "channel": {"$ref": "#/channels/paid"}, "messages": [{"$ref": "#/channels/paid/messages/paid"}]}
    tree["operations"] = {"op": {"traits": [{"x-buslab": {"batch_size": 9}}, {"x-buslab": {"batch_size": 5}}], **operation}}
    tree["defaultContentType"] = "application/avro"
    channel = imported(tmp_path, tree).tree["channels"]["paid"]
    assert channel == {"batch_size": 5, "rate_per_s": 3, "batched": True, "payload": {"paidId": "paid_{number}"}}


def test_parameters_in_an_address_make_a_channel_of_each_value(tmp_path: Path) -> None:
    channel = {
        "address": "shop:{region}.{kind}.created",
        "parameters": {
            "region": {"enum": ["eu", "u{s}"], "location": "$message.payload#/where/region"},
            "kind": {"$ref": "#/components/parameters/kind"},
        },
        "x-buslab": {"rate_per_s": 30},
    }
    schema = {"type": "object", "properties": {"where": {"type": "object", "properties": {"region": {"type": "string"}}}}}
    tree = document(schema=schema, channel=channel, components={"parameters": {"kind": {"default": "order"}}})
    bus = imported(tmp_path, tree)
    assert list(bus.tree["channels"]) == ["eu.order.created", "u{s}.order.created"]
    one, two = bus.tree["channels"].values()
    assert one["rate_per_s"] == two["rate_per_s"] == 15 and one["payload"] == {"where": {"region": "eu"}}
    assert two["payload"] == {"where": {"region": "u{{s}}"}} and bus.tree["services"]["orders"]["publishes"] == list(bus.tree["channels"])
    channel["parameters"] = {"region": {"enum": [str(n) for n in range(100)]}, "kind": {"enum": [str(n) for n in range(11)]}}
    assert "make 1,100 channels of it: 1,000 are the most" in refusal(tmp_path, document(channel=channel))
    channel["parameters"] = {"region": {"enum": ["eu"]}}
    assert "parameter 'kind' has no enum, default or examples" in refusal(tmp_path, document(channel=channel))
    heard = document("billing", action="receive", channel={"address": "mail.{x}"})
    assert "mail.{x} matches no channel of these documents" in refusal(tmp_path, document(channel={"address": "shop.a"}), heard)


def test_a_pattern_hears_what_others_send(tmp_path: Path) -> None:
    sent = [document(name, channel={"address": f"shop:{name}.created"}) for name in ("orders", "parcels")]
    redis = {"bindings": {"redis": {"method": "psubscribe"}}}
    glob = document("audit", action="receive", channel={"address": "shop:*.created", **redis}, schema={})
    path = document("mail", action="receive", channel={"address": "shop:{what}.created"}, schema={})
    services = imported(tmp_path, *sent, glob, path).tree["services"]
    assert services["audit"]["subscribes"] == services["mail"]["subscribes"] == ["orders.created", "parcels.created"]
    assert "shop:*.created is a pattern" in refusal(tmp_path, document(channel={"address": "shop:*.created", **redis}))


def test_a_reply_goes_the_other_way_and_one_without_a_channel_is_refused(tmp_path: Path) -> None:
    def asking(title: str, action: str, reply: Any) -> dict[str, Any]:
        tree = document(title, action=action)
        tree["channels"]["answer"] = {"address": "shop:answer", "messages": {"a": {"payload": {"type": "boolean"}}}}
        tree["operations"]["op"]["reply"] = reply
        return tree

    reply = {"channel": {"$ref": "#/channels/answer"}, "messages": [{"$ref": "#/channels/answer/messages/a"}]}
    services = imported(tmp_path, asking("orders", "send", reply), asking("stock", "receive", reply)).tree["services"]
    assert services["orders"] == {"publishes": [ADDRESS], "subscribes": ["answer"]}
    assert services["stock"] == {"publishes": ["answer"], "subscribes": [ADDRESS]}
    dynamic = {"address": {"location": "$message.header#/replyTo"}}
    assert "operations/op/reply: where the reply goes is known at run time only" in refusal(tmp_path, asking("o", "send", dynamic))


def object_of(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


def test_events_in_an_envelope_are_what_stands_in_it(tmp_path: Path) -> None:
    text, order = {"type": "string"}, object_of(orderId={"type": "string"}, region={"type": "string"})
    cloud = document(schema=object_of(specversion=text, id=text, source=text, type=text, data=order))
    bus = imported(tmp_path, cloud, out=tmp_path / "cloud.bus.toml")
    assert bus.tree["envelope"] == {"kind": "cloudevents"} and bus.tree["channels"][ADDRESS]["payload"]["orderId"] == "order_{number}"
    assert load_bus(str(bus.path)).envelope.kind == "cloudevents" and '# key = "/data/orderId"' in bus.text
    mixed = imported(tmp_path, cloud, document("parcels", channel={"address": "shop:parcels"}))
    assert "envelope" not in mixed.tree and "some messages are CloudEvents and others not" in "".join(mixed.notes)
    ours = document(schema=object_of(eventId=text, type=text, data=order))
    assert "envelope" not in imported(tmp_path, ours).tree and imported(tmp_path, ours).tree["channels"] == bus.tree["channels"]

    meta = object_of(id=text, kind=text, at=text, by=text)
    plain = {"kind": "plain", "id": "/meta/id", "type": "/meta/kind", "time": "/meta/at", "source": "/meta/by", "data": "/body"}
    told = document(schema=object_of(meta=meta, body=order), **{"x-buslab": {"envelope": plain}})
    hearer = document("billing", action="receive", schema=object_of("body", body=object_of("orderId", orderId=text)))
    bus = imported(tmp_path, told, hearer)
    assert bus.tree["channels"] == {ADDRESS: {"payload": {"orderId": "order_{number}", "region": "{word()}"}}}, (
        "one document says it for all"
    )
    assert bus.tree["envelope"] == plain and '# key = "/body/orderId"' in bus.text
    flat = document(schema=object_of(meta=meta, orderId=text), **{"x-buslab": {"envelope": {**plain, "data": ""}}})
    assert imported(tmp_path, flat).tree["channels"][ADDRESS]["payload"] == {"orderId": "order_{number}"}
    assert "x-buslab.envelope.data = '', and '/body' in another document" in refusal(tmp_path, told, flat | {"info": {"title": "b"}})


def test_a_payload_that_is_null_is_not_known(tmp_path: Path) -> None:
    tree = document(channel={"x-buslab": {"payload": None, "rate_per_s": None}})
    assert imported(tmp_path, tree).tree["channels"] == {ADDRESS: {}}


def test_several_messages_wrapped_schemas_and_examples(tmp_path: Path) -> None:
    one, two = {"payload": {"const": 1}}, {"payload": {"const": 2}}
    bus = imported(tmp_path, document(channel={"messages": {"one": one, "two": two}}))
    assert bus.tree["channels"][ADDRESS]["payload"] == {"value": 1} and "has 2 messages: the first, one, is made" in "".join(bus.notes)
    assert "# Note: d0.yaml" in bus.text or "has 2 messages" in bus.text
    wrapped = {"schemaFormat": "application/schema+json;version=draft-07", "schema": {"type": "object", "properties": {"a": {"const": 3}}}}
    assert imported(tmp_path, document(schema=wrapped)).tree["channels"][ADDRESS]["payload"] == {"a": 3}
    example = {"examples": [{"payload": {"a": "{b}"}}]}
    assert imported(tmp_path, document(channel={"messages": {"m": example}})).tree["channels"][ADDRESS]["payload"] == {"a": "{{b}}"}
    avro = {"schemaFormat": "application/vnd.apache.avro;version=1.9.0", "schema": {}}
    assert "schemaFormat: 'application/vnd.apache.avro;version=1.9.0' is not JSON Schema" in refusal(tmp_path, document(schema=avro))
    binary = {"messages": {"m": {"contentType": "application/avro", "payload": {}}}}
    assert "contentType: 'application/avro' is not JSON: give its x-buslab a payload" in refusal(tmp_path, document(channel=binary))
    binary["messages"]["m"]["x-buslab"] = {"payload": 900}
    assert imported(tmp_path, document(channel=binary)).tree["channels"][ADDRESS]["payload"] == 900


def test_a_document_of_several_servers_keeps_what_is_on_redis(tmp_path: Path) -> None:
    tree = document(servers={"r": {"host": "h", "protocol": "rediss"}, "k": {"host": "h", "protocol": "kafka"}})
    tree["channels"]["log"] = {"address": "log", "servers": [{"$ref": "#/servers/k"}], "bindings": {"kafka": {}}}
    tree["operations"]["log"] = {"action": "send", "channel": {"$ref": "#/channels/log"}}
    bus = imported(tmp_path, tree)
    assert list(bus.tree["channels"]) == [ADDRESS] and "channels/log is on no Redis, and is left out" in "".join(bus.notes)


CONVERT = "npx @asyncapi/cli convert d0.yaml --output d0.v3.yaml --target-version 3.0.0"
CHANGED: list[tuple[dict[str, Any], str]] = [
    ({"asyncapi": "2.6.0"}, f"it is AsyncAPI 2.6.0, and 3 is read: convert it by `{CONVERT}`"),
    ({"asyncapi": "4.0.0"}, "asyncapi: '4.0.0' is not read: 3.0 and 3.1 are"),
    ({"asyncapi": None}, "asyncapi: 'None' is not read"),
    ({"info": {}}, "info.title is missing"),
    ({"info": {"title": 3}}, "info.title = 3 is no text"),
    ({"x\ny": {"$ref": "a"}, "channels": {"x\ny": {"$ref": "#/x\ny"}}}, "#/x\\ny: $ref to "),
    ({"channels": {}}, "it has no channels: there is nothing to import"),
    ({"channels": None}, "it has no channels"),
    ({"channels": [1]}, "[1] stands where an object belongs"),
    ({"operations": {}}, "it has no operations: say what the service sends and receives"),
    ({"operations": {"op": {"action": "publish", "channel": {"$ref": "#/info"}}}}, "neither send nor receive: publish and subscribe are"),
    ({"operations": {"op": {"action": "send"}}}, "channel is missing"),
    ({"operations": {"op": {"action": "send", "channel": {"$ref": "#/info"}}}}, "#/info is none of the document's channels"),
    ({"servers": {"main": {"host": "h", "protocol": "kafka"}}}, "servers.main is of 'kafka', not of redis; buslab plays a bus on Redis"),
    ({"servers": {"main": {"host": "h", "protocol": "amqp"}}}, "servers.main is of 'amqp'"),
    ({"channels": {"created": {"address": "a", "bindings": {"kafka": {"topic": "a"}}}}}, "created: its binding is of kafka, not of redis"),
    ({"channels": {"created": {"address": "a", "bindings": {"redis": {"method": "rpush"}}}}}, "method: rpush is of a list or a stream"),
    ({"channels": {"created": {"address": None}}}, "address: None: without one, nobody knows the channel's name"),
    ({"channels": {"created": {"address": "a,b"}}}, "channels.'a,b': a name has 1 to 200 characters, and no comma"),
    ({"channels": {"created": {"address": "x" * 300}}}, "a name has 1 to 200 characters"),
    ({"x-buslab": {"service": "a b"}}, "services.'a b': a name has 1 to 200 characters, and no blank"),
    ({"x-buslab": {"service": 3}}, "x-buslab.service = 3: a name is text"),
    ({"x-buslab": {"replica": 3}}, "'replica' is no setting of the document (did you mean 'replicas'?)"),
    ({"x-buslab": {"rate_per_s": 3}}, "'rate_per_s' is no setting of the document: it belongs to the x-buslab of a channel"),
    ({"x-buslab": {"replicas": 0}}, "x-buslab.replicas = 0: expected `int` >= 1"),
    ({"x-buslab": {"replicas": 30_000}}, "x-buslab.replicas = 30000"),
    ({"x-buslab": {"behaviour": "analytic"}}, "did you mean 'analytics'"),
    ({"x-buslab": {"bus": {"prefix": "a"}}}, "x-buslab.bus = {'prefix': 'a'}: an object of settings of [bus]"),
    ({"x-buslab": {"bus": {"channel_prefix": "mail:"}}}, "channel_prefix = 'mail:': the address 'shop:orders.created' is not of it"),
    ({"x-buslab": {"bus": {"batch_size": 0}}}, "bus.batch_size = 0"),
    ({"x-buslab": {"envelope": {"kind": "xml"}}}, "envelope.kind = 'xml'"),
    ({"x-buslab": {"envelope": {"form": "plain"}}}, "x-buslab.envelope = {'form': 'plain'}: an object of settings of [envelope]"),
    ({"x-buslab": {"envelope": {"kind": "plain", "data": "body"}}}, "'body' is no JSON pointer"),
    ({"x-buslab": {"envelope": {"kind": "plain", "data": 3}}}, "envelope.data = 3"),
    ({"channels": {"created": {"address": "a", "x-buslab": {"key": "orderId"}}}}, "'orderId' is no JSON pointer"),
    ({"channels": {"created": {"address": "a", "x-buslab": {"key": "/orderId"}}}}, "begin it with /data/"),
    ({"channels": {"created": {"x-buslab": {"replicas": 3}}}}, "no setting of a channel: it belongs to the x-buslab of the document"),
    ({"channels": {"created": {"address": "a", "x-buslab": {"payload": {"a": None}}}}}, "null in a payload is '{None}'"),
    ({"channels": {"created": {"address": "a", "x-buslab": {"payload": "gauss(3)"}}}}, "no distribution of sizes"),
    ({"channels": {"created": {"address": "a", "x-buslab": {"payload": {"a": "{b}"}}}}}, "names 'b'"),
    ({"channels": {"created": {"address": "a", "x-buslab": {"rate_per_s": "often"}}}}, "x-buslab.rate_per_s = 'often'"),
    ({"channels": {"created": {"address": "a", "servers": 3}}}, "3 stands where a list belongs"),
]  # fmt: skip


@pytest.mark.parametrize(("root", "says"), CHANGED, ids=lambda value: json.dumps(value)[:70])
def test_what_a_bus_cannot_have_is_refused_in_one_line(tmp_path: Path, root: dict[str, Any], says: str) -> None:
    (tmp_path / "shop").mkdir()
    message = refusal(tmp_path / "shop", document(**root))
    assert says in message and message.startswith("shop/d0.yaml"), message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it holds no AsyncAPI document"),
        ("- a", "it holds no AsyncAPI document"),
        ("openapi: 3.0.0", "it is a document of openapi, not AsyncAPI"),
        ("a: 1", "asyncapi is missing"),
        ("asyncapi: 2.0", "it is AsyncAPI 2.0"),
        ("asyncapi: [3", "not valid YAML"),
    ],
)
def test_what_is_no_document_of_asyncapi_3_is_refused(tmp_path: Path, text: str, says: str) -> None:
    assert says in refusal(tmp_path, text)


def test_documents_that_contradict_each_other_are_refused_with_both_places(tmp_path: Path) -> None:
    def schema(**properties: Any) -> dict[str, Any]:
        return {"type": "object", "required": ["orderId"], "properties": properties}

    text, number = {"type": "string"}, {"type": "integer"}
    orders = document("orders", schema=schema(orderId=text, total=number))

    def against(properties: dict[str, Any], **more: Any) -> str:
        return refusal(tmp_path, orders, document("billing", schema=schema(**properties), action="receive", **more))

    assert "d1.yaml#/channels/created says /orderId is a number, " in (said := against({"orderId": number}))
    assert "d0.yaml#/channels/created says text: let both $ref to one schema" in said and "channel 'shop:orders.created'" in said
    missing = document("billing", schema=schema(orderId=text) | {"required": ["vat"]}, action="receive")
    assert "says /vat is text" in refusal(tmp_path, orders, missing) and "d0.yaml#/channels/created says nothing" in refusal(
        tmp_path, orders, missing
    )
    assert imported(tmp_path, orders, document("billing", schema=schema(orderId=text, vat=number), action="receive")), "it may lack vat"
    assert "says /orderId is a number" in refusal(tmp_path, orders, document("web", schema=schema(orderId=number, total=number)))
    rates = [document(name, channel={"x-buslab": {"rate_per_s": rate}}) for name, rate in (("a", 3), ("b", 4))]
    assert "x-buslab.rate_per_s = 4, and 3 in " in refusal(tmp_path, *rates)
    sizes = [document(name, channel={"x-buslab": {"payload": size}}) for name, size in (("a", 3), ("b", 4))]
    assert "x-buslab.payload = 4, and 3 in " in refusal(tmp_path, *sizes)
    buses = [document(name, **{"x-buslab": {"bus": {"batch_size": size}}}) for name, size in (("a", 3), ("b", 4))]
    assert "x-buslab.bus.batch_size = 4, and 3 in another document: it is one bus" in refusal(tmp_path, *buses)
    assert "d0.yaml and " in (said := refusal(tmp_path, orders, copy.deepcopy(orders))) and "are both of a service 'orders'" in said
    sized = document("orders", schema=schema(orderId=number), channel={"x-buslab": {"payload": 900}})
    assert imported(tmp_path, sized, document("b", action="receive")).tree["channels"][ADDRESS]["payload"] == 900, "x-buslab rules"


def test_what_only_hearers_describe_is_all_that_they_expect(tmp_path: Path) -> None:
    def heard(name: str) -> dict[str, Any]:
        return document(name, action="receive", schema={"type": "object", "properties": {name: {"const": 1}, "both": {"const": 2}}})

    bus = imported(tmp_path, heard("a"), heard("b"))
    assert bus.tree["channels"][ADDRESS] == {"payload": {"a": 1, "both": 2, "b": 1}}
    assert bus.tree["services"] == {name: {"subscribes": [ADDRESS]} for name in "ab"}


def test_a_file_that_is_there_stays_unless_it_may_be_replaced(tmp_path: Path) -> None:
    out = tmp_path / "shop.bus.toml"
    out.write_text("mine")
    with pytest.raises(UsageError, match="is there already: choose another --out, or --force"):
        imported(tmp_path, document(), out=out)
    assert out.read_text() == "mine"
    imported(tmp_path, document(), out=out, force=True)
    assert load_bus(str(out)).services["orders"].publishes == (ADDRESS,)
    with pytest.raises(UsageError, match="it is a folder"):
        imported(tmp_path, document(), out=tmp_path, force=True)
    with pytest.raises(UsageError, match="there is no folder"):
        imported(tmp_path, document(), out=tmp_path / "no" / "a.toml")
    with pytest.raises(UsageError, match="is one of the documents"):
        import_asyncapi(tmp_path / "d0.yaml", out=tmp_path / "d0.yaml", force=True)
    with pytest.raises(UsageError, match="at least one"):
        import_asyncapi()
    with pytest.raises(BuslabError, match=r"cannot be read: No such file"):
        import_asyncapi(tmp_path / "gone.yaml", out=tmp_path / "x.toml")
    if os.geteuid() == 0:
        assert sorted(path.name for path in tmp_path.iterdir()) == ["d0.yaml", "shop.bus.toml"]


def test_a_chain_of_schemas_that_is_too_deep_and_thousands_of_channels(tmp_path: Path) -> None:
    chain = {f"S{n}": {"type": "object", "properties": {"a": {"$ref": f"#/components/schemas/S{n + 1}"}}} for n in range(2000)}
    tree = document(schema={"$ref": "#/components/schemas/S0"}, components={"schemas": chain | {"S2000": {}}})
    assert "d0.yaml: a schema or a chain of $ref is nested too deep" in refusal(tmp_path, tree)
    channels = {f"c{n}": {"address": f"shop:c.{n}", "messages": {"m": {"$ref": "#/components/messages/m"}}} for n in range(3000)}
    operations = {name: {"action": "send", "channel": {"$ref": f"#/channels/{name}"}} for name in channels}
    message = {"m": {"payload": {"type": "object", "properties": {"orderId": {"type": "string"}}}}}
    path = written(tmp_path, "many.json", document(channels=channels, operations=operations, components={"messages": message}))
    bus = import_asyncapi(path, out=tmp_path / "many.bus.toml")
    assert len(bus.tree["channels"]) == 3000 == len(load_bus(str(tmp_path / "many.bus.toml")).services["orders"].publishes)


SEEDS = [yaml.safe_load((FASTSTREAM / f"{name}.yaml").read_text("utf-8")) for name in ("gateway", "averages")] + [NEST]
ODD = st.sampled_from(
    [None, True, 3, -1.5, "", "x", "{", "a,b", [], [1], {}, {"$ref": "#"}, {"$ref": "#/channels"}, {"a": {"b": [None]}}, "\u2028"]
)


def places_of(value: Any) -> list[tuple[Any, Any]]:
    """Every key of every object and place of every list: (container, key)."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [place for key in keys for place in places_of(value[key])]


@settings(max_examples=examples(150))
@given(st.sampled_from(range(len(SEEDS))), st.data())
def test_a_document_with_anything_in_any_place_is_imported_or_refused_in_one_line(seed: int, data: st.DataObject) -> None:
    tree = copy.deepcopy(SEEDS[seed])
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(places_of(tree)))
        if data.draw(st.booleans()):
            container[key] = copy.deepcopy(data.draw(ODD))
        elif isinstance(container, dict):
            container[data.draw(st.sampled_from(["$ref", "allOf", "oneOf", "traits", "x-buslab", "enum", "é"]))] = copy.deepcopy(
                data.draw(ODD)
            )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.bus.toml"
        path = written(Path(folder), "a.json", tree)
        try:
            import_asyncapi(path, out=out)
        except DocumentError as error:
            assert len(str(error).splitlines()) == 1 and not out.exists()
        else:
            text = out.read_text("utf-8")
            assert tomllib.loads(text)["services"]


def test_half_a_pair_of_surrogates_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "a.json", json.dumps(document(schema={"const": {"a": "\ud800"}})))
    with pytest.raises(DocumentError, match="half a pair of surrogates"):
        import_asyncapi(path)
