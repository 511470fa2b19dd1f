"""How many files a process may have open: as many as the system gives, and named where that is too few.

Rules
-----
1. Each command and each child of ours raises its soft limit to the hard one at its start (many shells give 256 of thousands).
   What it starts inherits that.
2. A connection is a file: "too many open files" met by a connection is this process's limit and no fault of the server.
"""

from __future__ import annotations

import contextlib
import errno
import resource
from collections.abc import Iterator

MOST = 1 << 20  # some systems give a thousand times as many, and programs that close every number up to the limit then take minutes
STEPS = (65_536, 10_240, 4_096)  # what a system takes whose hard limit says more than it gives


def raise_open_files() -> int:
    """Raise this process's soft limit to the hard one, as far as the system lets us, and return what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    for number in (wanted, *STEPS):
        if soft != resource.RLIM_INFINITY and soft < number <= wanted:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
                break
    return most_open_files()


def most_open_files() -> int:
    """Return how many files this process may have open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST if soft == resource.RLIM_INFINITY else soft


def why_no_file(error: BaseException | None) -> str:
    """Return what to do where an error, or what caused it, says that no more files can be opened; empty where none does."""
    for one in _chain(error):
        number = one.errno if isinstance(one, OSError) else None
        if number == errno.EMFILE:
            return f"this process has all {most_open_files():,} files open that it may have: raise that by `ulimit -n`, or run fewer pods"
        if number == errno.ENFILE:
            return "this machine has as many open files as it allows (fs.file-max): end what you do not need, or raise that"
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__
