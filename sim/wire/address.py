"""A broker's address: the parts of a redis:// URL, the same URL without its password for people to read, and ports.

A cluster's address is that of one node with the `others` behind it, in the order in which to try them: whoever cannot reach the
first connects to the next, as a client library does with its list of seed nodes.

Both drivers read the same URL: redis-py takes it whole, our own connections take it apart here. TLS is set up as redis-py does it.

Rules
-----
1. Blanks at the ends are dropped; any other control character is refused, because the URL parser would drop it in silence.
2. What the two drivers would read differently, or one of them would pass over, is refused: a database that is no number, a part behind
   ``#``, an option that is not known, has no value, or stands there twice (also once as a part of the URL and once as an option).
3. A user without a password is let in with an empty one, as redis-py does it.
4. No host means localhost, no port 6379, no database 0, as everywhere.
5. A message names the part that is wrong, never a text that could be a piece of a password.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, parse_qs, unquote, unquote_to_bytes, urlsplit

from redis.connection import parse_url

from sim.errors import BrokerError, UsageError, did_you_mean
from sim.wire.shown import is_hidden, shown_url

T = TypeVar("T")
_TRIES = 5
SCHEMES = ("redis", "rediss")
TLS_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
TLS_OPTIONS = (*TLS_FILES, "ssl_password", "ssl_check_hostname", "ssl_cert_reqs", "ssl_min_version", "ssl_ciphers")
URL_OPTIONS = (*TLS_OPTIONS, "username", "password", "db")
SECRET_OPTIONS = {"password", "ssl_password"}
HOW = "write redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], with / ? # and @ of a password as %2F %3F %23 %40"
TRUTHS = ("true", "false", "yes", "no", "1", "0")
CERT_REQS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_DATABASE = re.compile(r"/*([0-9]{1,9})?/?", re.ASCII)


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
    def credentials(self) -> tuple[str, ...]:
        """The words of AUTH, as redis-py sends them: a user without a password has an empty one; nothing where there is neither."""
        if self.username:
            return (self.username, self.password or "")
        return (self.password,) if self.password else ()

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
    """Read a ``redis://`` or ``rediss://`` URL, or those of a cluster's nodes with spaces between them; the module has the rules.

    Raises
    ------
    UsageError
        Not such a URL, or something in it that the drivers do not know or would read differently. The message never holds the password.
    """
    if len(urls := re.split(r"\s+(?=rediss?://)", url.strip())) > 1:
        return join_nodes([parse_address(one) for one in urls])
    url = url.strip()
    shown = shown_url(url)
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES or "://" not in url:
        unix = "; Unix sockets are not spoken here" if scheme in ("unix", "redis+socket", "redis+unix") else ""
        raise UsageError(f"{shown!r} is not a broker's URL: write redis://HOST:PORT or rediss://HOST:PORT{unix}")
    try:
        inside = urlsplit(url)
        port = inside.port
        parts: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    except (ValueError, TypeError):  # its text may hold a piece of the password
        ipv6 = "; an IPv6 address stands in brackets" if _is_bare_ipv6(shown) else ""
        raise UsageError(f"{shown!r} is not a broker's URL: {HOW}{ipv6}") from None
    _check_text(shown, url, inside)
    _check_options(shown, scheme, inside)
    tls = {key: value for key, value in parts.items() if key in TLS_OPTIONS}
    _check_tls(shown, tls, parse_qs(inside.query))
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


def _is_bare_ipv6(shown: str) -> bool:
    """Return whether the host of what is shown of a URL has colons and no brackets, as an IPv6 address that was written bare."""
    return shown.partition("://")[2].partition("/")[0].count(":") > 1 and "[" not in shown


def _check_text(shown: str, url: str, inside: SplitResult) -> None:
    """Refuse what is no text, no host or no port of a URL; the drivers would pass over it, or die of it when they connect."""
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in url):
        raise UsageError(f"{shown!r}: a control character or a byte that is not UTF-8 stands in the URL; write it as %XX, or leave it out")
    for text in (inside.username, inside.password):
        try:
            unquote_to_bytes(text or "").decode("utf-8")
        except UnicodeDecodeError:
            raise UsageError(f"{shown!r}: a user or password in the URL is not UTF-8 where its %XX are read; write it as UTF-8") from None
    if inside.port == 0:
        raise UsageError(f"{shown!r}: port 0 is none: give one from 1 to 65535, or leave it out for 6379")
    if inside.fragment or url.endswith("#"):
        raise UsageError(f"{shown!r}: a broker's URL has no part behind '#': {HOW}")
    host = unquote(inside.hostname or "localhost")
    try:
        host.encode("idna")
    except UnicodeError:
        host = ""
    if not host or re.search(r"[\s\\%\x00-\x1f]", host.partition("%")[0]):  # behind the % of an IPv6 address stands its zone
        raise UsageError(f"{shown!r}: the host is no name that can be looked up: write redis://HOST:PORT")


def _check_options(shown: str, scheme: str, inside: SplitResult) -> None:
    """Refuse a path that is no number of a database, and an option that is unknown, has no value, or stands there twice."""
    database = _DATABASE.fullmatch(inside.path)
    if database is None:
        raise UsageError(f"{shown!r}: behind host and port stands a / with the number of a database, or nothing: {HOW}")
    options = parse_qs(inside.query, keep_blank_values=True)
    unknown = sorted(options.keys() - set(URL_OPTIONS))
    if unknown and is_hidden(shown):  # the option's name would be half a password
        raise UsageError(f"{shown!r} is not a broker's URL: {HOW}")
    if unknown and SECRET_OPTIONS & options.keys():  # what is no option may be the rest of a password with an & in it
        raise UsageError(f"{shown!r}: an option behind the ? is none; known: {', '.join(URL_OPTIONS)}. An & of a password is written %26")
    if unknown:
        raise UsageError(
            f"{shown!r}: no option {unknown[0]!r} in a broker's URL{did_you_mean(unknown[0], URL_OPTIONS)}; known: {', '.join(URL_OPTIONS)}"
        )
    also = {"username": inside.username, "password": inside.password, "db": database[1]}
    for name, values in options.items():
        if "" in values:
            raise UsageError(f"{shown!r}: {name} has no value: give one, or leave it out")
        if len(values) > 1 or also.get(name):
            raise UsageError(f"{shown!r}: {name} stands there twice: leave one out")
        if name in TLS_OPTIONS and scheme != "rediss":
            raise UsageError(f"{shown!r}: {name} is an option of TLS: write rediss:// in place of redis://")
    if not re.fullmatch(r"[0-9]{1,9}", options.get("db", ["0"])[0], re.ASCII):
        raise UsageError(f"{shown!r}: db is the number of a database, as db=0")


def _check_tls(shown: str, tls: dict[str, Any], texts: dict[str, list[str]]) -> None:
    if tls.get("ssl_cert_reqs", "required") not in CERT_REQS:
        raise UsageError(f"{shown!r}: ssl_cert_reqs={tls['ssl_cert_reqs']}: write one of {', '.join(CERT_REQS)}")
    if texts.get("ssl_check_hostname", ["true"])[0].lower() not in TRUTHS:
        raise UsageError(f"{shown!r}: ssl_check_hostname={texts['ssl_check_hostname'][0]}: write true or false")
    if tls.get("ssl_min_version", ssl.TLSVersion.TLSv1_2) not in list(ssl.TLSVersion):
        raise UsageError(f"{shown!r}: ssl_min_version={tls['ssl_min_version']}: write 771 for TLS 1.2 or 772 for TLS 1.3")
    if "ssl_keyfile" in tls and "ssl_certfile" not in tls:
        raise UsageError(f"{shown!r}: ssl_keyfile without ssl_certfile: name the client's certificate too")
