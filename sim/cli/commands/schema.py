"""Print the JSON Schema of scenario and bus files."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.options import out_option
from sim.cli.printing import check_out
from sim.errors import UsageError


@click.command()
@click.argument("kind", type=click.Choice(["scenario", "bus"]), default="scenario")
@out_option("The file to write. [default: print it]")
def schema(kind: str, out: Path | None) -> int:
    """Print the JSON Schema (draft 2020-12) of scenario files or of bus files.

    An editor that knows TOML (Taplo, Even Better TOML) uses the file that a line `#:schema ./scenario.schema.json` at the top of a
    scenario names.
    """
    from sim.machine.files import write_whole
    from sim.scenario.json_schema import schema_text

    text = schema_text(kind)
    if out is None:
        click.echo(text, nl=False)
        return 0
    check_out(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, text)
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror or error}; choose another with --out") from None
    click.echo(f"schema   {out}")
    return 0
