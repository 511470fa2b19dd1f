"""Put the import path in order before anything else is imported: Locust puts the folder of the locustfile and the working directory first.

Both are the user's. Locust takes the former off the front again once the locustfile is loaded, so it stays there until then; what of ours
is imported meanwhile is imported inside `without_front`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

_ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_front = sys.path[0] if sys.path else ""
sys.path.insert(0, _ours)
from sim.machine.import_path import put_working_folder_last  # noqa: E402
from sim.machine.open_files import raise_open_files  # noqa: E402

sys.path.remove(_ours)
put_working_folder_last()
raise_open_files()


@contextlib.contextmanager
def without_front() -> Iterator[None]:
    """Import as if Locust had not put the folder of a locustfile first: a `redis.py` in it is not what we mean by redis."""
    is_there = bool(sys.path) and sys.path[0] == _front
    if is_there:
        del sys.path[0]
    try:
        yield
    finally:
        if is_there:
            sys.path.insert(0, _front)
