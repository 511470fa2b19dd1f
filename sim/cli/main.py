"""The command `buslab`: its commands in one group, and errors as one line.

Exit codes: 0 valid, 1 invalid, 2 unknown or an error, 130 interrupted (128 + signal).
"""

from __future__ import annotations

import os
import signal
import sys

import click

from sim import __version__
from sim.cli.commands import COMMANDS
from sim.errors import BuslabError
from sim.machine.open_files import raise_open_files, why_no_file
from sim.machine.variables import read_switch


@click.group(commands=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="buslab")
def cli() -> None:
    """Run Aiponge's event bus against a real Redis and account for every copy of every event.

    RUN is a run folder, for example reports/runs/baseline/latest.

    Exit code: 0 the run is valid, 1 it broke a promise or an SLO, 2 unknown or an error, 130 interrupted.
    """


_ended_by: list[int] = []


def _terminate(number: int, _: object) -> None:
    """Take a SIGTERM as a Ctrl-C; runs and pods have handlers of their own, which heal and seal first."""
    _ended_by.append(number)
    raise KeyboardInterrupt


def main() -> None:
    """Run a command; errors are one line and an exit code, never a traceback."""
    raise_open_files()
    debug = read_switch("BUSLAB_DEBUG")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = cli(standalone_mode=False)
    except click.exceptions.Exit as end:
        code = end.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("buslab: interrupted", err=True)
        code = 128 + (_ended_by or [signal.SIGINT])[0]
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
        click.echo(f"buslab: {_in_words(error)}", err=True)
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


def _in_words(error: Exception) -> str:
    if why := why_no_file(error):
        return why
    if isinstance(error, OSError):  # a full disk, a folder in a file's place: the command itself had no better message
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}; free the disk or the place, or choose another folder"
    return f"unexpected {type(error).__name__}: {error}; set BUSLAB_DEBUG=1 for the traceback and report it"


if __name__ == "__main__":
    main()
