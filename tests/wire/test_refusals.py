"""Why a broker cannot be used: a cause is named where the connection showed it, and only then."""

from __future__ import annotations

import ssl

import pytest
import redis

from sim.wire.address import parse_address
from sim.wire.refusals import silent, unreachable

MAY = "it may not speak TLS on this port"


def alert(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("url", "secured", "says"),
    [("rediss://127.0.0.1:1", False, MAY), ("rediss://127.0.0.1:1", True, ""), ("redis://127.0.0.1:1", False, "")],
)
def test_a_silent_broker_may_not_speak_tls_unless_it_shook_hands(url: str, secured: bool, says: str) -> None:
    text = str(silent(parse_address(url), secured=secured))
    assert text.startswith("redis") and "does not answer within 5 s" in text
    assert (says in text) if says else text.endswith("5 s")


@pytest.mark.parametrize(("said", "may"), [("Timeout connecting to server", True), ("Timeout reading from 127.0.0.1:1", False)])
def test_redis_py_says_whether_the_handshake_was_done(said: str, may: bool) -> None:
    """Its handshake belongs to connecting; the words are looked up in `redis.connection`."""
    with open(redis.connection.__file__, encoding="utf-8") as code:
        assert said.removesuffix("127.0.0.1:1") in code.read()
    error = redis.TimeoutError(said)
    error.__context__ = TimeoutError("timed out")  # of the socket
    assert (MAY in str(unreachable(parse_address("rediss://127.0.0.1:1"), error))) == may


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "it wants a client certificate that it accepts"),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", "it may want a client certificate that it accepts, or has no cipher in common with us"),
        ("WRONG_VERSION_NUMBER", "this port does not speak TLS"),
        ("TLSV1_ALERT_PROTOCOL_VERSION", "TLS failed: tlsv1 alert protocol version"),
    ],
)
def test_an_alert_of_tls_says_no_more_than_it_means(reason: str, says: str) -> None:
    assert says in str(unreachable(parse_address("rediss://127.0.0.1:1"), alert(reason)))
