"""Streams that fail: whatever happens to them, the command writes on, ends as it would have, and says what was not told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WRITER = """
import sys
from sim.machine.standard_streams import take_over_streams
streams = take_over_streams()
code, text, times = int(sys.argv[1]), sys.argv[2].encode("ascii").decode("unicode_escape"), int(sys.argv[3])
for _ in range(times):
    print(text)
    print(text, file=sys.stderr, flush=True)
sys.exit(streams.finish(code))
"""
TEXT = r"\xb5 \u2192 1"  # as an argument, which every locale has
FULL = Path("/dev/full")


def write(shell: str, *, code: int = 0, text: str = "word", times: int = 1, **more: str) -> subprocess.CompletedProcess[bytes]:
    """Run the writer in a shell that redirects it as `shell` says, and return what came and how the writer ended."""
    argv = ["bash", "-c", f'"$0" -c "$1" "$2" "$3" "$4" {shell}', sys.executable, WRITER, str(code), text, str(times)]
    return subprocess.run(argv, capture_output=True, timeout=60, check=False, env=os.environ | more)


@pytest.mark.parametrize("code", [0, 1, 2, 130])
@pytest.mark.parametrize("shell", ["| true; exit ${PIPESTATUS[0]}", "2>&1 | true; exit ${PIPESTATUS[0]}", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_reader_that_is_gone_or_a_stream_that_was_closed_changes_no_exit_code(shell: str, code: int) -> None:
    done = write(shell, code=code, times=20_000)
    assert done.returncode == code
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
def test_a_full_disk_is_told_and_what_would_end_well_ends_with_2() -> None:
    for code, ends in ((0, 2), (1, 1), (2, 2), (130, 130)):
        done = write(f"> {FULL}", code=code)
        assert done.returncode == ends
        assert done.stderr.decode().splitlines() == [
            "word",
            "buslab: cannot write to standard output: No space left on device; free the disk, or send it elsewhere",
        ]
    assert write(f"2> {FULL}").returncode == 0, "what is told beside the answer may be lost"
    assert write(f"> {FULL} 2> {FULL}", code=1).returncode == 1


def test_what_an_encoding_does_not_have_is_escaped() -> None:
    for more in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}):
        done = write("", text=TEXT, PYTHONUNBUFFERED="1", **more)
        assert (done.returncode, done.stdout) == (0, TEXT.encode() + b"\n"), more
    assert write("", text=TEXT, PYTHONIOENCODING="utf-8").stdout.decode() == "µ → 1\n"


def test_nothing_else_gets_the_number_of_a_stream_that_was_closed(tmp_path: Path) -> None:
    script = (
        "from sim.machine.standard_streams import take_over_streams; take_over_streams(); print(open(__import__('sys').argv[1]).fileno())"
    )
    (tmp_path / "file").write_text("whole")
    argv = ["bash", "-c", '"$0" -c "$1" "$2" <&- 2>&-', sys.executable, script, str(tmp_path / "file")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) > 2


def test_a_pipe_that_does_not_wait_is_waited_for() -> None:
    read, written = os.pipe()
    os.set_blocking(written, False)
    with subprocess.Popen([sys.executable, "-c", WRITER, "0", "x" * 100, "5000"], stdout=written, stderr=subprocess.DEVNULL) as process:
        os.close(written)
        got = b""
        while data := os.read(read, 1 << 16):
            got += data
        os.close(read)
        assert process.wait(60) == 0
    assert got == (b"x" * 100 + b"\n") * 5000


def test_the_streams_of_a_test_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    from sim.machine.standard_streams import take_over_streams

    before = sys.stdout
    streams = take_over_streams()
    print("heard")
    assert sys.stdout is before
    assert (streams.finish(0), streams.finish(1)) == (0, 1)
    assert capsys.readouterr().out == "heard\n"
