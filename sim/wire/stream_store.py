"""What a broker keeps in streams: how much of it a run's groups have not had, and how to leave no key behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sim.errors import BrokerRefused
from sim.wire.connection import Command
from sim.wire.refusals import in_short


def _list(reply: Any, asked: str) -> Sequence[Any]:
    if not isinstance(reply, list):
        raise BrokerRefused(f"its answer to {asked} is no list: {in_short(reply)}")
    return reply


def _pairs(reply: Any, asked: str) -> dict[bytes, Any]:
    flat = _list(reply, asked)
    if len(flat) % 2 or not all(isinstance(name, bytes) for name in flat[::2]):
        raise BrokerRefused(f"its answer to {asked} is not names with a value each: {in_short(reply)}")
    return dict(zip(flat[::2], flat[1::2], strict=True))


def count_of(fields: dict[bytes, Any], name: bytes, asked: str) -> int:
    """Return a number of an answer; raise `BrokerRefused` where it has none of that name."""
    value = fields.get(name)
    if type(value) is not int:
        raise BrokerRefused(f"its answer to {asked} has no number {name.decode()}: {in_short(fields)}")
    return value


class StreamStore:
    """The streams and groups of a run."""

    async def groups(self, command: Command, channel: str) -> list[dict[bytes, Any]]:
        """Return what XINFO GROUPS says, nothing when there is no such stream."""
        try:
            return [_pairs(group, "XINFO GROUPS") for group in _list(await command("XINFO", "GROUPS", channel), "XINFO GROUPS")]
        except BrokerRefused as refused:
            if "no such key" in str(refused):
                return []
            raise

    async def backlog(self, command: Command, channels: Sequence[str], groups: Sequence[str]) -> int:
        """Return entries not delivered to these groups, or not acknowledged by them."""
        ours, total = {group.encode() for group in groups}, 0
        for channel in channels:
            for group in await self.groups(command, channel):
                if group.get(b"name") in ours:
                    total += count_of(group, b"pending", "XINFO GROUPS") + await self._undelivered(command, channel, group)
        return total

    async def _undelivered(self, command: Command, channel: str, group: dict[bytes, Any]) -> int:
        if group.get(b"lag") is not None:
            return count_of(group, b"lag", "XINFO GROUPS")
        # an older server, or one that cannot tell after entries were removed: 1 stands for "some"
        stream = _pairs(await command("XINFO", "STREAM", channel), "XINFO STREAM")
        return int(count_of(stream, b"length", "XINFO STREAM") > 0 and stream.get(b"last-generated-id") != group.get(b"last-delivered-id"))

    async def found(self, command: Command, channels: Sequence[str]) -> frozenset[str]:
        """Return which channels have a key already."""
        return frozenset([channel for channel in channels if await command("EXISTS", channel)])

    async def clear(self, command: Command, channels: Sequence[str], groups: Sequence[str], *, found: frozenset[str]) -> None:
        """Remove these groups, and the keys that were not found before and that nobody else has a group on."""
        ours = {group.encode() for group in groups}
        for channel in channels:
            there = {group.get(b"name", b"") for group in await self.groups(command, channel)}
            for group in sorted(there & ours):
                await command("XGROUP", "DESTROY", channel, group.decode())
            if channel not in found and not there - ours:
                await command("DEL", channel)
