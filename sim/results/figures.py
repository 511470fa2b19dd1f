"""Choose the figures of a run's page: those of which the run has data; of each other it says in a sentence why there is none.

Over time the page itself draws copies and lags (`sim.results.picture`), so what would show the same is not among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sim.results import outage_plots, plots
from sim.results.opened_run import Run

FIGURES: tuple[Callable[..., Any], ...] = (
    plots.rates,
    plots.lag_distribution,
    plots.send_delay,
    plots.copies_per_event,
    plots.ledger_books,
)
OF_FAULTS: tuple[Callable[..., Any], ...] = (outage_plots.rates_and_states, outage_plots.reachability_map, outage_plots.space_time)


def figures_of(run: Run) -> tuple[list[Callable[..., Any]], list[str]]:
    """Return the figures to draw, and a sentence for each that there is no data for."""
    of_faults = OF_FAULTS if len(run.faults) else ()
    twice = plots.rates if outage_plots.rates_and_states in of_faults and not _lacking(run, outage_plots.rates_and_states) else None
    wanted = [draw for draw in (*FIGURES, *of_faults) if draw is not twice]
    lacking = {draw: why for draw in wanted if (why := _lacking(run, draw))}
    return [draw for draw in wanted if draw not in lacking], list(_told(lacking))


def _told(lacking: dict[Callable[..., Any], str]) -> Iterator[str]:
    for draw, why in lacking.items():
        yield f"No picture of {draw.__name__.replace('_', ' ')}: {why}."


def _lacking(run: Run, draw: Callable[..., Any]) -> str:
    """Return which data a figure has none of, empty where it has some."""
    if draw in (plots.rates, outage_plots.rates_and_states) and not len(run.publishes) and not run.books.fates["delivered"]:
        return "no event was published or heard"
    if draw in (plots.lag_distribution, plots.send_delay) and not run.lags.copies:
        return "no copy was delivered in the run phase"
    if draw is plots.copies_per_event and not run.books.handled.sum():
        return "no pod handled an event of the run phase"
    if draw is plots.ledger_books and not any(run.tally.fates(plots.ALL_COPIES).values()):
        return "the run phase has no copies"
    if draw is outage_plots.rates_and_states and not len(run.pods):
        return "nothing says what a pod believed"
    if draw in (outage_plots.reachability_map, outage_plots.space_time) and not _has_copies(run):
        return "no event was for any pod"
    return ""


def _has_copies(run: Run) -> bool:
    return bool(((run.publishes["items"].to_numpy() > 0) & (run.books.expected > 0)).any())
