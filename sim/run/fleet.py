"""The fleet: every pod of a scenario on its host, and the probes that prove who hears.

A *probe round* publishes one event per channel from a connection of our own, and is over when every pod has heard every
channel it subscribes to; or, where the transport gives an event to one pod of each service, when some pod of every such service
has. Before the load it proves the subscriptions; after it, it proves that nothing is on its way
any more, because a broker answers each connection in order; what a broker keeps for its groups is waited for beside that.
Where events may enter a cluster at any node, there is a round through each node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sim.bus.envelope import PROBER
from sim.bus.node import BusNode, Send
from sim.errors import BrokerRefused, BrokerUnreachable, BuslabError
from sim.grounds.links import Links
from sim.machine.clock import NS_PER_S, now_ns, wall_offset_ns
from sim.machine.words import count, duration
from sim.pods.caller import record_publish
from sim.pods.clocks import Clocks
from sim.pods.context import group_name
from sim.pods.hosts import HOSTS, Host, ProgramsHost
from sim.pods.hosts.places import Places
from sim.pods.kubelet import FleetKubelet, ask_here
from sim.record.recorder import Recorder, Tamper
from sim.record.run_info import ProgramLife
from sim.scenario.file import Scenario
from sim.scenario.programs import programs_of
from sim.wire.address import Address
from sim.wire.clients import PublishCallbacks
from sim.wire.connection import Command
from sim.wire.refusals import refusal
from sim.wire.transports import Publisher

PROBER_NUMBER = 65_535
ROUND_TIMEOUT_S = 1.0
RETRY_S = 0.05
ANSWER = -1  # in the place of a pod's number: what is waited for is the answer to PUBLISH


class Fleet:
    """The pods of a run and the probes that prove who hears.

    Attributes
    ----------
    address
        The broker's.
    host
        Where the pods live.
    recorder
        The recorder of this process.
    kubelet
        Probes the pods and restarts them, where the scenario says so.
    receivers
        Channel -> to how many subscribers the broker queued the last probe, by its own count.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        address: Address,
        folder: Path,
        nonce: int,
        run_id: str,
        tamper: Tamper | None = None,
        links: Links | None = None,
        places: Places | None = None,
        clocks: Clocks | None = None,
    ) -> None:
        self.failed: asyncio.Future[BuslabError] = asyncio.get_running_loop().create_future()
        make_host: Callable[..., Host] = HOSTS[scenario.hosts.kind]
        more: dict[str, Any] = {} if places is None else {"places": places}
        if programs_of(scenario):
            make_host, more = ProgramsHost, {"probed_by_key": self._probed_by_key, "prober": PROBER_NUMBER}
        self.host: Host = make_host(
            scenario,
            address=address,
            folder=folder,
            nonce=nonce,
            run_id=run_id,
            probed=self._probed,
            failed=self._fail,
            tamper=tamper,
            links=links,
            clocks=clocks,
            **more,
        )
        self._places = places
        self.recorder: Recorder = self.host.recorder
        self.kubelet: FleetKubelet | None = None
        if scenario.kubelet.enabled:
            pods = self.host.replicas.values()
            ask_pod = ask_here if places is None else places.ask_pod
            self.kubelet = FleetKubelet(
                scenario.kubelet, pods, recorder=self.recorder, seed=scenario.seed, failed=self._fail, ask_pod=ask_pod
            )
        self._scenario = scenario
        self.transport = scenario.transport()
        self._stands_for = self._voices()
        self._found: frozenset[str] = frozenset()  # keys that were there before this run
        self.address = address
        self._run_id = run_id
        self._node = BusNode(
            PROBER,
            nonce=nonce,
            publisher=PROBER_NUMBER,
            batches={},
            wall_offset_ns=wall_offset_ns(),
            envelope=scenario.new_envelope(),
        )
        self._round = 0
        self._round_begins_at = 0  # event key of the first probe of this round
        self._unheard: set[tuple[int, str]] = set()
        self._all_heard = asyncio.Event()
        self._probers: list[Publisher | None] = [None] * (len(address.nodes) if self.transport.any_node else 1)
        self._denied: BrokerRefused | None = None
        self._receivers: dict[tuple[int, str], int] = {}  # of the last probe through each prober

    @property
    def notes(self) -> list[str]:
        """Sentences for the reader of the run."""
        restarts = self.kubelet.restarts if self.kubelet is not None else {}
        counted = ", ".join(f"{name} ({many})" for name, many in sorted(restarts.items()))
        where = [] if self._places is None else [self._places.describe()]
        where += self.host.notes if isinstance(self.host, ProgramsHost) else []
        return [*where, f"restarted by the kubelet: {counted}"] if counted else where

    @property
    def lives(self) -> list[ProgramLife] | None:
        """The lives of the pods that are programs, once they have ended; None where there are none."""
        return self.host.lives if isinstance(self.host, ProgramsHost) else None

    @property
    def channels(self) -> list[str]:
        """Event types that some pod subscribes to."""
        return sorted({channel for service in self._scenario.services.values() for channel in service.subscribes})

    @property
    def _keys(self) -> list[str]:
        return [self._scenario.bus.channel_prefix + channel for channel in self.channels]

    @property
    def _groups(self) -> list[str]:
        return [group_name(self._run_id, service) for service in self._scenario.services]

    def _voices(self) -> list[int]:
        """Return for each pod which pod stands for it in a probe round: itself, or its service's first where one pod hears for all."""
        pods = self._scenario.pods()
        if not self.transport.one_per_service:
            return list(range(len(pods)))
        services = [service for _, service in pods]
        return [services.index(service) for service in services]

    def expected_subscribers(self) -> dict[str, int]:
        """Return channel -> pods that subscribe to it."""
        services = self._scenario.services.values()
        return {channel: sum(s.replicas for s in services if channel in s.subscribes) for channel in self.channels}

    def _fail(self, error: BuslabError) -> None:
        if not self.failed.done():
            self.failed.set_result(error)

    async def start(self) -> None:
        """Start every pod, and the prober's connections.

        Raises
        ------
        BrokerUnreachable, BrokerRefused
        """
        for number in range(len(self._probers)):
            await self._open_prober(number)
        await self.host.start(timeout_s=self._scenario.limits.start_s)
        if self.kubelet is not None:
            self.kubelet.start()

    async def probe(self, *, timeout_s: float, purpose: str) -> int:
        """Publish probe rounds until one, through each prober, was heard by every pod on every channel; return how many it took.

        Raises
        ------
        BrokerUnreachable
            Some pod did not hear within the time; the message names it.
        BrokerRefused
            The broker's user may not publish on a channel.
        """
        deadline_ns = now_ns() + int(timeout_s * 1e9)
        first_round = self._round
        for number in range(len(self._probers)):
            await self._probe_through(number, timeout_s=timeout_s, deadline_ns=deadline_ns, purpose=purpose)
        return self._round - first_round

    async def _probe_through(self, number: int, *, timeout_s: float, deadline_ns: int, purpose: str) -> None:
        while True:
            self._round += 1
            try:
                prober = self._probers[number] or await self._open_prober(number)
            except BrokerUnreachable:
                if now_ns() > deadline_ns:
                    raise
                await asyncio.sleep(RETRY_S)
                continue
            self._begin_round(prober)
            try:
                async with asyncio.timeout(min(ROUND_TIMEOUT_S, timeout_s)):
                    await self._all_heard.wait()
                if self._denied is not None:
                    raise self._denied
                return
            except TimeoutError:
                if now_ns() > deadline_ns:
                    pod, channel = min(self._unheard, key=lambda waited: (waited[0] == ANSWER, waited))
                    name = "the broker's answer" if pod == ANSWER else self._scenario.pods()[pod][0]
                    silent = f"{count(len(self._unheard), 'subscription')} heard no probe within {duration(timeout_s)}"
                    raise BrokerUnreachable(f"{purpose}: {silent}; the first: {name} on {channel}") from None

    async def _open_prober(self, number: int) -> Publisher:
        prober = self._probers[number] = await self.transport.open_publisher(
            self.address.from_node(number),
            client_name=f"buslab-{self._run_id}-prober",
            callbacks=PublishCallbacks(
                answered=lambda token, receivers, at_ns: self._answered_probe(number, token, receivers, at_ns),
                refused=self._refused_probe,
                lost=lambda reason, unanswered: self._lost_prober(number, unanswered),
            ),
        )
        return prober

    def _begin_round(self, prober: Publisher) -> None:
        pods = self._scenario.pods() if self._scenario.bus.redis_url else []
        hears = self.host.listening()  # nothing is on its way to a pod that does not run
        subscribes = {name: service.subscribes for name, service in self._scenario.services.items()}
        self._unheard = {(self._stands_for[n], c) for n, (_, service) in enumerate(pods) if n in hears for c in subscribes[service]}
        self._unheard |= {(ANSWER, channel) for channel in self.channels}
        self._all_heard.clear()
        if not self._unheard:
            self._all_heard.set()
        for place, channel in enumerate(self.channels):
            now = now_ns()
            send = self._node.publish(channel, {"round": self._round}, now_ns=now, intended_ns=now, items=0)
            if place == 0:
                self._round_begins_at = send.event
            if not prober.send((self._scenario.bus.channel_prefix + channel).encode(), send.payload, (send, now)):
                self._record_probe((send, 0), "refused", 0, -1)

    def _probed(self, pod: int, channel: str, round: int) -> None:
        if round == self._round:
            self._unheard.discard((pod if pod == ANSWER else self._stands_for[pod], channel))
            if not self._unheard:
                self._all_heard.set()

    def _probed_by_key(self, pod: int, channel: str, key: int) -> None:
        """Take a probe that a program was sent, by its event key."""
        if key >= self._round_begins_at:
            self._probed(pod, channel, self._round)

    def _lost_prober(self, number: int, unanswered: list[tuple[Send, int]]) -> None:
        self._probers[number] = None
        for token in unanswered:
            self._record_probe(token, "unknown", 0, -1)

    def _refused_probe(self, token: tuple[Send, int], reason: str, at_ns: int) -> None:
        self._record_probe(token, "refused", at_ns, -1)
        if reason.startswith("NOPERM"):  # asking again would not help
            self._denied = refusal(self.address, f"PUBLISH on {self._scenario.bus.channel_prefix}{token[0].type}", reason)
            self._all_heard.set()

    def _answered_probe(self, number: int, token: tuple[Send, int], receivers: int, at_ns: int) -> None:
        if receivers >= 0:
            self._receivers[number, token[0].type] = receivers
        self._record_probe(token, "acknowledged", at_ns, receivers)

    @property
    def receivers(self) -> dict[str, int]:
        """Channel -> how many subscribers PUBLISH said there are, summed over the nodes that were asked."""
        channels = {channel for _, channel in self._receivers}
        return {channel: sum(count for (_, one), count in self._receivers.items() if one == channel) for channel in channels}

    def _record_probe(self, token: tuple[Send, int], outcome: str, at_ns: int, receivers: int) -> None:
        record_publish(self.recorder, PROBER, token[0], sent_ns=token[1], acked_ns=at_ns, outcome=outcome, receivers=receivers)
        if token[0].event >= self._round_begins_at:
            self._probed(ANSWER, token[0].type, self._round)

    async def settle(self, *, timeout_s: float, last: bool = False, handled: bool = False) -> None:
        """Finish restarts of pods and begin no more, flush every batch and wait for the answers.

        So a probe round can prove that nothing is under way. The last time, what pods without a connection keep is given up, and no pod
        sends anything after that. With `handled`, the handlers have done all that was heard.
        """
        if self.kubelet is not None:
            await self.kubelet.close(finish_s=timeout_s)
        await self.host.settle(timeout_s=timeout_s, last=last, handled=handled)

    async def look(self, command: Command) -> None:
        """Remember which keys are there before the pods make theirs.

        Raises
        ------
        BrokerUnreachable, BrokerRefused
        """
        if self.transport.store is not None:
            self._found = await self.transport.store.found(command, self._keys)

    async def catch_up(self, command: Command, *, timeout_s: float) -> None:
        """Return when the pods were given, and have acknowledged, all that the broker keeps for them.

        Raises
        ------
        BrokerUnreachable
            Some of it is left when time is up; the message says how much.
        """
        store, deadline_ns = self.transport.store, now_ns() + int(timeout_s * NS_PER_S)
        while store is not None and (left := await store.backlog(command, self._keys, self._groups)):
            if now_ns() > deadline_ns:
                raise BrokerUnreachable(
                    f"{count(left, 'event was', 'events were')} not heard, or not acknowledged, within {duration(timeout_s)}"
                )
            await asyncio.sleep(RETRY_S)

    async def clear(self, command: Command) -> None:
        """Remove what this run made the broker keep; to be called when the pods have ended.

        Raises
        ------
        BrokerUnreachable, BrokerRefused
        """
        if self.transport.store is not None:
            await self.transport.store.clear(command, self._keys, self._groups, found=self._found)

    async def stop(self, *, timeout_s: float) -> None:
        """Stop every pod gracefully."""
        if self.kubelet is not None:
            await self.kubelet.close()
        await self.host.stop(timeout_s=timeout_s)
        self._close_probers()

    def abort(self) -> None:
        """Drop every connection at once."""
        if self.kubelet is not None:
            self.kubelet.abort()
        self.host.abort()
        self._close_probers()

    def _close_probers(self) -> None:
        for number, prober in enumerate(self._probers):
            for token in prober.close() if prober is not None else ():
                self._record_probe(token, "unknown", 0, -1)
            self._probers[number] = None
