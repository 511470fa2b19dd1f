"""`buslab explore` as a command: exit codes, what is printed and written, and input that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import buslab

NARROW = ("--set", "explore.run_s_max=3", "--set", "explore.heal_s=1", "--set", "explore.rate_max=40", "--set", "load.reads_per_s=0")
FOUND = Path(__file__).parents[1] / "end_to_end" / "found" / "a_stall_outlasts_its_fault.toml"


def test_a_search_tells_what_it_found_and_goes_on_where_it_was(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("def check(run):\n    return 'it published' if len(run.publishes) else None\n", "utf-8")
    common = ("explore", "baseline", "--jobs", 1, "--seed", 3, *NARROW, "--set", 'explore.known=["slo"]', "--out", "search")
    done = buslab(*common, "--runs", 2, cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "search   search")
    assert done.stdout.splitlines()[-2].startswith("2 schedules in ")
    again = buslab(*common, "--runs", 3, "--resume", cwd=tmp_path)
    assert again.returncode == 0 and again.stdout.splitlines()[-2].startswith("1 schedule after 2 earlier ones in ")
    last = buslab(*common, "--runs", 3, "--resume", cwd=tmp_path)
    assert (last.returncode, last.stdout.splitlines()[-2]) == (0, "3 schedules, and none more")
    other = buslab("explore", "baseline", "--jobs", 1, "--runs", 1, *NARROW, "--property", "own.py", "--out", "with-own", cwd=tmp_path)
    assert other.returncode == 1 and "property: it published" in other.stdout
    assert (tmp_path / "with-own" / "found" / "property-it-published.toml").exists()


def test_one_schedule_is_judged_as_it_is(tmp_path: Path) -> None:
    done = buslab("explore", FOUND, "--as-is", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "nothing was found\n") and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("baseline", "--shard", "9/8"), "--shard '9/8': write K/N with K from 1 to N"),
        (("baseline", "--shard", "0/8"), "--shard '0/8'"),
        (("baseline", "--property", "none.py"), "none.py"),
        (("baseline", "--property", "bad.py"), "bad.py raised ZeroDivisionError"),
        (("baseline", "--set", "explore.faults_min=4", "--set", "explore.faults_max=1"), "leave nothing to draw"),
        (("baseline", "--set", 'explore.kinds=["broker_failover"]'), "leaves nothing to draw"),
        (("nothing_such",), "no scenario 'nothing_such'"),
        (("--as-is",), "are about a scenario: name one"),
        (("baseline", "--resume", "--out", "gone"), "there is no search at gone/search.jsonl"),
        (("baseline", "--report", "."), "cannot write .: it is a folder"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(argv: tuple[str, ...], told: str, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("1 / 0\n", "utf-8")
    out = () if "--out" in argv or "--as-is" in argv else ("--out", "search")
    done = buslab("explore", *argv, "--runs", "1", "--jobs", "1", *out, cwd=tmp_path)
    assert done.returncode == 2 and told in done.stderr and len(done.stderr.splitlines()) == 1 and done.stdout == ""
