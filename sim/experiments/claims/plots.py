"""Draw what claims came to: one row a claim, one mark for each case of it, read without colour too."""

from __future__ import annotations

import textwrap

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sim.experiments.claims.run import ClaimAnswers
from sim.experiments.claims.table import TALLY, number_of
from sim.machine.words import count
from sim.pages.colours import BLUE, RED

MARKS = {True: ("o", BLUE, "the claim held in a case"), False: ("X", RED, "it did not"), None: ("$?$", "#555555", "not judged")}
ROW_IN = 0.34  # height of a row, inches
MAX_WORDS = 80  # characters of a claim
MAX_NUMBER = 66


def claims_overview(answers: ClaimAnswers, *, ax: Axes | None = None) -> Axes:
    """Draw every claim with its cases, its verdict and its number; the title counts the verdicts."""
    rows = answers.answers
    if ax is None:
        _, ax = plt.subplots(figsize=(14, 1.2 + ROW_IN * len(rows)), layout="constrained")
    most = max((len(row.finding.cases) for row in rows), default=1)
    for place, row in enumerate(rows):
        cases = list(row.finding.cases.values()) or [None]
        for column, held in enumerate(cases):
            mark, colour, _ = MARKS[held]
            ax.plot(column, place, marker=mark, color=colour, markersize=9, linestyle="none")
        found = textwrap.shorten(f"{row.finding.verdict}: {number_of(row)}", MAX_NUMBER, placeholder=" …")
        ax.text(most - 0.4, place, found, va="center", fontweight="normal" if row.as_expected else "bold")
    words = [textwrap.shorten(row.claim.words, MAX_WORDS, placeholder=" …") for row in rows]
    ax.set_yticks(range(len(rows)), [f"{text}   {row.number}" for text, row in zip(words, rows, strict=True)])
    ax.set_xticks(range(most))
    ax.set_xticklabels([f"{n + 1}" for n in range(most)])
    ax.set_xlim(-0.6, most + 7.5)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel("case of the claim's experiment", loc="left")
    ax.tick_params(length=0)
    ax.spines[["top", "right", "left", "bottom"]].set_visible(False)
    for place in range(1, len(rows), 2):
        ax.axhspan(place - 0.5, place + 0.5, color="#f2f2f2", zorder=0)
    seen = {held for row in rows for held in row.finding.cases.values() or [None]}
    marks = [mark for held, mark in MARKS.items() if held in seen]
    handles = [Line2D([], [], marker=mark, color=colour, linestyle="none", label=label) for mark, colour, label in marks]
    ax.legend(handles=handles, loc="upper right", bbox_to_anchor=(1.0, 0.0), ncols=len(handles), frameon=False)
    many = {word: sum(row.finding.verdict == word for row in rows) for word in TALLY}
    told = [count(many[word], *words) for word, words in TALLY.items() if many[word] or word != "unknown"]
    ax.set_title(f"Of {count(len(rows), 'claim')} {', '.join(told)}", loc="left")
    return ax
