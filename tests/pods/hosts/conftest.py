"""A Dask cluster for the tests of the hosts on one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sim.pods.hosts.dask_client import DaskClient, open_client
from sim.pods.hosts.dask_cluster import own_cluster


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """Give the scheduler of a cluster of two workers that the tests of this file share."""
    with own_cluster(2) as found:
        yield found


@pytest.fixture
def client(scheduler: str) -> Iterator[DaskClient]:
    """Give a client of that scheduler."""
    with open_client(scheduler) as one:
        yield one
