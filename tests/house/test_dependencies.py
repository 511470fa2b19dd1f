"""What is imported is declared, and what is declared is used: pyproject.toml against every import of the project."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from sim.run.generator import LOCUSTFILE, OWN

ROOT = Path(__file__).parents[2]
TOML = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = TOML["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
ALLOWED = {  # folder -> the extras whose packages it may import beside the dependencies
    "sim": ("containers", "lab", "machines"),
    "locustfiles": (),
    "notebooks": ("lab",),
    "docs": ("docs",),
    "tests": ("containers", "lab", "machines", "docs", "dev"),
}
ONLY_IN_FUNCTIONS = ("containers", "lab", "machines")  # in sim: `buslab run` works without them
ON_DEMAND = "sim/pods/hosts/dask_*.py"  # except in modules that are themselves imported in a function, or started
STARTED = {  # not imported: commands, plugins, kernels and types
    "import-linter",
    "ipykernel",
    "jupyterlab",
    "mutmut",
    "mypy",
    "pandas-stubs",
    "papermill",
    "pytest-timeout",
    "pytest-xdist",
    "ruff",
    "zensical",
}
INSTALLED = packages_distributions()
OURS = {"sim", "locustfiles", "tests", "docs"}


def package(requirement: str) -> str:
    """Return the normal form of the name in a requirement, or of a distribution."""
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=;\[ ]", requirement)[0]).lower()


DECLARED = {"": {package(one) for one in PROJECT["dependencies"]}, **{name: set(map(package, some)) for name, some in EXTRAS.items()}}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield the packages that a file imports that are neither Python's nor ours, and whether it does so wherever it is imported itself."""
    local = {one.stem for one in path.parent.glob("*.py")}
    tree = ast.parse(path.read_text("utf-8"))
    inner = {id(node) for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) for node in ast.walk(one)}
    typing = {
        id(node) for one in ast.walk(tree) if isinstance(one, ast.If) and "TYPE_CHECKING" in ast.dump(one.test) for node in ast.walk(one)
    }
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        for name in names:
            top = name.split(".")[0]
            if top not in sys.stdlib_module_names and top not in OURS | local:
                yield top, id(node) not in inner | typing


def distribution(module: str) -> str:
    """Return the distribution that a module comes from."""
    found = INSTALLED.get(module)
    assert found, f"{module} is imported and not installed"
    return package(found[0])


@pytest.mark.parametrize("folder", ALLOWED)
def test_what_a_folder_imports_is_declared(folder: str) -> None:
    allowed = DECLARED[""].union(*(DECLARED[extra] for extra in ALLOWED[folder]))
    undeclared = {
        f"{path.relative_to(ROOT)}: {module}"
        for path in (ROOT / folder).rglob("*.py")
        for module, _ in imports(path)
        if distribution(module) not in allowed
    }
    assert undeclared == set()


def test_what_only_an_extra_brings_is_imported_where_it_is_used() -> None:
    extra = set().union(*(DECLARED[name] for name in ONLY_IN_FUNCTIONS)) - DECLARED[""]
    early = {
        f"{path.relative_to(ROOT)}: {module}"
        for path in (ROOT / "sim").rglob("*.py")
        for module, at_once in imports(path)
        if at_once and distribution(module) in extra and not path.relative_to(ROOT).match(ON_DEMAND)
    }
    assert early == set()


def test_modules_that_are_imported_on_demand_are_not_imported_by_others_at_once() -> None:
    """They may import what only an extra brings."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.glob(ON_DEMAND)}
    assert modules
    for path in (ROOT / "sim").rglob("*.py"):
        if not path.relative_to(ROOT).match(ON_DEMAND):
            at_once = {node.module for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.ImportFrom)}
            assert not at_once & modules, path


def test_what_is_declared_is_imported_or_started() -> None:
    files = [path for folder in ALLOWED for path in (ROOT / folder).rglob("*.py")]
    used = {distribution(module) for path in files for module, _ in imports(path)}
    assert set().union(*DECLARED.values()) - used == STARTED


def test_the_locustfiles_that_a_run_starts_are_installed_with_it() -> None:
    """Who installs the package imports `locustfiles.users`, and `buslab run` starts the file beside it."""
    (folder,) = {LOCUSTFILE.parent, LOCUSTFILE.with_name(OWN).parent}
    included = TOML["tool"]["setuptools"]["packages"]["find"]["include"]
    assert folder.relative_to(ROOT).as_posix() in included and (folder / "__init__.py").is_file() and LOCUSTFILE.with_name(OWN).is_file()


def test_a_package_is_declared_once() -> None:
    every = [one for some in DECLARED.values() for one in some]
    assert sorted(every) == sorted(set(every))


def test_the_licence_is_there_and_named() -> None:
    assert PROJECT["license"] == "Apache-2.0" and PROJECT["license-files"] == ["LICENSE"]
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
