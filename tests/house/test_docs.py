"""README.md and docs/: short, fresh, every link leads somewhere, every name is there, and every command works as pasted."""

from __future__ import annotations

import importlib
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from docs.blocks import Block, comparable, copy_checkout, fences, read_blocks, run_block, shown_of
from docs.generate import COMMAND, REFERENCE
from docs.generate import pages as generate
from docs.glossary import TERMS
from docs.links import anchors_of, links_of, pages
from sim.experiments.claims.catalogue import CLAIMS
from sim.experiments.notebooks.run import notebook_paths
from sim.faults.catalogue import FAULTS
from sim.record import schema

ROOT = Path(__file__).parents[2]
PAGES = pages(ROOT)
README_LINES = 150
PICTURE_BYTES = 300_000
PLACES = r"(?:sim|tests|docs|locustfiles|notebooks|reports|\.ci)"
MADE_BY_A_RUN = ("reports/runs", "reports/sweeps", "reports/capacity.interrupted.csv", "reports/sizing")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks_of(page: Path, *, deep: bool) -> list[Block]:
    """Give the blocks that one test runs: the quick ones, or, where some are deep, all, as one may need what another made."""
    blocks = [block for block in read_blocks(page.read_text("utf-8")) if not block.not_run]
    return blocks if deep else [block for block in blocks if not block.deep]


@cache
def generated() -> dict[str, str]:
    """Return the pages of the reference as the code makes them, by the names of their files."""
    return generate()


QUICK = [page for page in PAGES if blocks_of(page, deep=False)]
DEEP = [page for page in PAGES if any(block.deep for block in blocks_of(page, deep=True))]


def test_the_readme_is_one_page_with_one_picture() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= README_LINES
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert (ROOT / picture).stat().st_size < PICTURE_BYTES


def test_the_readme_counts_right() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert f"[{len(FAULTS)} ways]" in text and f"{len(CLAIMS)} times" in text
    assert len(notebook_paths()) == 9 and "nine questions" in text


@pytest.mark.parametrize("page", sorted(path.name for path in REFERENCE.iterdir()))
def test_a_page_of_the_reference_says_what_the_code_says(page: str) -> None:
    assert (REFERENCE / page).read_text("utf-8") == generated()[page], f"docs/reference/{page} is stale: .venv/bin/{COMMAND}"


def test_every_page_of_the_reference_is_made() -> None:
    assert {path.name for path in REFERENCE.iterdir()} == set(generated())


def test_every_setting_option_column_and_public_name_has_a_meaning() -> None:
    bare = [f"{page}: {row}" for page, text in generated().items() for row in re.findall(r"^\|.*\|  \|$", text, re.M)]
    assert [row for row in bare if not row.startswith("scenarios.md")] == []
    assert set(schema.ROWS) == set(schema.COLUMNS) == set(schema.TABLES)
    assert [term for term, text in TERMS.items() if not text] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    nowhere = [str(target) for target, _ in links_of(page) if not target.exists()]
    assert nowhere == []
    lost = [f"{target.name}#{anchor}" for target, anchor in links_of(page) if anchor and anchor not in anchors_of(target)]
    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_and_every_python_name_that_a_page_names_is_there(page: Path) -> None:
    ticked = re.findall(r"`([^`\n]+)`", re.sub(r"^( *```).*?^\1$", "", page.read_text("utf-8"), flags=re.M | re.S))
    paths = [word for word in ticked if re.fullmatch(rf"{PLACES}/[\w./-]*", word) and not word.startswith(MADE_BY_A_RUN)]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    if page.name == "CHANGELOG.md":  # it tells of old names too
        return
    names = {match[1] for word in ticked if (match := re.match(r"(sim(?:\.\w+)+)(?:\(.*\))?$", word))}
    assert [one for one in sorted(names) if not resolves(one)] == []


def resolves(dotted: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    head, *rest = dotted.split(".")
    thing: object = importlib.import_module(head)
    for at, part in enumerate(rest):
        if not hasattr(thing, part):
            try:
                thing = importlib.import_module(".".join((head, *rest[: at + 1])))
            except ModuleNotFoundError:
                return False
        else:
            thing = getattr(thing, part)
    return True


def test_every_page_is_in_the_menu_of_the_site_and_in_the_table_of_pages() -> None:
    menu = set(re.findall(r'"([\w/-]+\.md)"', (ROOT / "zensical.toml").read_text("utf-8")))
    apart = ROOT / "docs" / "README.md"
    assert menu == {name(page) for page in PAGES if page != apart}
    assert {target for target, _ in links_of(apart)} == {page for page in PAGES if ROOT / "docs" in page.parents and page != apart}


def test_a_block_of_commands_is_run_or_says_why_not() -> None:
    """Fences without a language hold pictures made of letters; commands stand in bash or python."""
    for page in PAGES:
        text = page.read_text("utf-8")
        for line, language, body, _ in fences(text):
            assert language in {"", "bash", "python", "text", "toml", "yaml", "mermaid"}, (page, line)
            if language == "":
                assert not re.search(r"^(\$ |buslab |make |\.venv|locust |pip )", "\n".join(body), re.M), (page, line)
        for block in read_blocks(text):
            assert not re.search(r"^(buslab|locust|python|pytest) ", block.text, re.M), f"{page}, {block.title}: not as pasted"
            assert block.not_run != "not run", f"{page}, {block.title}: says no reason"


@pytest.mark.broker
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", QUICK, ids=name)
def test_the_commands_of_a_page_work_as_pasted(page: Path, tmp_path: Path) -> None:
    run_page(blocks_of(page, deep=False), tmp_path)


@pytest.mark.deep
@pytest.mark.broker
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("page", DEEP, ids=name)
def test_the_long_commands_of_a_page_work_as_pasted(page: Path, tmp_path: Path) -> None:
    run_page(blocks_of(page, deep=True), tmp_path)


def run_page(blocks: list[Block], folder: Path) -> None:
    """Run blocks in order and compare the output that the page shows."""
    there = copy_checkout(folder)
    for block in blocks:
        printed = run_block(block, there)
        if (shown := block.shown) is not None:
            lines = block.page_lines
            assert [comparable(line, shown) for line in shown_of(printed, shown)] == [comparable(line, shown) for line in lines], (
                f"{block.title}: the page shows what it does not print; .venv/bin/python -m docs.blocks PAGE"
            )


def test_the_rules_of_blocks() -> None:
    page = """<!-- deep -->
<!-- exits 2 -->
```bash
a
b
```

<!-- output: x|^y -->
```text
x 1
…
```

```bash
c
```
- an item

  <!-- not run: why -->
  ```python
  d
  ```
"""
    first, second, third = read_blocks(page)
    assert (first.text, first.deep, first.exit_code, first.page_lines) == ("a\nb", True, 2, ["x 1", "…"])
    assert (second.text, second.deep, second.exit_code, second.shown) == ("c", False, 0, None)
    assert (third.language, third.not_run, third.text) == ("python", "why", "d")
    assert first.shown is not None
    assert shown_of("u\n│ x │\n│   │ goes on\n│ z │\ny 20261128T101112.123456Z\nv\n", first.shown) == [
        "│ x │",
        "│   │ goes on",
        "…",
        "y 20261128T101112.123456Z",
    ]
    assert comparable("y 20261128T101112.123456Z 3", first.shown) == "y TIME 3"
    assert comparable("y 1,234.5  z", first.shown._replace(numbers_vary=True)) == "y # z"


def test_a_block_that_ends_otherwise_than_its_page_says_is_found(tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    good, bad, python = read_blocks("```bash\nfalse || true\n```\n```bash\nfalse\ntrue\n```\n```python\nraise SystemExit(3)\n```\n")
    assert run_block(good, tmp_path) == ""
    for block in (bad, python):
        with pytest.raises(AssertionError, match=r"ended with [13], the page says 0"):
            run_block(block, tmp_path)


@pytest.mark.broker
@pytest.mark.timeout(600)
def test_the_site_is_built_whole_and_fetches_nothing_from_elsewhere(tmp_path: Path) -> None:
    there = copy_checkout(tmp_path)
    built = subprocess.run([there / ".venv/bin/python", "-m", "docs.site"], cwd=there, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    site = there / "build" / "site"
    for page in PAGES:
        made = (site / page.relative_to(ROOT)).with_suffix(".html")
        assert (made if made.exists() else made.with_name("index.html")).is_file(), page
    assert (site / "reports" / "outage.png").is_file()
    victim = site / "docs" / "reference" / "cli.html"
    victim.write_text(victim.read_text("utf-8") + '<script src="https://elsewhere.example/x.js"></script><a href="nowhere.html">', "utf-8")
    again = subprocess.run(
        [there / ".venv/bin/python", "-c", "from docs.site import problems; print(*problems(), sep='\\n')"],
        cwd=there,
        capture_output=True,
        text=True,
        check=True,
    )
    assert again.stdout.splitlines() == [
        "docs/reference/cli.html: fetches something from elsewhere",
        "docs/reference/cli.html: nowhere.html leads nowhere",
    ]
