"""The echo of a clock: an offset and a drift that the code is not told are recovered within the bound that it states."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from sim.machine.clock import clock_identity
from sim.machine.clock_line import ClockLine, fastest, fit_line, line_of
from sim.machine.echo import MOST, Echo, EchoClient
from tests.support.time_namespaces import ahead_by

SECOND = 1_000_000_000
ROOT = Path(__file__).parents[2]
CHILD = """
import sys, time
from sim.machine.clock import clock_identity
from sim.machine.echo import Echo
begin, ppm = time.monotonic_ns(), float(sys.argv[1])
echo = Echo.open(now=lambda: time.monotonic_ns() + int((time.monotonic_ns() - begin) * ppm / 1e6))
print(echo.port, echo.token, begin, clock_identity(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child() -> Iterator[Callable[..., list[str]]]:
    """Start a process that answers for its clock; give what it says of itself."""
    started: list[subprocess.Popen[str]] = []

    def start(*prefix: str, ppm: float = 0.0) -> list[str]:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-c", CHILD, str(ppm)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        started.append(process)
        assert process.stdout is not None
        return process.stdout.readline().split(maxsplit=3)

    yield start
    for process in started:
        process.communicate("", timeout=20)


def compared(port: str, token: str, *, bursts: int) -> ClockLine:
    client = EchoClient("127.0.0.1", int(port), token=token, timeout_s=10.0)
    points = []
    for _ in range(bursts):
        points.append(fastest(client.trip() for _ in range(100)))
        time.sleep(0.1)
    client.close()
    return line_of(fit_line(points))


@pytest.mark.parametrize("seconds", [12_345, -1_000])
def test_the_offset_of_a_time_namespace_is_recovered_within_the_bound(child: Callable[..., list[str]], seconds: int) -> None:
    if seconds < 0 and time.monotonic() < 1_000 - seconds:
        seconds = -1  # a machine that started just now: a clock may not go below zero
    port, token, _, identity = child(*ahead_by(seconds))
    assert identity.strip() != clock_identity()
    line = compared(port, token, bursts=3)
    for knot in line.knots:
        assert abs(knot.offset_ns - seconds * SECOND) <= knot.bound_ns < 10_000_000
    now = time.monotonic_ns()
    assert abs(line.to_theirs(now) - now - seconds * SECOND) <= line.bound_ns + 1_000_000


def test_a_child_of_this_machine_reads_this_clock(child: Callable[..., list[str]]) -> None:
    port, token, _, identity = child()
    assert identity.strip() == clock_identity()
    line = compared(port, token, bursts=2)
    assert all(abs(knot.offset_ns) <= knot.bound_ns for knot in line.knots)


@pytest.mark.parametrize("ppm", [50.0, -180.0])
def test_a_clock_that_is_read_fast_is_recovered(child: Callable[..., list[str]], ppm: float) -> None:
    """Its true time at any moment is known here, as both read the same clock."""
    port, token, begin, _ = child(ppm=ppm)
    line = compared(port, token, bursts=8)
    for knot in line.knots:
        true_ns = int(begin) + (knot.at_ns - int(begin)) / (1 + ppm / 1e6)
        assert abs(int(line.to_ours(np.array([knot.at_ns]))[0]) - true_ns) <= knot.bound_ns
    span_ns = line.knots[-1].at_ns - line.knots[0].at_ns
    found = (line.knots[-1].offset_ns - line.knots[0].offset_ns) / span_ns * 1e6
    assert abs(found - ppm) <= 2 * line.bound_ns / span_ns * 1e6 + 0.1


def test_who_has_another_token_or_none_is_told_nothing() -> None:
    echo = Echo.open()
    try:
        with pytest.raises(OSError, match=r"closed|reset"):
            EchoClient(echo.address, echo.port, token="00" * 16, timeout_s=5.0)
        with socket.create_connection((echo.address, echo.port), timeout=5.0) as stranger:
            stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert stranger.recv(100) == b""
        EchoClient(echo.address, echo.port, token=echo.token, timeout_s=5.0).close()
    finally:
        echo.close()
    with pytest.raises(OSError, match=r"refused"):
        EchoClient(echo.address, echo.port, token=echo.token, timeout_s=5.0)


def test_strangers_that_stay_do_not_keep_the_run_out_for_ever() -> None:
    """They are let go when they have said nothing for a while."""
    echo = Echo.open()
    strangers = [socket.create_connection((echo.address, echo.port)) for _ in range(MOST)]
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                EchoClient(echo.address, echo.port, token=echo.token, timeout_s=5.0).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
    finally:
        for stranger in strangers:
            stranger.close()
        echo.close()
