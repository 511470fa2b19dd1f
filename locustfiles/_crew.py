"""How the processes of one Locust play one run: the *lead* speaks to the run, each *hand* has some of the users.

A Locust alone is both; with ``--master`` or ``--processes`` the master is the lead and each worker a hand. They speak by Locust's own
messages; what the lead says to the run is `sim/run/locust_messages.py`:

hand -> lead    ``buslab-here`` (all my users have come), ``buslab-clock`` (I read another clock than you, and answer for it there),
                ``buslab-ready`` (my users are connected), ``buslab-progress``, ``buslab-part`` (see `_parts`), ``buslab-done``
lead -> hand    ``buslab-job`` (the run's job, the clock it reads, and which users of the crew are yours), ``buslab-mirror`` (answer for
                your clock at the broker), ``buslab-go`` (time zero, by your clock), ``buslab-stop``, ``buslab-got`` (a piece came)

Every process writes its own parts of the record. One that does not read the clock of the master's machine is taken to be on another: its
clock is compared with the run's (`sim.pods.clocks`), and its parts travel home when its users have left. A worker that is lost takes its
record with it, so the run ends and says so.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import gevent.lock
import gevent.queue
import msgspec
from locust.env import Environment
from locust.runners import STATE_MISSING, MasterRunner, Runner, WorkerRunner

from locustfiles._parts import Landing, Luggage
from locustfiles._play import Play, log
from sim.errors import BuslabError, UsageError
from sim.machine.clock import clock_identity
from sim.machine.line import Line
from sim.pods.clocks import Answering, MirrorClock, OtherClock, answering
from sim.run.locust_messages import Done, Go, LagSample, LoadJob, LoadProgress, Message, MirrorOf, PartHome, Ready, Stop
from sim.wire.address import parse_address

TICK_S = 0.5
REACH_TIMEOUT_S = 5.0
HOST_NAME = "locust"
TO_LEAD = ("here", "clock", "ready", "progress", "part", "done")
TO_HAND = ("job", "mirror", "go", "got", "stop")


def on_the_bus(runner: Runner) -> int:
    """Return how many users of this process are ours; a locustfile may have others beside them."""
    classes = runner.user_classes_by_name
    return sum(users for name, users in runner.user_classes_count.items() if hasattr(classes[name], "closed_loop"))


class Hand:
    """The users of this process, from the first that comes until the record is written."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.play: gevent.event.AsyncResult = gevent.event.AsyncResult()  # None: this process plays no part in a run
        self.begun = 0
        self.here: int | None = None
        self._answering: Answering | None = None  # where this process reads another clock than the run
        self._luggage: Luggage | None = None
        self._leaving = gevent.lock.BoundedSemaphore()
        self._error: str | None = None  # of the record on its way home, once that was tried

    def take_number(self) -> int:
        """Return the next user's number in this process."""
        self.begun += 1
        return self.begun - 1

    def all_came(self) -> None:
        """Tell the lead how many users there are; users that come later find nothing to do."""
        runner = self.environment.runner
        if isinstance(runner, WorkerRunner) and runner.spawning_greenlet is not None:
            runner.spawning_greenlet.join()  # the master may call the users complete before this process has made its own
        if self.here is None:
            self.here = on_the_bus(runner)
            self._say("here", users=self.here)

    def take_job(self, data: dict[str, Any]) -> None:
        """Give the users their job, so that they connect; the lead is told when all have."""
        try:
            job = msgspec.convert(data["job"], LoadJob)
            self._set_out(job, host=data["host"], runs_clock=data["clock"])
            folder = Path(job.folder) if self._luggage is None else self._luggage.folder
            own = {"first": data["first"], "here": self.here or 0, "users": data["users"]}
            play = Play(self.environment, job, host=data["host"], folder=folder, **own)
        except msgspec.ValidationError as error:
            self._say("done", calls=0, error=f"a worker does not understand the master's job, so it is of another version: {error}")
            return
        except BuslabError as error:
            self._say("done", calls=0, error=str(error))
            return
        self.play.set(play)
        gevent.spawn(self._attend, play)

    def _set_out(self, job: LoadJob, *, host: str, runs_clock: str) -> None:
        """Prepare for a run on another machine, if it is one: say where this clock can be compared, and have a place for the record.

        Raises
        ------
        BuslabError
            The broker cannot be reached from here, or something of it cannot be had.
        """
        if runs_clock == clock_identity() and Path(job.folder).is_dir():
            return
        check_reach(job.url)
        self._luggage = Luggage(lambda data: self._say("part", **data))
        self._answering = answering(host, runs_clock=runs_clock, at=self._own_address())
        if self._answering is not None:
            self._say("clock", **msgspec.structs.asdict(self._answering.says))

    def _own_address(self) -> str:
        """Return the address by which the master sees this process."""
        options = self.environment.parsed_options
        where = socket.getaddrinfo(options.master_host, options.master_port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(where[0], socket.SOCK_DGRAM) as way:
            way.connect(where[4])
            return str(way.getsockname()[0])

    def take_mirror(self, channel: str) -> None:
        """Answer for this clock at the broker: the run cannot reach the echo."""
        play = self.play.get()
        if self._answering is not None and play is not None:
            self._answering.mirror(play.address, MirrorClock(channel))

    def take_got(self, data: dict[str, Any]) -> None:
        """Take the lead's answer to a piece of the record."""
        if self._luggage is not None:
            self._luggage.got(data)

    def _attend(self, play: Play) -> None:
        play.all_connected.wait()
        if not play.error:
            self._say("ready")
            while not play.all_finished.wait(TICK_S) and not play.stopping and not play.broken:
                self._say("progress", calls=play.calls, published=play.published)
        self.leave()

    def take_go(self, zero_ns: int) -> None:
        """Start the schedule."""
        self.play.get().zero_ns.set(zero_ns)

    def leave(self) -> None:
        """Make the users leave, keep the record, and tell the lead; may be called twice."""
        if not self.play.ready():
            self.play.set(None)
        play = self.play.get()
        if play is not None:
            early = not play.stopping and not play.all_finished.is_set()
            error = play.close() or self._bring_home()
            self._say("done", calls=play.calls, error=error, early=early, closed=play.closed_by_server)

    def _bring_home(self) -> str:
        """Send the record to the lead, where it is not written there; once, whoever asks first."""
        with self._leaving:
            if self._luggage is not None and self._error is None:
                self._error = self._luggage.bring_home()
                self._luggage.close()
        return self._error or ""

    def is_heard_by(self, greenlet: object) -> bool:
        """Return whether it is this greenlet that takes the lead's messages, so that it must not wait for one."""
        return self._luggage is not None and greenlet in self.environment.runner.greenlet

    def _say(self, what: str, **data: Any) -> None:
        with contextlib.suppress(Exception):  # the master is gone: nobody is left to hear it
            self.environment.runner.send_message(f"buslab-{what}", data)


class Lead:
    """The one that speaks to the run for all hands, from the job to the end."""

    def __init__(
        self, environment: Environment, line: Line, *, began: Callable[[LoadJob], None], ended: Callable[[], None], waits: bool
    ) -> None:
        self._environment = environment
        self._line = line
        self._began, self._ended = began, ended
        self._waits = waits  # whether to wait until the run has judged: where it is our child
        self._inbox: gevent.queue.Queue = gevent.queue.Queue()
        runner = environment.runner
        self._hands = [c.id for c in runner.clients.all if c.state != STATE_MISSING] if isinstance(runner, MasterRunner) else ["local"]
        self.job: LoadJob | None = None
        self._here: dict[str, dict[str, Any]] = {}
        self._ready: set[str] = set()
        self._progress: dict[str, dict[str, int]] = {}
        self._done: dict[str, dict[str, Any]] = {}
        self._landing: Landing | None = None
        self._said_done = False
        self.greenlet = gevent.spawn(self._run)
        gevent.spawn(self._listen)
        gevent.spawn(self._beat)

    @property
    def over(self) -> bool:
        """Whether every call was made and every row written."""
        return self._said_done

    def hear(self, what: str, hand: str, data: dict[str, Any]) -> None:
        """Take a hand's message."""
        self._inbox.put((what, hand, data or {}))

    def _listen(self) -> None:
        try:
            for message in self._line.messages(Message):
                self._inbox.put(("line", "", message))
        except BuslabError as error:  # the run speaks garbage: without a line it ends
            log.error("%s", error)
            self._line.close()
        self._inbox.put(("gone", "", {}))

    def _beat(self) -> None:
        while not self.greenlet.ready():
            gevent.sleep(TICK_S)
            self._inbox.put(("tick", "", {}))

    def _run(self) -> None:
        while True:
            what, hand, data = self._inbox.get()
            if what == "gone" or (self._said_done and not self._waits):
                break
            if what == "tick":
                self._tick()
            elif what == "line":
                self._take_line(data)
            else:
                self._take(what, hand, data)
        self._tell("stop")
        self._ended()

    def _take_line(self, message: Message) -> None:
        if isinstance(message, LoadJob):
            self.job = message
            self._landing = Landing(Path(message.folder))
            self._began(message)
            self._share_out()
        elif isinstance(message, Go):
            for hand, name in zip(self._hands, self._names(), strict=True):
                self._tell_one(hand, "go", zero_ns=message.zero_of.get(name, message.zero_ns))
        elif isinstance(message, MirrorOf):
            self._tell_one(self._hand(message.host), "mirror", channel=message.channel)
        elif isinstance(message, LagSample):
            for lag_ms in message.lags_ms:
                self._environment.events.request.fire(
                    request_type="DELIVERY", name="lag", response_time=lag_ms, response_length=0, exception=None, context={}
                )
        elif isinstance(message, Stop):
            self._tell("stop")

    def _take(self, what: str, hand: str, data: dict[str, Any]) -> None:
        if what == "here":
            self._here[hand] = data
            self._share_out()
        elif what == "clock" and hand in self._hands:
            self._send(msgspec.structs.replace(msgspec.convert(data, OtherClock), host=self._names()[self._hands.index(hand)]))
        elif what == "part":
            self._take_part(hand, data)
        elif what == "ready":
            self._ready.add(hand)
            if self._ready == set(self._hands):
                self._send(Ready(sum(one["users"] for one in self._here.values()), self._names()))
        elif what == "progress":
            self._progress[hand] = data
        elif what == "done":
            self._done[hand] = data
            if data.get("early") and not self._said_done:
                log.warning("the worker %s was ended before it had made its calls", hand)
            if data["error"] or set(self._done) == set(self._hands):
                self._finish(data["error"])

    def _take_part(self, hand: str, data: dict[str, Any]) -> None:
        """Write a piece of the record of a worker on another machine, and tell it."""
        if self._landing is None or hand not in self._hands:
            return
        host = self._names()[self._hands.index(hand)]
        error = "the run is over" if self._said_done else self._landing.take(host, data)
        self._tell_one(hand, "got", error=error)
        self._send(PartHome(len(data["piece"])))

    def _hand(self, name: str) -> str:
        return self._hands[self._names().index(name)]

    def _names(self) -> tuple[str, ...]:
        return (HOST_NAME,) if len(self._hands) == 1 else tuple(f"{HOST_NAME}-{place}" for place in range(len(self._hands)))

    def _share_out(self) -> None:
        """Give each hand the job and its numbers, once all have come."""
        if self.job is None or set(self._here) != set(self._hands):
            return
        first, users = 0, sum(one["users"] for one in self._here.values())
        if not users:
            self._finish("no user is one on the bus: write a class of BusUser (from locustfiles.users import BusUser)")
            return
        for hand, name in zip(self._hands, self._names(), strict=True):
            data = {"job": msgspec.to_builtins(self.job), "host": name, "first": first, "users": users, "clock": clock_identity()}
            self._environment.runner.send_message("buslab-job", data, hand)
            first += self._here[hand]["users"]

    def _tick(self) -> None:
        """Tell the run how far the load is, or that a worker is gone."""
        runner = self._environment.runner
        if self._said_done:
            return
        if isinstance(runner, MasterRunner):
            lost = [hand for hand in self._hands if hand not in self._done and (hand not in runner.clients or self._missing(hand))]
            if lost:
                self._finish(f"the worker {lost[0]} is lost, and what it recorded last with it")
                return
        if self._ready:
            counts = self._progress.values()
            self._send(LoadProgress(sum(one["calls"] for one in counts), sum(one["published"] for one in counts)))

    def _missing(self, hand: str) -> bool:
        return self._environment.runner.clients[hand].state == STATE_MISSING

    def _finish(self, error: str) -> None:
        """Tell the run that nothing more will come."""
        if not self._said_done:
            self._said_done = True
            done = self._done.values()
            self._send(Done(sum(one["calls"] for one in done), error, sum(one.get("closed", 0) for one in done)))
            if error:
                log.error("%s", error)
                self._tell("stop")

    def _send(self, message: Message) -> None:
        self._line.send(message)

    def _tell(self, what: str, **data: Any) -> None:
        for hand in self._hands:
            self._tell_one(hand, what, **data)

    def _tell_one(self, hand: str, what: str, **data: Any) -> None:
        with contextlib.suppress(Exception):  # a lost worker cannot be told
            self._environment.runner.send_message(f"buslab-{what}", data, hand)


def check_reach(urls: str) -> None:
    """Refuse a broker that this machine cannot reach, before any user tries.

    Raises
    ------
    UsageError
    """
    for node in parse_address(urls).nodes:
        try:
            socket.create_connection((node.host, node.port), timeout=REACH_TIMEOUT_S).close()
        except OSError as error:
            other = " (on this machine, not the master's)" if node.is_loopback else ""
            why = f"a worker on another machine cannot reach {node}{other}: {error.strerror or error}"
            raise UsageError(f"{why}; give a server that both reach, by --host redis://HOST:PORT on the master") from None


def join_crew(environment: Environment) -> None:
    """Register for the messages between lead and hands; a Locust alone sends them to itself."""
    runner, state = environment.runner, environment.buslab  # type: ignore[attr-defined]

    def to_lead(what: str, msg: Any) -> None:
        if state.lead is not None:
            state.lead.hear(what, msg.node_id, msg.data)

    def to_hand(what: str, msg: Any) -> None:
        hand, data = state.hand, msg.data or {}
        takes: dict[str, Callable[[], object]] = {
            "job": lambda: hand.take_job(data),
            "mirror": lambda: gevent.spawn(hand.take_mirror, data["channel"]),
            "go": lambda: hand.take_go(data["zero_ns"]),
            "got": lambda: hand.take_got(data),
            "stop": lambda: gevent.spawn(hand.leave),
        }
        takes[what]()

    def listen(what: str, hear: Callable[[str, Any], None]) -> None:
        runner.register_message(f"buslab-{what}", lambda environment, msg, **_: hear(what, msg))

    for whats, hear, elsewhere in ((TO_LEAD, to_lead, WorkerRunner), (TO_HAND, to_hand, MasterRunner)):
        if not isinstance(runner, elsewhere):
            for what in whats:
                listen(what, hear)
