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

from sim.grounds.container_engine import IMAGE_ENV, LABEL, engine
from sim.machine.lease import MARK, identity, left_over, note_process, parse, place
from sim.record.run_info import Phase, read_info
from sim.results.opened_run import open_run
from sim.run.folder import write_info
from sim.run.healing import heal_left_over, mark_killed
from tests.support.run_folders import synthetic_info

BOUND_S = 120
OURS = "0123456789abcdef"
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
LONG = ("--set", "load.driver=pods", "--set", "load.warm_up_s=0.2", "--set", "load.run_s=60", "--set", "slo={}")
NEXT = ("baseline", "--on", "model", "--set", "load.run_s=1", "--set", "load.warm_up_s=0.2", "--no-report")
GARBAGE = [
    "[1]", "7", '"x"', "null", "{}", '{"process": "1"}', '{"process": -1, "identity": ""}', '{"process": 0}', '{"process": true}',
    '{"process": 99999999999999999999}', '{"process": 1.5}', '{"container": 1}', '{"container": [""]}', '{"folder": {}}',
    '{"folder": "a\\u0000b"}', '{"folder": "\\ud800"}', "[" * 100_000, "9" * 5_000, "\udcff", '{"process": 1, "identity": null}',
]  # fmt: skip


@pytest.fixture
def leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder of leases of a user of one's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "state" / "buslab" / "leases"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Give a process that a lab with the mark `OURS` has started."""
    with subprocess.Popen(SLEEP, env=os.environ | {MARK: OURS}) as process:
        yield process
        process.kill()


def noted(process: subprocess.Popen[bytes], **other: object) -> dict[str, object]:
    """Return the line that the lab of the mark `OURS` has written of a process."""
    program = os.path.realpath(sys.executable)
    line = {"process": process.pid, "identity": identity(process.pid), "name": "valkey-server", "program": program, "mark": OURS}
    return line | other


def lease(folder: Path, *lines: object, who: str = "dead", where: str = "") -> Path:
    """Write the lease of a process that had this id before us, and is dead unless `who` says that it is us."""
    path = folder / "1-test.jsonl"
    me = {"owner": os.getpid(), "identity": who, "place": where or place()}
    path.write_text("".join(json.dumps(line) + "\n" for line in (me, *lines)))
    return path


def test_what_a_dead_lab_had_started_is_ended_although_it_stands_still(leases: Path, sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.send_signal(signal.SIGSTOP)
    os.waitpid(sleeper.pid, os.WUNTRACED)  # it stands still some time after the signal
    path = lease(leases, noted(sleeper))
    with path.open("a") as file:
        file.write('{"process": 1, "iden')  # torn by the kill
    (told,) = heal_left_over()
    assert f"ended valkey-server (process {sleeper.pid}, frozen)" in told
    assert sleeper.poll() is not None
    assert not path.exists()
    assert heal_left_over() == []


def test_a_process_that_only_has_the_same_id_is_left_alone(leases: Path, sleeper: subprocess.Popen[bytes]) -> None:
    path = lease(leases, noted(sleeper, identity="another/1"))
    assert heal_left_over() == []
    assert sleeper.poll() is None
    assert not path.exists(), "nothing is left of that lab"


@pytest.mark.parametrize(("who", "where"), [("alive", ""), ("dead", "elsewhere")])
def test_a_living_lab_and_another_machine_s_are_not_touched(leases: Path, sleeper: subprocess.Popen[bytes], who: str, where: str) -> None:
    path = lease(
        leases,
        noted(sleeper),
        who=identity(os.getpid()) if who == "alive" else who,
        where=where,
    )
    before = path.read_bytes()
    assert heal_left_over() == []
    assert sleeper.poll() is None
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"program": "/usr/bin/other"}, "it runs another program"),
        ({"program": ""}, "it runs another program"),
        ({"mark": "another"}, "its environment does not say that this lab started it"),
        ({"mark": ""}, "its environment does not say that this lab started it"),
    ],
)
def test_a_process_that_is_not_all_that_the_lease_says_is_left_alone(
    leases: Path, sleeper: subprocess.Popen[bytes], other: dict[str, object], says: str
) -> None:
    path = lease(leases, noted(sleeper, **other))
    (told,) = heal_left_over()
    assert told.endswith(f"had left: nothing; left alone: process {sleeper.pid}, because {says}")
    assert sleeper.poll() is None
    assert not path.exists()


def test_a_process_that_nobody_of_ours_started_is_left_alone_whatever_a_lease_says(leases: Path) -> None:
    """What was planted once: the id and the start of a living process, which anybody can read."""
    with subprocess.Popen(SLEEP, env={name: value for name, value in os.environ.items() if name != MARK}) as process:
        for mark in ("", OURS):
            lease(leases, noted(process, mark=mark))
            assert "left alone" in heal_left_over()[0]
        assert process.poll() is None
        process.kill()


def test_a_folder_that_others_may_write_to_is_refused_in_one_line(leases: Path, sleeper: subprocess.Popen[bytes]) -> None:
    path = lease(leases, noted(sleeper))
    for mode, shown in ((0o770, "770"), (0o707, "707"), (0o1777, "1777")):
        leases.chmod(mode)
        (told,) = heal_left_over()
        assert f"is not looked up in {leases}: others may write to it (mode {shown}); " in told
    leases.chmod(0o700)
    path.chmod(0o666)
    (told,) = heal_left_over()
    assert f"is not looked up in {path}: others may write to it (mode 666); " in told
    assert sleeper.poll() is None
    assert path.exists()


def test_a_link_in_the_place_of_the_folder_or_of_a_file_is_refused(leases: Path, tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    lease(leases, noted(sleeper))
    moved = leases.rename(tmp_path / "elsewhere")
    leases.symlink_to(moved)
    (told,) = heal_left_over()
    assert f"is not looked up in {leases}: it is a link; " in told
    leases.unlink()
    leases.mkdir()
    (leases / "1-test.jsonl").symlink_to(moved / "1-test.jsonl")
    (told,) = heal_left_over()
    assert f"is not looked up in {leases / '1-test.jsonl'}: it is a link; " in told
    assert sleeper.poll() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_another_user_made_is_refused(leases: Path, sleeper: subprocess.Popen[bytes]) -> None:
    path = lease(leases, noted(sleeper))
    os.chown(path, 12345, -1)
    (told,) = heal_left_over()
    assert f"is not looked up in {path}: it belongs to user 12345, not to 0; " in told
    os.chown(leases, 12345, -1)
    (told,) = heal_left_over()
    assert f"is not looked up in {leases}: it belongs to user 12345, not to 0; " in told
    assert sleeper.poll() is None
    assert path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_folder_of_another_user_in_the_shared_folder_is_neither_read_nor_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sleeper: subprocess.Popen[bytes]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "no-folder").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "no-folder"))  # as where the user's own cannot be written
    folder = tmp_path / "buslab-leases-0"
    folder.mkdir()
    path = lease(folder, noted(sleeper))
    os.chown(folder, 12345, -1)
    (told,) = heal_left_over()
    assert "it belongs to user 12345, not to 0" in told
    script = "from sim.machine.lease import note_process; note_process(1, 'init'); import os; os._exit(0)"
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | {"TMPDIR": str(tmp_path)})
    assert list(folder.iterdir()) == [path], "nothing of ours goes there"
    assert sleeper.poll() is None


def test_our_folder_is_made_for_us_alone(tmp_path: Path) -> None:
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path / "state")}
    script = "import os; os.umask(0); from sim.machine.lease import note_process; note_process(1, 'init'); os._exit(0)"
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
    folder = tmp_path / "state" / "buslab" / "leases"
    (path,) = folder.iterdir()
    assert (folder.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)
    assert parse(path.read_bytes()) is not None


def test_a_lease_full_of_garbage_heals_nothing_and_ends_nothing(leases: Path) -> None:
    path = lease(leases)
    with path.open("ab") as file:
        file.writelines(line.encode("utf-8", "surrogateescape") + b"\n" for line in GARBAGE)
    assert heal_left_over() == []
    assert not path.exists()


def test_what_is_no_file_or_too_big_is_not_read(leases: Path) -> None:
    os.mkfifo(leases / "1-pipe.jsonl", 0o600)
    (leases / "2-folder.jsonl").mkdir()
    (leases / "3-big.jsonl").touch(0o600)
    os.truncate(leases / "3-big.jsonl", 1 << 30)
    assert [told.partition(": ")[2] for told in heal_left_over()] == [
        "it is no file; look whose it is, and remove it",
        "it is no file; look whose it is, and remove it",
        "it has 1,073,741,824 bytes; look whose it is, and remove it",
    ]


def test_two_commands_do_not_heal_the_same_at_one_time(leases: Path) -> None:
    lease(leases)
    for _ in left_over():
        assert list(left_over()) == []


@pytest.mark.parametrize("text", ["", "no json", "{}", '{"owner": 1}', "[]", '{"owner": "x", "identity": 1, "place": 2}'])
def test_a_file_that_is_none_of_ours_is_passed_over(leases: Path, text: str) -> None:
    path = leases / "2-test.jsonl"
    path.write_text(text)
    assert parse(path.read_bytes()) is None
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
            assert parse(path.read_bytes()) is None, "it lives"
            one.stdin.close() if end == "close" else one.kill()
        assert list(leases.iterdir()) == ([path] if end == "kill" else [])
    assert parse(path.read_bytes()) is not None


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


def runs_proxy(one: psutil.Process) -> bool:
    """Whether a process is the proxy; one that has ended meanwhile is nothing any more."""
    try:
        return "sim.grounds.proxy" in one.cmdline()
    except psutil.Error:
        return False


@pytest.mark.broker
@pytest.mark.parametrize(
    ("scenario", "alone"),
    [("broker_freeze", True), pytest.param("broker_freeze", False, marks=pytest.mark.deep), ("link_blackhole", True)],
    ids=lambda one: str(one),
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
        proxies = [one for one in children if runs_proxy(one)]
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


@pytest.mark.container
@pytest.mark.broker
def test_a_container_without_our_label_is_left_alone_whatever_a_lease_says(leases: Path) -> None:
    labels = [{}, {LABEL: f"{place()}:1:1"}, {LABEL: "elsewhere:2:3"}, {LABEL: ""}]
    with engine() as client:
        foreign = [
            client.containers.create(os.environ[IMAGE_ENV], "redis-server", name=f"stranger-{os.getpid()}-{n}", labels=one)
            for n, one in enumerate(labels)
        ]
        try:
            lease(leases, *({"container": one.name} for one in foreign))
            (told,) = heal_left_over()
            assert told.count("because its label does not say that this lab started it") == len(foreign)
            assert {one.id for one in foreign} <= {one.id for one in client.containers.list(all=True)}
        finally:
            for one in foreign:
                one.remove(force=True)


def test_this_process_s_own_lease_is_not_its_business(sleeper: subprocess.Popen[bytes]) -> None:
    note_process(sleeper.pid, "sleeper")
    assert heal_left_over() == []
    assert sleeper.poll() is None
