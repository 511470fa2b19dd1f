"""What a service's settings say of its handlers: how long one event takes them, how many they handle at a time, and so what they can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sim.record.durations import Duration, duration_of
from sim.results.queueing import mean_wait_s

SURELY = 0.9999  # of the longest time that is allowed for


@dataclass(frozen=True)
class Handling:
    """What a service's settings say of its handlers: the times of one event by type, how many at a time, and its share of a core."""

    cpu: Mapping[str, Duration]
    wait: Mapping[str, Duration]
    concurrency: int
    cores: float

    @property
    def takes_time(self) -> bool:
        """Whether handling takes any."""
        return any(map(bool, (*self.cpu.values(), *self.wait.values())))

    def _moments_s(self, shares: Mapping[str, float], *, cpu: bool, wait: bool) -> tuple[float, float]:
        """Return mean and mean square of the time of an event, in seconds, by how much of each type there is."""
        mean = square = 0.0
        for channel, share in shares.items():
            stretch = 1 / min(1.0, self.cores)
            one, other = self.cpu[channel] if cpu else Duration(), self.wait[channel] if wait else Duration()
            a, b = one.mean_ms * stretch, other.mean_ms
            mean += share * (a + b)
            square += share * (one.square_ms2 * stretch**2 + 2 * a * b + other.square_ms2)
        return mean / 1e3, square / 1e6

    def can_per_s(self, shares: Mapping[str, float]) -> float:
        """Return how many events of such a mix it can handle a second; infinite where nothing limits it."""
        core, _ = self._moments_s(shares, cpu=True, wait=False)
        whole, _ = self._moments_s(shares, cpu=True, wait=True)
        limits = [1 / core if core else float("inf"), self.concurrency / whole if self.concurrency and whole else float("inf")]
        return min(limits)

    def queues(self, shares: Mapping[str, float]) -> list[tuple[float, float, int]]:
        """Return the queues that its events may stand in: mean and mean square of the service, in seconds, and the servers of each."""
        queues = []
        core, square = self._moments_s(shares, cpu=True, wait=False)
        if core:
            queues.append((core, square, 1))
        if self.concurrency:
            queues.append((*self._moments_s(shares, cpu=True, wait=True), self.concurrency))
        return queues

    def at_once(self, many: int) -> Handling:
        """Return the same with so many at a time."""
        return replace(self, concurrency=many)

    def cheaper(self, share: float) -> Handling:
        """Return the same with so much of every time."""
        cpu, wait = ({channel: one.scaled(share) for channel, one in times.items()} for times in (self.cpu, self.wait))
        return replace(self, cpu=cpu, wait=wait)

    def theory_s(self, shares: Mapping[str, float], rate_per_s: float) -> float:
        """Return the mean wait of the M/G/c queue; NaN where both the core and the number at a time limit."""
        core, square = self._moments_s(shares, cpu=True, wait=False)
        if not self.concurrency:
            return mean_wait_s(rate_per_s, mean_s=core, square_s2=square)
        if core and self.concurrency > 1:
            return float("nan")
        mean, square = self._moments_s(shares, cpu=True, wait=True)
        return mean_wait_s(rate_per_s, mean_s=mean, square_s2=square, servers=self.concurrency)


def handling_of(service: Mapping[str, Any]) -> Handling:
    """Return what a service's table in a scenario says of its handlers."""
    channels = [str(channel) for channel in service.get("subscribes", ())]
    cpu, wait = (service.get(key, 0.0) for key in ("handler_cpu_ms", "handler_ms"))
    return Handling(
        {channel: duration_of(cpu, channel) for channel in channels},
        {channel: duration_of(wait, channel) for channel in channels},
        int(service.get("concurrency", 0)),
        float(service.get("cpu_limit", 1.0)),
    )


def longest_ms(service: Mapping[str, Any]) -> float:
    """Return the longest time that handling one event takes, as good as surely, in milliseconds."""
    handling = handling_of(service)
    channels = [*handling.cpu, ""]
    wait, cpu = (service.get(key, 0.0) for key in ("handler_ms", "handler_cpu_ms"))
    stretch = 1 / min(1.0, handling.cores)
    return max(duration_of(wait, one).quantile(SURELY) + duration_of(cpu, one).quantile(SURELY) * stretch for one in channels)
