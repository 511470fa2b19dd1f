"""Keep the books of programs that are not ours."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.options import out_option, tell
from sim.cli.printing import FiniteRange


@click.command()
@click.option("--listen", default="127.0.0.1:6390", show_default=True, metavar="HOST:PORT", help="Where programs connect; port 0 is any.")
@click.option("--to", required=True, metavar="URL", help="The server, redis://… or rediss://… ; programs log in to it themselves.")
@out_option("The folder to make. [default: reports/taps/<UTC time>]")
@click.option("--id", "pointer", default="", metavar="POINTER", help="Where an event's id stands, as /eventId; without it, by its hash.")
@click.option("--channel-prefix", default="", metavar="TEXT", help="Left out of a channel to have the event's type.")
@click.option("--for", "seconds", type=FiniteRange(0.1, 1e7), metavar="S", help="End after so many seconds. [default: by Ctrl-C]")
@click.option("--tls-cert", type=click.Path(path_type=Path), metavar="FILE", help="Meet programs with TLS and this certificate.")
@click.option("--tls-key", type=click.Path(path_type=Path), metavar="FILE", help="Its key, where the file of the certificate has none.")
@click.option("--expose-server", is_flag=True, help="Allow --listen to be reached from other machines: they reach the server behind it.")
def tap(
    listen: str, to: str, out: Path | None, pointer: str, channel_prefix: str, seconds: float | None, tls_cert: Path | None,
    tls_key: Path | None, expose_server: bool,
) -> int:  # fmt: skip
    """Stand between programs and a Redis server, pass everything on, and record each publish and each message.

    Give the programs the tap's address as their server. Ctrl-C ends it and keeps what it has recorded, marked as interrupted.
    Exit code: 0 when --for is over, 130 by Ctrl-C, 2 an error.
    """
    from sim.run.tapped import parse_listen, run_tap

    where = parse_listen(listen, exposed=expose_server, certificate=tls_cert, key=tls_key)
    folder = run_tap(
        to,
        listen=where,
        out=out,
        pointer=pointer,
        channel_prefix=channel_prefix,
        seconds=seconds,
        tell=tell,
        on_ready=lambda port: tell(f"listening on {where.host}:{port}"),
    )
    click.echo(f"tap      {folder}")
    return 0
