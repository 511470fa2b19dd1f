"""Measure what a bus carries on this machine, and plan for a load."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.options import image_option, load_option, on_option, out_option, set_option, tell
from sim.cli.printing import FiniteRange, check_out, print_table
from sim.machine.words import count

OPTIONS_SHOWN = 5  # of those accepted, and of those refused


@click.command()
@click.argument("scenario", default="baseline")
@on_option(help="Where: embedded, container or redis://…")
@image_option()
@set_option()
@click.option("--pods-per-service", type=click.IntRange(1, 500), help="So many replicas of every service. [default: as in the scenario]")
@click.option("--lag-ms-p99", default=50.0, show_default=True, type=FiniteRange(0.1, 60_000), help="The limit on p99 of lag.")
@click.option("--target-rate", type=FiniteRange(0, min_open=True), help="Calls per second to plan for; exit code 1 if refused.")
@click.option("--all-options", is_flag=True, help="Show every option of the plan, not only the first few.")
@click.option("--link-mbit", default=0.0, type=FiniteRange(0), help="What a broker's network link carries, for the plan.")
@click.option("--deep", is_flag=True, help="Measure longer: a quarter of an hour instead of four minutes.")
@out_option("Folder for capacity.json, .md, .png.", default="reports")
@click.option("--from", "source", type=click.Path(path_type=Path), help="Measure nothing: plan with the capacity.json of this folder.")
@load_option()
def capacity(
    scenario: str, on: str, image: str | None, settings: tuple[str, ...], pods_per_service: int | None, lag_ms_p99: float,
    target_rate: float | None, all_options: bool, link_mbit: float, deep: bool, out: Path, source: Path | None, yes_load_this_server: bool,
) -> int:  # fmt: skip
    """Measure what the bus of SCENARIO carries on this machine, and plan for a load.

    Exit code: 0; 1 when no choice carries --target-rate, or no rate at all was sustained; 2 an error, or the machine
    was too busy for an answer; 130 Ctrl-C: what was measured is
    kept, without an answer, and an earlier capacity.json stays.
    """
    from sim.measure.capacity.plan import make_plan
    from sim.measure.capacity.plan_table import plan_table
    from sim.measure.capacity.report import read_capacity, tables, write_capacity, write_windows
    from sim.measure.capacity.run import DEEP, QUICK, Window, measure_capacity, with_pods, workload_of
    from sim.scenario.file import load_scenario

    loaded = with_pods(load_scenario(scenario, settings=settings), pods_per_service)
    workload = workload_of(loaded)
    if source is None:
        from sim.measure.capacity.plots import write_picture

        check_out(out / "capacity.json")
        windows: list[Window] = []
        try:
            found = measure_capacity(
                loaded, on=on, lag_ms_p99=lag_ms_p99, effort=DEEP if deep else QUICK, load_this_server=yes_load_this_server, image=image,
                tell=tell, keep=windows.append,
            )  # fmt: skip
        except KeyboardInterrupt:
            if windows:
                click.echo(f"no answer; what {count(len(windows), 'window')} measured is in {write_windows(windows, out)}", err=True)
            raise
        path = write_capacity(found, out)
        write_picture(found, out / "capacity.png")
    else:
        found, path = read_capacity(source), source
    if source is None or target_rate is None:
        print_table(tables(found))
        click.echo(f"capacity {path}")
    if target_rate is None:
        return 0 if found.carried else 1
    least = (0, 2, 3, 4) if pods_per_service is None else (0,)
    plan = make_plan(found.model, workload, target_calls_per_s=target_rate, least_replicas=least, link_mbit_per_s=link_mbit)
    print_table(plan_table(plan, most=None if all_options else OPTIONS_SHOWN))
    return 0 if plan.best else 1
