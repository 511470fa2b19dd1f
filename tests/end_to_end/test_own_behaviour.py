"""A service whose behaviour is a class of the user's, beside the bus file: found in every process, tried before anything starts."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sim.errors import BuslabError, ScenarioError
from sim.experiments.many_runs import Job, run_many
from sim.machine.import_path import child_environment, python_child
from sim.record.run_info import read_info
from sim.results.checkers import judge
from sim.results.opened_run import Run, open_run
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario
from tests.support.own_shop import BILLING, OwnShop

SHADOWS = ("redis", "msgspec", "random", "asyncio", "numpy", "locust", "pandas")


def failed_share(run: Run) -> float:
    """Return the share of the orders that billing's handler refused: those whose number ends in 3."""
    ledger = run.ledger()
    orders = ledger[(ledger["channel"] == "order.created") & (ledger["service"] == "billing") & (ledger["phase"] == "run")]
    failed = run.deliveries[run.deliveries["outcome"] == "failed"]
    assert set(run.publishes.set_index("event").loc[failed["event"], "channel"]) == {"order.created"}
    return float(orders["event"].isin(failed["event"]).mean())


def test_its_handlers_are_called_and_one_that_raises_is_a_failed_handling(tmp_path: Path) -> None:
    shop = OwnShop(tmp_path / "shop")
    run = open_run(run_scenario(load_scenario(str(shop.day)), on="model", out=tmp_path / "run"))
    assert judge(run).verdict == "valid"
    assert failed_share(run) == pytest.approx(0.1, abs=0.06)


def test_the_run_folder_says_which_and_is_judged_again_without_it(tmp_path: Path) -> None:
    shop = OwnShop(tmp_path / "shop")
    folder = run_scenario(load_scenario(str(shop.day)), on="model", out=tmp_path / "run")
    kept = tomllib.loads((folder / "scenario.toml").read_text())
    assert (kept["services"]["billing"]["behaviour"], kept["code_folder"]) == (f"{shop.module}:Billing", str(shop.folder))
    assert load_scenario(str(folder / "scenario.toml")).services == load_scenario(str(shop.day)).services, "it runs again from there"
    (shop.folder / f"{shop.module}.py").unlink()
    code = f"from sim.results.judged_run import judge_folder; print(judge_folder({str(folder)!r}).verdict.verdict)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("valid\n", 0), done.stderr


def test_workers_find_it_too(tmp_path: Path) -> None:
    shop = OwnShop(tmp_path / "shop")
    jobs = [Job(f"seed{seed}", load_scenario(str(shop.day), settings=(f"seed={seed}",)), "model") for seed in (1, 2)]
    outcomes = list(run_many(jobs, out=tmp_path / "runs", at_once=2))
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert [failed_share(outcome.judged().run) for outcome in outcomes] == pytest.approx([0.1, 0.1], abs=0.06)


@pytest.mark.broker
@pytest.mark.parametrize("settings", [("load.driver=locust",), ("hosts.kind=local",)], ids=["locust", "local"])
def test_nothing_beside_the_bus_file_hides_what_the_processes_of_a_run_import(tmp_path: Path, settings: tuple[str, ...]) -> None:
    shop = OwnShop(tmp_path / "shop", code="import shopparts\n" + BILLING.replace("% 10 == 3", "% shopparts.TEN == 3"))
    shop.write("TEN = 10\n", name="shopparts")
    (shop.folder / "sim").mkdir()
    for name in (*SHADOWS, "sim/__init__", "sim/errors"):
        (shop.folder / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write('{name} ')\n")
    out = tmp_path / "run"
    sets = [word for setting in settings for word in ("--set", setting)]
    argv = python_child("sim.cli", "run", "day.toml", "--out", out, "--no-report", "--set", "slo.lag_ms_p99=60000", *sets)
    done = subprocess.run(argv, capture_output=True, text=True, cwd=shop.folder, env=child_environment(), timeout=120, check=False)
    assert (done.returncode, (tmp_path / "imported").exists()) == (0, False), done.stderr
    assert failed_share(open_run(out)) == pytest.approx(0.1, abs=0.06)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("Billing = 3", "it is not a class, but of type int"),
        ("def Billing(): pass", "it is not a class, but of type function"),
        ("class Billing:\n    def __init__(self, url): ...", "making one raised TypeError"),
        ("class Billing:\n    def __init__(self):\n        1 / 0", "making one raised ZeroDivisionError: division by zero (line 3 of"),
        ("class Billing: pass", "its instances have no handlers"),
        ("class Billing:\n    @property\n    def handlers(self): return self.nix", "making one raised AttributeError"),
        ("class Billing:\n    handlers = [print]", "its handlers are not a dict, but of type list"),
        ("class Billing:\n    handlers = {3: print}", "the key 3, which is no event type"),
        ("class Billing:\n    handlers = {'order.created': 'print'}", "its handler of 'order.created' cannot be called: it is of type str"),
        ("async def later(event): ...\nclass Billing:\n    handlers = {'order.created': later}", "is a coroutine or a generator"),
        ("class Billing:\n    handlers = {}\n    invalidations = 'many'", "its invalidations are not a whole number"),
        (
            "class Billing:\n    handlers = {'order.craeted': print}",
            "does not subscribe to 'order.craeted' (did you mean 'order.created'?)",
        ),
        ("class Biling: pass", "has no 'Billing' (did you mean 'Biling'?)"),
        ("import nowhere_at_all", "raised ModuleNotFoundError: No module named 'nowhere_at_all'"),
    ],
)
def test_one_that_cannot_work_is_one_line_before_anything_starts(tmp_path: Path, code: str, says: str) -> None:
    shop = OwnShop(tmp_path / "shop", code=code)
    with pytest.raises(ScenarioError) as refused:
        load_scenario(str(shop.day))
    message = str(refused.value)
    assert f"services.billing.behaviour = '{shop.module}:Billing'" in message and says in message and "\n" not in message


MOODY = "MADE = []\n" + BILLING.replace("self.total = 0\n", "MADE.append(len(MADE) < MOST or 1 / 0)\n        self.total = 0\n", 1)
FOUR = ("hosts.kind=local", "hosts.processes=1", "services.billing.replicas=4")


@pytest.mark.parametrize(
    ("most", "on", "settings"),
    [
        (2, "model", ()),
        pytest.param(3, "embedded", FOUR, marks=pytest.mark.broker),
    ],
)
def test_one_that_raises_for_a_later_pod_ends_the_run_in_one_line(tmp_path: Path, most: int, on: str, settings: tuple[str, ...]) -> None:
    shop = OwnShop(tmp_path / "shop", code=MOODY.replace("MOST", str(most)))
    with pytest.raises(BuslabError) as refused:
        run_scenario(load_scenario(str(shop.day), settings=settings), on=on, out=tmp_path / "run")
    says = f'services."billing".behaviour: making one more {shop.module}:Billing raised ZeroDivisionError: division by zero (line 5 of'
    assert says in str(refused.value) and "\n" not in str(refused.value)
    assert read_info(tmp_path / "run" / "run.json").state == "failed"


def test_a_handler_that_no_event_reaches_is_a_note(tmp_path: Path) -> None:
    shop = OwnShop(tmp_path / "shop", code=BILLING.replace("self.order_created}", "self.order_created, 'price.chnged': print}"))
    folder = run_scenario(load_scenario(str(shop.day)), on="model", out=tmp_path / "run")
    (note,) = open_run(folder).info.notes
    assert note.endswith("handlers that are never called: the service does not subscribe to 'price.chnged' (did you mean 'price.changed'?)")


def test_the_command_says_it_in_one_line_and_ends_with_2(tmp_path: Path) -> None:
    shop = OwnShop(tmp_path / "shop", code="raise OSError('no licence')")
    done = subprocess.run(
        python_child("sim.cli", "run", shop.day, "--out", tmp_path / "run"), capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not (tmp_path / "run").exists()
    assert f"importing {shop.module} raised OSError: no licence (line 1 of {shop.module}.py)" in done.stderr


def test_a_folder_of_code_may_be_named_and_must_be_there(tmp_path: Path) -> None:
    shop = OwnShop(tmp_path / "shop", day='code_folder = "code"\n' + OwnShop(tmp_path / "other").day.read_text())
    with pytest.raises(ScenarioError, match="code_folder = 'code': there is no such folder"):
        load_scenario(str(shop.day))
    (shop.folder / "code").mkdir()
    (shop.folder / f"{shop.module}.py").rename(shop.folder / "code" / f"{shop.module}.py")
    scenario = load_scenario(str(shop.day))
    assert scenario.code_folder == str(shop.folder / "code") and "order.created" in scenario.new_logic("billing").handlers
