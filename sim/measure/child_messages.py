"""The messages that every measuring child and its parent exchange; what a child reports at the end is defined beside the child."""

from __future__ import annotations

import msgspec


class Prepared(msgspec.Struct, frozen=True, tag="prepared"):
    """The sign that the child is connected, and waits."""


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """The order to publish: all are connected."""
