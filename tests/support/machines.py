"""Several machines on this one: network namespaces with an address each, joined by a bridge in one more; for tests. Linux, as root.

Each machine has its own network and loopback, and, where a test says so, a clock (CLOCK_MONOTONIC) that is off by so many seconds. They
have their files, and the kernel that draws processes, in common. `REQUIRE` set in the environment makes a machine without namespaces fail
the tests instead of skipping them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sim.grounds.server_binary import server_binary

REQUIRE = "BUSLAB_REQUIRE_NAMESPACES"
PORT = 8786
REDIS_PORT = 6379
BOUND_S = 60.0  # of anything waited for; reached only when the test fails
LOOK_S = 0.02
_numbers = itertools.count()


def why_not() -> str:
    """Return why no namespaces can be made here, empty where they can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    for tried in (("unshare", "--net", "true"), ("unshare", "--time", "--monotonic", "1", "--fork", "true"), ("ip", "-V")):
        try:
            done = subprocess.run(tried, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return f"there is no program `{tried[0]}`"
        if done.returncode:
            return f"`{' '.join(tried)}` says: {done.stderr.strip()}"
    return ""


def need_namespaces() -> None:
    """Skip the test where no namespaces can be made, with the reason; fail it where they must."""
    if why := why_not():
        if os.environ.get(REQUIRE):
            pytest.fail(f"{REQUIRE} is set, and {why}")
        pytest.skip(why)


def ip(*words: str) -> None:
    """Run `ip` of iproute2."""
    subprocess.run(("ip", *words), check=True, capture_output=True, text=True)


@dataclass
class Machine:
    """One machine.

    Attributes
    ----------
    network
        The name of its network namespace.
    address
        Its address in the network that the machines share.
    clock_s
        How far its CLOCK_MONOTONIC is ahead of this machine's.
    """

    network: str
    address: str
    logs: Path
    clock_s: int = 0
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def argv(self, *argv: str) -> list[str]:
        """Return the command line that runs a program there."""
        clock = ("unshare", "--time", "--monotonic", str(self.clock_s), "--fork", "--kill-child") if self.clock_s else ()
        return ["ip", "netns", "exec", self.network, *clock, *argv]

    def start(self, name: str, *argv: str, ready: str = "", env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a program there; return when its output holds a text."""
        log = self.log(name)
        with log.open("wb") as output:
            process = self.processes[name] = subprocess.Popen(
                self.argv(*argv), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}
            )
        deadline_s = time.monotonic() + BOUND_S
        while ready not in log.read_text("utf-8", "replace"):
            assert process.poll() is None, f"{name} ended: {log.read_text('utf-8', 'replace')}"
            assert time.monotonic() < deadline_s, f"{name} is not ready: {log.read_text('utf-8', 'replace')}"
            time.sleep(LOOK_S)
        return process

    def log(self, name: str) -> Path:
        """Return the file with the output of a program."""
        return self.logs / f"{self.network}-{name}.log"

    def run(self, *argv: str, timeout_s: float = 300.0, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program there to its end."""
        return subprocess.run(
            self.argv(*argv), capture_output=True, text=True, timeout=timeout_s, check=False, env={**os.environ, **(env or {})}
        )

    def unplug(self) -> None:
        """Take its network away."""
        ip("-n", self.network, "link", "set", "eth0", "down")

    def plug(self) -> None:
        """Give it its network again."""
        ip("-n", self.network, "link", "set", "eth0", "up")

    def narrow(self, *, rate: str) -> None:
        """Limit what it sends to a rate, such as ``10mbit``."""
        words = ("qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "32kbit", "latency", "400ms")
        subprocess.run(("tc", "-n", self.network, *words), check=True, capture_output=True)

    def end(self) -> None:
        """End every program that was started there, the newest first."""
        for process in reversed(self.processes.values()):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@contextlib.contextmanager
def lay_out(*names: str, logs: Path, clocks_s: Mapping[str, int] | None = None) -> Iterator[list[Machine]]:
    """Make machines that reach each other; at the end their programs are ended and nothing of them is left."""
    need_namespaces()
    prefix = f"bl{os.getpid()}x{next(_numbers)}"
    hub = f"{prefix}-hub"
    machines = []
    with contextlib.ExitStack() as undo:
        ip("netns", "add", hub)
        undo.callback(ip, "netns", "del", hub)
        ip("-n", hub, "link", "add", "name", "br0", "type", "bridge")
        ip("-n", hub, "link", "set", "br0", "up")
        for number, name in enumerate(names):
            machine = Machine(f"{prefix}-{name}", f"10.77.0.{number + 2}", logs, (clocks_s or {}).get(name, 0))
            ip("netns", "add", machine.network)
            undo.callback(ip, "netns", "del", machine.network)
            undo.callback(machine.end)
            ip("-n", hub, "link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0", "netns", machine.network)
            ip("-n", hub, "link", "set", f"port{number}", "master", "br0")
            ip("-n", hub, "link", "set", f"port{number}", "up")
            ip("-n", machine.network, "address", "add", f"{machine.address}/24", "dev", "eth0")
            ip("-n", machine.network, "link", "set", "lo", "up")
            ip("-n", machine.network, "link", "set", "eth0", "up")
            machines.append(machine)
        yield machines


def start_scheduler(machine: Machine, *more: str) -> str:
    """Start a Dask scheduler there and return its address."""
    words = ("--host", machine.address, "--port", str(PORT), "--no-dashboard", *more)
    machine.start("scheduler", sys.executable, "-m", "distributed.cli.dask_scheduler", *words, ready="Scheduler at:")
    return f"tcp://{machine.address}:{PORT}"


def start_worker(machine: Machine, scheduler: str, *more: str, name: str = "worker") -> subprocess.Popen[bytes]:
    """Start a Dask worker there."""
    folder = machine.logs / f"{machine.network}-{name}"
    words = ("--host", machine.address, "--nthreads", "1", "--no-dashboard", "--memory-limit", "0", "--local-directory", str(folder), *more)
    argv: Sequence[str] = (sys.executable, "-m", "distributed.cli.dask_worker", scheduler, *words)
    return machine.start(name, *argv, ready="Registered to:")


def start_redis(machine: Machine) -> str:
    """Start a Redis there and return its URL."""
    words = ("--bind", machine.address, "--port", str(REDIS_PORT), "--protected-mode", "no", "--save", "", "--appendonly", "no")
    machine.start("redis", str(server_binary()), *words, ready="Ready to accept connections")
    return f"redis://{machine.address}:{REDIS_PORT}"
