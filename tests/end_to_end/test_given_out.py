"""A command that is given its folder writes there and nowhere else: checkout and working directory stay as they were."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BOUND_S = 500.0
SHORT = ("--set", "load.run_s=1", "--set", "load.warm_up_s=0.2", "--set", "slo={}")
Listing = dict[str, tuple[int, int]]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of its own: in ours other tests write meanwhile."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("sim", "locustfiles", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "reports").mkdir()
    shutil.copy(ROOT / "reports" / "capacity.json", folder / "reports")
    return folder


def listing(*folders: Path) -> Listing:
    """Return what lies in some folders: size and time of each file, and each folder."""
    paths = [path for folder in folders for path in folder.rglob("*")]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else (0, 0) for path in paths}


def buslab(checkout: Path, cwd: Path, *args: object, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [*prefix, sys.executable, "-P", "-m", "sim.cli", *map(str, args)]
    return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=BOUND_S, check=False, env=environment)


BROKER = pytest.mark.broker
LONG = (BROKER, pytest.mark.deep)


@pytest.mark.parametrize(
    ("args", "makes"),
    [
        (("run", "baseline", "--on", "model", *SHORT), "report.html"),
        (("sweep", "baseline", "--on", "model", *SHORT, "--set", "bus.batch_size=1,10", "--jobs", "2", "--keep", "all"), "sweep.parquet"),
        (("matrix", "--on", "model", "--fault", "pod_kill", "--bus", "reference"), "matrix.md"),
        (("claims", "2", "--on", "model"), "claims.json"),
        (("notebooks", "00_quickstart", "-p", "ground=model"), "conclusions.json"),
        pytest.param(("run", "baseline", *SHORT), "report.html", marks=BROKER),
        pytest.param(("run", "link_slow", *SHORT, "--set", "load.run_s=6.5", "--set", "hosts.kind=local"), "report.html", marks=LONG),
        pytest.param(("audit",), "run.json", marks=BROKER),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else None,
)
def test_nothing_is_written_outside_the_folder_that_was_given(checkout: Path, tmp_path: Path, args: tuple[str, ...], makes: str) -> None:
    (tmp_path / "here").mkdir()
    out, before = tmp_path / "out", listing(checkout, tmp_path / "here")
    done = buslab(checkout, tmp_path / "here" if args[0] == "run" else checkout, *args, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert listing(checkout, tmp_path / "here") == before
    assert (out / makes).exists()


@pytest.mark.parametrize(
    "args",
    [
        ("capacity", "baseline", "--from", "{checkout}/reports", "--target-rate", "5000"),
        ("compare", "{run}", "{run}", "--out", "{out}"),
        ("check", "{run}"),
        ("report", "{run}"),
        pytest.param(("fidelity", "--scenario", "baseline", "--out", "{out}/fidelity.md"), marks=LONG),
        pytest.param(("calibrate", "--out", "{out}/costs.json", "--rounds", "3"), marks=LONG),
        pytest.param(("capacity", "baseline", "--out", "{out}"), marks=LONG, id="capacity measured"),
        pytest.param(("bench", "--pods", "5", "--seconds", "0.1", "--rounds", "1"), marks=LONG),
    ],
    ids=lambda value: value[0],
)
def test_nor_by_the_commands_that_read_or_measure(checkout: Path, tmp_path: Path, args: tuple[str, ...]) -> None:
    (tmp_path / "here").mkdir()
    run, out = tmp_path / "run", tmp_path / "out"
    assert buslab(checkout, tmp_path / "here", "run", "baseline", "--on", "model", *SHORT, "--out", run).returncode == 0
    before = listing(checkout, tmp_path / "here")
    done = buslab(checkout, checkout, *(word.format(checkout=checkout, run=run, out=out) for word in args))
    assert done.returncode in (0, 1, 2) and "buslab:" not in done.stderr.replace("buslab: unknown:", ""), done.stderr  # too busy to say
    assert listing(checkout, tmp_path / "here") == before


def test_a_notebook_s_runs_and_sweeps_lie_beside_it(checkout: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked.py"
    asked.write_text(
        """# # Where do they go?
# %% tags=["parameters"]
ground = "model"
# %%
import sim
from sim.experiments.notebooks.conclusion import conclude
short = ["load.run_s=1", "load.warm_up_s=0.2", "slo={}"]
sim.run_scenario(sim.load_scenario("baseline", settings=short), on=ground)
sim.run_sweep("baseline", settings=[*short, "bus.batch_size=1,10"], on=ground)
conclude("valid", "beside it")
"""
    )
    before = listing(checkout)
    done = buslab(checkout, checkout, "notebooks", asked, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert listing(checkout) == before
    assert len(list((tmp_path / "out" / "runs" / "baseline").glob("*/run.json"))) == 2, "one, and `latest`"
    assert len(list((tmp_path / "out" / "sweeps" / "baseline").glob("*/sweep.parquet"))) >= 1


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="only root can make a folder that even root cannot write")
def test_a_notebook_runs_in_a_checkout_that_cannot_be_written(checkout: Path, tmp_path: Path) -> None:
    """As in an image whose checkout belongs to somebody else."""
    script = f'mount --bind "{checkout}" "{checkout}" && mount -o remount,ro,bind "{checkout}" && exec "$@"'
    if subprocess.run(["unshare", "-m", "bash", "-c", script, "bash", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    prefix = ("unshare", "-m", "bash", "-c", script, "bash")
    args = ("notebooks", "00_quickstart", "-p", "ground=model", "--out", tmp_path / "out")
    done = buslab(checkout, tmp_path, *args, prefix=prefix)
    assert done.returncode == 0, done.stdout + done.stderr
