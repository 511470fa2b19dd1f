"""Why a broker cannot be used, as one line that says what to do: for both drivers, whose libraries say it in different words.

A reply, an exception of TLS or of a socket goes in, a `BrokerError` comes out. No message holds a password.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Iterator
from contextvars import ContextVar

import hiredis
from redis.exceptions import InvalidResponse

from sim.errors import BrokerError, BrokerRefused, BrokerUnreachable
from sim.machine.clock import is_virtual
from sim.machine.open_files import why_no_file
from sim.machine.words import duration
from sim.wire.address import Address
from sim.wire.reply_reader import BadReply

NO_WORDS: ContextVar[bool] = ContextVar("NO_WORDS", default=False)
"""Set by who tries again and again: asking why would be a connection more each time, and a disturbance of what is measured."""
GREETING_TIMEOUT_S = 0.3
HANDSHAKE_TIMEOUT_S = 1.0
MAX_CLIENTS = "max number of clients"
SHOWN_CHARACTERS = 200  # of a server's own words in a message
KEPT_OUT = ("NOAUTH", "WRONGPASS", "DENIED", "LOADING", "MASTERDOWN")
_LACKING = re.compile(
    r"unknown (sub)?command|(un|not )supported|not (allowed|permitted|available|implemented)|disabled|invalid request", re.I
)

# X509_V_ERR_*: what is wrong with the server's certificate, and what to do
_CERTIFICATE = {
    9: "its certificate is not valid yet: compare the clocks",
    10: "its certificate has expired: the server needs a new one",
    62: "its certificate is for another host: use the name it is for, or add ssl_check_hostname=false to the URL",
    64: "its certificate is for another address: use the name it is for, or add ssl_check_hostname=false to the URL",
}
_UNTRUSTED = (2, 18, 19, 20, 21)
_CLIENT_CERTIFICATE = "add ?ssl_certfile=CERT.pem&ssl_keyfile=KEY.pem to the URL, signed by a CA that the server trusts and not expired"


def refusal(address: Address, doing: str, reply: str) -> BrokerRefused:
    """Return the error that names the step which the broker refused; `reply` is its error reply, for example ``NOPERM …``."""
    user = f"user {address.username!r}" if address.username else "user 'default'"
    if address.username and not address.password:  # it may be a password in the wrong place
        user = "the user that the URL names"
    code = reply.partition(" ")[0]
    if MAX_CLIENTS in reply:
        return full(address)
    reply = in_short(reply)
    if code == "NOAUTH":
        hint = "it wants a password: write redis://USER:PASSWORD@HOST:PORT"
    elif code == "WRONGPASS" or "invalid password" in reply or "invalid username-password" in reply:
        hint = f"the password does not fit {user}, or that user is disabled; write redis://USER:PASSWORD@HOST:PORT"
    elif "without any password configured" in reply:
        hint = "the server has no password: leave it out of the URL"
    elif code == "NOPERM":
        hint = f"the ACL of {user} does not allow it"
    else:
        return BrokerRefused(f"{address} refuses {doing}: {reply}")
    letting_in = code != "NOPERM"
    return BrokerRefused(f"{address} {f'does not let us in: {reply}' if letting_in else f'refuses {doing}: {reply}'}; {hint}")


def keeps_out(reply: str) -> bool:
    """Return whether an error reply means that we are not let in, rather than that one command is refused or not there."""
    return reply.startswith(KEPT_OUT) or MAX_CLIENTS in reply


def lacks(reply: str) -> bool:
    """Return whether an error reply says that this user or server does not have a command; proxies and managed services lack many."""
    return reply.startswith("NOPERM") or _LACKING.search(reply) is not None


def in_short(reply: object) -> str:
    """Return a server's words as one line that a person reads to the end."""
    text = " ".join((reply if isinstance(reply, str) else repr(reply)).split())
    text = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text[: SHOWN_CHARACTERS + 1])
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def reply_text(error: Exception) -> str:
    """Return the broker's own words of an exception of redis-py, which takes the first one off."""
    code = getattr(error, "status_code", None)
    return f"{code} {error}" if code and not str(error).startswith(str(code)) else str(error)


def full(address: Address) -> BrokerRefused:
    """Return the error of a broker that has as many clients as it takes."""
    less = "a server that may open few files (ulimit -n where it was started) has fewer than it is configured for"
    return BrokerRefused(f"{address} has reached its maxclients and takes no more: raise it there, or run fewer pods; {less}")


def unreachable(address: Address, error: BaseException) -> BrokerError:
    """Return the error that tells why a connection failed before the broker answered anything.

    May block for some `HANDSHAKE_TIMEOUT_S`: where the broker just hung up, it is asked once more, to tell why.
    """
    if (known := _no_file(address, error) or _no_redis(address, error)) is not None:
        return known
    for one in _chain(error):
        if isinstance(one, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return _ask_why(address)
        if isinstance(one, ssl.SSLError):
            return _tls(address, one)
        if MAX_CLIENTS in str(one):
            return full(address)
        if isinstance(one, TimeoutError):
            said = " ".join(map(str, _chain(error))).lower()  # in redis-py's words, whose handshake belongs to connecting
            return silent(address, secured="connecting" not in said)
    for one in _chain(error):
        if isinstance(one, ConnectionRefusedError | socket.gaierror):
            return BrokerUnreachable(f"{address} is not reachable: {one.strerror}; is the server up, and the host and port right?")
        # Where a transport was reset, uvloop raises RuntimeError; redis-py has a ConnectionError of its own.
        if isinstance(one, ConnectionError | RuntimeError | BrokerUnreachable) or _hung_up(str(one)):
            return _ask_why(address)
    reason = next((one.strerror for one in _chain(error) if isinstance(one, OSError) and one.strerror), str(error))
    return BrokerUnreachable(f"{address} is not reachable: {reason}")


def _no_file(address: Address, error: BaseException) -> BrokerError | None:
    """Return the error where this process may open no more files: the server has no part in it."""
    why = why_no_file(error)
    return BrokerUnreachable(f"no connection to {address} can be opened: {why}") if why else None


def _no_redis(address: Address, error: BaseException) -> BrokerError | None:
    """Return the error where something answered that speaks no RESP, or announced what no server of ours would."""
    for one in _chain(error):
        if isinstance(one, BadReply | hiredis.ProtocolError | InvalidResponse):
            said = in_short(str(one).removeprefix("Protocol Error: "))
            return BrokerRefused(f"{address} does not answer as a Redis server: {said}; is this its host and port?")
    return None


async def explain(address: Address, error: BaseException) -> BrokerError:
    """Return the same without blocking the loop; a bare reason where nobody will read it (`NO_WORDS`), and in virtual time."""
    if NO_WORDS.get() or is_virtual():
        return BrokerUnreachable(f"{address} is not reachable: {why_no_file(error) or getattr(error, 'strerror', None) or error}")
    return await asyncio.to_thread(unreachable, address, error)


def silent(address: Address, seconds: float = 5.0, *, secured: bool) -> BrokerUnreachable:
    """Return the error of a broker that did not answer in time; `secured`: the TLS handshake was done, so the port does speak TLS."""
    hint = "" if secured or address.tls is None else "; it may not speak TLS on this port: if it does not, write redis://"
    return BrokerUnreachable(f"{address} does not answer within {duration(seconds)}{hint}")


def _hung_up(text: str) -> bool:
    return "closed by" in text.lower() or "reset by peer" in text.lower()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _tls(address: Address, error: ssl.SSLError) -> BrokerError:
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _UNTRUSTED:
            hint = "its certificate is signed by a CA that is not trusted here: add ?ssl_ca_certs=CA.pem to the URL"
        else:
            hint = _CERTIFICATE.get(error.verify_code, "its certificate is not accepted")
        return BrokerRefused(f"{address}: TLS failed: {hint} ({error.verify_message.rstrip('.')})")
    if "wrong version" in reason or "record layer" in reason or "packet length" in reason:
        return BrokerRefused(f"{address}: TLS failed: this port does not speak TLS ({reason}): write redis://, or name its TLS port")
    if "alert" in reason and "handshake failure" in reason:  # one alert for all that two ends may not have in common
        may = "it may want a client certificate that it accepts, or has no cipher in common with us"
        return BrokerRefused(f"{address}: TLS failed: {may} ({reason}): {_CLIENT_CERTIFICATE}")
    if "alert" in reason and ("certificate" in reason or "unknown ca" in reason):
        return BrokerRefused(f"{address}: TLS failed: it wants a client certificate that it accepts ({reason}): {_CLIENT_CERTIFICATE}")
    return BrokerRefused(f"{address}: TLS failed: {reason}")


def _ask_why(address: Address) -> BrokerError:
    """Connect once more and only listen: the broker says why and hangs up, and the first time our own words got in between.

    A server that stays silent on a plain connection is offered a TLS handshake whose certificates are not looked at.
    """
    try:
        with socket.create_connection((address.host, address.port), timeout=HANDSHAKE_TIMEOUT_S) as wire:
            if address.ssl_context is not None:
                with address.ssl_context.wrap_socket(wire, server_hostname=address.host) as secured:
                    _listen(secured)  # TLS 1.3 refuses a client's certificate after the handshake
            elif MAX_CLIENTS.encode() in _listen(wire):
                return full(address)
            elif _speaks_tls(wire):
                return BrokerRefused(f"{address} hangs up: this port speaks TLS: write rediss:// in place of redis://")
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        pass
    except ssl.SSLError as error:
        return _tls(address, error)
    except OSError:
        pass
    what = "its TLS port" if address.tls is not None else "a Redis server"
    return BrokerUnreachable(f"{address} hangs up: is it {what}, and below its maxclients?")


def _listen(wire: socket.socket) -> bytes:
    wire.settimeout(GREETING_TIMEOUT_S)
    try:
        return wire.recv(256)
    except TimeoutError:
        return b""


def _speaks_tls(wire: socket.socket) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    wire.settimeout(HANDSHAKE_TIMEOUT_S)
    try:
        context.wrap_socket(wire).close()
    except ssl.SSLError as error:
        return "alert" in (error.reason or "").lower()
    except OSError:
        return False
    return True
