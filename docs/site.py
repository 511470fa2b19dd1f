"""Build the pages as a site: build/site, with nothing in it that a browser would fetch from elsewhere.

README.md, CHANGELOG.md, docs/ and what they link to are laid out in build/pages as in the checkout, so that one relative link works on a
code host and in the site. Zensical builds it: it is what the makers of Material for MkDocs write now, where Material itself only gets
repairs, and it is one package without plugins. The search needs a server (``python -m http.server -d build/site``); all else works from
the files.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

from docs.links import links_of, pages

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build"
PAGES, SITE = BUILD / "pages", BUILD / "site"
FETCHED = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=["']?(https?:)?//""")
STYLED = re.compile(r"""(?:@import|url\()\s*["']?(https?:)?//""")


def lay_out() -> None:
    """Copy the pages and what they link to into build/pages; a diagram becomes text, as its drawer would come from elsewhere."""
    shutil.rmtree(BUILD, ignore_errors=True)
    linked = {target for page in pages(ROOT) for target, _ in links_of(page) if target.is_file()}
    for path in {*pages(ROOT), *linked, ROOT / "docs" / "site.css"}:
        there = PAGES / path.relative_to(ROOT)
        there.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            there.write_text(path.read_text("utf-8").replace("```mermaid", "```text"), "utf-8")
        else:
            shutil.copyfile(path, there)


def problems() -> list[str]:
    """Return what is wrong with the site: what a page would fetch from elsewhere, and local links that lead nowhere."""
    found = []
    for page in sorted(SITE.rglob("*.html")):
        text = page.read_text("utf-8")
        name = page.relative_to(SITE)
        if "reports/notebooks" in name.as_posix():
            continue  # pages of their own, made and tested elsewhere
        if FETCHED.search(re.sub(r'<link rel="canonical"[^>]*>', "", text)) or 'class="mermaid"' in text:
            found.append(f"{name}: fetches something from elsewhere")
        for target in re.findall(r"""\b(?:href|src)=["']?([^"'\s>]+)""", text):
            path = unquote(target.split("#")[0].split("?")[0])
            if path and not re.match(r"[a-z]+:", path) and not _there(page, path):
                found.append(f"{name}: {target} leads nowhere")
    found += [f"{style.relative_to(SITE)}: fetches something" for style in SITE.rglob("*.css") if STYLED.search(style.read_text("utf-8"))]
    return found


def _there(page: Path, path: str) -> bool:
    target = SITE / path.lstrip("/") if path.startswith("/") else page.parent / path
    return target.exists()


def main() -> None:
    """Lay out, build, look for problems; exit code 1 with them."""
    lay_out()
    subprocess.run(
        [Path(sys.prefix) / "bin" / "zensical", "build", "--strict", "--clean", "--config-file", ROOT / "zensical.toml"], check=True
    )
    if found := problems():
        sys.exit("\n".join(found))
    print(f"{SITE.relative_to(ROOT)}/index.html")


if __name__ == "__main__":
    main()
