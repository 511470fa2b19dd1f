"""Pages of executed notebooks hold all they show, name no folder of the machine, and the index has an answer for each."""

from __future__ import annotations

import html.parser
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from sim.errors import RunFolderError, UsageError
from sim.experiments.notebooks.pages import CHECKOUT, write_pages
from sim.experiments.notebooks.run import Executed, notebook_paths

ANSWER = '<div class="conclusion"><b>valid</b>: Said twice.</div>'
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
BREAKS = {
    "raises": 'raise ValueError("broken on purpose")',
    "miscounts": 'return dataclasses.replace(right(run), verdict="invalid", detail="broken on purpose")',
}


class References(html.parser.HTMLParser):
    """Collect what a page would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag != "a":
            self.fetched += [value or "" for name, value in attrs if name in ("src", "href") and not (value or "").startswith("data:")]


def executed(name: str, *, verdict: str = "valid", sentence: str = "No copy of 5 < 6 is lost.") -> Executed:
    return Executed(name, f"Is {name} so?", verdict, sentence, 12.3, {"ground": "model"}, [], "model", "2026-11-24 12:00")


def write_notebook(folder: Path, name: str, *, text: str = "42", png: str = PNG) -> None:
    outputs = [
        new_output("stream", text=text),
        new_output("execute_result", data={"text/plain": "<Axes: >"}),
        new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "sliders"}),
        new_output("display_data", data={"image/png": png, "text/plain": "<Figure>"}),
        new_output("display_data", data={"text/html": ANSWER, "text/plain": "valid: Said twice."}),
    ]
    cells = [new_markdown_cell(f"# Is {name} so?"), new_code_cell("1 < 2", outputs=outputs)]
    nbformat.write(new_notebook(cells=cells), folder / f"{name}.ipynb")


def test_a_page_shows_question_answer_code_and_pictures_and_fetches_nothing(tmp_path: Path) -> None:
    write_notebook(tmp_path, "one", text=f"File {CHECKOUT}/sim/run/steps.py and {Path.home()}/secret, {sys.prefix}/lib")
    index = write_pages([executed("one")], notebooks=tmp_path, out=tmp_path / "pages")
    page = (tmp_path / "pages" / "one.html").read_text("utf-8")
    for text in (page, index.read_text("utf-8")):
        found = References(text)
        assert found.fetched == [] and "script" not in found.tags
        assert str(CHECKOUT) not in text and f"{Path.home()}/" not in text and sys.prefix not in text
        assert "No copy of 5 &lt; 6 is lost." in text and "Is one so?" in text and "2026-11-24 12:00" in text and ">valid<" in text
    assert PNG[:40] in page and "File sim/run/steps.py" in page and "buslab notebooks one" in page
    assert "Said twice" not in page and "&lt;Axes" not in page
    assert 'href="one.html"' in index.read_text("utf-8") and "12.3 s" in index.read_text("utf-8")


def test_columns_of_words_stand_to_the_left_and_numbers_to_the_right(tmp_path: Path) -> None:
    frame = pd.DataFrame({"lag": [1.5, float("nan")], "why": ["", "none was heard"]}, index=pd.Index(["one pod", "two"], name="pods"))
    tables = [frame.to_html(), frame[:0].to_html(), '<table class="dataframe"><tr><td>odd</td></tr></table>']
    outputs = [new_output("display_data", data={"text/html": table}) for table in tables]
    nbformat.write(new_notebook(cells=[new_code_cell("frame", outputs=outputs)]), tmp_path / "one.ipynb")
    write_pages([executed("one")], notebooks=tmp_path, out=tmp_path / "pages")
    page = (tmp_path / "pages" / "one.html").read_text("utf-8")
    assert page.count('class="words"') == 3
    assert '<th class="words">why</th>' in page and '<td class="words">none was heard</td>' in page and "<td>NaN</td>" in page


def test_the_docs_say_what_the_committed_pages_say() -> None:
    docs = (CHECKOUT / "docs" / "how-to" / "notebooks.md").read_text("utf-8")
    rows = json.loads((CHECKOUT / "reports" / "notebooks" / "conclusions.json").read_text("utf-8"))
    assert [row["name"] for row in rows] == sorted(notebook_paths())
    for row in rows:
        name = row["name"]
        assert f"| [{row['title']}](../../reports/notebooks/{name}.html) `{name}` | {row['sentence']} | {row['verdict']} |" in docs


def test_notebooks_that_did_not_run_now_keep_their_row(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_notebook(tmp_path, name)
    out = tmp_path / "pages"
    write_pages([executed("one", sentence="First answer."), executed("two")], notebooks=tmp_path, out=out)
    index = write_pages([executed("two", verdict="invalid", sentence="It broke.")], notebooks=tmp_path, out=out).read_text("utf-8")
    assert "First answer." in index and "It broke." in index and index.index("one.html") < index.index("two.html")
    assert {row["name"]: row["verdict"] for row in json.loads((out / "conclusions.json").read_text("utf-8"))} == {
        "one": "valid",
        "two": "invalid",
    }
    (out / "one.html").unlink()
    assert "First answer." not in write_pages([executed("two")], notebooks=tmp_path, out=out).read_text("utf-8"), "no row without a page"


def test_a_page_that_is_too_large_and_an_index_that_is_foreign_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    write_notebook(tmp_path, "large", text="x" * 700_000)
    with pytest.raises(UsageError, match="the page of large has 7"):
        write_pages([executed("large")], notebooks=tmp_path, out=tmp_path / "pages")
    assert not (tmp_path / "pages").exists()
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "conclusions.json").write_text("[1]", "utf-8")
    write_notebook(tmp_path, "one")
    with pytest.raises(RunFolderError, match="cannot read"):
        write_pages([executed("one")], notebooks=tmp_path, out=tmp_path / "pages")
    assert not (tmp_path / "pages" / "one.html").exists()


@pytest.mark.broker
@pytest.mark.parametrize(
    ("how", "code"), [*(pytest.param(*one, marks=pytest.mark.deep) for one in (("", 0), ("raises", 2))), ("miscounts", 1)]
)
def test_a_checker_that_is_broken_turns_a_notebook_red_and_a_whole_one_does_not(how: str, code: int, tmp_path: Path) -> None:
    """What breaks it is a sitecustomize, which every Python process of the runner loads at its start. CI runs the whole one as a step."""
    if how:
        lines = ["import dataclasses", "import sim.results.checkers", "right = sim.results.checkers.CHECKERS['ledger']", "def broken(run):"]
        lines += [f"    {BREAKS[how]}", "sim.results.checkers.CHECKERS['ledger'] = broken"]
        (tmp_path / "sitecustomize.py").write_text("\n".join(lines), "utf-8")
    argv = [sys.executable, "-m", "sim.cli", "notebooks", "00_quickstart", "-p", "ground=model", "-p", 'settings=["load.run_s=1"]']
    argv += ["--out", str(tmp_path / "out"), "--html", str(tmp_path / "pages")]
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(argv, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=350, check=False)
    assert done.returncode == code, done.stderr
    assert done.stdout.startswith({0: "valid", 1: "invalid", 2: "unknown"}[code])
    assert "Traceback" not in done.stderr
    assert (tmp_path / "pages" / "00_quickstart.html").stat().st_size < 700_000
