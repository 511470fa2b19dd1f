"""`make lab` in a real browser: JupyterLab opens the quick start, runs every cell, and shows pictures, the answer and no error."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.browser import FLAGS, find_browser

ROOT = Path(__file__).parents[2]
LOAD_MS, RUN_MS = 90_000, 120_000  # bounds, not expectations


@pytest.fixture
def browser_path() -> str:
    return find_browser()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """Start `make lab` with settings of its own and give the address of the quick start; end it with its kernels."""
    port, token = free_port(), secrets.token_hex(8)
    settings = tmp_path / "settings" / "@jupyterlab"
    for name, values in {
        "notebook-extension/tracker": {"windowingMode": "none"},  # every cell is in the page, also when it is not in sight
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},  # nothing is asked of the internet
        "docmanager-extension/plugin": {"autosave": False},
    }.items():
        path = settings / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), "utf-8")
    flags = f"--no-browser --ip=127.0.0.1 --port={port} --ServerApp.port_retries=0 --IdentityProvider.token={token}"
    flags += f" --LabApp.user_settings_dir={tmp_path / 'settings'} --LabApp.workspaces_dir={tmp_path / 'workspaces'} --LabApp.news_url="
    own = {f"JUPYTER_{what}_DIR": str(tmp_path / what.lower()) for what in ("CONFIG", "DATA", "RUNTIME")}
    env = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"} | own | {"IPYTHONDIR": str(tmp_path / "ipython")}
    argv = ["make", "--old-file", ".venv/.ready", "lab", f"LAB_FLAGS={flags}"]  # what is installed is what is tested
    with (tmp_path / "log").open("wb") as log:
        make = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield f"http://127.0.0.1:{port}/lab/tree/00_quickstart.ipynb?token={token}&reset"
    finally:
        family = psutil.Process(make.pid).children(recursive=True) if make.poll() is None else []
        os.killpg(make.pid, signal.SIGTERM)
        left = psutil.wait_procs(family, timeout=20)[1]
        for process in left:
            process.kill()
        make.wait(20)
        print((tmp_path / "log").read_text("utf-8", "replace")[-3000:])  # shown when the test fails


def wait_for_kernel(page: Any, address: str) -> None:
    """Return once the page's kernel is ready: what is run before that is lost, and the page shows an idle kernel also without one."""
    server, _, token = address.removesuffix("&reset").partition("/lab/tree/00_quickstart.ipynb?")
    for _ in range(LOAD_MS // 250):
        kernels = [session["kernel"] for session in page.request.get(f"{server}/api/sessions?{token}").json()]
        if kernels and kernels[0]["execution_state"] == "idle" and kernels[0]["connections"]:
            return
        page.wait_for_timeout(250)
    pytest.fail(f"the kernel was not ready after {LOAD_MS / 1000:g} s: {kernels}")


@pytest.mark.browser
@pytest.mark.broker
@pytest.mark.timeout(300)
def test_the_quick_start_runs_in_jupyterlab_and_shows_pictures_and_no_error(browser_path: str, lab: str) -> None:
    from playwright.sync_api import Error, sync_playwright

    notebook = ROOT / "notebooks" / "00_quickstart.ipynb"
    before = notebook.read_bytes()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(LOAD_MS)
        for _ in range(LOAD_MS // 250):  # until the server listens
            try:
                page.goto(lab)
                break
            except Error as error:
                if "ERR_CONNECTION_REFUSED" not in str(error):
                    raise
                page.wait_for_timeout(250)
        page.wait_for_selector(".jp-NotebookPanel .jp-CodeCell")
        wait_for_kernel(page, lab)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        answer = page.locator(".jp-OutputArea .conclusion, .jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").first
        answer.wait_for(state="attached", timeout=RUN_MS)
        errors = page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").all_inner_texts()
        assert errors == []
        assert answer.inner_text().startswith("valid: Of ")
        prompts = [text.strip() for text in page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()]
        assert prompts == [f"[{n}]:" for n in range(1, len(prompts) + 1)]
        widths = page.locator(".jp-OutputArea img").evaluate_all("images => images.map(image => image.naturalWidth)")
        assert len(widths) >= 3 and min(widths) > 300
        if picture := os.environ.get("BUSLAB_SCREENSHOT"):
            page.screenshot(path=picture)
        browser.close()
    assert notebook.read_bytes() == before
