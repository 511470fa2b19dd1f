"""Measure how late copies are handled, in microseconds, from every raw row of the `run` phase.

- **lag**: intended time of the event to the start of its handler; first deliveries of expected copies.
- **send delay**: intended time to the time it was handed to the socket, one value an event that was sent. A late generator shows
  here, and stays inside the lag.
- **bus**: sent to handled, one value a copy: the lag without the send delay.
- **held up**: how long a call had to wait until earlier ones of its publisher had returned and been answered. That part of a send
  delay comes from the bus, a slow server for example; the rest is the generator's own.

A quantile q of n values is the value at rank ceil(q * (n - 1)), counted from 0 in rising order: one that occurred, never less
than an interpolated one. One of fewer than 1 / (1 - q) values is the maximum, and the result says so.

A handler cannot start before its event was meant or sent, so one negative lag or bus time means that clocks disagree: unknown. Where
publisher and pod read different clocks, a lag is as exact as these are known, copy by copy (`sim.results.run_clocks`): the metrics are
intervals then, from the quantile of the least to that of the most that each lag may have been, and a lag may be negative by so much.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sim.machine.words import count, duration, measured
from sim.record.limits import MetricName, read_metric
from sim.record.reader import Array, codes_in, codes_of, quantiles
from sim.results.checkers.verdict import CLOCKS, Bounds, Result, between
from sim.results.copies import OUTCOME
from sim.results.lags import Lags
from sim.results.opened_run import Run
from sim.results.programs import program_services
from sim.results.values import Values

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "p9999": 0.9999, "max": 1.0}
SLO_METRICS = tuple(f"lag_ms_{name}" for name in QUANTILES)


def check(run: Run) -> Result:
    """Measure lag, send delay and bus time; no data or a negative time is unknown."""
    publishes, lags = run.publishes, run.lags
    lag, bus = lags.of(lags.lag), lags.of(lags.bus)
    delay = send_delays(run)
    in_run, outcome = (publishes["phase"] == "run").to_numpy(), codes_in(publishes["outcome"], OUTCOME)
    if run.info.fleet == "none":
        return _without_fleet(lags, lag, delay)
    if not lags.copies:
        return Result("unknown", "no data: nothing was delivered in the run phase", metrics=_metrics(lags, lag, delay))
    error = lags.error_ns()
    counts: dict[str, int | float] = {"copies": len(lag), "negative": lags.negative}
    counts |= {"clock_error_us.max": error / 1e3} if error else {}
    counts |= _quantiles("lag_us", lag) | _quantiles("send_delay_us", Values([delay])) | _quantiles("bus_us", bus)
    counts |= _quantiles("held_up_us", Values([held_up(run)])) | {"unanswered": int((in_run & (outcome != OUTCOME["acknowledged"])).sum())}
    metrics = _metrics(lags, lag, delay)
    for kind, words in (("channel", lags.channels), ("service", lags.services)):
        for word in words:
            found = lags.of(lags.lag, kind, word).quantiles(QUANTILES)
            found_ms = _lags_ms(found, lags, kind, word)
            counts |= {f"lag_us.{kind}.{word}.{name}": value / 1e3 for name, value in found.items()}
            metrics |= {str(MetricName(f"lag_ms_{name}", kind, word)): value for name, value in found_ms.items()}
            if any(read_metric(name)[1:] == (kind, word) for name in run.slo):
                counts |= _quantiles(f"bus_us.{kind}.{word}", lags.of(lags.bus, kind, word))
    middle, tail, most = (duration(counts[f"lag_us.{name}"] / 1e6) for name in ("p50", "p99", "max"))
    detail = f"median lag {middle}, p99 {tail}, max {most} over {count(len(lag), 'copy')}" + _caution(len(lag)) + _exactness(error)
    if counts["negative"]:
        many = count(counts["negative"], "copy was handled before it was", "copies were handled before they were")
        detail = f"{many} meant or sent: the clocks or the record are wrong"
        return Result("unknown", detail, counts=counts, metrics=metrics)
    return Result("valid", detail, counts=counts, metrics=metrics, warnings=_of_taps(run))


def _of_taps(run: Run) -> list[str]:
    """Return what a reader must know of lags of programs: where they end, and what the taps on the way add."""
    programs = program_services(run)
    to_socket = [name for name, settings in programs.items() if settings.get("subscribes") and not settings.get("reports_handled")]
    found = []
    if to_socket:
        found.append(f"the lag of {', '.join(to_socket)} ends at the sockets of its programs: they do not report what they have handled")
    added = run.info.links_us or {}
    if programs and added:
        direct, through = (duration(added[f"{way}_p50"] / 1e6) for way in ("direct", "through"))
        found.append(f"a round trip took {direct} in the median, and {through} through a tap: that is in every lag of a program")
    return found


def _without_fleet(lags: Lags, lag: Values, delay: Array) -> Result:
    """Return the send delay alone: no pod of ours heard anything."""
    if not len(delay):
        return Result("unknown", "no data: nothing was published in the run phase", metrics=_metrics(lags, lag, delay))
    counts: dict[str, int | float] = {"publishes": len(delay)} | _quantiles("send_delay_us", Values([delay]))
    detail = f"the fleet is not ours: who heard, and how late, is not known; {count(len(delay), 'event was', 'events were')} sent, "
    detail += f"p99 {duration(counts['send_delay_us.p99'] / 1e6)} after the time that was meant"
    return Result("valid", detail, counts, metrics=_metrics(lags, lag, delay))


def send_delays(run: Run) -> Array:
    """Return sent - intended, nanoseconds, of every event of the run phase that was handed to a socket."""
    publishes = run.publishes
    tried = codes_in(publishes["outcome"], OUTCOME) != OUTCOME["memory"]
    sent = (publishes["phase"] == "run").to_numpy() & (publishes["sent_ns"].to_numpy() > 0) & tried
    delays: Array = (publishes["sent_ns"].to_numpy() - publishes["intended_ns"].to_numpy())[sent]
    return delays


def held_up(run: Run) -> Array:
    """Return how long earlier calls and publishes of the same publisher held up each of the run phase, nanoseconds (Lindley's recursion).

    A call that publishes counts as both, and what was under way while the generator stalled counts too: rather too long than too short.
    """
    calls, publishes = run.calls, run.publishes
    words = dict.fromkeys(word for table in (calls, publishes) for word in codes_of(table["publisher"])[1])
    publishers = {word: number for number, word in enumerate(words)}
    publisher = np.concatenate([codes_in(table["publisher"], publishers) for table in (calls, publishes)])
    intended = np.concatenate([table["intended_ns"].to_numpy() for table in (calls, publishes)])
    answered = np.maximum(0, publishes["acked_ns"].to_numpy() - publishes["sent_ns"].to_numpy())
    took = np.concatenate([calls["took_ns"].to_numpy(), answered])
    order = np.lexsort((intended, publisher))
    waits = np.zeros(len(order), dtype=np.int64)
    for rows in np.split(order, np.flatnonzero(np.diff(publisher[order])) + 1):
        walk = np.concatenate(([0], np.cumsum(took[rows][:-1] - np.diff(intended[rows]))))[: len(rows)]
        waits[rows] = walk - np.minimum.accumulate(walk)
    start_ns, end_ns = run.run_span
    inside: Array = waits[(intended >= start_ns) & (intended < end_ns)]
    return inside


def generator_s_own(metric: str, limit: float, counts: Mapping[str, int | float]) -> str:
    """Return why the generator is to blame for a broken limit on lag, which would hold without its lateness; else an empty string.

    Where publishes were not answered nobody knows how long they held up the calls after them, so nothing is excused.

    Parameters
    ----------
    limit
        Milliseconds.
    counts
        What `check` counted. Quantiles of the other parts of the lag are added up, so their sum is rather too great than too small.
    """
    base, scope, subject = read_metric(metric)
    quantile = base.removeprefix("lag_ms_")
    bus = ".".join(filter(None, ("bus_us", scope, subject, quantile)))
    if counts.get("unanswered") or bus not in counts:
        return ""
    rest_ms = (counts[bus] + counts.get(f"held_up_us.{quantile}", 0.0)) / 1e3
    return f"the generator was late by itself: without that it is at most {measured(metric, rest_ms)}" if rest_ms <= limit else ""


def _quantiles(name: str, values: Values) -> dict[str, int | float]:
    return {f"{name}.{quantile}": value / 1e3 for quantile, value in values.quantiles(QUANTILES).items()}


def _lags_ms(found: Mapping[str, int], lags: Lags, kind: str = "", word: str = "") -> dict[str, float | Bounds]:
    """Return the quantiles of lag, which were found, of a channel or a service (`kind`) or of all, in ms, as far as clocks are known."""
    if not lags.error_ns(kind, word):
        return {name: value / 1e6 for name, value in found.items()}
    least, most = (lags.of(values, kind, word).quantiles(QUANTILES) for values in (lags.least, lags.most))
    return {name: between(value / 1e6, most[name] / 1e6, CLOCKS) for name, value in least.items()}


def _metrics(lags: Lags, lag: Values, delay: Array) -> dict[str, float | Bounds]:
    delays, nan = quantiles(delay, QUANTILES), float("nan")
    found = _lags_ms(lag.quantiles(QUANTILES), lags)
    return {f"lag_ms_{name}": found.get(name, nan) for name in QUANTILES} | {"send_delay_ms_p99": delays.get("p99", nan) / 1e6}


def _exactness(error_ns: int) -> str:
    """Return by how much a lag may be wrong; nothing where every copy went between processes of one clock."""
    return f"; between machines a lag is exact to {duration(error_ns / 1e9)}" if error_ns else ""


def _caution(rows: int) -> str:
    few = [name for name, q in QUANTILES.items() if q < 1 and rows * (1 - q) < 1 - 1e-9]
    if not few:
        return ""
    which = f"p{100 * QUANTILES[few[0]]:g}" + (" is" if len(few) == 1 else " and above are")
    return f"; {which} the maximum (too few copies)"
