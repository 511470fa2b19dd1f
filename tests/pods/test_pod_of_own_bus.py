"""`buslab pod SERVICE --bus FILE`: one real pod of anybody's bus, heard and asked by clients that are not ours."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import redis

from sim.bus.envelope import EVENT_TYPES
from sim.errors import ScenarioError, UsageError
from sim.machine.import_path import child_environment, python_child
from sim.pods.standalone import read_settings, run_pod
from sim.scenario.file import load_bus
from sim.wire.address import Address
from tests.support.own_shop import OwnShop
from tests.support.pod_process import BOUND_S, OURS, running_pod

SHOP = Path(__file__).parents[2] / "docs" / "examples" / "shop" / "shop.bus.toml"
BUS = """
[bus]
channel_prefix = "shop:"
metrics_prefix = "shop"
batch_size = 3
outage_queue = "keep"
[channels."order.created"]
[channels."order.seen"]
batched = true
[services."büro"]
"""


def envelope(kind: str, data: dict[str, Any]) -> str:
    return json.dumps(
        {"eventId": "evt_py", "correlationId": "c", "type": kind, "version": "1.0", "timestamp": "", "source": "redis-py", "data": data}
    )


def test_a_bus_by_itself_is_read_with_what_is_wrong_with_it(tmp_path: Path) -> None:
    bus = load_bus(str(SHOP))
    assert bus.services["billing"].subscribes == ("order.created",) and bus.bus.channel_prefix == "shop:"
    assert tuple(load_bus("aiponge").channels) == EVENT_TYPES
    for text, says in [
        ('[services.a]\nsubscribes = ["x"]\n[channels.y]\n', "unknown channel 'x'"),
        ("[load]\nrun_s = 3\n", "'load' does not belong there"),
        ("[channels.x]\n[services.a]\nreplica = 3\n", "did you mean 'replicas'"),
        ("[channels.x]\n", "services is empty"),
        ('[channels.x]\n[services.a]\npublishes=["x"]\n[bus]\ntransport = "kafka"\n', "no such transport"),
    ]:
        (tmp_path / "my.bus.toml").write_text(text)
        with pytest.raises(ScenarioError, match=r"my\.bus\.toml") as refused:
            load_bus(str(tmp_path / "my.bus.toml"))
        assert says in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(ScenarioError, match=r"no bus 'aipong' .*did you mean 'aiponge'"):
        load_bus("aipong")


def test_a_service_that_the_bus_has_not_is_refused_with_the_nearest_that_it_has() -> None:
    with pytest.raises(UsageError, match=rf"no service 'biling' on the bus {SHOP} \(did you mean 'billing'\?\); known: orders, billing"):
        run_pod("biling", bus=str(SHOP), environment={})
    with pytest.raises(UsageError, match="did you mean 'billing'"):
        run_pod("biling", environment={"BUSLAB_BUS": str(SHOP)})
    with pytest.raises(UsageError, match="no service 'billing'; known: music-service"):
        run_pod("billing", environment={"BUSLAB_BUS": " "})


def test_a_variable_stands_above_the_bus_file_and_that_above_the_default(tmp_path: Path) -> None:
    (tmp_path / "my.bus.toml").write_text(BUS.replace('"büro"', "a") + 'publishes = ["order.seen"]\n')
    bus = load_bus(str(tmp_path / "my.bus.toml")).bus
    assert (read_settings({}, bus).batch_size, read_settings({"EVENT_BUS_BATCH_SIZE": "7"}, bus).batch_size) == (3, 7)
    assert read_settings({}, bus) == read_settings(dict.fromkeys(OURS, ""), bus)


@pytest.mark.broker
@pytest.mark.parametrize("how", ["option", "variable"])
def test_billing_hears_an_order_that_redis_py_publishes(own_server: tuple[Address, object], how: str) -> None:
    address = own_server[0]
    args = ("--bus", str(SHOP)) if how == "option" else ()
    more = {"BUSLAB_BUS": str(SHOP)} if how == "variable" else {}
    with running_pod("billing", *args, REDIS_URL=address.url, metrics_start="aiponge_billing_", **more) as pod:
        assert pod.log[0]["bus_file"] == str(SHOP)
        pod.until("connected")
        with redis.Redis(port=address.port) as client:
            assert client.publish("shop:order.created", envelope("order.created", {"total": 3})) == 1
            assert client.publish("shop:price.invalidated", envelope("price.invalidated", {})) == 0, "billing does not subscribe to it"
        assert pod.metrics_when(event_bus_events_received_total=1)["event_bus_events_received_total"] == 1
        assert pod.ready_when(True)["checks"] == {"eventBus": {"connected": True, "redisEnabled": True}}
        assert pod.end() == 0


@pytest.mark.broker
def test_it_has_the_bus_own_behaviour_metrics_batches_and_channels(own_server: tuple[Address, object], tmp_path: Path) -> None:
    address = own_server[0]
    code = """
class Billing:
    def __init__(self):
        self.invalidations = 0
        self.handlers = {"order.created": self.created}
    def created(self, event):
        if "total" not in event.data:
            raise ValueError("no total")
        self.invalidations += event.data["total"]
"""
    service = 'behaviour = "MODULE:Billing"\nsubscribes = ["order.created"]\npublishes = ["order.seen"]\n'
    bus = BUS + service
    shop = OwnShop(tmp_path / "shop", code=code, bus=bus)
    start = "shop_b_ufc_ro_"
    with (
        running_pod("büro", "--bus", str(shop.bus), REDIS_URL=address.url, ADMIN_TOKEN="t", metrics_start=start) as pod,
        redis.Redis(port=address.port) as client,
        client.pubsub() as heard,
    ):
        assert pod.log[0]["metrics"] == start + "…", "a name that is not its own is said"
        pod.until("connected")
        for data in ({"total": 3}, {}, {"total": 4}):
            client.publish("shop:order.created", envelope("order.created", data))
        metrics = pod.metrics_when(event_bus_events_received_total=3)
        assert (metrics["config_cache_invalidations_total"], metrics["event_bus_subscribe_errors_total"]) == (7, 1)
        heard.subscribe("shop:order.seen")
        heard.get_message(timeout=BOUND_S)
        for number in range(3):
            assert pod.ask("/api/lab/call", {"type": "order.seen", "data": {"n": number}}, token="t")[0] == 202
        batch = json.loads(heard.get_message(timeout=BOUND_S)["data"])
        assert (batch["source"], [item["n"] for item in batch["data"]["events"]]) == ("büro", [0, 1, 2])
        refused = pod.ask("/api/lab/call", {"type": "analytics.events.batch", "data": {}}, token="t")
        assert refused[0] == 400 and "order.created, order.seen" in refused[1]
        assert pod.end() == 0


@pytest.mark.broker
@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["biling", "--bus", str(SHOP)], "did you mean 'billing'"),
        (["billing", "--bus", "nowhere.bus.toml"], "no bus 'nowhere.bus.toml'"),
        (["billing", "--bus", str(SHOP.with_name("everyday.toml"))], "'title' does not belong there"),
        (["billing", "--bus", str(SHOP.parent)], "cannot read"),
    ],
)
def test_what_cannot_work_is_one_line_and_exit_code_2(args: list[str], says: str) -> None:
    environment = child_environment() | {"BUSLAB_BUS": ""}
    argv = python_child("sim.cli", "pod", *args)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=BOUND_S, check=False, env=os.environ | environment)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert says in done.stderr
