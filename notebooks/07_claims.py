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
# # Which claims about this bus are true?
#
# The reference says what the bus does, and so does common advice. Each claim has an experiment here, one or more runs of the lab, and a
# rule that turns what they measured into a verdict: true, false, or depends, and then on what. `buslab list claims` names all.
#
# Claims are about the reference's text, and each is judged in a scenario of the reference's services; faults on a bus of your own are in
# notebook 06.
#
# By default those claims are run that virtual time can judge, the same on any machine, and three that need a real server.
# `numbers = []` runs all 25, also those that need clusters and Locust, in about three minutes. `buslab claims 2` runs one alone.

# %% tags=["parameters"]
numbers = [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 16, 17, 20, 21, 22, 23]
jobs = 2

# %%
import pandas as pd

import sim

pd.options.display.max_colwidth = None
pd.options.display.max_rows = 50

# %% [markdown]
# ## Run the experiments
# A run that several claims need is made once. Runs in virtual time share the cores; a run on a real server has the machine to itself.

# %%
answers = sim.run_claims(numbers, jobs=jobs, tell=print)

# %% [markdown]
# ## The table
# The run folders are in `answers.folder`, beside `claims.json`.

# %%
table = sim.findings.claims_frame(answers)
table[["words", "experiment", "result", "verdict", "run"]]

# %% [markdown]
# ## Case by case
# A claim that holds in some cases of its experiment and not in others depends on the case.

# %%
sim.plots.claims_overview(answers)

# %% [markdown]
# ## What was measured

# %%
table[["words", "verdict", "condition", "measured"]]

# %% [markdown]
# ## What is not as expected

# %%
for answer in answers.answers:
    if not answer.as_expected:
        print(sim.findings.claim_text(answer))

# %% [markdown]
# ## The answer

# %%
sim.conclude(*sim.findings.claims_answer(answers))
