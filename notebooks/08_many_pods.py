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
# # How does lag grow with the number of pods, up to thousands?
#
# Redis writes a copy of an event to one pod after another, in one thread: the last pod waits for all others. Thousands of real pods do not
# fit on a machine, so they run in virtual time, and `sim.predict_fanout` computes the same from the broker's costs alone, for more pods
# than were run.

# %% tags=["parameters"]
scenario = "lock_lab"  # or the path of your own
service = ""  # of that scenario, which hears the channel; by default the one that hears most
channel = ""  # and of what it hears that with the most calls
pods = (10, 100, 1000, 2000)
computed = (10, 30, 100, 300, 1000, 2000, 5000, 10000, 20000)
rate_per_s = 10  # events per second, all on one channel
run_s = 3.0
limit_ms = 50.0  # a p99 to keep
ground = "model"

# %%
import pandas as pd

import sim

pd.options.display.max_colwidth = None
pd.options.display.max_rows = 50

# %% [markdown]
# ## Run them
# One service in so many replicas, all on one channel, which no other service hears here, without a lock and without handler time.

# %%
loaded = sim.load_scenario(scenario)
service, channel = sim.findings.heard_most(loaded, service=service, channel=channel)
me = f'services."{service}"'
spare = [name for name in loaded.channels if name != channel][:1]
others = [name for name, one in loaded.services.items() if name != service and channel in one.subscribes]
quiet = tuple(f'services."{name}".subscribes={spare}' for name in others)
bare = ("bus.once=none", f"{me}.handler_ms=0", f"{me}.handler_cpu_ms=0", f"{me}.skew_ms=0", "faults=[]", "slo={}")
bare += (f'load.mix={{"{channel}"=1}}', f'{me}.subscribes=["{channel}"]', "load.driver=pods")
settings = (*bare, *quiet, f"load.rate_per_s={rate_per_s}", f"load.run_s={run_s}", "limits.start_s=300")

# %%
runs = sim.run_each(scenario, f"{me}.replicas", pods, on=ground, settings=settings)
rows = sim.findings.lag_rows(runs).assign(pods=pods)
rows.round(4)

# %% [markdown]
# ## Compute the rest
# The same publishes, heard by more pods. A broker whose share of its core is near 1 is not at its end yet: when it is behind, it reads
# several publishes in one turn and writes their copies to a pod at once. `stable` says whether that is enough; where it is not, the lag
# grows with time and a cross marks it.

# %%
predicted = sim.findings.predicted_lag_rows(runs, computed)
predicted.round(4)

# %%
sim.plots.lag_against(rows, what="pods", predicted=predicted, limit_ms=limit_ms)

# %% [markdown]
# ## Does the computed lag agree with the pods that ran?

# %%
both = rows.merge(sim.findings.predicted_lag_rows(runs, pods), on="value", suffixes=("", "_computed"))
both["off"] = (both["lag_ms_p99_computed"] / both["lag_ms_p99"] - 1).abs()
both[["pods", "lag_ms_p50", "lag_ms_p50_computed", "lag_ms_p99", "lag_ms_p99_computed", "off"]].round(4)

# %% [markdown]
# ## Where it goes, with the most pods that ran

# %%
sim.plots.lag_parts(runs[pods[-1]])

# %% [markdown]
# ## The answer

# %%
last, most = rows.iloc[-1], predicted.iloc[-1]
within = predicted.loc[predicted["lag_ms_p99"] <= limit_ms, "pods"].max()
slope_us = (last["lag_ms_p50"] - rows.iloc[0]["lag_ms_p50"]) / (last["pods"] - rows.iloc[0]["pods"]) * 1e3
holds = both["off"].max() < 0.05 and (rows["missing"] == 0).all()

# %%
sim.conclude(
    sim.settle(bool(holds), *rows["verdict"]),
    f"Each further pod adds {sim.duration(slope_us / 1e6)} to the median lag: p99 is {sim.duration(last['lag_ms_p99'] / 1e3)} with "
    f"{last['pods']:,.0f} pods and {sim.duration(most['lag_ms_p99'] / 1e3)} with {most['pods']:,.0f} at {rate_per_s} events/s; "
    f"of the sizes computed, {within:,.0f} pods keep {sim.duration(limit_ms / 1e3)}, "
    f"and the computed p99 is within {both['off'].max() * 100:.1f} % of the pods that ran.",
)
