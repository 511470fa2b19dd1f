"""Locust users of the HTTP of the reference's services: the gateway's admin endpoint, analytics' ingest and queries, both health probes.

They are of the reference's bus and of no other: the endpoints are its gateway's and its analytics'.

::

    locust -f locustfiles/gateway_user.py --headless -u 10 -r 5 -t 10s                       # starts a server and two pods of its own
    locust -f locustfiles/gateway_user.py --headless -u 10 -r 5 -t 10s \\
        --host http://127.0.0.1:3000 --analytics-host http://127.0.0.1:3001                  # pods that run already (`buslab pod`)

Here the load is closed loop and the users *are* the load, as is usual with Locust: ``--shape day`` lets their number follow a shape of
`sim/scenario/schedule.py` over ``-t``, up to ``-u``. Exit code as Locust's: 0, or 1 when a request failed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import signal
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import _path  # noqa: F401  - before whatever the working directory may hold in the place of what comes below
import gevent
from locust import HttpUser, LoadTestShape, between, events, task
from locust.env import Environment
from locust.runners import WorkerRunner

from locustfiles._launch import end_workers, variable
from sim.bus.envelope import BATCH
from sim.errors import BuslabError, UsageError
from sim.grounds.catalogue import open_broker, shown_ground
from sim.machine.import_path import child_environment, python_child
from sim.machine.process import Child
from sim.machine.signals import endings_heard
from sim.machine.standard_streams import take_over_streams
from sim.machine.words import duration
from sim.scenario.schedule import SHAPES, share_of_peak
from sim.scenario.settings import reference_contents
from sim.wire.shown import shown_url

START_TIMEOUT_S = 30.0
CONTENTS = reference_contents()
SERVICES = ("api-gateway", "analytics-service")
ITEMS_PER_POST = 10
DEFAULT_RUN_S = 60.0

log = logging.getLogger("buslab")


class GatewayUser(HttpUser):
    """An administrator who clears caches, and the probes of an orchestrator."""

    wait_time = between(0.05, 0.2)

    def on_start(self) -> None:
        """Begin to count."""
        self.number = 0

    @task(5)
    def clear_cache(self) -> None:
        """Clear one template, now and then all."""
        self.number += 1
        token = self.environment.parsed_options.admin_token
        body = {"pattern": CONTENTS["config.cache.invalidate"](self.number)["pattern"]}
        self.client.post("/api/admin/cache/clear", json=body, headers={"Authorization": f"Bearer {token}"})

    @task(1)
    def health(self) -> None:
        """Ask as Kubernetes does."""
        self.client.get("/health/live", name="gateway /health/live")
        self.client.get("/health/ready", name="gateway /health/ready")


class AnalyticsUser(HttpUser):
    """A service that posts analytics the way before the bus, and a dashboard."""

    wait_time = between(0.05, 0.2)

    def on_start(self) -> None:
        """Begin to count."""
        self.number = 0

    def _at(self, path: str) -> str:
        return f"{self.environment.parsed_options.analytics_host}{path}"

    @task(5)
    def post_batch(self) -> None:
        """Post some items."""
        self.number += ITEMS_PER_POST
        items = [CONTENTS[BATCH](self.number + place) for place in range(ITEMS_PER_POST)]
        self.client.post(self._at("/api/events/batch"), json={"events": items}, name="/api/events/batch")

    @task(2)
    def query(self) -> None:
        """Look at both dashboards."""
        for path in ("/api/analytics/music", "/api/analytics/system"):
            self.client.get(self._at(path), name=path)

    @task(1)
    def health(self) -> None:
        """Ask as Kubernetes does."""
        self.client.get(self._at("/health/ready"), name="analytics /health/ready")


class UsersFollow(LoadTestShape):
    """The number of users over the run, as a shape gives it."""

    use_common_options = True
    abstract = True  # so that Locust does not pick it by itself

    def __init__(self, shape: str, *, users: int, spawn_rate: float, run_s: float) -> None:
        super().__init__()
        self._shape, self._users, self._spawn_rate, self._run_s = shape, users, spawn_rate, run_s

    def tick(self) -> tuple[int, float] | None:
        """Return how many users there should be now, at least one; None when the run is over."""
        passed = self.get_run_time() / self._run_s
        return None if passed >= 1 else (max(1, round(self._users * share_of_peak(self._shape, passed))), self._spawn_rate)


class Pods:
    """A server and one real pod of each of `SERVICES`, as processes on loopback."""

    def __init__(self, on: str, token: str) -> None:
        self._last_first = contextlib.ExitStack()
        self.urls: dict[str, str] = {}
        try:
            broker = self._last_first.enter_context(open_broker(on, tell=log.info))
            folder = Path(self._last_first.enter_context(tempfile.TemporaryDirectory(prefix="buslab-pods-")))
            for service in SERVICES:
                environment = child_environment(REDIS_URL=broker.address.urls, ADMIN_TOKEN=token)
                argv = python_child("sim.cli", "pod", service, "--port", 0)
                pod = Child(argv, log=folder / f"{service}.log", env=environment, name=f"the pod {service}")
                self._last_first.callback(pod.end)
                self.urls[service] = f"http://127.0.0.1:{_port(service, pod)}"
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all of them, the last started first."""
        self._last_first.close()


def _port(service: str, pod: Child) -> int:
    """Return on which port a pod serves, once it is connected."""
    deadline, port = time.monotonic() + START_TIMEOUT_S, 0
    while time.monotonic() < deadline and pod.poll() is None:
        said = [json.loads(line) for line in pod.log.read_text("utf-8").splitlines() if line.startswith("{") and line.endswith("}")]
        port = next((one["port"] for one in said if one["event"] == "started"), 0)
        if port and any(one["event"] == "connected" for one in said):
            return port
        time.sleep(0.05)
    raise UsageError(f"the pod {service} did not start and connect within {duration(START_TIMEOUT_S)}: {pod.tail()}")


@events.init_command_line_parser.add_listener
def _add_options(parser: Any, **_: object) -> None:
    take_over_streams()
    add = parser.add_argument
    add(
        "--on",
        default=variable("BUSLAB_ON", otherwise="embedded", is_list=True),
        metavar="GROUND",
        help="The server of our own pods, as for `buslab run`.",
    )
    add("--analytics-host", default="", help="Base URL of analytics-service; without it only the gateway is loaded.")
    add("--admin-token", default=variable("ADMIN_TOKEN", otherwise=""), include_in_web_ui=False, help="The gateway's ADMIN_TOKEN.")
    add("--shape", choices=tuple(SHAPES), help="Let the number of users follow this over -t.")


@events.init.add_listener
def _end_with_the_terminal(**_: object) -> None:
    if signal.SIGHUP in endings_heard():
        gevent.signal_handler(signal.SIGHUP, os.kill, os.getpid(), signal.SIGTERM)  # on which Locust ends in order


@events.init.add_listener
def _init(environment: Environment, **_: object) -> None:
    options = environment.parsed_options
    if isinstance(environment.runner, WorkerRunner):
        return
    try:
        for option, url in (("--host", environment.host), ("--analytics-host", options.analytics_host)):
            if url and not _is_base_url(url):
                raise UsageError(
                    f"{option} {shown_url(url)!r}: give a base URL without user and password, for example http://127.0.0.1:3000"
                )
        if not (options.admin_token.isascii() and options.admin_token.isprintable()):
            raise UsageError("ADMIN_TOKEN or --admin-token goes into an HTTP header: give printable ASCII")
        if not environment.host:
            _start_pods(environment, options)
        elif not options.admin_token:
            raise UsageError("--host names a gateway, but not its token: give it as ADMIN_TOKEN or --admin-token")
    except BuslabError as error:
        log.error("%s", error)
        end_workers()
        sys.exit(2)
    if not options.analytics_host:
        environment.user_classes.remove(AnalyticsUser)
    if options.shape:
        users, spawn_rate = options.num_users or 1, options.spawn_rate or 100.0
        run_s = options.run_time or DEFAULT_RUN_S
        environment.shape_class = UsersFollow(options.shape, users=users, spawn_rate=spawn_rate, run_s=run_s)


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        if "@" in url:  # it would stand in Locust's pages
            return False
        return bool(parts.hostname) and parts.scheme in ("http", "https") and parts.port != 0  # a port above 65,535 raises
    except ValueError:
        return False


def _start_pods(environment: Environment, options: Namespace) -> None:
    options.admin_token = options.admin_token or secrets.token_hex(8)
    pods = Pods(options.on, options.admin_token)
    options.on = shown_ground(options.on)  # Locust's pages show the options
    environment.host, options.analytics_host = (pods.urls[service] for service in SERVICES)
    environment.events.quit.add_listener(lambda **_: pods.close())
