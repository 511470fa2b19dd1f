"""Which slot of a cluster a key or channel is in, who owns it, and an answer that points to another node.

A server outside a cluster owns every slot.
"""

from __future__ import annotations

import asyncio
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import hiredis

from sim.errors import BrokerRefused, BrokerUnreachable
from sim.machine.freezer import Freezer
from sim.machine.words import duration
from sim.wire.address import Address
from sim.wire.connection import CONNECT_TIMEOUT_S, open_wire
from sim.wire.refusals import in_short, lacks

SLOTS = 16_384
_MOVED = re.compile(r"\bMOVED (\d+) (\S*):(\d+)")


def slot_of(key: bytes) -> int:
    """Return the slot of a key or channel: of the part in the first braces where that is not empty."""
    begin = key.find(b"{")
    if begin >= 0 and (end := key.find(b"}", begin + 1)) > begin + 1:
        key = key[begin + 1 : end]
    return binascii.crc_hqx(key, 0) % SLOTS


class Moved(NamedTuple):
    """Where a slot is, as a node says; no host means the one that was asked."""

    slot: int
    host: str
    port: int


def read_moved(error: str) -> Moved | None:
    """Read an error such as ``MOVED 3999 127.0.0.1:7001``; None when it is another one.

    A server answers ASK only for keys, when some of a slot's keys are still elsewhere; a channel has no key.
    """
    found = _MOVED.search(error)
    return Moved(int(found[1]), found[2].strip("[]"), int(found[3])) if found else None


@dataclass(frozen=True)
class Owners:
    """The masters of a cluster and their slots."""

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
        raise BrokerUnreachable(f"{address} does not answer CLUSTER SLOTS within {duration(CONNECT_TIMEOUT_S)}") from None
    finally:
        wire.close()
    if isinstance(reply, hiredis.ReplyError):
        if "cluster support disabled" in str(reply) or (lacks(str(reply)) and not address.others):
            return Owners(((0, SLOTS - 1, address.nodes[0]),))
        raise BrokerRefused(f"{address} refuses CLUSTER SLOTS: {reply}")
    return read_owners(reply, address)


def read_owners(reply: Sequence[Any], asked: Address) -> Owners:
    """Read the answer to CLUSTER SLOTS.

    Raises
    ------
    BrokerUnreachable
        Nobody owns anything yet.
    BrokerRefused
        It is no such answer.
    """
    if not reply:
        raise BrokerUnreachable(f"{asked}: nobody in the cluster owns a slot")
    ranges = []
    try:
        for first, last, (host, port, *_), *_ in reply:
            ranges.append((int(first), int(last), asked.at((host or b"").decode() or asked.host, int(port))))
    except (TypeError, ValueError, AttributeError):
        raise BrokerRefused(f"{asked}: its answer to CLUSTER SLOTS is no list of slots and nodes: {in_short(reply)}") from None
    return Owners(tuple(ranges))
