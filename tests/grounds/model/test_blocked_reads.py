"""A read that waits on a stream is answered when what it waits for is gone: by the model as by a real server."""

from __future__ import annotations

import asyncio

import pytest

from sim.errors import BrokerError
from sim.wire.connection import open_wire
from tests.support.scenes import Ground, on_both


@on_both
@pytest.mark.parametrize("gone", ["FLUSHALL", "DEL s", "XGROUP DESTROY s g"])
def test_who_waits_on_a_stream_is_told_that_it_is_gone(ground: Ground, gone: str) -> None:
    async def scene() -> str:
        reader, admin = [await open_wire(ground.address, client_name=name) for name in ("reader", "admin")]
        await admin.command("XGROUP", "CREATE", "s", "g", "$", "MKSTREAM")
        waiting = asyncio.ensure_future(reader.command("XREADGROUP", "GROUP", "g", "c", "BLOCK", "20000", "STREAMS", "s", ">"))
        while b" cmd=xreadgroup " not in (listed := await admin.command("CLIENT", "LIST")) and not ground.is_model:
            assert listed
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await admin.command(*gone.split())
        try:
            reply = str(await waiting)
        except BrokerError as error:
            reply = str(error)
        for wire in (reader, admin):
            wire.close()
        return reply

    assert "NOGROUP" in ground.run(scene())
