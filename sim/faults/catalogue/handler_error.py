"""Handlers raise: the pods go on, and what was heard meanwhile is handled by nobody, also where a lock let only one pod try."""

from __future__ import annotations

from sim.faults.times import FaultTimes
from sim.faults.world import World


class HandlerError(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="handler_error"):
    """Handlers of some pods that raise while the fault is on.

    Attributes
    ----------
    pods
        Names of pods or services; empty = all.
    """

    pods: tuple[str, ...] = ()

    needs = ("pods",)

    async def begin(self, world: World) -> None:
        """Make the handlers raise."""
        for pod in world.chosen(self.pods):
            await pod.fail(True)

    async def end(self, world: World) -> None:
        """Make the handlers work again."""
        for pod in world.chosen(self.pods):
            await pod.fail(False)
