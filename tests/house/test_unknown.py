"""A test that ends as unknown needs a failed claim and enough processor time withheld; too many of them fail the session."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sim.results.opened_run import open_run
from tests.support.run_folders import MS, RunFolder
from tests.support.unknown import EARLIER_ENV, MARK, MAX_ENV, Starvation, waited_ns

Unknown = pytest.skip.Exception


def wait(proc: Path, ms: int, *, pid: int | None = None) -> None:
    """Write what a kernel would say of a process's one thread."""
    thread = proc / str(pid or os.getpid()) / "task" / "1"
    thread.mkdir(parents=True, exist_ok=True)
    (thread / "schedstat").write_text(f"123 {ms * MS} 9\n")


def claim(starved: Starvation, *, holds: bool, slack_s: float = 1.0, **more: object) -> None:
    with starved.excuses(slack_s, **more):  # type: ignore[arg-type]
        assert holds, "it came in time"


def test_a_claim_that_holds_passes_however_starved_the_machine_is(tmp_path: Path) -> None:
    wait(tmp_path, 0)
    starved = Starvation(proc=tmp_path)
    wait(tmp_path, 60_000)
    claim(starved, holds=True)


@pytest.mark.parametrize("ms", [0, 999, 1000])
def test_a_claim_that_fails_is_a_failure_when_no_more_than_its_slack_was_withheld(tmp_path: Path, ms: int) -> None:
    wait(tmp_path, 50_000)  # before the claim's time: it does not count
    starved = Starvation(proc=tmp_path)
    wait(tmp_path, 50_000 + ms)
    with pytest.raises(AssertionError, match="in time"):
        claim(starved, holds=False)


def test_a_claim_that_fails_is_unknown_when_more_was_withheld_and_says_what(tmp_path: Path) -> None:
    wait(tmp_path, 0)
    starved = Starvation(proc=tmp_path)
    wait(tmp_path, 1500)
    with pytest.raises(Unknown) as ended:
        claim(starved, holds=False)
    said = str(ended.value)
    assert said.startswith(MARK) and "1.500 s" in said and "1 s would be enough" in said and "it came in time" in said


def test_another_process_may_be_the_one_that_was_starved(tmp_path: Path) -> None:
    wait(tmp_path, 0)
    wait(tmp_path, 0, pid=7)
    alone, both = Starvation(proc=tmp_path), Starvation(7, proc=tmp_path)
    wait(tmp_path, 1500, pid=7)
    with pytest.raises(AssertionError, match="in time"):
        claim(alone, holds=False)
    with pytest.raises(Unknown):
        claim(both, holds=False)


def test_where_the_kernel_keeps_no_account_a_failure_stands(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="in time"):
        claim(Starvation(proc=tmp_path / "none"), holds=False, slack_s=0)


def test_an_error_that_is_no_failed_claim_is_never_excused(tmp_path: Path) -> None:
    starved = Starvation(proc=tmp_path)
    wait(tmp_path, 60_000)
    with pytest.raises(ValueError, match="broken"), starved.excuses(1.0):
        raise ValueError("broken")


@pytest.mark.parametrize(("late_ms", "ends"), [(900, AssertionError), (1100, Unknown)])
def test_of_a_run_its_own_loops_must_have_been_late_too(tmp_path: Path, late_ms: int, ends: type[BaseException]) -> None:
    """What is wrong in a run while its loops were in time is no matter of the machine."""
    starved = Starvation(proc=tmp_path)
    wait(tmp_path, 60_000)
    plan = RunFolder(tmp_path / "run")
    plan.publish(1)
    plan.hosts = [(plan.events[0].sent_ns, "local", 1, late_ms * MS)]
    with pytest.raises(ends):
        claim(starved, holds=False, run=open_run(plan.write()))


def test_this_kernel_says_how_long_a_thread_of_ours_waited() -> None:
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("this kernel keeps no such account: then no test is ever unknown")
    waits = waited_ns()
    assert waits and all(pid == os.getpid() and waited >= 0 for (pid, _), waited in waits.items())


SESSION = """
import pytest
from pathlib import Path
from tests.support.unknown import Starvation

@pytest.mark.parametrize("n", range(3))
def test_starved(n, tmp_path):
    thread = tmp_path / str(__import__("os").getpid()) / "task" / "1"
    thread.mkdir(parents=True)
    (thread / "schedstat").write_text("0 0 0")
    starved = Starvation(proc=tmp_path)
    (thread / "schedstat").write_text("0 2000000000 0")
    with starved.excuses(1.0):
        assert n < 1, "in time"

def test_that_is_left_out():
    pytest.skip("no Chromium here")
"""


@pytest.mark.parametrize(
    ("most", "earlier", "code", "workers"),
    [(2, 0, 0, []), (2, 1, 1, []), (1, 0, 1, ["-n", "2"])],
    ids=["few enough", "too many with those before", "too many of two workers"],
)
def test_a_session_lists_its_unknowns_and_fails_with_too_many(
    tmp_path: Path, most: int, earlier: int, code: int, workers: list[str]
) -> None:
    (tmp_path / "conftest.py").write_text("from tests.support.unknown import pytest_sessionfinish, pytest_terminal_summary\n")
    (tmp_path / "test_it.py").write_text(SESSION)
    account = tmp_path / "account" / "unknowns"
    if earlier:
        account.parent.mkdir()
        account.write_text("an earlier one: starved\n" * earlier)
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:valkey", "--rootdir", str(tmp_path), *workers]
    env = {**os.environ, MAX_ENV: str(most), EARLIER_ENV: str(account), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([*argv, str(tmp_path)], capture_output=True, text=True, timeout=150, check=False, env=env, cwd=tmp_path)
    assert done.returncode == code, done.stdout
    assert "= unknown: 2 =" in done.stdout and "no Chromium" not in done.stdout.partition("unknown: 2")[2]
    assert done.stdout.count("the machine withheld a core for 2.000 s") == 2
    assert ("at most" in done.stdout) is bool(code)
    assert len(account.read_text().splitlines()) == earlier + 2
