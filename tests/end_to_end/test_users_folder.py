"""The commands in a folder of the user's own, whose files have the names of modules that we and what we start import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.broker
BIN = Path(sys.executable).parent
LOCUSTFILE = Path(__file__).parents[2] / "locustfiles" / "bus_user.py"
BOUND_S = 150.0
QUICK = ("--set", "load.run_s=1", "--set", "load.warm_up_s=0.3", "--set", "slo.lag_ms_p99=10000")
SLOW_LINK = 'faults=[{kind="link_slow",at_s=0.2,for_s=0.5,pods=["ai-content-service"],direction="to_pod",delay_ms=50}]'
PACKAGE = {"sim/__init__.py": "", "sim/clock.py": "RATE = 60", "sim/machine.py": "RATE = 60"}
SCRATCH = {name: "print('scratch')" for name in ("redis.py", "random.py", "locust.py", "msgspec.py")}
RUNS = {  # what runs -> the files of the folder, the command and its words
    "pods in the run's process": (PACKAGE, "buslab", ["run", "baseline", "--set", "load.driver=pods"]),
    "pods in processes": (PACKAGE, "buslab", ["run", "baseline", "--set", "load.driver=pods", "--set", "hosts.kind=local"]),
    "links through the proxy": (PACKAGE, "buslab", ["run", "link_slow", "--set", SLOW_LINK]),
    "Locust's own command": (PACKAGE, "locust", ["-f", str(LOCUSTFILE), "--headless", "--only-summary", "-u", "2", "-r", "2"]),
    "Locust as a child": (SCRATCH, "buslab", ["run", "baseline"]),
}


def do(folder: Path, command: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | environment | {"LOCUST_SKIP_UPDATE_CHECK": "1"}
    return subprocess.run([str(BIN / command), *words], cwd=folder, capture_output=True, text=True, timeout=BOUND_S, check=False, env=env)


@pytest.mark.parametrize("what", RUNS)
def test_a_run_is_valid_whatever_the_user_s_folder_holds(tmp_path: Path, what: str) -> None:
    files, command, words = RUNS[what]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    done = do(tmp_path, command, *words, *QUICK, "--out", "run", *(["--no-report"] if command == "buslab" else []))
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "run" / "verdict.json").read_text())["verdict"] == "valid"
    assert "scratch" not in done.stdout + done.stderr


def test_locust_ends_with_2_when_the_run_that_it_started_died_of_an_error(tmp_path: Path) -> None:
    """A Python that dies of an error ends with 1, which is what a limit that was broken ends with."""
    (tmp_path / "rich.py").write_text("raise ImportError('no terminal today')")  # the command imports it, Locust does not
    words = ["-f", str(LOCUSTFILE), "--headless", "--only-summary", "-u", "2", "-r", "2", *QUICK, "--out", "run"]
    done = do(tmp_path.parent, "locust", *words, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "ImportError: no terminal today" in done.stderr
