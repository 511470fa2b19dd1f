"""Who owns which slot, as a node of the cluster sees it. A server outside a cluster owns them all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import hiredis

from sim.errors import BrokerRefused, BrokerUnreachable
from sim.machine.freezer import Freezer
from sim.wire.address import Address
from sim.wire.connection import CONNECT_TIMEOUT_S, open_wire
from sim.wire.slots import SLOTS, Moved, slot_of


@dataclass(frozen=True)
class Owners:
    """Hold the masters and their slots."""

    ranges: tuple[tuple[int, int, Address], ...]  # first and last slot

    @property
    def masters(self) -> list[Address]:
        """Every master that owns a slot, once."""
        return list({(master.host, master.port): master for _, _, master in self.ranges}.values())

    def of(self, channel: str) -> Address:
        """Return the master of a channel.

        Raises
        ------
        BrokerUnreachable
            Nobody owns its slot.
        """
        slot = slot_of(channel.encode())
        for first, last, master in self.ranges:
            if first <= slot <= last:
                return master
        raise BrokerUnreachable(f"nobody in the cluster owns slot {slot}, that of {channel}")

    def grouped(self, channels: Sequence[str]) -> list[tuple[Address, list[str]]]:
        """Return each master that owns some of these channels, and which.

        Raises
        ------
        BrokerUnreachable
            Nobody owns one of them.
        """
        groups: dict[tuple[str, int], tuple[Address, list[str]]] = {}
        for channel in channels:
            master = self.of(channel)
            groups.setdefault((master.host, master.port), (master, []))[1].append(channel)
        return list(groups.values())

    def after(self, moved: Moved) -> Owners:
        """Return what is known after a node has said where a slot is."""
        known = self.ranges[0][2]
        return Owners(((moved.slot, moved.slot, known.at(moved.host or known.host, moved.port)), *self.ranges))


async def find_owners(address: Address, *, client_name: str, freezer: Freezer | None = None) -> Owners:
    """Ask the first node that can be reached.

    Raises
    ------
    BrokerUnreachable, BrokerRefused
    """
    wire = await open_wire(address, client_name=client_name, freezer=freezer)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reply = await wire.command("CLUSTER", "SLOTS")
    except TimeoutError:
        raise BrokerUnreachable(f"{address} does not answer CLUSTER SLOTS within {CONNECT_TIMEOUT_S:g} s") from None
    finally:
        wire.close()
    if isinstance(reply, hiredis.ReplyError):
        if "cluster support disabled" in str(reply):
            return Owners(((0, SLOTS - 1, address.nodes[0]),))
        raise BrokerRefused(f"{address} refuses CLUSTER SLOTS: {reply}")
    return read_owners(reply, address)


def read_owners(reply: Sequence[Any], asked: Address) -> Owners:
    """Read the answer to CLUSTER SLOTS.

    Raises
    ------
    BrokerUnreachable
        Nobody owns anything yet.
    """
    if not reply:
        raise BrokerUnreachable(f"{asked}: nobody in the cluster owns a slot")
    ranges = []
    for first, last, (host, port, *_), *_ in reply:
        ranges.append((int(first), int(last), asked.at((host or b"").decode() or asked.host, int(port))))
    return Owners(tuple(ranges))
