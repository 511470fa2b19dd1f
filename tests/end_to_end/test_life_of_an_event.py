"""One event, from the user that decides to publish it to the reader of the ledger: the stations of the page on architecture, walked."""

from __future__ import annotations

import socket
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Event, Thread

import hiredis
import pytest

from sim.bus.envelope import EVENT_TYPES, decode
from sim.grounds.catalogue import open_broker
from sim.record.schema import event_id, event_key
from sim.results.checkers import judge
from sim.results.opened_run import Run, open_run
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario
from tests.support.scenes import BOUND_S

pytestmark = pytest.mark.broker
CHANNEL = "config.template.invalidated"
SETTINGS = ("load.warm_up_s=0.5", "load.run_s=2", f'load.mix."{CHANNEL}"=30')


@dataclass
class Lived:
    run: Run
    overheard: list[tuple[bytes, bytes]]


def overhear(port: int, subscribed: Event, heard: list[tuple[bytes, bytes]]) -> None:
    """A subscriber that shares no code with the lab: its own socket, until the broker closes it."""
    with socket.create_connection(("127.0.0.1", port)) as wire:
        channels = b"".join(b"$%d\r\n%b\r\n" % (len(c), c) for c in (f"aiponge:events:{t}".encode() for t in EVENT_TYPES))
        wire.sendall(b"*%d\r\n$9\r\nSUBSCRIBE\r\n" % (len(EVENT_TYPES) + 1) + channels)
        reader = hiredis.Reader()
        while data := wire.recv(65536):
            reader.feed(data)
            while frame := reader.gets():
                if frame[0] == b"message":
                    heard.append((frame[1], frame[2]))
                elif frame[2] == len(EVENT_TYPES):
                    subscribed.set()


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    heard: list[tuple[bytes, bytes]] = []
    with open_broker("embedded") as broker:
        subscribed = Event()
        listener = Thread(target=overhear, args=(broker.address.port, subscribed, heard), daemon=True)
        listener.start()
        assert subscribed.wait(BOUND_S)
        folder = run_scenario(
            load_scenario("baseline", settings=SETTINGS), on=broker.address.url, out=tmp_path_factory.mktemp("life") / "run"
        )
    listener.join(BOUND_S)
    yield Lived(open_run(folder), heard)


def test_one_event_passes_every_station(lived: Lived) -> None:
    run = lived.run
    publishes = run.publishes
    published = publishes[(publishes["channel"] == CHANNEL) & (publishes["phase"] == "run")].iloc[0]
    name = event_id(int(published["event"]))

    # 1-2: a Locust user decided, the blocking client sent it, not before it was meant to
    assert str(published["publisher"]).startswith("ai-config-service-0@locust-")
    assert published["intended_ns"] <= published["sent_ns"] <= published["acked_ns"]

    # 3-5: the node made an event of it, its envelope crossed Redis on the reference's channel
    crossed = [(channel, decode(payload)) for channel, payload in lived.overheard if name.encode() in payload]
    assert [(channel.decode(), event.event_id, event.version, event.source) for channel, event in crossed] == [
        (f"aiponge:events:{CHANNEL}", name, "1.0", "ai-config-service")
    ]
    assert published["bytes"] == next(len(payload) for _, payload in lived.overheard if name.encode() in payload)

    # 6-10: every pod of every subscribing service read it, handled it once, and a row says when
    scenario = tomllib.loads((run.folder / "scenario.toml").read_text())
    pods = {f"{s}-{i}" for s, spec in scenario["services"].items() if CHANNEL in spec["subscribes"] for i in range(spec["replicas"])}
    rows = run.deliveries[run.deliveries["event"] == published["event"]]
    assert sorted(rows["pod"]) == sorted(pods)
    assert (rows["outcome"] == "handled").all()
    assert (rows["received_ns"] >= published["sent_ns"]).all()
    assert (rows["handled_ns"] >= rows["received_ns"]).all()
    assert published["receivers"] == len(pods) + 1, "PUBLISH counts the overhearing subscriber too"

    # 11-12: the ledger has one delivered copy a pod, and the story tells it
    ledger = run.ledger()
    copies = ledger[ledger["event"] == published["event"]]
    assert set(copies["pod"]) == pods
    assert set(copies["fate"]) == {"delivered"}
    story = str(run.story(name))
    assert name in story
    assert all(pod in story for pod in pods)


def test_the_runs_numbers_equal_an_independent_count(lived: Lived) -> None:
    run = lived.run
    overheard = sorted(
        (channel.decode().removeprefix("aiponge:events:"), event_key(decode(payload).event_id)) for channel, payload in lived.overheard
    )
    published = sorted(zip(run.publishes["channel"].astype(str), run.publishes["event"].tolist(), strict=True))
    assert overheard == published
    services = tomllib.loads((run.folder / "scenario.toml").read_text())["services"].values()
    copies = {t: sum(s["replicas"] for s in services if t in s["subscribes"]) for t in EVENT_TYPES}
    assert len(run.deliveries) == sum(copies[channel] for channel, _ in overheard)
    verdict = judge(run)
    assert verdict.checkers["ledger"].counts["missing"] == 0
    assert any("not ours" in note for note in run.info.notes), "the run says that somebody else listens"
