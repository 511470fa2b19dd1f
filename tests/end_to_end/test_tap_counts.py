"""A tap against an independent count: `buslab tap` between raw subscribers and a server that is killed twice; they agree to the copy."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from sim.grounds.embedded import embedded
from sim.record.schema import event_id
from sim.results.opened_run import open_run
from tests.support.raw_subscribers import RawSubscribers

pytestmark = pytest.mark.broker
CHANNEL = "shop:orders"
CLIENTS = 10
DEPTH = 16


def publishing(port: int, ids: range, answers: Counter[str]) -> None:
    """Publish events in writes of `DEPTH`, each under its id; count what was answered, and connect again after each loss."""
    link: socket.socket | None = None
    numbers = list(ids)
    while numbers:
        some, numbers = numbers[:DEPTH], numbers[DEPTH:]
        words = [b'{"eventId":"evt_%016x"}' % number for number in some]
        body = b"".join(b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(CHANNEL), CHANNEL.encode(), len(w), w) for w in words)
        answered = b""
        try:
            link = link or socket.create_connection(("127.0.0.1", port), timeout=5)
            link.sendall(body)
            while answered.count(b"\r\n") < len(some):
                if not (more := link.recv(4096)):
                    raise OSError("closed")
                answered += more
        except OSError:
            if link is not None:
                link.close()
            link = None
            time.sleep(0.02)
        answers["answered"] += answered.count(b"\r\n")
    if link is not None:
        link.close()


@pytest.mark.parametrize("events", [6_000, pytest.param(100_000, marks=pytest.mark.deep)])
def test_the_tap_and_raw_subscribers_agree_to_the_copy_in_two_outages(events: int, tmp_path: Path) -> None:
    out, answers = tmp_path / "tapped", Counter[str]()
    with embedded() as broker:
        argv = [
            sys.executable,
            "-m",
            "sim.cli",
            "tap",
            "--listen",
            "127.0.0.1:0",
            "--to",
            str(broker.address),
            "--out",
            str(out),
            "--id",
            "/eventId",
        ]
        tap = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        assert tap.stderr is not None
        try:
            port = int(tap.stderr.readline().rpartition(":")[2])
            with RawSubscribers(port, many=CLIENTS, channel=CHANNEL) as raw:
                raw.until_subscribed()
                third = events // 3
                for part in range(3):
                    publisher = threading.Thread(target=publishing, args=(port, range(part * third, (part + 1) * third), answers))
                    publisher.start()
                    if part:  # in the middle of what is published
                        time.sleep(0.05)
                        asyncio.run(broker.kill())
                        asyncio.run(broker.start())
                    publisher.join(120)
                    raw.until_subscribed()
                raw.until_quiet()
            tap.send_signal(signal.SIGTERM)
            assert tap.wait(60) == 128 + signal.SIGTERM
        finally:
            tap.kill()
            tap.wait()
            tap.stderr.close()
    run = open_run(out)
    assert run.info.state == "interrupted"
    counted = {name: ids for name, ids in raw.heard.items() if ids}
    assert sum(map(len, counted.values())) >= events * CLIENTS // 3  # what was heard before the first outage, at the least
    told: dict[str, list[str]] = {}
    for pod, event in zip(run.deliveries["pod"].astype(str), run.deliveries["event"].tolist(), strict=True):
        told.setdefault(pod.removeprefix("tap/").partition("#")[0], []).append(event_id(event))
    assert told == counted
    assert (run.publishes["outcome"] == "acknowledged").sum() == answers["answered"]
    assert set(run.publishes["channel"]) == {CHANNEL}
