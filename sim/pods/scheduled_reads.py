"""Read what the pods keep in caches at scheduled times, so that the stale copies which a cache serves can be counted.

A read is what a service does on each request: it asks its cache for a template, a provider or a key of its own bus, and on a miss loads
it from the database, which always has the newest. Loading takes no time here, so an invalidation cannot overtake the load that it is
about. Each read is one row of the table `reads`. A pod that is not running does not read; a frozen one reads when it goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from sim.machine.clock import Alarm, running_clock
from sim.pods.pod import Pod
from sim.pods.replica import InlineReplica
from sim.record.recorder import Recorder
from sim.record.schema import ALIVE_STATES
from sim.scenario.schedule import IntendedReads

BURST = 64  # reads made before the loop may hear again


class ScheduledReads:
    """The scheduled reads of the pods of one process, each made at its intended time by one precise alarm for all.

    A read that is late is made late: its row holds the time at which it was made, which is what the copy is judged by.
    """

    def __init__(
        self, replicas: Mapping[int, InlineReplica] | Sequence[InlineReplica], reads: IntendedReads, *, zero_ns: int, recorder: Recorder
    ) -> None:
        self._replicas = replicas
        self._add = recorder.tables["reads"].add
        self._at_ns = (reads.offset_ns + zero_ns).tolist()
        self._pod = reads.pod.tolist()
        self._subject = reads.subject.tolist()
        self._subjects = reads.subjects
        self._next = 0
        self._now_ns = running_clock()
        self._alarm = Alarm(self._wake)
        self._arm()

    def _wake(self) -> None:
        due_ns = self._now_ns()
        for row in range(self._next, min(self._next + BURST, len(self._at_ns))):
            if self._at_ns[row] > due_ns:
                break
            self._next = row + 1
            pod, (cache, key) = self._replicas[self._pod[row]].pod, self._subjects[self._subject[row]]
            if pod.state not in ALIVE_STATES:
                continue
            freezer = pod.freezer
            if freezer.frozen:
                freezer.then(partial(self._read, pod, cache, key))
            elif not freezer.ended:
                self._read(pod, cache, key)
        self._arm()

    def _read(self, pod: Pod, cache: str, key: str) -> None:
        at_ns = self._now_ns()
        if cache:
            loaded_ns, hit = pod.caches.read(cache, key, now_ns=at_ns)
        else:
            config = getattr(pod.logic, "config", None)  # to ask whether it is a `ConfigReader` takes ten times as long
            if config is None:
                return
            loaded_ns, hit = config.read(key, now_ns=at_ns)
        self._add(at_ns, pod.name, key, loaded_ns, "hit" if hit else "miss")

    def _arm(self) -> None:
        if self._next < len(self._at_ns):
            self._alarm.set(self._at_ns[self._next])

    def close(self) -> None:
        """Stop reading; may be called twice."""
        self._alarm.close()
