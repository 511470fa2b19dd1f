"""What is shown of a URL: scheme, host and port where they are beyond doubt, and never a piece of a password."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from sim.errors import UsageError
from sim.grounds.catalogue import shown_ground
from sim.wire.address import parse_address
from sim.wire.shown import secrets_of, shown_url, without_secrets

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://h:1", "redis://h:1"),
        ("redis://", "redis://"),
        ("redis://h", "redis://h"),
        ("redis://[::1]:7", "redis://[::1]:7"),
        ("redis://h:1/3", "redis://h:1"),
        ("  redis://h:1\n", "redis://h:1"),
        ("redis://ann:hunter2@h:1/3", "redis://h:1"),
        ("redis://:hunter2@h", "redis://h"),
        ("redis://hunter2@h", "redis://h"),
        ("redis://ann:hun@ter2@h:1", "redis://h:1"),
        ("redis://ann:hunter%32@h:1", "redis://h:1"),
        ("redis://h:1?password=hunter2", "redis://h:1"),
        ("redis://h:1/0?ssl_password=hunter2#hunter2", "redis://h:1"),
        ("rediss://ann:hunter2@h:1 rediss://ann:hunter2@i:2", "rediss://h:1 rediss://i:2"),
        ("redis://user:hunter2.host:6379", "redis://…"),
        ("redis://:hunter2", "redis://…"),
        ("redis://:12345", "redis://…"),
        ("redis://ann:65535", "redis://ann:65535"),
        ("redis://ann:65536", "redis://…"),
        ("redis://ann:0", "redis://…"),
        ("redis://ann:0123", "redis://…"),
        ("redis://user:hunter2", "redis://…"),
        ("redis://user:hunter2%40h:1", "redis://…"),
        ("redis%3A%2F%2Fann:hunter2@h:1", "…"),
        ("redis://:hunter2/x@h:1", "redis://…"),
        ("redis://:hunter2?x@h:1", "redis://…"),
        ("redis://:hunter2#x@h:1", "redis://…"),
        ("redis://h:1?password=a@hunter2", "redis://…"),
        ("redis://h:1/@hunter2", "redis://…"),
        ("redis://:hunter2 @h:1", "redis://h:1"),
        ("redis://h\nhunter2", "redis://…"),
        ("redis:/ann:hunter2@h", "…"),
        ("redis:ann:hunter2", "redis:…"),
        ("//ann:hunter2@h", "…"),
        ("ann:hunter2@h:1", "…"),
        ("ann:hunter2.h:1", "ann:…"),
        ("ann:hunter2", "ann:…"),
        (":hunter2", "…"),
        ("localhost:6379", "localhost:6379"),
        ("embeded", "embeded"),
        ("http://ann:hunter2@h:1/x", "http://h:1"),
        ("unix://hunter2@/tmp/redis.sock", "unix://"),
        ("sentinel://:hunter2@a:1,b:2/main", "sentinel://…"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_what_could_be_a_password(text: str, shown: str) -> None:
    assert shown_url(text) == shown
    assert SECRET not in shown


@pytest.mark.parametrize("on", ["embedded", "embedded:7000", "cluster:3:11000", "model:costs.json", "container", "container-cluster:3"])
def test_a_ground_of_ours_is_shown_as_it_is(on: str) -> None:
    assert shown_ground(on) == on


def test_a_ground_that_is_a_url_or_none_is_shown_as_such() -> None:
    assert shown_ground(f"redis://:{SECRET}@h:1") == "redis://h:1"
    assert shown_ground(f"rdis://:{SECRET}.h:1") == "rdis://…"


MARK = "Q7"  # in every secret that is drawn, and nowhere else
secrets = st.text(st.sampled_from("ab1@:/?#%[] .&=+\\\"'…"), max_size=12).flatmap(lambda text: st.sampled_from([text + MARK, MARK + text]))
shapes = st.sampled_from(
    [
        "redis://user:{}@host:6379/0",
        "redis://:{}@host",
        "redis://{}@host:6379",
        "redis://user:{}@",
        "redis://user:{}@host:port",
        "rediss://host:6379?password={}",
        "redis://host:6379/0?username=u&password={}&db=1",
        "redis://user:{}.host:6379",
        "redis:/user:{}@host:6379",
        "user:{}@host:6379",
        "redis://user:{}@a:1 redis://user:{}@b:2",
    ]
)


@given(secret=secrets, shape=shapes, quoted=st.booleans())
@example(secret="&Q7", shape="rediss://host:6379?password={}", quoted=False)
@example(secret="a&Q7=1", shape="redis://host:6379/0?username=u&password={}&db=1", quoted=False)
def test_no_piece_of_a_secret_is_shown_wherever_it_stands(secret: str, shape: str, quoted: bool) -> None:
    assume("@" in shape or "@" not in secret or quoted)  # else its @ makes another password of it, and a host of the rest
    url = shape.format(*[quote(secret, safe="") if quoted else secret] * 2)
    assert MARK not in shown_url(url)
    try:
        address = parse_address(url)
    except UsageError as refused:
        assert MARK not in str(refused)
        assert MARK not in repr(refused)
    else:
        assert MARK not in f"{address} {address!r} {address.nodes}"


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("redis://:hunter2@h:1 is not reachable", "redis://h:1 is not reachable"),
        ("cannot read 'redis://u:hunter2.h:1': no", "cannot read 'redis://…': no"),
        ("use rediss://h:1?password=hunter2, or not", "use rediss://h:1, or not"),
        ("write redis://[USER:PASSWORD@]HOST[:PORT], please", "write redis://[USER:PASSWORD@]HOST[:PORT], please"),
        ("write redis://USER:PASSWORD@HOST:PORT", "write redis://USER:PASSWORD@HOST:PORT"),
        ("write rediss:// in place of redis://", "write rediss:// in place of redis://"),
        ("ADMIN_TOKEN=hunter2 and password=hunter2&x", "ADMIN_TOKEN=… and password=…&x"),
        ("Authorization: Bearer hunter2", "Authorization: Bearer …"),
        ("it wants a password: write it", "it wants a password: write it"),
        ("a run in reports/runs took 5 s: fine", "a run in reports/runs took 5 s: fine"),
    ],
)
def test_a_message_loses_what_nobody_may_see_and_nothing_else(text: str, without: str) -> None:
    assert without_secrets(text) == without


def test_the_secrets_of_a_url_are_its_whole_and_its_parts() -> None:
    assert secrets_of("redis://ann:hunter2@h:1") == ["redis://ann:hunter2@h:1", "ann:hunter2@h:1", "ann:hunter2", "hunter2"]
    assert secrets_of("redis://h?password=a%20b") == ["redis://h?password=a%20b", "h?password=a%20b", "a%20b"]
    assert secrets_of("redis://h:1") == secrets_of("embedded") == []
