"""A TLS-capable redis-server on loopback, and certificates made for one test session by the `openssl` command."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from sim.machine.process import Child
from sim.wire.address import free_port

BINARY = shutil.which("redis-server")
READY_S = 60.0


def why_not() -> str:
    """Return why there can be no TLS server on this machine, or an empty string."""
    if BINARY is None or shutil.which("openssl") is None:
        return "needs redis-server and openssl on PATH (Debian: apt-get install redis-server openssl)"
    asked = subprocess.run([BINARY, "--tls-port", "-1"], capture_output=True, text=True, check=False, timeout=10)
    understood = "between" in asked.stdout + asked.stderr
    return "" if understood else f"{BINARY} is built without TLS"


@dataclass(frozen=True)
class Certificates:
    """The paths of one authority and of what it signed."""

    folder: Path

    def file(self, name: str) -> str:
        return str(self.folder / name)


def make_certificates(folder: Path) -> Certificates:
    """Make a CA; certificates of a server for 127.0.0.1, of one for another host, of one that has expired; and two clients'."""
    made = Certificates(folder)
    for authority in ("ca", "other-ca"):
        _openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN=test {authority}",
            "-keyout", made.file(f"{authority}.key"), "-out", made.file(f"{authority}.crt"),
        )  # fmt: skip
    _sign(made, "server", "IP:127.0.0.1,DNS:localhost")
    _sign(made, "elsewhere", "DNS:redis.example")
    _sign(made, "expired", "IP:127.0.0.1", days=-1)
    _sign(made, "client", "DNS:client")
    _sign(made, "stranger", "DNS:client", authority="other-ca")
    return made


def _sign(made: Certificates, name: str, names: str, *, authority: str = "ca", days: int = 2) -> None:
    request, extensions = made.file(f"{name}.csr"), made.folder / f"{name}.ext"
    extensions.write_text(f"subjectAltName={names}\n")
    _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", made.file(f"{name}.key"), "-out", request)
    _openssl(
        "x509", "-req", "-in", request, "-CA", made.file(f"{authority}.crt"), "-CAkey", made.file(f"{authority}.key"),
        "-CAcreateserial", "-days", str(days), "-extfile", str(extensions), "-out", made.file(f"{name}.crt"),
    )  # fmt: skip


def _openssl(*words: str) -> None:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class TlsServer:
    """Where a server listens with TLS, and without."""

    tls_port: int
    plain_port: int
    certificates: Certificates

    def url(self, *, login: str = "", **options: str) -> str:
        """Return the URL of the TLS port."""
        query = "&".join(f"{key}={value}" for key, value in options.items())
        return f"rediss://{login}127.0.0.1:{self.tls_port}" + (f"?{query}" if query else "")

    def trusted(self, *, login: str = "", **options: str) -> str:
        """Return the same with the right CA."""
        return self.url(login=login, ssl_ca_certs=self.certificates.file("ca.crt"), **options)

    @property
    def client_certificate(self) -> dict[str, str]:
        """The options that give the server a client certificate which it accepts."""
        return {"ssl_certfile": self.certificates.file("client.crt"), "ssl_keyfile": self.certificates.file("client.key")}

    def admin(self) -> redis.Redis:
        """Return a client on the plain port, to configure the server."""
        return redis.Redis(port=self.plain_port)


@contextlib.contextmanager
def serve(certificates: Certificates, folder: Path, *, certificate: str = "server", wants_client: bool = False) -> Iterator[TlsServer]:
    """Start a server and end it on leaving."""
    tls_port, plain_port = free_port(), free_port()
    argv = [str(BINARY), "--port", str(plain_port), "--tls-port", str(tls_port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    argv += ["--tls-cert-file", certificates.file(f"{certificate}.crt"), "--tls-key-file", certificates.file(f"{certificate}.key")]
    argv += ["--tls-ca-cert-file", certificates.file("ca.crt"), "--tls-auth-clients", "yes" if wants_client else "no"]
    child = Child(argv, log=folder / "server.log")
    try:
        server = TlsServer(tls_port, plain_port, certificates)
        deadline = time.monotonic() + READY_S
        with server.admin() as client:
            while True:
                with contextlib.suppress(redis.RedisError):
                    client.ping()
                    break
                if child.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"the TLS server did not start: {child.tail()}")
                time.sleep(0.01)
        yield server
    finally:
        child.end()
