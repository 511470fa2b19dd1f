"""A broker's address: the parts of a redis:// URL, the same URL without its password for people to read, and ports.

A cluster's address is that of one node with the `others` behind it, in the order in which to try them: whoever cannot reach the
first connects to the next, as a client library does with its list of seed nodes.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from redis.connection import parse_url

from sim.errors import BrokerError, UsageError

T = TypeVar("T")
_TRIES = 5
SCHEMES = ("redis", "rediss")


@dataclass(frozen=True)
class Address:
    """Hold where a broker is and how to be let in.

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

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the TLS context for an own connection, or None for a plain one."""
        if self.tls is None:
            return None
        context = ssl.create_default_context(cafile=self.tls.get("ssl_ca_certs"))
        if self.tls.get("ssl_certfile"):
            context.load_cert_chain(self.tls["ssl_certfile"], self.tls.get("ssl_keyfile"))
        if str(self.tls.get("ssl_cert_reqs", "required")).lower() in ("none", "cert_none"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def join_nodes(nodes: Sequence[Address]) -> Address:
    """Return the address of a cluster of these nodes, the first of them first."""
    return replace(nodes[0], others=tuple(nodes[1:]))


def parse_address(url: str) -> Address:
    """Read a ``redis://`` or ``rediss://`` URL, or those of a cluster's nodes with spaces between them.

    Raises
    ------
    UsageError
        Not such a URL. The message never holds the password.
    """
    if len(urls := re.split(r"\s+(?=rediss?://)", url.strip())) > 1:
        return join_nodes([parse_address(one) for one in urls])
    shown = url.split("@")[-1].partition("?")[0]
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES or "://" not in url:
        raise UsageError(f"{shown!r} is not a broker's URL: write redis://HOST:PORT or rediss://HOST:PORT")
    try:
        parts: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
        port = urlsplit(url).port
    except (ValueError, TypeError):  # its text may hold a piece of the password
        hint = "write redis://[USER:PASSWORD@]HOST[:PORT], with / ? # and @ of a password as %2F %3F %23 %40"
        raise UsageError(f"{shown!r} is not a broker's URL: {hint}") from None
    return Address(
        url=url,
        host=parts.get("host", "localhost"),
        port=port or 6379,
        username=parts.get("username"),
        password=parts.get("password"),
        tls={key: value for key, value in parts.items() if key.startswith("ssl_")} if scheme == "rediss" else None,
    )


class PortTaken(Exception):
    """Say that another process listens on the port."""


def on_a_port(text: str, *, ground: str, start: Callable[[int], T]) -> tuple[T, int]:
    """Start something on the loopback port of ``--on GROUND:PORT``, or on free ones until nobody was faster to take it.

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
