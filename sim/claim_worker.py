"""A process that runs trials of claims on the model: ``python -m sim.claim_worker FOLDER``, for `sim.claim_runs` alone.

Several share the list ``jobs.json`` in the folder: a trial belongs to whoever made its folder. SIGTERM ends the trial that is going on, as
it ends any run, and the process with it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sim.claim_runs import Job, run_job
from sim.claims import Trial
from sim.errors import Interrupted


def main(folder: Path) -> int:
    """Run trials until none is left."""
    for listed in json.loads((folder / "jobs.json").read_text("utf-8")):
        path = folder / listed["folder"]
        try:
            path.mkdir()
        except FileExistsError:
            continue
        try:
            run_job(Job(Trial(path.name, listed["scenario"], tuple(listed["settings"])), listed["on"], path))
        except Interrupted as error:
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
