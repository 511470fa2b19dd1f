"""The command `buslab`: its commands in one group, and errors as one line.

Exit codes: 0 valid, 1 invalid and nothing else, 2 unknown or an error of any kind, 130 interrupted (128 + signal). Who reads the output may
go, and the command goes on (`sim.machine.standard_streams`).
"""

from __future__ import annotations

import signal
import sys
import traceback
from typing import Any

import click

from sim import __version__
from sim.cli.commands import COMMANDS
from sim.errors import BuslabError
from sim.machine.open_files import raise_open_files, why_no_file
from sim.machine.signals import endings_heard, signal_of
from sim.machine.standard_streams import take_over_streams
from sim.machine.variables import read_switch
from sim.wire.shown import without_secrets


class _Commands(click.Group):
    """Commands whose broken pipes are told: click takes each for that of its own output, and exits with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise BuslabError(f"who read what was written has gone: {error}; set BUSLAB_DEBUG=1 for the traceback and report it") from error


@click.group(cls=_Commands, commands=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="buslab")
def cli() -> None:
    """Run an event bus on Redis Pub/Sub, and account for every copy of every event.

    RUN is a run folder, for example reports/runs/baseline/latest.

    Exit code: 0 the run is valid, 1 it broke a promise or an SLO, 2 unknown or an error, 130 interrupted.
    """


def _terminate(number: int, _: object) -> None:
    """Take a SIGTERM or SIGHUP as a Ctrl-C; runs and pods have handlers of their own, which heal and seal first."""
    if number == signal.SIGHUP:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it may come again
    raise KeyboardInterrupt(number)


def main() -> None:
    """Run a command; errors are one line and an exit code, never a traceback."""
    raise_open_files()
    streams = take_over_streams()
    for number in endings_heard():
        if number != signal.SIGINT:
            signal.signal(number, _terminate)
    sys.exit(streams.finish(_carry_out()))


def _carry_out() -> int:
    """Run a command and return its exit code: 1 only where the command itself says that something is invalid."""
    debug = read_switch("BUSLAB_DEBUG")
    try:
        code = cli(standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort) as error:
        click.echo("buslab: interrupted", err=True)
        cause = error if isinstance(error, KeyboardInterrupt) else error.__cause__  # click makes an Abort of what a command raised
        return 128 + (signal_of(cause) if isinstance(cause, KeyboardInterrupt) else signal.SIGINT)
    except BuslabError as error:
        if debug:
            click.echo(without_secrets(traceback.format_exc()), err=True)
        click.echo(f"buslab: {without_secrets(str(error))}", err=True)
        return error.exit_code
    except (Exception, SystemExit) as error:  # SystemExit: some library thought that the process was its own
        if debug:
            click.echo(without_secrets(traceback.format_exc()), err=True)
        click.echo(f"buslab: {without_secrets(_in_words(error))}", err=True)
        return 2


def _in_words(error: BaseException) -> str:
    if why := why_no_file(error):
        return why
    if isinstance(error, OSError):  # a full disk, a folder in a file's place: the command itself had no better message
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}; free the disk or the place, or choose another folder"
    return f"unexpected {type(error).__name__}: {error}; set BUSLAB_DEBUG=1 for the traceback and report it"


if __name__ == "__main__":
    main()
