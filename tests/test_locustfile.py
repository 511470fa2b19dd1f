"""The locustfile by hand, as its docstring says, and that nothing patches the process of the tests."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sim.address import Address, free_port
from sim.bus.envelope import EVENT_TYPES

LOCUSTFILE = Path(__file__).parent.parent / "locustfiles" / "bus_user.py"


def locust(*args: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", *args]
    environment = os.environ | more | {"LOCUST_SKIP_UPDATE_CHECK": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, env=environment)


def test_the_process_of_the_tests_is_not_patched() -> None:
    """Locust registers a pytest plugin; importing locust itself would replace the sockets under asyncio."""
    assert "gevent" not in sys.modules
    assert "locust" not in sys.modules
    assert socket.socket.__module__ == "socket"


@pytest.mark.broker
@pytest.mark.parametrize("users", [1, 3, 30])
def test_any_number_of_users_publishes_without_a_failure(address: Address, users: int) -> None:
    done = locust("--host", address.url, "-u", str(users), "-r", str(users), "-t", "4s", "--json")
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    assert sum(row["num_requests"] for row in table) > 20
    assert sum(row["num_failures"] for row in table) == 0
    assert {row["name"] for row in table} <= set(EVENT_TYPES)
    assert "Traceback" not in done.stderr


@pytest.mark.broker
@pytest.mark.parametrize(
    ("host", "scenario", "says"),
    [
        ("redis://:hunter2@127.0.0.1:{port}", "baseline", "redis://127.0.0.1:{port} is not reachable"),
        ("http://127.0.0.1:{port}", "baseline", "is not a broker's URL"),
        ("redis://127.0.0.1:{port}", "basline", "did you mean 'baseline'"),
    ],
)
def test_what_cannot_work_ends_with_one_clear_line_and_a_code(host: str, scenario: str, says: str) -> None:
    port = free_port()
    done = locust("--host", host.format(port=port), "-u", "3", "-t", "2s", "--only-summary", BUSLAB_SCENARIO=scenario)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if "/ERROR/" in line]
    assert len(errors) == 1, done.stderr
    assert says.format(port=port) in errors[0]
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr + done.stdout
