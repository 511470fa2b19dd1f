"""Draw what an outage does: rates over a band of what pods believed, who reached whom, and single events from pod to pod.

The rules are those of `sim.results.plots`: one function a figure, which takes a `Run` (and axes) and returns the axes; the title states the
finding; patterns and marks differ, not only colours. Nothing is shown or saved here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sim.machine.words import amount, count
from sim.pages.colours import FATE_COLOURS
from sim.record.reader import FOREVER_NS, Array, take_rows
from sim.results.checkers.fallback import reachability
from sim.results.copies import FATE
from sim.results.opened_run import Run
from sim.results.outages import Outage, read_beliefs, read_outages
from sim.results.over_time import is_lost
from sim.results.plots import as_it_is, bins, make_axes, rates, zero_ns

BANDS = {  # what a pod believes, from the bottom of the band up
    "connected": (("connected",), "white", ""),
    "deaf": (("deaf",), "0.8", "..."),
    "on its own": (("connecting", "mute", "outage", "memory-only"), "0.6", "///"),
    "ended": (("stopped",), "0.2", ""),
}
MAX_LANES, MAX_EVENTS, MAX_NUMBERS, MAX_NAMES = 40, 200, 16, 40
WINDOW_NS = 1_000_000_000


def rates_and_states(run: Run, ax: Axes | None = None) -> Axes:
    """Draw what `rates` does, and above it how many pods called themselves connected, deaf, on their own, or had ended."""
    ax = rates(run, ax)
    edges = bins(run)[0]
    middle = (edges[:-1] + edges[1:]) // 2
    beliefs = read_beliefs(run)
    counts = np.zeros((len(BANDS), len(middle)))
    for belief in beliefs.values():
        kind = np.array([-1, *(next((n for n, (words, _, _) in enumerate(BANDS.values()) if bus in words), -1) for bus in belief.bus)])
        at = kind[np.searchsorted(belief.at_ns, middle, side="right")]
        for n in range(len(BANDS)):
            counts[n] += at == n
    band = ax.inset_axes((0, 1.02, 1, 0.16), sharex=ax)
    bottom = np.zeros(len(middle))
    for (name, (_, colour, hatch)), values in zip(BANDS.items(), counts, strict=True):
        x, top = (edges - zero_ns(run)) / 1e9, np.append(bottom + values, (bottom + values)[-1:])
        band.fill_between(
            x, np.append(bottom, bottom[-1:]), top, step="post", facecolor=colour, edgecolor="0.3", hatch=hatch, lw=0.4, label=name
        )
        bottom = bottom + values
    band.set(ylim=(0, max(len(beliefs), 1)), ylabel="pods")
    band.tick_params(labelbottom=False)
    band.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(BANDS), frameon=False, fontsize=8)
    alone = int(counts[2].max(initial=0))
    ax.set_title(f"{ax.get_title()}; up to {alone} of {count(len(beliefs), 'pod')} on their own", pad=78)
    return ax


def reachability_map(run: Run, ax: Axes | None = None, *, between_s: tuple[float, float] | None = None) -> Axes:
    """Draw which share of what a pod published each pod heard, as a map; of more than `MAX_NUMBERS` pods, that of each service.

    Parameters
    ----------
    between_s
        From when to when, in seconds since the run phase began, whole seconds; by default the whole seconds inside a fault, of all faults
        (where none has a whole second inside, those that a fault touches), without one the run phase.
    """
    ax = make_axes(ax)
    rows, name = _rows_of_map(run, between_s)
    pods = [history.pod for history in run.pod_histories]
    each = "pod"
    other = rows["publisher"].astype(str) != rows["hearer"].astype(str)
    heard, published = int(rows.loc[other, "heard"].sum()), int(rows.loc[other, "published"].sum())
    if len(pods) > MAX_NUMBERS:
        each, service = "pod of the service", {history.pod: history.service for history in run.pod_histories}
        rows = rows.assign(**{side: rows[side].astype(str).map(lambda pod: service.get(pod, pod)) for side in ("publisher", "hearer")})
        pods = list(dict.fromkeys(service.values()))
    sums = rows.groupby(["publisher", "hearer"], observed=True)[["published", "heard"]].sum().reset_index()
    publishers = sorted({str(word) for word in sums["publisher"]}, key=lambda word: (pods.index(word) if word in pods else -1, word))
    share = np.full((len(publishers), len(pods)), np.nan)
    row, column = ([words.index(str(word)) for word in sums[side]] for side, words in (("publisher", publishers), ("hearer", pods)))
    share[row, column] = sums["heard"] / sums["published"]
    ax.set_facecolor("0.93")
    ax.patch.set(hatch="xx", edgecolor="0.75")
    if share.size:
        image = ax.imshow(share, vmin=0, vmax=1, cmap="cividis", aspect="auto")
        ax.figure.colorbar(image, ax=ax, label="share heard (crossed: nothing was meant for it)")
    if max(share.shape) <= MAX_NUMBERS:
        for y, x in np.argwhere(~np.isnan(share)):
            ax.annotate(f"{share[y, x]:.0%}", (x, y), ha="center", va="center", fontsize=7, color="white" if share[y, x] < 0.5 else "black")
    for names, place in ((pods, ax.set_xticks), (publishers, ax.set_yticks)):
        every = -(-len(names) // MAX_NAMES) or 1
        place(range(0, len(names), every), [as_it_is(one) for one in names[::every]], fontsize=8)
    ax.tick_params(axis="x", labelrotation=60)
    ax.set(xlabel=f"{each} that should hear", ylabel="publisher" if each == "pod" else "publishers of the service")
    ax.set_title(f"{amount(heard)} of {count(published, 'copy')} for another pod {'was' if heard == 1 else 'were'} heard {name}")
    return ax


def _rows_of_map(run: Run, between_s: tuple[float, float] | None) -> tuple[pd.DataFrame, str]:
    """Return the rows of `reachability` that the map is of, and when that was, in words."""
    rows, zero, outages = reachability(run), zero_ns(run), read_outages(run)
    second = rows["second"]
    if between_s is not None:
        first, last = between_s
        return rows[(second >= first) & (second + 1 <= last)], f"from {first:g} to {last:g} s"
    if not outages:
        first, last = (np.ceil((run.run_span[0] - zero) / 1e9), np.floor((run.run_span[1] - zero) / 1e9))
        return rows[(second >= first) & (second + 1 <= last)], "in the run phase"
    spans = [((one.begin_ns - zero) / 1e9, (one.end_ns - zero) / 1e9) for one in outages]
    inside = np.any([(second >= begin) & (second + 1 <= end) for begin, end in spans], axis=0)
    if not inside.any():
        inside = np.any([(second < end) & (second + 1 > begin) for begin, end in spans], axis=0)
    names = sorted({one.fault for one in outages})
    if len(names) > 1:
        return rows[inside], "while faults were on"
    return rows[inside], f"while {names[0]} lasted" if len(outages) == 1 else f"while {names[0]} was on, {len(outages)} times"


def space_time(run: Run, ax: Axes | None = None, *, between_s: tuple[float, float] | None = None) -> Axes:
    """Draw single events: a dot where a pod sent one, a line to each pod that heard it, a cross where a copy was lost.

    A pod's lane is thick and grey while it does not call itself connected. At most `MAX_LANES` pods and `MAX_EVENTS` events are drawn, and
    the title says how many are not.

    Parameters
    ----------
    between_s
        From when to when, in seconds since the run phase began; by default the time of a second or less in which most copies were lost, and
        in a run that lost none from 0.1 s before the end of the first fault.
    """
    ax = make_axes(ax)
    outages, zero = read_outages(run), zero_ns(run)
    first, last = between_s or _worst_window(run, outages)
    lanes = {history.pod: n for n, history in enumerate(run.pod_histories[:MAX_LANES])}
    for pod, belief in read_beliefs(run).items():
        spans = belief.spans([bus for bus in belief.bus if bus != "connected"]) if pod in lanes else np.zeros((0, 2))
        for begin, end in spans:
            shown = np.clip(((begin - zero) / 1e9, (min(end, FOREVER_NS) - zero) / 1e9), first, last)
            ax.plot(shown, [lanes[pod]] * 2, color="0.82", linewidth=7, solid_capstyle="butt", zorder=1)
    sent = run.publishes["sent_ns"].to_numpy()
    there = np.flatnonzero((sent >= zero + first * 1e9) & (sent < zero + last * 1e9) & (run.publishes["items"].to_numpy() > 0))
    shown = there[np.argsort(sent[there], kind="stable")][:MAX_EVENTS]
    publisher = run.publishes["publisher"].astype(str).to_numpy()[shown]
    lines: tuple[list[float], list[float]] = ([], [])
    crosses: tuple[list[float], list[float]] = ([], [])
    for row, lane, fate, lost, received_ns in _copies_of(run, shown):
        start = lanes.get(str(run.publishes["publisher"].iloc[row]), -1)
        at = (sent[row] - zero) / 1e9
        if fate == FATE["delivered"]:
            lines[0].extend((at, (received_ns - zero) / 1e9, np.nan))
            lines[1].extend((start, lane, np.nan))
        elif lost:
            crosses[0].append(at)
            crosses[1].append(lane)
    heard, gone = len(lines[0]) // 3, len(crosses[0])
    # one line with gaps, because thousands of lines take seconds
    ax.plot(*lines, color=FATE_COLOURS["delivered"], linewidth=0.8, marker=(3, 0, 0), markevery=slice(1, None, 3), markersize=4, zorder=2)
    ax.plot(*crosses, "x", color=FATE_COLOURS["missing"], markersize=5, zorder=3)
    dots = [lanes.get(name, -1) for name in publisher]
    ax.plot((sent[shown] - zero) / 1e9, dots, "o", color="black", markersize=3.5, zorder=4)
    for outage in outages:
        for word, at_ns in (("begins", outage.begin_ns), ("ends", outage.end_ns)):
            if first <= (at := (at_ns - zero) / 1e9) <= last:
                ax.axvline(at, color="0.3", linestyle="--", linewidth=1)
                ax.annotate(
                    f"{outage.fault} {word}", (at, 1), (3, -10), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8
                )
    ax.set_yticks(range(len(lanes)), [as_it_is(pod) for pod in lanes], fontsize=8)
    ax.set(xlabel="time since the run phase began (s)", ylabel="pod", xlim=(first, last), ylim=(len(lanes) - 0.5, -1.5))
    most = "" if between_s else ", where most were lost" if gone else ""
    left_out = [f"{len(there) - len(shown):,} of {count(len(there), 'event')}"] * (len(there) > len(shown))
    left_out += [f"{len(run.pod_histories) - MAX_LANES:,} of {len(run.pod_histories):,} pods"] * (len(run.pod_histories) > MAX_LANES)
    ax.set_title(
        f"{count(heard, 'copy')} of {count(len(shown), 'event')} were heard and {gone:,} lost, from {first:.2f} to {last:.2f} s{most}"
        + (f"; not drawn: {' and '.join(left_out)}" if left_out else "")
    )
    marks = {"sent": ("o", "black"), "heard": ("^", FATE_COLOURS["delivered"]), "lost": ("x", FATE_COLOURS["missing"])}
    marks |= {"not connected": ("s", "0.82")}
    handles = [Line2D([], [], marker=shape, color=colour, linestyle="none", label=word) for word, (shape, colour) in marks.items()]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.1), ncols=4, frameon=False)
    return ax


def _worst_window(run: Run, outages: list[Outage]) -> tuple[float, float]:
    """Return the time of at most a second and `MAX_EVENTS` events in which most copies were lost, seconds, with a little before it."""
    sent, zero = run.publishes["sent_ns"].to_numpy(), zero_ns(run)
    rows = np.flatnonzero((run.publishes["items"].to_numpy() > 0) & (sent > 0))
    rows = rows[np.argsort(sent[rows], kind="stable")]
    lost = np.zeros(len(sent), dtype=np.int64)
    for some in run.pieces.each(lambda piece: np.bincount(piece.publish[is_lost(piece)], minlength=len(sent))):
        lost += some
    lost = lost[rows]
    middle = (outages[0].end_ns - zero) / 1e9 if outages else 0.1
    if not lost.any():
        return middle - 0.1, middle + 0.9
    at, sums = sent[rows], np.append(0, np.cumsum(lost))
    ends = np.minimum(np.searchsorted(at, at + WINDOW_NS), np.arange(len(at)) + MAX_EVENTS)
    best = int(np.argmax(sums[ends] - sums[:-1]))
    end = int(at[ends[best]]) if ends[best] < len(at) else int(at[-1]) + 1
    first, last = (int(at[best]) - zero) / 1e9, (min(end, int(at[best]) + WINDOW_NS) - zero) / 1e9
    return first - (last - first) / 10, last


def _copies_of(run: Run, shown: Array) -> Iterator[tuple[int, int, int, bool, int]]:
    """Yield row, pod, fate, whether lost, and when received (0 = not), of the copies of some publishes for the pods that have a lane."""
    wanted = np.zeros(len(run.publishes) + 1, dtype=bool)
    wanted[shown] = True
    for piece in run.pieces:
        if piece.pods.start >= MAX_LANES:
            return
        rows = np.flatnonzero(wanted[piece.publish] & (piece.pod < MAX_LANES))
        received = take_rows(piece.heard.received_ns, piece.delivery[rows])
        columns = (piece.publish[rows], piece.pod[rows], piece.fate[rows], is_lost(piece)[rows], received)
        yield from zip(*(column.tolist() for column in columns), strict=True)


FIGURES = (rates_and_states, reachability_map, space_time)
