"""Users of the user's own on the bus, closed loop: started by a run and by Locust's own command, accounted for like any others."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sim.errors import ScenarioError, UsageError
from sim.machine.import_path import child_environment, python_child
from sim.record.run_info import read_info
from sim.results.opened_run import Run, open_run
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario
from sim.wire.address import free_port

ROOT = Path(__file__).parents[2]
SHOP = ROOT / "docs" / "examples" / "shop" / "everyday.toml"
BOUND_S = 120.0
NOBODY_PUBLISHES = ("services.search.publishes=[]", "services.notify.publishes=[]", "services.orders.publishes=[]")
NOBODY_PUBLISHES += ('services.orders.subscribes=["order.created"]',)
QUICK = ("--set", "load.warm_up_s=0.3", "--set", "load.run_s=2", "--set", "slo.lag_ms_p99=60000")
HEAD = """
from locust import HttpUser, between, constant, task
from locustfiles.users import BusUser
class Shopper(BusUser):
    wait_time = between(0.02, 0.06)
"""
USERS = (
    HEAD
    + """
    def on_start(self):
        self.orders = 0
    @task(3)
    def order(self):
        self.orders += 1
        published = self.bus.publish("order.created", {"total": self.orders})
        assert published.outcome == "acknowledged" and published.receivers == 15
    @task(1)
    def search(self):
        full = self.bus.publish("search.asked", {"words": "tea"})  # the call that fills a batch sends it
        assert full is None or (full.outcome, full.send.items) == ("acknowledged", 20)
class Owner(BusUser):
    service = "notify"
    fixed_count = 1
    wait_time = constant(0.1)
    @task
    def price(self):
        self.bus.publish("price.invalidated", {"sku": "sku_1"})
"""
)


def users_file(folder: Path, text: str, name: str = "my_users.py") -> Path:
    """Write a locustfile into a folder whose other files have the names of what the lab imports."""
    folder.mkdir(exist_ok=True)
    for shadow in ("redis", "msgspec", "numpy", "pyarrow"):
        (folder / f"{shadow}.py").write_text("raise ImportError('of the user')\n")
    (folder / name).write_text(text)
    return folder / name


def buslab(file: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    argv = python_child("sim.cli", "run", SHOP, "--locustfile", file.name, "--users", 6, "--out", out, "--no-report", *QUICK, *more)
    return subprocess.run(argv, capture_output=True, text=True, timeout=BOUND_S, check=False, cwd=file.parent, env=child_environment())


def locust(file: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Start Locust by its own command, where this package is installed; `-t` rules over the scenario's run phase."""
    port = str(free_port())
    argv = [str(Path(sys.executable).with_name("locust")), "-f", str(file), "--headless", "-u", "6", "-r", "30", "-t", "2s"]
    argv += ["--master-bind-port", port, "--master-port", port, "--scenario", str(SHOP), "--out", str(out), *QUICK, *more]
    environment = os.environ | {"LOCUST_SKIP_UPDATE_CHECK": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(argv, capture_output=True, text=True, timeout=BOUND_S, check=False, cwd=file.parent.parent, env=environment)


def requests_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Return what Locust itself counted: channel -> requests, and how many of them failed."""
    with (folder / "locust_stats.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["Type"] == "PUBLISH"]
    return {row["Name"]: (int(row["Request Count"]), int(row["Failure Count"])) for row in rows}


def raised_by_tasks(folder: Path) -> list[str]:
    """Return what the users' own tasks raised, which Locust catches and counts."""
    with (folder / "locust_exceptions.csv").open() as file:
        return [row["Message"] for row in csv.DictReader(file)]


def assert_accounted(folder: Path) -> Run:
    """Check the verdict, every copy, and that Locust counts as many requests as events that the run recorded of it."""
    run = open_run(folder)
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict["verdict"] == "valid", verdict
    assert raised_by_tasks(folder) == [], "what the users themselves assert"
    published = run.publishes[run.publishes["items"] > 0]
    assert {name: (count, 0) for name, count in published["channel"].value_counts().items() if count} == requests_of(folder)
    ledger = run.ledger()
    ledger = ledger[ledger["event"].isin(published["event"])]
    assert set(ledger["fate"]) == {"delivered"} and set(ledger["event"]) == set(published["event"])
    replicas = {"order.created": 2 + 10 + 3, "price.invalidated": 10, "search.asked": 3}
    assert len(ledger) == sum(replicas[str(channel)] for channel in published["channel"]) > 500
    assert verdict["checkers"]["harness"]["counts"]["calls_made"] == run.info.load.offered_calls == len(run.calls)
    assert any("closed loop" in note for note in run.info.notes)
    return run


@pytest.mark.broker
def test_a_run_starts_them_and_every_copy_is_accounted_for(tmp_path: Path) -> None:
    done = buslab(users_file(tmp_path / "mine", USERS), tmp_path / "run")
    assert done.returncode == 0, done.stderr
    run = assert_accounted(tmp_path / "run")
    assert {str(name).split("-")[0] for name in run.publishes["publisher"][run.publishes["items"] > 0]} == {"orders", "search", "notify"}
    assert run.publishes["publisher"][run.publishes["channel"] == "price.invalidated"].str.startswith("notify-").any()
    kept = load_scenario(str(tmp_path / "run" / "scenario.toml")).load
    assert (kept.locustfile, kept.users) == (str(tmp_path / "mine" / "my_users.py"), 6)
    intended = run.publishes["intended_ns"][run.publishes["items"] > 0]
    assert run.phases["warm-up"][0] <= intended.min() and intended.max() <= run.phases["run"][1] + 600_000_000, "the last batch may be old"
    age_ms = (run.publishes["intended_ns"] - run.publishes["first_item_ns"])[run.publishes["channel"] == "search.asked"] / 1e6
    assert age_ms[run.publishes["items"] > 0].max() < 600, "a batch leaves when it is old, whatever its user does meanwhile"


@pytest.mark.broker
@pytest.mark.parametrize("more", [(), ("--processes", "2")], ids=["alone", "processes"])
def test_locust_s_own_command_starts_them_too(tmp_path: Path, more: tuple[str, ...]) -> None:
    done = locust(users_file(tmp_path / "mine", USERS), tmp_path / "run", *more)
    assert done.returncode == 0, done.stderr
    assert "verdict  valid" in done.stdout and "Traceback" not in done.stderr
    assert_accounted(tmp_path / "run")


@pytest.mark.broker
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD + "    @task\n    def order(self):\n        self.bus.publish('order.craeted', {})", "did you mean 'order.created'"),
        (HEAD + "    @task\n    def order(self):\n        self.bus.publish(None, {})", "Shopper publishes on None: unknown channel"),
        (
            HEAD + "    service = 'orders'\n    @task\n    def order(self):\n        self.bus.publish('price.invalidated', {})",
            "not a channel that the service 'orders', which it plays, publishes; it may publish on order.created",
        ),
        (HEAD + "    service = 'order'\n    @task\n    def order(self): ...", "no such service (did you mean 'orders'?)"),
        ("from locust import HttpUser\nclass A(HttpUser): ...", "has no user on the bus"),
        ("def f(:", "raised SyntaxError"),
        ("\n1 / 0", "raised ZeroDivisionError: division by zero (line 2 of my_users.py)"),
        ("import nowhere_at_all", "raised ModuleNotFoundError: No module named 'nowhere_at_all'"),
    ],
    ids=["typo", "none", "not its channel", "service", "no bus user", "syntax", "raises", "import"],
)
def test_what_cannot_be_measured_ends_the_run_with_what_was_wrong(tmp_path: Path, text: str, says: str) -> None:
    done = buslab(users_file(tmp_path / "mine", text), tmp_path / "run")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("buslab: ")]
    assert says in line and "Traceback" not in done.stderr, done.stderr
    assert read_info(tmp_path / "run" / "run.json").state == "failed"


@pytest.mark.broker
def test_data_that_cannot_become_json_is_a_failed_call_and_the_user_goes_on(tmp_path: Path) -> None:
    text = HEAD + "    @task\n    def order(self):\n        for data in ({'a': 1}, {'a': print}, 3):\n"
    text += "            self.bus.publish('order.created', data)\n"
    done = buslab(users_file(tmp_path / "mine", text), tmp_path / "run")
    run = open_run(tmp_path / "run")
    ok, failed = ((run.calls["outcome"] == word).sum() for word in ("ok", "failed"))
    assert (failed, done.returncode) == (2 * ok, 0) and ok > 10, done.stderr
    assert requests_of(tmp_path / "run") == {"order.created": (ok + failed, failed)}
    with (tmp_path / "run" / "locust_failures.csv").open() as file:
        errors = " ".join(row["Error"] for row in csv.DictReader(file))
    assert "cannot become JSON" in errors and "an event's data is int, not an object" in errors


@pytest.mark.broker
def test_users_that_are_busy_when_the_load_ends_leave_and_others_stand_beside_them(tmp_path: Path) -> None:
    text = (
        HEAD
        + """
    def on_start(self):
        self.bus.publish("order.created", {"first": True})
    @task
    def dawdle(self):
        import gevent
        gevent.sleep(60)
class Sleeper(BusUser):
    wait_time = constant(60)
    @task
    def order(self):
        self.bus.publish("order.created", {})
class Loop(BusUser):
    @task
    def order(self):
        import gevent
        while True:
            self.bus.publish("order.created", {})
            gevent.sleep(0.05)
class Visitor(HttpUser):
    host = "http://127.0.0.1:1"
    wait_time = constant(0.2)
    @task
    def look(self):
        self.client.get("/")
"""
    )
    done = buslab(users_file(tmp_path / "mine", text), tmp_path / "run", "--users", "8")
    assert done.returncode == 0, done.stderr
    run = open_run(tmp_path / "run")
    assert (run.info.state, run.info.load.record_kept) == ("complete", True)
    publishers = run.publishes["publisher"][run.publishes["items"] > 0]
    assert publishers.nunique() == 6, "two of each of our kinds"
    assert requests_of(tmp_path / "run") == {"order.created": (len(publishers), 0)}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("load.locustfile=nowhere.py",), "there is no such file"),
        (("load.locustfile=shop.bus.toml",), "a locustfile is a .py file"),
        (("load.locustfile=FILE", "load.driver=pods"), "set load.driver = 'locust'"),
        (("load.locustfile=FILE", "load.users=-1"), "load.users = -1"),
        (("load.locustfile=FILE", *NOBODY_PUBLISHES), "no service publishes anything, so no user may"),
    ],
)
def test_a_scenario_that_cannot_have_them_is_refused(tmp_path: Path, settings: tuple[str, ...], says: str) -> None:
    file = users_file(tmp_path / "mine", USERS)
    with pytest.raises(ScenarioError) as refused:
        load_scenario(str(SHOP), settings=tuple(setting.replace("FILE", str(file)) for setting in settings))
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_a_scenario_may_name_them_beside_itself_and_needs_no_rates_then(tmp_path: Path) -> None:
    users_file(tmp_path, USERS)
    (tmp_path / "day.toml").write_text(
        '[load]\nlocustfile = "my_users.py"\n[channels.x]\n'
        '[services.a]\nreplicas = 3\npublishes = ["x"]\n[services.b]\nsubscribes = ["x"]\n'
    )
    scenario = load_scenario(str(tmp_path / "day.toml"))
    assert (scenario.load.locustfile, scenario.users(), len(scenario.schedule())) == (str(tmp_path / "my_users.py"), 3, 0)
    with pytest.raises(UsageError, match="live in real time"):
        run_scenario(scenario, on="model", out=tmp_path / "run")


@pytest.mark.broker
def test_what_a_task_asserts_is_seen_by_these_tests(tmp_path: Path) -> None:
    buslab(users_file(tmp_path / "mine", USERS.replace("published.receivers == 15", "published.receivers == 16")), tmp_path / "run")
    assert raised_by_tasks(tmp_path / "run")
