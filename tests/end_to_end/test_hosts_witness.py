"""The broker cannot tell a pod that is dropped or held inside a process (host `inline`) from one whose process gets SIGKILL or SIGSTOP.

A witness stands between pod and broker: plain blocking sockets in threads of their own, which see how each connection ends, as the
broker's sockets would: in order (FIN), or by a reset (RST). The server says the rest: CLIENT LIST, NUMSUB, how many PUBLISH it took.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from sim.bus.envelope import BATCH, CHANNEL_PREFIX
from sim.machine.clock import NS_PER_S, new_event_loop, now_ns
from sim.pods.hosts import Replica
from sim.run.fleet import Fleet
from sim.run.folder import make_folder
from sim.scenario.file import Scenario
from sim.wire.address import Address, parse_address

Small = Callable[..., Scenario]
pytestmark = pytest.mark.broker
POD = "music-service-0"
CHANNEL = "config.template.invalidated"
BOUND_S = 60.0
BIG = b"y" * 1_000_000


class Witness:
    """Pass bytes on between pods and a server, and note under each connection's name how the pod's side ended it."""

    def __init__(self, server: Address) -> None:
        self.ends: dict[str, str] = {}
        self.passed_bytes = 0  # to pods
        self._server = (server.host, server.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self.address = parse_address(f"redis://127.0.0.1:{self._listener.getsockname()[1]}")
        self._start(self._accept)

    def _start(self, work: Callable[..., None], *args: Any) -> None:
        threading.Thread(target=work, args=args, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                pod = self._listener.accept()[0]
                server = socket.create_connection(self._server)
                self._sockets += [pod, server]
                self._start(self._from_pod, pod, server)
                self._start(self._from_server, server, pod)

    def _from_pod(self, pod: socket.socket, server: socket.socket) -> None:
        name, end = b"", "fin"
        try:
            while data := pod.recv(65_536):
                if found := re.search(rb"SETNAME\r\n\$\d+\r\n(\S+)", data):
                    name = found[1]
                server.sendall(data)
        except ConnectionResetError:
            end = "rst"
        except OSError:
            return
        self.ends[name.decode().rpartition("-")[2]] = end
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)  # a close would wait for the thread that reads it

    def _from_server(self, server: socket.socket, pod: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65_536):
                pod.sendall(data)
                self.passed_bytes += len(data)

    def close(self) -> None:
        """End every connection."""
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def one_pod(small: Small, kind: str, *, batch_size: int) -> Scenario:
    """One pod that makes 200 calls a second into batches of such a size, and that a fault may kill."""
    fault = f'faults=[{{kind="pod_kill",pods=["{POD}"],at_s=0.1,for_s=0.1}}]'
    scenario = small(
        f"hosts.kind={kind}",
        fault,
        "load.driver=pods",
        "load.warm_up_s=0",
        "load.run_s=0.5",
        f"bus.batch_size={batch_size}",
        "bus.batch_interval_ms=80000000",
    )
    service = msgspec.structs.replace(scenario.services["music-service"], replicas=1)
    load = msgspec.structs.replace(scenario.load, mix={BATCH: 1.0}, rate_per_s=200.0)
    return msgspec.structs.replace(scenario, services={"music-service": service}, load=load)


def with_one_pod(address: Address, scenario: Scenario, folder: Path, scene: Callable[[Fleet, Replica], Any]) -> None:
    """Run a scene with the pod, started, on a loop of its own."""
    make_folder(folder, scenario, link_latest=False)

    async def bounded() -> None:
        fleet = Fleet(scenario, address=address, folder=folder, nonce=1, run_id="1")
        try:
            async with asyncio.timeout(BOUND_S):
                await fleet.start()
                await scene(fleet, fleet.host.replicas[POD])
        finally:
            fleet.abort()
            await fleet.host.close()
            fleet.recorder.close()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(bounded())


def listed(server: redis.Redis) -> dict[str, dict[str, Any]]:
    """Return what CLIENT LIST says of the pod's connections, by their use."""
    rows = [row for row in server.client_list() if POD in row["name"]]
    return {row["name"].rpartition("-")[2]: row for row in rows}


def subscribers(server: redis.Redis) -> int:
    return int(server.pubsub_numsub(CHANNEL_PREFIX + CHANNEL)[0][1])


def published(server: redis.Redis) -> int:
    return int(server.info("commandstats").get("cmdstat_publish", {"calls": 0})["calls"])


async def until(reached: Callable[[], bool]) -> float:
    """Wait until something is so; return how long it took, in seconds."""
    began = time.monotonic()
    while not reached():
        await asyncio.sleep(0.01)
    return time.monotonic() - began


def see_kill(scenario: Scenario, server: redis.Redis, address: Address, folder: Path, *, unread: bool) -> dict[str, Any]:
    """Kill a pod that has read everything, or one with unread bytes in its socket; say what was seen."""
    seen: dict[str, Any] = {}
    with contextlib.closing(Witness(address)) as witness:

        async def scene(fleet: Fleet, pod: Replica) -> None:
            zero_ns = now_ns()
            await fleet.host.drive(scenario.schedule(), zero_ns=zero_ns, end_ns=zero_ns + NS_PER_S // 2)
            seen["calls that wait in the batch"] = fleet.host.counts().calls > 50
            seen["listed before"] = (sorted(listed(server)), subscribers(server))
            before, passed = published(server), witness.passed_bytes
            if unread:
                await pod.freeze()
                server.publish(CHANNEL_PREFIX + CHANNEL, b"unread")
                await until(lambda: witness.passed_bytes > passed)
                before += 1
            await pod.kill()
            gone_s = await until(lambda: not listed(server))
            await until(lambda: len(witness.ends) == 2)
            print(f"{scenario.hosts.kind}: not listed any more {gone_s * 1e3:.1f} ms after the kill")
            seen["ends"] = dict(witness.ends)
            seen["listed after"] = (sorted(listed(server)), subscribers(server))
            seen["publishes of the part-full batch"] = published(server) - before

        with_one_pod(witness.address, scenario, folder, scene)
    return seen


def see_freeze(scenario: Scenario, server: redis.Redis, address: Address, folder: Path) -> dict[str, Any]:
    """Freeze a pod under more bytes than the kernel takes, and let it go on; say what was seen."""
    seen: dict[str, Any] = {}

    async def scene(fleet: Fleet, pod: Replica) -> None:
        already = published(server)
        zero_ns = now_ns()
        end_ns = zero_ns + NS_PER_S // 2
        drive = fleet.host.drive(scenario.schedule(), zero_ns=zero_ns, end_ns=end_ns)
        driving = asyncio.create_task(drive)
        await until(lambda: published(server) > already)
        await pod.freeze()
        for _ in range(2):  # what it sent before is in the second count: a server reads every socket between two answers
            before = published(server)
        seen["PUBLISH says"] = {server.publish(CHANNEL_PREFIX + CHANNEL, BIG) for _ in range(12)}
        await until(lambda: now_ns() > end_ns)  # inline's loop goes on: it must neither read nor call all the same
        waiting = [int(listed(server)["sub"]["omem"]) for _ in range(3)]
        print(f"{scenario.hosts.kind}: {waiting[-1]:,} bytes wait in the output buffer of the frozen pod")
        seen["output buffer grows"] = min(waiting) >= len(BIG)
        seen["listed"] = (sorted(listed(server)), subscribers(server))
        seen["publishes meanwhile"] = published(server) - before - 12
        await pod.thaw()
        await driving
        await until(lambda: published(server) - already == 12 + len(scenario.schedule()))  # every call, late
        await until(lambda: int(listed(server)["sub"]["omem"]) == 0)
        seen["listed after"] = (sorted(listed(server)), subscribers(server))

    with_one_pod(address, scenario, folder, scene)
    return seen


@pytest.mark.parametrize("unread", [False, True], ids=["idle", "with unread bytes"])
def test_a_killed_pod_looks_the_same_to_the_broker(
    small: Small, own_server: tuple[Address, redis.Redis], tmp_path: Path, unread: bool
) -> None:
    address, server = own_server
    inline, local = (
        see_kill(one_pod(small, kind, batch_size=1000), server, address, tmp_path / kind, unread=unread) for kind in ("inline", "local")
    )
    assert inline == local
    assert local == {
        "calls that wait in the batch": True,
        "listed before": (["pub", "sub"], 1),
        "ends": {"sub": "rst" if unread else "fin", "pub": "fin"},
        "listed after": ([], 0),
        "publishes of the part-full batch": 0,
    }


def test_a_frozen_pod_looks_the_same_to_the_broker(small: Small, own_server: tuple[Address, redis.Redis], tmp_path: Path) -> None:
    address, server = own_server
    server.config_set("client-output-buffer-limit", "pubsub 0 0 0")
    inline, local = (see_freeze(one_pod(small, kind, batch_size=1), server, address, tmp_path / kind) for kind in ("inline", "local"))
    assert inline == local
    assert local == {
        "PUBLISH says": {1},
        "output buffer grows": True,
        "publishes meanwhile": 0,
        "listed": (["pub", "sub"], 1),
        "listed after": (["pub", "sub"], 1),
    }
