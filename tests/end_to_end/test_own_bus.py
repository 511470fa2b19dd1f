"""A bus that is not the reference's, from its file to the verdict: the example in docs/examples/shop, on the model and on real servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.results.checkers import judge
from sim.results.lost import half_served
from sim.results.opened_run import Run
from sim.scenario.file import load_scenario
from sim.wire.address import Address
from tests.support.ran import ran

SHOP = Path(__file__).parents[2] / "docs" / "examples" / "shop"


def run_shop(folder: Path, *settings: str, scenario: str = "everyday", on: str = "model") -> Run:
    return ran(load_scenario(str(SHOP / f"{scenario}.toml"), settings=settings), on=on, folder=folder)


def assert_whole(run: Run) -> None:
    verdict = judge(run)
    assert verdict.verdict == "valid", verdict.reasons
    heard = run.ledger().groupby("service", observed=True)["channel"].unique()
    assert {name: set(channels) for name, channels in heard.items()} == {
        "billing": {"order.created"},
        "search": {"order.created", "price.invalidated"},
        "notify": {"order.created", "search.asked"},
    }
    publishes = run.publishes[run.publishes["items"] > 0]
    batches = publishes[publishes["channel"] == "search.asked"]
    in_time = batches[batches["intended_ns"] < run.phases["run"][1]]  # the rest left in the flush after the load
    assert batches["items"].max() > 1 and (in_time["intended_ns"] - in_time["first_item_ns"]).max() <= 500_000_000
    assert (publishes[publishes["channel"] != "search.asked"]["items"] == 1).all()


def test_every_event_of_the_shop_is_in_the_books(tmp_path: Path) -> None:
    run = run_shop(tmp_path / "run")
    assert_whole(run)
    orders = run.publishes[(run.publishes["channel"] == "order.created") & (run.publishes["phase"] == "run") & (run.publishes["items"] > 0)]
    assert len(orders) == pytest.approx(400 * 5, abs=6 * 2000**0.5)
    assert orders["bytes"].median() == pytest.approx(900 + 240, rel=0.1), "the event's data and its envelope"


def test_an_outage_is_told_by_service(tmp_path: Path) -> None:
    run = run_shop(tmp_path / "run", scenario="redis_away")
    ledger = run.ledger()
    orders = ledger[(ledger["channel"] == "order.created") & (ledger["phase"] == "run") & (ledger["service"] == "billing")]
    missing = orders[orders["fate"] == "missing"]
    assert set(missing["cause"]) == {"sent-in-memory-mode", "deaf"}
    begun, ended = (run.faults[column].iloc[0] for column in ("begin_ns", "end_ns"))
    sent = run.publishes.set_index("event")["intended_ns"]
    assert sent[missing["event"]].between(begun, ended + 3_000_000_000).all(), "nothing is lost but in the outage and shortly after"


ENVELOPES = [
    ("envelope.kind=cloudevents",),
    (
        "envelope.kind=plain",
        "envelope.id=/meta/id",
        "envelope.type=/meta/type",
        "envelope.data=",
        "envelope.version=/v",
        'channels."order.created".key=/orderId',
    ),
]


ALIKE = ("envelope.kind=raw", 'channels."order.created".payload={status="{choice(1, 2, 3)}"}', 'channels."order.created".key=')


def test_payloads_alike_without_an_envelope_are_told_apart_in_an_outage(tmp_path: Path) -> None:
    named = run_shop(tmp_path / "named", scenario="redis_away")
    raw = run_shop(tmp_path / "raw", *ALIKE, scenario="redis_away")
    assert raw.identities["identity"].nunique() < 2000 < len(raw.identities)
    assert judge(raw).verdict == "valid"
    columns = ["service", "channel", "fate", "cause"]
    one, other = (run.ledger().groupby(columns, observed=True).size() for run in (named, raw))
    assert one.equals(other), "the same load and the same outage: the same copies are lost, whatever events are known by"


@pytest.mark.parametrize("settings", ENVELOPES, ids=["cloudevents", "plain"])
def test_every_event_is_in_the_books_in_another_envelope(tmp_path: Path, settings: tuple[str, ...]) -> None:
    run = run_shop(tmp_path / "run", *settings)
    assert_whole(run)
    lag = judge(run, only=["lag"]).checkers["lag"]
    assert lag.verdict == "valid" and lag.counts["lag_us.max"] < 1_000_000


CHAT = SHOP.parent / "chat"


def test_a_chat_of_two_hundred_gateways_is_in_the_books(tmp_path: Path) -> None:
    run = ran(load_scenario(str(CHAT / "everyday.toml"), settings=("load.run_s=2",)), folder=tmp_path / "run")
    assert judge(run).verdict == "valid"
    ledger = run.ledger()
    assert (ledger.query("phase == 'run'").groupby("event")["pod"].nunique() == 200).all()
    assert run.keys["key"].str.fullmatch(r"room_[0-9]+").all()


def test_a_message_that_some_gateways_missed_is_not_lost_but_told(tmp_path: Path) -> None:
    settings = ("load.run_s=5", "services.gateway.replicas=20")
    run = ran(load_scenario(str(CHAT / "redis_away.toml"), settings=settings), folder=tmp_path / "run")
    assert run.lost().empty
    ((service, half),) = half_served(run)
    heard = run.ledger().query("phase == 'run' and fate == 'delivered'").groupby("event")["pod"].nunique()
    assert (service, half) == ("gateway", int((heard < 20).sum())) and half > 20


def test_what_billing_never_saw_is_told_by_order(tmp_path: Path) -> None:
    run = run_shop(tmp_path / "run", scenario="redis_away")
    rows = run.lost(services=["billing"])
    # counted again from the tables as they are: orders of the run phase that no pod of billing has a delivery of
    publishes, deliveries = run.publishes, run.deliveries
    orders = publishes[(publishes["channel"] == "order.created") & (publishes["phase"] == "run") & (publishes["items"] > 0)]
    at_billing = deliveries[deliveries["pod"].astype(str).str.startswith("billing-")]
    never = set(orders["event"]) - set(at_billing["event"])
    assert set(rows["event"]) == never and len(rows) == len(never) > 1000
    keys = run.keys.set_index("event")["key"]
    assert rows["key"].tolist() == keys[rows["event"]].tolist()
    assert rows["key"].is_unique and rows["key"].str.fullmatch(r"order_[0-9]+").all()
    assert (
        set(run.keys["channel"]) == {"order.created"}
        and len(run.keys)
        == (publishes["channel"] == "order.created").sum() - ((publishes["channel"] == "order.created") & (publishes["items"] == 0)).sum()
    )


def test_calls_that_a_template_cannot_make_fail_and_the_run_goes_on(tmp_path: Path) -> None:
    for batched in ("false", "true"):
        late = 'channels."order.created".payload={a="{1 if number < 150 else 1 + filler}"}'
        settings = (late, f'channels."order.created".batched={batched}', 'load.mix={"order.created"=1}', "load.run_s=2", "slo={}")
        run = run_shop(tmp_path / batched, *settings)
        assert (run.calls["outcome"] == "failed").sum() == len(run.calls) - 150 > 0
        assert run.info.state == "complete"


@pytest.mark.broker
@pytest.mark.parametrize(
    "settings",
    [(), ("load.driver=pods",), ("load.driver=pods", "hosts.kind=local", *ENVELOPES[0]), ENVELOPES[1], ALIKE],
    ids=["locust", "pods", "local in cloudevents", "locust in plain JSON", "locust without an envelope"],
)
def test_both_drivers_and_pods_in_processes_of_their_own_play_it(
    own_server: tuple[Address, object], tmp_path: Path, settings: tuple[str, ...]
) -> None:
    short = ("load.run_s=1.5", "load.warm_up_s=0.3", "load.rate_per_s=150", "slo.lag_ms_p99=60000")
    assert_whole(run_shop(tmp_path / "run", *short, *settings, on=own_server[0].url))
