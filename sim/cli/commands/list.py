"""List what there is to choose from."""

from __future__ import annotations

import sys

import click

WHAT = ("scenarios", "grounds", "checkers", "faults", "behaviours", "recipes", "slo", "claims")


@click.command("list")
@click.argument("what", type=click.Choice(WHAT), default="scenarios")
def list_(what: str) -> int:
    """List scenarios, grounds, checkers, faults, behaviours, recipes, the metrics an SLO may bound, or claims.

    What installed packages bring stands below ours, with where it comes from.
    """
    from sim.machine.user_code import GROUPS, installed_members

    rows, kind = _listed(what), what.removesuffix("s")
    if kind in GROUPS:
        rows |= {name: text for name, text in installed_members(kind).items() if name not in rows}
    width = max(len(name) for name in rows)
    for name, text in rows.items():
        click.echo(f"{name:<{width}}  {text}")
    return 0


def _listed(what: str) -> dict[str, str]:
    if what == "behaviours":
        from sim.bus.services import BEHAVIOURS

        return {name: _first_line(make.__module__) for name, make in BEHAVIOURS.items()}
    if what == "recipes":
        from sim.bus.once import RECIPES

        return {name: (recipe.__doc__ or "").splitlines()[0] for name, recipe in RECIPES.items()}
    if what == "grounds":
        from sim.grounds.catalogue import GROUNDS

        return {name: text for name, (_, text) in GROUNDS.items()}
    if what == "checkers":
        from sim.results.checkers import CHECKERS

        return {name: _first_line(check.__module__) for name, check in CHECKERS.items()}
    if what == "faults":
        from sim.faults.catalogue import FAULTS

        return {name: _first_line(fault.__module__) for name, fault in FAULTS.items()}
    if what == "claims":
        from sim.experiments.claims.catalogue import CLAIMS

        return {number: f"{claim.words} ({claim.where})" for number, claim in CLAIMS.items()}
    if what == "slo":
        from sim.record.schema import SLO_METRICS

        return SLO_METRICS
    from sim.scenario.file import built_in, load_scenario

    return {name: load_scenario(name).title for name in built_in()}


def _first_line(module: str) -> str:
    return (sys.modules[module].__doc__ or "").strip().splitlines()[0]
