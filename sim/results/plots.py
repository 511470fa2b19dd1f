"""Draw one run: one function a figure, each takes a `Run` (and axes to draw into) and returns the axes.

Rules: the title states the finding with its number; axes name their unit; lines differ in style and marker, not only in colour, and a
fate has the colour that it has everywhere (`sim.pages.colours`); a limit is a line of its own; faults are hatched, phases are marked.
Time 0 is the start of the run phase. Nothing is shown or saved here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sim.machine.words import amount, count, duration
from sim.pages.colours import BLUE, FATE_COLOURS, GREEN, ORANGE, PURPLE, RED, SKY
from sim.record.limits import MetricName, read_metric
from sim.record.reader import FOREVER_NS, Array
from sim.results.copies import FATE
from sim.results.opened_run import Run
from sim.results.over_time import bin_of, bincount, count_lags, count_over_time, quantiles_of_counts
from sim.results.service_books import NO_COPY
from sim.results.values import Values

COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P")
MIN_BINS, MAX_BINS = 40, 400
MAX_LINES = 12  # of a figure
QUANTILE_POINTS = 200
ALL_COPIES = MetricName("")  # of every service and channel
FAR_MS = 1e9  # a limit beyond which is no line in any figure
FOR_P99 = 100  # copies, of fewer of which the 99th percentile is the greatest
LAG_LIMITS = {"lag_ms_p50": 0.5, "lag_ms_p90": 0.9, "lag_ms_p99": 0.99, "lag_ms_p999": 0.999, "lag_ms_p9999": 0.9999, "lag_ms_max": 1.0}


def rates(run: Run, ax: Axes | None = None) -> Axes:
    """Draw events published, copies delivered and copies missing, each per second, over time."""
    ax = make_axes(ax)
    edges, width_s = bins(run)
    publishes, books = run.publishes, run.service_books
    intended = publishes["intended_ns"].to_numpy()
    alone = books.publish[books.alone[books.fate[books.alone] == FATE["missing"]]]
    delivered, missing = count_over_time(run, edges)
    missing = missing + bincount(bin_of(edges, intended[alone]), len(edges) - 1)
    published, zero = bincount(bin_of(edges, intended), len(edges) - 1), zero_ns(run)
    series = {
        "events published": (published, "black"),
        "copies delivered": (delivered, FATE_COLOURS["delivered"]),
        "copies missing": (missing, FATE_COLOURS["missing"]),
    }
    for n, (name, (many, colour)) in enumerate(series.items()):
        look = {**_look(n, every=len(edges) // 12), "color": colour}
        ax.plot((edges[:-1] - zero) / 1e9 + width_s / 2, many / width_s, label=name, **look)
    mark(ax, run)
    ax.set(xlabel="time since the run phase began (s)", ylabel="per second", ylim=(0, None))
    ax.set_title(_rates_title(run, edges, (published, delivered, missing)))
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=3, frameon=False)
    return ax


def _rates_title(run: Run, edges: Array, counts: tuple[Array, Array, Array]) -> str:
    """Return rates of the run phase; of a run that did not reach it, those of all that is drawn."""
    begin, end = run.run_span
    left_to_peer = run.tally.causes["taken-by-peer"]
    if "run" in run.phases:
        last = min(end, max(int(edges[-1]), begin + 1)) if end == FOREVER_NS else end
        seconds, of_run = max((last - begin) / 1e9, 1e-9), (run.publishes["phase"] == "run").to_numpy()
        sent, heard, lost = int(of_run.sum()), run.lags.copies, run.tally.fates(ALL_COPIES)["missing"] - left_to_peer
        when = ""
    else:
        seconds, (sent, heard, lost) = (edges[-1] - edges[0]) / 1e9, (int(many.sum()) for many in counts)
        when = " before the run phase, which was not reached"
    rates_of = (count(round(many / seconds), noun) for many, noun in ((sent, "event"), (heard, "copy")))
    return f"{'/s became '.join(rates_of)}/s{when}; {count(lost, 'copy is', 'copies are')} missing" + (
        f", {left_to_peer:,} left to another pod" if left_to_peer else ""
    )


def lag_over_time(run: Run, ax: Axes | None = None) -> Axes:
    """Draw median, 99th percentile and greatest lag of the copies meant in each interval, on a log axis, and the limits on them.

    Where an interval has fewer than `FOR_P99` copies, its 99th percentile would be the greatest, and is not drawn.
    """
    ax = make_axes(ax)
    edges, width_s = bins(run)
    counted = count_lags(run, edges)
    values = quantiles_of_counts(counted, (0.5, 0.99, 1.0)) / 1e3
    values[1, counted.sum(axis=1) < FOR_P99] = np.nan
    at = (edges[:-1] - zero_ns(run)) / 1e9 + width_s / 2
    for n, name in enumerate(("median", f"p99, of {FOR_P99} copies or more", "max")):
        if n != 1 or np.isfinite(values[n]).any():
            ax.plot(at, np.where(values[n] > 0, values[n], np.nan), label=name, **_look(n, every=len(edges) // 12))
    ax.set_yscale("log")
    for label, _, limit_us in lag_limits(run):
        ax.axhline(limit_us, color="black", linestyle=(0, (1, 1)), linewidth=1.8)
        ax.annotate(label, (1, limit_us), (-3, 3), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right", fontsize=8)
    mark(ax, run)
    _us_axis(ax)
    ax.set(xlabel="time since the run phase began (s)", ylabel="lag of the copies meant then (log)")
    ax.set_title(_lag_title("Lag", run.lags.of(run.lags.lag)) + f", over intervals of {duration(width_s)}")
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=3, frameon=False)
    return ax


def lag_distribution(run: Run, ax: Axes | None = None, *, by: str = "channel") -> Axes:
    """Draw lag by percentile, the tail stretched; all copies, and each channel or service (`by`: channel, service or total).

    Of many channels or services those with most copies are drawn, and how many more there are is told.
    """
    ax = make_axes(ax)
    lags = run.lags
    groups = {"all copies": lags.of(lags.lag)}
    words = {"channel": lags.channels, "service": lags.services}.get(by, [])
    each = {word: values for word in words if len(values := lags.of(lags.lag, by, word))}
    drawn = set(sorted(each, key=lambda word: -len(each[word]))[:MAX_LINES])
    groups |= {word: values for word, values in each.items() if word in drawn}
    for n, (name, values) in enumerate((name, values) for name, values in groups.items() if len(values)):
        look = {**_look(n), "linewidth": 2.5} if n == 0 else _look(n - 1)
        _percentiles(ax, values, label=f"{as_it_is(name)} ({len(values):,})", **({**look, "color": "black"} if n == 0 else look))
    for label, rank, limit_us in lag_limits(run):
        at = min(1 / max(1 - rank, 1e-9), max(len(groups["all copies"]), 1.0001))
        ax.plot(at, limit_us, marker="v", markersize=10, color="black", linestyle="none", label=label)
    _percentile_axis(ax)
    ax.set_ylabel("lag (log)")
    more = f"; {len(each) - len(drawn):,} more {by}s are not drawn" if len(each) > len(drawn) else ""
    ax.set_title(_lag_title("Lag", groups["all copies"]) + more)
    return ax


def send_delay(run: Run, ax: Axes | None = None) -> Axes:
    """Draw which part of lag passed before the event was sent, and which on the bus, by percentile."""
    ax = make_axes(ax)
    lags = run.lags
    parts = {"lag": lags.of(lags.lag), "before it was sent": _delays_of_copies(run), "on the bus": lags.of(lags.bus)}
    for n, (name, values) in enumerate(parts.items()):
        _percentiles(ax, values, label=name, **_look(n))
    _percentile_axis(ax)
    ax.set_ylabel("time (log)")
    share = lags.delay_ns / lags.lag_ns if lags.lag_ns > 0 else 0.0
    ax.set_title(f"{share:.0%} of all lag passed before the event was sent" if lags.copies else "No copy was delivered")
    return ax


def copies_per_event(run: Run, ax: Axes | None = None) -> Axes:
    """Draw how many copies of an event each service handled, beside how many pods it has."""
    ax = make_axes(ax)
    books, handled = run.service_books, run.books.handled
    meant = (run.publishes["phase"] == "run").to_numpy()[books.publish] & (books.fate == NO_COPY)  # some pod was to hear it
    events = np.bincount(books.service[meant], minlength=len(run.services))
    services = sorted({history.service for history in run.pod_histories if history.channels})
    first, repeated, pods = [], [], []
    for name in services:
        mine = [number for number, history in enumerate(run.pod_histories) if history.service == name]
        many = int(events[run.services.index(name)])
        first.append(int(handled[mine, 0].sum()) / many if many else 0.0)
        repeated.append(int(handled[mine, 1].sum()) / many if many else 0.0)
        pods.append(len(mine))
    again = int(handled[:, 1].sum())
    at = np.arange(len(services))
    ax.bar(at, first, width=0.6, color=SKY, edgecolor="black", label="first time")
    ax.bar(at, repeated, width=0.6, bottom=first, color=PURPLE, edgecolor="black", hatch="//", label="again")
    ax.plot(at, pods, "D", color="black", markersize=7, fillstyle="none", linestyle="none", label="pods")
    for x, value in zip(at, np.add(first, repeated), strict=True):
        ax.annotate(amount(value), (x, value / 2), ha="center", va="center")
    ax.set_xticks(at, [as_it_is(name) for name in services], rotation=20, ha="right")
    ax.set(xlabel="service", ylabel="copies handled per event", ylim=(0, max([*pods, 1]) * 1.1))
    ax.set_title(f"Handled copies per event; {count(again, 'copy was', 'copies were')} heard again by the same pod")
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.3), ncols=3, frameon=False)
    return ax


def ledger_books(run: Run, ax: Axes | None = None) -> Axes:
    """Draw the copies of the run phase by fate, the missing ones by cause."""
    ax = make_axes(ax)
    fates, causes = run.tally.fates(ALL_COPIES), run.tally.causes
    rows = [(fate, many, FATE_COLOURS[fate]) for fate, many in fates.items()]
    of_cause = dict.fromkeys(causes, FATE_COLOURS["missing"]) | {"taken-by-peer": "white"}
    rows[FATE["missing"] + 1 : FATE["missing"] + 1] = [(f"missing: {cause}", n, of_cause[cause]) for cause, n in causes.items() if n]
    names, values = [name for name, _, _ in rows], [value for _, value, _ in rows]
    bars = ax.barh(range(len(rows)), values, color=[colour for _, _, colour in rows], edgecolor="black")
    for bar, name in zip(bars, names, strict=True):
        bar.set_hatch("//" if ":" in name else "")
    ax.bar_label(bars, labels=[f"{value:,}" for value in values], padding=4)
    ax.set_yticks(range(len(rows)), names)
    ax.invert_yaxis()
    ax.set(xlabel="copies in the run phase", xlim=(0, max([*values, 1]) * 1.15))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    expected = fates["delivered"] + fates["missing"] + fates["unknown"]
    ax.set_title(f"{amount(fates['delivered'])} of {count(expected, 'expected copy was', 'expected copies were')} delivered")
    return ax


FIGURES = (rates, lag_over_time, lag_distribution, send_delay, copies_per_event, ledger_books)


def lag_limits(run: Run) -> list[tuple[str, float, float]]:
    """Return the scenario's limits on the lag of all copies: what to write beside each, its rank, and the limit in microseconds."""
    numbers = {name: value for name, value in run.slo.items() if isinstance(value, int | float) and not isinstance(value, bool)}
    found = [(read_metric(name), value) for name, value in numbers.items() if 0 < value < FAR_MS]
    return [
        (f"limit of {name.base.removeprefix('lag_ms_')}: {duration(value / 1e3)}", LAG_LIMITS[name.base], value * 1e3)
        for name, value in found
        if not name.scope and name.base in LAG_LIMITS
    ]


def as_it_is(name: str) -> str:
    """Return a name of the user's for a figure, in which a dollar would begin a formula, and a label with `_` in front is left out."""
    text = name.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def make_axes(ax: Axes | None) -> Axes:
    """Return the axes given, or new ones."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(9, 5), layout="constrained")[1]


def zero_ns(run: Run) -> int:
    """Return the time that figures call 0: the start of the run phase."""
    return run.phases.get("run", next(iter(run.phases.values()), (0, 0)))[0]


def _delays_of_copies(run: Run) -> Values:
    """Return how long after its intended time the event of each delivered copy of the run phase was sent, nanoseconds."""
    publishes = run.publishes
    delays = (publishes["sent_ns"] - publishes["intended_ns"]).to_numpy()
    return Values([delays], times=np.where((publishes["phase"] == "run").to_numpy(), run.books.delivered, 0))


def bins(run: Run) -> tuple[Array, float]:
    """Return the edges (ns) and the width (s) of equal intervals from warm-up to the end of the run; one begins with the run phase."""
    begin, end = (run.phases.get(name, (0, 0)) for name in ("warm-up", "run"))
    intended = run.publishes["intended_ns"].to_numpy()
    last = end[1] if 0 < end[1] < FOREVER_NS else int(intended.max(initial=1))
    first = begin[0] or end[0] or int(intended.min(initial=0))
    span = max(last - first, 1)
    widths = [int(width * 1e9) for width in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 600)]
    width = max([w for w in widths if w * MIN_BINS <= span and w <= 1e9] + [w for w in widths if span / w > MAX_BINS], default=widths[0])
    before = max(-(-(zero_ns(run) - first) // width), 0)
    after = max((last - zero_ns(run)) // width, 1)
    return zero_ns(run) + np.arange(-before, after + 1, dtype=np.int64) * width, width / 1e9


def _look(number: int, *, every: int | None = None) -> dict[str, Any]:
    n = number % len(COLOURS)
    look: dict[str, Any] = {"color": COLOURS[n], "linestyle": STYLES[n], "linewidth": 1.6}
    return look | ({"marker": MARKERS[n], "markersize": 5, "markevery": max(every, 1)} if every is not None else {})


def mark(ax: Axes, run: Run) -> None:
    """Shade and hatch the faults, and mark where phases begin."""
    zero = zero_ns(run)
    first, last = (float(edge - zero) / 1e9 for edge in bins(run)[0][[0, -1]])
    for n, fault in enumerate(run.faults.to_dict("records")):
        begin, end = (fault["begin_ns"] - zero) / 1e9, ((fault["end_ns"] or FOREVER_NS) - zero) / 1e9
        if begin >= last or end <= first:
            continue
        begin = max(begin, first)
        ax.axvspan(begin, min(end, last), facecolor="0.88", edgecolor="0.6", hatch="//", linewidth=0, zorder=0)
        label = ax.annotate(
            as_it_is(_fault_name(str(fault["fault"]), str(fault["target"]))) + (" (not felt)" if fault["felt"] == "not at all" else ""),
            (begin, 1),
            (3, -12 - 12 * (n % 3)),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            fontsize=8,
        )
        label.set_in_layout(False)  # a long label must not squeeze the axes
    begins = {name: (run.phases.get(name, (FOREVER_NS, 0))[0] - zero) / 1e9 for name in ("warm-up", "run", "drain")}
    for name, at in begins.items():
        if not first <= at <= last - (last - first) / 20:
            continue
        ax.axvline(at, color="0.4", linewidth=0.8, linestyle=(0, (1, 2)))
        if not any(0 < other - at < (last - first) / 15 for other in begins.values()):  # a short phase has no room for its name
            ax.annotate(name, (at, 0), (3, 4), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8, color="0.3")
    ax.set_xlim(first, last)


def _fault_name(fault: str, target: str) -> str:
    """Return a fault as a figure shows it: several pods as their number, no target where it is the broker (the fault's name says it)."""
    pods = target.split(",")
    if target in ("", "broker"):
        return fault
    return f"{fault} {count(len(pods), 'pod')}" if len(pods) > 1 else f"{fault} {target}"


def _percentiles(ax: Axes, values: Values, **look: Any) -> None:
    """Draw values of nanoseconds against 1 / (1 - q), in microseconds; the last point is the maximum."""
    if not len(values):
        return
    stretched = np.geomspace(1, max(len(values), 1.0001), QUANTILE_POINTS)
    found = values.at(np.ceil((1 - 1 / stretched) * (len(values) - 1)).astype(np.int64)) / 1e3
    ax.plot(stretched, np.where(found > 0, found, np.nan), **look)


def _percentile_axis(ax: Axes) -> None:
    ax.set_xscale("log")
    ax.set_yscale("log")
    ticks = {1: "0 %", 2: "50 %", 10: "90 %", 100: "99 %", 1_000: "99.9 %", 10_000: "99.99 %", 100_000: "99.999 %"}
    last = ax.get_xlim()[1]
    shown = {at: text for at, text in ticks.items() if at <= last}
    ax.set_xticks(list(shown), list(shown.values()))
    ax.minorticks_off()
    _us_axis(ax)
    ax.set_xlabel("share of copies that were at least as fast")
    ax.grid(True, color="0.9")
    if ax.lines:
        ax.legend(loc="upper left", bbox_to_anchor=(0, -0.14), ncols=2, frameon=False, fontsize=9)


def _us_axis(ax: Axes) -> None:
    low, high = ax.get_ylim()
    if 0 < low < high < 10 * low:  # a log axis of less than a decade has hardly a tick
        ax.set_ylim(low / 2, high * 2)
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value / 1e6)))
    ax.yaxis.set_minor_formatter(NullFormatter())  # else "6 x 10^3" would stand between 5 ms and 10 ms
    ax.grid(True, axis="y", color="0.9")


def _lag_title(what: str, lag: Values) -> str:
    if not len(lag):
        return "No copy was delivered in the run phase"
    p50, p99, top = lag.quantiles({"p50": 0.5, "p99": 0.99, "max": 1.0}).values()
    return f"{what}: median {duration(p50 / 1e9)}, p99 {duration(p99 / 1e9)}, max {duration(top / 1e9)}"
