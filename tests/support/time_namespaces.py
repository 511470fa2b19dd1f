"""Programs whose CLOCK_MONOTONIC is ahead of this machine's: on Linux, as root."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

REQUIRE = "BUSLAB_REQUIRE_NAMESPACES"  # set in the environment: where none can be made the tests fail instead of skipping


def ahead_by(seconds: int) -> tuple[str, ...]:
    """Return what starts a program whose clock is so far ahead; skip the test where that cannot be, fail it where it must."""
    prefix = ("unshare", "--time", "--monotonic", str(seconds))
    why = "a time namespace needs Linux and root" if os.geteuid() or not shutil.which("unshare") else ""
    if not why and (tried := subprocess.run((*prefix, "true"), capture_output=True, text=True, check=False)).returncode:
        why = f"no time namespace: {tried.stderr.strip()}"
    if why and os.environ.get(REQUIRE):
        pytest.fail(f"{REQUIRE} is set, and {why}")
    if why:
        pytest.skip(why)
    return prefix
