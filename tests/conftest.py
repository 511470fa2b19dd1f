"""What every test may use: a coroutine runner, a real broker, and the check that no process is left behind."""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
import redis
from hypothesis import HealthCheck, settings

from sim.errors import BuslabError
from sim.grounds.catalogue import open_broker
from sim.grounds.container_engine import IMAGE_ENV, engine
from sim.grounds.local_image import build_image
from sim.machine.clock import new_event_loop
from sim.scenario.file import Scenario, load_scenario
from sim.wire.address import Address
from tests.support.cli import end_server, server_pid
from tests.support.examples import examples
from tests.support.scenes import BOUND_S, Ground, ground_of
from tests.support.too_long import COLLECTED, TOO_LONG
from tests.support.unknown import pytest_sessionfinish, pytest_terminal_summary

__all__ = ["pytest_sessionfinish", "pytest_terminal_summary"]  # hooks, found by their names

# A busy machine is no finding: nothing here judges by the time it took.
settings.register_profile("busy", max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

T = TypeVar("T")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a background job of a shell: what tests start and interrupt would ignore it too
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # nohup: likewise
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
if "BUSLAB_TESTS" not in os.environ:  # leases of tests, and of the processes that they kill, in a folder of their own
    os.environ["BUSLAB_TESTS"] = os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="buslab-tests-")
    atexit.register(shutil.rmtree, os.environ["BUSLAB_TESTS"], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)  # before `-m` leaves any out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest: one worker is busy with it while the others share the rest. Mark what is too long for each change."""
    config.stash[COLLECTED] = tuple(item.nodeid for item in items)
    for item in items:
        if item.nodeid.startswith(TOO_LONG):
            item.add_marker(pytest.mark.deep)
    items.sort(key=lambda item: item.get_closest_marker("browser") is None)


def living_children() -> set[psutil.Process]:
    return {child for child in psutil.Process().children(recursive=True) if child.pid != server_pid()}


@pytest.fixture(scope="session", autouse=True)
def no_process_outlives_the_session() -> Iterator[None]:
    yield
    end_server()
    assert psutil.wait_procs(living_children(), timeout=30)[1] == []


@pytest.fixture(autouse=True)
def no_process_outlives_its_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fixtures of a wider scope start before this one, so their servers are known."""
    if request.node.get_closest_marker("broker") is None:
        yield
        return
    before = living_children()
    yield
    assert psutil.wait_procs(living_children() - before, timeout=30)[1] == []


@pytest.fixture(scope="session")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of the tests' states."""
    return tmp_path_factory.mktemp("states")


@pytest.fixture(autouse=True)
def a_state_of_its_own(states: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lab that one test kills is no other test's to heal."""
    monkeypatch.setenv("XDG_STATE_HOME", str(states / uuid.uuid4().hex))


@pytest.fixture(scope="session")
def image_or_reason() -> tuple[str, str]:
    """Give the image that container tests run, or why there is none."""
    try:
        with engine():
            return os.environ.get(IMAGE_ENV) or build_image().name, ""
    except BuslabError as error:
        return "", str(error)


@pytest.fixture(autouse=True)
def engine_or_skip(request: pytest.FixtureRequest) -> Iterator[None]:
    """Skip a test of the marker container where there is no engine; CI demands one."""
    if request.node.get_closest_marker("container") is None:
        yield
        return
    image, reason = request.getfixturevalue("image_or_reason")
    if not image:
        if os.environ.get("BUSLAB_REQUIRE_DOCKER") == "1":
            pytest.fail(f"BUSLAB_REQUIRE_DOCKER=1, but {reason}", pytrace=False)
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(IMAGE_ENV, image)
        yield


@pytest.fixture(scope="session")
def run_async() -> Callable[[Coroutine[Any, Any, T]], T]:
    """Run a coroutine on the loop that the live half uses, bounded; an unhandled error in a callback fails the test."""

    def run(coroutine: Coroutine[Any, Any, T]) -> T:
        unhandled: list[dict[str, Any]] = []

        async def bounded() -> T:
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: unhandled.append(context))
            async with asyncio.timeout(BOUND_S):
                return await coroutine

        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            result = runner.run(bounded())
        assert unhandled == []
        return result

    return run


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    """Give the address of a server that the tests of one file share; none may change its configuration for good."""
    with open_broker("embedded") as broker:
        yield broker.address


@pytest.fixture
def own_server() -> Iterator[tuple[Address, redis.Redis]]:
    """Give a server of this test's own, and a client to harm it with."""
    with open_broker("embedded") as broker, redis.Redis.from_url(broker.address.url) as client:
        yield broker.address, client


@pytest.fixture(params=["model"])
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    """Give the model, or whatever server of its own a test is parametrized with."""
    with ground_of(request.param) as one:
        yield one


@pytest.fixture(scope="session")
def small() -> Callable[..., Scenario]:
    """Make the baseline, short, with more settings; its lag is that of a busy machine."""

    def make(*settings: str) -> Scenario:
        short = ("slo.lag_ms_p99=10000", "load.warm_up_s=0.3", "load.run_s=1", "bus.batch_size=10", "bus.batch_interval_ms=150")
        return load_scenario("baseline", settings=(*short, *settings))

    return make
