"""Re-run claims about the bus."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.options import jobs_option, on_option, out_option, report_option, tell
from sim.cli.printing import check_out, print_table

EXPLAINED = 5  # with at most so many claims, each is explained in words


@click.command()
@click.argument("numbers", nargs=-1, metavar="[N]...")
@on_option(help="Another ground than each claim's own, where it can run there.", default="", variable=False)
@out_option("The folder to make. [default: reports/runs/claims/<UTC time>]")
@jobs_option("Runs on the model at a time.", default=2)
@report_option("Also write the page in Markdown, as reports/claims.md is.")
def claims(numbers: tuple[str, ...], on: str, out: Path | None, jobs: int, report: Path | None) -> int:
    """Re-run the experiment of each claim N, or of all, and tell whether it is true, false, or on what it depends.

    The claims are of the reference's text, and run its services: `buslab matrix --scenario` breaks a bus of your own.

    Exit code: 0 every verdict is what theory expects, 1 one is not, 2 one is unknown or an error, 130 interrupted.
    """
    from sim.experiments.claims.run import run_claims
    from sim.experiments.claims.table import claims_table, explained, write_page

    if report is not None:
        report = report.resolve() if report.is_symlink() else report
        check_out(report, "--report")
    answers = run_claims(numbers, on=on, out=out, jobs=jobs, tell=tell)
    print_table(claims_table(answers))
    for answer in answers.answers:
        if len(answers.answers) <= EXPLAINED or not answer.as_expected:
            click.echo(explained(answer))
    for number, why in answers.left_out.items():
        click.echo(f"left out claim {number}: it {why}")
    click.echo(f"claims   {answers.folder / 'claims.json'}")
    if report is not None:
        write_page(answers, report)
        click.echo(f"page     {report}")
    return answers.exit_code
