"""What every child that measures and its parent say to each other; what is told at the end stands beside the child."""

from __future__ import annotations

import msgspec


class Prepared(msgspec.Struct, frozen=True, tag="prepared"):
    """The child is connected, and waits."""


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """All are connected: publish."""
