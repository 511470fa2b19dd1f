"""`import sim` gives the names that the stub lists, each when it is first used, and costs a process nearly nothing before."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sim
from sim.experiments.notebooks.conclusion import conclude

STUB = Path(sim.__file__).with_suffix(".pyi")
HEAVY = {"asyncio", "gevent", "hiredis", "locust", "matplotlib", "msgspec", "numpy", "pandas", "pyarrow", "redis", "rich", "scipy"}
HOUSE_NAMES = {  # what notebooks and README were promised
    "BuslabError", "CHECKERS", "FAULTS", "GROUNDS", "batch_costs", "compare", "conclude", "judge", "load_scenario", "make_plan",
    "measure_capacity", "open_run", "plots", "predict_cut", "predict_fanout", "read_sweep", "run_claims", "run_each", "run_matrix",
    "run_scenario", "run_sweep", "settle", "write_verdict",
}  # fmt: skip
MAX_MODULES = 12  # `import sim` itself: the package, lazy_loader, and ast to read the stub


def stub_names() -> dict[str, str]:
    """Read from the stub each name with the module that it comes from."""
    names = {}
    for node in ast.parse(STUB.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 1
            for alias in node.names:
                assert alias.asname == alias.name, "a stub gives a name away only as `x as x`"
                assert alias.name not in names
                names[alias.name] = f"sim.{node.module}" if node.module else "sim"
    return names


def in_a_fresh_process(code: str, **env: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("name", sorted(stub_names()))
def test_a_name_of_the_stub_is_what_its_module_defines(name: str) -> None:
    home = importlib.import_module(stub_names()[name])
    found = getattr(sim, name)
    if inspect.ismodule(found):
        assert found.__name__ == f"{home.__name__}.{name}"
    else:
        assert found is getattr(home, name)
        assert getattr(found, "__module__", home.__name__) == home.__name__, "the stub names where it is defined"


def test_stub_and_package_list_the_same_names_and_the_promised_ones_are_among_them() -> None:
    assert sorted(stub_names()) == dir(sim) == sim.__all__
    assert set(sim.__all__) >= HOUSE_NAMES
    rooms = {path.parent.name for path in STUB.parent.glob("*/__init__.py")}
    assert not rooms & set(sim.__all__), "a name that a room has would be one or the other, by what was imported first"
    with pytest.raises(AttributeError, match="no_such_name"):
        sim.no_such_name  # noqa: B018


@pytest.mark.parametrize("name", ["findings", "plots"])
def test_a_module_of_the_front_door_offers_what_it_lists_and_defines_nothing(name: str) -> None:
    module = getattr(sim, name)
    tree = ast.parse(Path(module.__file__).read_text("utf-8"))
    imported = [alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(imported) == sorted(module.__all__)
    assert len(set(imported)) == len(imported)
    assert not [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]


def test_every_figure_of_the_rooms_is_in_plots() -> None:
    """A figure is a public function of a file `…plots.py` that returns axes or a figure."""
    offered = {inspect.unwrap(getattr(sim.plots, one)) for one in sim.plots.__all__}
    for path in sorted(STUB.parent.rglob("*plots.py")):
        if path.parent.name == "public":
            continue
        home = importlib.import_module(".".join(("sim", *path.relative_to(STUB.parent).with_suffix("").parts)))
        for name, found in inspect.getmembers(home, inspect.isfunction):
            own = found.__module__ == home.__name__ and not name.startswith("_") and name not in {"make_axes", "draw_cells"}
            if own and inspect.signature(found).return_annotation in ("Axes", "Figure"):
                assert found in offered, f"{home.__name__}.{name} is not in sim.plots"


def test_importing_sim_loads_nearly_nothing() -> None:
    code = "import sys; before = set(sys.modules); import sim; print(*sorted(set(sys.modules) - before))"
    loaded = in_a_fresh_process(code, EAGER_IMPORT="")
    assert {name.split(".")[0] for name in loaded} & HEAVY == set()
    assert [name for name in loaded if name.startswith("sim.")] == []
    assert len(loaded) <= MAX_MODULES, loaded


def test_a_name_loads_its_own_half_only() -> None:
    code = "import sys, sim; sim.open_run, sim.judge, sim.BuslabError; print(*sorted(sys.modules))"
    loaded = set(in_a_fresh_process(code, EAGER_IMPORT=""))
    assert "pandas" in loaded and not {"redis", "asyncio", "hiredis"} & loaded
    code = "import sys, sim; sim.run_scenario, sim.load_scenario, sim.FAULTS, sim.GROUNDS; print(*sorted(sys.modules))"
    loaded = set(in_a_fresh_process(code, EAGER_IMPORT=""))
    assert "asyncio" in loaded and not {"pandas", "matplotlib"} & loaded


def test_all_names_load_at_once_where_that_is_wanted_and_modules_by_their_path_as_ever() -> None:
    assert in_a_fresh_process("import sim; print(len(sim.__all__))", EAGER_IMPORT="1") == [str(len(sim.__all__))]
    code = "import sim.results.opened_run as home; import sim; print(home.open_run is sim.open_run, sim.__version__)"
    assert in_a_fresh_process(code) == ["True", sim.__version__]
    assert sim.conclude is conclude


def test_the_package_is_typed_and_its_stub_is_shipped() -> None:
    shipped = (STUB.parents[1] / "pyproject.toml").read_text("utf-8")
    for name in ("__init__.pyi", "py.typed"):
        assert (STUB.parent / name).is_file()
        assert f'"{name}"' in shipped


def test_every_file_of_the_package_is_shipped() -> None:
    """What is no Python is package data, or an installed buslab lacks it."""
    project = tomllib.loads((STUB.parents[1] / "pyproject.toml").read_text("utf-8"))
    shipped = {path for pattern in project["tool"]["setuptools"]["package-data"]["sim"] for path in STUB.parent.glob(pattern)}
    listed = subprocess.run(["git", "ls-files", "-z", "sim"], cwd=STUB.parents[1], capture_output=True, text=True, check=True).stdout
    others = {STUB.parents[1] / name for name in listed.split("\0") if name and not name.endswith(".py")}
    assert len(others) > 40 and others - shipped == set()
