# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What happens to an event on this bus?
#
# A short run of the reference's six services and twelve pods on a real server: how many copies of an event are handled, how late, and
# whether any is lost.

# %% tags=["parameters"]
scenario = "baseline"
settings = ("load.run_s=5", "load.warm_up_s=2", "slo.lag_ms_p99=1000")
ground = "embedded"

# %%
import pandas as pd
from rich.console import Console

import sim

pd.options.display.max_colwidth = None
pd.options.display.max_rows = 50

# %% [markdown]
# ## Run it
# The pods of the scenario subscribe, Locust publishes through the same batcher and envelope as the services, and every publish and
# delivery is recorded.

# %%
with sim.Display(Console()) as display:
    folder = sim.run_scenario(sim.load_scenario(scenario, settings=settings), on=ground, watch=display.show)
run = sim.open_run(folder)
verdict = sim.judge(run)
pd.DataFrame({"verdict": one.verdict, "what it found": one.detail} for one in verdict.checkers.values()).set_index(
    pd.Index(verdict.checkers)
)

# %% [markdown]
# ## How late?
# Lag counts from the time the schedule meant to publish to the start of the handler, so a late generator cannot hide.

# %%
sim.plots.lag_distribution(run)
# %%
sim.plots.rates(run)
# %% [markdown]
# ## How many copies of one event?
# Every replica that subscribes gets its own copy: that is fan-out, not redelivery.

# %%
sim.plots.copies_per_event(run)
# %% [markdown]
# ## Is anything lost?
# The ledger has one row for each copy that some pod should have heard, or heard without cause.

# %%
ledger = run.ledger()
ledger = ledger[ledger["phase"] == "run"]
pd.crosstab(ledger["service"], ledger["fate"], margins=True)

# %% [markdown]
# ## One event's life

# %%
heard = ledger[ledger["fate"] == "delivered"].groupby("event")["pod"].nunique()
print(run.story(sim.event_id(heard.idxmax())))  # one that most pods heard

# %% [markdown]
# ## The answer

# %%
counts = verdict.checkers["ledger"].counts
lag = verdict.checkers["lag"].counts

# %%
sim.conclude(
    verdict.verdict,
    f"Of {counts['expected']:,} copies {counts['missing']:,} are missing; "
    f"half are handled within {sim.duration(lag['lag_us.p50'] / 1e6)}, 99 % within {sim.duration(lag['lag_us.p99'] / 1e6)}.",
)
