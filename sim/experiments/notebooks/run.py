"""Run notebooks headless: each in a kernel of its own, with parameters, to a verdict that CI can read.

A notebook is its reviewed ``.py``; papermill runs it and keeps it with what it showed. Its verdict is what its last cell concluded
(`sim.experiments.notebooks.conclusion`), and unknown when a cell failed, when it took too long, or when it concluded nothing.
Ctrl-C or SIGTERM ends the notebooks that are running, with all they started, and these are unknown; what the others concluded is kept.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import psutil

from sim.errors import BuslabError, Interrupted, RecordError, UsageError, did_you_mean
from sim.experiments.notebooks.conclusion import CONCLUSION_ENV, read_conclusion
from sim.machine.clock import utc_now
from sim.machine.files import write_whole
from sim.machine.import_path import child_environment, python_child
from sim.machine.process import Child
from sim.machine.signals import interruptible
from sim.machine.words import duration
from sim.results.checkers.verdict import EXIT_CODES, worst
from sim.run.folder import REPORTS_ENV, runs_folder
from sim.wire.shown import HIDDEN, secrets_of, shown_url, without_secrets

NOTEBOOKS = Path(__file__).parents[3] / "notebooks"
KERNEL = "python3"
INDEX = "conclusions.json"
PERIOD_S = 0.1
TOLD_EVERY_S = 15.0
LEAST_SECRET = 3  # characters; fewer are hidden with the URL around them, and by themselves would be in every other word
NOT_READ = ("kernelspec", "language_info", "cell_type", "output_type", "id")
GRACE_S = 15.0  # for a run inside the notebook to heal its faults and end its server
# jsonschema imports rfc3987_syntax where it is installed, and compiling its grammar takes seconds of each start; no notebook needs it.
LAUNCH = "import sys; sys.modules['rfc3987_syntax'] = None; from papermill.cli import papermill; papermill()"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Notebook:
    """A notebook before it runs: its cells, its question, its parameters with their defaults."""

    name: str
    path: Path
    title: str
    parameters: dict[str, Any]
    node: Any


@dataclass(frozen=True)
class Executed:
    """What a notebook came to. `error` is why it did not end, in a few lines; `sentence` is then that error's first."""

    name: str
    title: str
    verdict: str
    sentence: str
    took_s: float
    parameters: dict[str, Any] = field(default_factory=dict)  # all of them: what was given, else the default
    error: list[str] = field(default_factory=list)
    ground: str = "-"
    ran_at: str = ""  # UTC, to the minute


def default_folder() -> Path:
    """Return where executed notebooks go when nobody says where."""
    return runs_folder() / "notebooks"


def notebook_paths() -> dict[str, Path]:
    """Return the notebooks of this checkout: name -> reviewed ``.py``."""
    return {path.stem: path for path in sorted(NOTEBOOKS.glob("*.py"))}


def run_notebooks(
    names: Sequence[str] = (),
    *,
    parameters: Sequence[str] = (),
    out: Path | None = None,
    jobs: int = 1,
    timeout_s: float = 600.0,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Executed]:
    """Run notebooks, some at a time, and return what each came to, in the order asked for.

    Parameters
    ----------
    names
        Names of `notebook_paths`, or files (``.py`` or ``.ipynb``); by default every one of the checkout.
    parameters
        ``key=value`` each, the value as in TOML or plain text; every notebook that runs must have the parameter.
    out
        The folder for the executed ``.ipynb`` files, for ``conclusions.json``, and for the runs and sweeps that a notebook gives no folder;
        by default ``reports/runs/notebooks``, and the latter where such go by hand.
    jobs
        How many at a time; those that measure disturb each other.
    timeout_s
        How long one may take.
    tell
        Called with a line whenever one begins, ends, or goes on for long.

    Raises
    ------
    UsageError
        No such notebook or parameter, a value of another type, or `out` cannot be written. Nothing has run then.
    Interrupted
        Ctrl-C or SIGTERM; what was done is in `out`.
    """
    books = [load_notebook(name) for name in names or notebook_paths()]
    if not books:
        raise UsageError(f"no notebooks in {NOTEBOOKS}; name the files to run")
    if twice := sorted({book.name for book in books if [b.name for b in books].count(book.name) > 1}):
        raise UsageError(f"{', '.join(twice)}: named twice; their files would have the same name")
    given = {book.name: read_parameters(book, parameters) for book in books}
    folder = out or default_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {folder}: {error.strerror or error}; choose another") from None
    waiting, ended = list(books), dict[str, Executed]()
    running: list[_Running] = []
    asked: list[int] = []
    with interruptible(asked.append), tempfile.TemporaryDirectory(prefix="buslab-notebooks-") as scratch, contextlib.ExitStack() as started:
        while (waiting or running) and not asked:
            while waiting and len(running) < jobs:
                book = waiting.pop(0)
                tell(f"{book.name}: begins")
                running.append(started.enter_context(_running(book, given[book.name], Path(scratch), out=out)))
            time.sleep(PERIOD_S)
            for one in [one for one in running if one.is_over(timeout_s, tell)]:
                running.remove(one)
                ended[one.book.name] = done = one.result(folder)
                tell(f"{done.name}: {done.verdict} after {duration(done.took_s)}")
        count = len(ended)
        for one in running:
            one.end("it was interrupted")
            ended[one.book.name] = one.result(folder)
    executed = [ended.get(book.name) or Executed(book.name, book.title, "unknown", "interrupted before it began", 0.0) for book in books]
    _write_index(folder / INDEX, executed)
    if asked:
        name = signal.Signals(asked[0]).name
        raise Interrupted(asked[0], f"interrupted by {name}; {count} of {len(books)} notebooks are done and in {folder}")
    return executed


def exit_code(executed: Sequence[Executed]) -> int:
    """Return 0 when all are valid, 1 when one is invalid, else 2."""
    return EXIT_CODES[worst([one.verdict for one in executed])]


def load_notebook(name: str) -> Notebook:
    """Read a notebook by name or file, or raise `UsageError` with what is wrong with it."""
    import jupytext

    known = notebook_paths()
    path = known.get(name) or Path(name)
    if path.suffix not in (".py", ".ipynb") or not path.is_file():
        raise UsageError(f"no notebook {name!r}{did_you_mean(name, known)}; give one of {', '.join(known)}, or a .py or .ipynb file")
    try:
        node = jupytext.read(path)
    except Exception as error:  # whatever its parsers raise, the file is no notebook
        raise UsageError(f"cannot read the notebook {path}: it is no notebook, or a damaged one ({str(error).splitlines()[0]})") from None
    code = [cell for cell in node.cells if cell.cell_type == "code"]
    for cell in code:
        cell.setdefault("outputs", [])
        cell.setdefault("execution_count", None)
    if not code:
        raise UsageError(f"{path} has no code cells; it is not a notebook in percent format")
    node.metadata["kernelspec"] = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": KERNEL}
    heads = [line for cell in node.cells if cell.cell_type == "markdown" for line in cell.source.splitlines() if line.startswith("# ")]
    tagged = [cell.source for cell in code if "parameters" in cell.metadata.get("tags", [])]
    return Notebook(path.stem, path, heads[0][2:].strip() if heads else path.stem, _defaults(path, tagged), node)


def _defaults(path: Path, cells: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of the cell with that tag; each is a plain value, so that what is given can be checked against it."""
    found: dict[str, Any] = {}
    try:
        for line in ast.parse("\n".join(cells)).body:
            names = ast.unparse(line.targets[0]).strip("()").split(", ") if isinstance(line, ast.Assign) and len(line.targets) == 1 else []
            if not isinstance(line, ast.Assign) or not all(name.isidentifier() for name in names):
                raise ValueError("it may only assign plain values to names")
            value = ast.literal_eval(line.value)
            found |= dict(zip(names, value, strict=True)) if len(names) > 1 else {names[0]: value}
    except (SyntaxError, TypeError, ValueError) as error:
        raise UsageError(f"cannot read the cell `parameters` of {path}: {error}") from None
    return found


def read_parameters(book: Notebook, given: Sequence[str]) -> dict[str, Any]:
    """Return what was given for a notebook's parameters, or raise `UsageError` for one that is unknown or of another type."""
    values: dict[str, Any] = {}
    for text in given:
        key, equals, word = text.partition("=")
        if not equals or key not in book.parameters:
            hint = did_you_mean(key, book.parameters) if equals else ""
            known = ", ".join(f"{name}={value!r}" for name, value in book.parameters.items()) or "none"
            what = f"{book.name} has no parameter {key!r}{hint}" if equals else "write key=value"
            raise UsageError(f"-p {text!r}: {what}; its parameters: {known}")
        default = book.parameters[key]
        try:
            value = tomllib.loads(f"value = {word}")["value"]
        except (ValueError, RecursionError):  # no TOML, a number of thousands of digits, nested too deep
            value = word
        if isinstance(default, str):
            value = value if isinstance(value, str) else word
        if not _fits(value, default):
            raise UsageError(f"-p {text!r}: {key} takes a value like {default!r}, not {value!r}")
        values[key] = value
    return values


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, tuple | list):
        return isinstance(value, list) and all(not default or _fits(one, default[0]) for one in value)
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
    return default is None or type(value) is type(default)


class _Running:
    """One notebook's process, from its start to its result."""

    def __init__(self, book: Notebook, parameters: Mapping[str, Any], folder: Path, *, out: Path | None) -> None:
        import nbformat

        folder.mkdir()
        self.book, self._parameters, self._folder = book, dict(parameters), folder
        self._made, self._conclusion = folder / "executed.ipynb", folder / "conclusion"
        source, values = folder / "source.ipynb", folder / "parameters.yaml"
        source.write_text(nbformat.writes(book.node), "utf-8")  # type: ignore[no-untyped-call]
        values.write_text(json.dumps(self._parameters, allow_nan=False), "utf-8")  # YAML reads it
        env = child_environment(JUPYTER_PATH=_kernels(folder / "jupyter"), **{CONCLUSION_ENV: str(self._conclusion)})
        if out is not None:
            env[REPORTS_ENV] = str(out.absolute())
        env.pop("MPLBACKEND", None)  # a backend named in the environment would keep pictures out of the notebook
        argv = [sys.executable, "-P", "-c", LAUNCH, str(source), str(self._made), "--kernel", KERNEL, "--no-progress-bar"]
        argv += ["--parameters_file", str(values), "--cwd", str(book.path.parent.resolve()), "--log-level", "ERROR"]
        self.child = Child(argv, log=folder / "log", env=env)
        self._began_s = self._told_s = time.monotonic()
        self._why_ended = ""
        self._ran_at = utc_now().strftime("%Y-%m-%d %H:%M")

    def is_over(self, timeout_s: float, tell: Callable[[str], None]) -> bool:
        """Return whether it has ended; end it when it has taken too long."""
        if self.child.poll() is not None:
            return True
        now_s = time.monotonic()
        if now_s - self._began_s > timeout_s:
            self.end(f"it took longer than {duration(timeout_s)} and was ended")
            return True
        if now_s - self._told_s > TOLD_EVERY_S:
            self._told_s = now_s
            tell(f"{self.book.name}: {_progress(self._made)}, {duration(now_s - self._began_s)}")
        return False

    def end(self, why: str = "") -> None:
        """Interrupt the kernel, so that what runs in it heals and ends; then end whatever is left."""
        if self.child.poll() is not None:
            return
        self._why_ended = why
        with contextlib.suppress(psutil.Error):
            papermill = psutil.Process(self.child.pid)
            family, kernels = papermill.children(recursive=True), papermill.children()
            for kernel in kernels:
                with contextlib.suppress(psutil.Error):
                    kernel.send_signal(signal.SIGINT)
            psutil.wait_procs([papermill], timeout=GRACE_S)
            self.child.end()
            for left in psutil.wait_procs(family, timeout=2)[1]:
                with contextlib.suppress(psutil.Error):
                    left.kill()
        self.child.end()

    def result(self, out: Path) -> Executed:
        """Return what it came to, and keep the executed notebook."""
        took_s = time.monotonic() - self._began_s
        if self._made.is_file():
            try:
                _hide(self._made, self._parameters)
                shutil.move(self._made, out / f"{self.book.name}.ipynb")
            except OSError as error:
                raise RecordError(f"cannot write {out / self.book.name}.ipynb: {error.strerror or error}; choose another --out") from None
        say = partial(self._say, took_s=took_s)
        failed = _cell_error(out / f"{self.book.name}.ipynb") if self.child.poll() else []
        if self._why_ended:
            failed = [self._why_ended, *failed]
        elif self.child.poll() and not failed:
            failed = [f"papermill ended with {self.child.poll()}: {self.child.tail().rpartition(' | ')[2]}"]
        if failed:
            return say("unknown", failed[0], error=failed)
        try:
            concluded = read_conclusion(self._conclusion)
        except BuslabError as problem:
            return say("unknown", str(problem))
        if concluded is None:
            return say("unknown", "it ended without a conclusion: its last cell calls conclude(…)")
        return say(concluded.verdict, concluded.sentence)

    def _say(self, verdict: str, sentence: str, *, took_s: float, error: Sequence[str] = ()) -> Executed:
        values = {key: _shown(value) for key, value in (self.book.parameters | self._parameters).items()}
        ground, book = str(values.get("ground", "-")), self.book
        sentence, error = without_secrets(sentence), [without_secrets(line) for line in error]
        return Executed(book.name, book.title, verdict, sentence, took_s, values, error, ground, self._ran_at)


def _shown(value: Any) -> Any:
    """Return a parameter as it may be kept: a URL without its secrets."""
    if isinstance(value, list | tuple):
        return [_shown(one) for one in value]
    return shown_url(value) if isinstance(value, str) and secrets_of(value) else value


def _hide(executed: Path, parameters: Mapping[str, Any]) -> None:
    """Take the secrets of the parameters out of an executed notebook: they stand in a cell, in the metadata, maybe in what it shows."""
    given = [one for value in parameters.values() for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
    written: dict[str, str] = {}
    for one in given:
        for secret in secrets_of(one):
            for form in (secret, unquote(secret)):
                written.setdefault(form, shown_url(one) if form == one else HIDDEN)
    if written:
        executed.write_text(json.dumps(_without(json.loads(executed.read_text("utf-8")), written), indent=1) + "\n", "utf-8")


def _without(node: Any, written: Mapping[str, str]) -> Any:
    """Return part of a notebook with other words in the place of some, in all that a person reads."""
    if isinstance(node, str):
        for secret, shown in written.items():
            node = node.replace(secret, shown) if len(secret) >= LEAST_SECRET else node
        return node
    if isinstance(node, list):
        return [_without(one, written) for one in node]
    if isinstance(node, dict):
        return {key: value if key in NOT_READ or key.startswith("image/") else _without(value, written) for key, value in node.items()}
    return node


def _kernels(folder: Path) -> str:
    """Write down how our own kernel is started; return a JUPYTER_PATH in which it comes first.

    What lies in the notebook's folder can be imported there, but does not come before what is installed, as it would in Jupyter's own.
    """
    kernel = folder / "kernels" / KERNEL / "kernel.json"
    kernel.parent.mkdir(parents=True)
    argv = [*python_child("ipykernel_launcher", "-f"), "{connection_file}", "--IPKernelApp.ignore_cwd=True"]
    kernel.write_text(json.dumps({"argv": argv, "display_name": "Python 3 (ipykernel)", "language": "python"}), "utf-8")
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("JUPYTER_PATH"))))


@contextlib.contextmanager
def _running(book: Notebook, parameters: Mapping[str, Any], scratch: Path, *, out: Path | None) -> Iterator[_Running]:
    one = _Running(book, parameters, scratch / book.name, out=out)
    try:
        yield one
    finally:
        one.end()


def _cells(path: Path) -> list[dict[str, Any]]:
    """Return the code cells of an executed notebook; none when it is not whole yet."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    return []


def _progress(path: Path) -> str:
    cells = _cells(path)
    done = sum(cell.get("metadata", {}).get("papermill", {}).get("status") == "completed" for cell in cells)
    return f"{done} of {len(cells)} cells done" if cells else "starting"


def _cell_error(path: Path) -> list[str]:
    """Return the error of the first cell that failed: what it was, where, and the line of the notebook."""
    for place, cell in enumerate(_cells(path), start=1):
        for output in cell.get("outputs", []):
            if output.get("output_type") == "error":
                arrows = [line for line in _ANSI.sub("", "\n".join(output.get("traceback", []))).splitlines() if line.startswith("---->")]
                said = " ".join(str(output.get("evalue", "")).split())[:500]
                where = [f"  {' '.join(arrows[0].split()[1:])}"] if arrows else []
                return [f"code cell {place} failed: {output.get('ename')}: {said}", *where]
    return []


def _write_index(path: Path, executed: Sequence[Executed]) -> None:
    try:
        write_whole(path, json.dumps([asdict(one) for one in executed], indent=2) + "\n")
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror or error}; choose another --out") from None
