"""A place that every worker can write and the run can read, for the parts of a record: a URL of any kind that fsspec knows.

Rules
-----
1. Credentials are those of the machine that speaks to the place: of its environment or its role. A URL with a secret is refused, because
   it would travel to every worker.
2. Each run has a folder of its own there, named by its keeper, and removes it when its parts have come home.
3. What goes wrong is told without the text of the library's error where that may hold what it was given.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import fsspec

from sim.errors import HostError, UsageError
from sim.machine.user_code import first_line
from sim.wire.shown import without_secrets

PROBE = "probe"
WITH_FOLDERS = ("file", "local", "sftp", "ssh", "smb", "ftp", "hdfs", "webhdfs")  # elsewhere a new folder could be a new bucket


class PartStore:
    """The folder of one run at such a place.

    Parameters
    ----------
    url
        Of the place, such as ``s3://bucket/folder``.
    run
        The name of the folder in it.

    Raises
    ------
    HostError
        There is no such kind of place here, or a library that speaks to it is not installed.
    """

    def __init__(self, url: str, run: str) -> None:
        self.url = f"{url.rstrip('/')}/{run}"
        try:
            found: tuple[Any, str] = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError, OSError) as error:
            raise HostError(f"--parts-to: {without_secrets(first_line(error))}") from None
        self._files, self._root = found

    def put(self, path: Path) -> None:
        """Write a file there, under its own name.

        Raises
        ------
        HostError
            It could not be written.
        """
        self._do(f"write {path.name} to", self._write, path.name, path.read_bytes())

    def put_probe(self, name: str) -> None:
        """Write a few bytes there, to see whether that can be done; raises as `put` does."""
        self._do("write to", self._write, name, PROBE.encode())

    def has_probe(self, name: str) -> bool:
        """Return whether such bytes can be read from here; raises `HostError` where nothing can."""
        return bytes(self._do("read", self._files.cat_file, self._at(name))) == PROBE.encode()

    def get(self, name: str, path: Path) -> None:
        """Read a file from there into a path; raises `HostError` where it cannot be read."""
        self._do(f"read {name} from", self._files.get_file, self._at(name), str(path))

    def remove(self) -> None:
        """Remove the folder of the run, as far as that can be done."""
        with contextlib.suppress(Exception):
            self._files.rm(self._root, recursive=True)

    def _write(self, name: str, content: bytes) -> None:
        if self.url.partition("://")[0] in WITH_FOLDERS:
            self._files.makedirs(self._root, exist_ok=True)
        self._files.pipe_file(self._at(name), content)

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _do(self, what: str, call: Any, *args: Any) -> Any:
        try:
            self._files.invalidate_cache()
            return call(*args)
        except Exception as error:  # each kind of place has errors of its own
            raise HostError(f"cannot {what} {self.url}: {without_secrets(first_line(error))}") from None


def check_place(url: str) -> None:
    """Refuse what is no URL of a place, or holds a secret.

    Raises
    ------
    UsageError
        The message has no part of what could be one.
    """
    scheme, _, rest = url.partition("://")
    if not scheme or not rest:
        raise UsageError("--parts-to: write a URL that every worker can write, such as s3://BUCKET/FOLDER")
    if "@" in rest or "?" in rest:
        raise UsageError(f"--parts-to: leave user, password and options out of the {scheme} URL: the workers' environment has them")
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise UsageError(f"--parts-to {scheme}://…: {first_line(error)}") from None
    except ValueError:
        raise UsageError(f"--parts-to {scheme}://…: fsspec knows no such kind of place") from None
