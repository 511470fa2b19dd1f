"""What is found in one run: promises that no checker judges, what does not heal, and properties of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sim.errors import UsageError
from sim.experiments.explore.draw import draw_schedule
from sim.experiments.explore.look import HANG_CPU_S, load_property, look_at
from sim.experiments.explore.search import Search, SearchPlan
from tests.support.planted_bugs import BOUNDS, NOT_FOUND, PLANTS, Plant, first_find


def plant(name: str) -> Plant:
    return next(one for one in PLANTS if one.name == name)


@pytest.mark.deep
@pytest.mark.parametrize("name", [one.name for one in PLANTS if one.name not in NOT_FOUND])
def test_every_planted_bug_is_found(name: str) -> None:
    found = first_find(plant(name), seed=1, guided=True, most=1500)
    assert found.runs, f"{name} was not found in 1,500 schedules"


def test_nothing_is_found_where_nothing_is_planted() -> None:
    search = Search(SearchPlan(bounds=BOUNDS, seed=11, guided=False))
    assert [look_at(search.draw(number), heal_s=BOUNDS.heal_s).findings for number in range(4)] == [[]] * 4


def test_a_property_of_ones_own_says_what_is_wrong(tmp_path: Path) -> None:
    def named(body: str) -> set[str]:
        path = tmp_path / f"own{len(list(tmp_path.iterdir()))}.py"
        path.write_text(f"def check(run):\n    {body}\n", "utf-8")
        return look_at(TREE, own=load_property(str(path))).names

    assert named("return None") == set() == named("assert len(run.publishes)") == named("return []") == named("return ''")
    assert named("return f'{len(run.publishes)} publishes is too many'") == {"property: publishes is too many"}
    assert named("return ['one', 'two 2']") == {"property: one", "property: two"}
    assert named("assert False, 'never so'") == {"property: never so"} and named("return False") == {"property: check(run) returned False"}
    with pytest.raises(UsageError, match=r"check\(run\) raised ZeroDivisionError"):
        named("return 1 / 0")
    for text, told in (("x = 1", "has no function check"), ("1 / 0", "raised ZeroDivisionError"), ("def", "raised SyntaxError")):
        (tmp_path / "bad.py").write_text(text, "utf-8")
        with pytest.raises(UsageError, match=told):
            load_property(str(tmp_path / "bad.py"))
    with pytest.raises(UsageError, match=r"none\.py"):
        load_property(str(tmp_path / "none.py"))


def test_a_run_that_does_not_end_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(scenario: object) -> Any:
        while True:
            pass

    monkeypatch.setattr("sim.experiments.explore.look.HANG_CPU_S", 0.05)
    monkeypatch.setattr("sim.experiments.explore.look.run_in_memory", hangs)
    assert HANG_CPU_S > 1 and look_at(TREE).names == {"run: hangs"}


TREE = draw_schedule("1", bounds=BOUNDS)
