"""What a fault may touch: the broker, the pods, and the links between them. Each ground brings its own; a fault knows only these."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from sim.faults.felt import Felt
from sim.faults.holds import Holds
from sim.faults.link import LinkLoad


class BrokerControl(Protocol):
    """What hurts and mends a broker."""

    async def kill(self) -> None:
        """End it at once, as SIGKILL does; nothing when it does not run."""

    async def stop(self) -> None:
        """End it in order, as SIGTERM does: it closes every connection; nothing when it does not run."""

    async def start(self) -> None:
        """Start it again at the same address, empty; nothing when it runs. Return when it answers."""

    async def freeze(self) -> None:
        """Freeze it, as SIGSTOP does: the kernel keeps its connections; nothing when it does not run."""

    async def thaw(self) -> None:
        """Thaw it; nothing when it is not frozen."""


@runtime_checkable
class ClusterControl(BrokerControl, Protocol):
    """What hurts and mends a cluster, one master at a time too."""

    async def kill_master(self, channel: str = ...) -> object:
        """End at once the master that owns a channel (with its prefix)."""

    async def promoted(self) -> None:
        """Return when the living nodes serve every slot again; raise `BrokerError` when they do not in time."""


class Server(Protocol):
    """One server of the broker, reached on a connection of our own that no fault means to end."""

    async def ask(self, *words: str) -> Any:
        """Send one command and return its reply; raise `BrokerError`, also for a refusal."""

    async def ask_all(self, *commands: Sequence[str]) -> list[Any]:
        """Send commands in one write, so that the server carries them out at once, and return their replies; errors as `ask`."""

    def let_in_by(self, password: str | None) -> None:
        """Connect with this password from now on, None = with the one we began with; a connection that is open stays."""


class PodControl(Protocol):
    """What hurts and mends one pod."""

    async def kill(self) -> None:
        """End it at once, as on SIGKILL; nothing when it does not run."""

    async def freeze(self) -> None:
        """Freeze it, as SIGSTOP does; nothing when it does not run."""

    async def thaw(self) -> None:
        """Thaw it; nothing when it is not frozen."""

    async def stop(self, *, grace_s: float = ...) -> None:
        """End it as on SIGTERM, and kill it after the grace period."""

    async def start(self) -> None:
        """Start it anew; nothing when it runs, or when it is not one of the pods that should."""

    async def deploy(self, *, of: str) -> None:
        """Start it for the first time, to take the place of another pod: what faults told that one holds for it too."""

    async def retire(self, *, grace_s: float = ...) -> None:
        """End it as on SIGTERM, for good: whoever was deployed in its place makes its calls from now on, and nothing starts it again."""

    async def lose_machine(self) -> None:
        """End it at once, with the machine that it is on: nothing starts it again, not the kubelet either, before it has one."""

    def get_machine(self) -> None:
        """Take in that it has a machine again, where it may be started."""

    @property
    def ready(self) -> bool:
        """Whether its readiness endpoint would say so."""

    async def slow(self, *, handler_ms: float, at_once: int) -> None:
        """Make its handlers take so long, at most so many at a time, until told otherwise; 0 and 0: as its service's settings say."""

    async def fail(self, failing: bool) -> None:
        """Make its handlers raise, until told otherwise."""

    async def skew(self, skew_ms: float) -> None:
        """Put its wall clock ahead by so much (negative: behind), until told otherwise; time does not pass at another speed."""


class Machines(Protocol):
    """The machines that pods are on, by their numbers from 0, where the hosts know them."""

    def place_of(self, pod: str) -> int:
        """Return the machine of a pod."""

    def take_down(self, machine: int) -> None:
        """Move no pod to a machine any more."""

    def bring_back(self, machine: int) -> None:
        """Count a machine as there again: pods may move to it."""

    def move(self, pod: str) -> bool:
        """Give a pod that has ended a place on another machine that is there; return whether one has room for it."""


class LinkControl(Protocol):
    """What makes the links between pods and broker bad; pods by their numbers. What several faults do to one link adds up."""

    async def load(self, who: int, pods: Sequence[int], load: LinkLoad) -> None:
        """Lay a load of `who` on these pods' links, later connections included; it replaces who's own and adds to those of others."""

    async def unload(self, who: int) -> None:
        """Take off what `who` laid on links; nothing when it was taken off before. What others laid on them stays."""

    async def reset(self, pods: Sequence[int]) -> None:
        """Reset the open connections of these pods, on both sides."""


@dataclass(frozen=True)
class World:
    """What the faults of one run may touch.

    Attributes
    ----------
    broker
        None where it is not ours to hurt; then no fault that needs it is let through.
    ask
        Sends one command to the broker on a connection of its own and returns the reply; raises `BrokerError`.
    pods
        Pod name -> how to hurt it, in the order of their numbers.
    services
        Service -> names of its pods that should run now.
    waiting
        Service -> names of pods that may be deployed in the place of others.
    heirs
        Pod name -> who was deployed in its place.
    machines
        Where the pods are; None where the hosts do not say.
    links
        None where no fault of the run needs them: then pods reach the broker directly.
    servers
        Each server of the broker; several in a cluster.
    kept
        What one occasion of a fault remembers between its beginning and its end.
    felt
        How far this occasion of a fault was carried out.
    settings
        Settings of servers that are changed now, by all faults of the run together: see `sim.faults.server_commands`.
    holds
        What is kept down or frozen now, by all faults of the run together.
    """

    broker: BrokerControl | None
    ask: Callable[..., Awaitable[Any]]
    pods: Mapping[str, PodControl]
    services: Mapping[str, Sequence[str]]
    links: LinkControl | None = None
    servers: Sequence[Server] = ()
    kept: dict[str, Any] = field(default_factory=dict)
    felt: Felt = field(default_factory=Felt)
    settings: dict[tuple[int, str], list[tuple[int, str]]] = field(default_factory=dict)
    holds: Holds = field(default_factory=Holds)
    waiting: dict[str, list[str]] = field(default_factory=dict)
    heirs: dict[str, str] = field(default_factory=dict)
    machines: Machines | None = None

    @property
    def who(self) -> int:
        """A number that tells one occasion of a fault from all others of its run."""
        return id(self.kept)

    def names(self, chosen: Sequence[str]) -> list[str]:
        """Return the pods that are chosen by name or by service; all that should run, when nothing is."""
        names = [name for one in chosen or self.services for name in self.services.get(one, (one,))]
        return list(dict.fromkeys(names))

    def chosen(self, chosen: Sequence[str]) -> list[PodControl]:
        """Return the controls of these pods."""
        return [self.pods[name] for name in self.names(chosen)]

    def numbers(self, chosen: Sequence[str]) -> list[int]:
        """Return the numbers of these pods."""
        number = {name: place for place, name in enumerate(self.pods)}
        return [number[name] for name in self.names(chosen)]
