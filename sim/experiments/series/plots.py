"""Draw several runs in one figure, and where the lag of one run comes from.

The rules are those of `sim.results.plots`: one function a figure, which takes what it draws (and axes) and returns the axes; the title
states the finding; styles, hatches and marks differ, not only colours. Tables come from `sim.experiments.series.run`. Nothing is shown or
saved here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sim.machine.words import count, duration
from sim.pages.colours import BLUE, GREEN, ORANGE, PURPLE, SKY
from sim.record.reader import Array, codes_in, codes_of
from sim.results.copies import FATE
from sim.results.opened_run import Run
from sim.results.plots import COLOURS, MARKERS, STYLES, as_it_is, make_axes

SLOWEST = 0.99  # the last bar of `lag_parts` is of the copies above this quantile
PARTS = {  # in the order of time; each is a mean over copies, so together they are the mean lag
    "before it is sent": (ORANGE, "//"),
    "to the first pod": (SKY, ""),
    "behind other copies": (BLUE, ".."),
    "in the pod": (PURPLE, "xx"),
}
LINES = {"lag_ms_p50": "median", "lag_ms_p99": "p99", "lag_ms_max": "max"}


def copies_against_replicas(runs: Mapping[int, Run], ax: Axes | None = None, *, service: str) -> Axes:
    """Draw how many copies of an event a service handles against its replicas: the first in each pod, and those heard again."""
    ax = make_axes(ax)
    replicas = sorted(runs)
    first, again = (np.array(values) for values in zip(*(handled_per_event(runs[n], service) for n in replicas), strict=True))
    at = np.arange(len(replicas))
    ax.bar(at, first, width=0.6, color=SKY, edgecolor="black", label="the first in each pod (fan-out)")
    ax.bar(at, again, width=0.6, bottom=first, color=PURPLE, edgecolor="black", hatch="//", label="again in the same pod (redelivery)")
    ax.plot(at, replicas, "D", color="black", markersize=7, fillstyle="none", linestyle="none", label="replicas")
    for x, value in zip(at, first + again, strict=True):
        ax.annotate(f"{value:.3g}", (x, value / 2), ha="center", va="center")
    ax.set_xticks(at, [str(n) for n in replicas])
    ax.set(xlabel=f"replicas of {as_it_is(service)}", ylabel="copies handled per event", ylim=(0, max(replicas) * 1.12))
    total = first + again
    ax.set_title(
        f"{replicas[-1]} replicas of {as_it_is(service)} count each event {total[-1]:.3g} times; {count(again.sum(), 'copy')} came again"
    )
    ax.legend(loc="upper left", frameon=False)
    return ax


def handled_per_event(run: Run, service: str) -> tuple[float, float]:
    """Return how many copies of an event a service handled, per event that it should hear: the first in each pod, and those heard again."""
    copies = run.copies
    mine = np.array([history.service == service for history in run.pod_histories])[copies.pod]
    judged = mine & run.copies_in("run") & (copies.publish >= 0) & (copies.fate != FATE["unexpected"])
    heard = judged & (copies.delivery >= 0)
    heard[heard] = codes_in(run.deliveries["outcome"], {"handled": 1})[copies.delivery[heard]] == 1
    events = max(len(np.unique(copies.publish[judged])), 1)
    again = heard & (copies.fate == FATE["duplicate"])
    return float((heard & ~again).sum()) / events, float(again.sum()) / events


def runs_per_event(rows: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the share of events that ran more than once against the handler's time: a line for each recipe and start skew (`lock_rows`)."""
    ax = make_axes(ax)
    for n, ((recipe, skew), mine) in enumerate(rows.groupby(["recipe", "skew_ms"], sort=False)):
        mine = mine.sort_values("handler_ms")
        look: dict[str, Any] = {
            "color": COLOURS[n % len(COLOURS)],
            "linestyle": STYLES[n % len(STYLES)],
            "marker": MARKERS[n % len(MARKERS)],
        }
        ax.plot(mine["handler_ms"], mine["more"] * 100, label=f"{recipe}, pods begin 0 to {skew:g} ms apart", markersize=7, **look)
    freed = rows[rows["recipe"] == "finally-del"]
    for n, (_, mine) in enumerate(freed.groupby("skew_ms", sort=False)):
        mine = mine.sort_values("handler_ms")
        label = "arithmetic: the last pod begins after the first is done" if n == 0 else None
        ax.plot(mine["handler_ms"], mine["expected_more"] * 100, "x", color="black", markersize=9, label=label)
    ax.set_xscale("log")
    times = sorted(rows["handler_ms"].unique())
    ax.set_xticks(times, [f"{time:g}" for time in times])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="time that the handler takes (ms, log)", ylabel="events that ran more than once (%)", ylim=(-3, 103))
    worst = rows.iloc[int(rows["more"].to_numpy().argmax())]
    kept = sorted(rows.loc[rows.groupby("recipe")["more"].transform("max") == 0, "recipe"].unique())
    title = f"{worst['recipe']} ran {worst['more']:.0%} of events more than once at {duration(worst['handler_ms'] / 1e3)}"
    ax.set_title(title + (f"; {' and '.join(kept)} none" if kept else ""))
    ax.grid(True, color="0.9")
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.14), ncols=2, frameon=False, fontsize=9)
    return ax


def part_rows(run: Run, *, by: str = "channel") -> pd.DataFrame:
    """Return where the lag of the run phase's delivered copies came from, in ms.

    Parameters
    ----------
    by
        ``channel`` or ``service``.

    Returns
    -------
    DataFrame
        Index: each channel or service, ``all copies``, and ``slowest 1 %``. Columns: copies, and the mean of each of `PARTS`: *before it is
        sent* (a late generator, a busy or queueing publisher); *to the first pod* (both links, the broker's reading and first write);
        *behind other copies* (from the first pod's copy to this one's: the broker writes one after another, and so do the pods that share a
        process read); *in the pod* (from its read to its handler's start).
    """
    copies, publishes, deliveries = run.copies, run.publishes, run.deliveries
    judged = (copies.fate == FATE["delivered"]) & run.copies_in("run")
    chosen = np.flatnonzero(judged)
    chosen = chosen[codes_in(deliveries["path"], {"broker": 1})[copies.delivery[chosen]] == 1]
    rows, delivery = copies.publish[chosen], copies.delivery[chosen]
    intended, sent = (publishes[column].to_numpy()[rows] for column in ("intended_ns", "sent_ns"))
    received, handled = (deliveries[column].to_numpy()[delivery] for column in ("received_ns", "handled_ns"))
    first = np.full(len(publishes), np.iinfo(np.int64).max)
    np.minimum.at(first, rows, received)
    parts = np.column_stack([sent - intended, first[rows] - sent, received - first[rows], handled - received]) / 1e6
    groups: dict[str, Array] = {}
    if by == "channel":
        codes, words = codes_of(publishes["channel"])
        groups = {word: codes[rows] == n for n, word in enumerate(words)}
    elif by == "service":
        service = np.array([history.service for history in run.pod_histories])[copies.pod[chosen]]
        groups = {word: service == word for word in sorted(set(service))}
    lag = handled - intended
    groups["all copies"] = np.ones(len(rows), dtype=bool)
    groups["slowest 1 %"] = lag >= np.quantile(lag, SLOWEST, method="higher") if len(lag) else groups["all copies"]
    kept = {name: mask for name, mask in groups.items() if mask.any()}
    table = pd.DataFrame([parts[mask].mean(axis=0) for mask in kept.values()], index=list(kept), columns=list(PARTS))
    table.insert(0, "copies", [int(mask.sum()) for mask in kept.values()])
    return table


def lag_parts(run: Run, ax: Axes | None = None, *, by: str = "channel") -> Axes:
    """Draw where the mean lag comes from, stacked, for each channel or service, all copies, and the slowest 1 %."""
    ax = make_axes(ax)
    table = part_rows(run, by=by)
    at, left = np.arange(len(table)), np.zeros(len(table))
    for part, (colour, hatch) in PARTS.items():
        values = table[part].to_numpy()
        ax.barh(at, values, left=left, color=colour, edgecolor="black", hatch=hatch, label=part, height=0.65)
        left = left + values
    for y, total in enumerate(left):
        ax.annotate(f"{total:.3g}", (total, y), (4, 0), textcoords="offset points", va="center")
    ax.set_yticks(at, [f"{as_it_is(str(name))} ({count:,})" for name, count in table["copies"].items()])
    ax.invert_yaxis()
    ax.set(xlabel="mean lag (ms)", xlim=(0, max(left.max(initial=0) * 1.12, 1e-6)))
    if len(table):
        whole = table.loc["all copies", list(PARTS)].astype(float)
        biggest = str(whole.idxmax())
        ax.set_title(f"{whole.max() / whole.sum():.0%} of {duration(float(whole.to_numpy().sum()) / 1e3)} mean lag pass {_phrase(biggest)}")
    else:
        ax.set_title("No copy was delivered through the broker")
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.12), ncols=4, frameon=False, fontsize=9)
    return ax


def _phrase(part: str) -> str:
    return {"to the first pod": "on the way to the first pod"}.get(part, part)


def lag_against(
    rows: pd.DataFrame, ax: Axes | None = None, *, what: str, predicted: pd.DataFrame | None = None, limit_ms: float = 0
) -> Axes:
    """Draw median, p99 and greatest lag against a number that was changed (column `value`), on log axes.

    Parameters
    ----------
    rows
        As of `sim.experiments.series.run.lag_rows`; a run whose verdict is not valid is marked.
    what
        Name and unit of the number, for the axis.
    predicted
        As of `sim.experiments.series.run.predict_rows`: lines without marks.
    limit_ms
        A p99 to compare with, drawn as a line; the title then says where it is crossed.
    """
    ax = make_axes(ax)
    rows = rows.sort_values("value")
    for n, (column, label) in enumerate(LINES.items()):
        look: dict[str, Any] = {"color": (BLUE, ORANGE, GREEN)[n], "marker": MARKERS[n], "markersize": 6}
        alone = predicted is None
        ax.plot(rows["value"], rows[column], linestyle=STYLES[n] if alone else "none", label=label if alone else f"{label}, run", **look)
        if predicted is not None:
            ax.plot(predicted["value"], predicted[column], linestyle=STYLES[n], color=look["color"], label=f"{label}, computed")
            ax.plot(*predicted.loc[~predicted["stable"], ["value", column]].to_numpy().T, "x", color="black", markersize=9)
    unsure = rows[rows["verdict"] != "valid"]
    if len(unsure):
        ax.plot(
            unsure["value"], unsure["lag_ms_p99"], "o", color="black", markersize=13, fillstyle="none", linestyle="none", label="not valid"
        )
    if limit_ms:
        ax.axhline(limit_ms, color="0.3", linestyle=(0, (1, 2)), label=f"limit {duration(limit_ms / 1e3)}")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    at = sorted({*rows["value"], *([] if predicted is None else predicted["value"].iloc[[-1]])})
    ax.set_xticks(at, [f"{value:,.0f}" for value in at])
    ax.xaxis.set_minor_formatter(NullFormatter())
    what = as_it_is(what)
    ax.set(xlabel=f"{what} (log)", ylabel="lag (ms, log)")
    shown = rows if predicted is None else pd.concat([rows, predicted]).sort_values("value", kind="stable")
    low, high = shown.iloc[0], shown.iloc[-1]
    ends = [f"{duration(one['lag_ms_p99'] / 1e3)} at {one['value']:,.0f}" for one in (low, high)]
    title = f"p99 lag {ends[0]}, {ends[1]} {what}"
    if limit_ms:
        kept = shown.loc[shown["lag_ms_p99"] <= limit_ms, "value"]
        title += f"; under {duration(limit_ms / 1e3)} " + (f"up to {kept.max():,.0f}" if len(kept) else "nowhere")
    ax.set_title(title)
    ax.grid(True, color="0.9")
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.12), ncols=4, frameon=False, fontsize=9)
    return ax
