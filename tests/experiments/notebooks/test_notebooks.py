"""The .ipynb of each notebook is what its .py says, holds no output and names a kernel; each asks, has parameters and concludes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import jupytext
import nbformat
import pytest

from sim.experiments.notebooks.run import load_notebook

NOTEBOOKS = sorted((Path(__file__).parents[3] / "notebooks").glob("*.py"))


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
    assert [c for c in code if len(c.splitlines()) > 14] == []
    assert not any("def " in c for c in code), "functions belong in the package"


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_has_parameters_then_one_cell_of_imports_and_ends_in_its_conclusion(source: Path) -> None:
    book = load_notebook(source.stem)
    code = [cell for cell in book.node.cells if cell.cell_type == "code"]
    assert book.parameters and code[0].metadata.get("tags") == ["parameters"], "the first code cell is what papermill changes"
    assert [n for n, cell in enumerate(code) if re.search(r"^(import|from) ", cell.source, re.M)] == [1]
    last = ast.parse(code[-1].source).body[-1]
    assert ast.unparse(last).startswith("conclude("), "what ends a notebook is its answer"


def test_there_is_a_notebook() -> None:
    assert [p.stem for p in NOTEBOOKS][:1] == ["00_quickstart"]
