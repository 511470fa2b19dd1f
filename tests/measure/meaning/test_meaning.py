"""What a scenario is said to mean, against what a run of it then measures, and the theory of its batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from sim.errors import ScenarioError
from sim.experiments.batching.theory import batch_costs
from sim.measure.capacity.batches import items_of_batch
from sim.measure.capacity.run import workload_of
from sim.measure.meaning.channels import ChannelLoad, channel_loads, sizes_of
from sim.measure.meaning.meaning import Meaning, check_scenario, connections_of
from sim.measure.meaning.table import MAX_ROWS, bytes_words, load_sentence, meaning_tables
from sim.results.opened_run import Run, open_run
from sim.run.steps import run_scenario
from sim.scenario.file import built_in, check_tree, load_scenario
from sim.wire.resp import message_bytes
from tests.support.printed import printed

SHOP = str(Path(__file__).parents[3] / "docs" / "examples" / "shop" / "everyday.toml")
LONG = ("load.driver=pods", "load.run_s=20", "load.warm_up_s=1", "slo={}")
BATCHES = (*LONG, "bus.batch_interval_ms=500", "bus.batch_size=8")


def of_run(run: Run) -> dict[str, dict[str, float]]:
    """Calls, events, copies and bytes a second of each channel, counted in the tables of the run phase."""
    begun, ended = run.phases["run"]
    seconds = (ended - begun) / 1e9
    publishes = run.publishes[(run.publishes["phase"] == "run") & (run.publishes["items"] > 0)]
    arrived = run.deliveries[run.deliveries["event"].isin(publishes["event"])]
    copies = arrived.merge(publishes[["event", "channel"]], on="event").groupby("channel", observed=True).size()
    found = {}
    for channel, some in publishes.groupby("channel", observed=True):
        heard = int(copies.get(channel, 0))
        found[str(channel)] = {
            "events": len(some) / seconds,
            "items": float(some["items"].mean()),
            "bytes": float(some["bytes"].mean()),
            "copies": heard / seconds,
        }
    return found


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (SHOP, LONG),
        (SHOP, (*LONG, "load.arrivals=uniform", 'load.mix={"search.asked"=1}', "services.search.replicas=1", "load.rate_per_s=90")),
        (SHOP, (*LONG, "load.shape=day")),
        (SHOP, (*LONG, "bus.transport=streams")),
        (SHOP, (*LONG, "bus.transport=memory")),
        (SHOP, (*LONG, "bus.redis_url=false")),
        ("baseline", BATCHES),
        ("http_vs_bus", BATCHES),
        ("lock_lab", LONG),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, tuple) else Path(value).stem,
)
def test_a_run_on_the_model_measures_what_was_said(name: str, settings: tuple[str, ...], tmp_path: Path) -> None:
    scenario = load_scenario(name, settings=settings)
    said = check_scenario(scenario)
    run = open_run(run_scenario(scenario, on="model", out=tmp_path / "run"))
    measured = of_run(run)
    assert {one.name for one in said.channels} == set(measured)
    for one in said.channels:
        found = measured[one.name]
        rel = 5 / (found["events"] * scenario.load.run_s) ** 0.5  # five standard deviations of a Poisson count
        assert one.events_per_s == pytest.approx(found["events"], rel=rel)
        assert one.copies_per_s == pytest.approx(found["copies"], rel=rel)
        assert one.items_per_event == pytest.approx(found["items"], rel=0.05)
        assert one.event_bytes == pytest.approx(found["bytes"], rel=0.05)
    assert_connections(said, run)
    assert_bytes(said, run)


def samples(run: Run, metric: str) -> Any:
    begun, ended = run.phases["run"]
    some = run.broker[(run.broker["metric"] == metric) & (run.broker["subject"] == "")]
    return some[(some["at_ns"] > begun) & (some["at_ns"] < ended)].sort_values("at_ns")


def assert_connections(said: Meaning, run: Run) -> None:
    counted = samples(run, "connected_clients")["value"]
    if said.connections is None:
        assert counted.empty or counted.max() <= 2, "the run's own"
    else:
        assert counted.max() == said.connections.total


def assert_bytes(said: Meaning, run: Run) -> None:
    """The broker's own counter, which also counts what the sampler asks: some kilobytes each time."""
    parts = [one.out_bytes_per_s for one in said.channels]
    if None in parts or said.connections is None:
        return
    counted = samples(run, "net_output_bytes")
    seconds = (counted["at_ns"].iloc[-1] - counted["at_ns"].iloc[0]) / 1e9
    rate = (counted["value"].iloc[-1] - counted["value"].iloc[0]) / seconds
    asked = 4 * 4_000  # INFO and CLIENT LIST, four times a second
    assert sum(part or 0 for part in parts) == pytest.approx(rate, rel=0.06, abs=asked)


@pytest.mark.broker
@pytest.mark.parametrize("transport", ["pubsub", "sharded"])
def test_a_real_server_counts_the_connections_that_were_said(transport: str, tmp_path: Path) -> None:
    short = ("load.run_s=2", "load.warm_up_s=0.3", "load.rate_per_s=60", "slo={}", f"bus.transport={transport}")
    scenario = load_scenario(SHOP, settings=short)
    said = check_scenario(scenario)
    assert said.connections is not None and said.connections.locust < 19, "notify is called so seldom that not each of its pods is"
    assert_connections(said, open_run(run_scenario(scenario, on="embedded", out=tmp_path / "run")))


def test_locust_has_a_connection_for_each_pod_whose_calls_it_makes() -> None:
    pods, locust = (connections_of(load_scenario(SHOP, settings=(f"load.driver={driver}",))) for driver in ("pods", "locust"))
    assert pods is not None and locust is not None
    assert (pods.hearing, pods.speaking, pods.locust, locust.locust) == (15, 21, 0, 19)
    assert locust.total - pods.total == 19
    long = connections_of(load_scenario(SHOP, settings=("load.run_s=86400", "services.search.caches={}")))
    assert long == locust, "a day is not drawn for it"


@pytest.mark.parametrize("arrivals", ["poisson", "uniform"])
@pytest.mark.parametrize(
    ("rate", "size", "interval_ms"), [(3, 10, 1000), (50, 20, 500), (2000, 100, 30_000), (0.2, 100, 30_000), (7, 1, 50)]
)
def test_batches_hold_what_the_theory_says(arrivals: str, rate: float, size: int, interval_ms: int) -> None:
    expected = batch_costs(rate_per_s=rate, size=size, interval_ms=interval_ms, arrivals=arrivals).items_per_batch
    share = 1.0 if arrivals == "uniform" else 0.0
    assert items_of_batch(rate, size=size, interval_s=interval_ms / 1000, share=share) == pytest.approx(expected, rel=1e-9)


def test_evenly_spaced_calls_that_are_drawn_among_many_are_as_poisson() -> None:
    poisson, drawn, half = (items_of_batch(18, size=20, interval_s=1, share=share) for share in (0.0, 0.001, 0.5))
    assert drawn == pytest.approx(poisson, rel=1e-3)
    assert poisson < half <= 19, "calls vary less, so fewer batches are full early"


@pytest.mark.parametrize("arrivals", ["poisson", "uniform"])
@pytest.mark.parametrize("name", ["baseline", "batch_size", "search"])
def test_a_plan_of_capacity_and_what_a_scenario_means_have_the_same_batches(name: str, arrivals: str) -> None:
    settings = (f"load.arrivals={arrivals}", "load.rate_per_s=90")
    settings += ('load.mix={"search.asked"=1}', "load.shape=steady") if name == "search" else ()
    scenario = load_scenario(SHOP if name == "search" else name, settings=settings)
    workload, meant = workload_of(scenario), {one.name: one.items_per_event for one in channel_loads(scenario)}
    assert {kind.name: workload.items(kind, 90) for kind in workload.kinds} == pytest.approx(meant, rel=1e-12)
    assert max(meant.values()) > 1


def test_bytes_are_counted_as_frames(tmp_path: Path) -> None:
    scenario = load_scenario(
        SHOP, settings=('channels."price.invalidated".payload=500', 'load.mix={"price.invalidated"=1}', "load.rate_per_s=7")
    )
    (one,) = channel_loads(scenario)
    frame = message_bytes(len("shop:price.invalidated"), round(one.event_bytes))
    assert one.out_bytes_per_s == pytest.approx(7 * (10 * frame + len(":10\r\n")))
    assert one.in_bytes_per_s == pytest.approx(7 * frame)
    assert one.link_bytes_per_s is not None and one.out_bytes_per_s < one.link_bytes_per_s[0] < one.link_bytes_per_s[1]


def test_all_channels_share_the_links_fuller_direction() -> None:
    """Many publishes that few hear fill the link towards the broker, copies the other one; together they are not the sum of both."""
    services = {"one": {"publishes": ["up"], "subscribes": ["down"], "replicas": 4}, "two": {"publishes": ["down"]}}
    tree = {"channels": {"up": {"rate_per_s": 100}, "down": {"rate_per_s": 10}}, "services": services}
    meaning = check_scenario(check_tree(tree, where="two ways"))
    up, down = sorted((one.link_bytes_per_s or (0, 0) for one in meaning.channels), reverse=True)
    assert meaning.link_bytes_per_s is not None
    assert up[0] < meaning.link_bytes_per_s[0] < up[0] + down[0]


def test_calls_that_cannot_be_made_are_counted_and_told() -> None:
    late = 'channels."order.created".payload={a="{1 if number < 150 else 1 + filler}"}'
    scenario = load_scenario(SHOP, settings=(late,))
    sizes = sizes_of(scenario, "order.created", {"orders": 6}, batched=False, tries=500)
    assert 0 < sizes.failed < sizes.tried == 500
    assert any("cannot be made, and fail in a run" in note for note in check_scenario(scenario).notes)


def test_a_payload_that_nothing_is_called_of_is_tried_too() -> None:
    settings = ('channels."price.invalidated".payload={a="{1 // zero}"}', 'load.mix={"order.created"=1}')
    scenario = load_scenario(SHOP, settings=settings)
    with pytest.raises(ScenarioError, match=r'channels."price.invalidated".payload'):
        check_scenario(scenario)


def test_a_batch_that_outlasts_the_run_is_told() -> None:
    notes = check_scenario(load_scenario("baseline", settings=("bus.batch_interval_ms=30000", "bus.batch_size=100000"))).notes
    assert [note for note in notes if "a batch waits for up to 30 s, longer than the run of" in note]


def test_faults_stand_in_the_order_of_their_beginnings() -> None:
    later = '{kind="pod_kill",pods=["billing"],at_s=3,for_s=1}'
    first = '{kind="broker_freeze",at_s=0.5,for_s=0.5,times=2,every_s=1}'
    meaning = check_scenario(load_scenario(SHOP, settings=(f"faults=[{later},{first}]",)))
    assert [(one.kind, one.spans_s[0], one.pods) for one in meaning.faults] == [
        ("broker_freeze", (0.5, 1.0), None),
        ("pod_kill", (3.0, 4.0), ("billing",)),
    ]
    text = printed(meaning_tables(meaning))
    assert text.index("broker_freeze") < text.index("pod_kill") and "2 times until 2 s" in text


@pytest.mark.parametrize(("kind", "pods"), [("local", ("orders-1", "search-0", "search-7")), ("dask", ("a worker with its pods",))])
def test_a_machine_is_named_by_its_pods_where_they_are_known(kind: str, pods: tuple[str, ...]) -> None:
    down = '{kind="machine_down",machine=1,machines=7,at_s=0.5,for_s=1}'
    meaning = check_scenario(load_scenario(SHOP, settings=(f"faults=[{down}]", f"hosts.kind={kind}", "load.driver=pods")))
    (one,) = meaning.faults
    assert one.pods == pods
    assert one.settings == {"machine": 1, "machines": 7, "elsewhere_s": 0.0}


@pytest.mark.parametrize("name", sorted(built_in()))
def test_every_built_in_scenario_has_a_meaning_that_can_be_printed_and_kept(name: str) -> None:
    meaning = check_scenario(load_scenario(name))
    assert load_sentence(meaning) in " ".join(printed(meaning_tables(meaning)).split())
    kept = msgspec.json.decode(msgspec.json.encode(meaning))
    assert kept["pods"] == sum(one["pods"] for one in kept["services"])


def test_ten_thousand_channels_are_told_in_one_screen() -> None:
    names = [f"topic.{number}" for number in range(10_000)]
    tree = {"channels": {name: {"rate_per_s": 1} for name in names}, "services": {"all": {"publishes": names, "subscribes": names}}}
    meaning = check_scenario(check_tree(tree, where="many"))
    assert meaning.events_per_s == pytest.approx(10_000) and len(meaning.channels) == 10_000
    text = printed(meaning_tables(meaning))
    assert "and 9,960 more" in text and len(text.splitlines()) < MAX_ROWS + 60


def test_sizes_are_said_in_units() -> None:
    assert [bytes_words(size) for size in (None, 0, 242, 1_250, 7_800_000, 3e9)] == ["-", "0 B", "242 B", "1.25 kB", "7.8 MB", "3 GB"]


def by_name(loads: list[ChannelLoad]) -> dict[str, ChannelLoad]:
    return {one.name: one for one in loads}


def test_what_the_shape_does_to_batches_is_the_mean_of_the_run() -> None:
    steady, day = (by_name(channel_loads(load_scenario(SHOP, settings=(f"load.shape={shape}",)))) for shape in ("steady", "day"))
    assert day["search.asked"].calls_per_s < steady["search.asked"].calls_per_s == 60
    assert day["search.asked"].events_per_s_peak == steady["search.asked"].events_per_s
    assert day["search.asked"].items_per_event < steady["search.asked"].items_per_event
