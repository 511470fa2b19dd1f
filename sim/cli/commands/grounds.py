"""Run one scenario on several grounds."""

from __future__ import annotations

import click

from sim.cli.options import image_option, set_option, tell
from sim.cli.printing import print_table


@click.command()
@click.argument("scenario", default="baseline")
@click.option("--on", "grounds", multiple=True, metavar="GROUND", help="One of the grounds; may be repeated. [default: all but a URL]")
@image_option()
@set_option()
def grounds(scenario: str, grounds: tuple[str, ...], image: str | None, settings: tuple[str, ...]) -> int:
    """Run SCENARIO with the same seed on several grounds, and compare lag and the broker's work."""
    from sim.experiments.fidelity.grounds import SIDE_BY_SIDE, exit_code, grounds_table, run_on_grounds
    from sim.scenario.file import load_scenario

    loaded = load_scenario(scenario, settings=settings)
    found = run_on_grounds(loaded, grounds=grounds or SIDE_BY_SIDE, image=image, tell=tell)
    print_table(grounds_table(loaded, found))
    return exit_code(found)
