"""A `buslab pod` as its own process: its log lines, its endpoints, its end. For tests."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

BOUND_S = 60.0  # of anything waited for; reached only when the test fails
OURS = ("REDIS_URL", "EVENT_BUS_BATCH_SIZE", "EVENT_BUS_BATCH_INTERVAL_MS", "ADMIN_TOKEN")
OURS += ("BUSLAB_BUS", "BUSLAB_ONCE", "BUSLAB_ONCE_SCOPE", "BUSLAB_ONCE_TTL_S")


def lines_of(process: subprocess.Popen[str]) -> queue.Queue[dict[str, Any] | None]:
    """Return a queue of the JSON lines that a process prints, and None at its end."""
    lines: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(json.loads(line))
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


@dataclass
class RunningPod:
    service: str
    process: subprocess.Popen[str]
    log: list[dict[str, Any]] = field(default_factory=list)
    port: int = 0
    metrics_start: str = ""

    def __post_init__(self) -> None:
        self._lines = lines_of(self.process)
        self.port = self.until("started")["port"]

    def until(self, event: str) -> dict[str, Any]:
        """Wait for the next log line of a kind, and return it."""
        while True:
            line = self._lines.get(timeout=BOUND_S)
            assert line is not None, f"it ended with {self.process.wait(BOUND_S)} after {self.log}"
            self.log.append(line)
            if line["event"] == event:
                return line

    def ask(self, path: str, body: Any = None, *, token: str = "") -> tuple[int, str]:
        """Send a GET, or with a body a POST, and return (status, text)."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": f"Bearer {token}"} if token else {}
        )
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, data, timeout=BOUND_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metrics(self) -> dict[str, float]:
        """Return the reference's metrics, without what all names of the service begin with."""
        status, text = self.ask("/metrics")
        assert status == 200
        start = self.metrics_start or f"aiponge_{self.service.replace('-', '_')}_"
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {sample.name.removeprefix(start): sample.value for sample in samples if sample.name.startswith(start)}

    def metrics_when(self, **wanted: float) -> dict[str, float]:
        """Return the metrics as soon as those named have their values, or as they are when the patience ends."""
        patience = time.monotonic() + BOUND_S
        while True:
            now = self.metrics()
            if wanted.items() <= now.items() or time.monotonic() > patience:
                return now

    def ready_when(self, ready: bool) -> dict[str, Any]:
        """Return the answer of /health/ready as soon as it says so, or as it is when the patience ends."""
        patience = time.monotonic() + BOUND_S
        while True:
            status, text = self.ask("/health/ready")
            answer: dict[str, Any] = json.loads(text)
            assert (status == 200) == answer["ready"]
            if answer["ready"] == ready or time.monotonic() > patience:
                return answer

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, read every log line to the end, and return the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(BOUND_S)
        while (line := self._lines.get(timeout=BOUND_S)) is not None:
            self.log.append(line)
        return code


@contextmanager
def running_pod(service: str, *args: str, metrics_start: str = "", **environment: str) -> Iterator[RunningPod]:
    clean = {name: value for name, value in os.environ.items() if name not in OURS}
    argv = [sys.executable, "-m", "sim.cli", "pod", service, *args, "--port", "0"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=clean | environment) as process:
        try:
            yield RunningPod(service, process, metrics_start=metrics_start)
        finally:
            process.kill()
