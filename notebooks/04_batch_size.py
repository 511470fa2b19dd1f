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
# # Which batch size and interval for analytics events?
#
# A pod gathers analytics items until it has `EVENT_BUS_BATCH_SIZE` of them (100) or the oldest is `EVENT_BUS_BATCH_INTERVAL_MS` old
# (30,000). A greater batch costs the broker fewer publishes and bytes; its items are older when somebody counts them, and more of them
# die when the pod crashes. What does each setting cost, at which load, and is the default a good one? Of another bus it is a batched
# channel of its own, with its own default.

# %% tags=["parameters"]
scenario = "batch_size"  # or the path of your own
channel = ""  # of that scenario, a batched one; by default the first
run_s = {1: 600, 20: 240, 200: 40}  # items per second of one pod -> seconds of load
sizes = (10, 100, 1000)
intervals_ms = (1000, 5000, 30000)
max_age_ms = 5000  # what a recommended setting may cost
max_at_risk = 100
ground = "model"  # "embedded": in real time, so give a shorter run_s
sweep_folder = ""  # where to keep the sweeps; by default in reports/sweeps

# %%
from pathlib import Path

import pandas as pd

import sim

pd.options.display.max_colwidth = None
pd.options.display.max_rows = 50
pd.options.display.float_format = lambda value: f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"

# %% [markdown]
# ## Run every setting
# One pod publishes, one counts; every pod has a batcher of its own, so the rate is that of one pod. The order of the runs is random.

# %%
alone = sim.findings.batched_alone(sim.load_scenario(scenario), channel)
axes = {alone.size_key: sorted({*sizes, alone.size}), alone.interval_key: sorted({*intervals_ms, alone.interval_ms})}
grid = [f"{key}={','.join(map(str, values))}" for key, values in axes.items()]

# %%
parts = []
for rate, seconds in run_s.items():
    settings = (*alone.settings, *grid, f"load.rate_per_s={rate}", f"load.run_s={seconds}")
    out = Path(sweep_folder) / f"{rate}" if sweep_folder else None
    parts.append(sim.run_sweep(scenario, settings=settings, on=ground, out=out, keep="none"))
table = pd.concat(parts, ignore_index=True).rename(columns=alone.columns)
table["verdict"].value_counts()

# %% [markdown]
# ## Does theory say the same?
# `sim.batch_costs` derives what a batcher costs under Poisson arrivals. It and the measured batches share no line of code.

# %%
compared = sim.findings.against_theory(table)
sim.plots.batch_theory(compared)
# %%
compared[["load.rate_per_s", "bus.batch_size", "bus.batch_interval_ms", "wait_ms_predicted", "wait_ms_measured", "wait_error"]]
# %% [markdown]
# The default at the lowest of the rates: the first item of a batch waits as long as its interval, unless its size ends it before; the last
# hardly at all.

# %%
by_theory = sim.batch_costs(rate_per_s=min(map(float, run_s)), size=alone.size, interval_ms=alone.interval_ms)
print(f"predicted a mean wait of {sim.duration(by_theory.wait_ms_mean / 1e3)}, {by_theory.items_per_batch:.1f} items a batch")

# %% [markdown]
# ## The frontier
# A setting is dominated when another is no worse in age, items at risk, publishes and bytes, and better in one. Of the settings on the
# frontier that keep both limits, the one with the fewest publishes is recommended.

# %%
default = (alone.size, alone.interval_ms)
judged = sim.findings.batch_frontier(table, max_age_ms=max_age_ms, max_at_risk=max_at_risk, default=default)
sim.plots.batch_frontier(judged, max_age_ms=max_age_ms)
# %%
judged[judged["dominated_by"] == ""].drop(columns=["dominated_by"])
# %%
judged.loc[judged["dominated_by"] != "", ["load.rate_per_s", "bus.batch_size", "bus.batch_interval_ms", "dominated_by"]]
# %% [markdown]
# ## The answer

# %%
sim.conclude(*sim.findings.batching_answer(table, judged, compared))
