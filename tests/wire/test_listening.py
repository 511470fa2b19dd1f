"""Listening to channels: by pattern, by name and on shards, each message with its channel; what a server refuses is one line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis

from sim.errors import BrokerRefused
from sim.wire.address import Address, parse_address
from sim.wire.listening import LISTENING, Messages, open_listener

pytestmark = pytest.mark.broker
BOUND_S = 20.0


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not done():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("command", "names", "hears"),
    [
        ("PSUBSCRIBE", ["shop:*"], ["shop:a", "shop:b"]),
        ("SUBSCRIBE", ["shop:a", "other"], ["shop:a", "other"]),
        ("SSUBSCRIBE", ["shop:a", "shop:b"], ["shop:a", "shop:b"]),
    ],
)
def test_each_message_comes_once_with_its_channel_in_order(
    address: Address, run_async: Any, command: str, names: list[str], hears: list[str]
) -> None:
    async def listen() -> Messages:
        heard: Messages = []
        listener = await open_listener(address, command, names, client_name="listens", heard=lambda found, at_ns: heard.extend(found))
        with redis.Redis.from_url(address.url) as client:
            assert listener.client_id in {int(one["id"]) for one in client.client_list()}
            publish = client.spublish if command == "SSUBSCRIBE" else client.publish
            for n in range(200):
                for channel in ("shop:a", "shop:b", "other"):
                    publish(channel, b"%d" % n * (1 + 400 * (n % 50)))  # some are longer than a read
        await until(lambda: len(heard) >= 200 * len(hears))
        listener.ping()
        assert listener.pinged_ns is not None
        await until(lambda: listener.pinged_ns is None)
        listener.abort()
        return heard

    heard = run_async(listen())
    expected = [
        (channel.encode(), b"%d" % n * (1 + 400 * (n % 50)))
        for n in range(200)
        for channel in sorted(hears, key="shop:a shop:b other".find)
    ]
    assert heard == expected


def test_the_loss_of_the_connection_is_told(own_server: tuple[Address, redis.Redis], run_async: Any) -> None:
    address, client = own_server

    async def listen() -> str:
        lost: list[str] = []
        listener = await open_listener(address, "PSUBSCRIBE", ["*"], client_name="listens", heard=lambda found, at_ns: None)
        listener.on_lost(lost.append)
        client.client_kill_filter(_id=listener.client_id)
        await until(lambda: bool(lost))
        return lost[0]

    assert "closed" in run_async(listen())


@pytest.mark.parametrize("command", LISTENING)
def test_what_the_server_does_not_allow_is_one_line(own_server: tuple[Address, redis.Redis], run_async: Any, command: str) -> None:
    address, client = own_server
    client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "+@all", "resetchannels", "&shop:*")
    other = parse_address(f"redis://reader:pw@{address.host}:{address.port}")
    with pytest.raises(BrokerRefused, match="refuses SUBSCRIBE to other:") as caught:
        run_async(open_listener(other, command, ["other:*"], client_name="listens", heard=lambda found, at_ns: None))
    assert "pw" not in str(caught.value).replace("NOPERM", "") and "\n" not in str(caught.value)
