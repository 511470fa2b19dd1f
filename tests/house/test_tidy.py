"""The house's limits on its own files: sizes, names, depth, and what may not stand in them."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIM = ROOT / "sim"
FILES = sorted(SIM.rglob("*.py"))
MAX_LINES = 400
MAX_MEDIAN_LINES = 150
MAX_FUNCTION_LINES = 70
BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "base", "misc"}
FAMILIES = sorted(p.parent for p in SIM.glob("*/__init__.py") if p.parent.name != "bus")


def lines_of(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_and_its_functions_are_short_and_it_says_why_it_exists(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert lines_of(path) <= MAX_LINES
    assert ast.get_docstring(tree), "a file opens with why it exists"
    long = [
        f"{node.name} has {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert long == []


def test_the_median_file_is_short() -> None:
    assert statistics.median(lines_of(path) for path in FILES) <= MAX_MEDIAN_LINES


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [path for path in FILES if path.stem in BANNED_NAMES] == []


def test_no_folder_is_deeper_than_a_family() -> None:
    assert [path for path in FILES if len(path.relative_to(SIM).parts) > 2] == []


@pytest.mark.parametrize("family", FAMILIES, ids=lambda p: p.name)
def test_a_family_says_how_to_add_a_member_and_lists_them_in_one_plain_dict(family: Path) -> None:
    text = (family / "__init__.py").read_text("utf-8")
    assert "To add one" in (ast.get_docstring(ast.parse(text)) or "")
    assert re.search(r"^[A-Z]+: dict\[str, .*\] = \{", text, re.M)


def test_no_tracked_file_names_a_registry_a_machine_path_or_a_lock_with_hosts() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    banned = re.compile(
        "|".join(["pypi" + r"\.org", "python" + "hosted", "registry" + r"\.npmjs", "deb" + r"\.debian", r"/(?:root|home)/"])
    )
    found = []
    for name in filter(None, tracked):
        path = ROOT / name
        if path.suffix not in {".png", ".parquet"} and path.is_file() and banned.search(path.read_text("utf-8", "replace")):
            found.append(name)
    assert found == []
    assert not {"uv.lock", "package-lock.json"} & set(tracked)


def test_every_requirement_is_pinned() -> None:
    lines = [line for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines() if line and not line.lstrip().startswith("#")]
    assert [line for line in lines if not re.match(r"^[A-Za-z0-9._\[\]-]+==[^ ]+( ; .+)?$", line)] == []


def test_the_readme_names_every_module() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    top = {p.stem for p in SIM.glob("*.py")} - {"__init__"} | {p.parent.name for p in SIM.glob("*/__init__.py")}
    assert sorted(name for name in top if f"`{name}" not in readme and f"`sim/{name}" not in readme) == []
