"""A broker's address: the parts of a redis:// URL, the same URL without its password for people to read, and ports.

A cluster's address is that of one node with the `others` behind it, in the order in which to try them: whoever cannot reach the
first connects to the next, as a client library does with its list of seed nodes.

Both drivers read the same URL: redis-py takes it whole, our own connections take it apart here. So what one of them would not
know is refused, and TLS is set up as redis-py does it.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from redis.connection import parse_url

from sim.errors import BrokerError, UsageError, did_you_mean
from sim.wire.shown import is_hidden, shown_url

T = TypeVar("T")
_TRIES = 5
SCHEMES = ("redis", "rediss")
TLS_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
TLS_OPTIONS = (*TLS_FILES, "ssl_password", "ssl_check_hostname", "ssl_cert_reqs", "ssl_min_version", "ssl_ciphers")
CERT_REQS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
PARTS = ("host", "port", "username", "password", "db", "connection_class")


@dataclass(frozen=True)
class Address:
    """Where a broker is, and how to be let in.

    Attributes
    ----------
    url
        The whole URL, secret included: pass it to children by environment, never print it.
    tls
        Keyword arguments of redis-py's TLS options, or None for a plain connection.
    others
        The other nodes of the same cluster, each without others of its own.
    """

    url: str
    host: str
    port: int
    username: str | None = None
    password: str | None = None
    db: int = 0
    tls: dict[str, Any] | None = None
    others: tuple[Address, ...] = ()

    def __str__(self) -> str:
        """Return the URL without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls is not None else 'redis'}://{host}:{self.port}"

    def __repr__(self) -> str:
        return f"Address({self})"

    @property
    def nodes(self) -> tuple[Address, ...]:
        """Every node, this one first; one where there is no cluster."""
        return (replace(self, others=()), *self.others)

    @property
    def urls(self) -> str:
        """The URLs of all nodes, as `parse_address` reads them; secrets included."""
        return " ".join(node.url for node in self.nodes)

    def from_node(self, number: int) -> Address:
        """Return the same cluster with node `number` (modulo their count) first and the rest in turn behind it."""
        nodes = self.nodes
        first = number % len(nodes)
        return join_nodes((*nodes[first:], *nodes[:first]))

    def at(self, host: str, port: int) -> Address:
        """Return another node's address, to be let in there as here."""
        if (host, port) == (self.host, self.port):
            return replace(self, others=())
        inside = urlsplit(self.url)
        secret, at, _ = inside.netloc.rpartition("@")
        shown = f"[{host}]" if ":" in host else host
        return replace(self, url=inside._replace(netloc=f"{secret}{at}{shown}:{port}").geturl(), host=host, port=port, others=())

    @property
    def is_loopback(self) -> bool:
        """Whether every node is on this machine's loopback."""
        if self.others:
            return all(node.is_loopback for node in self.nodes)
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @cached_property
    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS context of this address, or None for a plain connection; made once, because it reads every CA of the machine.

        Raises
        ------
        UsageError
            A certificate or key file is missing or holds something else.
        """
        if self.tls is None:
            return None
        for option in TLS_FILES:
            if option in self.tls and not Path(self.tls[option]).exists():
                raise UsageError(f"{self}: {option} names {self.tls[option]}, which does not exist")
        try:
            return _context(self.tls)
        except (OSError, ValueError) as error:  # SSLError is an OSError
            files = ", ".join(f"{option}={self.tls[option]}" for option in TLS_FILES if option in self.tls) or "the TLS options"
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "not what it should be"
            hint = "PEM files are wanted, a key that fits the certificate, and ssl_password when the key has one"
            raise UsageError(f"{self}: cannot use {files}: {reason}; {hint}") from None


def _context(tls: dict[str, Any]) -> ssl.SSLContext:
    """Return the TLS context that `redis.SSLConnection` would make of the same options."""
    context = ssl.create_default_context()
    mode = CERT_REQS[tls.get("ssl_cert_reqs", "required")]
    context.check_hostname = tls.get("ssl_check_hostname", True) and mode != ssl.CERT_NONE
    context.verify_mode = mode
    if "ssl_certfile" in tls:
        # Without a password OpenSSL would ask for one on the terminal, and wait.
        context.load_cert_chain(tls["ssl_certfile"], tls.get("ssl_keyfile"), password=tls.get("ssl_password", ""))
    if "ssl_ca_certs" in tls or "ssl_ca_path" in tls:
        context.load_verify_locations(cafile=tls.get("ssl_ca_certs"), capath=tls.get("ssl_ca_path"))
    if "ssl_min_version" in tls:
        context.minimum_version = ssl.TLSVersion(tls["ssl_min_version"])
    if "ssl_ciphers" in tls:
        context.set_ciphers(tls["ssl_ciphers"])
    return context


def join_nodes(nodes: Sequence[Address]) -> Address:
    """Return the address of a cluster of these nodes, the first of them first."""
    return replace(nodes[0], others=tuple(nodes[1:]))


def parse_address(url: str) -> Address:
    """Read a ``redis://`` or ``rediss://`` URL, or those of a cluster's nodes with spaces between them.

    Raises
    ------
    UsageError
        Not such a URL, or an option in it that the drivers do not know. The message never holds the password.
    """
    if len(urls := re.split(r"\s+(?=rediss?://)", url.strip())) > 1:
        return join_nodes([parse_address(one) for one in urls])
    shown = shown_url(url)
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES or "://" not in url:
        raise UsageError(f"{shown!r} is not a broker's URL: write redis://HOST:PORT or rediss://HOST:PORT")
    try:
        parts: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
        port = urlsplit(url).port
    except (ValueError, TypeError):  # its text may hold a piece of the password
        hint = "write redis://[USER:PASSWORD@]HOST[:PORT], with / ? # and @ of a password as %2F %3F %23 %40"
        raise UsageError(f"{shown!r} is not a broker's URL: {hint}") from None
    tls = {key: value for key, value in parts.items() if key in TLS_OPTIONS}
    _check_options(shown, scheme, parts, tls)
    return Address(
        url=url,
        host=parts.get("host", "localhost"),
        port=port or 6379,
        username=parts.get("username"),
        password=parts.get("password"),
        db=parts.get("db", 0),
        tls=tls if scheme == "rediss" else None,
    )


class PortTaken(Exception):
    """The failure to start on a port because another process listens there."""


def on_a_port(text: str, *, ground: str, start: Callable[[int], T]) -> tuple[T, int]:
    """Start something on the loopback port of ``--on GROUND:PORT``, else on a free one; try another where somebody took that first.

    Parameters
    ----------
    text
        The port, or empty for a free one.
    start
        Starts it on a port; raises `PortTaken`.

    Raises
    ------
    UsageError
        The text is not a number between 1 and 65535.
    BrokerError
        The port is taken.
    """
    if text and not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65_535):
        raise UsageError(f"--on {ground}:{text}: the port must be a number between 1 and 65535")
    for _ in range(1 if text else _TRIES):
        port = int(text) if text else free_port()
        try:
            return start(port), port
        except PortTaken:
            continue
    raise BrokerError(f"port {port} on 127.0.0.1 is taken: choose another with --on {ground}:PORT, or leave it out")


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _check_options(shown: str, scheme: str, parts: dict[str, Any], tls: dict[str, Any]) -> None:
    known = (*TLS_OPTIONS, "username", "password", "db")
    unknown = sorted(parts.keys() - {*TLS_OPTIONS, *PARTS})
    if unknown and is_hidden(shown):
        raise UsageError(f"{shown!r} is not a broker's URL: write / ? # and @ of a password as %2F %3F %23 %40")
    if unknown:
        raise UsageError(
            f"{shown!r}: no option {unknown[0]!r} in a broker's URL{did_you_mean(unknown[0], known)}; known: {', '.join(known)}"
        )
    if tls and scheme != "rediss":
        raise UsageError(f"{shown!r}: {next(iter(tls))} is an option of TLS: write rediss:// in place of redis://")
    if tls.get("ssl_cert_reqs", "required") not in CERT_REQS:
        raise UsageError(f"{shown!r}: ssl_cert_reqs={tls['ssl_cert_reqs']}: write one of {', '.join(CERT_REQS)}")
    if "ssl_keyfile" in tls and "ssl_certfile" not in tls:
        raise UsageError(f"{shown!r}: ssl_keyfile without ssl_certfile: name the client's certificate too")
