"""A tap: listeners of ours before a server that may be anybody's, which keep the books of the programs that connect to them.

It is the proxy of links (`sim.grounds.proxy`) with a reader beside each connection, so it can be ordered to be slow, to hold, to refuse,
to reset and to cut, as faults of links do. In the event loop of who opens it; `sim.grounds.links` runs one in a process of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from sim.errors import BrokerError
from sim.grounds.passage import Tapping
from sim.grounds.proxy import Ends, Open, Order, Proxy
from sim.grounds.tap_plan import Door
from sim.wire.address import Address
from sim.wire.tap_rows import Identify, TapSink


class Tap:
    """Open listeners before one server; use `Tap.open`.

    Attributes
    ----------
    ports
        Where each door listens, in the order of the doors.
    """

    def __init__(self, proxy: Proxy, ports: list[int]) -> None:
        self._proxy = proxy
        self.ports = ports

    @classmethod
    async def open(
        cls,
        to: Address,
        *,
        sink: TapSink,
        identify: Identify,
        doors: Sequence[Door] = (Door("tap"),),
        ends: Ends | None = None,
        seed: int = 0,
    ) -> Self:
        """Listen; whether the server is there shows when somebody connects.

        Parameters
        ----------
        to
            The server. What logs in to it is the clients' own; of the address only host, port and TLS are used.
        ends
            Where to listen, and TLS; the default is any free ports of 127.0.0.1, without TLS to either side.

        Raises
        ------
        BrokerError
            A port is taken, or is not ours to open.
        """
        proxy = Proxy(ends=ends or Ends(server_tls=to.ssl_context), tapping=Tapping(sink, identify, [door.name for door in doors]))
        opened = await proxy.carry_out(Open(to.host, to.port, len(doors), seed))
        if opened.error:
            await proxy.close()
            raise BrokerError(f"the tap {opened.error}")
        return cls(proxy, opened.ports)

    async def order(self, order: Order) -> None:
        """Make connections behave as a fault of links asks; see `sim.grounds.proxy`."""
        await self._proxy.carry_out(order)

    async def close(self) -> None:
        """End the listeners and every connection; the sink has heard of all then."""
        await self._proxy.close()
