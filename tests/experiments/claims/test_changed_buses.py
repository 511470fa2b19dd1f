"""Claims on a bus, or a server, that is really changed: each run makes the claim come out otherwise. (Changed settings: `test_claims`.)"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sim.bus.envelope import BATCH
from sim.experiments.claims.catalogue import CLAIMS
from sim.experiments.claims.run import ClaimAnswer, run_claims
from sim.experiments.claims.table import explained
from sim.grounds.model import commands
from sim.pods.caller import Caller
from sim.pods.connections import Connections
from sim.pods.scheduled_calls import ScheduledCalls
from tests.experiments.claims import test_claims
from tests.support.unknown import Starvation

Changed = Callable[..., ClaimAnswer]


@pytest.fixture
def changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Changed:
    """Return what runs one claim with more settings, on the model even where it needs times of real code, and returns its answer."""

    def run(number: str, *settings: str, on: str = "model", program: tuple[str, ...] = ()) -> ClaimAnswer:
        claim = CLAIMS[number]
        trials = [
            replace(
                one,
                settings=(*one.settings, *settings),
                program=(*one.program, *(program if one.program else ())),
                needs="any" if on == "model" else one.needs,
            )
            for one in claim.trials
        ]
        monkeypatch.setitem(CLAIMS, number, replace(claim, trials=tuple(trials)))
        (answer,) = run_claims([number], on=on, jobs=1, out=Path(tempfile.mkdtemp(dir=tmp_path))).answers
        return answer

    return run


def test_a_bus_that_raises_makes_fire_and_forget_false(changed: Changed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the reference's try and catch one call of fifty raises after it has published; the application goes on."""
    numbers = itertools.count(1)
    plain_call, plain_make = Caller._call_one, ScheduledCalls._make

    def call_one(pod: Caller[None], kind: str, data: dict[str, Any], began_ns: int, due_ns: int) -> None:
        plain_call(pod, kind, data, began_ns, due_ns)
        if next(numbers) % 50 == 0:
            raise RuntimeError("nobody takes the metric of this publish")

    def make(calls: ScheduledCalls, *where: Any) -> None:
        try:
            plain_make(calls, *where)
        except RuntimeError:
            raised.append(where)

    raised: list[Any] = []
    assert changed("9").finding.verdict == "true"
    monkeypatch.setattr(Caller, "_call_one", call_one)
    monkeypatch.setattr(ScheduledCalls, "_make", make)
    answer = changed("9")
    assert answer.finding.verdict == "false", explained(answer)
    assert raised and not any(answer.finding.cases.values())


@pytest.mark.broker
@pytest.mark.deep
def test_a_caller_that_awaits_the_answer_is_blocked_by_a_redis_that_stands_still(changed: Changed) -> None:
    answer = changed("9", "load.driver=locust", on="")
    assert answer.finding.cases["in broker_freeze"] is False, explained(answer)
    assert answer.finding.number is not None and answer.finding.number > 500


def test_a_bus_that_notices_its_lost_subscription_late_calls_itself_connected(changed: Changed, monkeypatch: pytest.MonkeyPatch) -> None:
    """It publishes again as soon as Redis is back, and hears nothing for two seconds more."""
    plain = Connections._lost_subscription

    def late(connections: Connections, reason: str) -> None:
        asyncio.get_running_loop().call_later(5.0, plain, connections, reason)

    monkeypatch.setattr(Connections, "_lost_subscription", late)
    answer = changed("13")
    assert answer.finding.verdict == "false", explained(answer)


def test_a_server_that_lists_what_waits_makes_channels_show_the_backlog(changed: Changed, monkeypatch: pytest.MonkeyPatch) -> None:
    """It puts a dot behind a channel for each megabyte."""
    plain = commands._pubsub

    def pubsub(server: Any, client: Any, words: list[bytes]) -> Any:
        said = plain(server, client, words)
        if words[1].upper() == b"CHANNELS":
            waits = sum(one.buffered_bytes for one in server.clients.values())
            return [name + b"." * (waits // 1_000_000) for name in said]
        return said

    monkeypatch.setitem(commands.MODEL_COMMANDS, "PUBSUB", pubsub)
    answer = changed("14")
    assert answer.finding.verdict == "true", explained(answer)


@pytest.mark.broker
@pytest.mark.broker
def test_a_bus_that_waits_for_a_disk_is_not_faster_than_a_post(changed: Changed, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Caller._call_one

    def call_one(pod: Caller[None], *what: Any) -> None:
        time.sleep(0.01)
        plain(pod, *what)

    monkeypatch.setattr(Caller, "_call_one", call_one)
    answer = changed("20", "load.rate_per_s=40", on="")
    assert answer.finding.verdict == "false", explained(answer)


def test_a_publisher_with_two_connections_makes_order_false(changed: Changed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other event goes by the second connection, which is slower by 50 ms; no batch does, of which a stop would lose many items."""
    turns = itertools.count()
    plain = Connections.send

    def send(connections: Connections, channel: bytes, payload: bytes, token: Any) -> bool:
        if not channel.endswith(BATCH.encode()) and next(turns) % 2:
            asyncio.get_running_loop().call_later(0.05, plain, connections, channel, payload, token)
            return True
        return plain(connections, channel, payload, token)

    monkeypatch.setattr(Connections, "send", send)
    answer = changed("23")
    assert answer.finding.verdict == "false", explained(answer)


@pytest.mark.broker
@pytest.mark.deep
def test_a_server_that_stalls_lets_the_load_tool_see_what_pods_wait_for(changed: Changed) -> None:
    starved = Starvation()
    stalls = "faults=[{kind='broker_slow',at_s=0.1,for_s=5.8,every_ms=1000,stall_ms=300}]"
    answer = changed("24", "load.rate_per_s=200", stalls, on="")
    with starved.excuses(0.1):
        assert answer.finding.cases["in everyday load"] is True, explained(answer)


@pytest.mark.broker
@pytest.mark.deep
def test_a_cluster_of_one_master_carries_no_more_than_one_server(changed: Changed) -> None:
    answer = changed("19", program=("--masters", "1"), on="")
    assert answer.finding.verdict != "true"
    if answer.finding.verdict == "unknown":
        pytest.skip(f"unknown: {answer.finding.doubt or answer.finding.detail}")
    assert answer.finding.verdict == "false", explained(answer)


@pytest.mark.broker
@pytest.mark.deep
@pytest.mark.parametrize(("number", "verdict"), [("10", "true"), ("11", "false")])
def test_where_redis_is_away_for_no_longer_than_redis_py_tries_nobody_needs_a_restart(changed: Changed, number: str, verdict: str) -> None:
    answer = changed(number, "load.driver=pods", program=("--away", "0.3"))
    assert answer.finding.verdict == verdict, explained(answer)


DECIDED = {  # the claim, and the run of a changed bus or server that turns it; those turned by one setting are in `test_claims.CHANGED`
    "4": test_claims.test_a_handler_that_puts_back_what_it_dropped_is_not_idempotent,
    "9": test_a_bus_that_raises_makes_fire_and_forget_false,
    "10": test_where_redis_is_away_for_no_longer_than_redis_py_tries_nobody_needs_a_restart,
    "11": test_where_redis_is_away_for_no_longer_than_redis_py_tries_nobody_needs_a_restart,
    "12": test_claims.test_a_bus_that_does_not_flush_makes_graceful_shutdown_false,
    "13": test_a_bus_that_notices_its_lost_subscription_late_calls_itself_connected,
    "14": test_a_server_that_lists_what_waits_makes_channels_show_the_backlog,
    "19": test_a_cluster_of_one_master_carries_no_more_than_one_server,
    "20": test_a_bus_that_waits_for_a_disk_is_not_faster_than_a_post,
    "23": test_a_publisher_with_two_connections_makes_order_false,
    "24": test_a_server_that_stalls_lets_the_load_tool_see_what_pods_wait_for,
    "25": test_claims.test_another_bus_changes_the_verdict_and_a_broker_that_is_not_there_is_unknown,
}


def test_each_claim_is_turned_by_a_run_of_a_changed_bus() -> None:
    by_setting = {number for number, _, _ in test_claims.CHANGED}
    assert by_setting | DECIDED.keys() == CLAIMS.keys()
    assert all(callable(test) for test in DECIDED.values())
