"""Where modules come from: what lies in the user's folder is found last, by whatever child of ours, however the path names that folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sim
from sim.machine.import_path import OURS, child_environment, put_working_folder_last, python_child
from sim.machine.line import start_child

ROOT = Path(__file__).parents[2]
BOUND_S = 120.0
SHADOWS = (
    "redis",
    "locust",
    "random",
    "msgspec",
    "numpy",
    "gevent",
    "click",
    "psutil",
    "json",
    "asyncio",
    "runpy",
    "uvloop",
    "hiredis",
    "rich",
    "dask",
    "distributed",
    "tornado",
)
MODULES: dict[str, list[str] | None] = {  # what we start -> arguments with which it ends in order at once; None: it has a line, which ends
    "sim.pods.hosts.local_child": None,
    "sim.pods.hosts.dask_local_cluster": None,
    "sim.grounds.proxy": None,
    "sim.experiments.explore.crew": None,
    "sim.experiments.many_runs": None,
    "sim.measure.capacity.children": None,
    "sim.pods.programs.tap_process": None,
    "sim.measure.bench": ["virtual", "load.run_s=1"],
    "sim.cli": ["list", "scenarios"],
    "locust": ["-f", "LOCUSTFILES/bus_user.py", "--list"],
    "ipykernel_launcher": ["--version"],
}


@pytest.fixture
def users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose files have the names of what we import; each leaves a word when it is imported."""
    folder = tmp_path / "project"
    (folder / "sim").mkdir(parents=True)
    for file in ("sim/__init__.py", "sim/clock.py", "sitecustomize.py", *(f"{name}.py" for name in SHADOWS)):
        (folder / file).write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write('{file} ')\nraise ImportError('of the user: {file}')")
    (folder / "written_by_the_user.py").write_text("import sys, json, sim; print(sim.__file__, sys.argv[1:], __name__)")
    monkeypatch.chdir(folder)
    return folder


def imported(users_folder: Path) -> str:
    word = users_folder.parent / "imported"
    return word.read_text() if word.exists() else ""


def test_every_module_that_we_start_is_tried_here() -> None:
    files = [path for folder in ("sim", "locustfiles") for path in (ROOT / folder).rglob("*.py")]
    started = {module for path in files for module in re.findall(r'(?:python|start)_child\(\s*"([^"]+)"', path.read_text("utf-8"))}
    assert started == set(MODULES)


def test_no_child_is_started_in_another_way() -> None:
    for path in [path for folder in ("sim", "locustfiles") for path in (ROOT / folder).rglob("*.py")]:
        argvs = re.findall(r"sys\.executable, *(\S+?),", path.read_text("utf-8"))
        assert [option for option in argvs if option not in ('"-P"', '"-I"')] == [], path


@pytest.mark.broker
@pytest.mark.parametrize("module", MODULES)
def test_a_child_imports_nothing_of_the_user_s_folder_in_the_place_of_what_it_means(users_folder: Path, module: str) -> None:
    args = MODULES[module]
    if args is None:
        line = start_child(module, name=module, log=users_folder / "log")
        line.close()
        code, said = line.child.process.wait(BOUND_S), line.child.tail()
    else:
        argv = python_child(module, *(word.replace("LOCUSTFILES", str(ROOT / "locustfiles")) for word in args))
        done = subprocess.run(argv, capture_output=True, text=True, timeout=BOUND_S, check=False, env=child_environment())
        code, said = done.returncode, done.stdout + done.stderr
    assert (code, imported(users_folder)) == (0, ""), said


@pytest.mark.broker
@pytest.mark.parametrize("file", ["bus_user.py", "gateway_user.py"])
def test_locust_s_own_command_finds_what_the_locustfile_means(users_folder: Path, file: str) -> None:
    argv = [str(Path(sys.executable).with_name("locust")), "-f", str(ROOT / "locustfiles" / file), "--list"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=BOUND_S, check=False)
    assert (done.returncode, imported(users_folder)) == (0, ""), done.stderr


@pytest.mark.broker
def test_python_m_sim_cli_finds_what_it_means_unless_the_folder_has_a_sim_of_its_own(users_folder: Path) -> None:
    for file in (users_folder / "sim").iterdir():
        file.unlink()
    (users_folder / "sim").rmdir()
    for name in ("runpy", "sitecustomize"):  # Python itself imports these
        (users_folder / f"{name}.py").unlink(missing_ok=True)
    argv = [sys.executable, "-m", "sim.cli", "list", "scenarios"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=BOUND_S, check=False)
    assert (done.returncode, imported(users_folder)) == (0, ""), done.stderr
    assert "baseline" in done.stdout


@pytest.mark.broker
@pytest.mark.parametrize("named", ["", ".", ":", "./:", "FOLDER", ":/nowhere", "../project:lib", "LINK"])
def test_a_pythonpath_that_means_the_working_directory_does_not_put_it_first(
    users_folder: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    (users_folder.parent / "link").symlink_to(users_folder)
    path = named.replace("FOLDER", str(users_folder)).replace("LINK", str(users_folder.parent / "link"))
    monkeypatch.setenv("PYTHONPATH", path)
    done = subprocess.run(
        python_child("written_by_the_user", "a", 1), capture_output=True, text=True, timeout=BOUND_S, check=False, env=child_environment()
    )
    assert (done.stderr, imported(users_folder)) == ("", "")
    assert done.stdout.split(" ", 1) == [str(Path(sim.__file__)), "['a', '1'] __main__\n"], "the user's module is found, with our `sim`"


def test_other_folders_of_a_pythonpath_are_kept_wherever_the_child_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "lib", "/elsewhere", str(tmp_path), "../up"]))
    kept = child_environment(WORD="hello")
    assert kept["WORD"] == "hello"
    assert kept["PYTHONPATH"].split(os.pathsep) == [str(tmp_path / "lib"), "/elsewhere", str(tmp_path.parent / "up")]
    monkeypatch.setenv("PYTHONPATH", ".")
    assert "PYTHONPATH" not in child_environment()


def test_the_working_directory_goes_to_the_end_and_our_own_folder_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/locustfiles", "", str(tmp_path), "/site", "."])
    put_working_folder_last()
    assert sys.path == ["/locustfiles", "/site", OURS, str(tmp_path)]
    monkeypatch.chdir(OURS)
    monkeypatch.setattr(sys, "path", [OURS, "/site"])
    put_working_folder_last()
    assert sys.path == ["/site", OURS]


def test_a_working_directory_that_was_deleted_is_no_folder_of_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(sys, "path", ["/site"])
    put_working_folder_last()
    assert sys.path == ["/site", OURS]
    monkeypatch.chdir(tmp_path)


def test_the_command_finds_what_it_means_where_a_pythonpath_puts_the_working_directory_first(tmp_path: Path) -> None:
    for name in ("random", "msgspec", "redis", "click"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('shadowed by {name}')\n")
    root = Path(__file__).parents[2]
    module, function = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]["buslab"].split(":")
    code = f"import sys; from {module} import {function}; sys.exit({function}())"  # as the installed command does
    argv = [sys.executable, "-P", "-c", code, "list", "scenarios"]
    for path in (".", ":", str(tmp_path)):
        environment = os.environ | {"PYTHONPATH": path}
        done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (path, done.stdout + done.stderr)
        assert "baseline" in done.stdout
