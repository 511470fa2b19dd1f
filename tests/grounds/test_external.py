"""A run on a server of others leaves it as it was, also when it was interrupted, and says so where it cannot."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from sim.errors import Interrupted
from sim.results.opened_run import open_run
from sim.run.steps import Status, run_scenario
from sim.scenario.file import Scenario, load_scenario
from sim.wire.address import Address
from tests.support.scenes import BOUND_S

pytestmark = pytest.mark.broker
Small = Callable[..., Scenario]
RECIPES = ("finally-del", "token-del", "keep-marker", "two-key")
OTHERS = {"aiponge:locks:evt_0007000000000001": "theirs", "aiponge:done:x": "theirs", "aiponge:locks:buslab-": "theirs", "plain": "theirs"}


@dataclass
class State:
    keys: dict[str, str]
    config: dict[str, str]
    channels: list[bytes]
    clients: int
    users: list[str]
    scripts: int


def state(client: redis.Redis) -> State:
    """Everything that a run could leave behind; the server's own counters are not among it."""
    keys = {key.decode(): client.get(key).decode() for key in client.keys("*")}  # type: ignore[union-attr]
    return State(
        keys,
        client.config_get("*"),
        client.pubsub_channels("*"),
        len(client.client_list()),
        client.acl_list(),
        int(client.info("memory")["number_of_cached_scripts"]),
    )


def settled(client: redis.Redis, wanted: State) -> State:
    """Return the state as soon as it is this one, or what it still is after a while: a server sees later that a connection is closed."""
    patience = time.monotonic() + BOUND_S
    while (now := state(client)) != wanted and time.monotonic() < patience:
        time.sleep(0.05)
    return now


def once_run(recipe: str) -> Scenario:
    return load_scenario("lock_lab", settings=(f"bus.once={recipe}", "load.run_s=1.5"))


@pytest.fixture
def theirs(own_server: tuple[Address, redis.Redis]) -> tuple[Address, redis.Redis]:
    own_server[1].mset(OTHERS)
    return own_server


@pytest.mark.parametrize("driver", ["pods", "locust"])
def test_a_run_leaves_a_server_as_it_was(theirs: tuple[Address, redis.Redis], small: Small, tmp_path: Path, driver: str) -> None:
    address, client = theirs
    before = state(client)
    run_scenario(small(f"load.driver={driver}"), on=address.url, out=tmp_path / "run")
    assert settled(client, before) == before


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_once_recipe_sets_keys_of_its_run_only_and_they_are_gone_at_its_end(
    theirs: tuple[Address, redis.Redis], tmp_path: Path, recipe: str
) -> None:
    address, client = theirs
    before = state(client)
    seen: set[str] = set()

    def watch(status: Status) -> None:
        if status.phase in ("run", "drain"):
            seen.update(key.decode() for key in client.keys("*"))

    folder = run_scenario(once_run(recipe), on=address.url, out=tmp_path / "run", watch=watch)
    run = open_run(folder)
    ours = seen - set(OTHERS)
    prefixes = tuple(f"aiponge:{kind}:buslab-{run.info.nonce:x}:evt_" for kind in ("locks", "done"))
    assert ours or recipe not in ("keep-marker", "two-key"), "a marker stays until the end"
    assert [key for key in ours if not key.startswith(prefixes)] == []
    before.scripts = state(client).scripts  # EVAL caches the text of a lock's release: memory of the server, no key
    assert settled(client, before) == before
    assert run.info.notes == []


def test_an_interrupted_run_takes_its_keys_with_it(theirs: tuple[Address, redis.Redis], tmp_path: Path) -> None:
    address, client = theirs
    before = state(client)
    seen: list[int] = []

    def watch(status: Status) -> None:
        if status.phase == "run" and not seen and client.dbsize() > len(OTHERS):
            seen.append(client.dbsize())
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        run_scenario(once_run("keep-marker"), on=address.url, out=tmp_path / "run", watch=watch)
    assert seen
    assert settled(client, before) == before


def test_where_scan_is_not_allowed_the_run_says_what_it_leaves(theirs: tuple[Address, redis.Redis], tmp_path: Path) -> None:
    address, client = theirs
    commands = ["+@all", "-scan"]
    client.acl_setuser("ann", enabled=True, passwords=["+secret"], commands=commands, keys=["aiponge:*"], channels=["*"], reset=True)
    url = f"redis://ann:secret@127.0.0.1:{address.port}"
    run: Any = open_run(run_scenario(once_run("keep-marker"), on=url, out=tmp_path / "run"))
    (note,) = run.info.notes
    assert "may be left" in note and f"aiponge:locks:buslab-{run.info.nonce:x}:*" in note and "SCAN" in note
    left = [key for key in client.keys("*") if key.decode() not in OTHERS]
    assert left
    assert all(0 < client.ttl(key) <= 300 for key in left)


def test_more_keys_than_one_scan_returns_are_all_found(theirs: tuple[Address, redis.Redis], run_async: Any) -> None:
    from sim.run.leftovers import delete_leftovers

    address, client = theirs
    client.mset({f"aiponge:locks:buslab-7f:s:{n}": "1" for n in range(5000)} | {f"aiponge:done:buslab-7f:s:{n}": "1" for n in range(3)})
    client.mset({f"aiponge:locks:buslab-7f0:s:{n}": "1" for n in range(2500)})
    assert run_async(delete_leftovers(address, run_id="7f")) == ""
    assert client.dbsize() == 2500 + len(OTHERS), "a run whose id begins alike keeps its own"


def test_a_server_that_is_gone_is_told(run_async: Any) -> None:
    from sim.run.leftovers import delete_leftovers
    from sim.wire.address import free_port, parse_address

    assert "is not reachable" in run_async(delete_leftovers(parse_address(f"redis://127.0.0.1:{free_port()}"), run_id="7f"))
