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
# # What happens, second by second, while Redis is away?
#
# Redis is killed under load. When do pods notice, what do they do on their own, who still hears whom, how long are they
# deaf after it is back, and did any pod believe that all was well when it was not? The same for a Redis that stands still instead of
# dying.

# %% tags=["parameters"]
scenario = "broker_down"  # or the path of your own; its outage is taken, or one of five seconds
settings = ("bus.batch_size=1",)
ground = "model"  # "embedded": a real server, in real time
seed = 1

# %%
import pandas as pd

import sim

pd.options.display.max_colwidth = None
pd.options.display.max_rows = 50

# %%
loaded, away, still = sim.load_scenario(scenario), "broker_down", "broker_freeze"  # which does not answer, and nobody gets an error
outages = {kind: (*settings, *sim.findings.outage_settings(loaded, kind=kind)) for kind in (away, still)}
runs = {kind: sim.run_each(scenario, "seed", (seed,), on=ground, settings=its)[seed] for kind, its in outages.items()}
verdicts = {kind: sim.judge(run) for kind, run in runs.items()}
run = runs[away]
sim.plots.rates_and_states(run)

# %% [markdown]
# ## Who hears whom
# Inside the outage an event reaches the pod that published it, if that pod subscribes to it, and nobody else.

# %%
sim.plots.reachability_map(run)

# %%
seconds = sim.findings.second_rows(run)
seconds.round(2)

# %% [markdown]
# ## The moment it is back
# Each line is an event on its way to a pod, each cross a copy that was lost. A pod may publish again before another one hears again.

# %%
sim.plots.space_time(run)

# %% [markdown]
# ## What was lost, and why

# %%
sim.plots.ledger_books(run)

# %% [markdown]
# ## What the checkers say

# %%
names = ("fallback", "deaf", "ledger", "batching", "callers")
table = pd.DataFrame({name: {check: verdict.checkers[check].detail for check in names} for name, verdict in verdicts.items()})
table.style.set_properties(**{"white-space": "normal", "text-align": "left", "vertical-align": "top"})

# %% [markdown]
# ## A Redis that stands still
# The connections stay open, so no pod falls back: each calls itself connected and hears nothing. That is the truth gap.

# %%
sim.plots.rates_and_states(runs[still])

# %% [markdown]
# ## The answer

# %%
fallback, deaf, ledger = (verdicts[away].checkers[name].counts for name in ("fallback", "deaf", "ledger"))
gap = verdicts[still].checkers["fallback"].counts
holds = fallback["noticed"] > 0 and not fallback["unrecovered"] and not ledger.get("unexplained") and gap["unnoticed"] > 0

# %%
sim.conclude(
    sim.settle(bool(holds), *(verdict.verdict for verdict in verdicts.values())),
    f"Every pod notices within {sim.duration(fallback['notice_s.max'])} and is connected again "
    f"{sim.duration(fallback['recover_s.max'])} after "
    f"Redis is back; {ledger['missing']:,} of {ledger['expected']:,} copies are missing, {ledger.get('sent-in-memory-mode', 0):,} of them "
    f"published only inside a pod and {ledger.get('deaf', 0):,} to a deaf one; when Redis stands still instead, "
    f"{gap['unnoticed']:.0f} pods notice nothing and are wrong for up to {sim.duration(gap['truth_gap_s.max'])}.",
)
