"""The page about one run: what it says, and that it needs nothing but itself."""

from __future__ import annotations

import base64
import html
import json
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from sim.pages.assets import content_policy, script
from sim.record.schema import event_id
from sim.results import figures, plots
from sim.results.checkers import judge
from sim.results.figures import figures_of
from sim.results.opened_run import Run, open_run
from sim.results.report import sentence, verdict_table, write_report
from tests.support.printed import printed
from tests.support.run_folders import RunFolder

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Balance(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def run(tmp_path: Path) -> Run:
    plan = RunFolder(tmp_path / "run", title="<script>alert('x')</script>").service("web", replicas=3)
    events = plan.publish(400)
    plan.drop(events[3], "web-0")
    plan.slo = {"missing": 0, "lag_ms_p99": 9, "lag_ms_p98": 3}
    plan.faults = [("freeze", "<b>", 11 * 10**9, 12 * 10**9)]
    return open_run(plan.write())


def test_the_page_says_what_was_found(run: Run) -> None:
    verdict = judge(run)
    text = write_report(run, verdict).read_text("utf-8")
    assert sentence(verdict).startswith("The run broke what it promised: missing is 1, at most 0 was promised")
    assert "missing copies without an explanation: 1" in text
    assert "1,199" in text and "1,200" in text
    assert "did you mean &#39;lag_ms_p99&#39;?" in text
    assert "buslab run synthetic.toml --on embedded" in text
    assert re.search(r"channel config\.updated</td>\s*<td [^>]*class=\"number\">250", text)


def test_the_page_is_whole_escaped_and_needs_nothing_else(run: Run) -> None:
    text = write_report(run, judge(run)).read_text("utf-8")
    page = Balance()
    page.feed(text)
    assert page.open == []
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", text, re.S)
    assert [attributes for attributes, _ in scripts] == [' type="application/json" id="run-picture-data"', ""] and "link" not in page.tags
    assert scripts[1][1] == script("run_picture") and content_policy(scripts[1][1]) in html.unescape(text), "no other script may run"
    assert "http:" not in text and "https:" not in text
    assert "&lt;script&gt;" in text and "&lt;b&gt;" in text and "<b>" not in text
    assert json.loads(scripts[0][1])["faults"][0]["target"] == "<b>"
    assert len(page.images) == len(figures_of(run)[0]) == 7, "this run has a fault"
    for image in page.images:
        assert (image["src"] or "").startswith("data:image/png;base64,")
        assert base64.b64decode((image["src"] or "").partition(",")[2]).startswith(b"\x89PNG")
        assert image["alt"] and "." in image["alt"]


def test_names_of_any_letters_cost_no_figure_and_no_row(tmp_path: Path) -> None:
    plan = RunFolder(tmp_path / "run").service("$dienst_$", replicas=2).service("_intern", replicas=1).service("[/]地图", replicas=1)
    plan.publish(40)
    plan.slo = {'missing.service."[/]地图"': 0, 'lag_ms_p99.service."$dienst_$"': 9}
    plan.faults = [("freeze", "$dienst_$-0", 11 * 10**9, 12 * 10**9)]
    run = open_run(plan.write())
    verdict = judge(run)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = write_report(run, verdict).read_text("utf-8")
    assert "could not be drawn" not in text
    assert "service $dienst_$ (on the bus)</td>" in text and "bus_us" not in text
    labels = [label.get_text() for label in plots.copies_per_event(run).get_xticklabels()]
    assert labels == [r"\$dienst_\$", "[/]地图", " _intern"]
    assert "missing.service.[/]地图" in printed(verdict_table(verdict)).replace('"', "")


def test_a_figure_that_fails_does_not_cost_the_page(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(run: Run, ax: object) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr(figures, "FIGURES", (broken,))
    assert "broken could not be drawn: ValueError: no such thing" in write_report(run, judge(run)).read_text("utf-8")


def test_a_run_without_data_still_has_a_page(tmp_path: Path) -> None:
    run = open_run(RunFolder(tmp_path / "empty").write(seal=False, state="running"))
    verdict = judge(run)
    text = write_report(run, verdict).read_text("utf-8")
    assert "This run cannot be judged" in text
    assert "The scenario sets no limits." in text
    assert "No data: no event of the run phase was for any service." in text and "<img" not in text and 'id="run-picture"' not in text
    assert "No picture of rates: no event was published or heard." in text


def test_the_terminal_table_names_checkers_limits_and_reasons(run: Run) -> None:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(verdict_table(judge(run)))
    text = console.export_text()
    assert "synthetic on embedded: invalid" in text
    for word in ("harness", "ledger", "lag_ms_p98", "1, at most 0", "did you mean 'lag_ms_p99'"):
        assert word in text


def test_a_witness_leads_to_its_story_in_the_page(run: Run) -> None:
    text = write_report(run, judge(run)).read_text("utf-8")
    events = set(re.findall(r'<code><a href="#story-(evt_[0-9a-f]{16})">', text))
    assert events
    for event in events:
        (told,) = re.findall(rf'<details id="story-{event}">.*?<pre>(.*?)</pre>', text, re.S)
        assert html.unescape(told) == run.story(event)
    assert set(re.findall(r'href="#([a-z][^"]*)"', text)) <= set(re.findall(r' id="([^"]*)"', text)), "no anchor leads nowhere"


def test_stories_that_are_looked_for_together_are_those_that_are_told_alone(run: Run) -> None:
    events = [event_id(int(key)) for key in run.publishes["event"][:5]]
    assert run.stories(events) == {event: run.story(event) for event in events} and run.stories([]) == {}


def test_settings_that_differ_from_the_built_in_scenario_stand_on_the_first_screen(run: Run) -> None:
    run.info.changed = ["load.rate_per_s = 500.0 (built-in: 200.0)", 'bus.x = "<b>" (built-in: not set)']
    text = write_report(run, judge(run)).read_text("utf-8")
    first = text[: text.index('id="picture"')]
    assert "Not as in the built-in scenario:" in first and "load.rate_per_s = 500.0 (built-in: 200.0)" in first and "&lt;b&gt;" in first
    run.info.changed = None  # a run from before this was written down
    assert "built-in scenario:" not in write_report(run, judge(run)).read_text("utf-8")
