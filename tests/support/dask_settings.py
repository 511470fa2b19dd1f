"""The settings of a run on a Dask cluster, for tests."""

from __future__ import annotations

DASK = ("hosts.kind=dask", "load.driver=pods")


def on(scheduler: str) -> tuple[str, ...]:
    """Return the settings of a run on the cluster of a scheduler."""
    return (*DASK, f"hosts.scheduler={scheduler}")
