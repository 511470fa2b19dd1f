"""A Dask cluster on this machine, for a run that was given none: ``python -m sim.pods.hosts.dask_local_cluster``.

It is a process of its own, so that the scheduler's event loop is not that of the run. It says where the scheduler is, and ends with its
line.
"""

from __future__ import annotations

import asyncio

import dask
import msgspec
from distributed import LocalCluster

from sim.machine.line import Line, inherited_line

SETTINGS = {
    "distributed.worker.profile.enabled": False,  # its sampling would cost the pods 2 % of a core
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
}


class Form(msgspec.Struct, frozen=True):
    """The order to form a cluster."""

    workers: int
    folder: str


class Formed(msgspec.Struct, frozen=True):
    """The answer: where the scheduler is."""

    scheduler: str


async def serve(line: Line) -> None:
    """Form a cluster and keep it until the run is gone."""
    to_run = await line.to_async()
    async for form in to_run.messages(Form):
        async with LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=form.workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=None,
            local_directory=form.folder,
            asynchronous=True,
        ) as cluster:
            to_run.send(Formed(cluster.scheduler_address))
            async for _ in to_run.messages(Form):
                pass
        return


if __name__ == "__main__":
    with dask.config.set(SETTINGS):
        asyncio.run(serve(inherited_line(name="the run")))
