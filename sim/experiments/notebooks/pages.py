"""Turn executed notebooks into pages that need nothing but a browser, with an index of questions and answers.

Pages hold their pictures and a style of their own: no script, no font and no style sheet is fetched. No path of this machine is left in
them, and each is small enough to be committed.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sim.errors import RecordError, RunFolderError, UsageError
from sim.experiments.notebooks.run import INDEX, Executed
from sim.machine.facts import environment
from sim.machine.files import write_whole
from sim.machine.words import duration

MAX_PAGE_BYTES = 700_000
TITLE = "What the lab answers"
CHECKOUT = Path(__file__).parents[3]


def write_pages(executed: Sequence[Executed], *, notebooks: Path, out: Path) -> Path:
    """Write a page for each executed notebook, and the index of all that are in the folder; return the index.

    Parameters
    ----------
    notebooks
        The folder of the executed ``.ipynb`` files.
    out
        The folder of the pages; notebooks that did not run now keep their page and their row in the index.

    Raises
    ------
    UsageError
        A page is larger than `MAX_PAGE_BYTES`. None is written then.
    RecordError
        A page cannot be written.
    RunFolderError
        What stands in the index of `out` cannot be read.
    """
    pages = {one.name: _page(one, notebooks / f"{one.name}.ipynb") for one in executed}
    for name, text in pages.items():
        if (size := len(text.encode())) > MAX_PAGE_BYTES:
            raise UsageError(f"the page of {name} has {size:,} bytes, above {MAX_PAGE_BYTES:,}: draw fewer figures, or smaller ones")
    rows = _read_rows(out / INDEX) | {one.name: asdict(one) for one in executed}
    rows = {name: rows[name] for name in sorted(rows) if name in pages or (out / f"{name}.html").is_file()}
    machine = environment(broker_says={})
    about = f"Made with Python {machine['python']} on {machine['machine']['cores']} cores ({machine['machine']['processor']})"
    index = _template().render(title=TITLE, notebook=None, notebooks=list(rows.values()), machine=about, code_css="", seconds=_seconds)
    files = {f"{name}.html": text for name, text in pages.items()}
    files |= {INDEX: json.dumps(list(rows.values()), indent=2), "index.html": index}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            write_whole(out / name, _without_paths(text).rstrip() + "\n")
    except OSError as error:
        raise RecordError(f"cannot write the pages into {out}: {error.strerror or error}; choose another --html") from None
    return out / "index.html"


def _page(one: Executed, path: Path) -> str:
    import nbformat
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    body = f"<h1>{one.title}</h1><p>It did not run.</p>"
    if path.is_file():
        # HTML only: no script, no widget, and no markup that a page would have to fetch.
        options: dict[str, Any] = {"template_name": "basic", "exclude_input_prompt": True, "exclude_output_prompt": True}
        exporter = HTMLExporter(**options)  # type: ignore[no-untyped-call]
        node = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
        node.metadata.pop("widgets", None)  # sliders need a kernel; without one they are scripts
        for cell in node.cells:
            for output in cell.get("outputs", []):
                output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
            cell.get("outputs", [])[:] = [output for output in cell.get("outputs", []) if not _is_noise(output)]
        node.cells = [cell for cell in node.cells if "papermill-error-cell-tag" not in cell.metadata.get("tags", [])]
        body = _words_to_the_left(exporter.from_notebook_node(node)[0])
    css = HtmlFormatter(style="default").get_style_defs(".highlight")
    return str(_template().render(title=one.title, notebook=asdict(one), body=body, code_css=css, seconds=_seconds))


def _is_noise(output: Any) -> bool:
    """Return whether this is the answer, which stands at the top of the page already, or the name of the axes of a picture."""
    data = output.get("data", {})
    return 'class="conclusion"' in data.get("text/html", "") or (set(data) == {"text/plain"} and data["text/plain"].startswith("<Axes"))


def _words_to_the_left(body: str) -> str:
    """Return a page's body with the columns of its tables that hold words marked, so that only numbers stand to the right."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(body, "html.parser")
    for style in soup.select("style[scoped]"):  # pandas brings one with each table, and it would win over the page's
        style.decompose()
    for row in soup.select("tr[style]"):
        del row["style"]
    for table in soup.select("table.dataframe"):
        rows = [row.select("td") for row in table.select("tbody tr")]
        heads = table.select("thead tr:first-child th")
        for place in range(-min(len(row) for row in (heads, *rows)), 0):
            column = [row[place] for row in rows]
            if any(re.search("[A-Za-z]{3}", cell.text.replace("NaN", "")) for cell in column):
                for cell in (heads[place], *column):
                    cell["class"] = "words"
    return str(soup)


def _template() -> Any:
    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("notebook_page.html")


def _seconds(one: dict[str, Any]) -> str:
    return duration(one["took_s"])


def _without_paths(text: str) -> str:
    """Return a page without the folders of this machine; a traceback in a cell names them."""
    known = {str(CHECKOUT): "", sys.prefix: "", sys.base_prefix: "", str(Path.home()): "~", tempfile.gettempdir(): "…"}
    for folder in sorted(known, key=len, reverse=True):
        text = text.replace(f"{folder}{os.sep}", f"{known[folder]}{os.sep}" if known[folder] else "")
    return text


def _read_rows(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    try:
        return {row["name"]: asdict(Executed(**row)) for row in json.loads(path.read_text("utf-8"))}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunFolderError(f"cannot read {path}: {error}; remove the folder and make the pages of all notebooks anew") from None
