"""The broker lets nobody in any more: every pod has lost its connections and asks again and again."""

from __future__ import annotations

from typing import Literal

from sim.errors import BrokerError
from sim.faults.holds import replace_broker
from sim.faults.server_commands import change_setting, end_connections, restore_settings
from sim.faults.times import FaultTimes
from sim.faults.world import World

PASSWORD = "buslab-lets-nobody-in"  # of a server of our own, for some seconds


class ConnectionsRefused(FaultTimes, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="connections_refused"):
    """A broker that ends every pod's connections and refuses new ones until the fault ends.

    Attributes
    ----------
    how
        `maxclients`: there are as many as it takes. `password`: it asks for one that no pod knows.
    """

    how: Literal["maxclients", "password"] = "maxclients"

    needs = ("broker", "one-server")

    async def begin(self, world: World) -> None:
        """Refuse new connections, and end those that are open."""
        if self.how == "maxclients":
            refused = await change_setting(world, "maxclients", "1")  # our own connection is there already, and stays
        else:
            refused = await change_setting(world, "requirepass", PASSWORD)
            world.servers[0].let_in_by(PASSWORD)
        if refused:
            await end_connections(world, ())

    async def end(self, world: World) -> None:
        """Accept everybody again; where the server does not let us in or does not answer, a new one takes its place."""
        try:
            await restore_settings(world, within_s=1.0)
        except BrokerError:
            if world.holds.broker_away:
                raise
            world.servers[0].let_in_by(None)
            await replace_broker(world)
            await restore_settings(world, within_s=1.0)
        world.servers[0].let_in_by(None)
