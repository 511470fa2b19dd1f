"""The line between a run and its generator, and the generators themselves when something is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import GeneratorError
from sim.machine.line import pack_line, read_line
from sim.run import generator
from sim.run.generator import LocustGenerator
from sim.run.locust_messages import Done, Go, LoadJob, LoadProgress, Message, Ready, Stop
from sim.scenario.file import Scenario
from sim.wire.address import Address, free_port, parse_address

Run = Callable[[Any], Any]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
counts = st.integers(0, 2**63 - 1)
messages = st.one_of(
    st.builds(LoadJob, texts, texts, counts, texts, st.dictionaries(texts, texts | counts, max_size=3)),
    st.builds(Go, counts),
    st.builds(Stop),
    st.builds(Ready, counts),
    st.builds(LoadProgress, counts, counts),
    st.builds(Done, counts, texts),
)


@given(messages)
def test_a_message_is_one_line_and_comes_back_the_same(message: Any) -> None:
    line = pack_line(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert read_line(line, Message) == message


def test_a_scenario_survives_the_line(small: Callable[..., Scenario]) -> None:
    job = LoadJob("redis://h", "folder", 1, "1", msgspec.to_builtins(small()))
    assert msgspec.convert(read_line(pack_line(job), LoadJob).scenario, Scenario) == small()


@pytest.mark.broker
@pytest.mark.parametrize(
    ("locustfile", "says"),
    [
        ("import sys; sys.exit('the dog ate it')", "the dog ate it"),
        ("raise ValueError('no such thing')", "no such thing"),
        ("this is no python", "SyntaxError"),
    ],
)
def test_a_locust_that_does_not_start_fails_at_once_with_the_end_of_its_log(
    small: Callable[..., Scenario],
    address: Address,
    tmp_path: Path,
    run_async: Run,
    monkeypatch: pytest.MonkeyPatch,
    locustfile: str,
    says: str,
) -> None:
    (tmp_path / "broken.py").write_text(locustfile)
    monkeypatch.setattr(generator, "LOCUSTFILE", tmp_path / "broken.py")

    async def scene() -> str:
        locust = LocustGenerator(small(), address=address, folder=tmp_path, nonce=1, run_id="1")
        await locust.start()
        with pytest.raises(GeneratorError) as failed:
            await locust.ready()
        await locust.close()
        return str(failed.value)

    said = run_async(scene())
    assert "the Locust process is gone" in said
    assert says in said
    assert "\n" not in said


@pytest.mark.broker
def test_a_locust_that_cannot_reach_the_broker_says_why(small: Callable[..., Scenario], tmp_path: Path, run_async: Run) -> None:
    async def scene() -> str:
        dead = parse_address(f"redis://:hunter2@127.0.0.1:{free_port()}")
        locust = LocustGenerator(small(), address=dead, folder=tmp_path, nonce=1, run_id="1")
        await locust.start()
        with pytest.raises(GeneratorError) as failed:
            await locust.ready()
        await locust.close()
        return str(failed.value)

    said = run_async(scene())
    assert "is not reachable" in said
    assert "hunter2" not in said + "".join(path.read_text() for path in tmp_path.iterdir())


@pytest.mark.broker
def test_the_password_is_on_no_command_line_and_in_no_environment(
    small: Callable[..., Scenario], own_server: Any, tmp_path: Path, run_async: Run
) -> None:
    address, server = own_server
    server.config_set("requirepass", "hunter2")

    async def scene() -> None:
        guarded = parse_address(f"redis://:hunter2@127.0.0.1:{address.port}")
        locust = LocustGenerator(small(), address=guarded, folder=tmp_path, nonce=1, run_id="1")
        await locust.start()
        await locust.ready()
        for child in psutil.Process().children(recursive=True):
            assert "hunter2" not in " ".join(child.cmdline()) + repr(child.environ())
        await locust.close()

    run_async(scene())


@pytest.mark.broker
def test_closing_a_generator_that_never_started_or_twice_is_no_error(
    small: Callable[..., Scenario], address: Address, tmp_path: Path, run_async: Run
) -> None:
    async def scene() -> None:
        locust = LocustGenerator(small(), address=address, folder=tmp_path, nonce=1, run_id="1")
        await locust.close()
        await locust.start()
        await locust.ready()
        await asyncio.gather(locust.close(), locust.close())
        await locust.close()

    run_async(scene())
