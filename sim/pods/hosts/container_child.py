"""A process in a container that holds pods for a run: ``python -m sim.pods.hosts.container_child SOCKET``.

`sim.pods.hosts.containers` starts it. It is that of `sim.pods.hosts.local_child`, and finds its line where the run listens for it, as
nothing is inherited by a container.
"""

from __future__ import annotations

import asyncio
import socket
import sys

from sim.machine.clock import new_event_loop
from sim.machine.line import Line
from sim.pods.hosts.local_child import serve


def connect(path: str) -> Line:
    """Return this end of the line to the run that listens at a socket of this machine."""
    end = socket.socket(socket.AF_UNIX)
    end.connect(path)
    return Line(end, name="the run")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(connect(sys.argv[1])))
