"""Many runs in this process and in workers: the same outcomes, one error leaves the others, interruptions, what stays, a worker's death."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest

from sim.errors import BrokerUnreachable, Interrupted, UsageError
from sim.experiments import many_runs
from sim.experiments.many_runs import Job, Outcome, run_many
from sim.results.opened_run import open_run
from sim.run.status import Status
from sim.scenario.file import load_scenario

MODULE = "sim.experiments.many_runs"
BOTH = pytest.mark.parametrize("at_once", [1, pytest.param(2, marks=pytest.mark.broker)], ids=["here", "workers"])


def job(key: str, *settings: str, on: str = "model") -> Job:
    return Job(key, load_scenario("baseline", settings=("load.run_s=1", "load.warm_up_s=0", "load.driver=pods", *settings)), on)


def workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if MODULE in child.cmdline()]


def said(outcomes: list[Outcome]) -> dict[str, Any]:
    """Return what each job came to, as text: a number that was not measured is unlike itself."""
    return {one.job.key: str(one.verdict and one.verdict.to_json()) for one in outcomes}


@pytest.mark.broker
def test_one_at_a_time_and_two_at_a_time_come_to_the_same_and_an_error_leaves_the_others(tmp_path: Path) -> None:
    absent, misfit = job("absent", on="redis://127.0.0.1:1"), Job("misfit", load_scenario("broker_failover"), "model")
    jobs = [job("slow", "load.run_s=5"), absent, misfit, job("broken", "slo.lag_ms_p99=0.0001"), job("seeded", "seed=7")]
    begun: list[str] = []
    here = list(run_many(jobs, out=tmp_path / "here", keep="not-valid", begin=lambda one: begun.append(one.key)))
    assert [one.job.key for one in here] == begun == [one.key for one in jobs], "one after another, in the order of the jobs"
    aside = list(run_many(jobs, out=tmp_path / "aside", keep="not-valid", at_once=2))
    assert said(aside) == said(here)
    for outcomes, folder in ((here, tmp_path / "here"), (aside, tmp_path / "aside")):
        by_key = {one.job.key: one for one in outcomes}
        assert {key: one.verdict.verdict for key, one in by_key.items() if one.verdict} == {
            "slow": "valid", "broken": "invalid", "seeded": "valid"
        }  # fmt: skip
        assert type(by_key["absent"].error) is BrokerUnreachable and "127.0.0.1:1 is not reachable" in str(by_key["absent"].error)
        assert type(by_key["misfit"].error) is UsageError and "no replica" in str(by_key["misfit"].error)
        assert [path.name for path in folder.iterdir()] == ["broken"], "and no log: there was nothing to tell"
        assert open_run(folder / "broken").sealed and (folder / "broken" / "verdict.json").is_file()
        with pytest.raises(BrokerUnreachable):
            by_key["absent"].judged()
    assert workers() == []


def test_an_accident_of_one_run_is_its_error_too_and_where_it_came_from_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = many_runs.run_scenario

    def run(scenario: Any, **more: Any) -> Path:
        if more["out"].name == "first":
            raise ZeroDivisionError("a bug")
        return real(scenario, **more)

    monkeypatch.setattr(many_runs, "run_scenario", run)
    first, second = run_many([job("first"), job("second")], out=tmp_path)
    assert str(first.error) == "ZeroDivisionError: a bug"
    assert "test_many_runs.py" in capsys.readouterr().err
    assert second.error is None and second.metric("lag_ms_p99") > 0 and second.count("ledger", "expected") > 0


@pytest.mark.parametrize(("keep", "stay"), [("all", {"good", "bad"}), ("not-valid", {"bad"}), ("none", set())])
def test_a_folder_that_does_not_stay_is_there_until_the_next_outcome(tmp_path: Path, keep: str, stay: set[str]) -> None:
    jobs = [job("good"), job("bad", "slo.lag_ms_p99=0.0001"), job("failed", on="redis://127.0.0.1:1")]
    for outcome in run_many(jobs, out=tmp_path, keep=keep):
        if outcome.verdict is not None:
            assert len(outcome.judged().run.deliveries)
            assert outcome.stays(keep) is (outcome.job.key in stay)
        else:
            assert outcome.stays(keep), "nobody has read it"
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == stay


def test_without_a_folder_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folders = [outcome.folder for outcome in run_many([job("one"), job("other")]) if outcome.folder.is_dir()]
    assert len(folders) == 2 and all(tmp_path in folder.parents for folder in folders)
    assert list(tmp_path.iterdir()) == []


def test_what_an_earlier_try_left_is_replaced_and_a_word_that_keeps_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "half.parquet").write_text("old")
    (outcome,) = run_many([job("one")], out=tmp_path)
    assert outcome.error is None and not (tmp_path / "one" / "half.parquet").exists()
    with pytest.raises(UsageError, match=r"--keep non: no such choice \(did you mean 'none'\?\)"):
        next(run_many([job("one")], out=tmp_path, keep="non"))
    assert (tmp_path / "one" / "run.json").exists()


@BOTH
def test_whoever_leaves_early_leaves_no_worker_and_the_signals_as_they_were(tmp_path: Path, at_once: int) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(LookupError):
        for outcome in run_many([job(str(n)) for n in range(4)], out=tmp_path, at_once=at_once, keep="none"):
            raise LookupError(outcome.job.key)
    assert signal.getsignal(signal.SIGINT) is before
    assert workers() == []
    assert not (tmp_path / "0").exists() or at_once == 2  # the other one may have ended first


@BOTH
def test_what_begin_raises_ends_the_series_and_what_is_done_is_given(tmp_path: Path, at_once: int) -> None:
    def begin(one: Job) -> None:
        if one.key == "last":
            raise UsageError("no room")

    done = []
    with pytest.raises(UsageError, match="no room"):
        for outcome in run_many([job("first"), job("second"), job("last")], out=tmp_path, at_once=at_once, begin=begin):
            done.append(outcome.job.key)
    assert done == ["first", "second"] if at_once == 1 else len(done) >= 1
    assert workers() == [] and not (tmp_path / "last").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
def test_an_interruption_seals_the_run_that_is_under_way(tmp_path: Path, number: signal.Signals) -> None:
    seen: list[str] = []

    def watch(status: Status) -> None:
        if len(done) == 1 and status.phase == "run" and "here" not in seen:
            seen.append("here")
            os.kill(os.getpid(), number)

    done: list[str] = []
    with pytest.raises(Interrupted, match=f"interrupted by {number.name}; what was done is in {tmp_path}") as error:
        for outcome in run_many([job("one"), job("two", "load.run_s=60"), job("three")], out=tmp_path, watch=watch):
            done.append(outcome.job.key)
    assert error.value.exit_code == 128 + number
    assert done == ["one"] and not (tmp_path / "three").exists()
    assert open_run(tmp_path / "one").info.state == "complete"
    assert open_run(tmp_path / "two").info.state == "interrupted"


@BOTH
def test_an_interruption_between_runs_waits_until_the_outcome_was_taken(tmp_path: Path, at_once: int) -> None:
    done: list[str] = []
    with pytest.raises(Interrupted):
        for outcome in run_many([job(str(n), "load.run_s=20") for n in range(6)], out=tmp_path, at_once=at_once):
            os.kill(os.getpid(), signal.SIGINT)
            done.append(outcome.job.key)
    assert len(done) == 1
    assert workers() == []
    assert not (tmp_path / "5").exists()


def test_nothing_begins_after_an_interruption_that_came_while_the_next_job_was_begun(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="interrupted by SIGTERM"):
        list(run_many([job("one")], out=tmp_path, begin=lambda one: os.kill(os.getpid(), signal.SIGTERM)))
    assert not (tmp_path / "one").exists()


@pytest.mark.broker
def test_a_worker_that_is_killed_fails_its_job_and_the_others_are_run(tmp_path: Path) -> None:
    jobs = [job(name, "load.run_s=100") for name in ("one", "other", "third", "fourth")]
    killed: list[int] = []

    def kill_one() -> None:
        for child in workers()[:1]:
            child.kill()
            killed.append(child.pid)

    killer = Thread(target=lambda: _when(lambda: all((tmp_path / name / "run.json").exists() for name in ("one", "other")), kill_one))
    killer.start()
    outcomes = list(run_many(jobs, out=tmp_path, at_once=2))
    killer.join()
    assert killed and workers() == []
    (failed,) = (one for one in outcomes if one.error is not None)
    assert "its process is gone" in str(failed.error) and failed.verdict is None
    assert failed.job.key in ("one", "other"), "what was under way"
    valid = {one.job.key for one in outcomes if one.verdict and one.verdict.verdict == "valid"}
    assert valid == {one.key for one in jobs} - {failed.job.key}


def _when(true: Callable[[], bool], then: Callable[[], None]) -> None:
    deadline = time.monotonic() + 60
    while not true() and time.monotonic() < deadline:
        time.sleep(0.001)  # polls another process
    then()
