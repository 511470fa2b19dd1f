"""A tap: listeners of ours before a server that may be anybody's, which keep the books of the programs that connect to them.

It is the proxy of links (`sim.grounds.proxy`) with a reader beside each connection, so it can be ordered to be slow, to hold, to refuse,
to reset and to cut, as faults of links do. In the event loop of who opens it; `sim.grounds.links` runs one in a process of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from sim.errors import BrokerError
from sim.grounds.passage import Tapping
from sim.grounds.proxy import Ends, Open, Order, Proxy
from sim.grounds.tap_plan import TAP, Door
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
        doors: Sequence[Door] = (Door(TAP),),
        ends: Ends | None = None,
        seed: int = 0,
        tapping: Tapping | None = None,
    ) -> Self:
        """Listen; whether the server is there shows when somebody connects.

        Parameters
        ----------
        to
            The server. What logs in to it is the clients' own; of the address only host, port and TLS are used.
        ends
            Where to listen, and TLS; the default is any free ports of 127.0.0.1, and TLS to the server where its address says so.
        tapping
            What it tells to whom, where it is not the tap's alone (`open_taps`).

        Raises
        ------
        BrokerError
            A port is taken, or is not ours to open.
        """
        tapping = tapping or Tapping(sink, identify, [door.name for door in doors])
        proxy = Proxy(ends=ends or Ends(server_tls=to.ssl_context), tapping=tapping)
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


async def open_taps(nodes: Sequence[Address], *, sink: TapSink, identify: Identify, ends: Ends) -> list[Tap]:
    """Open a tap before each node of a cluster, on ports in a row, which keep its clients on them; before one node, a tap as it is.

    Raises
    ------
    BrokerError
        As `Tap.open`; those that were opened are closed.
    """
    if len(nodes) == 1:
        return [await Tap.open(nodes[0], sink=sink, identify=identify, ends=ends)]
    where: dict[tuple[str, int], tuple[str, int]] = {}
    numbers, taps = itertools.count(1), list[Tap]()
    for place, node in enumerate(nodes):
        own = replace(ends, port=ends.port + place if ends.port else 0)
        tapping = Tapping(sink, identify, [tap_name(place)], nodes=where, asked=node.host, numbers=numbers)
        try:
            taps.append(await Tap.open(node, sink=sink, identify=identify, ends=own, tapping=tapping))
        except BrokerError:
            for tap in taps:
                await tap.close()
            raise
        where[node.host, node.port] = (ends.host, taps[-1].ports[0])
    return taps


def tap_name(place: int) -> str:
    """Return the name of the tap before a node of a cluster."""
    return f"{TAP}-{place}"
