"""The line to a child: what both ends say comes across, and whatever goes wrong is one error that names the child and its last words."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from sim.errors import BrokerError, BuslabError, HostError
from sim.machine.import_path import child_environment
from sim.machine.line import CONTROL_FD, LINE_BYTES, AsyncLine, Line, open_line, start_child, start_program

pytestmark = pytest.mark.broker
Run = Callable[[Any], Any]
PATIENCE_S = 60.0  # a child of Python on a busy machine

CHILD = """
import msgspec, os, sys
from sim.machine.line import CONTROL_FD, inherited_line

class Ask(msgspec.Struct, tag="ask"):
    number: int

class Told(msgspec.Struct, tag="told"):
    text: str

line = inherited_line(name="the test")
"""
ECHO = """
for ask in line.messages(Ask):
    line.send(Told(f"{sys.argv[1:]} {ask.number} {CONTROL_FD in os.environ}"))
"""
ECHO_ON_A_LOOP = """
import asyncio
async def main():
    to_test = await line.to_async()
    async for ask in to_test.messages(Ask):
        to_test.send(Told(f"{sys.argv[1:]} {ask.number} {CONTROL_FD in os.environ}"))
    await to_test.finish()
asyncio.run(main())
"""
SILENT = "print('hm'); sys.stdout.flush(); [None for _ in line.messages(Ask)]"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
DIES = "line.close(); raise ValueError('the dog ate it')"
GARBAGE = "line.socket.sendall(b'hello?\\n'); line.receive(Ask, timeout_s=None)"
ANOTHER = "line.send(Ask(1)); line.receive(Ask, timeout_s=None)"
ENDLESS = "import contextlib\nwith contextlib.suppress(OSError):\n    while True: line.socket.sendall(b'x' * 1_000_000)"
HALF = 'line.socket.sendall(b\'{"type":"told",\'); os._exit(3)'


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    number: int


class Told(msgspec.Struct, frozen=True, tag="told"):
    text: str


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Start a child that runs a script after `CHILD`; it lies in the working directory, which a child finds last."""
    monkeypatch.chdir(tmp_path)
    started: list[Line] = []

    def start(script: str, *args: object, error: type[BuslabError] = BuslabError) -> Line:
        (tmp_path / "written_by_the_user.py").write_text(CHILD + script)
        started.append(start_child("written_by_the_user", *args, name="the child", log=tmp_path / "log", error=error))
        return started[-1]

    yield start
    for line in started:
        line.close()
        line.child.kill()


@pytest.mark.parametrize("script", [ECHO, ECHO_ON_A_LOOP], ids=["a child that waits", "a child on a loop"])
def test_both_sides_hear_what_the_other_said_and_the_line_s_end(start: Any, script: str) -> None:
    line = start(script, "a word", 7)
    for number in (1, 2):
        line.send(Ask(number))
    heard = [line.receive(Told, timeout_s=PATIENCE_S) for _ in range(2)]
    assert heard == [Told(f"['a word', '7'] {number} False") for number in (1, 2)], "its own children would not find our line"
    line.close()
    assert line.child.process.wait(PATIENCE_S) == 0
    assert line.child.tail() == "it printed nothing"


@pytest.mark.parametrize("script", [ECHO, ECHO_ON_A_LOOP], ids=["a child that waits", "a child on a loop"])
def test_a_loop_hears_the_same(start: Any, run_async: Run, script: str) -> None:
    async def scene() -> tuple[list[Told], list[Told]]:
        line = await start(script).to_async()
        line.send(Ask(1))
        first = [await line.receive(Told, timeout_s=PATIENCE_S)]
        line.send(Ask(2))
        line.end_sending()
        rest = [told async for told in line.messages(Told)]
        assert line.child.process.wait(PATIENCE_S) == 0
        line.close()
        return first, rest

    first, rest = run_async(scene())
    assert (first, rest) == ([Told("[] 1 False")], [Told("[] 2 False")])


def test_one_of_several_kinds_is_told_apart(start: Any) -> None:
    line = start("line.send(Told('x')); line.send(Ask(3)); line.receive(Ask, timeout_s=None)")
    assert [line.receive(Ask | Told, timeout_s=PATIENCE_S) for _ in range(2)] == [Told("x"), Ask(3)]


FAILURES = [
    (DIES, r"^the child is gone: .*ValueError: the dog ate it \(exit code 1\)$"),
    ("os._exit(3)", r"^the child is gone: it printed nothing \(exit code 3\)$"),
    (HALF, r"^the child is gone: it printed nothing \(exit code 3\)$"),
    (GARBAGE, r"^the child sent what is not expected of it: b'hello\?': "),
    (ANOTHER, r"^the child sent what is not expected of it: b'{\"type\":\"ask\",\"number\":1}': "),
    (ENDLESS, rf"^the child sent a line of more than {LINE_BYTES:,} bytes: "),
]
NAMES = ["dies of an error", "ends", "ends within a message", "sends garbage", "sends another message", "sends without end"]


@pytest.mark.parametrize("kind", [BrokerError, HostError], ids=["of brokers", "of hosts"])
@pytest.mark.parametrize(("script", "says"), FAILURES, ids=NAMES)
def test_what_a_child_does_wrong_is_an_error_of_the_line_s_class(start: Any, script: str, says: str, kind: type[BuslabError]) -> None:
    with pytest.raises(kind, match=says) as failed:
        start(script, error=kind).receive(Told, timeout_s=PATIENCE_S)
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize(("script", "says"), FAILURES, ids=NAMES)
def test_a_loop_hears_the_same_errors(start: Any, run_async: Run, script: str, says: str) -> None:
    async def receive(line: AsyncLine) -> None:
        try:
            await line.receive(Told, timeout_s=PATIENCE_S)
        finally:
            line.close()

    async def listen(line: AsyncLine) -> None:
        try:
            async for _ in line.messages(Told):
                pass
            raise await line.gone()
        finally:
            line.close()

    for hear in (receive, listen):
        with pytest.raises(HostError, match=says):
            run_async(_on_a_line(start(script, error=HostError), hear))


async def _on_a_line(line: Line, hear: Callable[[AsyncLine], Any]) -> None:
    await hear(await line.to_async())


def test_a_child_that_says_nothing_is_waited_for_so_long_and_no_longer(start: Any, run_async: Run) -> None:
    line = start(SILENT)
    while "hm" not in line.child.tail():
        assert line.child.poll() is None
    began_s = time.monotonic()
    with pytest.raises(BuslabError, match=r"^the child did not answer within 300 ms: hm$"):
        line.receive(Told, timeout_s=0.3)
    assert 0.3 <= time.monotonic() - began_s < PATIENCE_S / 2

    async def scene() -> None:
        to_child = await line.to_async()
        with pytest.raises(BuslabError, match=r"^the child did not answer within 200 ms: hm$"):
            await to_child.receive(Told, timeout_s=0.2)
        to_child.close()

    run_async(scene())


def test_a_bound_is_of_the_whole_message_and_not_of_each_piece() -> None:
    line, theirs = open_line(name="who drips")
    pieces = iter(b'{"type":"told","text":"' + b"x" * 10_000)

    class Drips:
        def settimeout(self, timeout_s: float) -> None:
            assert timeout_s > 0

        def recv(self, size: int) -> bytes:
            time.sleep(0.01)
            return bytes([next(pieces)])

    theirs.close()
    line.close()
    line.socket = Drips()  # type: ignore[assignment]
    with pytest.raises(BuslabError, match=r"^who drips did not answer within 200 ms$"):
        line.receive(Told, timeout_s=0.2)


def test_who_was_not_started_by_us_has_no_log() -> None:
    line, theirs = open_line(name="the Locust that started this run", error=HostError)
    theirs.close()
    with pytest.raises(HostError, match=r"^the Locust that started this run is gone$"):
        line.receive(Told, timeout_s=1.0)
    line.send(Ask(1))  # nobody reads it, and that is no error
    line.close()


def test_an_order_that_a_child_does_not_understand_is_not_written_into_its_log(start: Any) -> None:
    """It may hold the broker's password."""
    line = start("line.receive(Ask, timeout_s=None)")
    line.send(Told("redis://:hunter2@127.0.0.1"))
    with pytest.raises(BuslabError, match=r"the child is gone: .*the test sent what is not expected of it \(exit code 1\)$"):
        line.receive(Told, timeout_s=PATIENCE_S)
    assert "hunter2" not in line.child.log.read_text()


def test_sending_to_a_child_that_is_gone_is_told_by_the_next_receive(start: Any) -> None:
    line = start("os._exit(0)")
    line.child.process.wait(PATIENCE_S)
    for _ in range(3):
        line.send(Ask(1))
    with pytest.raises(BuslabError, match="the child is gone"):
        line.receive(Told, timeout_s=PATIENCE_S)


def test_a_program_of_another_language_finds_the_line_as_well(tmp_path: Path) -> None:
    script = f'eval "exec 3>&${CONTROL_FD}"; printf \'{{"type":"told","text":"sh"}}\\n\' >&3'
    line = start_program(["bash", "-c", script], name="a shell", log=tmp_path / "log")
    assert line.receive(Told, timeout_s=PATIENCE_S) == Told("sh")
    line.close()
    assert line.child.process.wait(PATIENCE_S) == 0


def test_a_program_that_cannot_be_started_leaves_no_socket_open(tmp_path: Path) -> None:
    before = psutil.Process().num_fds()
    with pytest.raises(FileNotFoundError):
        start_program([str(tmp_path / "nothing")], name="nothing", log=tmp_path / "log")
    assert psutil.Process().num_fds() == before


@pytest.mark.parametrize("script", [ECHO, DEAF], ids=["that waits for its orders", "that hears neither the line nor SIGTERM"])
def test_a_child_ends_with_its_parent(tmp_path: Path, script: str) -> None:
    (tmp_path / "written_by_the_user.py").write_text(CHILD + script)
    parent = (
        "import sys, time; from pathlib import Path; from sim.machine.line import start_child\n"
        "line = start_child('written_by_the_user', name='the child', log=Path('log'))\n"
        "print(line.child.pid, flush=True); time.sleep(600)"
    )
    argv = [sys.executable, "-c", parent]
    with subprocess.Popen(argv, cwd=tmp_path, env=child_environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE_S)
        assert psutil.wait_procs([child], timeout=PATIENCE_S)[1] == []


def test_a_parent_that_is_interrupted_before_its_loop_has_the_line_leaves_no_child(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(**more: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "open_connection", interrupted)
    line = start(ECHO)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(line.to_async())
    assert line.child.poll() == -signal.SIGKILL
