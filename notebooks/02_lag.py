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
# # Where does the lag of an event pass, and how does it grow with load?
#
# Lag counts from the time the schedule meant to publish to the start of the handler: a late generator, the publisher's queue, the broker,
# the wire and the hearing pod are all in it. On a real server all pods share one process and this machine's cores, so the model, where
# nothing but server, link and queue takes time, is run beside it.

# %% tags=["parameters"]
scenario = "baseline"
rates = (50, 200, 800)  # calls per second
settings = ("load.run_s=4", "load.warm_up_s=1", "load.driver=pods", "bus.batch_size=1", "slo.lag_ms_p99=2000")
ground = "embedded"

# %%
import pandas as pd

import sim

pd.options.display.max_colwidth = None
pd.options.display.max_rows = 50

# %% [markdown]
# ## Run it at several loads
# The same calls on the real server and on the model; every item is an event of its own.

# %%
runs = sim.run_each(scenario, "load.rate_per_s", rates, on=ground, settings=settings)
ideal = sim.run_each(scenario, "load.rate_per_s", rates, on="model", settings=settings)
rows, ideal_rows = sim.findings.lag_rows(runs), sim.findings.lag_rows(ideal)
pd.concat({ground: rows, "model": ideal_rows}).round(4)

# %% [markdown]
# ## Where it goes, channel by channel
# *To the first pod* is both links, the broker's reading and its first write. *Behind other copies* is what a copy waits while others are
# written before it, and, in one process, read before it.

# %%
sim.plots.lag_parts(runs[rates[1]])

# %%
sim.plots.lag_parts(ideal[rates[1]])

# %% [markdown]
# ## And service by service, at the highest load

# %%
sim.plots.lag_parts(runs[rates[-1]], by="service")

# %%
sim.plots.lag_distribution(runs[rates[1]], by="service")

# %% [markdown]
# ## Load against lag

# %%
sim.plots.lag_against(rows, what="calls/s")

# %%
sim.plots.lag_against(ideal_rows, what="calls/s on the model")

# %% [markdown]
# ## How much of it is the instrument?
# The harness audits the run itself: processor share and worst timer lateness of the process that holds all pods.

# %%
harness = pd.DataFrame({f"{rate:,} calls/s": sim.judge(run).checkers["harness"].counts for rate, run in runs.items()})
harness[harness.index.str.contains("cpu_share|loop_lag|offered|made")].round(3)

# %% [markdown]
# ## The answer

# %%
parts = sim.findings.lag_part_rows(runs[rates[1]]).loc["all copies", list(sim.findings.LAG_PARTS)]
middle, high, model = rows.iloc[1], rows.iloc[-1], ideal_rows.iloc[1]
largest = parts.astype(float).idxmax()

# %%
sim.conclude(
    sim.settle(bool((rows["missing"] == 0).all()), *rows["verdict"], *ideal_rows["verdict"]),
    f"At {rates[1]:,} calls/s half of the copies are handled within {sim.duration(middle['lag_ms_p50'] / 1e3)} and 99 % within "
    f"{sim.duration(middle['lag_ms_p99'] / 1e3)}; "
    f"{parts[largest] / parts.sum() * 100:.0f} % of the mean is '{largest}', broker and link alone take "
    f"{sim.duration(model['lag_ms_p50'] / 1e3)}, "
    f"and at {rates[-1]:,} calls/s the p99 is {sim.duration(high['lag_ms_p99'] / 1e3)}.",
)
