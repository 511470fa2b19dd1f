"""Ask tests of a real server that failed once more, alone: `python -m tests.support.again`, after a session that failed.

What then holds was disturbed, by its neighbours or the machine, or has a race that shows seldom. It counts among the tests that could not
judge, with its name, so that it is seen, and so that few of them are borne: see `unknown`. More than `MOST` failures are no accident: they
stand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.unknown import EARLIER_ENV, MAX_ENV, MAX_UNKNOWN

MOST = 3
LAST_FAILED = Path(".pytest_cache/v/cache/lastfailed")  # what pytest's own --last-failed reads


def ask_again() -> int:
    """Run what the last session failed, one at a time, and return the exit code of the tests as a whole."""
    failed = sorted(json.loads(LAST_FAILED.read_text("utf-8"))) if LAST_FAILED.is_file() else []
    if not 0 < len(failed) <= MOST:
        return 1
    print(f"\n{len(failed)} of them failed: asked again, alone", flush=True)
    if code := subprocess.run([sys.executable, "-m", "pytest", "-n", "0", *failed], check=False).returncode:
        return code
    path = Path(os.environ[EARLIER_ENV])
    said = path.read_text("utf-8").splitlines() if path.is_file() else []
    said += [f"{test}: it failed at first, and held when asked again, alone" for test in failed]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in said), "utf-8")
    print(f"failed at first, and held when asked again, alone: {', '.join(failed)}; unknown so far: {len(said)}", flush=True)
    return int(len(said) > int(os.environ.get(MAX_ENV, MAX_UNKNOWN)))


if __name__ == "__main__":
    sys.exit(ask_again())
