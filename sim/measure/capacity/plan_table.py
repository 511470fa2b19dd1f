"""A plan as a table of its options, with what speaks against each, and as sentences that say what to take."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from sim.measure.capacity.plan import Plan
from sim.measure.capacity.report import markdown_table, plain_table


def option_rows(plan: Plan, *, most: int | None = None) -> list[list[str]]:
    """Return the rows of the table of options, the one to take marked: those accepted, then those refused, so many of each."""
    accepted, refused = ([option for option in plan.options if option.accepted is wanted] for wanted in (True, False))
    return [
        [
            ("-> " if option is plan.best else "") + str(option.choice),
            f"{option.carries.low:,.0f}",
            f"{option.used:.0%}",
            "; ".join(option.excuses) or "accepted",
            "; ".join(option.notes),
        ]
        for option in (*accepted[:most], *refused[:most])
    ]


OPTION_HEADINGS = ("choice", "carries calls/s at least (low end of 95 %)", "of saturation", "refused because", "notes")


def plan_sentence(plan: Plan) -> str:
    """Return in a few sentences what to do for the target."""
    if plan.best is None:
        measured = f" In the measurement {plan.measured}." if plan.measured else ""
        changes = f" What would have to change, each alone and computed: {'; '.join(plan.changes)}." if plan.changes else ""
        return f"For {plan.target_calls_per_s:,.0f} calls/s no option is left: each is refused, for the reasons given.{measured}{changes}"
    return (
        f"For {plan.target_calls_per_s:,.0f} calls/s take {plan.best.choice}: its fullest broker is at {plan.best.used:.0%} of its "
        f"saturation rate, {plan.best.headroom:.0%} are kept free."
        + "".join(f" {note[:1].upper()}{note[1:]}." for note in plan.best.notes if " at risk in " not in note)
        + (f" In the measurement {plan.measured}." if plan.measured else "")
    )


def plan_table(plan: Plan, *, most: int | None = None) -> Group:
    """Return the options for a rich console, so many of those accepted and of those refused."""
    accepted = sum(option.accepted for option in plan.options)
    title = f"Options: {accepted} accepted, {len(plan.options) - accepted} refused" + (f"; the first {most} of each" if most else "")
    return Group(plain_table(title, OPTION_HEADINGS, option_rows(plan, most=most)), Text(plan_sentence(plan)))


def plan_page(plan: Plan, of: str, answers: Sequence[str] = ()) -> str:
    """Return the plan for the end of the page of a measurement, in Markdown; `of` is the scenario, `answers` stand first."""
    lines = [f"## Planned: `{of}` at {plan.target_calls_per_s:,.0f} calls/s", ""]
    lines += [line for text in (*answers, plan_sentence(plan)) for line in (text, "")]
    return "\n" + "\n".join([*lines, *markdown_table(OPTION_HEADINGS, option_rows(plan))]) + "\n"
