"""What a broker keeps in streams: how much of it a run's groups have not had, and how to leave no key behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sim.errors import BrokerRefused
from sim.wire.connection import Command


def _pairs(flat: Sequence[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


class StreamStore:
    """The streams and groups of a run."""

    async def groups(self, command: Command, channel: str) -> list[dict[bytes, Any]]:
        """Return what XINFO GROUPS says, nothing when there is no such stream."""
        try:
            return [_pairs(group) for group in await command("XINFO", "GROUPS", channel)]
        except BrokerRefused as refused:
            if "no such key" in str(refused):
                return []
            raise

    async def backlog(self, command: Command, channels: Sequence[str], groups: Sequence[str]) -> int:
        """Return entries not delivered to these groups, or not acknowledged by them."""
        ours, total = {group.encode() for group in groups}, 0
        for channel in channels:
            for group in await self.groups(command, channel):
                if group[b"name"] in ours:
                    total += int(group[b"pending"]) + await self._undelivered(command, channel, group)
        return total

    async def _undelivered(self, command: Command, channel: str, group: dict[bytes, Any]) -> int:
        if (lag := group.get(b"lag")) is not None:
            return int(lag)
        # an older server, or one that cannot tell after entries were removed: 1 stands for "some"
        stream = _pairs(await command("XINFO", "STREAM", channel))
        return int(stream[b"length"] > 0 and stream[b"last-generated-id"] != group[b"last-delivered-id"])

    async def found(self, command: Command, channels: Sequence[str]) -> frozenset[str]:
        """Return which channels have a key already."""
        return frozenset([channel for channel in channels if await command("EXISTS", channel)])

    async def clear(self, command: Command, channels: Sequence[str], groups: Sequence[str], *, found: frozenset[str]) -> None:
        """Remove these groups, and the keys that were not found before and that nobody else has a group on."""
        ours = {group.encode() for group in groups}
        for channel in channels:
            there = {group[b"name"] for group in await self.groups(command, channel)}
            for group in sorted(there & ours):
                await command("XGROUP", "DESTROY", channel, group.decode())
            if channel not in found and not there - ours:
                await command("DEL", channel)
