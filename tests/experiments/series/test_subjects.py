"""What a notebook is about is found in any bus, and what is named and not there is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.errors import UsageError
from sim.experiments.batching.frontier import batched_alone
from sim.experiments.series.subjects import heard_most, outage_settings
from sim.scenario.file import Scenario, load_scenario

EXAMPLES = Path("docs/examples")


@pytest.fixture
def shop() -> Scenario:
    return load_scenario(str(EXAMPLES / "shop" / "everyday.toml"))


def test_of_what_is_not_named_it_is_what_most_is_called_of(shop: Scenario) -> None:
    assert heard_most(load_scenario("lock_lab")) == ("music-service", "config.template.invalidated")
    assert heard_most(load_scenario("baseline"))[0] == "analytics-service"
    assert heard_most(shop, service="search", channel="price.invalidated") == ("search", "price.invalidated")
    assert heard_most(shop, channel="price.invalidated")[1] == "price.invalidated"
    name, channel = heard_most(shop)
    heard = {name: sum(shop.load.mix.get(one, 0) for one in its.subscribes) for name, its in shop.services.items()}
    assert heard[name] == max(heard.values()) and channel in shop.services[name].subscribes


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"service": "serch"}, "unknown service 'serch' (did you mean 'search'?); known: orders, billing, search, notify"),
        ({"channel": "order.craeted"}, "unknown channel 'order.craeted' (did you mean 'order.created'?)"),
        ({"service": "orders"}, "scenario everyday: orders does not hear anything that is called"),
        ({"service": "billing", "channel": "price.invalidated"}, "scenario everyday: billing does not hear price.invalidated"),
    ],
)
def test_what_is_named_and_not_there_is_refused(shop: Scenario, named: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError) as refused:
        heard_most(shop, **named)
    assert str(refused.value).startswith(says)


def test_an_outage_is_the_scenarios_own_or_one_of_five_seconds(shop: Scenario) -> None:
    assert outage_settings(load_scenario("broker_down"), kind="broker_freeze") == ('faults=[{kind="broker_freeze", at_s=2.0, for_s=5.0}]',)
    given = outage_settings(shop, kind="broker_down")
    assert given[:2] == ('faults=[{kind="broker_down", at_s=2.0, for_s=5.0}]', "slo={}")
    made = load_scenario(str(EXAMPLES / "shop" / "everyday.toml"), settings=given)
    assert len(made.faults) == 1 and made.load.run_s == max(shop.load.run_s, 12) and not made.slo
    with pytest.raises(UsageError, match="unknown fault 'broker_dwon'"):
        outage_settings(shop, kind="broker_dwon")


def test_the_batched_channel_is_the_first_that_somebody_publishes(shop: Scenario) -> None:
    assert "search.asked" in " ".join(batched_alone(shop).settings)
    with pytest.raises(UsageError, match="no batched channel that a service publishes; batched are none"):
        batched_alone(load_scenario(str(EXAMPLES / "chat" / "everyday.toml")))
