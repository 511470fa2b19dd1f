"""The .ipynb of each notebook is what its .py says, holds no output and names a kernel; each asks, has parameters and concludes."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import jupytext
import nbformat
import pytest

import sim
from sim.experiments.notebooks.run import load_notebook

NOTEBOOKS = sorted((Path(__file__).parents[3] / "notebooks").glob("*.py"))
SETUP = ("import sim", "", "pd.options.display.max_colwidth = None", "pd.options.display.max_rows = 50")


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_notebook_is_what_its_source_says(source: Path) -> None:
    made = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    written = jupytext.read(source)
    assert [(c.cell_type, c.source) for c in made.cells] == [(c.cell_type, c.source) for c in written.cells], (
        f"run: jupytext --to ipynb {source.name}"
    )
    assert made.metadata.kernelspec.name == "python3"
    assert [c for c in made.cells if c.cell_type == "code" and (c.outputs or c.execution_count)] == []


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_asks_a_question_and_stays_thin(source: Path) -> None:
    cells = jupytext.read(source).cells
    assert cells[0].source.splitlines()[0].startswith("# ")
    assert cells[0].source.splitlines()[0].endswith("?")
    code = [c.source for c in cells if c.cell_type == "code"]
    assert [c for c in code if len(c.splitlines()) > 10] == []
    assert not any("def " in c for c in code), "functions belong in the package"


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_has_parameters_then_one_cell_of_imports_and_ends_in_its_conclusion(source: Path) -> None:
    book = load_notebook(source.stem)
    code = [cell for cell in book.node.cells if cell.cell_type == "code"]
    assert book.parameters and code[0].metadata.get("tags") == ["parameters"], "the first code cell is what papermill changes"
    assert [n for n, cell in enumerate(code) if re.search(r"^(import|from) ", cell.source, re.M)] == [1]
    last = ast.parse(code[-1].source).body[-1]
    assert ast.unparse(last).startswith("sim.conclude("), "what ends a notebook is its answer"


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_imports_sim_and_names_no_room_of_it(source: Path) -> None:
    cells = jupytext.read(source).cells
    (imports,) = [c.source for c in cells if c.cell_type == "code" and re.search(r"^(import|from) ", c.source, re.M)]
    assert re.findall(r"^(?:import|from) (sim\b.*)", imports, re.M) == ["sim"]
    assert "\n".join(SETUP) in imports, "the setup is the same in all, beside what one needs of other libraries"
    rooms = {path.parent.name for path in Path(sim.__file__).parent.glob("*/__init__.py")}
    assert [name for c in cells for name in re.findall(r"\bsim[./](\w+)", c.source) if name in rooms] == []
    tree = ast.parse("\n".join(c.source for c in cells if c.cell_type == "code"))
    used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used = {name for name in used if re.fullmatch(r"sim(\.\w+)+", name)}
    assert used, "a notebook uses the package"
    assert [name for name in used if not public(name)] == []


def public(name: str) -> bool:
    """Check that `sim.x`, or the x of `sim.findings.x`, is a public name; what is asked of its result does not count."""
    _, first, *rest = name.split(".")
    inner = getattr(sim, first, None)
    return first in sim.__all__ and (not rest or not inspect.ismodule(inner) or rest[0] in inner.__all__)


def test_there_is_a_notebook() -> None:
    assert [p.stem for p in NOTEBOOKS][:1] == ["00_quickstart"]
