"""The commands of `buslab`, one file each.

A member is a file with one click command of its name, thin: it calls one function that a notebook can call with the same name, and
imports it where it is used, so that --help stays quick. To add one: write ``sim/cli/commands/<name>.py`` and list it in `COMMANDS`. What
several take is in `sim.cli.options`, what they print or refuse alike in `sim.cli.printing`. A command returns its exit code.
"""

from __future__ import annotations

import click

from sim.cli.commands.audit import audit
from sim.cli.commands.bench import bench
from sim.cli.commands.calibrate import calibrate
from sim.cli.commands.capacity import capacity
from sim.cli.commands.capture import capture
from sim.cli.commands.check import check
from sim.cli.commands.check_scenario import check_scenario
from sim.cli.commands.claims import claims
from sim.cli.commands.compare import compare
from sim.cli.commands.cut import cut
from sim.cli.commands.explore import explore
from sim.cli.commands.export import export
from sim.cli.commands.fidelity import fidelity
from sim.cli.commands.grounds import grounds
from sim.cli.commands.image import image
from sim.cli.commands.import_ import import_
from sim.cli.commands.list import list_
from sim.cli.commands.lost import lost
from sim.cli.commands.manifests import manifests
from sim.cli.commands.matrix import matrix
from sim.cli.commands.new import new
from sim.cli.commands.notebooks import notebooks
from sim.cli.commands.pod import pod
from sim.cli.commands.report import report
from sim.cli.commands.run import run
from sim.cli.commands.schema import schema
from sim.cli.commands.story import story
from sim.cli.commands.sweep import sweep
from sim.cli.commands.tap import tap

COMMANDS: dict[str, click.Command] = {
    "new": new,
    "run": run,
    "check-scenario": check_scenario,
    "sweep": sweep,
    "check": check,
    "compare": compare,
    "report": report,
    "story": story,
    "lost": lost,
    "list": list_,
    "matrix": matrix,
    "explore": explore,
    "bench": bench,
    "calibrate": calibrate,
    "capacity": capacity,
    "capture": capture,
    "cut": cut,
    "fidelity": fidelity,
    "grounds": grounds,
    "image": image,
    "claims": claims,
    "audit": audit,
    "notebooks": notebooks,
    "pod": pod,
    "tap": tap,
    "schema": schema,
    "import": import_,
    "export": export,
    "manifests": manifests,
}
