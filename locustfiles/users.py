"""A base for users of your own: Locust users that publish on the bus, closed loop, in a run that is accounted for and judged.

::

    from locust import between, task
    from locustfiles.users import BusUser

    class Shopper(BusUser):
        wait_time = between(0.5, 2)

        @task(3)
        def order(self):
            self.bus.publish("order.created", {"total": 30})

``buslab run SCENARIO --locustfile my_users.py``, or ``locust -f my_users.py --headless -u 50 -r 50 -t 30s --scenario SCENARIO``.

Rules
-----
1. The scenario says the bus, the fleet, the faults and the limits; its schedule is not used. Users begin at time zero, so in the warm-up,
   and are stopped when the run phase ends: at their next wait, or at their next publish; one that does neither, two seconds later.
2. A call is meant for the time at which it is made: a late bus makes fewer calls, and that is what a closed loop hides.
3. Each user has connections and event numbers of its own. It plays a pod of `service`; without one, a pod of the service that publishes the
   channel, the first in the scenario.
4. A channel that the user may not publish on ends the run with one line: what was meant would not be measured. Data that cannot become JSON
   is a failed call, in the record and in Locust's tables, and the user goes on.
5. A batched channel's call waits in the user's own batch, which leaves when it is full or old; Locust counts the batch.
6. Users that come after the run has begun find nothing to do.
"""

from __future__ import annotations

from typing import Any

from locustfiles import _path

with _path.without_front():
    import gevent
    import gevent.event
    import gevent.lock
    from gevent.pool import Group
    from locust import User, constant
    from locust.exception import StopUser

    from locustfiles import _session  # noqa: F401  - it listens to Locust's events
    from locustfiles._crew import Hand
    from locustfiles._play import Play, Wait
    from sim.errors import BuslabError, did_you_mean
    from sim.machine.clock import NS_PER_S, now_ns
    from sim.pods.blocking_client import BusClient, Published
    from sim.scenario.problems import shown

LEAVE_NS = 2 * NS_PER_S  # a user that neither waits nor publishes is ended so long after the load's end
LOOK_S = 0.5
MAX_KNOWN = 20  # channels in one message


class BusUser(User):
    """A user of your own on the bus: subclass it, give it tasks, and publish by `self.bus.publish(channel, data)`.

    Attributes
    ----------
    service
        The service whose pod it plays; empty: of each channel the first service that publishes it.
    bus
        The bus, from before `on_start` until after `on_stop`.
    """

    abstract = True
    closed_loop = True
    wait_time = constant(0)
    service = ""
    bus: UserBus

    def start(self, group: Group) -> gevent.Greenlet:
        """Start this user: it connects and waits for the run, and only then does what a Locust user does."""
        self._group = group
        self._greenlet = group.spawn(_live, self)
        return self._greenlet


def _live(user: BusUser) -> None:
    """Play one user from its coming to its leaving."""
    hand: Hand = user.environment.buslab.hand  # type: ignore[attr-defined]
    number = hand.take_number()
    play: Play | None = hand.play.get()
    if play is None or number >= play.here:
        return
    try:
        try:
            user.bus = UserBus(play, user, number=play.first + number)
        except BuslabError as error:
            play.fail(str(error))
            return
        minder_of(play).take(user.bus)
        play.came()
        zero_ns = play.zero_ns.get()
        if not play.stopping:
            _wait_until(zero_ns)
            user.run()
    finally:
        if "bus" in vars(user):
            user.bus.close()
        play.left()


def _wait_until(at_ns: int) -> None:
    wait = Wait()
    try:
        wait.until(at_ns)
    finally:
        wait.close()


class UserBus:
    """The bus as one user has it: a connection for each service that it plays."""

    def __init__(self, play: Play, user: BusUser, *, number: int) -> None:
        self._play = play
        self._user = user
        self._lock = gevent.lock.RLock()  # the minder sends batches that fall due, on the same connections
        self._clients: dict[str, BusClient] = {}
        self._by_channel: dict[str, BusClient] = {}
        services = play.scenario.services
        if user.service and user.service not in services:
            hint = did_you_mean(user.service, services)
            raise BuslabError(f"{type(user).__name__}.service = {user.service!r}: no such service{hint}; there are {', '.join(services)}")
        publishing = [name for name in services if services[name].publishes]
        for place, name in enumerate(publishing):
            if user.service not in ("", name):
                continue
            known = [channel for channel in services[name].publishes if channel in play.scenario.channels]
            fresh = [channel for channel in known if channel not in self._by_channel]
            if fresh:
                pods = [pod for pod, (_, service) in enumerate(play.scenario.first_pods()) if service == name]
                client = play.client(pods[number % len(pods)], number, place=number * len(publishing) + place)
                self._clients[name] = client
                self._by_channel |= dict.fromkeys(fresh, client)

    def publish(self, channel: str, data: dict[str, Any]) -> Published | None:
        """Make one call: publish an event, or put an item into the channel's batch.

        Returns
        -------
        What became of the event that this call sent, its `outcome` and `error` among it; None when the call waits in a batch, or failed.

        Raises
        ------
        StopUser
            The load is over, or there is no such channel; it ends the user, as Locust means it to.
        """
        play = self._play
        client = self._by_channel.get(channel) if isinstance(channel, str) else None
        if client is None:
            play.fail(self._why_not(channel))
        if client is None or play.stopping or minder_of(play).is_over:
            raise StopUser
        with self._lock:
            client.failure, due_ns = None, client.due_ns
            published = client.call(channel, data)
            failure = client.failure
        if failure is not None:
            play.report_failure(channel, failure)
            return None
        play.calls += 1
        play.report(published)
        if client.due_ns != due_ns:
            minder_of(play).look.set()
        return published

    def _why_not(self, channel: object) -> str:
        """Return why this user cannot publish on a channel, and what it can."""
        name, known = type(self._user).__name__, list(self._by_channel)
        who = f"the service {self._user.service!r}, which it plays," if self._user.service else "any service"
        why = f"not a channel that {who} publishes" if channel in self._play.scenario.channels else "unknown channel"
        hint = did_you_mean(channel, known) if isinstance(channel, str) else ""
        more = f" and {len(known) - MAX_KNOWN:,} more" if len(known) > MAX_KNOWN else ""
        return f"{name} publishes on {shown(channel)}: {why}{hint}; it may publish on {', '.join(known[:MAX_KNOWN]) or 'none'}{more}"

    @property
    def due_ns(self) -> int | None:
        """When the next batch falls due."""
        return min((due for client in self._clients.values() if (due := client.due_ns) is not None), default=None)

    def tick(self) -> None:
        """Send the batches whose time has come."""
        with self._lock:
            for client in self._clients.values():
                while client.due_ns is not None and client.due_ns <= now_ns() and (published := client.tick()) is not None:
                    self._play.report(published)

    def end(self) -> None:
        """Ask the user to leave: at once where it waits, else when its task is done."""
        if self._user._state in (None, "waiting", "running"):
            gevent.spawn(self._user.stop)

    def kill(self) -> None:
        """End the user where it is, but not between a publish and its record."""
        with self._lock:
            if self._user.greenlet is not None and not self._user.greenlet.dead:
                self._user.greenlet.kill(block=False)

    def close(self) -> None:
        """Flush and disconnect."""
        with self._lock:
            for client in self._clients.values():
                self._play.report(client.close())


class Minder:
    """What the users of one process have done for them: batches that fall due are sent, and the load's end comes for all."""

    def __init__(self, play: Play) -> None:
        self._play = play
        self._buses: list[UserBus] = []
        self.look = gevent.event.Event()
        self.is_over = False
        gevent.spawn(self._mind)

    def take(self, bus: UserBus) -> None:
        """Mind one more user's bus; `Play.stop` ends it too."""
        self._buses.append(bus)
        self._play.waits.append(bus)

    def _mind(self) -> None:
        load = self._play.scenario.load
        end_ns = self._play.zero_ns.get() + round((load.warm_up_s + load.run_s) * NS_PER_S)
        self._until(end_ns)
        self.is_over = True
        for bus in self._buses:
            bus.end()
        self._until(end_ns + LEAVE_NS)
        if not self._play.all_finished.is_set():
            for bus in self._buses:
                bus.kill()

    def _until(self, end_ns: int) -> None:
        while not self._play.stopping and not self._play.all_finished.is_set() and (now := now_ns()) < end_ns:
            due_ns = min((due for bus in self._buses if (due := bus.due_ns) is not None), default=end_ns)
            self.look.wait(min(LOOK_S, max(0, min(due_ns, end_ns) - now) / NS_PER_S))
            self.look.clear()
            for bus in self._buses:
                bus.tick()


def minder_of(play: Play) -> Minder:
    """Return the minder of this process's users."""
    minder = getattr(play, "minder", None)
    if minder is None:
        minder = play.minder = Minder(play)  # type: ignore[attr-defined]
    return minder
