"""1 means an invalid run and nothing else, whatever happens to the output, the terminal or Python: else the verdict's own code, or 2."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sim.cli.main import cli
from sim.record.run_info import read_info

BOUND_S = 200.0
MODEL = ("run", "baseline", "--on", "model", "--set", "load.run_s=2", "--no-report")
INVALID = ("--set", "slo.missing=0", "--set", "slo.lag_ms_p50=0.0001")
REAL = ("run", "baseline", "--set", "load.driver=pods", "--set", "load.warm_up_s=0.2", "--set", "slo={}", "--no-report")
FULL = Path("/dev/full")


def shell(redirected: str, *args: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `buslab` in a shell that redirects it so."""
    argv = ["bash", "-c", f'"$0" -m sim.cli "$@" {redirected}', sys.executable, *args]
    return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=BOUND_S, check=False, env=os.environ | more)


def verdict_of(folder: Path) -> str:
    assert read_info(folder / "run.json").state == "complete"
    verdict: str = json.loads((folder / "verdict.json").read_text())["verdict"]
    return verdict


@pytest.mark.parametrize(
    "redirected",
    ["| true; exit ${PIPESTATUS[0]}", "2>&1 | head -n 1; exit ${PIPESTATUS[0]}", ">&- 2>&-", "<&- >&-", "> /dev/null 2> /dev/full"],
)
def test_a_run_whose_output_nobody_reads_is_judged_and_ends_as_its_verdict_says(redirected: str, tmp_path: Path) -> None:
    for limits, code, verdict in (((), 0, "valid"), (INVALID, 1, "invalid")):
        done = shell(redirected, *MODEL, *limits, "--out", f"run{code}", cwd=tmp_path)
        assert (done.returncode, verdict_of(tmp_path / f"run{code}")) == (code, verdict), done.stderr


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
def test_a_verdict_that_could_not_be_written_is_an_error_and_invalid_stays_so(tmp_path: Path) -> None:
    for limits, code, verdict in (((), 2, "valid"), (INVALID, 1, "invalid")):
        done = shell(f"> {FULL}", *MODEL, *limits, "--out", f"run{code}", cwd=tmp_path)
        assert (done.returncode, verdict_of(tmp_path / f"run{code}")) == (code, verdict)
        assert "buslab: cannot write to standard output: No space left on device" in done.stderr


@pytest.mark.parametrize(
    "more", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}], ids=["ascii", "C"]
)
def test_an_output_that_has_only_ascii_is_enough(more: dict[str, str], tmp_path: Path) -> None:
    done = shell("", *MODEL, "--out", "run", cwd=tmp_path, **more)
    assert (done.returncode, verdict_of(tmp_path / "run")) == (0, "valid"), done.stderr
    for args in (("list", "faults"), ("list", "grounds"), ("story", "run", "evt_1"), ("check", "run")):
        done = shell("", *args, cwd=tmp_path, **more)
        assert done.returncode == (2 if args[0] == "story" else 0), done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("args", [("list", "faults"), ("list", "scenarios"), ("--help",), ("run", "--help")])
def test_a_reader_of_a_list_that_has_gone_is_no_error(args: tuple[str, ...], tmp_path: Path) -> None:
    assert shell("| true; exit ${PIPESTATUS[0]}", *args, cwd=tmp_path, PYTHONUNBUFFERED="1").returncode == 0


def test_with_debug_an_error_shows_its_traceback_and_ends_with_2(tmp_path: Path) -> None:
    done = shell("", "check", "nowhere", cwd=tmp_path, BUSLAB_DEBUG="1")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("buslab: no run folder at nowhere")


IN_PROCESS = """
import sys, click
from sim.cli import main
raised = eval(sys.argv[1])
def cli(**_):
    raise raised
if sys.argv[2:]:
    main.cli.add_command(click.Command("raises", callback=cli))
    sys.argv[1:] = ["raises"]
else:
    main.cli = cli
main.main()
"""


@pytest.mark.parametrize("where", [(), ("in a command",)], ids=["outside", "in a command"])
@pytest.mark.parametrize("debug", ["", "1"])
@pytest.mark.parametrize(
    ("raised", "code", "says"),
    [
        ("SystemExit(1)", 2, "unexpected SystemExit: 1"),
        ("SystemExit('words')", 2, "unexpected SystemExit: words"),
        ("MemoryError()", 2, "unexpected MemoryError"),
        ("RecursionError('deep')", 2, "unexpected RecursionError: deep"),
        ("BrokenPipeError(32, 'Broken pipe')", 2, "Broken pipe"),
        ("UnicodeEncodeError('ascii', 'µ', 0, 1, 'no')", 2, "unexpected UnicodeEncodeError"),
        ("click.ClickException('words')", 2, "Error: words"),
        ("click.FileError('file', 'gone')", 2, "Could not open file"),
        ("click.Abort()", 130, "interrupted"),
        ("KeyboardInterrupt()", 130, "interrupted"),
        ("KeyboardInterrupt(15)", 143, "interrupted"),
        ("KeyboardInterrupt(1)", 129, "interrupted"),
        ("click.exceptions.Exit(0)", 0, ""),
    ],
)
def test_whatever_a_command_raises_does_not_end_it_with_1(raised: str, code: int, says: str, debug: str, where: tuple[str, ...]) -> None:
    environment = os.environ | {"BUSLAB_DEBUG": debug}
    argv = [sys.executable, "-c", IN_PROCESS, raised, *where]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=BOUND_S, check=False, env=environment)
    assert done.returncode == code, done.stderr
    assert says in done.stderr


@pytest.mark.parametrize(("broken", "code"), [("raise ImportError('no such library')", 2), ("raise KeyboardInterrupt", 130)])
def test_what_ends_the_command_while_it_is_imported_does_not_end_it_with_1(broken: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text(broken)
    argv = [sys.executable, "-m", "sim.cli", "list"]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=BOUND_S, check=False, env=os.environ | {"PYTHONPATH": str(tmp_path)}
    )
    assert done.returncode == code
    assert done.stderr.startswith("buslab: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_command_has_no_other_way_to_end() -> None:
    """What it returns is a number, not a truth, which would be 1."""
    assert cli.callback is not None
    for name, command in cli.commands.items():
        assert command.callback is not None
        assert command.callback.__annotations__["return"] == "int", name


def lab(*args: str, cwd: Path, before: str = "") -> subprocess.Popen[str]:
    argv = ["bash", "-c", f'{before} exec "$0" -m sim.cli "$@"', sys.executable, *args]
    return subprocess.Popen(argv, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def until(condition: str, folder: Path, process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + BOUND_S
    while time.monotonic() < deadline_s and process.poll() is None:
        if (folder / "run.json").exists() and read_info(folder / "run.json").phases[-1].name == condition:
            return
        time.sleep(0.02)
    raise AssertionError(f"no phase {condition}: {process.communicate()}")


@pytest.mark.broker
def test_a_hang_up_ends_a_run_in_order_however_often_it_comes(tmp_path: Path) -> None:
    with lab(*REAL, "--set", "load.run_s=60", "--out", "run", cwd=tmp_path) as process:
        until("run", tmp_path / "run", process)
        children = psutil.Process(process.pid).children(recursive=True)
        for _ in range(3):  # as a shell and the kernel do when a terminal goes
            process.send_signal(signal.SIGHUP)
            time.sleep(0.01)
        said, _ = process.communicate(timeout=BOUND_S)
    assert process.returncode == 128 + signal.SIGHUP, said
    assert "interrupted by SIGHUP in phase run" in said
    assert read_info(tmp_path / "run" / "run.json").state == "interrupted"
    assert psutil.wait_procs(children, timeout=30)[1] == []


@pytest.mark.broker
def test_a_hang_up_that_was_ignored_at_the_start_is_ignored(tmp_path: Path) -> None:
    with lab(*REAL, "--set", "load.run_s=3", "--out", "run", cwd=tmp_path, before="trap '' HUP;") as process:
        until("run", tmp_path / "run", process)
        process.send_signal(signal.SIGHUP)
        said, _ = process.communicate(timeout=BOUND_S)
    assert process.returncode == 0, said
    assert verdict_of(tmp_path / "run") == "valid"


@pytest.mark.broker
def test_a_terminal_that_is_closed_ends_a_run_in_order(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "sim.cli", *REAL, "--set", "load.run_s=60", "--out", "run"]
    script = "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen([sys.executable, "-c", script, *argv], cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    deadline_s = time.monotonic() + BOUND_S
    said = b""
    while b"run  " not in said and time.monotonic() < deadline_s:
        said += os.read(ours, 1 << 16)
    os.close(ours)
    assert process.wait(BOUND_S) == 128 + signal.SIGHUP
    assert read_info(tmp_path / "run" / "run.json").state == "interrupted"


@pytest.mark.broker
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_hang_up_ends_a_sweep_as_a_sigterm_does(number: signal.Signals, tmp_path: Path) -> None:
    grid = ("sweep", "baseline", "--on", "model", "--set", "bus.batch_size=1,10", "--set", "load.run_s=600", "--jobs", "1")
    with lab(*grid, "--repeats", "20", "--out", "sweep", cwd=tmp_path) as process:
        deadline_s = time.monotonic() + BOUND_S
        while not list((tmp_path / "sweep").glob("runs/*/run.json")) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        process.send_signal(number)
        said, _ = process.communicate(timeout=BOUND_S)
    assert process.returncode == 128 + number, said
    assert "--resume goes on" in said
