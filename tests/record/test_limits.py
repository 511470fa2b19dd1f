"""Names of metrics of the run, of a service and of a channel, and the TOML tables that they are written in."""

from __future__ import annotations

import tomllib

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from sim.record.limits import SCOPED_METRICS, SCOPES, MetricName, flat_limits, nested_limits, read_metric
from sim.record.schema import SLO_METRICS


def test_a_name_is_read_back_as_it_is_written() -> None:
    for name in (MetricName("missing"), MetricName("unserved", "service", "analytics-service"), MetricName("missing", "channel", "a.b")):
        assert read_metric(str(name)) == name
    assert read_metric("missing.channel.config.cache.invalidate") == read_metric('missing.channel."config.cache.invalidate"')


def test_only_metrics_that_can_be_told_apart_have_a_service() -> None:
    assert set(SCOPED_METRICS) < set(SLO_METRICS)
    assert read_metric('lag_ms_p99.service."x"').known and read_metric("missing").known
    assert not read_metric('out_of_order.service."x"').known
    assert not read_metric('missing.pod."x"').known
    assert not read_metric("missin").known


@pytest.mark.parametrize(
    "text",
    [
        'missing = 1\nunserved.service."a-b" = 2',
        'missing.all = 1\nmissing.channel."a.b" = 0\nunserved = 3',
        "[slo]\nmissing.channel.a.b = 0",
    ],
)
def test_tables_and_flat_names_say_the_same(text: str) -> None:
    tree = tomllib.loads(text)
    flat = flat_limits(tree.get("slo", tree))
    assert flat == flat_limits(flat) == flat_limits(nested_limits(flat))
    assert all(not isinstance(limit, dict) for limit in flat.values())


def test_one_metric_has_one_limit() -> None:
    with pytest.raises(ValueError, match=r'missing.channel."a.b" has two limits, 1 and 2'):
        flat_limits({"missing": {"channel": {"a.b": 1, "a": {"b": 2}}}})


words = st.text("abc.-", min_size=1, max_size=8).filter(lambda word: word.strip(".") == word)
scoped = st.builds(MetricName, st.sampled_from(SCOPED_METRICS), st.sampled_from(SCOPES), words)
names = scoped | st.sampled_from(sorted(SLO_METRICS)).map(MetricName)


@given(st.dictionaries(names.map(str), st.integers(0, 9)))
def test_any_limits_survive_a_file(limits: dict[str, int]) -> None:
    assert flat_limits(tomllib.loads(tomli_w.dumps({"slo": nested_limits(limits)}))["slo"]) == limits


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("missing", ("missing", "", "")),
        ("missing.service", ("missing.service", "", "")),
        ("missing.service.web", ("missing", "service", "web")),
        ('missing.service."web"', ("missing", "service", "web")),
        ("missing.service.'web'", ("missing", "service", "web")),
        ('missing.channel."a.b"', ("missing", "channel", "a.b")),
        ('missing.channel.a."b"', ("missing", "channel", 'a."b"')),
        ('missing.channel."', ("missing", "channel", '"')),
        ("missing.channel.aba", ("missing", "channel", "aba")),
        ('missing.channel."a', ("missing", "channel", '"a')),
        ("missing.channel.a\nb", ("missing", "channel", "a\nb")),
        (".channel.a", (".channel.a", "", "")),
    ],
)
def test_the_parts_of_a_name(name: str, parts: tuple[str, str, str]) -> None:
    assert tuple(read_metric(name)) == parts


def test_limits_as_a_person_writes_them() -> None:
    flat = {"missing": 1, 'missing.service."web"': 2, 'missing.channel."a.b"': 3, "lag_ms_p99": 4}
    nested = {"missing": {"all": 1, "service": {"web": 2}, "channel": {"a.b": 3}}, "lag_ms_p99": 4}
    assert nested_limits(flat) == nested and flat_limits(nested) == flat
    assert flat_limits({"missing": {}}) == {"missing": {}}
    with pytest.raises(ValueError) as error:
        flat_limits({"missing": {"all": 1, "service": {"web": 2}}, "missing.service.web": "x"})
    assert str(error.value) == "slo.missing.service.\"web\" has two limits, 2 and 'x': leave one out"


def test_only_quotes_are_taken_off_a_subject() -> None:
    names = ("XaX", "aa", '"a', "a'", "'a\"", '"', "''", "'a'", '"a"')
    assert [read_metric(f"missing.service.{name}").subject for name in names] == ["XaX", "aa", '"a', "a'", "'a\"", '"', "", "a", "a"]
