"""A client that is not ours lives through an outage: redis-py's publisher and subscriber as they come, the server killed and started again.

The trials `REDIS_PY` of claims 10 and 11 are this and no run of a scenario: nothing of the lab's own bus takes part, so what it shows is
not a setting of the lab. `python -m sim.experiments.claims.client_outage FOLDER --away 8` makes one.

Rules
-----
1. Both clients are as redis-py makes them of an address. The subscriber is what its documentation shows: `for message in listen()` in a
   thread; an error that leaves the loop ends it, as it ends such a service's listener. Nobody starts it again.
2. The publisher sends a number every `PUBLISH_S` and goes on after an error. It counts as back with its first publish that is acknowledged.
3. After Redis is back the publisher has `AFTER_S`. A subscriber that lives and heard one of the numbers sent in the last `LAST_S` came back
   by itself. One that lives and heard none is deaf; one that ended must be started again, by whoever restarts its pod.
4. A trial in which the subscriber heard nothing before the outage, or that could not publish after it, proves nothing: unknown.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import redis

from sim.errors import BuslabError
from sim.experiments.claims.claim import CLIENT
from sim.grounds.embedded import embedded
from sim.machine.files import write_whole
from sim.machine.words import duration, times
from sim.results.checkers.verdict import Result, Verdict

CHANNEL = "aiponge:events:config.cache.invalidate"
PUBLISH_S = 0.02
BEFORE_S, AFTER_S, LAST_S = 1.0, 12.0, 1.0


@dataclass
class HearingClient:
    """A subscriber in a thread of its own: the numbers that it heard, and the error that ended it."""

    port: int
    heard: list[int] = field(default_factory=list)
    ended_by: str = ""

    def __post_init__(self) -> None:
        self.client = redis.Redis("127.0.0.1", self.port)
        self.pubsub = self.client.pubsub()  # type: ignore[no-untyped-call]
        self.pubsub.subscribe(CHANNEL)
        self.thread = threading.Thread(target=self._listen, daemon=True)

    def _listen(self) -> None:
        try:
            for message in self.pubsub.listen():
                if message["type"] == "message":
                    self.heard.append(int(message["data"]))
        except Exception as error:  # whatever redis-py raises ends the loop of a service that is written like this
            self.ended_by = type(error).__name__


@dataclass
class SendingClient:
    """A publisher in a thread of its own: the numbers that were acknowledged with their times, and how many of its calls raised."""

    port: int
    sent: list[tuple[int, float]] = field(default_factory=list)
    errors: int = 0

    def __post_init__(self) -> None:
        self.client = redis.Redis("127.0.0.1", self.port)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._publish, daemon=True)

    def _publish(self) -> None:
        for number in itertools.count():
            if self.ended.wait(PUBLISH_S):
                return
            try:
                self.client.publish(CHANNEL, number)
                self.sent.append((number, time.monotonic()))
            except redis.RedisError:
                self.errors += 1


def live_through(folder: Path, *, away_s: float) -> Verdict:
    """Carry both clients through an outage, and write and return what was counted as a verdict.

    Raises
    ------
    BrokerError
        The server did not start again.
    """
    with embedded() as broker:
        listener, sender = HearingClient(broker.address.port), SendingClient(broker.address.port)
        listener.thread.start()
        sender.thread.start()
        time.sleep(BEFORE_S)
        heard_before = len(listener.heard)
        asyncio.run(broker.kill())
        time.sleep(away_s)
        asyncio.run(broker.start())
        back_s = time.monotonic()
        time.sleep(AFTER_S)
        after = [(number, at_s - back_s) for number, at_s in sender.sent if at_s > back_s]
        last = {number for number, after_s in after if after_s >= AFTER_S - LAST_S}
        lives, hears = listener.thread.is_alive(), bool(last & set(listener.heard))
        sender.ended.set()
        sender.thread.join(AFTER_S)
    counts: dict[str, int | float] = {"away_s": away_s, "heard_before": heard_before, "sent_after": len(last), "raised": sender.errors}
    counts |= {"lives": int(lives), "hears": int(hears and lives)} | ({"publisher_back_s": after[0][1]} if after else {})
    result = _result(counts, listener.ended_by)
    verdict = Verdict(result.verdict, "redis-py", "embedded", None, {CLIENT: result}, [])
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "verdict.json", json.dumps(verdict.to_json(), indent=2, allow_nan=False) + "\n")
    return verdict


def _result(counts: dict[str, int | float], ended_by: str) -> Result:
    how = "hears again" if counts["hears"] else "lives and hears nothing" if counts["lives"] else f"ended with a {ended_by}"
    back_s = counts.get("publisher_back_s")
    back = "did not come back" if back_s is None else f"was back after {duration(back_s)}"
    raised = f"its publisher raised {times(int(counts['raised']))} and {back}"
    text = f"redis-py {redis.__version__}, Redis away for {duration(counts['away_s'])}: {raised}; its subscriber {how}"
    return Result("valid" if counts["heard_before"] and counts["sent_after"] else "unknown", text, counts=counts)


def main() -> None:
    """Make one, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--away", type=float, default=8.0, metavar="SECONDS")
    said = parser.parse_args()
    try:
        print(live_through(said.folder, away_s=said.away).checkers[CLIENT].detail)
    except BuslabError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
