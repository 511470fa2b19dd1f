"""A capture of a real server: what it keeps, what it never keeps, and each way in which it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from sim.errors import BuslabError, CaptureError, UsageError
from sim.grounds.catalogue import open_broker
from sim.measure.traffic.capture import MIB, Wanted, wanted_of
from sim.record.capture_file import NAME, read_capture
from sim.wire.address import Address
from tests.support.captures import capturing, heard_while

pytestmark = pytest.mark.broker
BOUND_S = 60.0


def publishing(address: Address, many: int, *channels: str) -> Callable[[], None]:
    def publish() -> None:
        with redis.Redis.from_url(address.url) as client:
            for n in range(many):
                client.publish(channels[n % len(channels)], b"secret %d" % n)

    return publish


def test_each_event_is_kept_with_its_channel_time_and_size(address: Address, tmp_path: Path) -> None:
    begun: list[float] = []

    def publish() -> None:
        begun.append(time.monotonic())
        publishing(address, 300, "shop:a", "shop:b", "other")()

    made = heard_while(address.url, wanted_of(pattern="shop:*", for_s=30, max_events=200), tmp_path / "c", publish)
    took_s = time.monotonic() - begun[0]
    capture = read_capture(made.file)
    assert [capture.channels[code] for code in capture.channel] == ["shop:a", "shop:b"] * 100
    assert capture.sizes.tolist() == [len(b"secret %d" % n) for n in range(300) if n % 3 < 2]
    assert capture.payloads == {} and b"secret" not in made.file.read_bytes()
    assert capture.at_ns[0] > 0 and (capture.at_ns[-1] - capture.at_ns[0]) / 1e9 <= took_s
    info = made.info
    assert (info.heard_by, info.names, info.ended, info.events, info.forms) == ("PSUBSCRIBE", ("shop:*",), "events", 200, {"other": 40})
    assert info.seconds * 1e9 >= capture.at_ns[-1] and info.server == str(address)


@pytest.mark.parametrize("sharded", [False, True])
def test_payloads_are_kept_of_channels_that_were_named_and_of_no_other(address: Address, tmp_path: Path, sharded: bool) -> None:
    def publish() -> None:
        with redis.Redis.from_url(address.url) as client:
            for n in range(20):
                (client.spublish if sharded else client.publish)(f"shop:{'ab'[n % 2]}", b"secret %d" % n)

    wanted = wanted_of(channels=["shop:a", "shop:b"], sharded=sharded, for_s=30, payloads=["shop:a"], max_events=20)
    made = heard_while(address.url, wanted, tmp_path / "c", publish)
    capture = read_capture(made.file)
    assert capture.payloads == {n: b"secret %d" % n for n in range(0, 20, 2)}
    assert made.info.with_payload == ("shop:a",) and made.info.heard_by == ("SSUBSCRIBE" if sharded else "SUBSCRIBE")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "give --pattern"),
        ({"pattern": "a*", "channels": ["a"]}, "give one of them"),
        ({"pattern": "a*", "sharded": True}, "knows no patterns"),
        ({"pattern": "shop:*", "payloads": ["shop:*"]}, "each by its whole name"),
        ({"pattern": "shop:*", "payloads": ["*"]}, "each by its whole name"),
        ({"pattern": "shop:*", "payloads": ["shop:[ab]"]}, "each by its whole name"),
        ({"pattern": "shop:*", "payloads": [""]}, "is empty"),
        ({"channels": ["shop:a"], "payloads": ["shop:b"]}, "it is not captured .did you mean 'shop:a'"),
        ({"channels": [""]}, "is empty"),
        ({"pattern": "\udc80"}, "UTF-8"),
        ({"pattern": "a", "for_s": 0}, "more than 0 s"),
        ({"pattern": "a", "for_s": 90_000}, "24 h at most"),
    ],
)
def test_what_cannot_be_captured_is_refused(given: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        wanted_of(**given)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_all_named_channels_may_have_their_payloads_kept() -> None:
    assert wanted_of(channels=["a", "b*"], payloads=["*"]).payloads == {b"a", b"b*"}


def test_a_pattern_that_matches_nothing_says_what_is_there(address: Address, tmp_path: Path) -> None:
    with redis.Redis.from_url(address.url) as client, client.pubsub() as hears:
        hears.subscribe("shop:created")
        hears.get_message(timeout=5)
        with pytest.raises(
            CaptureError, match=r"nothing was published on 'shop:\*' .* within 200 ms: somebody hears shop:created there"
        ) as caught:
            heard_while(address.url, wanted_of(pattern="shop:*", for_s=0.2), tmp_path / "new" / "c", lambda: None)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_bytes_of_payloads_are_bounded(address: Address, tmp_path: Path) -> None:
    wanted = wanted_of(channels=["shop:a"], payloads=["*"], for_s=30, max_mb=100 / MIB)
    made = heard_while(address.url, wanted, tmp_path / "c", publishing(address, 50, "shop:a"))
    assert made.info.ended == "bytes" and 100 <= sum(map(len, read_capture(made.file).payloads.values())) < 110


def test_channels_are_bounded(address: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.measure.traffic.capture.MAX_CHANNELS", 10)
    names = [f"many:{n}" for n in range(12)]
    made = heard_while(address.url, wanted_of(pattern="many:*", for_s=30), tmp_path / "c", publishing(address, 12, *names))
    assert made.info.ended == "channels" and "narrow the pattern" in made.info.reason
    assert read_capture(made.file).channels == tuple(names[:10])


def test_a_server_that_goes_away_leaves_what_was_heard(own_server: tuple[Address, redis.Redis], tmp_path: Path) -> None:
    address, client = own_server

    def publish() -> None:
        publishing(address, 30, "shop:a")()
        client.shutdown(nosave=True)

    made = heard_while(address.url, wanted_of(pattern="*", for_s=30), tmp_path / "c", publish)
    assert (made.info.ended, made.info.events) == ("server", 30)
    assert made.info.reason.startswith(f"{address} ended the connection")
    assert len(read_capture(made.file)) == 30


def test_a_server_that_goes_away_before_anything_came_is_one_line(own_server: tuple[Address, redis.Redis], tmp_path: Path) -> None:
    address, client = own_server
    with pytest.raises(CaptureError, match=r"ended the connection.*; nothing was heard"):
        heard_while(address.url, wanted_of(pattern="*", for_s=30), tmp_path / "c", lambda: client.shutdown(nosave=True))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("denied", [(), ("-client|list",), ("-client", "-info", "-pubsub|channels")], ids=["all", "no list", "nothing"])
def test_a_server_that_tells_little_is_captured_all_the_same_and_no_password_is_kept(
    own_server: tuple[Address, redis.Redis], tmp_path: Path, denied: tuple[str, ...]
) -> None:
    address, client = own_server
    client.execute_command("ACL", "SETUSER", "reader", "on", ">hunter2", "+@all", "allchannels", "resetkeys", *denied)
    url = f"redis://reader:hunter2@{address.host}:{address.port}"
    made = heard_while(url, wanted_of(pattern="*", for_s=1.0), tmp_path / "c", publishing(address, 30, "shop:a"))
    assert (made.info.ended, made.info.events) == ("time", 30)
    assert (made.info.buffer_bytes_max is None) == bool(denied)
    for file in made.folder.iterdir():
        assert b"hunter2" not in file.read_bytes() and b"reader" not in file.read_bytes()


@pytest.mark.parametrize("large", [False, True], ids=["small", "large payloads, which Valkey does not count"])
def test_it_ends_when_the_server_keeps_more_for_it_than_it_may(
    own_server: tuple[Address, redis.Redis], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    """The connection that hears reads no more, as that of a capture which cannot keep up."""
    address, client = own_server
    client.config_set("client-output-buffer-limit", "pubsub 0 0 0")
    monkeypatch.setattr("sim.measure.traffic.watch.PONG_S", 0.5)
    from sim.wire.listening import ChannelListener

    opened: list[ChannelListener] = []
    begin = ChannelListener.subscribe

    async def subscribe(listener: ChannelListener, names: list[str]) -> None:
        await begin(listener, names)
        opened.append(listener)

    monkeypatch.setattr(ChannelListener, "subscribe", subscribe)

    def publish() -> None:
        publishing(address, 20, "shop:a")()
        time.sleep(0.3)
        opened[0]._wire.pause("too slow")
        many, size = (300, 100_000) if large else (20_000, 1_000)
        with client.pipeline(transaction=False) as pipeline:
            for _ in range(many):
                pipeline.publish("shop:a", b"x" * size)
            pipeline.execute()

    made = heard_while(address.url, wanted_of(pattern="shop:*", for_s=50), tmp_path / "c", publish)
    assert made.info.ended == "buffer" and made.info.reason.startswith("it was a burden to the server: ")
    assert made.info.events >= 20 and made.info.seconds < 45
    assert len(read_capture(made.file)) == made.info.events


def test_a_folder_that_holds_something_is_refused(address: Address, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine").touch()
    with pytest.raises(UsageError, match="not empty"):
        heard_while(address.url, wanted_of(pattern="*"), tmp_path / "c", lambda: None)


def test_the_lab_itself_may_be_captured_and_its_probes_are_left_out(own_server: tuple[Address, redis.Redis], tmp_path: Path) -> None:
    from sim.results.opened_run import open_run
    from sim.run.steps import run_scenario
    from sim.scenario.file import load_scenario

    address, _ = own_server
    scenario = load_scenario("baseline", settings=("load.driver=pods", "load.run_s=1", "load.warm_up_s=0", "bus.batch_interval_ms=200"))
    with capturing(address.url, tmp_path / "c", "--pattern", "aiponge:events:*"):
        run_scenario(scenario, on=address.url, out=tmp_path / "run")
    published, info = open_run(tmp_path / "run").publishes, read_capture(tmp_path / "c" / NAME).info
    assert info.events == (published["items"] > 0).sum() and info.probes == (published["items"] == 0).sum() > 0
    assert info.forms.keys() == {"aiponge"}


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*args: str, **env: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "sim.cli", "capture", *args]
        child = subprocess.Popen(argv, cwd=tmp_path, env=os.environ | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_was_heard_and_the_file_says_so(
    address: Address, tmp_path: Path, command: Callable[..., subprocess.Popen[str]], number: signal.Signals
) -> None:
    child = command("--pattern", "shop:*", "--for", "10m", "--out", "c", BUSLAB_ON=address.url)
    assert child.stderr is not None and "listening" in child.stderr.readline()
    publishing(address, 30, "shop:a")()
    time.sleep(0.3)
    child.send_signal(number)
    out, err = child.communicate(timeout=BOUND_S)
    assert child.returncode == 128 + number, err
    assert f"ended early: interrupted by {number.name}" in err and "Traceback" not in err
    capture = read_capture(tmp_path / "c" / NAME)
    assert (capture.info.ended, len(capture)) == ("interrupted", 30)
    assert re.search(r"^capture +c/capture.parquet: 30 events", out, re.M)
    assert "ended early" in (tmp_path / "c" / "replay.toml").read_text()


def test_a_signal_before_anything_came_is_one_line_and_leaves_nothing(
    address: Address, tmp_path: Path, command: Callable[..., subprocess.Popen[str]]
) -> None:
    child = command(address.url, "--pattern", "shop:*", "--out", "c")
    assert child.stderr is not None and "listening" in child.stderr.readline()
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=BOUND_S)
    assert child.returncode == 130 and out == ""
    assert err == "buslab: interrupted by SIGINT: nothing was heard on 'shop:*' until then, and nothing is kept\n"
    assert not (tmp_path / "c").exists()


def test_shards_of_a_cluster_are_heard_from_their_masters(tmp_path: Path) -> None:
    channels = [f"shop:{n}" for n in range(8)]
    with open_broker("cluster:3") as broker:

        def publish() -> None:
            with redis.RedisCluster.from_url(broker.address.nodes[0].url) as client:
                for n in range(80):
                    client.spublish(channels[n % 8], b"%d" % n)

        made = heard_while(
            broker.address.urls, wanted_of(channels=channels, sharded=True, for_s=30, max_events=80), tmp_path / "c", publish
        )
    capture = read_capture(made.file)
    assert sorted(capture.channels) == channels and [len(rows) for rows in capture.by_channel()] == [10] * 8


def test_it_may_be_called_where_an_event_loop_runs(address: Address, tmp_path: Path, run_async: Callable[..., object]) -> None:
    from sim.measure.traffic.capture import capture_traffic

    async def in_a_notebook() -> int:
        return len(read_capture(capture_traffic(address.url, Wanted("PSUBSCRIBE", ("*",), 0.4), out=tmp_path / "c").file))

    with pytest.raises(BuslabError, match="nothing was published"):
        run_async(in_a_notebook())
