"""What all pages share: the colours in the style sheet, and which scripts a page lets run."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from sim.pages.assets import content_policy, script, style_sheet
from sim.pages.colours import FATE_COLOURS, FATE_WORDS, VERDICT_COLOURS
from sim.record.schema import FATES


def test_the_style_sheet_has_the_colours_of_all_fates_and_verdicts() -> None:
    assert list(FATE_COLOURS) == list(FATE_WORDS) == list(FATES)
    for name, colour in {**FATE_COLOURS, "valid": VERDICT_COLOURS["valid"], "invalid": VERDICT_COLOURS["invalid"]}.items():
        assert f"--{name}: {colour};" in style_sheet()


def test_lost_and_delivered_are_two_greys_and_verdicts_are_read_on_white() -> None:
    assert abs(luminance(FATE_COLOURS["missing"]) - luminance(FATE_COLOURS["delivered"])) > 0.15
    for colour in VERDICT_COLOURS.values():
        assert 1.05 / (luminance(colour) + 0.05) >= 4.5, "the contrast that WCAG asks of text"


def luminance(colour: str) -> float:
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5))
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_page_runs_the_scripts_it_was_made_with_and_no_other() -> None:
    code = script("run_picture")
    assert "</script" not in code.lower() and "<!--" not in code
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert content_policy(code) == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert content_policy().endswith("script-src 'none'")


def test_pages_of_notebooks_have_the_same_colours() -> None:
    page = (files("sim.experiments.notebooks") / "notebook_page.html").read_text("utf-8")
    assert all(f"--{word}: {colour};" in page for word, colour in VERDICT_COLOURS.items())
