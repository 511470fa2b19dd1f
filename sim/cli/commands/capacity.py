"""Measure what a bus carries on this machine, and plan for a load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from sim.cli.options import image_option, load_option, on_option, out_option, set_option, tell
from sim.cli.printing import FiniteRange, check_out, print_table
from sim.errors import UsageError
from sim.machine.words import count, listed

if TYPE_CHECKING:  # imported where used: the fit needs scipy, and --help should not
    from sim.measure.capacity.report import Capacity
    from sim.scenario.file import Scenario

OPTIONS_SHOWN = 5  # of those accepted, and of those refused
ONLY_MEASURING = {"on": "--on", "image": "--image", "deep": "--deep", "yes_load_this_server": "--yes-load-this-server"}


@click.command()
@click.argument("scenario", default="baseline")
@on_option(help="Where: embedded, container or redis://…")
@image_option()
@set_option()
@click.option("--pods-per-service", type=click.IntRange(1, 500), help="So many replicas of every service. [default: as in the scenario]")
@click.option("--lag-ms-p99", default=50.0, show_default=True, type=FiniteRange(0.1, 60_000), help="The limit on p99 of lag.")
@click.option("--target-rate", type=FiniteRange(0, min_open=True), help="Calls per second to plan for; exit code 1 if refused.")
@click.option("--at", "at", type=click.Path(path_type=Path), help="Plan for this scenario, at its rate, in place of SCENARIO.")
@click.option("--growth", type=FiniteRange(0, 10_000, min_open=True), help="Plan for so many times the scenario's rate.")
@click.option("--all-options", is_flag=True, help="Show every option of the plan, not only the first few.")
@click.option("--link-mbit", default=0.0, type=FiniteRange(0), help="What a broker's network link carries, for the plan.")
@click.option("--deep", is_flag=True, help="Measure longer: a quarter of an hour instead of four minutes.")
@out_option("Folder for capacity.json, .md, .png; with --from they are written there only when it is given.", default="reports")
@click.option("--from", "source", type=click.Path(path_type=Path), help="Measure nothing: plan with the capacity.json of this folder.")
@load_option()
@click.pass_context
def capacity(
    context: click.Context, scenario: str, on: str, image: str | None, settings: tuple[str, ...], pods_per_service: int | None,
    lag_ms_p99: float, target_rate: float | None, at: Path | None, growth: float | None, all_options: bool, link_mbit: float, deep: bool,
    out: Path, source: Path | None, yes_load_this_server: bool,
) -> int:  # fmt: skip
    """Measure what the bus of SCENARIO carries on this machine, and plan for a load.

    A plan is made for --target-rate, for --growth times the scenario's rate, or for the scenario of --at at its own. It says in a
    sentence whether broker, link and the services' handlers carry it, and what ends first.

    Exit code: 0; 1 when no choice carries the rate that is planned for, or a service's handlers do not, or no rate at all was sustained;
    2 an error, or the machine was too busy for an answer; 130 Ctrl-C: what was measured is
    kept, without an answer, and an earlier capacity.json stays.
    """
    from sim.measure.capacity.answer import plan_bus
    from sim.measure.capacity.plan_table import plan_page, plan_table
    from sim.measure.capacity.report import read_capacity, tables, write_capacity
    from sim.measure.capacity.run import with_pods, workload_of
    from sim.scenario.file import load_scenario

    loaded = with_pods(load_scenario(scenario, settings=settings), pods_per_service)
    planned = loaded if at is None else with_pods(load_scenario(str(at)), pods_per_service)
    target_rate = _target(planned, target_rate=target_rate, growth=growth, wanted=at is not None)
    workload = workload_of(planned)
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    writes = source is None or "out" in given
    if writes:
        check_out(out / "capacity.json")
    if source is None:
        found = _measure(loaded, on=on, lag_ms_p99=lag_ms_p99, deep=deep, load_this_server=yes_load_this_server, image=image, out=out)
    else:
        found = read_capacity(source)
        _tell_unused(given, found, lag_ms_p99)
    if source is None or target_rate is None:
        print_table(tables(found))
    path = _write(found, out) if writes else source
    carried = bool(found.carried)
    if target_rate is not None:
        least = (0, 2, 3, 4) if pods_per_service is None else (0,)
        plan = plan_bus(planned, workload, found, target_calls_per_s=target_rate, least_replicas=least, link_mbit_per_s=link_mbit)
        print_table(plan_table(plan.broker, most=None if all_options else OPTIONS_SHOWN))
        click.echo("\n".join(plan.sentences))
        if writes:
            write_capacity(found, out, plan_page(plan.broker, planned.name, plan.sentences))
        carried = plan.carried
    click.echo(f"capacity {path}" + ("" if writes else ", nothing is written without --out"))
    return 0 if carried else 1


def _target(scenario: Scenario, *, target_rate: float | None, growth: float | None, wanted: bool) -> float | None:
    """Return the rate to plan for, None where no plan is asked for."""
    if target_rate is not None and growth is not None:
        raise UsageError(f"--target-rate {target_rate:g} and --growth {growth:g}: each says the rate, give one of them")
    return scenario.load.rate_per_s * (growth or 1.0) if growth is not None or (wanted and target_rate is None) else target_rate


def _measure(
    scenario: Scenario, *, on: str, lag_ms_p99: float, deep: bool, load_this_server: bool, image: str | None, out: Path
) -> Capacity:
    """Measure, and keep what was measured when it is interrupted."""
    from sim.measure.capacity.report import write_windows
    from sim.measure.capacity.run import DEEP, QUICK, Window, measure_capacity

    windows: list[Window] = []
    try:
        return measure_capacity(
            scenario, on=on, lag_ms_p99=lag_ms_p99, effort=DEEP if deep else QUICK, load_this_server=load_this_server, image=image,
            tell=tell, keep=windows.append,
        )  # fmt: skip
    except KeyboardInterrupt:
        if windows:
            click.echo(f"no answer; what {count(len(windows), 'window')} measured is in {write_windows(windows, out)}", err=True)
        raise


def _tell_unused(given: set[str], found: Capacity, lag_ms_p99: float) -> None:
    """Refuse another limit on lag than the one that was measured with, and name the options that only measuring uses."""
    if "lag_ms_p99" in given and lag_ms_p99 != found.lag_ms_p99:
        raise UsageError(
            f"--lag-ms-p99 {lag_ms_p99:g}: the file of --from was measured with {found.lag_ms_p99:g}; leave it out, or measure again"
        )
    if unused := [option for name, option in ONLY_MEASURING.items() if name in given]:
        click.echo(f"{listed(unused)} changed nothing: with --from nothing is measured", err=True)


def _write(found: Capacity, out: Path) -> Path:
    """Write the file, its page and its picture at once: what took minutes to measure is kept whatever the plan comes to."""
    from sim.measure.capacity.plots import write_picture
    from sim.measure.capacity.report import write_capacity

    path = write_capacity(found, out)
    write_picture(found, out / "capacity.png")
    return path
