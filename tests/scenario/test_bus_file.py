"""Anybody's bus: channels and services of any name, in a file that several scenarios share, and the rates that they mean."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sim.errors import ScenarioError
from sim.scenario.file import BUS_TABLES, built_in, built_in_buses, check_tree, load_bus, load_scenario, to_toml
from sim.scenario.patterns import expand_patterns
from sim.scenario.settings import reference_behaviours, reference_channels

SHOP = """
[bus]
channel_prefix = "shop:"
[channels."order.created"]
rate_per_s = 40
payload = 900
[channels."价格/改变"]
rate_per_s = 10
[services.orders]
replicas = 2
publishes = ["order.created", "价格/改变"]
[services.billing]
subscribes = ["order.created", "价格/改变"]
"""
DAY = 'bus_file = "shop.bus.toml"\n[load]\nrun_s = 20\n'


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.bus.toml").write_text(SHOP)
    (tmp_path / "day.toml").write_text(DAY)
    return tmp_path / "day.toml"


def refusal(scenario: Path, *settings: str) -> str:
    with pytest.raises(ScenarioError) as refused:
        load_scenario(str(scenario), settings=settings)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_bus_file_stands_below_the_scenario_that_names_it(shop: Path) -> None:
    scenario = load_scenario(str(shop), settings=("services.billing.replicas=3", "bus.batch_size=7"))
    assert (scenario.bus.channel_prefix, scenario.bus.batch_size, scenario.services["billing"].replicas) == ("shop:", 7, 3)
    assert list(scenario.channels) == ["order.created", "价格/改变"]
    assert {scenario.behaviour(name) for name in scenario.services} == {"hears"}
    assert "bus_file" not in to_toml(scenario), "what ran stands in it whole"
    assert check_tree(msgspec.to_builtins(scenario), where="again") == scenario


def test_the_rates_of_channels_are_the_load_where_it_is_silent(shop: Path) -> None:
    load = load_scenario(str(shop)).load
    assert (load.rate_per_s, load.mix) == (50, {"order.created": 40, "价格/改变": 10})
    scenario = load_scenario(str(shop), settings=("load.rate_per_s=500", "load.arrivals=uniform"))
    assert (scenario.load.rate_per_s, scenario.load.mix) == (500, {"order.created": 40, "价格/改变": 10})
    drawn = scenario.schedule()
    kinds = Counter(drawn.kinds[kind] for kind in drawn.kind)
    assert kinds["order.created"] == pytest.approx(8_800, rel=0.05) and sum(kinds.values()) == 11_000
    mixed = load_scenario(str(shop), settings=('load.mix={"order.created"=1}',))
    assert (mixed.load.rate_per_s, mixed.load.mix) == (100, {"order.created": 1})


def test_a_payload_of_the_scenario_takes_the_place_of_the_bus_files(shop: Path) -> None:
    template = 'channels."order.created".payload={id="{number}"}'
    assert load_scenario(str(shop), settings=(template,)).content("order.created")(3) == {"id": 3}
    assert load_scenario(str(shop)).content("价格/改变")(3)["note"] == "x" * (64 - len('{"id":0,"note":""}')), "load.payload_bytes"


def test_the_reference_is_a_bus_file_too(tmp_path: Path) -> None:
    assert list(built_in_buses()) == ["aiponge"]
    (tmp_path / "mine.toml").write_text('bus_file = "aiponge"\n[load.mix]\n"config.cache.invalidate" = 1\n[services.api-gateway]\n')
    mine = load_scenario(str(tmp_path / "mine.toml"))
    assert set(mine.services) == set(reference_behaviours()) and mine.channels == reference_channels()
    settings = ("services.api-gateway.publishes=[]", "services.system-service.publishes=[]", "services.music-service.replicas=1")
    assert "no service publishes it" in refusal(tmp_path / "mine.toml", *settings), "its own words stand above the bus file's"
    assert load_scenario(str(tmp_path / "mine.toml"), settings=settings[1:]).services["music-service"].replicas == 1


def test_who_publishes_and_hears_on_the_references_bus_is_as_in_its_everyday_scenario(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('bus_file = "aiponge"\n[load.mix]\n"config.cache.invalidate" = 1\n')
    for mine in (load_bus("aiponge"), load_scenario(str(tmp_path / "mine.toml"))):
        assert {name: (one.replicas, one.publishes, one.subscribes) for name, one in mine.services.items()} == {
            name: (one.replicas, one.publishes, one.subscribes) for name, one in load_scenario("baseline").services.items()
        }
        assert {name: tuple(mine.new_logic(name).handlers) for name in mine.services} == {
            name: one.subscribes for name, one in mine.services.items()
        }


def test_the_references_services_are_in_no_scenario_that_does_not_name_its_bus(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        '[load.mix]\n"config.cache.invalidate" = 1\n[services.music-service]\npublishes = ["config.cache.invalidate"]\n'
    )
    mine = load_scenario(str(tmp_path / "mine.toml"))
    assert list(mine.services) == ["music-service"] and mine.services["music-service"].subscribes == ()
    assert (mine.services["music-service"].replicas, mine.behaviour("music-service")) == (1, "config-cache")


def test_each_built_in_scenario_is_about_the_reference_and_says_nothing_of_channels() -> None:
    for name in built_in():
        scenario = load_scenario(name)
        assert scenario.channels == reference_channels()
        assert {scenario.behaviour(service) for service in scenario.services} <= set(reference_behaviours().values())


def test_a_pattern_stands_for_the_channels_that_match(shop: Path) -> None:
    def heard(*named: str) -> tuple[str, ...]:
        more = ('channels."order.paid".payload=10', 'channels."stock/a*".payload=10')
        listed = ", ".join(f'"{one}"' for one in named)
        return load_scenario(str(shop), settings=(*more, f"services.billing.subscribes=[{listed}]")).services["billing"].subscribes

    assert heard("order.*") == ("order.created", "order.paid")
    assert heard("order.*", "价格/改变") == ("order.created", "order.paid", "价格/改变")
    assert heard("order.[^c]*") == heard("order.p?id") == heard("order.[op]aid") == ("order.paid",)
    assert heard("stock/a*") == ("stock/a*",), "a channel of that name"
    assert len(heard("*")) == 4


PATTERNS = {
    "a.?": ["a.b", "a.*"],
    "a.\\*": ["a.*"],
    "a.[^b]": ["a.*"],
    "a.[!b]": ["a.b"],
    "a.[c-a]": ["a.b"],
    "a.[\\]b": ["a.b"],
    "a.[b": ["a.b"],
    "*[.][*]": ["a.*"],
    "a.[]b]": [],
    "价格/??": [],
    "价格/??????": ["价格/改变"],
    "*变": ["价格/改变"],
    "*\\": ["x\\"],
}


def matched(pattern: str) -> list[str]:
    channels = ["a.b", "a.*", "价格/改变", "x\\"]
    tree = {"services": {"s": {"subscribes": [pattern]}}}
    try:
        found: list[str] = expand_patterns(tree, channels, where="test")["services"]["s"]["subscribes"]
    except ScenarioError:
        return []
    return found


def test_patterns_are_those_of_redis() -> None:
    assert {pattern: matched(pattern) for pattern in PATTERNS} == PATTERNS


def test_a_key_stands_where_the_envelope_has_the_data(shop: Path) -> None:
    key = 'channels."order.created".key="%s"'
    assert load_scenario(str(shop)).keys() == {}
    assert load_scenario(str(shop), settings=(key % "/data/order/id",)).keys() == {"order.created": ("order", "id")}
    plain = ("envelope.kind=plain", "envelope.data=")
    assert load_scenario(str(shop), settings=(*plain, key % "/orderId")).keys() == {"order.created": ("orderId",)}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["bus_file=nowhere.toml"], ["bus_file = 'nowhere.toml'", "no such file", "aiponge"]),
        (["bus_file=3"], ["bus_file = 3", "give the path"]),
        (['services.billing.subscribes=["order.creatd"]'], ["with shop.bus.toml", "unknown channel 'order.creatd'", "'order.created'"]),
        (['services.billing.publishes=["order.creatd"]'], ["unknown channel 'order.creatd'", "known: order.created, 价格/改变\n"]),
        (['bus.channel_prefix="a\\nb"'], ["bus.channel_prefix = 'a\\nb'", "no control"]),
        (["envelope.kind=plain", 'envelope.versions=["1"]'], ["envelope.versions = ['1']", "give envelope.version"]),
        (["services.biling.replicas=3"], ["services.biling", "publishes nothing and subscribes to nothing", "did you mean 'billing'"]),
        (["services.billing.behaviour=analytic"], ["behaviour = 'analytic'", "did you mean 'analytics'"]),
        (['services."a b".subscribes=["order.created"]'], ["services.'a b'", "no blank, comma or control"]),
        (
            ['channels."order.created".invalidates="order:{orderId}"'],
            ['channels."order.created".invalidates', "'orderId' is no JSON pointer"],
        ),
        (['channels."order.created".invalidates="order:{/orderId}"'], ["invalidates = 'order:{/orderId}'", "begin it with /data/"]),
        (['channels."order.created".invalidates="order:{/data/id"'], ["invalidates = 'order:{/data/id'", "without its other half"]),
        (
            ['channels."order.created".invalidates="all"', 'channels."order.created".batched=true'],
            ["channels.order.created.invalidates", "leave one of the two out"],
        ),
        (["services.billing.caches.bills.reads_per_s=5"], ["'services.billing.caches.bills.reads' is missing"]),
        (['services.billing.caches.bills={ reads = "bill:{nr}" }'], ['caches."bills".reads', "names 'nr'"]),
        (['services.billing.caches.bills={ reads = "bill:*" }'], ["'bill:*'", "every key that matches"]),
        (['services.billing.caches.bills={ reads = "{zipf(0)}" }'], ["zipf(0)", "from 1 to 1,000,000"]),
        (['services.billing.caches.bills={ reads = "{letters(201)}" }'], ["201 characters", "200 is the most"]),
        (
            ['services.billing.caches.bills={ reads = "b", reads_per_s = 1e6 }', "load.run_s=3600"],
            ["caches.bills.reads_per_s = 1e+06", "more than 20,000,000"],
        ),
        (['services.billing.caches.bills={ reads = "b", entry = 3 }'], ["services.billing.caches.bills.entry", "did you mean 'entries'"]),
        (['channels."a,b".payload=3'], ["channels.'a,b'", "no comma"]),
        (['channels."".payload=3'], ["channels.''", "1 to 200"]),
        (['channels."http.events.batch".payload=3'], ["http.events.batch", "does not go over the bus"]),
        (['channels."order.created".payload="gauss(3)"'], ['channels."order.created".payload', "no distribution"]),
        (['channels."order.created".payload=-1'], ["order.created.payload = -1"]),
        (['channels."order.created".rate=3'], ["unknown key 'channels.order.created.rate'", "rate_per_s"]),
        (['channels."order.created".rate_per_s=inf'], ["order.created.rate_per_s = inf"]),
        (['channels."order.created".batch_size=0'], ["order.created.batch_size = 0"]),
        (['load.mix={"http.events.batch"=1}', "load.driver=pods"], ["http.events.batch"]),
        (['channels."order.created".key="orderId"'], ['channels."order.created".key', "'orderId' is no JSON pointer", "slash"]),
        (['channels."order.created".key="/orderId"'], ["key = '/orderId'", "begin it with /data/"]),
        (['channels."order.created".key="/data"'], ["key = '/data'", "begin it with /data/"]),
        (['services.billing.subscribes=["pay.*"]'], ["services.billing.subscribes: 'pay.*' matches no channel", "order.created"]),
        (
            ['services.billing.subscribes=["价格/?"]'],
            ["'价格/?' matches no channel (a ? is one byte, and a"],
        ),
        (['services.billing.subscribes=["order.*", "order.created"]'], ["named by 'order.*' and by 'order.created'", "hear it twice"]),
        (["envelope.kind=cloudevent"], ["envelope.kind = 'cloudevent'", "did you mean 'cloudevents'"]),
        (["envelope.id=/a"], ["envelope.id = '/a'", "'aiponge' has its own", "envelope.kind = 'plain'"]),
        (["envelope.kind=plain", "envelope.id=a"], ["envelope: id = 'a' is no JSON pointer"]),
        (["envelope.kind=plain", "envelope.ids=/a"], ["unknown key 'envelope.ids'", "did you mean 'id'"]),
        (["envelope.kind=plain", "envelope.versions=[]", "envelope.version=/v"], ["envelope: versions = []", "such as 1.0"]),
        (["load.reads_per_s=5"], ["no service keeps templates", "config-cache"]),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_is_wrong_with_a_bus_is_named_with_its_value(shop: Path, settings: list[str], says: list[str]) -> None:
    message = refusal(shop, *settings)
    assert [word for word in says if word not in f"{message}\n"] == [] and "\n" not in message, message


@pytest.mark.parametrize(
    ("setting", "meant"),
    [
        ("channels.order.created.rate_per_s=3", 'channels."order.created"'),
        ("channels.order.created.v2.rate_per_s=3", 'channels."order.created.v2"'),
        ("channels.order.created.payload={a=1}", 'channels."order.created"'),
        ("channels.order.created={batched=true,batch_size=3}", 'channels."order.created"'),
        ("load.mix.order.created=3", 'load.mix."order.created"'),
        ("load.mix.order.created.v2=3", 'load.mix."order.created.v2"'),
        ("services.bil.ling.replicas=3", 'services."bil.ling"'),
        ("services.bil.ling={replicas=3,publishes=[]}", 'services."bil.ling"'),
    ],
)
def test_a_name_with_dots_and_without_quotes_is_told_how_to_stand(shop: Path, setting: str, meant: str) -> None:
    assert f"(did you mean {meant}?)" in refusal(shop, setting)


@pytest.mark.parametrize(
    "setting", ["channels.x.batchd={a=1}", "load.mix.x=true", "channels.x=3", "load.rate_per_s={a=1}", "services.billing.x=3"]
)
def test_what_is_wrong_otherwise_is_not_told_of_quotes(shop: Path, setting: str) -> None:
    assert 'did you mean channels."' not in refusal(shop, setting) and 'mean load.mix."' not in refusal(shop, setting)


def test_a_rate_that_nobody_can_publish_is_not_called_and_one_that_is_given_a_weight_is_refused(shop: Path) -> None:
    scenario = load_scenario(str(shop), settings=('channels."order.creatd".rate_per_s=3',))
    assert (scenario.load.rate_per_s, scenario.load.mix) == (50, {"order.created": 40, "价格/改变": 10})
    settings = ('channels."order.creatd".rate_per_s=3', 'load.mix={"order.creatd"=1}')
    assert "'order.creatd' has weight 1 but no service publishes it (did you mean 'order.created'?)" in refusal(shop, *settings)
    assert "no service publishes it" in refusal(shop, "services.orders.publishes=[]", 'services.orders.subscribes=["order.created"]')


def test_a_bus_file_holds_nothing_but_a_bus(shop: Path) -> None:
    (shop.parent / "shop.bus.toml").write_text(SHOP + "[lod]\nrate_per_s = 3\n")
    message = refusal(shop)
    assert "bus file shop.bus.toml" in message and "'lod' does not belong there" in message and ", ".join(BUS_TABLES) in message


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (b"# \xfc\n", "bus file shop.bus.toml: its byte 2 is 0xfc, which is not UTF-8: save the file as UTF-8"),
        (b"#" * 10_000_001, "bus file shop.bus.toml: it has more than 10,000,000 bytes: leave out"),
        (b"[channels\n", "bus file shop.bus.toml: not valid TOML: "),
    ],
    ids=["not UTF-8", "too long", "no TOML"],
)
def test_a_bus_file_that_cannot_be_read_is_called_a_bus_file(shop: Path, written: bytes, says: str) -> None:
    (shop.parent / "shop.bus.toml").write_bytes(written)
    assert refusal(shop).startswith(says)


def test_ten_thousand_channels_are_read_and_a_wrong_one_is_told_in_one_line() -> None:
    names = [f"topic.{number}" for number in range(10_000)]
    tree: dict[str, Any] = {
        "channels": {name: {"rate_per_s": 1} for name in names},
        "services": {"all": {"publishes": names, "subscribes": names}},
    }
    scenario = check_tree(tree, where="many")
    assert len(scenario.load.mix) == 10_000 == scenario.load.rate_per_s and len(scenario.contents()) == 10_000
    with pytest.raises(ScenarioError, match="channels is empty"):
        check_tree(tree | {"channels": {}, "load": {"mix": {}}}, where="none")
    tree["services"]["all"]["subscribes"] = ["topic.x"]
    with pytest.raises(ScenarioError, match=r"unknown channel 'topic.x'.* and 9,980 more$"):
        check_tree(tree, where="many")
