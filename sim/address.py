"""A broker's address: the parts of a redis:// URL, and the same URL without its password for people to read.

A cluster's address is that of one node with the `others` behind it, in the order in which to try them: whoever cannot reach the
first connects to the next, as a client library does with its list of seed nodes.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from redis.connection import parse_url

from sim.errors import UsageError

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
