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
# # How often is one event handled, and is that fan-out or redelivery?
#
# An event has one copy for each pod that subscribes. So a service in three replicas handles it three times, without anything being
# delivered again. Here: what replicas do to counts, whether a pod ever hears an event twice, and what the reference's lock (`SET NX EX`,
# deleted in `finally`) makes of it.

# %% tags=["parameters"]
scenario = "baseline"  # or the path of your own
service = ""  # of that scenario; by default the one that hears most. What the lock makes of it is tried with the reference's services
replicas = (1, 2, 3, 5)
recipes = ("finally-del", "keep-marker")
handler_ms = (0.5, 1.0, 2.0, 5.0)
skew_ms = (2.0, 5.0)
run_s = 2.0  # of each run; the longer, the narrower
ground = "model"  # "embedded": a real server, in real time

# %%
import pandas as pd

import sim

pd.options.display.max_colwidth = None
pd.options.display.max_rows = 50

# %% [markdown]
# ## Replicas multiply counts
# The scenario with 1 to 5 replicas of one service, every item an event of its own.

# %%
service, _ = sim.findings.heard_most(sim.load_scenario(scenario), service=service)
short = (f"load.run_s={run_s}", "load.warm_up_s=0.5", "load.driver=pods", "slo.lag_ms_p99=1000")
runs = sim.run_each(scenario, f'services."{service}".replicas', replicas, on=ground, settings=(*short, "bus.batch_size=1"))
sim.plots.copies_against_replicas(runs, service=service)

# %% [markdown]
# ## Is anything delivered again?
# Pub/Sub delivers at most once: when connections of subscribers are cut for three seconds, copies are lost, and none comes later.

# %%
fault = 'faults=[{kind="subscribers_cut", at_s=2, for_s=3}]'
cut = sim.run_each(scenario, "seed", (1,), on=ground, settings=(*short, fault, "slo={}", "load.run_s=8"))[1]
sim.plots.ledger_books(cut)

# %%
books = {f"{n} replicas": sim.judge(run) for n, run in runs.items()} | {"subscribers cut": sim.judge(cut)}
counts = pd.DataFrame({name: verdict.checkers["ledger"].counts for name, verdict in books.items()}).T
counts[["events", "expected", "delivered", "missing", "duplicate", "unexpected", "deaf", "unexplained"]].fillna(0).astype(int)

# %% [markdown]
# ## What the lock makes of it
# Three pods of music-service hear an event and begin up to some ms apart. The reference deletes its lock when the handler is done: a pod
# that begins after that runs the event again. A marker that stays (`keep-marker`) does not allow it.

# %%
rows = sim.findings.lock_rows(recipes, handler_ms=handler_ms, skew_ms=skew_ms, on=ground, settings=(f"load.run_s={run_s}",))
sim.plots.runs_per_event(rows)

# %% [markdown]
# ## When the handler throws
# For two seconds every handler of music-service raises. A pod that holds the lock and fails leaves the event to nobody: what a recipe
# keeps after that decides whether the event runs at all.

# %%
poison = sim.run_each("handler_error", "bus.once", (*recipes, "two-key"), on=ground)
once = pd.DataFrame({name: sim.judge(run).checkers["once"].counts for name, run in poison.items()}).T
once[["pairs", "never", "once", "twice_or_more", "most_runs"]].astype(int)

# %% [markdown]
# ## The answer

# %%
redelivered, lost = counts["duplicate"].sum(), counts.loc["subscribers cut", "missing"]
lock = rows[rows["recipe"] == "finally-del"]
off = (lock["more"] - lock["expected_more"]).abs().max()
kept = rows.loc[rows["recipe"] == "keep-marker", "more"].max()
handled = sim.findings.handled_per_event(runs[replicas[-1]], service)
holds = abs(sum(handled) - replicas[-1]) < 0.01 and redelivered == 0 and lost > 0 and off < 0.15 and kept == 0

# %%
sim.conclude(
    sim.settle(bool(holds), *(verdict.verdict for verdict in books.values()), *rows["verdict"]),
    f"{replicas[-1]} replicas handle each event {sum(handled):.3g} times: fan-out, as {redelivered:.0f} copies came again, not even where "
    f"{lost:,.0f} were lost; the reference's lock still ran up to {lock['more'].max() * 100:.0f} % of events more than once, a marker that "
    f"stays {kept * 100:.0f} %, and {once['never'].max():.0f} of {once['pairs'].max():.0f} events ran nowhere when handlers threw.",
)
