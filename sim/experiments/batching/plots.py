"""Draw what batch settings cost: the frontier of a sweep, and theory beside measurement.

One function a figure, as in `sim.results.plots`.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from sim.experiments.batching.frontier import AGE, AT_RISK, INTERVAL, LOAD, MAX_AGE_MS, PUBLISHES, SIZE
from sim.machine.words import count, duration
from sim.results.plots import COLOURS, MARKERS, STYLES, make_axes


def frontier(judged: pd.DataFrame, ax: Axes | None = None, *, max_age_ms: float = MAX_AGE_MS) -> Axes:
    """Draw staleness against publishes per thousand items, the frontier of each load as a line; `judged` is of `batch_frontier`.

    The area of a mark grows with the items at risk. Dominated settings are small crosses; the default is ringed, what is recommended is
    filled.
    """
    ax = make_axes(ax)
    judged, names = judged.assign(per_item=judged[PUBLISHES] / judged[LOAD] * 1000), []  # so that loads lie side by side
    for number, (load, rows) in enumerate(judged.groupby(LOAD)):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        front, rest = rows[rows["dominated_by"] == ""].sort_values("per_item"), rows[rows["dominated_by"] != ""]
        ax.plot(front["per_item"], front[AGE], color=colour, linestyle=STYLES[number % len(STYLES)], linewidth=1.2, zorder=1)
        filled = [colour if best else "white" for best in front["recommended"]]
        size = 30 + 40 * np.log10(np.maximum(front[AT_RISK], 1))
        ax.scatter(
            front["per_item"],
            front[AGE],
            s=size,
            c=filled,
            edgecolors=colour,
            marker=marker,
            zorder=2,
            label=f"{count(cast(float, load), 'item')}/s",
        )
        ax.scatter(rest["per_item"], rest[AGE], s=25, color="0.5", marker="x", linewidths=1, zorder=2)
        for row in front[front["recommended"]].to_dict("records"):
            names.append(f"{row[SIZE]:g} / {duration(row[INTERVAL] / 1e3)} at {load:g}/s")
        chosen = front[front["recommended"]]
        for row in front.to_dict("records"):
            near = [
                abs(np.log10([row["per_item"] / x, row[AGE] / y])).max() < 0.15
                for x, y in zip(chosen["per_item"], chosen[AGE], strict=True)
            ]
            if any(near) and not row["recommended"]:
                continue  # its label would lie on that of the recommended one
            text = f"{row[SIZE]:g} / {duration(row[INTERVAL] / 1e3)}" + (f"\n{row[AT_RISK]:,.0f} at risk" if row["recommended"] else "")
            ax.annotate(text, (row["per_item"], row[AGE]), (9, 3), textcoords="offset points", fontsize=8, color=colour)
    default = judged[judged["default"]]
    ax.scatter(
        default["per_item"], default[AGE], s=260, facecolors="none", edgecolors="black", linewidths=1.4, zorder=3, label="the default"
    )
    ax.scatter([], [], s=25, color="0.5", marker="x", label="dominated")
    ax.axhline(max_age_ms, color="0.4", linewidth=0.8, linestyle=(0, (1, 2)))
    ax.annotate(
        "limit of age", (1, max_age_ms), (-4, 3), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right", fontsize=8
    )
    ax.set_xscale("log")
    ax.set_yscale("log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axis.set_minor_formatter(NullFormatter())
    ax.margins(x=0.12, y=0.12)
    ax.set(xlabel="publishes per 1,000 items (log)", ylabel="age of the oldest item when handled, p99 (ms, log)")
    ax.set_title("Fewest publishes within the limits:\n" + ("; ".join(names) or "none"), fontsize=11)
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.14), ncols=5, frameon=False, fontsize=9)
    return ax


def theory(compared: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the mean wait that was measured against the predicted one; `compared` is of `against_theory`."""
    ax = make_axes(ax)
    waits = compared[compared["wait_ms_predicted"] > 0]
    low, high = waits["wait_ms_predicted"].min() / 1.5, waits["wait_ms_predicted"].max() * 1.5
    ax.plot([low, high], [low, high], color="0.4", linewidth=0.8, linestyle=(0, (1, 2)), label="as predicted")
    for number, (load, rows) in enumerate(waits.groupby(LOAD)):
        look: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        ax.plot(
            rows["wait_ms_predicted"],
            rows["wait_ms_measured"],
            linestyle="none",
            fillstyle="none",
            markersize=8,
            label=f"{count(cast(float, load), 'item')}/s",
            **look,
        )
    ax.set_xscale("log")
    ax.set_yscale("log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="mean wait of an item, predicted (ms, log)", ylabel="measured (ms, log)")
    worst = waits.iloc[int(waits["wait_error"].abs().argmax())]
    ax.set_title(
        f"Theory and {count(len(waits), 'setting')} differ by at most {abs(worst['wait_error']):.1%} in the mean wait\n"
        f"({worst[SIZE]:g} / {duration(worst[INTERVAL] / 1e3)} at {count(worst[LOAD], 'item')}/s)", fontsize=11,
    )  # fmt: skip
    ax.legend(loc="upper left", frameon=False)
    return ax
