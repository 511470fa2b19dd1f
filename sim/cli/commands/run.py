"""Run a scenario, judge it, draw its report."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path

import click

from sim.cli.options import image_option, load_option, on_option, out_option, set_option
from sim.cli.printing import print_judgement
from sim.errors import BuslabError


@click.command()
@click.argument("scenario")
@on_option()
@image_option()
@set_option()
@out_option("The run folder to make. [default: reports/runs/SCENARIO/<UTC time>]")
@load_option()
@click.option(
    "--fleet", type=click.Choice(["ours", "none"]), default="ours", show_default=True,
    help="none: start no pods, load a fleet that is there already; only publishes are recorded and judged.",
)  # fmt: skip
@click.option("--locustfile", metavar="FILE", help="Users of your own make the calls, in a closed loop: sets load.locustfile.")
@click.option("--users", type=click.IntRange(1), help="How many users --locustfile has: sets load.users.")
@click.option(
    "--parts-to", metavar="URL", default="", help="With hosts.kind=dask, what workers record comes home by this place, as s3://BUCKET."
)
@click.option("--driven-by", type=int, hidden=True, help="The line to the Locust that started this run: an inherited socket.")
@click.option("--no-report", is_flag=True, help="Do not draw report.html.")
def run(
    scenario: str,
    on: str,
    image: str | None,
    settings: tuple[str, ...],
    out: Path | None,
    yes_load_this_server: bool,
    fleet: str,
    locustfile: str | None,
    users: int | None,
    parts_to: str,
    driven_by: int | None,
    no_report: bool,
) -> int:
    """Run SCENARIO (a built-in name or a .toml file), judge it, and draw its report."""
    from rich.console import Console

    from sim.run.display import Display
    from sim.run.steps import run_scenario
    from sim.scenario.file import load_scenario
    from sim.scenario.notes import notes_of, told_notes

    if locustfile is not None:
        settings += (f"load.locustfile={json.dumps(locustfile)}", "load.driver=locust")
    if users is not None:
        settings += (f"load.users={users}",)
    loaded = load_scenario(scenario, settings=settings)
    caller = None if driven_by is None else socket.socket(fileno=driven_by)
    console = Console(stderr=True, force_terminal=None if caller is None else False)  # Locust writes there too: no live line
    for note in told_notes(notes_of(loaded)):
        console.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False, emoji=False)
    try:
        with Display(console) as display, caller or contextlib.nullcontext():
            folder = run_scenario(
                loaded,
                on=on,
                out=out,
                load_this_server=yes_load_this_server,
                image=image,
                fleet=fleet,
                parts_to=parts_to,
                caller=caller,
                watch=display.show,
            )
    except BuslabError as error:
        if error.run_folder is not None:  # of a run that was interrupted or failed, what was recorded is judged and drawn too
            with contextlib.suppress(BuslabError):  # what ended the run is what is told
                print_judgement(error.run_folder, report=caller is None and not no_report, write=True)
        raise
    return print_judgement(folder, report=not no_report, write=True)
