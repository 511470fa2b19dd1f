"""Scenarios: what is right is resolved and written back the same, what is wrong gets one line that names key and value."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest

from sim.errors import ScenarioError
from sim.scenario.file import Scenario, built_in, check_tree, load_scenario, to_toml
from sim.scenario.settings import MAX_PODS
from sim.wire.transports import TRANSPORTS
from sim.wire.transports.streams import Streams

GOOD = """
[load]
driver = "pods"
[load.mix]
"config.cache.invalidate" = 1
[services.api-gateway]
replicas = 2
publishes = ["config.cache.invalidate"]
subscribes = ["config.cache.invalidate"]
"""


KINDS = [b"['pod_kill']", b"{a = 1}", b"1", b"nan", b"true", b"''", b"2024-01-01", b"[]"]


def refusal(name: str, *settings: str) -> str:
    """The message of a ScenarioError, after checking that it is one line."""
    with pytest.raises(ScenarioError) as refused:
        load_scenario(name, settings=settings)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_bus_without_links_refuses_a_fault_on_them(good: Path) -> None:
    fault = 'faults=[{kind="link_reset",at_s=1,for_s=1}]'
    load_scenario(str(good), settings=(fault,))
    said = refusal(str(good), fault, "bus.transport=memory")
    assert "faults[0]: link_reset is of links to a broker, and bus.transport = 'memory' has none" in said


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    return path


@pytest.mark.parametrize("name", built_in())
def test_a_built_in_scenario_is_valid_and_survives_being_written_out(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario.name == name
    assert scenario.title
    assert check_tree(tomllib.loads(to_toml(scenario)), where="again") == scenario
    assert len(scenario.schedule()) > 0


def test_a_file_is_named_after_itself_and_its_pods_are_numbered(good: Path) -> None:
    scenario = load_scenario(str(good))
    assert scenario.name == "mine"
    assert scenario.pods() == [("api-gateway-0", "api-gateway"), ("api-gateway-1", "api-gateway")]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("load.rate_per_s=500", lambda s: s.load.rate_per_s == 500),
        ("load.rate_per_s = 5e2", lambda s: s.load.rate_per_s == 500),
        ("load.shape=ramp", lambda s: s.load.shape == "ramp"),
        ('load.shape="ramp"', lambda s: s.load.shape == "ramp"),
        ("title=a = b", lambda s: s.title == "a = b"),
        ('title=say "hi"', lambda s: s.title == 'say "hi"'),
        ("title=", lambda s: s.title == ""),
        ('load.mix."config.cache.invalidate"=7', lambda s: s.load.mix == {"config.cache.invalidate": 7}),
        ('services.api-gateway.publishes=["config.cache.invalidate"]', lambda s: len(s.services["api-gateway"].publishes) == 1),
        ("services.music-service.replicas=3", lambda s: s.services["music-service"].replicas == 3),
        ("slo.missing=0", lambda s: s.slo == {"missing": 0}),
        ("slo.missing.all=0", lambda s: s.slo == {"missing": 0}),
        ('slo.missing.channel."config.cache.invalidate"=2', lambda s: s.slo == {'missing.channel."config.cache.invalidate"': 2}),
        ("slo.unserved={all=1,service={api-gateway=2}}", lambda s: s.slo == {"unserved": 1, 'unserved.service."api-gateway"': 2}),
        ("slo.lag_ms_p99.service.api-gateway=2", lambda s: s.slo == {'lag_ms_p99.service."api-gateway"': 2}),
        ("bus.batch_size=1", lambda s: s.bus.batch_size == 1),
        ("limits.drain_s=1", lambda s: s.limits.drain_s == 1),
    ],
)
def test_a_setting_changes_one_key(good: Path, setting: str, value: object) -> None:
    assert callable(value)
    assert value(load_scenario(str(good), settings=(setting,)))


def test_the_last_setting_of_a_key_counts(good: Path) -> None:
    assert load_scenario(str(good), settings=("seed=5", "seed=6")).seed == 6


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("load.rte_per_s=5", ["load.rte_per_s", "did you mean 'rate_per_s'"]),
        ("lod.rate_per_s=5", ["'lod'", "did you mean 'load'"]),
        ("bus.batchsize=5", ["bus.batchsize", "did you mean 'batch_size'"]),
        ("services.api-gateway.replica=5", ["services.api-gateway.replica'", "did you mean 'replicas'"]),
        ("load.rate_per_s=-1", ["load.rate_per_s = -1", "> 0"]),
        ("load.rate_per_s=0", ["load.rate_per_s = 0", "> 0"]),
        ("load.rate_per_s=nan", ["load.rate_per_s = nan"]),
        ("load.reads_per_s=-1", ["load.reads_per_s = -1", ">= 0"]),
        ("load.reads_per_s=5", ["load.reads_per_s = 5", "no service keeps templates", "music-service", "set it to 0"]),
        ("load.templates=0", ["load.templates = 0", ">= 1"]),
        ("load.templates=60000", ["load.templates = 60000", "<= 50000"]),
        ("load.rate_per_s=inf", ["load.rate_per_s = inf"]),
        ("load.rate_per_s=fast", ["load.rate_per_s = 'fast'", "float"]),
        ("load.run_s=nan", ["load.run_s = nan"]),
        ("load.warm_up_s=-1", ["load.warm_up_s = -1"]),
        ("load.driver=locus", ["load.driver = 'locus'", "locust", "pods"]),
        ("load.arrivals=steady", ["load.arrivals = 'steady'", "poisson", "uniform"]),
        ("bus.transport=stream", ["bus.transport = 'stream'", "did you mean 'streams'", "pubsub, sharded, memory, streams"]),
        ("bus.transport=3", ["bus.transport = 3", "str"]),
        ("bus.stream_max_len=0", ["bus.stream_max_len = 0", ">= 1"]),
        ("bus.stream_claim_s=0", ["bus.stream_claim_s = 0"]),
        ("load.shape=stedy", ["load.shape = 'stedy'", "did you mean 'steady'"]),
        ("load.payload_bytes=1.5", ["load.payload_bytes = 1.5", "int"]),
        ("load.payload_bytes=true", ["load.payload_bytes = True", "int"]),
        ('load.mix."config.cache.invalidated"=1', ["config.cache.invalidated", "did you mean 'config.cache.invalidate'"]),
        ('load.mix."config.cache.invalidate"=-1', ["load.mix.config.cache.invalidate = -1"]),
        ('load.mix."config.cache.invalidate"=0', ["load.mix is empty"]),
        ('load.mix."config.cache.invalidate"=inf', ["config.cache.invalidate = inf"]),
        ('load.mix."config.cache.invalidate"=nan', ["config.cache.invalidate = nan"]),
        ('load.mix."analytics.metric.recorded"=1', ["analytics.metric.recorded", "no service publishes it"]),
        ("services.musik-service.replicas=1", ["services.musik-service", "did you mean 'music-service'"]),
        ("services.api-gateway.replicas=0", ["services.api-gateway.replicas = 0", ">= 1"]),
        ("services.api-gateway.replicas=-3", ["services.api-gateway.replicas = -3", ">= 1"]),
        ("services.api-gateway.replicas=1.5", ["services.api-gateway.replicas = 1.5", "int"]),
        (f"services.api-gateway.replicas={MAX_PODS + 1}", [f"services.api-gateway.replicas = {MAX_PODS + 1}", f"<= {MAX_PODS}"]),
        (f"services.music-service.replicas={MAX_PODS}", ["20,002 pods", "20,000"]),
        ('services.api-gateway.subscribes=["config.cach.invalidate"]', ["services.api-gateway.subscribes", "did you mean"]),
        ('services.api-gateway.subscribes=["config.cache.invalidate","config.cache.invalidate"]', ["stands there twice"]),
        ("services.api-gateway.publishes=5", ["services.api-gateway.publishes = 5", "array"]),
        ("services.api-gateway.publishes=[]", ["config.cache.invalidate", "no service publishes it"]),
        ("services.api-gateway=5", ["services.api-gateway=5", "is a table"]),
        ('load.mix."http.events.batches"=1', ["http.events.batches", "did you mean 'http.events.batch'"]),
        ('load.mix."http.events.batch"=1', ["http.events.batch", "no service publishes it"]),
        ('services.api-gateway.subscribes=["http.events.batch"]', ["services.api-gateway.subscribes", "unknown channel"]),
        ("kubelet.enable=true", ["kubelet.enable", "did you mean 'enabled'"]),
        ("kubelet.timeout_s=0", ["kubelet.timeout_s = 0", ">= 0.01"]),
        ("kubelet.live_period_s=0", ["kubelet.live_period_s = 0", ">= 0.01"]),
        ("kubelet.failure_threshold=0", ["kubelet.failure_threshold = 0", ">= 1"]),
        ("kubelet.failure_threshold=1.5", ["kubelet.failure_threshold = 1.5", "int"]),
        ("kubelet.restart_delay_s=nan", ["kubelet.restart_delay_s = nan"]),
        ("kubelet.back_off_max_s=5", ["kubelet.back_off_max_s = 5", "kubelet.back_off_s = 10"]),
        ("slo.lag_ms_p98=5", ["slo.lag_ms_p98", "did you mean 'lag_ms_p99'"]),
        ("slo.missing=inf", ["slo.missing = inf"]),
        ("slo.missing.service.api-gatewai=1", ['slo.missing.service."api-gatewai"', "did you mean 'api-gateway'"]),
        ('slo.missing.channel."config.cach.invalidate"=1', ["config.cach.invalidate", "did you mean 'config.cache.invalidate'"]),
        ("slo.missing.chanel.x=1", ["slo.missing.chanel", "did you mean 'channel'"]),
        ("slo.mising.service.api-gateway=1", ["slo.mising", "did you mean 'missing'"]),
        ("slo.calls_failed.service.api-gateway=1", ["calls_failed is of the whole run only", "half_served"]),
        ("slo.missing.service.music-service=1", ["music-service", "hears anything"]),
        ("slo.missing.service.api-gateway=few", ["slo.missing.service", "'few'", "float"]),
        ("slo.missing.service={}", ["slo.missing.service = {}", "float"]),
        ("slo={missing={channel={a={b=1},'a.b'=2}}}", ["two limits, 1 and 2"]),
        ("slo.missing=none", ["slo.missing = 'none'", "float"]),
        ("seed=-1", ["seed = -1"]),
        ("seed=99999999999999999999", ["seed = 99999999999999999999"]),
        ("bus.channel_prefix=", ["bus.channel_prefix = ''"]),
        ("load=5", ["load=5", "is a table"]),
        ("load.rate_per_s", ["'load.rate_per_s'", "key=value"]),
        ("=5", ["'=5'", "key=value"]),
        ("", ["''", "key=value"]),
        ("load..rate=5", ["load..rate", "is not a key"]),
        ("load.rate_per_s.x=5", ["load.rate_per_s"]),
        ("''=5", ["unknown key '\"\"'"]),
        ("'...'=5", ["unknown key '\"...\"'"]),
        ("faults=[{kind=['pod_kill']}]", ["faults[0].kind = ['pod_kill']", "no such fault"]),
        ("faults=[1]", ["faults[0] = 1", "table"]),
        ("seed=" + "9" * 5000, ["thousands of digits"]),
        ("title=a\ud800", ["not UTF-8"]),
        ("seed=" + "[" * 3000 + "]" * 3000, ["nested too deep"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_what_is_allowed(good: Path, setting: str, says: list[str]) -> None:
    message = refusal(str(good), setting)
    assert [word for word in says if word not in message] == [], message


def test_a_limit_of_a_service_stands_beside_that_of_the_run_and_survives_its_file(tmp_path: Path) -> None:
    scenario = load_scenario(
        "baseline", settings=("slo.missing.service.analytics-service=1", 'slo.missing.channel."config.cache.invalidate"=2')
    )
    limits = {'missing.service."analytics-service"': 1, 'missing.channel."config.cache.invalidate"': 2}
    assert scenario.slo == load_scenario("baseline").slo | limits and scenario.slo["missing"] == 0
    (tmp_path / "again.toml").write_text(to_toml(scenario))
    assert tomllib.loads(to_toml(scenario))["slo"]["missing"]["all"] == 0
    tree = tomllib.loads(to_toml(scenario))
    assert check_tree(tree, where="again").slo == scenario.slo == check_tree(msgspec.to_builtins(scenario), where="a worker").slo


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\n[load\nseed = 1", ["not valid TOML", "line 2"]),
        (b"a = 1\na = 2", ["not valid TOML"]),
        (b"title = '\xff'", ["is 0xff, which is not UTF-8: save the file as UTF-8"]),
        (b"", ["services", "missing"]),
        (b"[services]", ["services is empty"]),
        (b"services = []", ["services = []", "object"]),
        (b"[services]\napi-gateway = 3", ["services.api-gateway = 3", "object"]),
        (GOOD.replace("[load.mix]", "[load.mux]").encode(), ["load.mux", "did you mean 'mix'"]),
        (GOOD.replace('"config.cache.invalidate" = 1', "").encode(), ["load.mix is empty"]),
        (GOOD.replace("[load]", "tite = 1\n[load]").encode(), ["tite", "did you mean 'title'"]),
        (GOOD.encode("utf-16"), ["is 0xff, which is not UTF-8: save the file as UTF-8"]),
        (GOOD.encode() + b"\xef\xbb\xbf", ["not valid TOML"]),
        (GOOD.encode() + b"\0", ["not valid TOML"]),
        (b"x = " + b"[" * 3000 + b"]" * 3000, ["not valid TOML", "nested too deep"]),
        (b"seed = " + b"9" * 5000, ["not valid TOML", "thousands of digits"]),
        (b"seed = 0x" + b"f" * 5000 + GOOD.encode(), ["seed = a number of thousands of digits"]),
        (b"'' = 1" + GOOD.encode(), ["unknown key '\"\"'", "known keys: title"]),
        (b"'a b' = 1" + GOOD.encode(), ["unknown key '\"a b\"'"]),
        (GOOD.encode() + b"[services.'']", ["services.''", "a name has 1 to 200 characters"]),
        (GOOD.encode() + b"[services.'...']", ['services."...":', "publishes nothing and subscribes to nothing"]),
        (GOOD.encode() + b"[services.'...']\nreplicas = 'x'", ["services.\"...\".replicas = 'x'", "int"]),
        (GOOD.encode() + b"[slo]\n'' = 1", ['slo."":', "no such metric"]),
        (GOOD.encode() + b"[slo]\n'..' = 'x'", ["slo.\"..\" = 'x'", "float"]),
        (GOOD.encode() + b"[slo]\nmissing = " + b"9" * 400, ["slo.missing = 999", "…"]),
        (GOOD.encode() + b"[slo]\nmissing = [nan]", ["slo.missing = [nan]", "array"]),
        (b"seed = 2024-01-01" + GOOD.encode(), ["seed = datetime.date", "int"]),
        (b"title = 7" + GOOD.encode(), ["title = 7", "str"]),
        (b"title = ['a']" + GOOD.encode(), ["title = ['a']", "str"]),
        (b"faults = 'x'" + GOOD.encode(), ["faults = 'x'", "array"]),
        (b"faults = ['x']" + GOOD.encode(), ["faults[0] = 'x'", "table"]),
        (b"faults = [[1]]" + GOOD.encode(), ["faults[0] = [1]", "table"]),
        (GOOD.encode() + b"[faults]\nkind = 'pod_kill'", ["faults = {'kind'", "array"]),
        *((GOOD.encode() + b"[[faults]]\nkind = " + kind, ["faults[0].kind = ", "no such fault"]) for kind in KINDS),
        (GOOD.encode() + b"[[faults]]\nat_s = 1", ["faults[0].kind = None", "no such fault"]),
        (GOOD.encode() + b"[[faults]]\nkind = 'pod_kill'\nat_s = 1\n'' = 1", ["unknown key 'faults[0].\"\"'"]),
        (GOOD.encode() + b"[[faults]]\nkind = 'pod_kill'\nat_s = nan", ["faults[0].at_s = nan"]),
        (GOOD.encode() + b"[[faults]]\nkind = 'pod_kill'\nat_s = 1\npods = 'a'", ["faults[0].pods = 'a'", "array"]),
        (GOOD.encode() + b"[bus]\nonce = ['none']", ["bus.once = ['none']", "str"]),
        (GOOD.encode() + b"[hosts]\nkind = ['local']", ["hosts.kind = ['local']", "str"]),
    ],
    ids=lambda value: repr(value[-40:]) if isinstance(value, bytes) else "",
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path: Path, content: bytes, says: list[str]) -> None:
    path = tmp_path / "wrong.toml"
    path.write_bytes(content)
    message = refusal(str(path))
    assert [word for word in ["wrong.toml", *says] if word not in message] == [], message


@pytest.mark.parametrize("text", [b"\xef\xbb\xbf" + GOOD.encode(), GOOD.replace("\n", "\r\n").encode()], ids=["mark", "CR LF"])
def test_what_an_editor_leaves_in_a_file_changes_nothing(tmp_path: Path, good: Path, text: bytes) -> None:
    (tmp_path / "edited").mkdir()
    path = tmp_path / "edited" / "mine.toml"
    path.write_bytes(text)
    assert load_scenario(str(path)) == load_scenario(str(good))


@pytest.mark.parametrize("name", ["basline", "nowhere/mine.toml", "", ".", "/", "a\0b"])
def test_a_scenario_that_is_not_there_is_named(name: str) -> None:
    assert repr(name) in refusal(name)


def test_a_misspelt_built_in_name_gets_a_suggestion() -> None:
    assert "did you mean 'baseline'" in refusal("basline")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("load.driver=locust",), ["http.events.batch", "set load.driver = 'pods'"]),
        (('load.driver="pods"', "services.analytics-service.replicas=0"), ["services.analytics-service.replicas = 0"]),
    ],
)
def test_calls_by_http_need_pods_that_make_and_answer_them(settings: tuple[str, ...], says: list[str]) -> None:
    with pytest.raises(ScenarioError) as error:
        load_scenario("http_vs_bus", settings=settings)
    assert all(part in str(error.value) for part in says), str(error.value)


def test_calls_by_http_need_an_analytics_service(tmp_path: Path) -> None:
    text = built_in()["http_vs_bus"].read_text("utf-8")
    path = tmp_path / "mine.toml"
    path.write_text(text[: text.index("[services.analytics-service]")], "utf-8")
    with pytest.raises(ScenarioError, match=r"add services\.analytics-service"):
        load_scenario(str(path))


def test_too_long_a_load_is_refused_when_it_is_drawn() -> None:
    scenario: Scenario = load_scenario("baseline", settings=("load.rate_per_s=1000000", "load.run_s=86400"))
    with pytest.raises(ScenarioError, match="more than 20,000,000"):
        scenario.schedule()


DOWN, KILL = 'kind="broker_down"', 'kind="pod_kill"'


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ('faults=[{kind="broker_dwn",at_s=1,for_s=1}]', ["faults[0].kind = 'broker_dwn'", "did you mean 'broker_down'"]),
        ("faults=[{at_s=1,for_s=1}]", ["faults[0].kind = None", "broker_down"]),
        ('faults=[{kind="broker_down",at_s=1}]', ["for_s", "missing"]),
        ('faults=[{kind="broker_down",at_s=1,for_s=1,x=2}]', ["'faults[0].x'", "known keys: at_s, for_s"]),
        ('faults=[{kind="broker_down",at_s=1,for_s="x"}]', ["faults[0].for_s = 'x'"]),
        ('faults=[{kind="broker_down",at_s=1,for_s=100}]', ["faults[0]", "not inside the run phase"]),
        (f"faults=[{{{DOWN},at_s=1,for_s=3}},{{{DOWN},at_s=3,for_s=1}}]", ["faults[0] and faults[1]", "broker_down of broker twice"]),
        (f"faults=[{{{DOWN},at_s=1,for_s=1,times=3,every_s=2}},{{{DOWN},at_s=5.5,for_s=1}}]", ["faults[0] and faults[1]", "5.5 s"]),
        (
            f'faults=[{{{KILL},at_s=1,for_s=2,pods=["music-service"]}},{{{KILL},at_s=2,for_s=1,pods=["music-service-1"]}}]',
            ["music-service-1"],
        ),
        ("faults=3", ["faults = 3"]),
        ('bus.once="fnally-del"', ["bus.once = 'fnally-del'", "did you mean 'finally-del'"]),
        ('bus.fallback="never"', ["bus.fallback = 'never'", "on-failure, no-url"]),
        ("bus.redis_url=false", ["bus.redis_url", "load.driver = 'pods'"]),
    ],
)
def test_a_wrong_fault_or_policy_is_refused_with_its_key_and_value(setting: str, says: list[str]) -> None:
    with pytest.raises(ScenarioError) as refused:
        load_scenario("baseline", settings=(setting,))
    assert [part for part in says if part not in str(refused.value)] == []


@pytest.mark.parametrize(
    "faults",
    [
        f"[{{{DOWN},at_s=1,for_s=2}},{{{DOWN},at_s=3,for_s=1}}]",
        f"[{{{DOWN},at_s=1,for_s=1,times=3,every_s=4}},{{{DOWN},at_s=2.5,for_s=1}}]",
        f'[{{{DOWN},at_s=1,for_s=3}},{{kind="broker_freeze",at_s=3,for_s=1}}]',
        f'[{{{KILL},at_s=1,for_s=2,pods=["music-service-0"]}},{{{KILL},at_s=2,for_s=2,pods=["music-service-1","api-gateway"]}}]',
    ],
)
def test_one_after_the_other_or_on_other_pods_or_of_another_kind_faults_are_fine(faults: str) -> None:
    assert len(load_scenario("baseline", settings=(f"faults={faults}",)).faults) == 2


def test_only_pods_that_keep_templates_read_and_too_many_reads_are_refused_before_the_run() -> None:
    scenario = load_scenario("baseline", settings=("load.reads_per_s=500", "load.templates=9"))
    pods, reads = scenario.pods(), scenario.reads()
    assert {pods[number][1] for number in set(reads.pod.tolist())} == {"music-service", "ai-content-service", "ai-config-service"}
    assert len(set(reads.pod.tolist())) == 6
    assert len(reads.subjects) == 9 + 7
    assert {scenario.content("config.template.invalidated")(n)["templateId"] for n in range(99)} == {f"tpl_{n}" for n in range(9)}
    assert abs(len(reads) - 500 * 18) < 6 * 9000**0.5
    assert "means 180,000,000 reads, more than 20,000,000" in refusal("baseline", "load.reads_per_s=1e6", "load.run_s=177")


def test_reads_do_not_change_the_calls() -> None:
    """A random stream of their own: the same seed is the same load with and without them."""
    without, having = (load_scenario("cache_invalidation", settings=(f"load.reads_per_s={rate}",)).schedule() for rate in (0, 4000))
    assert (without.offset_ns == having.offset_ns).all() and (without.pod == having.pod).all()


def test_only_pods_can_publish_where_there_is_no_broker() -> None:
    assert "bus.transport = 'memory': only the pods can publish" in refusal("baseline", "bus.transport=memory")
    assert load_scenario("baseline", settings=("bus.transport=memory", "load.driver=pods")).bus.transport == "memory"


@pytest.mark.parametrize("name", TRANSPORTS)
def test_a_transport_gets_its_settings_from_the_bus(name: str) -> None:
    settings = ("load.driver=pods", f"bus.transport={name}", "bus.stream_max_len=7", "bus.stream_claim_s=0.5")
    assert load_scenario("baseline", settings=settings).transport() == (Streams(7, 0.5) if name == "streams" else TRANSPORTS[name]())
