"""Signals that end a process: the first asks, the second ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from sim.machine.signals import asked_to_end, interruptible, signals_wait

pytestmark = pytest.mark.broker


def test_whoever_blocks_can_ask_whether_a_signal_came() -> None:
    assert asked_to_end() is None
    with interruptible(lambda number: None):
        assert asked_to_end() is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked_to_end() == signal.SIGTERM
    assert asked_to_end() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_and_the_handlers_are_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    asked: list[int] = []
    with interruptible(asked.append):
        os.kill(os.getpid(), number)
    assert asked == [number]
    assert signal.getsignal(number) is before


def test_the_second_signal_ends_the_process_at_once() -> None:
    script = """
import os, signal
from sim.machine.signals import interruptible
with interruptible(print):
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
    print("still here")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 128 + signal.SIGTERM
    assert "still here" not in done.stdout


def test_a_signal_waits_for_the_end_of_the_block_and_goes_to_the_handler_that_was_there() -> None:
    passed = False
    with pytest.raises(KeyboardInterrupt), signals_wait():
        signal.raise_signal(signal.SIGINT)
        passed = True
    assert passed
    asked: list[int] = []
    with interruptible(asked.append):
        with signals_wait():
            signal.raise_signal(signal.SIGTERM)
            assert asked == []
        assert asked == [signal.SIGTERM] == [asked_to_end()]
