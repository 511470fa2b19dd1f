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
# # What does each fault do to the bus, and what would a better client or Redis Streams save?
#
# Faults of the catalogue, each on four buses: the scenario's own, that with the client ioredis, Pub/Sub with all that a client can do by
# itself, and Redis Streams.
# Without a scenario each fault has its own, of the reference's services; with one, it hurts the services that stand where those do. The
# short form runs some faults in virtual time. The deep one runs all of them on a real server and takes some minutes:
# `ground = "embedded"`, `faults = ()`.

# %% tags=["parameters"]
scenario = ""  # or the path of your own, which all faults are done to
ground = "model"
faults = ("broker_stop", "broker_freeze", "subscribers_cut", "publishers_cut", "pod_kill", "keys_lost")
seed = 1

# %%
import tempfile
from pathlib import Path

import matplotlib_inline.backend_inline  # noqa: F401 - once it is there, a figure that ends a cell is shown
import pandas as pd

import sim

pd.options.display.max_colwidth = None
pd.options.display.max_rows = 50

# %% [markdown]
# ## Run it
# A cell is the scenario with the bus exchanged: same pods, same calls, same seed. It is invalid when its bus breaks what it
# promised: `hardened` promises that an event runs once, and its marker is a key that `keys_lost` takes away.

# %%
base = sim.load_scenario(scenario) if scenario else None
with tempfile.TemporaryDirectory() as folder:
    matrix = sim.run_matrix(on=ground, faults=faults or tuple(sim.FAULTS), seed=seed, out=Path(folder) / "runs", scenario=base)
rows = matrix.frame()
ran = rows[rows["why_not"] == ""]
rows.pivot(index="fault", columns="bus", values="verdict")

# %% [markdown]
# ## What is lost, run twice, stale and late, and who is told?
# The darker a field, the worse. A question mark: some of these copies are in doubt, as their publisher never got an answer.

# %%
sim.plots.draw_matrix(matrix)

# %% [markdown]
# ## Why is each copy missing?
# Every one has a cause. What no client can mend is *deaf*: published by one pod while another is away, and Pub/Sub keeps nothing.

# %%
ran.loc[ran["lost"] + ran["in_doubt"] > 0, ["fault", "bus", "expected", "lost", "in_doubt", "causes"]]

# %% [markdown]
# ## Who is wrong about it?
# `truth_gap_s`: how long a pod called itself connected while it did not hear, or its publishes had no answer.

# %%
ran.pivot(index="fault", columns="bus", values="truth_gap_s").round(2)

# %% [markdown]
# ## What broke a promise?
# A marker in Redis is only as safe as Redis' keys.

# %%
ran.loc[ran["verdict"] != "valid", ["fault", "bus", "verdict", "why"]]

# %% [markdown]
# ## The answer
# Valid means that the matrix can be believed: every copy has a cause and every bus came back. That a bus loses copies is the finding.

# %%
unsure = (ran["verdict"] == "unknown").any() or matrix.interrupted is not None or ran.empty
back = (ran["recovered"] == "yes").all()
sim.conclude(
    "unknown" if unsure else "valid" if back else "invalid",
    f"{sim.findings.matrix_sentence(matrix)}; all recovered: {'yes' if back else 'no'}.",
)
