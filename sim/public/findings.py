"""What was found, as rows and sentences, under one name, `sim.findings`, for notebooks and scripts.

Rows are what a table beside a figure of `sim.plots` shows; an `…_answer` is a verdict and a sentence, for `sim.conclude`. A name must
be clear beside all the others here, so some are longer than in the module that they come from.
"""

from sim.experiments.batching.frontier import against_theory, batch_frontier, batched_alone
from sim.experiments.batching.frontier import judge_default as batching_answer
from sim.experiments.claims.table import claims_frame
from sim.experiments.claims.table import concluded as claims_answer
from sim.experiments.claims.table import explained as claim_text
from sim.experiments.matrix.plots import finding as matrix_sentence
from sim.experiments.series.plots import PARTS as LAG_PARTS
from sim.experiments.series.plots import handled_per_event
from sim.experiments.series.plots import part_rows as lag_part_rows
from sim.experiments.series.run import lag_rows, lock_rows, second_rows
from sim.experiments.series.run import predict_rows as predicted_lag_rows
from sim.experiments.series.subjects import heard_most, outage_settings
from sim.measure.capacity.answer import plan_answer
from sim.measure.capacity.link_table import LINK_HEADINGS, link_rows
from sim.measure.capacity.plan_table import OPTION_HEADINGS, option_rows, plan_sentence
from sim.measure.capacity.report import HELD_HEADINGS, STEP_HEADINGS, cost_rows, held_rows, search_rows, step_rows
from sim.measure.capacity.report import conclusion as capacity_answer

__all__ = [
    "HELD_HEADINGS",
    "LAG_PARTS",
    "LINK_HEADINGS",
    "OPTION_HEADINGS",
    "STEP_HEADINGS",
    "against_theory",
    "batch_frontier",
    "batched_alone",
    "batching_answer",
    "capacity_answer",
    "claim_text",
    "claims_answer",
    "claims_frame",
    "cost_rows",
    "handled_per_event",
    "heard_most",
    "held_rows",
    "lag_part_rows",
    "lag_rows",
    "link_rows",
    "lock_rows",
    "matrix_sentence",
    "option_rows",
    "outage_settings",
    "plan_answer",
    "plan_sentence",
    "predicted_lag_rows",
    "search_rows",
    "second_rows",
    "step_rows",
]
