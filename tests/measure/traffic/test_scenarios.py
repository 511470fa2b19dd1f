"""The scenarios that are written beside a capture: who publishes and hears, how well a load is fitted, and that both can be run."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import numpy as np
import pytest

from sim.errors import BuslabError, CaptureError, UsageError
from sim.measure.traffic.describe import channel_traffic, describe_capture, dispersion_of
from sim.measure.traffic.scenarios import WrittenScenarios, describe_fitted, fit_load, write_scenarios
from sim.measure.traffic.services import LISTENER, bus_tables, form_of, services_of
from sim.record.capture_file import Capture, read_capture
from sim.results.checkers import judge
from sim.results.opened_run import open_run
from sim.run.steps import run_scenario
from sim.scenario.file import Scenario, load_scenario
from sim.scenario.schedule import SHAPES, make_schedule
from tests.support.captures import written

ROOT = Path(__file__).parents[3]
SHOP = ROOT / "docs" / "examples" / "shop" / "shop.bus.toml"
DOCUMENTS = sorted((ROOT / "docs" / "examples" / "faststream").glob("*.yaml"))


def captured(folder: Path, *channels: str, names: tuple[str, ...] = ("shop:*",), heard_by: str = "PSUBSCRIBE", many: int = 300) -> Capture:
    events = [(n * 10_000_000, channels[n % len(channels)], b"x" * (400 + n % 9)) for n in range(many)]
    return read_capture(written(folder, events, names=names, heard_by=heard_by, seconds=many / 100))


def both(folder: Path, capture: Capture, *files: Path) -> tuple[WrittenScenarios, Scenario, Scenario]:
    made = write_scenarios(folder, capture, told=services_of(files))
    return made, load_scenario(str(made.replay)), load_scenario(str(made.synthetic))


def test_without_services_each_channel_has_a_publisher_and_one_service_hears_all(tmp_path: Path) -> None:
    made, replay, synthetic = both(tmp_path, captured(tmp_path, "shop:a b", "shop:a/b"))
    assert made.notes == ()
    for scenario in (replay, synthetic):
        assert {name: one.publishes for name, one in scenario.services.items() if one.publishes} == {
            "publisher-of-a-b": ("a b",),
            "publisher-of-a-b-2": ("a/b",),
        }
        assert scenario.services[LISTENER].subscribes == ("a b", "a/b")
        assert (scenario.bus.channel_prefix, scenario.envelope.kind) == ("shop:", "raw")
    assert len(replay.schedule()) == 300


@pytest.mark.parametrize("speed", [1, 10])
def test_a_replay_runs_on_the_model_and_its_books_balance(tmp_path: Path, speed: int) -> None:
    made, _, _ = both(tmp_path, captured(tmp_path, "shop:a", "shop:b"))
    scenario = load_scenario(str(made.replay), settings=(f"load.speed={speed}",))
    run = open_run(run_scenario(scenario, on="model", out=tmp_path / "run"))
    assert judge(run).verdict == "valid"
    sent = run.publishes[run.publishes["phase"] == "run"]
    zero_ns = next(phase.start_ns for phase in run.info.phases if phase.name == "warm-up")
    assert ((sent["intended_ns"] - zero_ns).to_numpy() == np.arange(300) * 10_000_000 // speed).all()
    assert sent["channel"].tolist() == ["a", "b"] * 150
    assert sent["bytes"].tolist() == [400 + n % 9 for n in range(300)]


def test_a_replay_has_faults_that_never_happened(tmp_path: Path) -> None:
    made, _, _ = both(tmp_path, captured(tmp_path, "shop:a", many=600))
    scenario = load_scenario(str(made.replay), settings=('faults=[{kind="broker_down",at_s=2,for_s=1}]',))
    run = open_run(run_scenario(scenario, on="model", out=tmp_path / "run"))
    assert judge(run).verdict == "valid"
    assert 0 < (run.ledger()["fate"] == "missing").sum() < 300


@pytest.mark.parametrize(
    ("channels", "names", "prefix"),
    [
        (("shop:a", "shop:b:c"), ("shop:*",), "shop:"),
        (("shop:x:a", "shop:x:b"), ("*",), "shop:x:"),
        (("shop:x:a", "shop:y:b"), ("*",), "shop:"),
        (("ab", "abc"), ("ab*",), "bus:"),
        (("a", "b"), ("*",), "bus:"),
        (("shop:", "shop:a"), ("shop:*",), "bus:"),
        (("orders",), ("orders",), "bus:"),
        (("v1/a", "v1/b"), ("v1/?",), "v1/"),
    ],
)
def test_the_prefix_is_what_all_channels_begin_with(tmp_path: Path, channels: tuple[str, ...], names: tuple[str, ...], prefix: str) -> None:
    made, replay, synthetic = both(tmp_path, captured(tmp_path, *channels, names=names))
    assert replay.bus.channel_prefix == synthetic.bus.channel_prefix == prefix
    assert len(replay.schedule()) == 300
    assert any("no prefix in common" in note for note in made.notes) == (prefix == "bus:")


def test_a_bus_file_names_who_publishes_and_hears_and_what_it_lacks_gets_a_publisher(tmp_path: Path) -> None:
    capture = captured(tmp_path, "shop:order.created", "shop:search.asked", "shop:new.one")
    made, replay, synthetic = both(tmp_path, capture, SHOP)
    told = services_of([SHOP])
    assert {name: list(one["publishes"]) for name, one in told["services"].items() if "publishes" in one} == {
        name: list(one.publishes) for name, one in replay.services.items() if one.publishes and name in told["services"]
    }
    assert replay.services["publisher-of-new.one"].publishes == ("new.one",)
    assert any('no service publishes "new.one"' in note for note in made.notes)
    assert any("search.asked is batched there" in note for note in made.notes) and not replay.channels["search.asked"].batched
    assert len(replay.schedule()) == len(capture)
    assert set(synthetic.load.mix) == {"order.created", "search.asked", "new.one"}
    run_scenario(replay, on="model", out=tmp_path / "run")


def test_asyncapi_documents_name_them_too(tmp_path: Path) -> None:
    told = services_of(DOCUMENTS)
    prefix = told["bus"]["channel_prefix"]
    names = [prefix + name for name in told["channels"]]
    _, replay, _ = both(tmp_path, captured(tmp_path, *names, names=(f"{prefix}*",)), *DOCUMENTS)
    assert set(replay.services) == set(told["services"]) and len(replay.schedule()) == 300


def test_the_reference_is_a_bus_that_may_be_named(tmp_path: Path) -> None:
    capture = captured(tmp_path, "aiponge:events:config.cache.invalidate", "aiponge:events:analytics.events.batch")
    _, replay, _ = both(tmp_path, capture, Path("aiponge"))
    assert "analytics-service" in replay.services and replay.envelope.kind == "aiponge"
    run = open_run(run_scenario(replay, on="model", out=tmp_path / "run"))
    assert judge(run).verdict == "valid"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ((SHOP, SHOP), "give one bus file, or AsyncAPI documents"),
        ((Path("nowhere.bus.toml"),), "no bus 'nowhere.bus.toml'"),
        ((Path("nowhere.yaml"),), "nowhere.yaml"),
        ((ROOT / "docs" / "examples" / "shop" / "everyday.toml",), "does not belong there"),
    ],
)
def test_services_that_cannot_be_read_are_one_line(files: tuple[Path, ...], says: str) -> None:
    with pytest.raises(BuslabError, match=says) as caught:
        services_of(files)
    assert "\n" not in str(caught.value)


def test_services_of_another_bus_are_one_line_and_the_capture_stays(tmp_path: Path) -> None:
    capture = captured(tmp_path, "other:a,b")
    with pytest.raises(CaptureError, match=r"the capture is in .*capture.parquet, and no scenario was made of it: .*none of its channels"):
        write_scenarios(tmp_path, capture, told={})
    assert [file.name for file in tmp_path.iterdir()] == ["capture.parquet"]


def test_channels_that_no_scenario_can_name_are_left_out_and_said(tmp_path: Path) -> None:
    made, replay, _ = both(tmp_path, captured(tmp_path, "shop:a", "shop:a,b", "shop:" + "x" * 300))
    assert len(replay.schedule()) == 100
    assert any("shop" not in note and "cannot be the name" in note for note in made.notes)


def test_many_channels_share_publishers(tmp_path: Path) -> None:
    capture = captured(tmp_path, *(f"shop:{n}" for n in range(500)), many=1000)
    tables = bus_tables(capture, {}).tables
    assert len(tables["services"]) == 201
    _, replay, _ = both(tmp_path, capture)
    assert len(replay.schedule()) == 1000


@pytest.mark.parametrize(
    ("forms", "kind"),
    [
        ({"aiponge": 3}, "aiponge"),
        ({"cloudevents": 3}, "cloudevents"),
        ({"aiponge": 3, "other": 1}, "raw"),
        ({"other": 3}, "raw"),
        ({}, "raw"),
    ],
)
def test_the_envelope_is_that_of_all_events_that_were_looked_at(tmp_path: Path, forms: dict[str, int], kind: str) -> None:
    assert form_of(read_capture(written(tmp_path, [(0, "shop:a", b"1")], forms=forms))) == kind


def test_what_is_written_shows_no_payload_and_where_it_came_from(tmp_path: Path) -> None:
    capture = captured(tmp_path, "shop:a\u2603")
    made = write_scenarios(tmp_path, capture, told={})
    text = made.replay.read_text("utf-8")
    assert "from redis://127.0.0.1:1 at 2026-01-01" in text and "300 events on 1 channel in 3 s" in text
    assert tomllib.loads(text)["load"] == {"shape": "replay", "capture": "capture.parquet", "speed": 1.0, "driver": "pods"}


# -- describing and fitting -----------------------------------------------------------------------------------------


def at_s(shape: str, *, rate: float = 100.0, run_s: float = 60.0, arrivals: str = "poisson", seed: int = 1) -> np.ndarray:
    drawn = make_schedule(
        rate_per_s=rate, shape=shape, arrivals=arrivals, warm_up_s=0, run_s=run_s, seed=seed, mix={"a": 1.0}, publishers={"a": [0]}
    )
    return drawn.offset_ns / 1e9


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_shape_of_a_load_is_found_again(shape: str, seed: int) -> None:
    fitted = fit_load(at_s(shape, seed=seed), 60.0)
    assert fitted.shape == shape
    assert fitted.rate_per_s == pytest.approx(100, rel=0.1)
    assert fitted.arrivals == "poisson"


def test_evenly_spaced_events_are_found_and_few_are_too_few() -> None:
    assert fit_load(at_s("steady", arrivals="uniform"), 60.0).arrivals == "uniform"
    few = fit_load(at_s("ramp", rate=1.0), 60.0)
    assert few.shape == "steady" and "too few" in few.told


def test_a_rate_that_moves_as_no_shape_does_is_said() -> None:
    bursts = np.concatenate([np.linspace(second, second + 0.2, 200, endpoint=False) for second in range(0, 60, 12)])
    assert "as none of the shapes" in fit_load(bursts, 60.0).told


@pytest.mark.parametrize(("arrivals", "low", "high"), [("poisson", 0.8, 1.2), ("uniform", 0.0, 0.1)])
def test_dispersion_tells_chance_from_order_and_from_bursts(arrivals: str, low: float, high: float) -> None:
    times = at_s("steady", arrivals=arrivals)
    assert low <= dispersion_of(times, 60.0) <= high
    bursts = np.sort(np.concatenate([times] * 10))  # each event ten times: the variance of a count is a hundred times, its mean ten
    assert dispersion_of(bursts, 60.0) == pytest.approx(10 * dispersion_of(times, 60.0), rel=0.2, abs=0.2)


def test_dispersion_of_too_few_is_not_known() -> None:
    assert math.isnan(dispersion_of(np.zeros(0), 10.0)) and math.isnan(dispersion_of(np.array([1.0, 2.0]), 10.0))


def test_a_channel_is_described_by_its_own_events() -> None:
    one = channel_traffic("a", np.array([0.1, 0.2, 1.5, 1.6, 1.7]), np.array([10, 20, 30, 40, 1000]), seconds=10.0, repeats=0.2)
    assert (one.events, one.per_s, one.busiest_second, one.bytes_p50, one.bytes_max, one.repeats) == (5, 0.5, 3, 30, 1000, 0.2)


def test_repeats_are_equal_payloads_of_a_channel(tmp_path: Path) -> None:
    events = [(n, f"shop:{'ab'[n % 2]}", b"%d" % (n % 4)) for n in range(40)]
    described = describe_capture(read_capture(written(tmp_path, events)))
    assert [(one.name, one.repeats) for one in described] == [("shop:a", 0.9), ("shop:b", 0.9)]


def test_the_fitted_load_has_the_rates_and_sizes_of_the_captured_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    sizes = np.minimum(np.exp(rng.normal(6.5, 0.4, 6000)), 60_000).astype(int)
    times, often = at_s("steady")[:6000].tolist(), rng.random(6000) < 0.7
    events = [(round(at * 1e9), "shop:a" if often[n] else "shop:b", b"x" * sizes[n]) for n, at in enumerate(times)]
    capture = read_capture(written(tmp_path, events, seconds=60.0))
    made, _, synthetic = both(tmp_path, capture)
    fitted = describe_fitted(synthetic)
    assert made.fitted.told == "its rate is steady"
    for one in describe_capture(capture):
        other = fitted[one.name]
        assert other.per_s == pytest.approx(one.per_s, rel=0.06)
        assert other.bytes_p50 == pytest.approx(one.bytes_p50, rel=0.05)
        assert other.bytes_p99 == pytest.approx(one.bytes_p99, rel=0.15)
        assert other.bytes_max <= one.bytes_max + 10  # a later call has a longer number
        assert other.dispersion == pytest.approx(one.dispersion, rel=0.25)


def test_no_documents_are_no_services() -> None:
    assert services_of([]) == {}
    with pytest.raises(UsageError):
        services_of([DOCUMENTS[0], SHOP])
