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
# # How many events and pods does this bus carry?
#
# A broker makes a copy of each event for every pod that hears it, all on one core. What does an event cost, a copy, a byte? Which rate
# is the highest that it sustains, what is the next limit, and what should be planned for?

# %% tags=["parameters"]
scenario = "baseline"  # or the path of your own
settings = ()  # changes of it, for example ("services.search.replicas=30",): replicas of each service, or how long its handlers take
effort = "TINY"  # "QUICK" takes four minutes, "DEEP" a quarter of an hour
lag_ms_p99 = 50.0
ground = "embedded"
measured = ""  # a folder with a capacity.json: plan with it instead of measuring, for example "../reports"
target_calls_per_s = 5_000.0
growth = 0.0  # plan for so many times the scenario's rate instead
link_mbit_per_s = 0.0  # what the broker's link carries; 0 = no limit is known

# %%
import pandas as pd
from ipywidgets import Dropdown, IntSlider, interact

import sim

pd.options.display.max_colwidth = None
pd.options.display.max_rows = 50

# %% [markdown]
# ## Measure
# A publisher that never waits keeps the broker full, and subscribers cost next to nothing, so it is the broker's core that is the limit.
# What counts is the broker's own processor time for each event, for several numbers of pods and sizes of events.

# %%
loaded = sim.load_scenario(scenario, settings=tuple(settings))
workload = sim.workload_of(loaded)
if measured:
    found = sim.read_capacity(measured)
else:
    found = sim.measure_capacity(loaded, on=ground, lag_ms_p99=lag_ms_p99, effort=sim.EFFORTS[effort])
pd.DataFrame(sim.findings.cost_rows(found), columns=["what", "value", "95 %"])

# %% [markdown]
# ## Does the fit hold for what it has not seen?
# Other pods, payloads and batches were measured after the fit. The scalability law (USL) stands beside it.

# %%
sim.plots.predicted_against_measured(found)
# %%
pd.DataFrame(sim.findings.held_rows(found), columns=sim.findings.HELD_HEADINGS)
# %%
sim.plots.rate_against_pods(found)

# %% [markdown]
# ## Which rate is sustained?
# A rate is sustained when p99 of lag stays within the limit, the backlog does not grow and all of it is answered; it is carried when that
# also holds in three of four repeats.

# %%
pd.DataFrame(sim.findings.search_rows(found), columns=sim.findings.STEP_HEADINGS)

# %% [markdown]
# ## What does a call put on a link?
# A link carries frames: channel name and lengths as Redis frames an event, and the headers of the packets that it travels in.

# %%
pd.DataFrame(sim.findings.link_rows(workload), columns=sim.findings.LINK_HEADINGS)

# %% [markdown]
# ## What to plan for
# The choices that were looked at for the target rate, the first of those accepted and of those refused, with what speaks against them:
# 71 % of the broker's core stays free, no broker is fuller than at the rate that was carried, one pod down must not silence a channel, and
# what was not tested is refused or marked.

# %%
target = growth * loaded.load.rate_per_s if growth else target_calls_per_s
plan = sim.plan_bus(loaded, workload, found, target_calls_per_s=target, least_replicas=(0, 2, 3), link_mbit_per_s=link_mbit_per_s)
print(sim.findings.plan_sentence(plan.broker))
pd.DataFrame(sim.findings.option_rows(plan.broker, most=6), columns=sim.findings.OPTION_HEADINGS)

# %% [markdown]
# ## Do the services keep up?
# On Pub/Sub each pod of a service hears every event, so more replicas share no work: a service keeps up when one of its pods does.

# %%
print("\n".join(plan.sentences))

# %% [markdown]
# ## What if?
# Move the sliders; nothing is measured again.

# %%
shown, look = int(target), {"continuous_update": False, "style": {"description_width": "110px"}}
interact(
    sim.teller(found.plan_model, workload, found.measured),
    calls_per_s=IntSlider(shown, 100, max(200_000, 2 * shown), 100, description="calls/s", **look),
    pods_per_service=IntSlider(2, 1, 12, description="pods a service", **look),
    batch_size=Dropdown(value=100, options=[1, 10, 30, 100], description="batch size", style=look["style"]),
    brokers=IntSlider(1, 1, 4, description="brokers", **look),
)
# %% [markdown]
# ## The answer

# %%
sim.conclude(*sim.findings.plan_answer(found, plan))
