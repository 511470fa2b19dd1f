"""The command `buslab`. Each command is thin: one call that a notebook can make with the same names.

Exit codes: 0 valid, 1 invalid, 2 unknown or an error, 130 interrupted (128 + signal).
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import click

from sim import __version__
from sim.errors import BuslabError, UsageError

LOG_WIDTH = 140

if TYPE_CHECKING:  # imported where used: pandas takes a second, and --help should not
    from rich.console import RenderableType

    from sim.checkers import Verdict
    from sim.results import Run

RUN_ARGUMENT = click.argument("run", type=click.Path(path_type=Path))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="buslab")
def cli() -> None:
    """Run Aiponge's event bus against a real Redis and account for every copy of every event.

    RUN is a run folder, for example reports/runs/baseline/latest.

    Exit code: 0 the run is valid, 1 it broke a promise or an SLO, 2 unknown or an error, 130 interrupted.
    """


@cli.command()
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
    return _judge(folder, report=not no_report, write=True)


@cli.command()
@RUN_ARGUMENT
@click.option("--only", multiple=True, metavar="CHECKER", help="Run only this checker; may be repeated. Nothing is written then.")
def check(run: Path, only: tuple[str, ...]) -> int:
    """Judge a run folder again, new or old, and write its verdict.json and junit.xml."""
    return _judge(run, report=False, write=not only, only=only)


@cli.command()
@RUN_ARGUMENT
def report(run: Path) -> int:
    """Draw report.html of a run folder again."""
    from sim.checkers import judge
    from sim.report import write_report
    from sim.results import open_run

    opened = open_run(run)
    click.echo(write_report(opened, judge(opened)))
    return 0


@cli.command()
@RUN_ARGUMENT
@click.argument("event")
def story(run: Path, event: str) -> int:
    """Tell what happened to one EVENT (its id), station by station."""
    from sim.results import open_run

    click.echo(str(open_run(run).story(event)))
    return 0


@cli.command("list")
@click.argument("what", type=click.Choice(["scenarios", "grounds", "checkers", "faults", "slo"]), default="scenarios")
def list_(what: str) -> int:
    """List scenarios, grounds, checkers, faults, or the metrics an SLO may bound."""
    rows = _listed(what)
    width = max(len(name) for name in rows)
    for name, text in rows.items():
        click.echo(f"{name:<{width}}  {text}")
    return 0


@cli.command()
@click.option("--pods", default=100, show_default=True, type=click.IntRange(1, 5000), help="Subscribers in the one host process.")
@click.option("--seconds", default=2.0, show_default=True, type=click.FloatRange(0.1, 60), help="Length of each measurement.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 20), help="Measurements of each client; the median counts.")
@click.option("--virtual", is_flag=True, help="Measure virtual time instead: an hour of 12 pods, ten minutes of 10,000.")
@click.option("--clusters", is_flag=True, help="Measure instead what a copy costs a cluster: classic and sharded, 1 and 3 masters.")
def bench(pods: int, seconds: float, rounds: int, virtual: bool, clusters: bool) -> int:
    """Measure the lab's own receive path against a raw drain and redis-py, in one run."""
    if clusters:
        from sim.bench.clusters import clusters_table, measure_clusters

        _print(clusters_table(measure_clusters(rounds=rounds, progress=lambda line: click.echo(line, err=True)), rounds=rounds))
        return 0
    from sim.bench import bench_table, run_bench
    from sim.bench import virtual as virtual_time

    if virtual:
        _print(virtual_time.virtual_table(virtual_time.run_virtual_bench(rounds=rounds, progress=lambda line: click.echo(line, err=True))))
        return 0
    measured = run_bench(pods=pods, seconds=seconds, rounds=rounds, progress=lambda line: click.echo(line, err=True))
    _print(bench_table(measured))
    return 0


@cli.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("reports/costs.json"), show_default=True, help="The file to write.")
@click.option(
    "--rounds", default=7, show_default=True, type=click.IntRange(3, 31), help="Rounds of measuring; more make narrower intervals."
)
def calibrate(out: Path, rounds: int) -> int:
    """Measure what an embedded broker's steps cost on this machine, for --on model:FILE."""
    from sim.calibrate import calibration_table, run_calibration
    from sim.costs import write_costs

    _check_out(out)
    costs = run_calibration(rounds=rounds, progress=lambda line: click.echo(line, err=True))
    write_costs(costs, out)
    _print(calibration_table(costs))
    click.echo(f"costs    {out}; use them with --on model:{out}")
    return 0


@cli.command()
@click.option("--scenario", "scenarios", multiple=True, metavar="NAME", help="Compare this one; may be repeated. [default: all built-in]")
@click.option(
    "--repeats", default=1, show_default=True, type=click.IntRange(1, 20), help="Pairs of runs of each, with one seed after another."
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting of every scenario; may be repeated.")
@click.option("--on", default="model", show_default=True, metavar="GROUND", help="The model: model, or model:FILE with measured costs.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("reports/fidelity.md"), show_default=True, help="File: .md or .json.")
def fidelity(scenarios: tuple[str, ...], repeats: int, settings: tuple[str, ...], on: str, out: Path) -> int:
    """Run scenarios on the model and on an embedded server, and tell how far they differ."""
    from sim.fidelity import fidelity_table, run_fidelity, write_fidelity

    told = lambda line: click.echo(line, err=True)  # noqa: E731
    _check_out(out)
    compared = run_fidelity(scenarios, repeats=repeats, model_on=on, settings=settings, progress=told)
    write_fidelity(compared, out)
    _print(fidelity_table(compared))
    click.echo(f"table    {out}")
    return 0


@cli.command()
@click.argument("scenario", default="baseline")
@click.option("--on", "grounds", multiple=True, metavar="GROUND", help="One of the grounds; may be repeated. [default: all but a URL]")
@click.option("--image", metavar="IMAGE", help="What the grounds of containers run. [default: BUSLAB_REDIS_IMAGE, else an official image]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting of the scenario; may be repeated.")
def grounds(scenario: str, grounds: tuple[str, ...], image: str | None, settings: tuple[str, ...]) -> int:
    """Run SCENARIO with the same seed on several grounds, and compare lag and the broker's work."""
    from sim.scenario import load_scenario
    from sim.side_by_side import GROUNDS, exit_code, grounds_table, run_on_grounds

    loaded = load_scenario(scenario, settings=settings)
    found = run_on_grounds(loaded, grounds=grounds or GROUNDS, image=image, progress=lambda line: click.echo(line, err=True))
    _print(grounds_table(loaded, found))
    return exit_code(found)


@cli.command()
def image() -> int:
    """Build a local image of the embedded server, for --on container where no registry can be reached."""
    from sim.image import build_image

    one = build_image(say=lambda text: click.echo(text, err=True))
    click.echo(f"{one.name}  {one.size_bytes / 1e6:.1f} MB  {'built' if one.built else 'already there'}, {one.took_s:.1f} s")
    return 0


@cli.command()
@click.option("--out", type=click.Path(path_type=Path), help="The run folder to make. [default: reports/runs/audit/<UTC time>]")
def audit(out: Path | None) -> int:
    """Plant a loss, a duplicate, a swap and a delay in the record of a short run, and demand exactly those in the verdict."""
    from sim.audit import run_audit

    outcome = run_audit(out=out)
    click.echo(outcome.text)
    return 0 if outcome.exact else 2


@cli.command()
@click.argument("service")
@click.option("--port", default=3000, show_default=True, type=click.IntRange(0, 65_535), help="HTTP port; 0 = any free one.")
@click.option("--bind", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen on; 0.0.0.0 in a container.")
def pod(service: str, port: int, bind: str) -> int:
    """Run one real pod of SERVICE until SIGTERM or Ctrl-C.

    Reads REDIS_URL (absent: memory mode), EVENT_BUS_BATCH_SIZE, EVENT_BUS_BATCH_INTERVAL_MS and ADMIN_TOKEN.
    """
    from sim.standalone import run_pod

    run_pod(service, port=port, bind=bind)
    return 0


def _listed(what: str) -> dict[str, str]:
    if what == "grounds":
        from sim.brokers import GROUNDS

        return {name: text for name, (_, text) in GROUNDS.items()}
    if what == "checkers":
        from sim.checkers import CHECKERS

        return {name: _first_line(check.__module__) for name, check in CHECKERS.items()}
    if what == "faults":
        from sim.faults import FAULTS

        return {name: _first_line(fault.__module__) for name, fault in FAULTS.items()}
    if what == "slo":
        from sim.schema import SLO_METRICS

        return SLO_METRICS
    from sim.scenario import built_in, load_scenario

    return {name: load_scenario(name).title for name in built_in()}


def _check_out(path: Path) -> None:
    """Refuse a file that cannot be written before it is measured for, not after."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        there = next(folder for folder in path.absolute().parents if folder.exists())
        TemporaryFile(dir=there).close()
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}; choose another file with --out") from None


def _print(table: RenderableType) -> None:
    """Print a table as wide as the terminal, or as wide as a log where there is none."""
    from rich.console import Console

    console = Console()
    (console if console.is_terminal else Console(width=LOG_WIDTH)).print(table)


def _first_line(module: str) -> str:
    return (sys.modules[module].__doc__ or "").strip().splitlines()[0]


def _judge(folder: Path, *, report: bool, write: bool, only: tuple[str, ...] = ()) -> int:
    """Judge a folder, write what was asked for, print the table and where things lie."""
    from sim.checkers import CHECKERS, judge, write_verdict
    from sim.report import verdict_table, write_report
    from sim.results import open_run

    for name in only:
        if name not in CHECKERS:
            raise UsageError(f"--only {name!r}: no such checker; known: {', '.join(CHECKERS)}")
    opened: Run = open_run(folder)
    verdict: Verdict = judge(opened, only=only or None)
    if write:
        write_verdict(opened, verdict)
    _print(verdict_table(verdict))
    click.echo(f"verdict  {verdict.verdict}")
    click.echo(f"run      {folder}")
    if report:
        click.echo(f"report   {folder / write_report(opened, verdict).name}")
    return verdict.exit_code


def main() -> None:
    """Run a command; errors are one line and an exit code, never a traceback."""
    debug = bool(os.environ.get("BUSLAB_DEBUG"))
    try:
        code = cli(standalone_mode=False)
    except click.exceptions.Exit as end:
        code = end.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("buslab: interrupted", err=True)
        code = 130
    except BuslabError as error:
        if debug:
            raise
        click.echo(f"buslab: {error}", err=True)
        code = error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 2
    except Exception as error:
        if debug:
            raise
        click.echo(f"buslab: unexpected {type(error).__name__}: {error}; set BUSLAB_DEBUG=1 for the traceback and report it", err=True)
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
