"""Faults, checkers and recipes of the user's own: they do what ours may do, and what is wrong with them is one line."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sim.errors import BuslabError, ScenarioError, UsageError
from sim.machine.import_path import child_environment, python_child
from sim.results.checkers import CHECKERS, OF_PROGRAMS, judge
from sim.results.judged_run import judge_folder
from sim.results.opened_run import open_run
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario, to_toml
from tests.support.cli import buslab
from tests.support.own_shop import DAY, OwnShop

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "own-code"
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "own-code.md"
FAULT = """
from sim.faults.times import FaultTimes
class Storm(FaultTimes, kw_only=True):
    pods: tuple[str, ...] = ()
    needs = ("pods",)
    kills_pods = True
    async def begin(self, world):
        for pod in world.chosen(self.pods):
            await pod.kill()
    async def end(self, world):
        for pod in world.chosen(self.pods):
            await pod.start()
"""
STORM = '[[faults]]\nkind = "MODULE:Storm"\nat_s = 0.5\nfor_s = 0.5\n'
BILLING = "\nclass Billing:\n    handlers = {}\n"
CHECK = """
import numpy as np
from sim.results.checkers.verdict import Result
def check(run):
    return Result("invalid", "two\\nlines", counts={"rows": np.int64(len(run.publishes))}, metrics={"missing": np.float64(0), "mine": 1.5})
"""


def shop_with(folder: Path, code: str, day: str = "") -> OwnShop:
    return OwnShop(folder / "shop", code=code + BILLING, day=DAY + day)


def refusal(shop: OwnShop, *settings: str) -> str:
    with pytest.raises(ScenarioError) as refused:
        load_scenario(str(shop.day), settings=settings)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# -- faults ----------------------------------------------------------------------------------------------------------


def test_a_fault_of_one_s_own_stands_in_the_books_under_its_name(tmp_path: Path) -> None:
    shop = shop_with(tmp_path, FAULT, STORM + 'pods = ["billing-0"]\n')
    scenario = load_scenario(str(shop.day))
    assert scenario.killable_pods() == {"billing-0"}
    run = open_run(run_scenario(scenario, on="model", out=tmp_path / "run"))
    assert [(row["fault"], row["target"], row["felt"]) for row in run.faults.to_dict("records")] == [
        (f"{shop.module}:Storm", "billing-0", "whole")
    ]
    begun, ended = run.faults["begin_ns"].iloc[0], run.faults["end_ns"].iloc[0]
    down = run.pods[(run.pods["pod"] == "billing-0") & (run.pods["state"] == "aborted") & (run.pods["at_ns"] < run.phases["drain"][0])]
    assert begun <= down["at_ns"].iloc[0] < ended and len(down) == 1
    heard = run.ledger()["pod"].value_counts()
    assert 0.5 < heard["billing-0"] / heard["billing-1"] < 0.95, "a fifth of the time it was down"
    assert judge(run).checkers["ledger"].verdict == "valid"
    again = load_scenario(str(tmp_path / "run" / "scenario.toml"))
    assert again.faults == scenario.faults and to_toml(again).partition("\n")[2] == to_toml(scenario).partition("\n")[2]


@pytest.mark.broker
def test_pods_in_processes_of_their_own_are_hurt_by_it_too(tmp_path: Path) -> None:
    shop = shop_with(tmp_path, FAULT, STORM + 'pods = ["billing-0"]\n')
    done = buslab("run", "day.toml", "--set", "hosts.kind=local", "--out", tmp_path / "run", "--no-report", cwd=shop.folder)
    run = open_run(tmp_path / "run")
    assert (run.info.state, len(run.faults)) == ("complete", 1), done.stderr
    assert {"aborted", "subscribed"} <= set(run.pods.loc[run.pods["pod"] == "billing-0", "state"].iloc[1:])


@pytest.mark.parametrize(
    ("code", "keys", "says"),
    [
        (FAULT, "pods = 3", "faults[0].pods = 3: expected `array`"),
        (FAULT, 'podz = ["x"]', "unknown key 'faults[0].podz' (did you mean 'pods'?)"),
        (FAULT, 'pods = ["biling"]', "no pod and no service is called 'biling' (did you mean 'billing'?)"),
        (FAULT.replace("Storm", "Strom"), "", "has no 'Storm' (did you mean 'Strom'?)"),
        ("class Storm: pass", "", "it is no fault: write a class of sim.faults.times.FaultTimes"),
        (FAULT.partition("    async def end")[0] + "    def end(self, world): ...\n", "", "it has no async end(world)"),
        (FAULT.replace('needs = ("pods",)', 'needs = ("pod",)'), "", "its needs are ('pod',): give a tuple of what it touches, of "),
        (FAULT.replace('    needs = ("pods",)\n', ""), "", "its needs are None"),
        (FAULT.replace("    pods:", "    kind: str = 'x'\n    pods:"), "", "it cannot be a fault of a scenario"),
        (FAULT.replace("pods: tuple[str, ...] = ()", "pods: tuple[str, ...]"), "", "'faults[0].pods' is missing"),
        (FAULT.replace("FaultTimes,", "FaultTimez,"), "", "NameError: name 'FaultTimez' is not defined (line 3 of"),
    ],
)
def test_a_fault_that_cannot_be_one_is_told_by_its_place(tmp_path: Path, code: str, keys: str, says: str) -> None:
    message = refusal(shop_with(tmp_path, code, STORM + keys))
    assert "faults[0]" in message and says in message, message


def test_a_fault_that_raises_is_healed_and_named(tmp_path: Path) -> None:
    shop = shop_with(tmp_path, FAULT.replace("await pod.kill()", "await pod.kil()"), STORM)
    with pytest.raises(BuslabError) as failed:
        run_scenario(load_scenario(str(shop.day)), on="model", out=tmp_path / "run")
    assert f"the fault {shop.module}:Storm of 0.5 s: AttributeError" in str(failed.value) and "\n" not in str(failed.value)
    assert open_run(tmp_path / "run").info.state == "failed"


def test_our_own_fault_of_a_name_that_is_not_there_is_told_as_ever(tmp_path: Path) -> None:
    message = refusal(shop_with(tmp_path, FAULT, STORM.replace("MODULE:Storm", "broker_dwn")))
    assert "faults[0].kind = 'broker_dwn': no such fault (did you mean 'broker_down'?); known: broker_down" in message


# -- checkers --------------------------------------------------------------------------------------------------------


@pytest.fixture
def judged(tmp_path: Path) -> tuple[OwnShop, Path]:
    """A run with a checker of the user's own, judged once."""
    shop = OwnShop(tmp_path / "shop", code=CHECK + BILLING, day='checkers = ["MODULE:check"]\n' + DAY)
    folder = run_scenario(load_scenario(str(shop.day)), on="model", out=tmp_path / "run")
    judge_folder(folder)
    return shop, folder


def test_a_checker_of_one_s_own_judges_too_but_no_limit_is_on_its_numbers(judged: tuple[OwnShop, Path]) -> None:
    shop, folder = judged
    verdict = json.loads((folder / "verdict.json").read_text())
    mine = verdict["checkers"][f"{shop.module}:check"]
    assert (verdict["verdict"], mine["verdict"], mine["metrics"]) == ("invalid", "invalid", {"missing": 0.0, "mine": 1.5})
    assert mine["counts"] == {"rows": len(open_run(folder).publishes)}
    assert list(verdict["checkers"])[:-1] == [name for name in CHECKERS if name != OF_PROGRAMS]
    without = judge(open_run(folder), only=list(CHECKERS))
    assert without.verdict == "valid" and without.checkers["ledger"].metrics["missing"] == 0


def test_it_is_found_where_the_run_says_or_where_one_says_and_unknown_where_it_is_not(judged: tuple[OwnShop, Path], tmp_path: Path) -> None:
    shop, folder = judged
    assert buslab("check", folder, cwd=tmp_path).returncode == 1
    shutil.move(shop.folder, tmp_path / "moved")
    done = buslab("check", folder, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    gone = json.loads((folder / "verdict.json").read_text())["checkers"][f"{shop.module}:check"]
    assert (gone["verdict"], gone["detail"]) == (
        "unknown",
        f"its code cannot be had: there is no module '{shop.module}' in {shop.folder}, and none is installed; say where it is with --path",
    )
    assert buslab("check", folder, "--path", tmp_path / "moved", cwd=tmp_path).returncode == 1
    assert buslab("check", folder, "--path", tmp_path / "nowhere", cwd=tmp_path).returncode == 2
    assert buslab("check", folder, "--only", "ledger", cwd=tmp_path).returncode == 0


def test_an_own_checker_may_be_tried_on_a_run_that_does_not_name_it(judged: tuple[OwnShop, Path], tmp_path: Path) -> None:
    _, folder = judged
    (tmp_path / "later.py").write_text(CHECK.replace("invalid", "valid"))
    done = buslab("check", folder, "--only", "later:check", "--path", tmp_path, cwd=tmp_path)
    assert done.returncode == 0 and "later:check" in done.stdout, done.stderr
    typo = buslab("check", folder, "--only", "leger", cwd=tmp_path)
    assert typo.returncode == 2 and typo.stderr.count("\n") == 1 and "--only 'leger': no such checker" in typo.stderr
    with pytest.raises(UsageError, match="no checker 'leger'"):
        judge(open_run(folder), only=["leger"])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return 1 / 0", "the checker failed: ZeroDivisionError: division by zero (line "),
        ("raise SystemExit(3)", "the checker failed: SystemExit: 3"),
        ("return None", "the checker failed: TypeError: it returned an object of type NoneType, not a Result"),
        ("return {'verdict': 'valid'}", "an object of type dict"),
        ("return Result('good', 'fine')", "its verdict is 'good', not one of invalid, unknown, valid"),
        ("return Result('valid', 'fine', counts={'a': 'b'})", "a count or metric is of type str, not a number"),
        ("return Result('valid', 'fine', metrics=[3])", "the checker failed: TypeError"),
    ],
)
def test_one_that_fails_is_unknown_and_the_verdict_is_written(tmp_path: Path, body: str, says: str) -> None:
    code = f"from sim.results.checkers.verdict import Result\ndef check(run):\n    {body}\n"
    shop = OwnShop(tmp_path / "shop", code=code + BILLING, day='checkers = ["MODULE:check"]\n' + DAY)
    verdict = judge_folder(run_scenario(load_scenario(str(shop.day)), on="model", out=tmp_path / "run")).verdict
    mine = verdict.checkers[f"{shop.module}:check"]
    assert (verdict.verdict, mine.verdict) == ("unknown", "unknown") and says in mine.detail and "\n" not in mine.detail
    assert json.loads((tmp_path / "run" / "verdict.json").read_text())["verdict"] == "unknown"


@pytest.mark.parametrize(
    ("code", "checkers", "says"),
    [
        (CHECK, '["MODULE:chekc"]', "has no 'chekc' (did you mean 'check'?)"),
        (CHECK, '["MODULE:check", "MODULE:check"]', "checkers[1]"),
        (CHECK, '["ledger"]', "checkers[0] = 'ledger': no such checker; known: your own as module:Name"),
        (CHECK, '"MODULE:check"', "checkers = "),
        ("check = 3", '["MODULE:check"]', "it is not a function of a run, but of type int"),
        ("async def check(run): ...", '["MODULE:check"]', "it is not a function of a run"),
        ("def check(run, more): ...", '["MODULE:check"]', "it cannot be called as checker(run)"),
    ],
)
def test_one_that_cannot_be_one_is_refused_before_anything_starts(tmp_path: Path, code: str, checkers: str, says: str) -> None:
    shop = OwnShop(tmp_path / "shop", code=code + BILLING, day=f"checkers = {checkers}\n" + DAY)
    assert says in refusal(shop)


# -- recipes ---------------------------------------------------------------------------------------------------------

ONCE = """
from sim.bus.once import LOCK_PREFIX, RUN
def mine(event_id, *, token, ttl_s, wall_ms=None):
    BODY
    if (yield ("SET", LOCK_PREFIX + event_id, token, "NX", "EX", str(ttl_s))) is None:
        return "skipped"
    return "handled" if (yield RUN) else "failed"
"""
ONE_EACH = '[bus]\nonce = "MODULE:mine"\nonce_scope = "service"\n'


@pytest.mark.parametrize("on", ["model", pytest.param("embedded", marks=pytest.mark.broker)])
def test_a_recipe_of_one_s_own_decides_who_handles(tmp_path: Path, on: str) -> None:
    shop = shop_with(tmp_path, ONCE.replace("BODY", "pass"), ONE_EACH)
    run = open_run(run_scenario(load_scenario(str(shop.day)), on=on, out=tmp_path / "run"))
    once = judge(run).checkers["once"]
    assert once.counts["once"] == once.counts["pairs"] > 150 and once.detail.startswith(f"{shop.module}:mine: ")
    outcomes = run.deliveries["outcome"].value_counts()
    assert outcomes["skipped"] == pytest.approx(outcomes["handled"], rel=0.1), "of two pods one handles, but for the probes"


@pytest.mark.parametrize("body", ["raise ValueError('no')", "return 'done'", "yield 3", "yield ('NOSUCH',)"])
def test_a_recipe_that_fails_is_a_failed_handling(tmp_path: Path, capfd: pytest.CaptureFixture[str], body: str) -> None:
    shop = shop_with(tmp_path, ONCE.replace("BODY", body), ONE_EACH)
    run = open_run(run_scenario(load_scenario(str(shop.day)), on="model", out=tmp_path / "run"))
    probes = set(run.publishes.loc[run.publishes["items"] == 0, "event"])
    rest = run.deliveries[~run.deliveries["event"].isin(probes)]
    assert set(rest["outcome"]) == {"failed"} and len(rest) > 400 and run.info.state == "complete"
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def mine(event_id): return 'handled'", "it is not a generator function, but of type function"),
        ("def mine(event_id): yield", "it cannot be called as recipe(event_id, token=…, ttl_s=…, wall_ms=…)"),
        ("mine = 3", "it is not a generator function, but of type int"),
        ("", "has no 'mine'"),
    ],
)
def test_a_recipe_that_cannot_be_one_is_refused(tmp_path: Path, code: str, says: str) -> None:
    shop = shop_with(tmp_path, code, ONE_EACH)
    assert f"bus.once = '{shop.module}:mine': " in (message := refusal(shop)) and says in message


# -- what is listed, and the page ------------------------------------------------------------------------------------


def test_the_list_shows_what_packages_bring_and_where_it_comes_from(tmp_path: Path) -> None:
    info = tmp_path / "shoplab-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shoplab\nVersion: 1.0\n")
    groups = {"behaviours": "hears", "faults": "broker_down", "checkers": "ledger", "recipes": "two-key"}
    (info / "entry_points.txt").write_text(
        "".join(f"[buslab.{group}]\nmine = shopmod:Mine\n{ours} = shopmod:No\n" for group, ours in groups.items())
    )
    environment = child_environment() | {"PYTHONPATH": str(tmp_path)}
    for group, ours in groups.items():
        argv = python_child("sim.cli", "list", group)
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
        rows = dict(re.split(r"  +", line, maxsplit=1) for line in done.stdout.splitlines())
        assert rows["mine"] == "shopmod:Mine of shoplab 1.0" and "shopmod" not in rows[ours], done.stderr


def test_the_page_shows_what_stands_in_the_examples_and_they_run(tmp_path: Path) -> None:
    blocks = re.findall(r"```(?:python|toml)\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    files = {file.name: file.read_text("utf-8") for file in EXAMPLE.iterdir() if file.suffix in (".py", ".toml")}
    assert len(files) == 6 and len(blocks) >= 8
    for block in (block for block in blocks if "[project" not in block):
        pieces = [piece.strip("\n") for piece in block.split("\n\n\n")]
        assert all(any(piece in text for text in files.values()) for piece in pieces), block
    verdict = judge_folder(run_scenario(load_scenario(str(EXAMPLE / "day.toml")), on="model", out=tmp_path / "run")).verdict
    assert verdict.verdict == "valid", verdict.reasons
    assert verdict.checkers["shopchecks:every_order_billed"].counts["never_billed"] == 0
    assert verdict.checkers["once"].counts["once"] == verdict.checkers["once"].counts["pairs"]
    (fault,) = open_run(tmp_path / "run").faults["fault"]
    assert fault == "shopfaults:BillingChokes" and verdict.checkers["lag"].counts["lag_us.max"] > 30_000
