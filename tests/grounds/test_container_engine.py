"""Whose a container is, which engine is used, and what is said where there is none: all without an engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from sim.errors import BrokerError, BrokerRefused, BrokerUnreachable, UsageError
from sim.grounds.catalogue import open_broker
from sim.grounds.container_engine import engine, is_left_over, owner_label
from sim.grounds.local_image import linked_libraries, pack


def label_of(pid: int, started_s: float) -> str:
    place = owner_label().partition(":")[0]
    return f"{place}:{pid}:{int(started_s)}"


def test_what_a_living_process_owns_is_not_left_over() -> None:
    parent = psutil.Process(os.getppid())
    assert not is_left_over(owner_label())
    assert not is_left_over(label_of(parent.pid, parent.create_time()))


def test_what_a_dead_process_owned_is_left_over_also_when_its_id_is_in_use_again() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started_s = psutil.Process(process.pid).create_time()
        assert not is_left_over(label_of(process.pid, started_s))
        assert is_left_over(label_of(process.pid, started_s - 60))
    assert is_left_over(label_of(process.pid, started_s))


@pytest.mark.parametrize("label", ["", "x", "000000000000:1:1", f"{owner_label().partition(':')[0]}:a:b", "::"])
def test_what_another_machine_or_a_stranger_owns_is_not_ours_to_judge(label: str) -> None:
    assert not is_left_over(label)


@pytest.mark.parametrize("host", ["tcp://192.0.2.1:2375", "tcp://engine.example:2376", "ssh://ann@engine.example"])
def test_an_engine_on_another_machine_is_not_used(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(BrokerRefused, match="another machine: unset DOCKER_HOST"), engine():
        pass


@pytest.mark.parametrize("host", ["unix:///nowhere/docker.sock", "tcp://127.0.0.1:1", "nonsense://x"])
def test_without_an_engine_the_message_says_what_to_do(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(BrokerUnreachable, match=r"no container engine answers.*: install and start Docker, or use --on embedded"), engine():
        pass


def test_without_the_package_the_message_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docker.errors", None)
    with pytest.raises(BrokerUnreachable, match=r"pip install 'buslab\[containers\]'"), engine():
        pass


def test_an_image_is_refused_where_nothing_runs_one() -> None:
    with pytest.raises(UsageError, match="--image redis:8: only --on container"):
        open_broker("embedded", image="redis:8")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="containers run Linux programs")
def test_a_program_is_packed_with_its_loader_and_always_to_the_same_bytes() -> None:
    program = Path(sys.executable).resolve()
    libraries = linked_libraries(program)
    assert any(library.name.startswith(("ld-", "libc.")) for library in libraries)
    assert pack(program, libraries) == pack(program, libraries)


def test_what_is_no_linux_program_is_not_packed(tmp_path: Path) -> None:
    script = tmp_path / "valkey-server"
    script.write_text("#!/bin/sh\n")
    with pytest.raises(BrokerError, match=r"no Linux program.*--image"):
        linked_libraries(script)
