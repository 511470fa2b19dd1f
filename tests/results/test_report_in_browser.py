"""The page of a run in a real browser: it draws, zooms, tells and leads to stories, with no network, on paper and on a narrow screen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sim.results import figures
from sim.results.judged_run import judge_folder
from sim.results.report import write_report
from tests.support.browser import FLAGS, find_browser
from tests.support.run_folders import MS, SECOND, RunFolder

pytestmark = pytest.mark.browser


def write_page(folder: Path, *, replicas: int = 3, events: int = 300) -> Path:
    """Write the page of a run in which web-1 lost the events of one second, while a fault was on."""
    plan = RunFolder(folder).service("web", replicas=replicas).service("<script>alert(1)</script>", replicas=1)
    plan.faults = [("broker_down", "broker", 12 * SECOND, 13 * SECOND)]
    plan.state("web-1", 12 * SECOND, "disconnected", "outage").state("web-1", 13 * SECOND, "subscribed", "connected")
    for event in plan.publish(events, step_ns=6000 * MS // events):
        if 12 * SECOND <= event.intended_ns < 13 * SECOND:
            plan.drop(event, "web-1")
    plan.slo = {"lag_ms_p99": 5}
    judged = judge_folder(plan.write(), write=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "FIGURES", ())
        patch.setattr(figures, "OF_FAULTS", ())
        return write_report(judged.run, judged.verdict)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = find_browser()
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("page") / "run")


@pytest.fixture
def page(browser: Any, written: Path) -> Iterator[Any]:
    with browser.new_context(offline=True, viewport={"width": 1280, "height": 800}) as context:
        shown = context.new_page()
        errors: list[str] = []
        shown.on("pageerror", lambda error: errors.append(str(error)))
        shown.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        shown.goto(written.as_uri())
        yield shown
        assert errors == []


def at(page: Any, canvas: Any, seconds: float, lane: int) -> tuple[float, float]:
    """Return where a time and a lane are on the first canvas, by what the page says of its axes."""
    width = canvas.bounding_box()["width"]
    return 168 + (seconds + 1) / 11 * (width - 168 - 14), 34 + 44 * lane + 22


def test_the_first_screen_has_the_answer_and_the_picture(page: Any) -> None:
    fold = page.viewport_size["height"]
    for selector in (".answer >> nth=0", ".answer >> nth=1", ".tiles", "#picture"):
        box = page.locator(selector).bounding_box()
        assert box["y"] + min(box["height"], 40) < fold, selector
    canvas = page.locator("#run-picture canvas").first
    assert canvas.bounding_box()["y"] < fold - 100
    legend = page.locator(".legend button").all_inner_texts()
    assert [re.sub(r"\s+", " ", text).strip() for text in legend] == ["delivered 1,150", "lost: deaf 50"]


def test_a_lost_copy_is_red_in_its_place_and_tells_its_event_and_cause_and_leads_to_its_story(page: Any) -> None:
    canvas = page.locator("#run-picture canvas").first
    x, y = at(page, canvas, 2.5, 1)
    canvas.scroll_into_view_if_needed()
    colours = canvas.evaluate(
        "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(x * devicePixelRatio - 20, y * devicePixelRatio, 40, 1).data]", [x, y]
    )
    assert [0xD5, 0x5E, 0x00] in [colours[n : n + 3] for n in range(0, len(colours), 4)]
    canvas.hover(position={"x": x, "y": y})
    told = page.locator(".tip").inner_text()
    assert re.search(r"evt_[0-9a-f]{16} on config\.updated from locust-0, meant at 2\.\d+ s; web-1: lost: deaf", told)
    first = at(page, canvas, 2.001, 1)
    canvas.click(position={"x": first[0], "y": first[1]})
    said = page.locator(".said")
    assert "web-0: delivered" in said.inner_text() and "web-1: lost, deaf" in said.inner_text()
    said.get_by_role("link", name="its story").click()
    story = page.locator("details[open]")
    assert "web-1 missing, deaf" in story.inner_text()


def test_zoom_filter_and_keys_change_what_is_shown(page: Any) -> None:
    canvas = page.locator("#run-picture canvas").first
    before = canvas.evaluate("canvas => canvas.toDataURL()")
    page.get_by_role("button", name="Zoom in").click()
    zoomed = canvas.evaluate("canvas => canvas.toDataURL()")
    assert zoomed != before
    page.get_by_role("button", name="Show all of the run").click()
    assert canvas.evaluate("canvas => canvas.toDataURL()") == before
    lost = page.locator(".legend button", has_text="lost")
    lost.click()
    assert lost.get_attribute("aria-pressed") == "false" and canvas.evaluate("canvas => canvas.toDataURL()") != before
    lost.click()
    canvas.press("n")
    assert "lost: deaf" in page.locator(".said").inner_text()
    canvas.press("+")
    assert canvas.evaluate("canvas => canvas.toDataURL()") not in (before, zoomed)


def test_names_are_text_and_nothing_of_a_name_is_run(page: Any) -> None:
    assert page.locator("td", has_text="<script>alert(1)</script>").count() > 0
    assert page.locator("script").count() == 2


def test_a_narrow_screen_has_cards_and_nothing_is_wider_than_it(browser: Any, written: Path) -> None:
    with browser.new_context(offline=True, viewport={"width": 390, "height": 800}) as context:
        page = context.new_page()
        page.goto(written.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.locator("table.cards tbody tr").first.evaluate("row => getComputedStyle(row).display") == "block"


def test_without_scripts_the_answer_is_there_all_the_same(browser: Any, written: Path) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(written.as_uri())
        assert "did not reach all of its pods" in page.locator(".headline").inner_text()
        assert "Where scripts are off" in page.locator("#run-picture").inner_text()


def test_many_copies_are_drawn_as_blocks_and_one_lost_copy_is_still_seen(browser: Any, tmp_path: Path) -> None:
    path = write_page(tmp_path / "run", replicas=200, events=200)
    with browser.new_context(offline=True, viewport={"width": 1280, "height": 800}) as context:
        page = context.new_page()
        page.goto(path.as_uri())
        canvas = page.locator("#run-picture canvas").first
        found = canvas.evaluate(
            """canvas => { const all = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data; let red = 0;
            for (let n = 0; n < all.length; n += 4) if (all[n] === 0xd5 && all[n + 1] === 0x5e && all[n + 2] === 0) red++; return red; }"""
        )
        assert found > 20
        canvas.focus()
        canvas.press("n")
        assert re.search(r"copies of web-\d+ … web-\d+ lost: deaf", page.locator(".said").inner_text())
