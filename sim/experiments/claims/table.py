"""Show what claims came to: a table for the console, a frame for a notebook, a page in Markdown for the repository."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from rich.table import Table
from rich.text import Text

from sim.errors import RecordError
from sim.experiments.claims.run import ClaimAnswer, ClaimAnswers, again
from sim.grounds.catalogue import shown_ground
from sim.machine.files import write_whole
from sim.machine.words import UNITS_S, amount, count, duration, multiple

TALLY = {
    "true": ("is true", "are true"),
    "false": ("is false", "are false"),
    "depends": ("depends on the case", "depend on the case"),
    "unknown": ("is unknown", "are unknown"),
}
EXAMPLES = 3
STYLES = {"true": "green", "false": "red", "depends": "yellow", "unknown": "magenta"}


def claims_table(answers: ClaimAnswers) -> Table:
    """Return the table for a rich console."""
    table = Table(title=f"What {count(len(answers.answers), 'claim')} came to; the runs are in {answers.folder}")
    for heading in ("#", "claim", "verdict", "number", "false if", "experiment", "run"):
        table.add_column(heading, justify="right" if heading == "#" else "left")
    for answer in answers.answers:
        word = Text(answer.finding.verdict, STYLES[answer.finding.verdict])
        word.append("" if answer.as_expected else f", not {answer.claim.expects}", "default")
        runs = "\n".join(dict.fromkeys(run.folder.name for run in answer.runs.values()))
        table.add_row(answer.number, answer.claim.words, word, number_of(answer), answer.claim.false_if, experiment_of(answer), runs)
    return table


def number_of(answer: ClaimAnswer) -> str:
    """Return the number with its unit, three digits of it: a time in the unit that suits it, a small multiple as a share."""
    value = answer.finding.number
    if value is None:
        return "-"
    unit = answer.finding.unit
    word = unit.partition(" ")[0].rstrip(",")
    if word in UNITS_S:
        return duration(value * UNITS_S[word]) + unit.removeprefix(word)
    if word == "times":
        return multiple(value) + unit.removeprefix(word)
    return f"{amount(value)} {unit}"


def experiment_of(answer: ClaimAnswer) -> str:
    """Return scenarios and grounds, each once."""
    return ", ".join(dict.fromkeys(f"{run.trial.scenario} on {shown_ground(run.on)}" for run in answer.runs.values()))


def explained(answer: ClaimAnswer) -> str:
    """Return one claim's finding in words: the condition where it depends, the numbers, and why nothing can be said."""
    parts = [f"claim {answer.number}, {answer.finding.verdict}", answer.finding.condition, answer.finding.detail]
    parts += [f"unknown because: {answer.finding.doubt}"] if answer.finding.doubt else []
    return ": ".join(part for part in parts[:2] if part) + "\n  " + "\n  ".join(parts[2:])


def claims_frame(answers: ClaimAnswers) -> pd.DataFrame:
    """Return one row a claim.

    Returns
    -------
    DataFrame
        Index `claim` (number); words, false_if (the outcome that would make it false), verdict, expected, result (the number with its
        unit, as text), number, unit, condition, measured (a sentence), experiment, run (folders).
    """
    rows = [
        {
            "claim": answer.number,
            "words": answer.claim.words,
            "false_if": answer.claim.false_if,
            "verdict": answer.finding.verdict,
            "expected": answer.claim.expects,
            "result": number_of(answer),
            "number": answer.finding.number,
            "unit": answer.finding.unit,
            "condition": answer.finding.condition,
            "measured": answer.finding.doubt or answer.finding.detail,
            "experiment": experiment_of(answer),
            "run": ", ".join(dict.fromkeys(run.folder.name for run in answer.runs.values())),
        }
        for answer in answers.answers
    ]
    return pd.DataFrame(rows).set_index("claim")


def claims_page(answers: ClaimAnswers) -> str:
    """Return the page in Markdown: a table in short, then each claim with its experiment and the command that re-runs it."""
    told = sum(answer.as_expected for answer in answers.answers)
    lines = [
        "# What became of the claims",
        "",
        f"{count(len(answers.answers), 'claim')} about the bus, each re-run by one command; "
        f"{count(told, 'verdict is', 'verdicts are')} what theory expects. Written by",
        "`buslab claims --report reports/claims.md`. What ran on `model` repeats with its seed on any machine; figures from a real server",
        "move between runs. A claim *depends* when it holds in some of its experiment's cases and not in others.",
        "",
        "| # | claim | verdict | number |",
        "|--|---|---|---|",
    ]
    lines += [f"| {a.number} | {a.claim.words} | {a.finding.verdict} | {number_of(a)} |" for a in answers.answers]
    for answer in answers.answers:
        lines += ["", *_section(answer)]
    return "\n".join(lines) + "\n"


def _section(answer: ClaimAnswer) -> Iterable[str]:
    claim, finding = answer.claim, answer.finding
    yield f"## {answer.number}. {claim.words}: {finding.verdict}"
    yield ""
    yield f"- stands in: {claim.where}"
    yield f"- theory: {claim.theory}"
    yield f"- false if: {claim.false_if}"
    if finding.condition:
        yield f"- condition: {finding.condition}"
    yield f"- measured: {finding.detail}"
    if finding.doubt:
        yield f"- unknown because: {finding.doubt}"
    yield f"- again: `{again(answer)}`, which runs"
    for run in answer.runs.values():
        words = run.trial.command.split(" ", 3)  # the ground stands behind the scenario
        ground = [] if run.trial.program else ["--on", shown_ground(run.on)]
        yield f"  - `{' '.join([*words[:3], *ground, *words[3:]])}`"


def write_page(answers: ClaimAnswers, path: Path) -> None:
    """Write the page, whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, claims_page(answers))
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror or error}; choose another --report") from None


def concluded(answers: ClaimAnswers) -> tuple[str, str]:
    """Return how a notebook concludes: the verdict over all claims (see `ClaimAnswers.exit_code`), and a sentence with numbers."""
    tally = {word: [answer for answer in answers.answers if answer.finding.verdict == word] for word in STYLES}
    parts = [count(len(some), *TALLY[word]) for word, some in tally.items() if some]
    text = f"Of {count(len(answers.answers), 'claim')} {', '.join(parts)}"
    shown = [f"{answer.claim.words}: {number_of(answer)}" for answer in tally["false"][:EXAMPLES]]
    text += f"; false are, among others, {'; '.join(shown)}" if shown else ""
    other = [answer.number for answer in answers.answers if not answer.as_expected]
    text += f"; not what theory expects: {', '.join(other)}" if other else "; each verdict is what theory expects"
    return {0: "valid", 1: "invalid"}.get(answers.exit_code, "unknown"), text + "."
