"""A plan as a table of its options, with what speaks against each, and as sentences that say what to take."""

from __future__ import annotations

from rich.console import Group
from rich.text import Text

from sim.measure.capacity.plan import Plan
from sim.measure.capacity.report import plain_table


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
        return f"For {plan.target_calls_per_s:,.0f} calls/s no option is left: each is refused, for the reasons given."
    return (
        f"For {plan.target_calls_per_s:,.0f} calls/s take {plan.best.choice}: its fullest broker is at {plan.best.used:.0%} of its "
        f"saturation rate, {plan.best.headroom:.0%} are kept free."
        + "".join(f" N{note[1:]}." for note in plan.best.notes if note.startswith("not tested"))
        + " A plan knows what the broker carries, not how many replicas the services' own work needs."
    )


def plan_table(plan: Plan, *, most: int | None = None) -> Group:
    """Return the options for a rich console, so many of those accepted and of those refused."""
    accepted = sum(option.accepted for option in plan.options)
    title = f"Options: {accepted} accepted, {len(plan.options) - accepted} refused" + (f"; the first {most} of each" if most else "")
    return Group(plain_table(title, OPTION_HEADINGS, option_rows(plan, most=most)), Text(plan_sentence(plan)))
