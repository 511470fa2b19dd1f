"""Capture what passes on a server's channels, and describe it."""

from __future__ import annotations

import re
from pathlib import Path

import click

from sim.cli.options import out_option, tell
from sim.cli.printing import FiniteRange, print_table
from sim.errors import UsageError

UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
ALL = "*"


class TimeSpan(click.ParamType[float]):
    """A time with its unit, such as 10m; a bare number is seconds."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds, or refuse the text."""
        found = re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([a-z]*)\s*", str(value), re.ASCII)
        if found is None or (found[2] or "s") not in UNITS_S:
            self.fail(f"{value!r} is no time: write 90s, 10m or 1.5h", param, ctx)
        return float(found[1]) * UNITS_S[found[2] or "s"]


@click.command()
@click.argument("source", metavar="[URL]", required=False, envvar="BUSLAB_ON")
@click.option("--pattern", default="", metavar="PATTERN", help="Hear every channel that matches, by one PSUBSCRIBE.")
@click.option("--channel", "channels", multiple=True, metavar="NAME", help="Hear this channel, by its whole name; may be repeated.")
@click.option("--sharded", is_flag=True, help="The channels are those of sharded Pub/Sub (SSUBSCRIBE).")
@click.option("--for", "for_s", type=TimeSpan(), default="1m", show_default=True, help="How long, as 30s, 10m or 2h.")
@click.option(
    "--services", type=click.Path(path_type=Path), multiple=True, metavar="FILE",
    help="Who publishes and hears: a bus file, or AsyncAPI documents (may be repeated). [default: one publisher a channel]",
)  # fmt: skip
@click.option(
    "--payloads", is_flag=False, flag_value=ALL, multiple=True, metavar="[NAME]",
    help="Keep payloads of this channel, by its whole name (may be repeated), or of each --channel; of others a hash is kept.",
)  # fmt: skip
@click.option("--max-events", default=5_000_000, show_default=True, type=click.IntRange(1, 20_000_000), help="End after so many.")
@click.option("--max-mb", default=1000.0, show_default=True, type=FiniteRange(0, 1 << 20, min_open=True), help="Of payloads that are kept.")
@click.option("--buffer-mb", default=1.0, show_default=True, type=FiniteRange(0, 1024), help="End when more waits in the server for us.")
@out_option("The folder to make. [default: reports/captures/<UTC time>]")
@click.option("--describe", is_flag=True, help="Print rates, sizes and bursts; with the folder of a capture in place of URL, of that one.")
def capture(
    source: str | None, pattern: str, channels: tuple[str, ...], sharded: bool, for_s: float, services: tuple[Path, ...],
    payloads: tuple[str, ...], max_events: int, max_mb: float, buffer_mb: float, out: Path | None, describe: bool,
) -> int:  # fmt: skip
    """Capture what passes on channels of the server at URL, as one subscriber more, and write scenarios that play it.

    In the folder: capture.parquet, replay.toml (it plays the capture) and synthetic.toml (a load fitted to it). URL may come from the
    variable BUSLAB_ON, where a password is safer. Exit code: 0; 2 it ended early, or an error; 130 interrupted. What was heard is kept.
    """
    if not source:
        raise UsageError("what is to be captured? Give the server's URL, as redis://HOST:PORT, or --describe and the folder of a capture")
    if describe and not re.match(r"\w+://", source):
        return _describe(Path(source))
    from sim.measure.traffic.capture import AS_MEANT, capture_traffic, wanted_of
    from sim.measure.traffic.scenarios import write_scenarios
    from sim.measure.traffic.services import services_of
    from sim.record.capture_file import read_capture

    wanted = wanted_of(
        pattern=pattern, channels=channels, sharded=sharded, for_s=for_s, payloads=payloads, max_events=max_events, max_mb=max_mb,
        buffer_mb=buffer_mb,
    )  # fmt: skip
    told = services_of(services)
    made = capture_traffic(source, wanted, out=out, tell=tell)
    _print_made(made)
    written = write_scenarios(made.folder, read_capture(made.file), told=told)
    for note in written.notes:
        tell(f"note: {note}")
    click.echo(f"replay   {written.replay}")
    click.echo(f"fitted   {written.synthetic}: {written.fitted.told}")
    if describe:
        _describe(made.folder)
    if made.signal_number is not None:
        return 128 + made.signal_number
    return 0 if made.info.ended in AS_MEANT else 2


def _print_made(made: object) -> None:
    from sim.machine.words import amount, count, duration
    from sim.measure.traffic.capture import Captured

    assert isinstance(made, Captured)
    info = made.info
    click.echo(f"capture  {made.file}: {count(info.events, 'event')} in {duration(info.seconds)}")
    if info.reason:
        tell(f"ended early: {info.reason}")
    cpu = "" if info.cpu_share is None else f"used {amount(100 * info.cpu_share)} % of a core meanwhile"
    buffer = "" if info.buffer_bytes_max is None else f"had at most {count(info.buffer_bytes_max, 'byte')} waiting for the capture"
    if cpu or buffer:
        click.echo(f"server   it {' and '.join(filter(None, (cpu, buffer)))}")


def _describe(named: Path) -> int:
    from sim.measure.traffic.describe import describe_capture
    from sim.measure.traffic.scenarios import SYNTHETIC_FILE, describe_fitted, write_scenarios
    from sim.measure.traffic.table import traffic_in_short, traffic_table
    from sim.record.capture_file import capture_path, read_capture
    from sim.scenario.file import load_scenario

    file = capture_path(named)
    captured = read_capture(file)
    synthetic = file.parent / SYNTHETIC_FILE
    if not synthetic.exists():
        synthetic = write_scenarios(file.parent, captured, told={}).synthetic
    channels, fitted = describe_capture(captured), describe_fitted(load_scenario(str(synthetic)))
    print_table(traffic_table(channels, fitted))
    for sentence in traffic_in_short(captured, channels, fitted):
        click.echo(sentence)
    click.echo(f"fitted   {synthetic}")
    return 0
