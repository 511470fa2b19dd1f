"""A connection whose opening is given up when the socket is open already: uvloop closes it then, and tells nobody."""

from __future__ import annotations

import asyncio

import pytest

from sim.machine.clock import new_event_loop
from sim.machine.freezer import Freezer, Readable
from sim.wire.address import parse_address
from sim.wire.connection import open_wire


class GivesUp(Freezer):
    """A freezer of a pod that stands still, whose attempt to connect is cancelled in the moment in which its socket is open."""

    attempt: asyncio.Task[object]

    def add(self, stream: Readable) -> None:
        super().add(stream)
        self.attempt.cancel()


async def _give_up_in_the_last_moment() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    freezer = GivesUp()
    freezer.freeze()
    freezer.attempt = asyncio.create_task(open_wire(parse_address(f"redis://127.0.0.1:{port}"), client_name="pod", freezer=freezer))
    with pytest.raises(asyncio.CancelledError):
        await freezer.attempt
    freezer.thaw()  # what was given up is not read any more
    server.close()
    await server.wait_closed()


def test_a_pod_that_thaws_does_not_read_from_a_connection_that_was_given_up_while_it_opened() -> None:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_give_up_in_the_last_moment())
