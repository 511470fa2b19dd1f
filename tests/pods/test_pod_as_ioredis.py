"""A pod whose client behaves as ioredis: its queue, its tries, what it sends again, and a first SUBSCRIBE that is rejected."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sim.bus.fallback import Policy
from sim.bus.tries import IoredisTries
from sim.errors import BrokerError
from sim.pods.context import OutageRules, outage_rules
from sim.scenario.client_settings import Ioredis
from sim.scenario.settings import Bus
from sim.wire.pipeline import Pipeline
from tests.pods.test_pod_outage import Lab, lab
from tests.support.scenes import BOUND_S, Ground, on_both, until

IOREDIS = outage_rules(Bus(client="ioredis"))


async def through_an_outage(one: Lab, *, events: int = 5) -> None:
    """Kill the broker, publish, and start it again."""
    await one.ground.control.kill()
    await one.until("outage")
    for _ in range(events):
        one.publish()
    await one.ground.control.start()
    await one.until("connected")
    await until(lambda: not one.pod._kept)
    await one.pod.settle(timeout_s=BOUND_S)


def test_the_rules_are_the_defaults_of_ioredis() -> None:
    policy = Policy(fallback="on-failure", reattach="automatic", outage_queue="keep", recovery="each-alone")
    tries = IoredisTries(step_s=0.05, most_s=2.0, most_retries=20)
    rules = OutageRules(policy=policy, queue_limit=1_000_000, tries=tries, resend=True, open_within_s=10.0)
    assert outage_rules(Bus(client="ioredis")) == rules
    assert outage_rules(Bus()) == OutageRules(), "the reference's text is the default"


@on_both
def test_what_is_published_in_an_outage_leaves_after_it_in_order_and_nothing_stays_in_the_pod(tmp_path: Path, ground: Ground) -> None:
    async def story() -> Lab:
        async with lab(ground, tmp_path, rules=IOREDIS) as one:
            await through_an_outage(one)
        return one

    states, outcomes, heard = ground.run(story()).written()
    assert outcomes == ["acknowledged"] * 5
    assert set(heard) <= {("broker", "handled")}, "who is ready first decides how many"
    after = states[states.index("outage") + 1 :]
    assert after in (["mute", "connected", "stopped"], ["deaf", "connected", "stopped"]), "either connection may be back first"


def test_which_connection_is_back_first_is_chance_and_decides_how_many_are_lost(tmp_path: Path, ground: Ground) -> None:
    """Only a pod's own copies count here: with several services each publisher races against every other pod's subscription."""

    async def story(seed: int) -> Lab:
        one = Lab(ground, tmp_path / str(seed), rules=IOREDIS)
        one.pod._connections._random.seed(seed)
        await one.pod.start()
        await through_an_outage(one, events=100)
        await one.pod.stop(timeout_s=BOUND_S)
        return one

    found = set()
    for seed in range(8):
        states, outcomes, heard = ground.run(story(seed)).written()
        found.add((states[states.index("outage") + 1], len(heard)))
        assert outcomes == ["acknowledged"] * 100
    assert {heard for first, heard in found if first == "mute"} == {100}, "it hears before it publishes: all of them, late"
    assert min(heard for first, heard in found if first == "deaf") == 0, "they were gone before it asked for them"
    assert max(heard for first, heard in found if first == "deaf") < 100


@pytest.mark.parametrize(("fallback", "outcome", "heard"), [("on-failure", "memory", 5), ("no-url", "refused", 0)])
def test_without_the_offline_queue_a_publish_is_rejected_at_once_and_the_text_says_what_then(
    tmp_path: Path, ground: Ground, fallback: str, outcome: str, heard: int
) -> None:
    bus = Bus(client="ioredis", fallback=fallback, ioredis=Ioredis(enableOfflineQueue=False))  # type: ignore[arg-type]

    async def story() -> Lab:
        async with lab(ground, tmp_path, rules=outage_rules(bus)) as one:
            await through_an_outage(one)
        return one

    _, outcomes, got = ground.run(story()).written()
    assert (outcomes, got) == ([outcome] * 5, [("memory", "handled")] * heard)


def test_what_waits_is_rejected_after_so_many_retries(tmp_path: Path, ground: Ground) -> None:
    async def story() -> Lab:
        async with lab(ground, tmp_path, rules=replace(IOREDIS, tries=IoredisTries(most_retries=2))) as one:
            await ground.control.kill()
            await one.until("outage")
            one.publish()
            await until(lambda: not one.pod._kept)
            one.publish()  # which sees no more than one retry
            await ground.control.start()
            await one.until("connected")
            await one.pod.settle(timeout_s=BOUND_S)
        return one

    _, outcomes, _ = ground.run(story()).written()
    assert outcomes == ["refused", "acknowledged"]


@on_both
@pytest.mark.parametrize(("resend", "outcomes", "copies"), [(True, ["acknowledged"] * 2, 3), (False, ["unknown", "acknowledged"], 2)])
def test_what_had_no_answer_is_sent_again_and_heard_twice(
    tmp_path: Path, ground: Ground, resend: bool, outcomes: list[str], copies: int
) -> None:
    async def story() -> Lab:
        async with lab(ground, tmp_path, rules=replace(IOREDIS, resend=resend)) as one:
            publisher = one.pod._connections._publisher
            assert isinstance(publisher, Pipeline)
            publisher._wire.pause("a test")  # the answer is not read
            one.publish()
            await until(lambda: one.recorder.rows("deliveries") == 1)
            publisher.give_up("a test")
            assert one.pod.fallback.state == "mute"
            one.publish()
            await one.until("connected")
            await until(lambda: one.recorder.rows("deliveries") == copies)
            await one.pod.settle(timeout_s=BOUND_S)
        return one

    _, told, heard = ground.run(story()).written()
    assert (told, len(heard)) == (outcomes, copies)


def test_an_event_that_was_sent_before_keeps_its_first_time_and_its_place(tmp_path: Path, ground: Ground) -> None:
    async def story() -> Lab:
        async with lab(ground, tmp_path, rules=IOREDIS) as one:
            await ground.control.freeze()
            one.publish()
            await ground.control.kill()
            await one.until("outage")
            one.publish()
            await ground.control.start()
            await one.until("connected")
            await one.pod.settle(timeout_s=BOUND_S)
        return one

    ground.run(story()).written()
    table = pq.read_table(tmp_path / "publishes.parquet").to_pydict()
    (first, second), (began, left), acked = table["event"], table["sent_ns"], table["acked_ns"]
    assert table["outcome"] == ["acknowledged"] * 2
    assert first < second and began < left - 1_000_000 and acked[0] <= acked[1]


def test_what_a_closing_connection_does_not_take_keeps_its_place(tmp_path: Path, ground: Ground) -> None:
    async def story() -> Lab:
        async with lab(ground, tmp_path, rules=IOREDIS) as one:
            publisher = one.pod._connections._publisher
            assert isinstance(publisher, Pipeline) and publisher._wire.transport is not None
            publisher._wire.transport.close()  # the pod has not been told yet
            for _ in range(3):
                one.publish()
            assert one.pod.fallback.state == "connected"
            one.pod.may_publish()
            await until(lambda: not one.pod._kept)
            await one.pod.settle(timeout_s=BOUND_S)
        return one

    ground.run(story()).written()
    table = pq.read_table(tmp_path / "publishes.parquet").to_pydict()
    assert table["outcome"] == ["acknowledged"] * 3
    assert table["event"] == sorted(table["event"]), "answered in the order in which they were published"


@on_both
def test_more_than_a_connection_takes_at_once_waits_and_is_not_refused(
    tmp_path: Path, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sim.wire.pipeline.MAX_IN_FLIGHT", 3)

    async def story() -> Lab:
        async with lab(ground, tmp_path, rules=IOREDIS) as one:
            await through_an_outage(one, events=20)
            for _ in range(20):
                one.publish()  # while it is connected, too
        return one

    _, outcomes, _ = ground.run(story()).written()
    assert outcomes == ["acknowledged"] * 40


def test_a_first_subscribe_that_is_rejected_leaves_a_pod_that_publishes_and_never_hears(tmp_path: Path, ground: Ground) -> None:
    """So does ioredis 5.11.1: SUBSCRIBE was rejected after 10.8 s; 3.3 s later both connections were ready, and nothing was heard."""

    async def story() -> Lab:
        await ground.control.kill()
        one = Lab(ground, tmp_path, rules=IOREDIS)
        with pytest.raises(BrokerError):
            await one.pod.start()
        one.publish()
        await asyncio.sleep(13)
        one.publish()
        await ground.control.start()
        await one.until("deaf")
        await asyncio.sleep(5)
        one.publish()
        await one.pod.stop(timeout_s=BOUND_S)
        return one

    states, outcomes, heard = ground.run(story()).written()
    assert states == ["connecting", "outage", "deaf", "stopped"]
    assert (outcomes, heard) == (["refused", "acknowledged", "acknowledged"], [])


@pytest.mark.parametrize("away_s", [3, 9])
def test_a_pod_that_starts_in_a_shorter_outage_hears_after_it(tmp_path: Path, ground: Ground, away_s: int) -> None:
    async def story() -> Lab:
        await ground.control.kill()
        one = Lab(ground, tmp_path, rules=IOREDIS)
        with pytest.raises(BrokerError):
            await one.pod.start()
        await asyncio.sleep(away_s)
        await ground.control.start()
        await one.until("connected")
        one.publish()
        await one.pod.stop(timeout_s=BOUND_S)
        return one

    _, outcomes, heard = ground.run(story()).written()
    assert (outcomes, heard) == (["acknowledged"], [("broker", "handled")])


def test_who_is_told_to_end_in_an_outage_never_sends_what_waits(tmp_path: Path, ground: Ground) -> None:
    async def story() -> Lab:
        async with lab(ground, tmp_path, rules=IOREDIS) as one:
            await ground.control.kill()
            await one.until("outage")
            one.publish()
        return one

    _, outcomes, _ = ground.run(story()).written()
    assert outcomes == ["never-sent"]
