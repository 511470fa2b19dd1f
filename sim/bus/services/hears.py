"""A service that only hears: each event is recorded, and nothing is done with it."""

from __future__ import annotations

from collections.abc import Callable

from sim.bus.envelope import Event


class Hears:
    """No state, and no handler of its own: a pod hears what it subscribes to, whether its behaviour has a handler for it or not."""

    invalidations = 0

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[[Event], None]] = {}
