"""What `buslab lost` says, against a subscriber of somebody else's on the same server and the tables as they are."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import redis

from sim.results.opened_run import open_run
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario
from sim.wire.address import free_port

SHOP = Path(__file__).parents[2] / "docs" / "examples" / "shop" / "everyday.toml"
AWAY = 'faults=[{kind="partition",at_s=2,for_s=4,pods=["billing"]}]'


class Witness(threading.Thread):
    """A subscriber by redis-py that hears every order on a server, from before the run until the server is gone."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.orders: dict[str, str] = {}  # event id -> business key
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            try:
                with redis.Redis(port=self.port).pubsub() as hearing:
                    hearing.subscribe("shop:order.created")
                    while not self.ended.is_set():
                        message = hearing.get_message(timeout=0.2)
                        if message is not None and message["type"] == "message":
                            event = json.loads(message["data"])
                            if event["source"] != "buslab":
                                self.orders[event["eventId"]] = event["data"]["orderId"]
            except redis.ConnectionError:
                self.ended.wait(0.02)  # not there yet, or not there any more


@pytest.mark.broker
def test_orders_that_billing_never_saw_are_those_that_a_witness_heard_and_billing_did_not(tmp_path: Path) -> None:
    port = free_port()
    witness = Witness(port)
    witness.start()
    settings = ("load.driver=pods", "load.run_s=8", "load.rate_per_s=150", "slo={}", AWAY, "services.search.replicas=2")
    try:
        run = open_run(run_scenario(load_scenario(str(SHOP), settings=settings), on=f"embedded:{port}", out=tmp_path / "run"))
    finally:
        witness.ended.set()
        witness.join(10)
    rows = run.lost(services=["billing"])
    begin, end = run.run_span
    published = run.publishes[(run.publishes["intended_ns"] >= begin) & (run.publishes["intended_ns"] < end)]
    in_run = {f"evt_{int(key):016x}" for key in published["event"]}
    at_billing = {f"evt_{int(key):016x}" for key in run.deliveries[run.deliveries["pod"].astype(str).str.startswith("billing-")]["event"]}
    never = {event: key for event, key in witness.orders.items() if event in in_run and event not in at_billing}
    lost = {f"evt_{int(event):016x}": key for event, key in zip(rows["event"], rows["key"], strict=True)}
    assert lost == never and len(lost) > 300
    assert rows["at_s"].between(1.9, 8).all() and set(rows["how"]) == {"lost"}
