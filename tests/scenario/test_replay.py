"""A replay plays what its capture has: times, order, channels and sizes; and what does not fit is one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import ScenarioError
from sim.measure.meaning.meaning import check_scenario
from sim.scenario.file import Scenario, load_scenario, to_toml
from sim.scenario.own_code import scenario_of
from sim.scenario.replay import event_bytes, replayed_calls
from sim.scenario.run_settings import Load
from tests.support.captures import written

SCENARIO = """
[load]
shape = "replay"
capture = "capture.parquet"
driver = "pods"
[bus]
channel_prefix = "shop:"
[channels."order.created"]
[channels."price.changed"]
[services.shop]
replicas = 2
publishes = ["order.created", "price.changed"]
[services.till]
subscribes = ["order.created", "price.changed"]
"""
EVENTS = [(n * 1_000_000, f"shop:{('order.created', 'price.changed')[n % 4 == 0]}", b"x" * (300 + n % 7)) for n in range(2000)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    written(tmp_path, EVENTS, seconds=2.5)
    (tmp_path / "shop.toml").write_text(SCENARIO)
    return tmp_path


def loaded(folder: Path, *settings: str) -> Scenario:
    return load_scenario(str(folder / "shop.toml"), settings=settings)


def test_times_channels_and_order_are_those_of_the_capture(folder: Path) -> None:
    scenario = loaded(folder)
    calls = scenario.schedule()
    assert calls.offset_ns.tolist() == [at for at, _, _ in EVENTS]
    assert [f"shop:{calls.kinds[kind]}" for kind in calls.kind] == [channel for _, channel, _ in EVENTS]
    assert set(calls.pod.tolist()) == {0, 1}
    assert (scenario.load.warm_up_s, scenario.load.run_s) == (0.0, 2.5)
    assert scenario.load.mix == {"price.changed": 500, "order.created": 1500}


@pytest.mark.parametrize("speed", [0.5, 2.0, 10.0])
def test_speed_divides_every_time_and_the_length(folder: Path, speed: float) -> None:
    scenario = loaded(folder, f"load.speed={speed}")
    assert scenario.schedule().offset_ns.tolist() == [round(at / speed) for at, _, _ in EVENTS]
    assert scenario.load.run_s == 2.5 / speed


@given(
    times=st.lists(st.integers(0, 10_000_000_000), max_size=60),
    speed=st.floats(0.01, 1000),
    warm_up_s=st.floats(0, 3),
    run_s=st.floats(0.001, 20),
    seed=st.integers(0, 2**40),
)
def test_whatever_was_captured_the_order_stays_and_each_event_is_itself(
    tmp_path_factory: pytest.TempPathFactory, times: list[int], speed: float, warm_up_s: float, run_s: float, seed: int
) -> None:
    events = [(at, f"shop:{n % 3}", b"x" * n) for n, at in enumerate(sorted(times))]
    path = written(tmp_path_factory.mktemp("drawn"), events)
    load = Load(shape="replay", capture=str(path), speed=speed, warm_up_s=warm_up_s, run_s=run_s, mix={"0": 1, "2": 1})
    calls = replayed_calls(load, prefix="shop:", seed=seed, publishers={"0": [3], "2": [4, 5]})
    kept = [one for one in events if one[1] != "shop:1" and round(one[0] / speed) < (warm_up_s + run_s) * 1e9]
    assert calls.offset_ns.tolist() == [round(at / speed) for at, _, _ in kept]
    assert np.all(np.diff(calls.offset_ns) >= 0)
    played = [(calls.kinds[kind], number) for kind, number in zip(calls.kind.tolist(), calls.numbers(), strict=True)]
    of_channel = {name: [one for one in events if one[1] == f"shop:{name}"] for name in "02"}
    assert [of_channel[kind][number] for kind, number in played] == kept
    assert all(pod == 3 if kind == 0 else pod in (4, 5) for kind, pod in zip(calls.kind, calls.pod, strict=True))


def test_a_part_of_the_calls_keeps_their_numbers(folder: Path) -> None:
    calls = loaded(folder).schedule()
    of_one, late = calls.of_pods([1]), calls.since(1_000_000_000)
    assert list(of_one.numbers()) == [number for number, pod in zip(calls.numbers(), calls.pod, strict=True) if pod == 1]
    assert list(late.numbers()) == list(calls.numbers())[1000:]


@pytest.mark.parametrize("envelope", ["aiponge", "cloudevents", "raw"])
def test_an_event_is_as_long_as_the_captured_one(folder: Path, envelope: str) -> None:
    scenario = loaded(folder, f"envelope.kind={envelope}")
    calls, made = scenario.schedule(), scenario.contents()
    for (_, _, payload), kind, number in zip(EVENTS, calls.kind.tolist(), calls.numbers(), strict=True):
        data = made[calls.kinds[kind]](number)
        assert event_bytes(calls.kinds[kind], data, envelope=scenario.new_envelope(), source="shop") == len(payload)


def test_an_event_that_was_shorter_than_its_envelope_is_as_short_as_it_can_be(tmp_path: Path) -> None:
    written(tmp_path, [(n, "shop:order.created", b"ping") for n in range(20)])
    (tmp_path / "shop.toml").write_text(SCENARIO)
    content = loaded(tmp_path, "envelope.kind=raw").contents()["order.created"]
    assert [content(n) for n in (0, 19)] == [{"number": 0}, {"number": 19}]


def test_a_payload_that_was_kept_is_what_the_event_carries(tmp_path: Path) -> None:
    carried = {"orderId": "o-1", "total": 3}
    whole = {"eventId": "e", "correlationId": "c", "type": "order.created", "version": "1.0", "timestamp": "t", "source": "shop"}
    payloads = [json.dumps(whole | {"data": carried}).encode(), b"no event at all" * 30]
    written(tmp_path, [(n, "shop:order.created", one) for n, one in enumerate(payloads)], keep=["shop:order.created"])
    (tmp_path / "shop.toml").write_text(SCENARIO)
    content = loaded(tmp_path).contents()["order.created"]
    assert content(0) == carried
    assert set(content(1)) == {"number", "note"}, "what is not of the scenario's envelope is filler of its length"
    raw = loaded(tmp_path, "envelope.kind=raw").contents()["order.created"]
    assert raw(0) == whole | {"data": carried} and set(raw(1)) == {"number", "note"}


def test_a_mix_says_which_channels_are_played(folder: Path) -> None:
    scenario = loaded(folder, 'load.mix={"price.changed"=7}')
    assert scenario.load.mix == {"price.changed": 500} and len(scenario.schedule()) == 500


def test_the_resolved_scenario_of_a_run_plays_the_same(folder: Path, tmp_path: Path) -> None:
    scenario = loaded(folder, "load.speed=2")
    again = tmp_path / "elsewhere"
    again.mkdir()
    (again / "scenario.toml").write_text(to_toml(scenario))
    read = load_scenario(str(again / "scenario.toml"))
    assert msgspec.structs.replace(read, name="shop") == scenario
    assert scenario_of(msgspec.to_builtins(scenario)) == scenario


def test_what_it_means_is_what_it_plays(folder: Path) -> None:
    meaning = check_scenario(loaded(folder, "load.speed=2"))
    assert meaning.shape == "replay"
    assert sum(one.calls_per_s for one in meaning.channels) == pytest.approx(2000 / 1.25)
    assert meaning.mean_rate_per_s == pytest.approx(2000 / 1.25)
    assert meaning.peak_rate_per_s == pytest.approx(2000, rel=0.05)
    assert meaning.channels[0].event_bytes == pytest.approx(303, abs=1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("load.capture=",), ["load.shape = 'replay' plays a capture", "load.capture"]),
        (("load.capture=gone.parquet",), ["gone.parquet", "No such file"]),
        (("load.capture=shop.toml",), ["shop.toml", "No such file"]),
        (("load.speed=0",), ["load.speed = 0", ">= 0.001"]),
        (("load.speed=-1",), ["load.speed = -1"]),
        (("load.speed=fast",), ["load.speed = 'fast'"]),
        (("load.speed=nan",), ["load.speed = nan"]),
        (("load.speed=inf",), ["load.speed = inf"]),
        (("load.rate_per_s=500",), ["load.rate_per_s = 500", "the rate of its capture, here 1,0", "load.speed = 0.4"]),
        (("load.warm_up_s=3",), ["load.warm_up_s = 3", "over after 2.5 s"]),
        (("load.warm_up_s=2.1", "load.run_s=0.3"), ["nothing of it falls into the run phase"]),
        (("load.shape=steady",), ["load.capture", "it is of load.shape = 'replay', and this is 'steady'"]),
        (("load.shape=repaly",), ["load.shape = 'repaly'", "did you mean 'replay'"]),
        (("bus.channel_prefix='bus:'",), ["none of its channels", "'shop:order.created'", "bus.channel_prefix = 'bus:'"]),
        (('load.mix={"order.creatd"=1}',), ["none of its channels", "has a weight in load.mix"]),
        (('channels."order.created".batched=true',), ["channels.order.created.batched", "set it to false"]),
        (("hosts.kind=dask",), ["hosts.kind = 'dask'", "load.capture"]),
        (("hosts.kind=containers",), ["hosts.kind = 'containers'", "load.capture"]),
        (("services.shop.publishes=['order.created']",), ["'price.changed' has weight 500 but no service publishes it"]),
    ],
)
def test_what_does_not_fit_is_one_clear_line(folder: Path, settings: tuple[str, ...], says: list[str]) -> None:
    with pytest.raises(ScenarioError) as caught:
        loaded(folder, *settings)
    message = str(caught.value)
    assert "\n" not in message and all(part in message for part in says), message


def test_a_capture_of_days_does_not_play_slowly(tmp_path: Path) -> None:
    written(tmp_path, EVENTS[:5], seconds=86_000.0)
    (tmp_path / "shop.toml").write_text(SCENARIO)
    with pytest.raises(ScenarioError, match=r"load.speed = 0.5: the capture lasts 23 h 53 min, so that is 47 h 47 min, more than 24 h"):
        loaded(tmp_path, "load.speed=0.5")


def test_a_capture_that_was_cut_is_one_clear_line(folder: Path) -> None:
    path = folder / "capture.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ScenarioError, match=r"load.capture = .*was cut or damaged"):
        loaded(folder)


def test_the_folder_of_a_capture_names_it_too(folder: Path) -> None:
    assert len(loaded(folder, f"load.capture={folder}").schedule()) == 2000
