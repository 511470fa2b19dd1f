"""Locust by its own command line: what it brings up, how it ends, and that nothing stays behind. Nothing patches the tests' process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from sim.bus.envelope import EVENT_TYPES
from sim.record.run_info import RunInfo, read_info
from sim.wire.address import Address, free_port
from tests.support.unknown import Starvation

LOCUSTFILES = Path(__file__).parents[2] / "locustfiles"
BOUND_S = 120.0  # of anything waited for; reached only when the test fails
QUICK = ("--set", "load.warm_up_s=0.2", "--set", "slo.lag_ms_p99=60000", "-r", "30")


def command(*args: str, file: str = "bus_user.py", headless: bool = True) -> list[str]:
    """Return a Locust's command line; where there is a master it gets a port of its own, as tests run beside each other."""
    port = str(free_port())
    return [
        *(sys.executable, "-m", "locust", "-f", str(LOCUSTFILES / file), "--master-bind-port", port, "--master-port", port),
        *(["--headless", "--only-summary"] if headless else []),
        *args,
    ]


def locust(*args: str, file: str = "bus_user.py", **more: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | more | {"LOCUST_SKIP_UPDATE_CHECK": "1"}
    return subprocess.run(command(*args, file=file), capture_output=True, text=True, timeout=BOUND_S, check=False, env=environment)


@contextmanager
def running(*args: str, headless: bool = True) -> Iterator[subprocess.Popen[str]]:
    """A Locust in a process group of its own, so that a Ctrl-C reaches what a terminal's would; its stderr is for reading."""
    environment = os.environ | {"LOCUST_SKIP_UPDATE_CHECK": "1"}
    with subprocess.Popen(
        command(*args, headless=headless), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, process_group=0
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until(process: subprocess.Popen[str], start: str) -> str:
    """Read what it prints up to a line that begins so."""
    said = ""
    assert process.stdout is not None
    for line in process.stdout:
        said += line
        if line.startswith(start):
            return said
    raise AssertionError(f"it ended without {start!r}: {said}")


def run_of(folder: Path) -> tuple[RunInfo, dict[str, Any]]:
    return read_info(folder / "run.json"), json.loads((folder / "verdict.json").read_text())


def test_the_process_of_the_tests_is_not_patched() -> None:
    """Locust registers a pytest plugin; importing locust itself would replace the sockets under asyncio."""
    assert "gevent" not in sys.modules
    assert "locust" not in sys.modules
    assert socket.socket.__module__ == "socket"


@pytest.mark.broker
def test_a_headless_run_judges_itself_and_its_tables_lie_in_the_run_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = locust("-u", "3", "-t", "3s", "--shape", "ramp", "--json", "--csv", str(tmp_path / "mine"), "--out", str(out), *QUICK)
    assert done.returncode == 0, done.stderr
    info, verdict = run_of(out)
    assert (verdict["verdict"], info.state, info.load.generators) == ("valid", "complete", ["locust"])
    assert 'shape = "ramp"' in (out / "scenario.toml").read_text()
    table = json.loads(done.stdout)  # the verdict does not stand between its braces
    assert "verdict  valid" in done.stderr
    entries = {(row["method"], row["name"]): row for row in table}
    assert {name for method, name in entries if method == "PUBLISH"} <= set(EVENT_TYPES)
    assert entries["DELIVERY", "lag"]["num_requests"] > 10
    assert sum(row["num_failures"] for row in table) == 0
    assert {row["name"]: row["num_requests"] for row in json.loads((out / "locust.json").read_text())} == {
        row["name"]: row["num_requests"] for row in table
    }
    assert {path.name for path in out.glob("locust*")} == {
        "locust.html", "locust.json", "locust_exceptions.csv", "locust_failures.csv", "locust_stats.csv", "locust_stats_history.csv",
    }  # fmt: skip
    assert (tmp_path / "mine_stats.csv").exists()
    assert "Traceback" not in done.stderr


@pytest.mark.broker
def test_two_processes_record_all_calls_and_an_slo_that_fails_gives_1_and_names_itself(tmp_path: Path) -> None:
    done = locust("-u", "20", "-t", "2s", "--processes", "2", "--out", str(tmp_path / "run"), *QUICK, "--set", "slo.lag_ms_p50=0.0001")
    assert done.returncode == 1, done.stderr
    info, verdict = run_of(tmp_path / "run")
    assert [limit["metric"] for limit in verdict["slo"] if limit["verdict"] == "invalid"] == ["lag_ms_p50"]
    assert "lag_ms_p50" in done.stdout
    harness = verdict["checkers"]["harness"]
    assert harness["verdict"] == "valid"
    assert harness["counts"]["calls_made"] == info.load.offered_calls
    assert info.load.generators == ["locust-0", "locust-1"]


@pytest.mark.broker
def test_a_killed_worker_takes_its_record_along_so_the_run_is_unknown(tmp_path: Path) -> None:
    with running("-u", "8", "-t", "60s", "--processes", "2", "--out", str(tmp_path / "run"), *QUICK) as process:
        until(process, "run ")
        psutil.Process(process.pid).children()[0].kill()
        said, _ = process.communicate(timeout=BOUND_S)
        assert process.returncode == 2
    info, verdict = run_of(tmp_path / "run")
    assert (info.state, info.load.record_kept, verdict["verdict"]) == ("failed", False, "unknown")
    assert "is lost" in verdict["checkers"]["harness"]["detail"]
    assert "is lost" in said


@pytest.mark.broker
def test_a_saturated_generator_gives_2(tmp_path: Path) -> None:
    done = locust(
        "-u", "6", "-t", "1s", "--out", str(tmp_path / "run"), *QUICK, "--set", "load.rate_per_s=60000", "--set", "bus.batch_size=1"
    )
    assert done.returncode == 2, done.stderr
    assert "generator saturated" in run_of(tmp_path / "run")[1]["checkers"]["harness"]["detail"]


@pytest.mark.broker
@pytest.mark.parametrize(("frozen", "code"), [("generator", 2), ("broker", 1)])
def test_a_stall_breaks_a_limit_on_lag_only_where_it_was_a_fault_s_and_not_the_generator_s(frozen: str, code: int, tmp_path: Path) -> None:
    slow = ["-u", "8", "-t", "3s", "--set", "bus.batch_size=1", "--set", "slo={}", "--set", "slo.lag_ms_p50=200", "-r", "30"]
    slow += ["--set", 'faults=[{kind="broker_freeze", at_s=0.1, for_s=2.0}]'] if frozen == "broker" else []
    with running(*slow, "--set", "load.warm_up_s=0.2", "--out", str(tmp_path / "run")) as process:
        until(process, "run ")
        server = next(one for one in psutil.Process(process.pid).children(recursive=True) if one.name().startswith(("valkey", "redis")))
        starved = Starvation(server.pid, process.pid)
        while read_info(tmp_path / "run" / "run.json").phases[-1].name != "run":  # the test's own timeout bounds it
            time.sleep(0.05)
        if frozen == "generator":
            psutil.Process(process.pid).suspend()
            time.sleep(2.0)  # a call under way in a stall looks held up by the bus: one of eight users, so not the median
            psutil.Process(process.pid).resume()
        while process.poll() is None:  # the test's own timeout bounds it
            starved.sample()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=0.1)
    (limit,) = run_of(tmp_path / "run")[1]["slo"]
    with starved.excuses(0.2):  # the limit: so late without any stall, and it is the machine that breaks it
        assert (process.returncode, limit["verdict"]) == (code, {1: "invalid", 2: "unknown"}[code]), limit
        assert ("stood still" in limit["detail"]) == (frozen == "generator")


@pytest.mark.broker
@pytest.mark.parametrize(
    ("number", "code", "more"),
    [
        (signal.SIGINT, 130, ()),
        (signal.SIGINT, 130, ("--processes", "2")),
        (signal.SIGTERM, 130, ("--shape", "steady")),
        pytest.param(signal.SIGHUP, 130, (), marks=pytest.mark.deep),
        (signal.SIGHUP, 130, ("--processes", "2")),
        (signal.SIGKILL, -9, ("--processes", "2")),
        pytest.param(signal.SIGKILL, -9, (), marks=pytest.mark.deep),
    ],
)
def test_an_interrupted_run_is_sealed_and_nothing_stays_behind(tmp_path: Path, number: int, code: int, more: tuple[str, ...]) -> None:
    with running("-u", "4", "-t", "60s", "--out", str(tmp_path / "run"), *more, *QUICK) as process:
        until(process, "run ")
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 2
        (os.kill if number == signal.SIGKILL else os.killpg)(process.pid, number)
        process.communicate(timeout=BOUND_S)
        assert process.returncode == code
        assert psutil.wait_procs(children, timeout=BOUND_S)[1] == []
    info = read_info(tmp_path / "run" / "run.json")
    assert info.state in ("interrupted", "failed")  # after a kill the run may see first that its line is closed
    assert info.load.record_kept == (number != signal.SIGKILL)
    if number != signal.SIGKILL:
        verdict = run_of(tmp_path / "run")[1]
        assert verdict["verdict"] == "unknown", verdict


@pytest.mark.broker
def test_a_fleet_that_runs_already_is_judged_by_the_publishes_alone(address: Address, tmp_path: Path) -> None:
    with redis.Redis(port=address.port) as client, client.pubsub() as listener:
        listener.psubscribe("*")
        listener.get_message(timeout=BOUND_S)
        ours = ("--set", "slo={}", "--set", "slo.send_delay_ms_p99=60000", "--set", "load.warm_up_s=0.2", "-r", "30")
        done = locust("--host", address.url, "--fleet", "none", "-u", "4", "-t", "2s", "--out", str(tmp_path / "run"), *ours)
    assert done.returncode == 0, done.stderr
    info, verdict = run_of(tmp_path / "run")
    assert (info.fleet, set(verdict["checkers"])) == ("none", {"harness", "lag", "callers"})
    assert verdict["checkers"]["harness"]["counts"]["receivers.max"] == 1
    assert "who heard" in verdict["checkers"]["lag"]["detail"]


@pytest.mark.broker
def test_the_web_interface_starts_a_run_which_stops_by_itself(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running("--web-host", "127.0.0.1", "--web-port", str(port), "--out", str(tmp_path / "run"), *QUICK, headless=False) as process:
        until(process, "[")
        form = {"user_count": 3, "spawn_rate": 3, "run_time": "3s", "host": ""}

        def ask(path: str, data: bytes | None = None) -> dict[str, Any]:
            return json.loads(urllib.request.urlopen(url + path, data, timeout=BOUND_S).read())

        deadline, started = time.monotonic() + BOUND_S, False
        while time.monotonic() < deadline:
            try:
                started = started or ask("/swarm", urllib.parse.urlencode(form).encode())["success"]
                if (tmp_path / "run" / "verdict.json").exists() and ask("/stats/requests")["state"] == "stopped":
                    break
            except OSError:  # not there yet
                pass
            time.sleep(0.2)
        rows = {row["name"]: row["num_requests"] for row in ask("/stats/requests")["stats"]}
        process.terminate()
        process.communicate(timeout=BOUND_S)
    assert run_of(tmp_path / "run")[1]["verdict"] == "valid"
    assert "run_s = 3.0" in (tmp_path / "run" / "scenario.toml").read_text()
    assert rows["lag"] > 0


@pytest.mark.broker
def test_gateway_users_load_two_real_pods_and_their_number_follows_a_shape() -> None:
    done = locust("-u", "6", "-r", "10", "-t", "3s", "--shape", "steps", "--json", file="gateway_user.py")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert {"/api/admin/cache/clear", "/api/events/batch", "/api/analytics/music", "/api/analytics/system"} <= set(rows)
    assert sum(row["num_failures"] for row in rows.values()) == 0
    assert done.stderr.count("Shape test updating to") >= 3


@pytest.mark.broker
@pytest.mark.parametrize(("limit", "code"), [((), 0), (("--set", "slo.lag_ms_p50=0.0001"), 1)])
def test_a_reader_that_goes_changes_neither_the_run_nor_the_exit_code(limit: tuple[str, ...], code: int, tmp_path: Path) -> None:
    args = command("-u", "3", "-t", "2s", "--out", str(tmp_path / "run"), *QUICK, *limit)
    piped = ["bash", "-c", '"$@" 2>&1 | head -n 1; exit ${PIPESTATUS[0]}', "bash", *args]
    done = subprocess.run(
        piped, capture_output=True, text=True, timeout=BOUND_S, check=False, env=os.environ | {"LOCUST_SKIP_UPDATE_CHECK": "1"}
    )
    info, verdict = run_of(tmp_path / "run")
    assert (done.returncode, info.state, verdict["verdict"]) == (code, "complete", ("valid", "invalid")[code])


@pytest.mark.broker
@pytest.mark.parametrize(
    "args",
    [
        ("NoSuchUser",),
        ("--processes", "-3"),
        ("--master", "--processes", "2"),
        ("--master", "--worker"),
        ("--json-file", "/proc/nowhere/table"),
        ("--csv", "/proc/nowhere/table"),
        ("--config-users", '{"user_class_name": "NoSuchUser"}'),
    ],
)
def test_locust_s_own_errors_end_with_2(args: tuple[str, ...], tmp_path: Path) -> None:
    done = locust("-u", "3", "-t", "1s", "--out", str(tmp_path / "run"), *QUICK, *args)
    assert done.returncode == 2, done.stderr


@pytest.mark.broker
def test_a_gateway_that_is_no_url_is_one_clear_line() -> None:
    done = locust("-u", "2", "-t", "2s", "--host", "gateway", file="gateway_user.py", ADMIN_TOKEN="a-token")
    assert done.returncode == 2
    assert "--host 'gateway': give a base URL" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.broker
@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--host", "redis://:hunter2@127.0.0.1:{port}"], "redis://127.0.0.1:{port} is not reachable"),
        (["--host", "http://127.0.0.1:{port}"], "no such ground"),
        (["--scenario", "basline"], "did you mean 'baseline'"),
        (["--set", "slo.lag_ms_p9=5"], "did you mean 'lag_ms_p99'"),
        (["--on", "model"], "Locust lives in real time"),
        (["-u", "0"], "give at least one user"),
        (["--out", str(LOCUSTFILES)], "the folder exists and is not empty"),
        (["--set", "load.driver=pods"], "here Locust drives"),
        (["--master", "--expect-workers", "2", "--expect-workers-max-wait", "1"], "0 of 2 workers came within 1 s"),
        (["--processes", "2", "--set", "load.rate_per_s=0"], "load.rate_per_s = 0"),
        (["--processes", "2", "--master-bind-port", "{taken}"], "does another Locust run"),
    ],
)
def test_what_cannot_work_ends_with_one_clear_line_and_2(args: list[str], says: str, tmp_path: Path) -> None:
    port, out = free_port(), str(tmp_path / "run")
    with socket.create_server(("127.0.0.1", 0)) as other:
        filled = [one.format(port=port, taken=other.getsockname()[1]) for one in args]
        done = locust("-u", "3", "-t", "2s", "--out", out, *filled)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if "/ERROR/" in line or line.startswith("buslab:")]
    assert len(errors) == 1, done.stderr
    assert says.format(port=port) in errors[0]
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr + done.stdout
    workers = [one for one in psutil.process_iter(["cmdline"]) if out in (one.info["cmdline"] or ())]
    assert psutil.wait_procs(workers, timeout=BOUND_S)[1] == []
