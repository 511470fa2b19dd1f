"""Predict when a stalled subscriber is cut, and measure it."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.options import tell
from sim.cli.printing import FiniteRange, print_table

SERVERS = ("valkey", "redis")


@click.command()
@click.option("--rate", type=FiniteRange(0), metavar="N", help="Copies a second for that subscriber.")
@click.option("--bytes", "size", type=click.IntRange(0, 1 << 29), metavar="N", help="Bytes of each envelope.")
@click.option("--channel", default="aiponge:events:config.cache.invalidate", show_default=True, help="Whole name of the channel.")
@click.option("--reads", default=0.0, type=FiniteRange(0), metavar="N", help="Bytes a second that it still reads.  [default: 0]")
@click.option("--hard-mb", default=32.0, show_default=True, type=FiniteRange(0, 1 << 20), help="Hard limit; 0 = none.")
@click.option("--soft-mb", default=8.0, show_default=True, type=FiniteRange(0, 1 << 20), help="Soft limit; 0 = none.")
@click.option("--soft-s", default=60, show_default=True, type=click.IntRange(0, 86_400), help="For so many seconds.")
@click.option(
    "--server", default="valkey", show_default=True, type=click.Choice(SERVERS), help="How it counts; with --verify, whose program."
)
@click.option("--costs", type=click.Path(path_type=Path), help="Take what sockets hold from this file of `buslab calibrate`.")
@click.option("--verify", is_flag=True, help="Measure a dozen cases on a server of our own, in 20 s; with --rate and --bytes, that case.")
def cut(
    rate: float | None, size: int | None, channel: str, reads: float, hard_mb: float, soft_mb: float, soft_s: int,
    server: str, costs: Path | None, verify: bool,
) -> int:  # fmt: skip
    """Predict when the output buffer cuts a subscriber that stands still.

    A MB is 1,048,576 bytes, as in redis.conf; the defaults of the limits are a server's. Exit code: 0; 1 when what was measured is not
    what was predicted; 2 an error.
    """
    from sim.errors import UsageError
    from sim.grounds.model.costs import MIB, WINDOW_BYTES, OutputBufferLimit, read_costs
    from sim.measure.buffers.predict import RULES, Stall, predict_cut, say

    window = WINDOW_BYTES if costs is None else read_costs(costs).window_bytes
    if (rate is None) != (size is None) or (rate is None and not verify):
        raise UsageError("give --rate and --bytes: how many copies come each second, and how long they are; or --verify alone")
    case = None
    if rate is not None and size is not None:
        stall = Stall(rate, size, len(channel.encode()), reads_bytes_per_s=reads)
        case = stall, OutputBufferLimit(round(hard_mb * MIB), round(soft_mb * MIB), soft_s)
        click.echo(say(predict_cut(stall, limit=case[1], rules=RULES[server], window_bytes=window), stall, rules=RULES[server]))
    if not verify:
        return 0
    from sim.measure.buffers.run import CASES, Case, program_of, verify_cuts, verify_table

    cases = CASES if case is None else (Case(*case),)
    verified = verify_cuts(cases, binary=program_of(server), tell=tell)
    print_table(verify_table(verified))
    return 0 if verified.as_predicted else 1
