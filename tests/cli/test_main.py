"""The command as a user meets it: exit codes, one-line errors, interruption, and nothing left running."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import psutil
import pytest
import redis

from sim.grounds.catalogue import open_broker
from sim.record.schema import event_id
from sim.results.opened_run import open_run
from tests.support.cli import BOUND_S, buslab

UNHURRIED = ("--set", "slo.lag_ms_p99=10000")  # a busy machine must not fail a test
SHORT = (*UNHURRIED, "--set", "load.warm_up_s=0.3", "--set", "load.run_s=1", "--set", "load.driver=pods")


def one_line_error(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of stderr, after checking that it is an error and no traceback."""
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr + done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(("buslab: ", "Error: "))
    return last


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["run", "basline"], "did you mean 'baseline'"),
        (["run", "missing.toml"], "missing.toml"),
        (["run", "baseline", "--set", "load.rte_per_s=5"], "did you mean 'rate_per_s'"),
        (["run", "baseline", "--set", "load.rate_per_s=-1"], "load.rate_per_s = -1"),
        (["run", "baseline", "--set", 'load.mix."config.cache.invalidated"=1'], "did you mean 'config.cache.invalidate'"),
        (["run", "baseline", "--set", "services.musik-service.replicas=1"], "did you mean 'music-service'"),
        (["run", "baseline", "--set", "slo.lag_ms_p98=1"], "slo.lag_ms_p98"),
        (["run", "baseline", "--on", "embeded"], "did you mean 'embedded'"),
        (["run", "baseline", "--on", "cluster:2"], "--on cluster:2: the number of masters"),
        (["run", "baseline", "--on", "embedded:99999"], "between 1 and 65535"),
        (["run", "baseline", "--on", "redis://192.0.2.1:6379"], "--yes-load-this-server"),
        (["run", "baseline", "--on", "redis://:hunter2@127.0.0.1:1"], "127.0.0.1:1 is not reachable"),
        (["run", "baseline", "--out", "."], "not empty"),
        (["run", "baseline", "--on", "model:nowhere.json"], "cannot read the model's costs from 'nowhere.json'"),
        (["run", "baseline", "--on", "model:something"], "something holds no costs"),
        (["calibrate", "--rounds", "2"], "--rounds"),
        (["calibrate", "--out", "."], "cannot write .: it is a folder"),
        (["fidelity", "--out", "something/table.md"], "cannot write something/table.md"),
        (["fidelity", "--scenario", "basline"], "did you mean 'baseline'"),
        (["fidelity", "--on", "embedded"], "--on embedded: the model is compared"),
        (["check", "nowhere"], "nowhere"),
        (["check", "."], "run.json"),
        (["story", "nowhere", "evt_1"], "nowhere"),
        (["list", "planets"], "planets"),
        (["claims", "99"], "no claim '99': there are 1 to 25"),
        (["claims", "24", "--on", "model"], "claim 24 needs a real server"),
        (["claims", "2", "--report", "something/page.md"], "cannot write something/page.md"),
        (["import", "asyncapi", "nowhere.yaml", "--out", "shop.bus.toml"], "nowhere.yaml: cannot be read"),
        (["import", "asyncapi", "something", "--out", "shop.bus.toml"], "something: it holds no AsyncAPI document"),
        (["import", "openapi", "something"], "'openapi' is not 'asyncapi'"),
        (["import", "asyncapi"], "Missing argument 'DOCUMENT…"),
        (["export", "asyncapi", "basline", "--out", "documents"], "did you mean 'baseline'"),
        (["export", "asyncapi", "baseline", "--service", "musik-service", "--out", "documents"], "did you mean 'music-service'"),
        (["export", "asyncapi", "baseline"], "Missing option '--out'"),
        (["frobnicate"], "frobnicate"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_gets_one_clear_line_and_exit_code_2(tmp_path: Path, args: list[str], says: str) -> None:
    (tmp_path / "something").write_text("here")
    done = buslab(*args, cwd=tmp_path)
    assert says in one_line_error(done)
    assert "hunter2" not in done.stdout + done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["something"], "nothing half-made is left"


def test_a_bus_goes_out_as_documents_and_comes_back(tmp_path: Path) -> None:
    done = buslab("export", "asyncapi", "baseline", "--out", "documents", cwd=tmp_path)
    paths = [line.split(maxsplit=1)[1] for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(paths) == 6 and paths[0] == "documents/music-service.asyncapi.yaml"
    done = buslab("import", "asyncapi", *paths, "--out", "again.bus.toml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "bus      again.bus.toml: 6 services, 6 channels\n"), done
    assert "is there already" in one_line_error(buslab("import", "asyncapi", *paths, "--out", "again.bus.toml", cwd=tmp_path))
    printed = buslab("import", "asyncapi", *paths, cwd=tmp_path)
    assert printed.stdout == (tmp_path / "again.bus.toml").read_text("utf-8")


@pytest.mark.parametrize("what", ["scenarios", "grounds", "checkers", "faults", "slo", "claims"])
def test_list_names_every_member_with_a_sentence(tmp_path: Path, what: str) -> None:
    done = buslab("list", what, cwd=tmp_path)
    assert done.returncode == 0
    assert all(len(line.split()) > 2 for line in done.stdout.splitlines())


@pytest.mark.broker
def test_a_port_that_is_taken_and_a_server_with_a_password_are_refused_clearly(tmp_path: Path) -> None:
    with open_broker("embedded") as broker:
        port = broker.address.port
        assert f"port {port} on 127.0.0.1 is taken" in one_line_error(buslab("run", "baseline", "--on", f"embedded:{port}", cwd=tmp_path))
        redis.Redis(port=port).config_set("requirepass", "s3cret")
        assert "does not let us in" in one_line_error(buslab("run", "baseline", "--on", broker.address.url, cwd=tmp_path))
        wrong = buslab("run", "baseline", "--on", f"redis://:wr0ng@127.0.0.1:{port}", cwd=tmp_path)
        assert "does not let us in" in one_line_error(wrong)
        right = buslab("run", "baseline", "--on", f"redis://:s3cret@127.0.0.1:{port}", *SHORT, "--out", "run", cwd=tmp_path)
        assert right.returncode == 0, right.stderr
    written = b"".join(path.read_bytes() for path in (tmp_path / "run").iterdir())
    assert b"s3cret" not in written
    assert "s3cret" not in right.stdout + right.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A short run by Locust, through the command."""
    home = tmp_path_factory.mktemp("finished")
    return home / "run", buslab(
        "run", "baseline", *UNHURRIED, "--set", "load.run_s=2", "--set", "load.warm_up_s=0.5", "--out", "run", cwd=home
    )


@pytest.mark.broker
def test_a_valid_run_exits_0_and_leaves_every_file_of_a_run_folder(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = finished
    assert done.returncode == 0, done.stderr + done.stdout
    names = {path.name for path in folder.iterdir()}
    assert {"scenario.toml", "environment.json", "run.json", "verdict.json", "junit.xml", "report.html", "locust_stats.csv"} <= names
    assert {f"{t}.parquet" for t in ("publishes", "deliveries", "pods", "faults", "broker", "hosts", "probes")} <= names
    assert json.loads((folder / "verdict.json").read_text())["verdict"] == "valid"
    cases = {case.get("name") for case in ET.parse(folder / "junit.xml").getroot().iter("testcase")}
    assert len(cases) == len(json.loads((folder / "verdict.json").read_text())["checkers"]) + 4, "one a checker and one a limit"
    assert "valid" in done.stdout
    assert "report.html" in done.stdout
    phases = [line.split()[0] for line in done.stderr.splitlines()]
    assert [p for p in ("provision", "start", "probe", "warm-up", "run", "drain", "seal") if p not in phases] == [], "plain progress lines"


@pytest.mark.broker
def test_an_old_run_can_be_judged_told_and_drawn_again(finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    folder, _ = finished
    assert buslab("check", folder, cwd=tmp_path).returncode == 0
    assert buslab("report", folder, cwd=tmp_path).returncode == 0
    name = event_id(int(open_run(folder).publishes["event"].iloc[-1]))
    told = buslab("story", folder, name, cwd=tmp_path)
    assert told.returncode == 0
    assert name in told.stdout
    assert "no event" in one_line_error(buslab("story", folder, "evt_0000000000000001", cwd=tmp_path))


@pytest.mark.parametrize("name", ["http_vs_bus", "broker_down"])
def test_a_folder_that_is_judged_again_has_the_verdict_of_its_run(name: str, tmp_path: Path) -> None:
    ran = buslab("run", name, "--on", "model", "--no-report", "--out", "run", cwd=tmp_path)
    written = {file: (tmp_path / "run" / file).read_bytes() for file in ("verdict.json", "junit.xml")}
    assert buslab("check", "run", cwd=tmp_path).returncode == ran.returncode == 0, ran.stdout
    assert {file: (tmp_path / "run" / file).read_bytes() for file in written} == written


@pytest.mark.broker
@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda f: (f / "deliveries.parquet").write_bytes((f / "deliveries.parquet").read_bytes()[:200]), "deliveries.parquet"),
        (lambda f: (f / "pods.parquet").unlink(), "pods.parquet"),
        (lambda f: (f / "run.json").write_text("{"), "run.json"),
        (lambda f: (f / "run.json").write_text('{"format": 99}'), "99"),
    ],
    ids=["truncated", "missing", "garbled", "foreign"],
)
def test_a_damaged_run_folder_is_refused_with_one_line(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path, break_it: object, says: str
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished[0], copy)
    for path in copy.iterdir():
        path.chmod(0o644)
    break_it(copy)  # type: ignore[operator]
    assert says in one_line_error(buslab("check", copy, cwd=tmp_path))


@pytest.mark.broker
def test_a_limit_that_is_not_kept_gives_exit_1_and_names_itself_with_its_value(tmp_path: Path) -> None:
    done = buslab("run", "baseline", *SHORT, "--set", "slo.lag_ms_p50=0.000001", "--out", "run", cwd=tmp_path)
    assert done.returncode == 1
    assert "lag_ms_p50" in done.stdout
    slo = {row["metric"]: row for row in json.loads((tmp_path / "run" / "verdict.json").read_text())["slo"]}
    assert slo["lag_ms_p50"]["verdict"] == "invalid"
    assert slo["lag_ms_p50"]["measured"] > 0
    assert slo["missing"]["verdict"] == "valid"


@pytest.mark.broker
def test_a_generator_that_cannot_keep_up_gives_exit_2(tmp_path: Path) -> None:
    done = buslab("run", "baseline", "--set", "load.rate_per_s=60000", "--set", "load.run_s=2", "--out", "run", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    verdict = json.loads((tmp_path / "run" / "verdict.json").read_text())
    assert verdict["checkers"]["harness"]["verdict"] == "unknown"
    assert "saturated" in verdict["checkers"]["harness"]["detail"]


@pytest.mark.broker
@pytest.mark.parametrize("driver", ["locust", "pods"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_its_data_and_leaves_nothing_running(tmp_path: Path, driver: str, number: signal.Signals) -> None:
    argv = [
        sys.executable,
        "-m",
        "sim.cli",
        "run",
        "baseline",
        "--out",
        "run",
        "--set",
        f"load.driver={driver}",
        "--set",
        "load.warm_up_s=0.1",
    ]
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("run ") and "delivered" in line:
                break
        children = psutil.Process(process.pid).children(recursive=True)
        assert children, "a broker at least"
        process.send_signal(number)
        _, errors = process.communicate(timeout=BOUND_S)
    assert process.returncode == 128 + number
    assert f"interrupted by {number.name}" in errors
    assert "Traceback" not in errors
    assert psutil.wait_procs(children, timeout=BOUND_S)[1] == []
    run = open_run(tmp_path / "run")
    assert run.info.state == "interrupted"
    assert len(run.deliveries) > 0
    assert len(run.publishes) > 0
    assert buslab("check", "run", cwd=tmp_path).returncode == 2, "an interrupted run is unknown"
    assert "interrupted" in (tmp_path / "run" / "report.html").read_text("utf-8"), "it has a report all the same"
    assert "saturated" not in (tmp_path / "run" / "verdict.json").read_text("utf-8")


@pytest.mark.broker
def test_a_second_interrupt_ends_at_once_and_leaves_nothing_running(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "sim.cli", "run", "baseline", "--out", "run", "--set", "load.driver=locust"]
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("warm-up"):
                break
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=BOUND_S)
    assert process.returncode == 130
    gone, alive = psutil.wait_procs(children, timeout=BOUND_S)
    assert alive == []
    assert len(gone) == len(children)


@pytest.mark.broker
def test_a_full_disk_is_one_clear_line_and_the_run_does_not_look_whole(tmp_path: Path) -> None:
    script = (
        f"mount -t tmpfs -o size=300k tmpfs {tmp_path} && cd {tmp_path} && "
        f"exec {sys.executable} -m sim.cli run baseline --out run --set load.driver=pods --set load.rate_per_s=4000 --set load.run_s=6"
    )
    argv = ["unshare", "--map-root-user", "--mount", "sh", "-c", script]
    if shutil.which("unshare") is None or subprocess.run([*argv[:3], "true"], capture_output=True, check=False).returncode:
        assert "CI" not in os.environ, "CI must be able to fill a disk"
        pytest.skip("this machine lets nobody make a mount namespace")
    done = subprocess.run(argv, capture_output=True, text=True, timeout=BOUND_S, check=False, env=os.environ)
    assert "No space left" in one_line_error(done)
