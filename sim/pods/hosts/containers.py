"""Host `containers`: each pod in a container of its own, as in Kubernetes, on this machine's engine.

Rules
-----
1. A container runs the same code as a child of the host `local`, and all that holds for one holds for it: what it records, its journal, how
   it is killed, frozen and stopped. Its kernel is ours, so its clock is.
2. It sees the run folder, the user's code, and the socket of its line, in which its orders come: the broker's URL is on no command line and
   in no variable of it. Its root cannot be written, and it has no rights but those of the run's user.
3. It uses our network, as only loopback may carry load; so an engine with a machine or a network of its own is refused, and one whose
   processes we do not see, because then they cannot be frozen.
4. An image of another code than ours is refused: what it records would not be what is judged.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.errors import BrokerError, BuslabError
from sim.machine.line import Line
from sim.machine.variables import read_variable
from sim.pods.hosts.local import LocalHost
from sim.pods.hosts.local_process import ProcessEnd
from sim.scenario.file import Scenario

if TYPE_CHECKING:
    from sim.pods.hosts.container_process import ContainerProcess

IMAGE_ENV = "BUSLAB_POD_IMAGE"


def containers(scenario: Scenario, **of_run: Any) -> LocalHost:
    """Return the host whose every process is a container with one pod; the rest is as `LocalHost` takes it."""
    image = functools.cache(check_engine)

    async def start(name: str, *, folder: Path) -> ProcessEnd:
        from sim.pods.hosts.container_process import ContainerEnd, start_container

        def work() -> tuple[ContainerProcess, Line]:
            return start_container(name, folder=folder.resolve(), code_folder=scenario.code_folder, image=image())

        starting = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            process, line = await asyncio.shield(starting)
        except asyncio.CancelledError:  # the thread goes on, and so what it starts is there in a moment
            with contextlib.suppress(BuslabError):
                process, line = await starting
                line.close()
                await asyncio.to_thread(process.close)
            raise
        return ContainerEnd(process, await line.to_async(), folder=folder)

    return LocalHost(scenario, **of_run, name="container", start=start, processes=len(scenario.pods()))


def check_engine() -> str:
    """Return the whole name of the image that pods run in, where a container of it can hold them.

    Raises
    ------
    BrokerError
        No engine, or one that is not of this machine; no image, or one of other code. The message says what to do.
    """
    from sim.grounds.container_engine import asking, engine, ensure_image, shares_loopback, sweep
    from sim.grounds.pod_image import CODE_LABEL, code_digest, pod_image

    with engine() as client:
        sweep(client)
        if not shares_loopback(client):
            raise BrokerError("hosts.kind = 'containers': this engine has a machine or a network of its own; use hosts.kind = 'local'")
        named = read_variable(IMAGE_ENV)
        name = ensure_image(client, named or pod_image(), hint=lambda: "`buslab image --pods` builds one here")["name"]
        with asking(f"cannot look up the image {name}"):
            code = client.images.get(name).labels.get(CODE_LABEL)
        if code is not None and code != code_digest():
            raise BrokerError(f"the image {name} was built of other code than this: run `buslab image --pods` again")
        return name
