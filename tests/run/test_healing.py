"""A lab that is killed in the middle of a fault: the next command heals what it left, says so, and touches nothing that lives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sim.grounds.container_engine import IMAGE_ENV, engine
from sim.machine.lease import identity, left_over, note_process, place, read
from sim.record.run_info import Phase, read_info
from sim.results.opened_run import open_run
from sim.run.folder import write_info
from sim.run.healing import heal_left_over, mark_killed
from tests.support.run_folders import synthetic_info

BOUND_S = 120
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
LONG = ("--set", "load.driver=pods", "--set", "load.warm_up_s=0.2", "--set", "load.run_s=60", "--set", "slo={}")
NEXT = ("baseline", "--on", "model", "--set", "load.run_s=1", "--set", "load.warm_up_s=0.2", "--no-report")


@pytest.fixture
def leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder of leases of a user of one's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "state" / "buslab" / "leases"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEP) as process:
        yield process
        process.kill()


def lease(folder: Path, *lines: object, who: str = "dead", where: str = "") -> Path:
    """Write the lease of a process that had this id before us, and is dead unless `who` says that it is us."""
    path = folder / "1-test.jsonl"
    me = {"owner": os.getpid(), "identity": who, "place": where or place()}
    path.write_text("".join(json.dumps(line) + "\n" for line in (me, *lines)))
    return path


def test_what_a_dead_lab_had_started_is_ended_although_it_stands_still(leases: Path, sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.send_signal(signal.SIGSTOP)
    os.waitpid(sleeper.pid, os.WUNTRACED)  # it stands still some time after the signal
    path = lease(leases, {"process": sleeper.pid, "identity": identity(sleeper.pid), "name": "valkey-server"})
    with path.open("a") as file:
        file.write('{"process": 1, "iden')  # torn by the kill
    (told,) = heal_left_over()
    assert f"ended valkey-server (process {sleeper.pid}, frozen)" in told
    assert sleeper.poll() is not None
    assert not path.exists()
    assert heal_left_over() == []


def test_a_process_that_only_has_the_same_id_is_left_alone(leases: Path, sleeper: subprocess.Popen[bytes]) -> None:
    path = lease(leases, {"process": sleeper.pid, "identity": "another/1", "name": "valkey-server"})
    assert heal_left_over() == []
    assert sleeper.poll() is None
    assert not path.exists(), "nothing is left of that lab"


@pytest.mark.parametrize(("who", "where"), [("alive", ""), ("dead", "elsewhere")])
def test_a_living_lab_and_another_machine_s_are_not_touched(leases: Path, sleeper: subprocess.Popen[bytes], who: str, where: str) -> None:
    path = lease(
        leases,
        {"process": sleeper.pid, "identity": identity(sleeper.pid), "name": "x"},
        who=identity(os.getpid()) if who == "alive" else who,
        where=where,
    )
    before = path.read_bytes()
    assert heal_left_over() == []
    assert sleeper.poll() is None
    assert path.read_bytes() == before


def test_two_commands_do_not_heal_the_same_at_one_time(leases: Path) -> None:
    lease(leases)
    for _ in left_over():
        assert list(left_over()) == []


@pytest.mark.parametrize("text", ["", "no json", "{}", '{"owner": 1}', "[]", '{"owner": "x", "identity": 1, "place": 2}'])
def test_a_file_that_is_none_of_ours_is_passed_over(leases: Path, text: str) -> None:
    path = leases / "2-test.jsonl"
    path.write_text(text)
    assert read(path) is None
    assert heal_left_over() == []


def test_only_a_run_that_did_not_end_is_marked(tmp_path: Path) -> None:
    assert not mark_killed(tmp_path / "gone", 1)
    path = tmp_path / "run.json"
    for state, marked in (("complete", False), ("interrupted", False), ("running", True), ("killed", False)):
        info = synthetic_info()
        info.state, info.phases = state, [Phase("start", 1, 2), Phase("run", 2)]
        write_info(tmp_path, info)
        assert mark_killed(tmp_path, 7) is marked
        if marked:
            info.state, info.reason = "killed", "its process 7 was killed in phase run; what was written by then is kept"
        assert read_info(path) == info


def test_a_run_of_another_version_is_not_marked(tmp_path: Path) -> None:
    for text in ("{oops", '{"state": "running", "format": 99}', '{"state": "running"}'):
        (tmp_path / "run.json").write_text(text)
        assert not mark_killed(tmp_path, 7)
        assert (tmp_path / "run.json").read_text() == text


@pytest.mark.broker
def test_the_lease_goes_with_a_process_that_ends_and_stays_of_one_that_is_killed(leases: Path) -> None:
    script = "import sys; from sim.machine.lease import note_process; note_process(1, 'init'); print(flush=True); sys.stdin.read()"
    for end in ("close", "kill"):
        with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
            assert one.stdin is not None
            assert one.stdout is not None
            one.stdout.readline()
            (path,) = leases.iterdir()
            assert read(path) is None, "it lives"
            one.stdin.close() if end == "close" else one.kill()
        assert list(leases.iterdir()) == ([path] if end == "kill" else [])
    assert read(path) is not None


# -- real labs, really killed ----------------------------------------------------------------------------------------

ALONE = "import sys, sim.machine.process; sim.machine.process.die_with_parent = lambda: None; from sim.cli.main import main; main()"


def start(*args: str, cwd: Path, alone: bool) -> subprocess.Popen[bytes]:
    """Start `buslab`; `alone`: where the kernel does not end children with their parent."""
    how = ["-c", ALONE] if alone else ["-m", "sim.cli"]
    return subprocess.Popen([sys.executable, *how, *args], cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def until_running(folder: Path, lab: subprocess.Popen[bytes]) -> None:
    """Return when the run's load has begun; a fault at 0 s begins then."""
    deadline_s = time.monotonic() + BOUND_S
    while time.monotonic() < deadline_s:
        assert lab.poll() is None
        if (folder / "run.json").exists() and read_info(folder / "run.json").phases[-1].name == "run":
            return
        time.sleep(0.02)
    raise AssertionError("no run phase in time")


def next_command(cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "sim.cli", "run", *NEXT], cwd=cwd, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done
    (line,) = [line for line in done.stderr.splitlines() if "healed" in line]
    return line


@pytest.mark.broker
@pytest.mark.parametrize(
    ("scenario", "alone"), [("broker_freeze", True), ("broker_freeze", False), ("link_blackhole", True)], ids=lambda one: str(one)
)
def test_a_lab_killed_in_a_fault_is_healed_by_the_next_command(leases: Path, tmp_path: Path, scenario: str, alone: bool) -> None:
    out = tmp_path / "out"
    fault = f'faults=[{{kind="{scenario}",at_s=0,for_s=50}}]'
    with start("run", scenario, "--out", str(out), *LONG, "--set", fault, cwd=tmp_path, alone=alone) as lab:
        until_running(out, lab)
        children = psutil.Process(lab.pid).children()
        assert len(children) == (1 if scenario == "broker_freeze" else 2)
        while scenario == "broker_freeze" and children[0].status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        assert heal_left_over() == [], "a lab that lives is let be"
        assert lab.poll() is None
        lab.kill()
    if scenario == "link_blackhole":  # the proxy ends by itself, when the line to its lab is gone
        proxies = [one for one in children if "sim.grounds.proxy" in one.cmdline()] if all(one.is_running() for one in children) else []
        psutil.wait_procs(proxies, timeout=BOUND_S)
    if not alone:
        assert psutil.wait_procs(children, timeout=BOUND_S)[1] == []
    line = next_command(tmp_path)
    assert f"marked {out} as killed" in line
    assert ("ended valkey-server" in line) is alone
    assert (", frozen)" in line) is (alone and scenario == "broker_freeze")
    assert psutil.wait_procs(children, timeout=BOUND_S)[1] == []
    run = open_run(out)
    assert run.info.state == "killed"
    check = [sys.executable, "-m", "sim.cli", "check", str(out)]
    checked = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert checked.returncode == 2
    assert "not whole" in " ".join(checked.stdout.split())
    assert list(leases.iterdir()) == []


@pytest.mark.container
@pytest.mark.broker
def test_a_paused_container_of_a_killed_lab_is_removed_by_the_next_command(leases: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fault = 'faults=[{kind="broker_freeze",at_s=0,for_s=50}]'
    where = ("--on", "container", "--image", os.environ[IMAGE_ENV], "--out", str(out))
    with start("run", "broker_freeze", *where, *LONG, "--set", fault, cwd=tmp_path, alone=False) as lab, engine() as client:
        until_running(out, lab)
        lines = [json.loads(line) for lease in leases.iterdir() for line in lease.read_text().splitlines()]
        (name,) = [line["container"] for line in lines if "container" in line]
        while client.containers.get(name).status != "paused":
            time.sleep(0.02)
        lab.kill()
    assert "healed what a killed lab" in next_command(tmp_path)  # another test's run may have swept the container a moment before
    with engine() as client:
        assert client.containers.list(all=True, filters={"name": name}) == []


def test_this_process_s_own_lease_is_not_its_business(sleeper: subprocess.Popen[bytes]) -> None:
    note_process(sleeper.pid, "sleeper")
    assert heal_left_over() == []
    assert sleeper.poll() is None
