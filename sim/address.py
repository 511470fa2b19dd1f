"""A broker's address: the parts of a redis:// URL, and the same URL without its password for people to read."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
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
    """

    url: str
    host: str
    port: int
    username: str | None = None
    password: str | None = None
    tls: dict[str, Any] | None = None

    def __str__(self) -> str:
        """Return the URL without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls is not None else 'redis'}://{host}:{self.port}"

    def __repr__(self) -> str:
        return f"Address({self})"

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine's loopback."""
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


def parse_address(url: str) -> Address:
    """Read a ``redis://`` or ``rediss://`` URL.

    Raises
    ------
    UsageError
        Not such a URL. The message never holds the password.
    """
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
