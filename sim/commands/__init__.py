"""The commands of `buslab`, one file each.

A member is a file with one click command of its name, thin: it calls one function that a notebook can call with the same name, and
imports it where it is used, so that --help stays quick. To add one: write ``sim/commands/<name>.py`` and list it in `COMMANDS`. What
several print or refuse alike is in `sim.printing`. A command returns its exit code.
"""

from __future__ import annotations

import click

from sim.commands.audit import audit
from sim.commands.bench import bench
from sim.commands.calibrate import calibrate
from sim.commands.capacity import capacity
from sim.commands.check import check
from sim.commands.claims import claims
from sim.commands.compare import compare
from sim.commands.cut import cut
from sim.commands.fidelity import fidelity
from sim.commands.grounds import grounds
from sim.commands.image import image
from sim.commands.list import list_
from sim.commands.matrix import matrix
from sim.commands.notebooks import notebooks
from sim.commands.pod import pod
from sim.commands.report import report
from sim.commands.run import run
from sim.commands.story import story
from sim.commands.sweep import sweep

COMMANDS: dict[str, click.Command] = {
    "run": run,
    "sweep": sweep,
    "check": check,
    "compare": compare,
    "report": report,
    "story": story,
    "list": list_,
    "matrix": matrix,
    "bench": bench,
    "calibrate": calibrate,
    "capacity": capacity,
    "cut": cut,
    "fidelity": fidelity,
    "grounds": grounds,
    "image": image,
    "claims": claims,
    "audit": audit,
    "notebooks": notebooks,
    "pod": pod,
}
