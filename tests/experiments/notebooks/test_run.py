"""Notebooks run headless end in a verdict and an exit code, whatever happens in their cells; what is wrong before is refused."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from sim.errors import UsageError
from sim.experiments.notebooks import run
from sim.experiments.notebooks.run import Executed, exit_code, load_notebook, read_parameters, run_notebooks

HEAD = "# %% [markdown]\n# # Is it so?\n# Words.\n"
PARAMETERS = '# %% tags=["parameters"]\npods = 3\nrate = 2.5\nground = "model"\nsettings = ("a=1",)\ndeep = False\n'
CONCLUDE = "# %%\nfrom sim import conclude\n"


@pytest.fixture
def write(tmp_path: Path):
    def make(name: str, *cells: str) -> str:
        path = tmp_path / f"{name}.py"
        path.write_text(HEAD + "".join(cells), "utf-8")
        return str(path)

    return make


@pytest.mark.broker
def test_each_notebook_ends_in_its_conclusion_and_anything_else_is_unknown(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")  # as in CI: pictures stay in the notebook all the same
    draw = "# %%\nimport matplotlib.pyplot as plt\nplt.subplots()[1]\n"
    names = [
        write(
            "says", PARAMETERS, draw, CONCLUDE, 'conclude("valid", f"{pods} pods at {rate} on {ground} with {settings}, deep {deep}.")\n'
        ),
        write("breaks", PARAMETERS, CONCLUDE, 'conclude("invalid", "It breaks.")\n'),
        write("fails", PARAMETERS, CONCLUDE, 'conclude("valid", "It holds.")\n# %%\npods.no_such_thing\n'),
        write("forgets", PARAMETERS),
        write("dies", PARAMETERS, "# %%\nimport os\nos._exit(3)\n"),
    ]
    out, told = tmp_path / "out", []
    given = ("pods=5", "rate=4", "ground=embedded", 'settings=["b=2", "c=3"]', "deep=true")
    done = {one.name: one for one in run_notebooks(names, parameters=given, out=out, jobs=3, timeout_s=300, tell=told.append)}
    assert {name: one.verdict for name, one in done.items()} == {
        "says": "valid",
        "breaks": "invalid",
        "fails": "unknown",
        "forgets": "unknown",
        "dies": "unknown",
    }
    assert done["says"].sentence == "5 pods at 4 on embedded with ['b=2', 'c=3'], deep True."
    assert done["says"].title == "Is it so?"
    assert done["fails"].error == [
        "code cell 4 failed: AttributeError: 'int' object has no attribute 'no_such_thing'",
        "  1 pods.no_such_thing",
    ]  # the second cell is the one with what was given
    assert "without a conclusion" in done["forgets"].sentence
    assert "Kernel died" in done["dies"].sentence
    assert exit_code(list(done.values())) == 1
    assert {line.split(":")[0] for line in told} == set(done)
    assert json.loads((out / "conclusions.json").read_text("utf-8"))[0]["sentence"] == done["says"].sentence
    cells = json.loads((out / "says.ipynb").read_text("utf-8"))["cells"]
    assert "image/png" in json.dumps(cells)


@pytest.mark.broker
def test_a_notebook_that_takes_too_long_is_ended_with_all_it_started(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner's clock jumps when the notebook has begun: no start of a kernel is too slow for this test, and nobody waits."""
    slow = write("slow", "# %%\nimport subprocess\nfrom pathlib import Path\nchild = subprocess.Popen(['sleep', '600'])\n"
                 "Path('child').write_text(str(child.pid))\nchild.wait()\n")  # fmt: skip
    begun = tmp_path / "child"

    def later_when_begun() -> float:
        return time.monotonic() + (1000 if begun.is_file() and begun.read_text() else 0)

    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=later_when_begun, sleep=time.sleep))
    done = run_notebooks([slow], out=tmp_path / "out", timeout_s=300)
    assert done[0].verdict == "unknown"
    assert done[0].sentence == "it took longer than 5 min and was ended"
    assert not psutil.pid_exists(int(begun.read_text()))


@pytest.mark.broker
def test_an_interruption_ends_every_notebook_and_what_it_started_and_keeps_what_was_done(write, tmp_path: Path) -> None:
    quick = write("quick", "# %%\nfrom sim import conclude\nconclude('valid', 'Done.')\n")
    later = write("later", "# %%\n1\n")
    slow = write("slow", "# %%\nfrom pathlib import Path\nimport os, time\nPath('begun').write_text(str(os.getpid()))\ntime.sleep(600)\n")
    buslab = [sys.executable, "-m", "sim.cli", "notebooks", quick, slow, later, "--jobs", "1", "--out", str(tmp_path / "out")]
    with subprocess.Popen(buslab, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        begun = tmp_path / "begun"
        while not (begun.is_file() and begun.read_text()):  # the test's own timeout bounds it
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
            assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=150)
    assert process.returncode == 130
    assert said.splitlines()[-1] == f"buslab: interrupted by SIGINT; 1 of 3 notebooks are done and in {tmp_path / 'out'}"
    kept = json.loads((tmp_path / "out" / "conclusions.json").read_text("utf-8"))
    assert [one["verdict"] for one in kept] == ["valid", "unknown", "unknown"]
    assert [one["sentence"] for one in kept[1:]] == ["it was interrupted", "interrupted before it began"]
    assert not psutil.pid_exists(int(begun.read_text()))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("pod=3", "has no parameter 'pod' (did you mean 'pods'?)"),
        ("pods", "write key=value"),
        ("pods=many", "pods takes a value like 3, not 'many'"),
        ("pods=2.5", "pods takes a value like"),
        ("pods=true", "pods takes a value like"),
        ("rate=fast", "rate takes a value like"),
        ("rate=inf", "rate takes a value like"),
        ("settings=a=1", "settings takes a value like"),
        ("settings=[1]", "settings takes a value like"),
        ("deep=1", "deep takes a value like"),
    ],
)
def test_a_parameter_that_is_not_one_is_refused_before_anything_runs(given: str, said: str, write, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        run_notebooks([write("one", PARAMETERS)], parameters=(given,), out=tmp_path / "out")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_parameter_is_read_as_its_default_is(write) -> None:
    book = load_notebook(write("one", PARAMETERS))
    given = ("pods=7", "rate=1", "ground=7", "settings=[]", "deep=true")
    assert read_parameters(book, given) == {"pods": 7, "rate": 1, "ground": "7", "settings": [], "deep": True}


def test_a_cell_without_outputs_is_read_as_one_that_did_not_run(tmp_path: Path) -> None:
    cell = {"cell_type": "code", "source": "1", "metadata": {}}
    path = tmp_path / "bare.ipynb"
    path.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}), "utf-8")
    assert [(cell.outputs, cell.execution_count) for cell in load_notebook(str(path)).node.cells] == [([], None)]


def test_what_is_no_notebook_is_refused(write, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no notebook '00_quick' \(did you mean '00_quickstart'\?\)"):
        run_notebooks(["00_quick"])
    with pytest.raises(UsageError, match="named twice"):
        run_notebooks(["00_quickstart", "00_quickstart"])
    (tmp_path / "foreign.ipynb").write_text("{", "utf-8")
    with pytest.raises(UsageError, match="cannot read the notebook"):
        run_notebooks([str(tmp_path / "foreign.ipynb")])
    (tmp_path / "list.ipynb").write_text("[]", "utf-8")
    with pytest.raises(UsageError, match="it is no notebook, or a damaged one"):
        run_notebooks([str(tmp_path / "list.ipynb")])
    with pytest.raises(UsageError, match="cannot read the cell `parameters`"):
        run_notebooks([write("computed", '# %% tags=["parameters"]\npods = 3 * 4\n')])
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(UsageError, match="--out"):
        run_notebooks([write("one", PARAMETERS)], out=tmp_path / "file")


def test_the_exit_code_is_that_of_the_worst() -> None:
    def of(*verdicts: str) -> int:
        return exit_code([Executed(str(n), "?", verdict, "So.", 1.0) for n, verdict in enumerate(verdicts)])

    assert (of("valid", "valid"), of("valid", "unknown"), of("unknown", "invalid"), of()) == (0, 2, 1, 2)


SHOP = Path(__file__).parents[3] / "docs" / "examples" / "shop" / "everyday.toml"


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("08_many_pods", ("pods=[5, 30]", "computed=[5, 30, 100]", "run_s=0.5"), "with 30 pods"),
        pytest.param("04_batch_size", ("run_s={20=30}", "sizes=[5]", "intervals_ms=[500]"), "20 items / 500 ms", marks=pytest.mark.deep),
        pytest.param("01_delivery_duplication", ("replicas=[1, 3]",), "3 replicas handle each event 3 times", marks=pytest.mark.deep),
        pytest.param("03_fallback", (), "21 pods notice nothing", marks=pytest.mark.deep),
        pytest.param("06_failure_injection", ('faults=["pod_kill", "subscribers_cut"]',), "in 2 faults: reference", marks=pytest.mark.deep),
    ],
)
def test_a_notebook_takes_a_bus_without_any_of_the_references_names(name: str, given: tuple[str, ...], told: str, tmp_path: Path) -> None:
    (done,) = run_notebooks([name], parameters=(f"scenario={SHOP}", *given), out=tmp_path / "out", timeout_s=300)
    assert done.error == [] and told in done.sentence, done
    assert done.verdict == "valid", done.sentence
