"""Run a scenario, judge it, draw its report."""

from __future__ import annotations

from pathlib import Path

import click

from sim.printing import judge_folder


@click.command()
@click.argument("scenario")
@click.option(
    "--on", default="embedded", show_default=True, metavar="GROUND", envvar="BUSLAB_ON", show_envvar=True,
    help="Where: embedded or container, either with :PORT, cluster or container-cluster, model[:FILE], redis://… or rediss://… ; "
    "a URL with a password is safer in the variable.",
)  # fmt: skip
@click.option("--image", metavar="IMAGE", help="What the grounds of containers run. [default: BUSLAB_REDIS_IMAGE, else an official image]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting of the scenario; may be repeated.")
@click.option("--out", type=click.Path(path_type=Path), help="The run folder to make. [default: reports/runs/SCENARIO/<UTC time>]")
@click.option("--yes-load-this-server", is_flag=True, help="Allow --on to name a server on another machine.")
@click.option("--no-report", is_flag=True, help="Do not draw report.html.")
def run(
    scenario: str, on: str, image: str | None, settings: tuple[str, ...], out: Path | None, yes_load_this_server: bool, no_report: bool
) -> int:
    """Run SCENARIO (a built-in name or a .toml file), judge it, and draw its report."""
    from rich.console import Console

    from sim.progress import Display
    from sim.run import run_scenario
    from sim.scenario import load_scenario

    loaded = load_scenario(scenario, settings=settings)
    with Display(Console(stderr=True)) as display:
        folder = run_scenario(loaded, on=on, out=out, load_this_server=yes_load_this_server, image=image, watch=display.show)
    return judge_folder(folder, report=not no_report, write=True)
