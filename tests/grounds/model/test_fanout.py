"""The arrays against the events: the same server and links, driven one event after another, copy for copy."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import hiredis
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sim.errors import UsageError
from sim.faults.link import LinkPlan
from sim.grounds.model.commands import MODEL_COMMANDS
from sim.grounds.model.costs import LINK, MIB, WINDOW_BYTES, Costs, OutputBufferLimit
from sim.grounds.model.fanout import QUANTILES, predict_fanout
from sim.grounds.model.loop import NS_PER_S, START_NS, JumpingLoop
from sim.grounds.model.network import Network
from sim.grounds.model.server import Client, ModelRedis
from sim.results.opened_run import open_run
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario
from sim.wire.resp import pack
from tests.support.examples import examples

CHANNEL = b"aiponge:events:config.template.invalidated"
ZERO_NS = START_NS + NS_PER_S  # when all have subscribed
COSTS = Costs()
PLAIN = LinkPlan(delay_ns=30_000)


class Subscriber(asyncio.Protocol):
    def __init__(self, heard: list[tuple[int, int]]) -> None:
        self.heard, self.reader = heard, hiredis.Reader()

    def connection_made(self, transport: Any) -> None:
        transport.write(pack(b"SUBSCRIBE", CHANNEL))

    def data_received(self, data: bytes) -> None:
        at_ns = asyncio.get_running_loop().now_ns()  # type: ignore[attr-defined]
        self.reader.feed(data)
        while (frame := self.reader.gets()) is not False:
            if frame[0] == b"message":
                self.heard.append((int(frame[2][:8]), at_ns))


class ByEvents:
    """Publish for real: `lags` has the lag of each copy, the rest is what the server says of itself."""

    def __init__(
        self,
        publish_ns: np.ndarray,
        *,
        subscribers: int,
        payload_bytes: int,
        publisher: np.ndarray,
        link: LinkPlan,
        costs: Costs = COSTS,
        limit: OutputBufferLimit = OutputBufferLimit(),  # noqa: B008 - frozen
    ) -> None:
        self.heard: list[tuple[int, int]] = []
        self.most_waiting = 0
        self.cut_ns: int | None = None

        def new_loop() -> JumpingLoop:
            loop = JumpingLoop()
            self.network = Network(loop, seed=1, plan=link)
            return loop

        async def scene() -> None:
            loop = self.network.loop
            self.server = server = ModelRedis(self.network, host="h", port=1, commands=MODEL_COMMANDS, costs=costs)
            server.start()
            server.limit = limit
            for _ in range(subscribers):
                await loop.create_connection(lambda: Subscriber(self.heard), "h", 1)
            senders = [(await loop.create_connection(asyncio.Protocol, "h", 1))[0] for _ in range(int(publisher.max()) + 1)]
            check = server._check_limit

            def checked(client: Client) -> None:
                self.most_waiting = max(self.most_waiting, client.peer.waiting_bytes)
                check(client)
                if client.gone and self.cut_ns is None:
                    self.cut_ns = loop.now_ns()

            server._check_limit = checked  # type: ignore[method-assign]
            await asyncio.sleep((ZERO_NS - loop.now_ns()) / NS_PER_S)
            busy_before = server.busy_ns
            for place, (at_ns, one) in enumerate(zip(publish_ns.tolist(), publisher.tolist(), strict=True)):
                frame = pack(b"PUBLISH", CHANNEL, (b"%08d" % place).ljust(payload_bytes, b"x"))
                loop.at_ns(at_ns, senders[one].write, frame)
            await asyncio.sleep((int(publish_ns[-1]) - loop.now_ns()) / NS_PER_S + 600)
            self.busy_share = (server.busy_ns - busy_before) / (server._busy_until_ns - int(publish_ns[0]) - link.delay_ns)

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(scene())
        self.lags = np.sort(np.array([at_ns - publish_ns[place] for place, at_ns in self.heard]))

    def quantile(self, share: float) -> int:
        return int(self.lags[max(1, int(np.ceil(share * len(self.lags)))) - 1])


def both(publish_ns: np.ndarray, *, publisher: np.ndarray | None = None, costs: Costs = COSTS, link: LinkPlan = PLAIN, **more: int) -> Any:
    given = np.zeros(len(publish_ns), dtype=np.int64) if publisher is None else publisher
    predicted = predict_fanout(publish_ns, channel_bytes=len(CHANNEL), publisher=given, costs=costs, link=link, **more)
    return predicted, ByEvents(publish_ns, publisher=given, costs=costs, link=link, **more)


def steady(rate_per_s: float, count: int) -> np.ndarray:
    times: np.ndarray = ZERO_NS + (np.arange(count) * (NS_PER_S / rate_per_s)).astype(np.int64)
    return times


def service_rate(subscribers: int, payload_bytes: int = 300) -> float:
    """Publishes per second that one turn each would come to: where batching begins."""
    warm = replace(Costs(), cold_ns=0)
    one = predict_fanout(steady(1, 1), subscribers=subscribers, payload_bytes=payload_bytes, channel_bytes=len(CHANNEL), costs=warm)
    return NS_PER_S / (max(one.lag_ns.values()) + 1)


@pytest.mark.parametrize("subscribers", [10, 100, 1000])
@pytest.mark.parametrize("share", [0.05, 0.6, 0.9, 1.4, 20.0])
def test_every_quantile_is_that_of_the_events_to_the_nanosecond(subscribers: int, share: float) -> None:
    """From low loads over those where turns begin to carry several publishes to those that no server keeps up with."""
    publish_ns = steady(share * service_rate(subscribers), 20_000 // subscribers)
    predicted, events = both(publish_ns, subscribers=subscribers, payload_bytes=300)
    assert len(events.lags) == predicted.copies
    assert predicted.lag_ns == {share: events.quantile(share) for share in QUANTILES}
    assert predicted.busy_share == events.busy_share
    if not 0.6 < share < 1:  # near saturation it depends on how cold the turns are
        assert (predicted.largest_turn > 1) == (share > 1)
    assert predicted.stable == (share < 10)


@settings(max_examples=examples(40), deadline=None)
@given(
    st.lists(st.integers(0, 400_000), min_size=1, max_size=60),
    st.integers(1, 20),
    st.integers(8, 3000),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
    st.sampled_from([Costs(), Costs(write_ns=0, byte_ns=0), Costs(turn_ns=40_000), Costs(copy_ns=3000, byte_ns=1.7)]),
)
@example([0] * 13, 10, 8, 1, 0, Costs())  # 0.9 x 13 x 10 in floats is more than 117, which is what 0.9 x 130 is
def test_any_bursts_of_several_publishers_too(
    gaps: list[int], subscribers: int, payload_bytes: int, publishers: int, seed: int, costs: Costs
) -> None:
    publish_ns = ZERO_NS + np.cumsum(np.array(gaps) + 1)  # two in the same nanosecond have no order that a rule gives
    publisher = np.random.default_rng(seed).integers(0, publishers, len(gaps))
    predicted, events = both(publish_ns, publisher=publisher, subscribers=subscribers, payload_bytes=payload_bytes, costs=costs)
    assert predicted.lag_ns == {share: events.quantile(share) for share in QUANTILES}
    assert predicted.busy_share == events.busy_share


@pytest.mark.parametrize("jitter_ns, tolerance", [(0, 0.003), (20_000, 0.01)])
def test_links_with_a_rate_and_with_jitter_are_as_the_events_to_a_bin(jitter_ns: int, tolerance: float) -> None:
    link = LinkPlan(delay_ns=30_000, jitter_ns=jitter_ns, bytes_per_s=400_000)
    predicted, events = both(steady(900, 3000), subscribers=20, payload_bytes=300, link=link)
    for share in (0.5, 0.9, 0.99):
        assert predicted.lag_ns[share] == pytest.approx(events.quantile(share), rel=tolerance)
    assert predicted.stable


def test_a_link_that_is_too_slow_fills_the_buffer_and_the_limit_is_crossed_when_the_server_cuts() -> None:
    """Eight megabytes a second for links of one: from a hundred publishers, so that theirs keep up."""
    publish_ns, publisher = steady(400, 3200), np.arange(3200) % 100
    link, no_limit, hard = LinkPlan(delay_ns=30_000, bytes_per_s=1_000_000), OutputBufferLimit(0, 0, 0), OutputBufferLimit(8 * MIB, 0, 0)
    soft = OutputBufferLimit(0, 1 * MIB, 1)
    more: dict[str, Any] = {"subscribers": 3, "payload_bytes": 20_000, "publisher": publisher, "link": link}
    free = ByEvents(publish_ns, limit=no_limit, **more)
    for limit in (no_limit, hard, soft):
        predicted = predict_fanout(publish_ns, channel_bytes=len(CHANNEL), limit=limit, **more)
        cut_ns = ByEvents(publish_ns, limit=limit, **more).cut_ns
        assert not predicted.stable
        assert predicted.output_buffer_bytes == free.most_waiting > 8 * MIB > WINDOW_BYTES
        assert predicted.limit_crossed_s == (None if cut_ns is None else (cut_ns - ZERO_NS) / NS_PER_S)
        assert (cut_ns is None) == (limit is no_limit)


def test_a_scenario_of_pods_comes_to_the_same(tmp_path: Path) -> None:
    """The whole lab on the event path, jitter, samplers and all: within one percent."""
    text = """
title = "A steady fan-out"
[load]
driver = "pods"
arrivals = "uniform"
rate_per_s = 350
warm_up_s = 0
run_s = 4
[load.mix]
"config.template.invalidated" = 1
[services.music-service]
replicas = 200
subscribes = ["config.template.invalidated"]
[services.ai-config-service]
replicas = 1
publishes = ["config.template.invalidated"]
"""
    (tmp_path / "fan.toml").write_text(text)
    run = open_run(run_scenario(load_scenario(tmp_path / "fan.toml"), on="model", out=tmp_path / "run"))
    sent = run.publishes[run.publishes["items"] > 0]
    heard = run.deliveries[run.deliveries["event"].isin(sent["event"])]
    lags = np.sort((heard.set_index("event")["received_ns"] - sent.set_index("event")["sent_ns"].reindex(heard["event"])).to_numpy())
    predicted = predict_fanout(
        np.sort(sent["sent_ns"].to_numpy()),
        subscribers=200,
        payload_bytes=int(sent["bytes"].median()),
        channel_bytes=len(CHANNEL),
        link=LINK,
        quantiles=(0.1, 0.5, 0.9, 0.99),
    )
    assert len(lags) == predicted.copies == 200 * 1400
    for share, lag_ns in predicted.lag_ns.items():
        assert lag_ns == pytest.approx(lags[int(share * len(lags))], rel=0.01)


def test_ten_thousand_pods_for_an_hour_of_which_the_events_would_take_an_hour() -> None:
    """15 publishes a second are 540 million copies; the server is busy two thirds of the time."""
    publish_ns = np.sort(np.random.default_rng(1).integers(0, 3600 * NS_PER_S, 15 * 3600)) + ZERO_NS
    predicted = predict_fanout(publish_ns, subscribers=10_000, payload_bytes=300, channel_bytes=len(CHANNEL))
    assert predicted.copies == 540_000_000
    assert predicted.stable and 0.6 < predicted.busy_share < 0.7
    assert predicted.largest_turn > 1
    assert predicted.lag_ns[0.5] < predicted.lag_ns[0.99] < NS_PER_S


@pytest.mark.parametrize(
    "publish_ns, subscribers, link, says",
    [
        ([], 1, PLAIN, "0 publishes to 1 subscriber:"),
        ([1], 0, PLAIN, "1 publish to 0 subscribers"),
        ([1, 3, 2], 1, PLAIN, "falls after place 1"),
        ([1], 1, LinkPlan(held=True), "link.held"),
    ],
)
def test_what_cannot_be_predicted_is_refused(publish_ns: list[int], subscribers: int, link: LinkPlan, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        predict_fanout(np.array(publish_ns), subscribers=subscribers, payload_bytes=10, channel_bytes=5, link=link)
