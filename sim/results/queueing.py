"""How long work waits for who does it: the M/G/c queue, arrivals at random times, any distribution of work, several at a time."""

from __future__ import annotations

import math


def busy_wait(load: float, servers: int) -> float:
    """Return the probability that a customer of an M/M/c queue waits (Erlang's C); 1 where the load, in servers, is all they can do.

    By the recursion of Erlang's B, so that large numbers do not overflow.
    """
    if load >= servers:
        return 1.0
    blocked = 1.0
    for servers_so_far in range(1, servers + 1):
        blocked = load * blocked / (servers_so_far + load * blocked)
    return servers * blocked / (servers - load * (1 - blocked))


def mean_wait_s(rate_per_s: float, *, mean_s: float, square_s2: float, servers: int = 1) -> float:
    """Return how long a customer waits on average before its service begins, seconds; infinite where more comes than can be done.

    With one server this is exact (Pollaczek and Khinchine); with more it is the usual approximation: the wait of M/M/c, times
    half of 1 + the square of the service's coefficient of variation (Lee and Longton), which is exact for exponential times.

    Parameters
    ----------
    mean_s, square_s2
        Of the service time: its mean, and the mean of its square.
    """
    if mean_s <= 0:
        return 0.0
    load = rate_per_s * mean_s
    if load >= servers:
        return math.inf
    return busy_wait(load, servers) * mean_s / (servers - load) * square_s2 / mean_s**2 / 2
