"""`buslab capture`: what it prints, what it refuses, and its exit codes."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from click.exceptions import BadParameter

from sim.cli.commands.capture import TimeSpan
from sim.wire.address import Address
from tests.support.captures import written
from tests.support.cli import buslab


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5h", 5400), ("10m", 600), ("2min", 120), ("250ms", 0.25), (" 3 s ", 3)]
)
def test_a_time_has_a_unit_or_is_seconds(text: str, seconds: float) -> None:
    assert TimeSpan().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1e3", "10d", "10 minutes", "nan", "inf", "1m30s", "\u0661s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(BadParameter, match=r"write 90s, 10m or 1\.5h"):
        TimeSpan().convert(text, None, None)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "what is to be captured? Give the server's URL"),
        (("--describe",), "what is to be captured? Give the server's URL"),
        (("nowhere", "--describe"), "there is no capture nowhere"),
        (("embedded", "--pattern", "a*"), "'embedded' is not a broker's URL"),
        (("redis://127.0.0.1:1",), "give --pattern"),
        (("redis://127.0.0.1:1", "--pattern", "a*", "--payloads"), "each by its whole name"),
        (("redis://127.0.0.1:1", "--pattern", "a*", "--payloads", "--for", "1s"), "each by its whole name"),
        (("redis://127.0.0.1:1", "--pattern", "a*", "--for", "1s"), "redis://127.0.0.1:1 is not reachable"),
        (("redis://u:hunter2@127.0.0.1:1", "--pattern", "a*", "--for", "1s"), "redis://127.0.0.1:1 is not reachable"),
        (("redis://127.0.0.1:1", "--pattern", "a*", "--services", "no.yaml"), "no.yaml"),
        (("redis://127.0.0.1:1", "--pattern", "a*", "--for", "25h"), "24 h at most"),
    ],
)
def test_what_it_refuses_is_one_line_and_exit_code_2(tmp_path: Path, args: tuple[str, ...], says: str) -> None:
    done = buslab("capture", *args, cwd=tmp_path, env={name: one for name, one in os.environ.items() if name != "BUSLAB_ON"})
    assert done.returncode == 2 and says in done.stderr and "hunter2" not in done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@contextmanager
def publishing(address: Address) -> Iterator[None]:
    """Publish until the block ends."""
    over = threading.Event()

    def publish() -> None:
        with redis.Redis.from_url(address.url) as client:
            while not over.wait(0.005):
                client.publish("shop:created", b"a secret")
                client.publish("shop:paid", b"another secret")

    publisher = threading.Thread(target=publish)
    publisher.start()
    try:
        yield
    finally:
        over.set()
        publisher.join()


@pytest.mark.broker
def test_it_captures_describes_and_writes_scenarios_that_run(address: Address, tmp_path: Path) -> None:
    with publishing(address):
        args = ("--pattern", "shop:*", "--for", "1s", "--out", "c", "--describe")
        done = buslab("capture", *args, cwd=tmp_path, env=os.environ | {"BUSLAB_ON": address.url})
    assert done.returncode == 0, done.stderr
    assert re.search(r"^capture  c/capture.parquet: [\d,]+ events in 1 s$", done.stdout, re.M)
    assert re.search(
        r"^server   it used .* % of a core meanwhile and had at most [\d,]+ bytes? waiting for the capture$", done.stdout, re.M
    )
    assert re.search(r"│ shop:paid +│ captured │", done.stdout)
    assert {file.name for file in (tmp_path / "c").iterdir()} == {"capture.parquet", "replay.toml", "synthetic.toml"}
    assert not any(b"secret" in file.read_bytes() for file in (tmp_path / "c").iterdir())
    for name, settings in (("replay", ("--set", "load.speed=10")), ("synthetic", ())):
        ran = buslab("run", f"c/{name}.toml", "--on", "model", "--out", name, "--no-report", *settings, cwd=tmp_path)
        assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.broker
def test_a_capture_goes_where_reports_go_and_the_latest_can_be_described(address: Address, tmp_path: Path) -> None:
    environment = os.environ | {"BUSLAB_REPORTS": str(tmp_path / "reports")}
    with publishing(address):
        done = buslab("capture", address.url, "--channel", "shop:paid", "--for", "300ms", "--payloads", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    latest = tmp_path / "reports" / "captures" / "latest"
    assert b"another secret" in (latest / "capture.parquet").read_bytes() and b"a secret" not in (latest / "capture.parquet").read_bytes()
    described = buslab("capture", latest, "--describe", cwd=tmp_path)
    assert described.returncode == 0 and re.search(r"│ shop:paid +│ captured │ .* │ +9\d.* % │", described.stdout), described.stdout


def test_describing_a_bare_file_writes_the_fitted_scenario_beside_it(tmp_path: Path) -> None:
    events = [(n * 1_000_000, "shop:a", b"x" * 500) for n in range(4000)] + [(4_000_000_000, "shop:b", b"x" * 500)] * 400
    path = written(tmp_path, events, seconds=4.1)
    done = buslab("capture", "--describe", path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "events of shop:b come in bursts that the fitted load does not have" in done.stdout
    assert (tmp_path / "synthetic.toml").exists()
    path.write_bytes(path.read_bytes()[:-9])
    cut = buslab("capture", "--describe", path, cwd=tmp_path)
    assert cut.returncode == 2 and cut.stdout == "" and "was cut or damaged" in cut.stderr and len(cut.stderr.splitlines()) == 1
