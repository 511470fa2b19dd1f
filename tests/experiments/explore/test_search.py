"""A search finds what is planted, keeps it through an interruption, and repeats nothing."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from sim.errors import Interrupted, UsageError
from sim.experiments.explore.draw import Tree
from sim.experiments.explore.flaw import Flaw
from sim.experiments.explore.look import Look, Seen, look_at
from sim.experiments.explore.report import write_page
from sim.experiments.explore.run import explore
from sim.experiments.explore.search import LOG, Search, SearchPlan, run_search, slug
from sim.scenario.explore_bounds import Explore
from sim.scenario.file import check_tree, load_with_bounds
from tests.support.planted_bugs import BOUNDS, PLANTS

WRONG = [Flaw("order: invalid", "order is invalid: two of them", "1-2")]
HALF = next(plant for plant in PLANTS if plant.name == "half-subscribe")


def seen(number: int, *, findings: list[Flaw] = [], traits: list[str] = [], refused: str = "") -> Seen:  # noqa: B006 - not changed
    return Seen(number, findings, traits, refused)


def log_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / LOG).read_text("utf-8").splitlines()]


def test_a_planted_bug_is_found_shrunk_and_told_with_its_story(tmp_path: Path) -> None:
    plan = SearchPlan(bounds=BOUNDS, seed=2)
    with HALF.patch():
        explored = explore(plan, tmp_path / "search", runs=3, most_looks=5)
        page, junit, *pictures = write_page(explored, tmp_path / "page.md")
    assert explored.exit_code == 1 and explored.progress.counting
    one = next(one for one in explored.found if one.case.finding.event)
    assert one.look.names >= {one.case.finding.name} and one.shrunk.looks == 5 and one.story
    text = page.read_text("utf-8")
    assert one.case.finding.text in text and one.story.strip() in text and pictures and f"({pictures[0].relative_to(tmp_path)})" in text
    assert {case.get("name") for case in ET.parse(junit).iter("testcase")} == set(explored.progress.cases)
    with HALF.patch():  # the file that was written shows it again
        scenario, _ = load_with_bounds(str(one.case.path))
        assert one.case.finding.name in look_at(one.case.tree, heal_s=BOUNDS.heal_s).names
    assert check_tree({**one.case.tree, "name": scenario.name}, where="case").faults == scenario.faults
    assert one.case.finding.name not in look_at(one.case.tree, heal_s=BOUNDS.heal_s).names, "nor without the bug"


def test_what_is_known_does_not_count(tmp_path: Path) -> None:
    search = Search(SearchPlan(bounds=Explore(known=("order",))), tmp_path)
    search.begin()
    (case,) = search.take(search.draw(0), seen(0, findings=WRONG))
    assert case.known and search.progress.counting == [] and list(search.progress.cases) == ["order: invalid"]
    assert search.take(search.draw(1), seen(1, findings=WRONG)) == [] and case.runs == 2
    assert case.path == tmp_path / "found" / "order-invalid.toml" and case.path.read_text("utf-8").startswith(
        "# order: invalid\n# order is"
    )


def test_a_search_goes_on_where_it_was_killed_in_the_middle_of_a_line(tmp_path: Path) -> None:
    plan = SearchPlan(bounds=BOUNDS, seed=3)
    first = Search(plan, tmp_path)
    first.begin()
    for number in range(5):
        first.take(first.draw(number), seen(number, traits=[f"trait {number}"], findings=WRONG if number == 2 else []))
    with (tmp_path / LOG).open("ab") as log:
        log.write(b'{"number": 5, "new": ["tr')
    (tmp_path / "found" / "order-invalid.toml").unlink()
    again = Search(plan, tmp_path)
    assert again.resume() == 5
    assert (again.progress.looked, again.progress.new, again.progress.cases["order: invalid"].number) == (5, 5, 2)
    assert (tmp_path / "found" / "order-invalid.toml").exists()
    assert [again.draw(number) for number in (5, 6, 7)] == [first.draw(number) for number in (5, 6, 7)]
    again.take(again.draw(5), seen(5, traits=["trait 5"]))
    last = Search(plan, tmp_path)
    assert last.resume() == 6, "the torn line is not in the way of the next one"
    with pytest.raises(UsageError, match="was another one"):
        Search(SearchPlan(bounds=BOUNDS, seed=4), tmp_path).resume()
    with pytest.raises(UsageError, match="there is no search at"):
        Search(plan, tmp_path / "none").resume()


def test_what_showed_something_new_is_changed_and_blind_it_is_not() -> None:
    def trees(guided: bool) -> list[Tree]:
        search = Search(SearchPlan(bounds=BOUNDS, guided=guided))
        drawn = []
        for number in range(30):
            drawn.append(tree := search.draw(number))
            search.take(tree, seen(number, traits=["new"] if number == 0 else []))
        return drawn

    guided, blind = trees(True), trees(False)
    assert guided == trees(True) and blind == [Search(SearchPlan(bounds=BOUNDS)).draw(number) for number in range(30)]
    near = [tree for tree in guided[1:] if tree["services"] == guided[0]["services"]]
    assert 8 < len(near) < 22 and all(tree not in blind for tree in near)
    assert [tree for tree in guided if tree not in near] == [tree for tree in blind if tree in guided]


def test_shards_share_the_seed_and_look_at_different_schedules() -> None:
    whole = [Search(SearchPlan(guided=False)).draw(number) for number in range(6)]
    parts = [[Search(SearchPlan(guided=False, shard=(part, 2))).draw(number) for number in range(3)] for part in (1, 2)]
    assert [tree for pair in zip(*parts, strict=True) for tree in pair] == whole


def test_where_no_schedule_can_run_the_search_ends_with_the_reason() -> None:
    search = Search(SearchPlan(bounds=BOUNDS))
    with pytest.raises(UsageError, match="none of 64 schedules that were drawn can run: no room"):
        for number in range(100):
            search.take({}, seen(number, refused="no room"))


def test_the_search_looks_at_so_many_and_each_once() -> None:
    numbers: list[int] = []
    progress = run_search(Search(SearchPlan(bounds=BOUNDS, seed=5)), runs=3, watch=lambda progress, new: numbers.append(progress.looked))
    assert numbers == [1, 2, 3] and progress.looked == 3 and progress.new and all(second > 0 for second in progress.seconds)


@pytest.mark.broker
def test_several_processes_find_what_one_finds(tmp_path: Path) -> None:
    for jobs in (1, 2):
        search = Search(SearchPlan(bounds=BOUNDS, seed=6), tmp_path / str(jobs))
        search.begin()
        run_search(search, runs=8, jobs=jobs)
    assert log_of(tmp_path / "1") == log_of(tmp_path / "2") and len(log_of(tmp_path / "1")) == 9


def test_a_file_has_a_plain_name() -> None:
    assert (slug("slo: lag_ms_p99"), slug("property: Größe > 3!"), slug("???")) == ("slo-lag-ms-p99", "property-gr-e-3", "finding")


def test_a_run_that_breaks_is_a_finding_and_one_that_cannot_run_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Search(SearchPlan(bounds=BOUNDS)).draw(0)

    def breaks(scenario: object) -> None:
        raise RuntimeError("it  broke\nhere")

    monkeypatch.setattr("sim.experiments.explore.look.run_in_memory", breaks)
    assert look_at(tree).findings == [Flaw("run: RuntimeError", "RuntimeError: it broke here")]
    refused: Look = look_at({**tree, "faults": [{"kind": "broker_dwn"}]})
    assert refused.findings == [] and "no such fault" in refused.refused


def test_an_interruption_ends_the_search_and_what_was_found_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object, task: object) -> Seen:
        raise Interrupted(2, "interrupted by SIGINT in phase run")

    search = Search(SearchPlan(bounds=BOUNDS), tmp_path)
    search.begin()
    monkeypatch.setattr("sim.experiments.explore.look.Looker.look", interrupted)
    with pytest.raises(Interrupted, match=f"interrupted by SIGINT after 0 schedules; what was found is in {tmp_path}") as error:
        run_search(search, runs=3)
    assert error.value.exit_code == 130
