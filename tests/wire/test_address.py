"""Addresses: every URL is understood or refused, and no message or print shows a password."""

from __future__ import annotations

import itertools
import re
import ssl

import pytest
import redis
from redis.credentials import UsernamePasswordCredentialProvider

from sim.errors import UsageError
from sim.wire.address import parse_address

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "shown", "user", "password"),
    [
        ("redis://127.0.0.1:7000", "redis://127.0.0.1:7000", None, None),
        ("redis://localhost", "redis://localhost:6379", None, None),
        ("redis://", "redis://localhost:6379", None, None),
        ("redis://h:1/3", "redis://h:1", None, None),
        ("redis://:hunter2@h:1", "redis://h:1", None, "hunter2"),
        ("redis://ann:hunter2@h:1", "redis://h:1", "ann", "hunter2"),
        ("redis://ann:hun%40ter%2F2@h:1", "redis://h:1", "ann", "hun@ter/2"),
        ("redis://ann:hun@ter2@h:1", "redis://h:1", "ann", "hun@ter2"),
        ("redis://h:1?password=hunter2", "redis://h:1", None, "hunter2"),
        ("redis://[::1]:7", "redis://[::1]:7", None, None),
        ("rediss://h:6380", "rediss://h:6380", None, None),
        ("redis://ann@h:1", "redis://h:1", "ann", None),
        (" redis://h:1\n", "redis://h:1", None, None),
        ("\tredis://ann:hunter2@h:1/2 ", "redis://h:1", "ann", "hunter2"),
        ("redis://:7", "redis://localhost:7", None, None),
        ("redis://[fe80::1%25lo]:7", "redis://[fe80::1%lo]:7", None, None),
    ],
)
def test_a_url_is_taken_apart_and_shown_without_its_secret(url: str, shown: str, user: str | None, password: str | None) -> None:
    address = parse_address(url)
    assert (str(address), address.username, address.password) == (shown, user, password)
    assert "hun" not in repr(address)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://h:1",
        "redis:/h",
        "redis:h:1",
        "redis://h:port",
        "redis://h:99999",
        "redis://[::1",
        "REDIS//h",
        f"http://ann:{SECRET}@h:1",
        f"redis://ann:{SECRET}@h:port",
        f"redis://ann:{SECRET}@[::1",
        f"redis://h:port?password={SECRET}",
        f"redis://:{SECRET}/more@h:1",
        f"redis://:{SECRET}#more@h:1",
        f"redis://:{SECRET}?more@h:1",
        f"redis://h?socket_timeout=x&password={SECRET}",
        "redis://h/abc",
        "redis://h/1/2",
        "redis://h/-1",
        "redis://h/1_0",
        "redis://h/%31",
        "redis://h/99999999999999999999",
        "redis://h?db=x",
        "redis://h?db=%C2%B2",
        "redis://::1:7",
        "redis://fe80::1",
        "redis://h:1/0#x",
        "redis://h:1#",
        "unix:///tmp/redis.sock",
        f"redis://:123#{SECRET}@h:1",
        f"redis://:123?{SECRET}@h:1",
        f"redis://:123/{SECRET}@h:1",
        f"redis://ann:{SECRET}@h/abc",
        f"redis://ann:{SECRET}@h:1 redis://ann:{SECRET}@h/abc",
    ],
)
def test_what_is_no_broker_s_url_is_refused_with_one_line_that_says_how_to_write_it(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_address(url)
    message = str(refused.value)
    assert "redis://" in message
    assert "\n" not in message
    assert SECRET not in message


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://h:0", "port 0"),
        ("redis://h\n:1", "control character"),
        ("redis://ann:a\x00b@h", "control character"),
        ("redis://ann:\udcff@h", "not UTF-8"),
        ("redis://ann:%ff@h", "not UTF-8"),
        ("redis://h x:1", "host"),
        ("redis://a..b", "host"),
        ("redis://h%00:1", "host"),
        (f"redis://{'a' * 64}", "host"),
        ("redis://h?host=other", "'host'"),
        ("redis://h?port=7", "'port'"),
        ("redis://h?protocol=3", "'protocol'"),
        ("redis://h?socket_timeout=3", "'socket_timeout'"),
        ("redis://h?passwort=x", "did you mean 'password'"),
        ("redis://h?db", "db has no value"),
        ("redis://h?password=", "password has no value"),
        ("rediss://h?ssl_ca_certs=", "ssl_ca_certs has no value"),
        ("redis://h/1?db=1", "db stands there twice"),
        ("redis://h?db=1&db=1", "db stands there twice"),
        ("redis://ann@h?username=bob", "username stands there twice"),
        ("redis://:a@h?password=b", "password stands there twice"),
        ("redis://h?ssl_ciphers=x", "rediss://"),
        ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs=maybe"),
        ("rediss://h?ssl_check_hostname=maybe", "ssl_check_hostname=maybe"),
        ("rediss://h?ssl_min_version=5", "ssl_min_version=5"),
        ("rediss://h?ssl_keyfile=k", "ssl_certfile"),
    ],
)
def test_what_the_drivers_would_read_differently_or_pass_over_is_refused_by_its_name(url: str, says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)) as refused:
        parse_address(url)
    assert "\n" not in str(refused.value)


HOSTS = ("h", "127.0.0.1", "[::1]", "H.example", "a_b", "")
USERS = ("", "ann@", "ann:@", ":hunter2@", "ann:hunter2@", "an%6e:hun%40ter%2F2@", "a%3Ab:%20@", ":@", "@")
ENDS = ("", "/", "/0", "/3", "?db=4", "?username=ann", "?password=hunter%202", "?username=ann&password=x&db=2")


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("end", ENDS)
def test_what_is_read_here_is_what_redis_py_reads(user: str, end: str) -> None:
    for scheme, host, port in itertools.product(("redis", "rediss"), HOSTS, ("", ":7000")):
        try:
            ours = parse_address(f" {scheme}://{user}{host}{port}{end} ")
        except UsageError as refused:
            assert "twice" in str(refused)
            continue
        theirs = redis.ConnectionPool.from_url(ours.url, protocol=2).make_connection()
        assert (theirs.host, theirs.port, int(theirs.db)) == (ours.host, ours.port, ours.db)
        credentials = UsernamePasswordCredentialProvider(theirs.username, theirs.password).get_credentials()
        assert ours.credentials == (credentials if theirs.username or theirs.password else ())
        assert (ours.tls is not None) == isinstance(theirs, redis.SSLConnection)


@pytest.mark.parametrize(
    ("host", "here"), [("localhost", True), ("127.0.0.1", True), ("127.9.9.9", True), ("[::1]", True), ("192.0.2.1", False), ("h", False)]
)
def test_only_this_machine_s_loopback_counts_as_local(host: str, here: bool) -> None:
    assert parse_address(f"redis://{host}:1").is_loopback is here


@pytest.mark.parametrize(("query", "mode"), [("", ssl.CERT_REQUIRED), ("?ssl_cert_reqs=none", ssl.CERT_NONE)])
def test_tls_checks_the_server_unless_told_not_to(query: str, mode: ssl.VerifyMode) -> None:
    context = parse_address(f"rediss://h:1{query}").ssl_context
    assert context is not None
    assert context.verify_mode == mode
    assert context.check_hostname is (mode == ssl.CERT_REQUIRED)


def test_a_plain_url_means_no_tls() -> None:
    assert parse_address("redis://h:1").ssl_context is None


def test_a_clusters_urls_are_its_nodes_in_order_and_any_may_stand_first() -> None:
    text = "redis://ann:hunter2@127.0.0.1:1 redis://127.0.0.2:2  redis://127.0.0.3:3"
    cluster = parse_address(text)
    assert [(node.port, node.others) for node in cluster.nodes] == [(1, ()), (2, ()), (3, ())]
    assert cluster.urls.split() == text.split()
    assert parse_address(cluster.urls) == cluster
    assert [node.port for node in cluster.from_node(4).nodes] == [2, 3, 1]
    assert cluster.from_node(3) == cluster
    assert cluster.is_loopback and not parse_address(f"{text} redis://192.0.2.1:1").is_loopback
    assert "hunter2" not in f"{cluster!r} {cluster}"


def test_one_node_is_its_own_cluster() -> None:
    one = parse_address("redis://h:1")
    assert (one.nodes, one.urls, one.from_node(7)) == ((one,), "redis://h:1", one)


def test_another_node_lets_in_as_this_one() -> None:
    there = parse_address("rediss://ann:hun%40ter2@h:1?ssl_cert_reqs=none").at("::1", 7)
    assert (str(there), there.username, there.password) == ("rediss://[::1]:7", "ann", "hun@ter2")
    assert parse_address(there.url) == there


def test_a_password_with_spaces_is_no_second_url() -> None:
    assert parse_address("redis://:hunter 2@h:1").password == "hunter 2"
