"""What a link carries for a call is what the broker counts itself, and lies between the ends that TCP's own counters show."""

from __future__ import annotations

import contextlib
import math
import socket
import struct
from pathlib import Path

import msgspec
import pytest
import redis

import sim
from sim.grounds.catalogue import open_broker
from sim.measure.capacity.frames import HEADER_BYTES, SEGMENT_BYTES, Sent, alone, on_link, packed
from sim.measure.capacity.link_table import LINK_HEADINGS, link_rows, link_sentence
from sim.measure.capacity.run import workload_of
from sim.measure.capacity.saturate import payload_of
from sim.scenario.file import load_scenario
from sim.wire.resp import pack
from tests.support.scenes import BOUND_S

ONE_MIX = ("load.mix={}", 'load.mix."config.cache.invalidate"=1')
METRICS = ("load.mix={}", 'load.mix."analytics.metric.recorded"=1', "load.payload_bytes=500")
MIXES = {"everyday": (), "invalidations": ONE_MIX, "metrics of 500 B": METRICS}
OFF = 0.002  # of the broker's counter, which also counts what the test itself asks


@pytest.mark.parametrize("size", [1, 99, 100, 9_999, 10_000, 16_005])
def test_a_frame_is_as_long_as_the_one_that_redis_sends(size: int) -> None:
    channel = b"aiponge:events:x"
    assert (
        Sent(1.0, 1, size, len(channel)).frame_bytes
        == len(pack(b"message", channel, b"x" * size))
        == len(pack(b"PUBLISH", channel, b"x" * size))
    )


def test_headers_are_counted_to_the_gap_between_two_packets() -> None:
    assert (SEGMENT_BYTES, HEADER_BYTES) == (1448, 90)
    assert alone(1448) == 1538 and alone(1449) == 1449 + 180 and alone(4) == 94
    assert packed(1448 * 3) == pytest.approx(1538 * 3)


def test_copies_leave_the_broker_and_publishes_come_to_it_and_the_fuller_direction_counts() -> None:
    heard, unheard = Sent(1.0, 10, 300, 20), Sent(1.0, 0, 300, 20)
    frame = heard.frame_bytes
    assert heard.answer_bytes == len(b":10\r\n") and heard.counted_bytes == 10 * frame + 5
    both = on_link([heard])
    assert both.fewest == pytest.approx((10 * frame + 5) * 1538 / 1448)
    assert both.most == 10 * (frame + 90) + (5 + 90) + 90  # ten copies, the answer, and an acknowledgement of the PUBLISH
    assert on_link([unheard]).most == frame + 90 + 90  # a PUBLISH, and an acknowledgement of its answer
    least, most = both.calls_per_s(8.0)
    assert least == pytest.approx(1e6 / both.most) and most == pytest.approx(1e6 / both.fewest)
    assert on_link([]).calls_per_s(8.0) == (math.inf, math.inf)


def test_everyday_load_fills_a_gigabit_at_what_its_frames_say() -> None:
    load = workload_of(load_scenario("baseline"))
    rows = {row[0]: dict(zip(LINK_HEADINGS, row, strict=True)) for row in link_rows(load)}
    assert rows["a copy of the mix"]["envelope, B"] == "417" and rows["a copy of the mix"]["in Redis' frame, B"] == "491"
    least, most = on_link(load.sent(math.inf)).calls_per_s(1000.0)
    assert 170_000 < least < most < 230_000 < 1e9 / 8 / load.bytes_per_call(math.inf) < 240_000
    said = link_sentence(load, calls_per_s=math.inf, counted=(0.0, 1300.0))
    assert f"at {least:,.0f} to {most:,.0f} calls/s" in said and "says 1,300 B an event" in said
    assert "was not read" in link_sentence(load, calls_per_s=math.inf, counted=(0.0,))


def test_the_channels_name_is_that_of_the_scenario() -> None:
    short, long = (workload_of(load_scenario("baseline", settings=(f"bus.channel_prefix={name}",))) for name in ("a:", "a" * 100 + ":"))
    copies = short.copies_per_call(math.inf)
    assert (long.bytes_per_call(math.inf) - short.bytes_per_call(math.inf)) / copies == pytest.approx(99 + 1)  # its length has a digit more
    old = msgspec.structs.replace(short.kinds[0], channel="")
    assert old.channel_bytes == len(f"aiponge:events:{old.name}")


@pytest.mark.broker
@pytest.mark.parametrize("settings", MIXES.values(), ids=MIXES)
def test_frames_are_what_the_broker_counts_as_sent(settings: tuple[str, ...]) -> None:
    scenario = load_scenario("baseline", settings=settings)
    load, calls, size = workload_of(scenario), 10_000, scenario.load.payload_bytes
    names = {kind.name: kind.channel.encode() for kind in load.kinds}
    channels = [[names[n] for n in its.subscribes if n in names] for its in scenario.services.values() for _ in range(its.replicas)]
    with open_broker("embedded") as broker, contextlib.ExitStack() as stack:
        asked = redis.Redis.from_url(broker.address.url)
        heard = [stack.enter_context(_subscriber(broker.address.port, *one)) for one in channels if one]
        publisher = stack.enter_context(socket.create_connection(("127.0.0.1", broker.address.port), BOUND_S))
        before = int(asked.info("stats")["total_net_output_bytes"])
        for kind, one in zip(load.kinds, load.sent(math.inf), strict=True):
            payload = payload_of(kind.name, payload_bytes=size, items=load.batch_size)
            for _ in range(round(one.events * calls)):
                publisher.sendall(pack(b"PUBLISH", names[kind.name], payload))
                _read(publisher, one.answer_bytes)
                for each, its in zip(heard, filter(None, channels), strict=True):
                    if names[kind.name] in its:
                        _read(each, len(pack(b"message", names[kind.name], payload)))
        counted = int(asked.info("stats")["total_net_output_bytes"]) - before
        asked.close()
    assert counted == pytest.approx(load.bytes_per_call(math.inf) * calls, rel=OFF)


@pytest.mark.broker
@pytest.mark.parametrize("mix", [(), ONE_MIX], ids=["everyday", "invalidations"])
def test_a_run_s_copies_take_what_was_computed_beside_what_the_lab_asks(mix: tuple[str, ...], tmp_path: Path) -> None:
    settings = ("load.driver=pods", "load.rate_per_s=2000", "load.reads_per_s=0", "load.warm_up_s=1", "load.run_s=4", "slo={}", *mix)
    scenario = load_scenario("baseline", settings=settings)
    load = workload_of(scenario)
    run = sim.open_run(sim.run_scenario(scenario, out=tmp_path / "run"))
    begin, end = run.phase("run")
    said = run.broker[run.broker["metric"].eq("net_output_bytes") & run.broker["at_ns"].between(begin, end)].sort_values("at_ns")
    first, last = said["at_ns"].iloc[0], said["at_ns"].iloc[-1]
    copies = int(run.deliveries["received_ns"].between(first, last).sum())
    counted = float(said["value"].iloc[-1] - said["value"].iloc[0])
    computed = load.bytes_per_call(math.inf) / load.copies_per_call(math.inf) * copies
    asked = 80_000.0 * (last - first) / 1e9  # INFO and CLIENT LIST, some 50 kB a second
    assert 0.97 * computed <= counted <= 1.03 * computed + asked


@pytest.mark.broker
@pytest.mark.parametrize("deep", [1, 16])
def test_packets_lie_between_full_ones_and_one_an_event(deep: int) -> None:
    """TCP counts the segments of each subscriber itself, of 1,448 bytes as on Ethernet."""
    channel, payload, many = b"aiponge:events:x", b"x" * 300, 400
    with open_broker("embedded") as broker:
        heard = [_subscriber(broker.address.port, channel) for _ in range(3)]
        with socket.create_connection(("127.0.0.1", broker.address.port), BOUND_S) as publisher:
            for _ in range(many // deep):
                publisher.sendall(pack(b"PUBLISH", channel, payload) * deep)
                _read(publisher, len(b":3\r\n") * deep)
        frame = Sent(1.0, 3, len(payload), len(channel)).frame_bytes
        for one in heard:
            confirmed = _confirmed(channel)
            _read(one, frame * many)
            received, packets = _tcp_counts(one)
            on_wire = received + packets * HEADER_BYTES
            assert received == frame * many + confirmed
            assert packed(frame * many) <= on_wire <= (alone(frame) * many + alone(confirmed))
            one.close()


def _subscriber(port: int, *channels: bytes) -> socket.socket:
    one = socket.socket()
    one.settimeout(BOUND_S)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1460)
    one.connect(("127.0.0.1", port))
    one.sendall(pack(b"SUBSCRIBE", *channels))
    for number, channel in enumerate(channels, 1):
        _read(one, _confirmed(channel, number))
    return one


def _confirmed(channel: bytes, number: int = 1) -> int:
    """Return the length of the answer to a SUBSCRIBE."""
    return len(pack(b"subscribe", channel, b"")) - len(b"$0\r\n\r\n") + len(f":{number}\r\n")


def _read(one: socket.socket, size: int) -> None:
    while size > 0:
        data = one.recv(size)
        assert data, "the broker closed the connection"
        size -= len(data)


def _tcp_counts(one: socket.socket) -> tuple[int, int]:
    """Return bytes received and segments with data, from the kernel's struct tcp_info."""
    info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    return struct.unpack_from("Q", info, 128)[0], struct.unpack_from("I", info, 152)[0]
