"""Tests of real servers that failed are asked again, alone: what holds then counts as unknown, what fails again has failed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.again import MOST
from tests.support.unknown import EARLIER_ENV, MAX_ENV

ROOT = Path(__file__).parents[2]
SEEN = """
from pathlib import Path

def held(name):
    seen = Path(name)
    before = seen.exists()
    seen.touch()
    return before
"""


def asked(tmp_path: Path, tests: str, **more: str) -> tuple[int, list[str]]:
    """Run tests and then, as `make test` does, what failed again; return the exit code and what is unknown."""
    (tmp_path / "test_some.py").write_text(SEEN + tests)
    unknowns = tmp_path / "unknowns"
    where = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT), EARLIER_ENV: str(unknowns)} | more, "check": False}
    first = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(tmp_path)]
    code = subprocess.run(first, stdout=subprocess.PIPE, **where).returncode  # type: ignore[call-overload]
    assert code == 1, "some fail at first"
    again = subprocess.run([sys.executable, "-m", "tests.support.again"], stdout=subprocess.PIPE, **where)  # type: ignore[call-overload]
    return again.returncode, unknowns.read_text().splitlines() if unknowns.is_file() else []


SOON = "def test_one(): assert held('one')\ndef test_two(): pass\n"


def test_what_holds_alone_counts_as_unknown_by_its_name(tmp_path: Path) -> None:
    assert asked(tmp_path, SOON) == (0, ["test_some.py::test_one: it failed at first, and held when asked again, alone"])


@pytest.mark.parametrize(
    "tests",
    [SOON + "def test_never(): assert False\n", "".join(f"def test_{n}(): assert held('{n}')\n" for n in range(MOST + 1))],
    ids=["one fails again", "too many failed"],
)
def test_it_fails_where(tmp_path: Path, tests: str) -> None:
    assert asked(tmp_path, tests) == (1, [])


def test_no_more_are_borne_than_may_be_unknown(tmp_path: Path) -> None:
    assert asked(tmp_path, SOON, **{MAX_ENV: "0"})[0] == 1
