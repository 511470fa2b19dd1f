"""Child processes: their words are kept, their end is certain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from sim.machine.process import TAIL_LINES, Child

pytestmark = pytest.mark.broker
DEAF = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"


def child(folder: Path, script: str, **more: object) -> Child:
    return Child([sys.executable, "-c", script], log=folder / "log", **more)  # type: ignore[arg-type]


def wait_for(one: Child, text: str) -> None:
    """Wait until it printed something, or ended."""
    while text not in one.tail() and one.poll() is None:
        pass


@pytest.mark.parametrize(("script", "tail"), [("print('one'); print('two')", "one | two"), ("", "it printed nothing")])
def test_the_tail_is_its_last_lines_as_one(tmp_path: Path, script: str, tail: str) -> None:
    one = child(tmp_path, script)
    one.process.wait(60)
    assert one.tail() == tail


def test_the_tail_is_bounded_and_survives_bytes_that_are_no_text(tmp_path: Path) -> None:
    one = child(tmp_path, "import os; os.write(2, b'\\xff\\n' + b'line\\n' * 100)")
    one.process.wait(60)
    assert one.tail().count("line") == TAIL_LINES
    one.log.unlink()
    assert one.tail() == "its log is gone"


@pytest.mark.parametrize(
    ("script", "patience_s", "code"),
    [("import time; print('ready', flush=True); time.sleep(600)", 60, -signal.SIGTERM), (DEAF, 0.1, -signal.SIGKILL)],
)
def test_an_end_is_asked_for_and_then_made(tmp_path: Path, script: str, patience_s: float, code: int) -> None:
    one = child(tmp_path, script)
    wait_for(one, "ready")
    assert one.end(timeout_s=patience_s) == code
    assert one.end() == one.poll() == code
    one.kill()


def test_killing_twice_is_no_error(tmp_path: Path) -> None:
    one = child(tmp_path, DEAF)
    one.kill()
    one.kill()
    assert one.poll() == -signal.SIGKILL


def test_a_terminal_s_ctrl_c_does_not_reach_it(tmp_path: Path) -> None:
    one = child(tmp_path, DEAF)
    assert os.getpgid(one.pid) == one.pid != os.getpgrp()
    one.kill()


def test_it_gets_its_environment_and_descriptors_and_no_others(tmp_path: Path) -> None:
    read, write = os.pipe()
    other, another = os.pipe()
    script = f"import os; os.write({write}, os.environ['WORD'].encode()); os.fstat({other})"
    one = child(tmp_path, script, env=os.environ | {"WORD": "hello"}, pass_fds=[write])
    os.close(write)
    assert os.read(read, 10) == b"hello"
    one.process.wait(60)
    assert "Bad file descriptor" in one.tail()
    for fd in (read, other, another):
        os.close(fd)


def test_it_dies_when_its_parent_is_killed(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    script = f"""
import sys
from pathlib import Path
from sim.machine.process import Child
print(Child([sys.executable, "-c", {DEAF!r}], log=Path({log!r})).pid, flush=True)
input()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        grandchild = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        assert psutil.wait_procs([grandchild], timeout=60)[1] == []
