"""The limit of open files: raised as far as it goes, and named where it is too low."""

from __future__ import annotations

import errno
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sim.machine.import_path import OURS, python_child
from sim.machine.open_files import most_open_files, raise_open_files, why_no_file

HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@pytest.fixture
def low() -> Iterator[int]:
    """Set the soft limit to what macOS gives, for one test."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_soft_limit_is_raised_to_the_hard_one(low: int) -> None:
    assert most_open_files() == 256
    assert raise_open_files() == most_open_files() == (min(low, 1 << 20) if low != resource.RLIM_INFINITY else most_open_files()) > 256
    assert raise_open_files() == most_open_files(), "a second time changes nothing"


@pytest.mark.usefixtures("low")
def test_a_limit_that_cannot_be_raised_stays() -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resource, "setrlimit", refuse)
        assert raise_open_files() == 256


LOOK = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE))"


def limits_of(argv: list[str], *, soft: int, hard: int, cwd: Path | None = None) -> str:
    code = f"import os, resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard})); os.execv({argv[0]!r}, {argv!r})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, cwd=cwd).stdout


@pytest.mark.parametrize(("soft", "hard"), [(256, 4000), (256, 256), (4000, 4000)])
def test_a_child_of_ours_begins_with_the_hard_limit(tmp_path: Path, soft: int, hard: int) -> None:
    (tmp_path / "look.py").write_text(LOOK)
    assert limits_of(python_child("look"), soft=soft, hard=hard, cwd=tmp_path).strip() == f"({hard}, {hard})"


def test_a_locustfile_begins_with_the_hard_limit(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(Path(OURS, 'locustfiles'))!r}); import _path; {LOOK}"
    assert limits_of([sys.executable, "-c", code], soft=256, hard=4000).strip() == "(4000, 4000)"


def in_a_chain(number: int) -> Exception:
    try:
        try:
            raise OSError(number, "inside")
        except OSError as error:
            raise ConnectionError("Error 24 connecting to 127.0.0.1:1. Too many open files.") from error
    except ConnectionError as error:
        return error


def test_too_many_open_files_is_told_by_its_name_wherever_it_is_in_a_chain() -> None:
    assert "`ulimit -n`" in why_no_file(OSError(errno.EMFILE, "x")) and f"{most_open_files():,}" in why_no_file(in_a_chain(errno.EMFILE))
    assert "fs.file-max" in why_no_file(in_a_chain(errno.ENFILE))
    assert why_no_file(in_a_chain(errno.ECONNREFUSED)) == why_no_file(None) == why_no_file(ValueError()) == ""


def test_a_socket_that_cannot_be_opened_is_such_an_error() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as last:
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno() + 1, before[1]))
        try:
            with pytest.raises(OSError) as full:
                kept = [socket.socket() for _ in range(5000)]
                del kept
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert "`ulimit -n`" in why_no_file(full.value)
