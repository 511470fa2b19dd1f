"""The record of a worker on another machine on its way home: its files, in bounded pieces, on Locust's own messages.

hand -> lead    ``buslab-part``: a piece of a file, where it begins, how long the file is and its checksum
lead -> hand    ``buslab-got``: that the piece was written, or why not; the next one is sent only then

So neither side holds more than a piece, whatever the record's size. A file appears in the run folder whole and with the checksum that it
was sent with, or the run fails. What a worker may name are parts of its own process and nothing else.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import gevent.event

from sim.errors import RecordError
from sim.machine.files import why_not_written
from sim.record.checksum import file_checksum
from sim.record.recorder import PARTS
from sim.record.schema import TABLES

PIECE_BYTES = 1 << 20
TAKEN_TIMEOUT_S = 15.0  # for the lead to write one piece


class Luggage:
    """What a hand on another machine records, in a folder of its own until it is home.

    Attributes
    ----------
    folder
        In the place of the run folder.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="buslab-worker-"))
        except OSError as error:
            raise RecordError(f"no place for the record of this worker: {error.strerror or error}") from None
        self._send = send
        self._got: gevent.event.AsyncResult = gevent.event.AsyncResult()

    def got(self, data: dict[str, Any]) -> None:
        """Take the lead's answer to a piece."""
        self._got.set(str(data.get("error", "")))

    def bring_home(self) -> str:
        """Send every file to the lead and forget it here; return what went wrong, or an empty string."""
        try:
            for path in sorted((self.folder / PARTS).glob("*.parquet")):
                if why := self._bring(path):
                    return why
                path.unlink()
        except OSError as error:
            return f"the record of this worker cannot be read: {error.strerror or error}"
        return ""

    def _bring(self, path: Path) -> str:
        size, crc = path.stat().st_size, 0
        with path.open("rb") as file:
            at = 0
            while at < size:
                piece = file.read(PIECE_BYTES)
                crc = zlib.crc32(piece, crc)
                self._got = gevent.event.AsyncResult()
                self._send({"name": path.name, "at": at, "size": size, "crc": crc, "piece": piece})
                try:
                    if why := self._got.get(timeout=TAKEN_TIMEOUT_S):
                        return str(why)
                except gevent.Timeout:
                    return f"the master did not take the record of this worker within {TAKEN_TIMEOUT_S:g} s"
                at += len(piece)
        return ""

    def close(self) -> None:
        """Remove the folder; may be called twice."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Landing:
    """Where the lead puts what comes: each piece behind the one before it, the whole file under its name."""

    def __init__(self, folder: Path) -> None:
        self._parts = folder / PARTS

    def take(self, host: str, data: dict[str, Any]) -> str:
        """Write a piece of a file of a process; return what is wrong, or an empty string."""
        name, at, piece = str(data["name"]), int(data["at"]), bytes(data["piece"])
        if re.fullmatch(rf"({'|'.join(TABLES)})-{re.escape(host)}-[0-9]{{5}}\.parquet", name) is None or len(piece) > PIECE_BYTES:
            return f"the worker sent what is no part of its record: {name[:100]!r}"
        unfinished = self._parts / f".{name}"
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
            with unfinished.open("r+b" if at else "wb") as file:
                if file.seek(0, 2) != at:
                    return f"a piece of {name} did not come"
                file.write(piece)
            if at + len(piece) < int(data["size"]):
                return ""
            if file_checksum(unfinished) != int(data["crc"]):
                unfinished.unlink()
                return f"{name} did not come as it was sent: its checksum differs"
            unfinished.rename(self._parts / name)
        except OSError as error:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            return f"cannot write {self._parts / name}: {why_not_written(error)}"
        return ""
