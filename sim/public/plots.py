"""All figures under one name, `sim.plots`, for notebooks and scripts.

A figure is a function that takes what it draws and returns the axes; it shows and saves nothing. A name must be
clear beside all the others here, so some are longer than in the module that they come from.
"""

from sim.experiments.batching.plots import frontier as batch_frontier
from sim.experiments.batching.plots import theory as batch_theory
from sim.experiments.claims.plots import claims_overview
from sim.experiments.matrix.plots import draw_matrix
from sim.experiments.series.plots import copies_against_replicas, lag_against, lag_parts, runs_per_event
from sim.measure.capacity.plots import predicted_against_measured, rate_against_pods
from sim.results.outage_plots import rates_and_states, reachability_map, space_time
from sim.results.plots import copies_per_event, lag_distribution, lag_over_time, ledger_books, rates, send_delay

__all__ = [
    "batch_frontier",
    "batch_theory",
    "claims_overview",
    "copies_against_replicas",
    "copies_per_event",
    "draw_matrix",
    "lag_against",
    "lag_distribution",
    "lag_over_time",
    "lag_parts",
    "ledger_books",
    "predicted_against_measured",
    "rate_against_pods",
    "rates",
    "rates_and_states",
    "reachability_map",
    "runs_per_event",
    "send_delay",
    "space_time",
]
