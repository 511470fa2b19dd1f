"""Tell what a scenario means, before it runs."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.options import set_option
from sim.cli.printing import print_table


@click.command("check-scenario")
@click.argument("scenario")
@set_option()
@click.option(
    "--from", "source", type=click.Path(path_type=Path), metavar="FOLDER",
    help="Where costs.json and capacity.json are. [default: reports, as far as they are of this machine]",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
def check_scenario(scenario: str, settings: tuple[str, ...], source: Path | None, as_json: bool) -> int:
    """Tell what SCENARIO means, and run nothing: pods, connections, events, copies and bytes per second, faults, limits, and notes.

    What this machine carries of it comes from what was measured here: `buslab calibrate`, `buslab capacity`. Exit code: 0, or 2 where
    something is wrong with the scenario.
    """
    import msgspec

    from sim.measure.meaning.meaning import check_scenario
    from sim.measure.meaning.table import meaning_tables
    from sim.scenario.file import load_scenario

    meaning = check_scenario(load_scenario(scenario, settings=settings), measured=source)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(meaning), indent=2).decode())
    else:
        print_table(meaning_tables(meaning))
    return 0
