"""Locust users that publish a bus' events, open loop, by a schedule of intended times.

::

    locust -f locustfiles/bus_user.py --headless -u 20 -r 5 -t 30s --scenario baseline

starts broker and fleet in child processes, drives them, lets the run drain, judges it, and ends with the verdict's exit code: 0 valid,
1 invalid and nothing else, 2 unknown or an error. ``buslab run`` starts the same file as its own child. Either way the run folder is the
same.

Each user plays a publishing pod: one connection, one batch, one sequence of events. With fewer users than such pods a user
plays several; with more, several users share a pod's calls. More users do not make more load: the scenario's rate does.
Users of your own, closed loop, are `locustfiles/users.py`.
"""

from __future__ import annotations

import _path  # noqa: F401  - before whatever the working directory may hold in the place of what comes below
from locust import User, task
from locust.exception import StopUser

from locustfiles import _session  # noqa: F401  - it listens to Locust's events
from locustfiles._crew import Hand
from locustfiles._play import Play, Wait
from sim.errors import BuslabError
from sim.machine.clock import NS_PER_S, now_ns
from sim.pods.blocking_client import BusClient
from sim.scenario.schedule import Schedule

LATE_GRACE_NS = 2 * NS_PER_S  # calls are given up this long after the schedule's end


class ScheduledUser(User):
    """A user that plays one or more publishing pods."""

    closed_loop = False

    def on_start(self) -> None:
        """Take a number, wait for the job, and connect."""
        self.wait = Wait()
        self.clients: dict[int, BusClient] = {}
        self.playing = False
        hand: Hand = self.environment.buslab.hand  # type: ignore[attr-defined]
        number = hand.take_number()
        play: Play | None = hand.play.get()
        if play is None or number >= play.here:
            return  # there is nothing to do: `publish` ends this user
        self.play, self.playing = play, True
        self.pods, self.part, self.parts = play.share(play.first + number)
        play.waits.append(self.wait)
        try:
            self.clients = {pod: play.client(pod, self.part) for pod in self.pods}
        except BuslabError as error:
            play.fail(str(error))
            return  # raised here, Locust would log it with its traceback; `publish` ends this user instead
        play.came()

    @task
    def publish(self) -> None:
        """Make this user's calls at their intended times, then leave."""
        if not self.playing or self.play.error:
            raise StopUser
        play = self.play
        zero_ns = play.zero_ns.get()
        if not play.stopping:
            end_ns = zero_ns + round((play.scenario.load.warm_up_s + play.scenario.load.run_s) * NS_PER_S)
            self._play(play.schedule.of_pods(self.pods, part=self.part, parts=self.parts), zero_ns, end_ns)
        raise StopUser

    def _play(self, calls: Schedule, zero_ns: int, end_ns: int) -> None:
        play, kinds = self.play, calls.kinds
        rows = zip((calls.offset_ns + zero_ns).tolist(), calls.kind.tolist(), calls.pod.tolist(), calls.numbers(), strict=True)
        for at_ns, kind, pod, number in rows:
            self._wait_until(at_ns)
            if now_ns() > end_ns + LATE_GRACE_NS:
                return  # the generator is saturated; the checker `harness` will say so
            name = kinds[kind]
            play.calls += 1
            play.report(self.clients[pod].call(name, play.contents[name](number), intended_ns=at_ns))
        self._wait_until(end_ns)

    def _wait_until(self, at_ns: int) -> None:
        """Wait, sending part-full batches that fall due meanwhile."""
        while True:
            due_ns = min((c.due_ns for c in self.clients.values() if c.due_ns is not None), default=at_ns)
            self.wait.until(min(at_ns, due_ns))
            if self.play.stopping:
                raise StopUser
            if due_ns >= at_ns:
                return
            for client in self.clients.values():
                self.play.report(client.tick())

    def on_stop(self) -> None:
        """Flush and disconnect."""
        for client in self.clients.values():
            self.play.report(client.close())
        self.wait.close()
        if self.playing:
            self.play.left()
