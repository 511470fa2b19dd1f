"""The tool that judges the tests, on a project of a few lines: what the tests notice, what they do not, and that its controls can fail."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.broker  # it starts processes

CODE = """
def limit(): return 1 + 2

LIMIT = limit()

def add(one, other):
    if one > 100:
        return 0
    return one + other

def count_down(number):
    while number > 0:
        number -= 1
    return number

def nobody_asks(number):
    return number - 1
"""
TESTS = """
from sim.record.sums import LIMIT, add, count_down, nobody_asks

def test_the_limit_that_was_made_when_the_module_was_loaded():
    assert LIMIT == 3

def test_a_sum():
    assert add(2, 3) == 5

def test_it_ends():
    assert count_down(3) == 0

def test_that_looks_at_nothing():
    nobody_asks(3)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with one module that judges and its tests."""
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / ".ci" / "mutants-that-change-nothing.toml").write_text("kind = []\nmutant = []\n")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\npythonpath = ["."]\naddopts = "--import-mode=importlib"\n'
        'markers = ["broker", "deep", "browser", "container"]\n'
    )
    for name, text in {"sim/__init__.py": "", "sim/record/__init__.py": "", "sim/record/sums.py": CODE}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "tests" / "record").mkdir(parents=True)
    (tmp_path / "tests" / "record" / "test_sums.py").write_text(TESTS)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


def mutants(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(project / ".ci" / "mutants"), "--draw", "0", "--files", "0", "--jobs", "2", *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=200)


def test_it_finds_what_no_test_looks_at_and_nothing_else(project: Path) -> None:
    done = mutants(project)
    assert done.returncode == 1, done.stdout + done.stderr
    unnoticed = json.loads((project / "build" / "mutants-unnoticed.json").read_text())["names"]
    functions = {name.rpartition("__mutmut_")[0].removeprefix("sim.record.sums.x_") for name in unnoticed}
    assert functions == {"add", "nobody_asks"}, "a change at import and one that never ends were noticed"
    assert "sim.record.sums.add\n- if one > 100:\n+ if one > 101:" in done.stdout
    assert "sim.record.sums.add (no test reaches it)\n- return 0\n+ return 1" in done.stdout
    assert "sim.record.sums.nobody_asks\n- return number - 1\n+ return number + 1" in done.stdout
    assert "of them because a test then took too long" in done.stdout and " 0 of them" not in done.stdout

    (project / "tests" / "record" / "test_sums.py").write_text(
        f"{TESTS}    assert nobody_asks(3) == 2\n    assert [add(100, 0), add(101, 1)] == [100, 0]\n"
    )
    again = mutants(project, "--again")
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"{len(unnoticed)} of {len(unnoticed)} changes were noticed" in again.stdout


def test_a_test_that_fails_without_any_change_is_named_and_nothing_is_judged(project: Path) -> None:
    with (project / "tests" / "record" / "test_sums.py").open("a") as file:
        file.write("\ndef test_wrong():\n    assert add(2, 2) == 5\n")
    done = mutants(project)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "tests/record/test_sums.py::test_wrong fails without any change" in done.stdout
    assert "were noticed" not in done.stdout


def test_what_a_test_says_that_needs_another_before_it_does_not_count(project: Path) -> None:
    (project / "tests" / "record" / "test_sums.py").write_text(
        "from sim.record.sums import nobody_asks\nbefore = []\n\ndef test_first():\n    before.append(1)\n\n"
        "def test_second():\n    nobody_asks(3)\n    assert before\n"
    )
    done = mutants(project)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "test_second fails by itself, without any change: what it noticed does not count" in done.stdout
    assert "sim.record.sums.nobody_asks\n- return number - 1\n+ return number + 1" in done.stdout
