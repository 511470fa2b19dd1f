"""Every pod loses its connections in the same moment, and all come back at once: the first may publish before the last hears."""

from __future__ import annotations

from sim.faults.server_commands import await_connections, end_connections
from sim.faults.times import FaultTimes
from sim.faults.world import World


class ReconnectStampede(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="reconnect_stampede"):
    """Every connection of some pods, whatever it is for, ended once at the broker (CLIENT KILL, in one write).

    Attributes
    ----------
    pods
        Names of pods or services; empty = all.
    """

    pods: tuple[str, ...] = ()

    needs = ("broker",)

    async def begin(self, world: World) -> None:
        """End the connections; where there are none, when the pods are back."""
        if not await end_connections(world, self.pods):
            await await_connections(world, self.pods)
            await end_connections(world, self.pods)

    async def end(self, world: World) -> None:
        """Do nothing: the pods connect again by themselves."""
