"""Secured servers: TLS, ACL users, wrong credentials. Both drivers take the same URL and fail in the same words."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from sim.errors import BrokerError, BrokerRefused, BrokerUnreachable, UsageError
from sim.grounds.catalogue import open_broker
from sim.machine.words import duration
from sim.pods.blocking_client import BusClient
from sim.record.run_info import read_info
from sim.results.checkers import judge
from sim.results.opened_run import open_run
from sim.run.steps import run_scenario
from sim.scenario.file import Scenario
from sim.wire.address import Address, free_port, parse_address
from sim.wire.connection import open_wire
from tests.support.tls_server import Certificates, TlsServer, make_certificates, serve, why_not
from tests.support.unknown import Starvation

pytestmark = pytest.mark.broker
needs_tls = pytest.mark.skipif(bool(why_not()), reason=why_not())
Small = Callable[..., Scenario]
SECRET = "h7-Geheim-Wort"
USER = "bus"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    with serve(certificates, tmp_path_factory.mktemp("tls")) as server:
        yield server


@pytest.fixture(scope="module")
def strict(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    """A server that wants a client certificate."""
    with serve(certificates, tmp_path_factory.mktemp("strict"), wants_client=True) as server:
        yield server


def by_pods(url: str, run_async: Callable[..., Any]) -> None:
    """Connect as a pod does."""

    async def scene() -> None:
        wire = await open_wire(parse_address(url), client_name="buslab-test")
        assert await wire.command("PING") == b"PONG"
        wire.close()

    run_async(scene())


def by_locust(url: str, run_async: Callable[..., Any]) -> None:
    """Connect as a Locust user does."""
    client = BusClient(parse_address(url), source="music-service")
    try:
        client.connect()
    finally:
        client.close()


def by_ground(url: str, run_async: Callable[..., Any]) -> None:
    """Connect as `--on` does."""
    with open_broker(url):
        pass


WAYS = (by_pods, by_locust, by_ground)
every_way = pytest.mark.parametrize("connect", WAYS, ids=lambda way: way.__name__)
Connect = Callable[[str, Callable[..., Any]], None]


def refused(connect: Connect, url: str, run_async: Any, kind: type[BaseException] = BrokerRefused) -> str:
    with pytest.raises(kind) as error:
        connect(url, run_async)
    said = str(error.value)
    assert type(error.value) is kind
    assert "\n" not in said
    assert SECRET not in said
    assert f"127.0.0.1:{parse_address(url).port}" in said
    return said


# -- TLS -------------------------------------------------------------------------------------------------------


@needs_tls
@every_way
def test_the_right_ca_is_all_it_takes(connect: Connect, tls: TlsServer, run_async: Any) -> None:
    connect(tls.trusted(), run_async)


@needs_tls
@every_way
@pytest.mark.parametrize("option", [{}, {"ssl_ca_certs": "other-ca.crt"}])
def test_an_untrusted_ca_is_refused_and_the_option_named(connect: Connect, tls: TlsServer, run_async: Any, option: dict[str, str]) -> None:
    options = {key: tls.certificates.file(name) for key, name in option.items()}
    assert "add ?ssl_ca_certs=" in refused(connect, tls.url(**options), run_async)


@needs_tls
@pytest.mark.parametrize("speaks", [True, False])
def test_a_port_that_shook_hands_and_then_is_silent_does_speak_tls(
    certificates: Certificates, run_async: Any, monkeypatch: pytest.MonkeyPatch, speaks: bool
) -> None:
    """The other one takes the connection and says nothing at all: whether it would speak TLS is not known."""
    monkeypatch.setattr("sim.wire.connection.CONNECT_TIMEOUT_S", 2.0)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.file("server.crt"), certificates.file("server.key"))
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:

        def shake_hands() -> None:
            taken, _ = listening.accept()
            with context.wrap_socket(taken, server_side=True) if speaks else taken as wire:
                while wire.recv(1024):
                    pass

        silent = pool.submit(shake_hands)
        url = f"rediss://127.0.0.1:{listening.getsockname()[1]}?ssl_ca_certs={certificates.file('ca.crt')}"
        said = refused(by_pods, url, run_async, BrokerUnreachable)
        silent.exception()
    assert said.partition("does not answer within ")[2] == (
        "2 s" if speaks else "2 s; it may not speak TLS on this port: if it does not, write redis://"
    )


@needs_tls
@every_way
def test_what_is_not_checked_is_not_refused(connect: Connect, tls: TlsServer, run_async: Any) -> None:
    connect(tls.url(ssl_cert_reqs="none"), run_async)


@needs_tls
@every_way
def test_a_certificate_for_another_host_is_refused_unless_told_otherwise(
    connect: Connect, certificates: Certificates, tmp_path: Path, run_async: Any
) -> None:
    with serve(certificates, tmp_path, certificate="elsewhere") as server:
        said = refused(connect, server.trusted(), run_async)
        assert "is for another" in said and "ssl_check_hostname=false" in said
        connect(server.trusted(ssl_check_hostname="false"), run_async)


@needs_tls
@every_way
def test_an_expired_certificate_is_refused(connect: Connect, certificates: Certificates, tmp_path: Path, run_async: Any) -> None:
    with serve(certificates, tmp_path, certificate="expired") as server:
        assert "has expired" in refused(connect, server.trusted(), run_async)


@needs_tls
@every_way
def test_a_client_certificate_is_asked_for_and_taken(connect: Connect, strict: TlsServer, run_async: Any) -> None:
    assert "add ?ssl_certfile=" in refused(connect, strict.trusted(), run_async)
    connect(strict.trusted(**strict.client_certificate), run_async)


@needs_tls
@every_way
def test_a_client_certificate_of_a_stranger_is_refused(connect: Connect, strict: TlsServer, run_async: Any) -> None:
    stranger = {"ssl_certfile": strict.certificates.file("stranger.crt"), "ssl_keyfile": strict.certificates.file("stranger.key")}
    assert "client certificate" in refused(connect, strict.trusted(**stranger), run_async)


@needs_tls
@every_way
def test_redis_on_a_tls_port_hints_at_rediss(connect: Connect, tls: TlsServer, strict: TlsServer, run_async: Any) -> None:
    for server in (tls, strict):
        assert "write rediss://" in refused(connect, f"redis://127.0.0.1:{server.tls_port}", run_async)


@needs_tls
@every_way
def test_a_wrong_password_over_tls(connect: Connect, tls: TlsServer, run_async: Any) -> None:
    said = refused(connect, tls.trusted(login=f"ann:{SECRET}@"), run_async)
    assert "does not let us in" in said and "'ann'" in said


@every_way
def test_rediss_on_a_plain_port_hints_at_redis(connect: Connect, address: Address, run_async: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server takes the handshake for a command without an end, or answers it with an error, as its random bytes fall."""
    monkeypatch.setattr("sim.wire.connection.CONNECT_TIMEOUT_S", 0.5)
    monkeypatch.setattr("sim.pods.blocking_client.TIMEOUT_S", 0.5)
    monkeypatch.setattr(sys.modules["sim.grounds.external"], "TIMEOUT_S", 0.5)  # the family exports a function of this name
    with pytest.raises((BrokerRefused, BrokerUnreachable), match=r"write redis://") as error:
        connect(f"rediss://127.0.0.1:{address.port}", run_async)
    assert "\n" not in str(error.value)


@needs_tls
@pytest.mark.parametrize("ask_kernel", [True, False])
def test_a_blocking_client_sees_over_tls_that_the_server_closed_its_connection(
    tls: TlsServer, monkeypatch: pytest.MonkeyPatch, ask_kernel: bool
) -> None:
    if not ask_kernel:
        monkeypatch.setattr("sim.pods.blocking_client.TCP_INFO", None)
    client = BusClient(parse_address(tls.trusted()), source="music-service")
    client.connect()  # what the server sends after the handshake, its session tickets, is no end
    with tls.admin() as server:
        for found in (0, 1):
            published = client.call("config.cache.invalidate", {"pattern": "*"})
            assert published is not None and published.outcome == "acknowledged"
            assert client.closed_by_server == found
            server.client_kill_filter(_type="normal", skipme=True)
            while len(server.client_list()) > 1:
                pass
    client.close()


@needs_tls
@every_way
@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile"])
def test_a_missing_file_is_named_with_its_option(connect: Connect, tls: TlsServer, run_async: Any, option: str) -> None:
    said = refused(connect, tls.url(**{option: "/nowhere/x.pem"}), run_async, UsageError)
    assert option in said and "/nowhere/x.pem" in said


@needs_tls
@every_way
def test_a_key_that_does_not_fit_is_named(connect: Connect, tls: TlsServer, run_async: Any) -> None:
    options = {"ssl_certfile": tls.certificates.file("client.crt"), "ssl_keyfile": tls.certificates.file("stranger.key")}
    assert "stranger.key" in refused(connect, tls.trusted(**options), run_async, UsageError)


# -- passwords, users, rights ----------------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize(("login", "says"), [("", "wants a password"), (":wrong-one@", "does not fit user 'default'"), ("ann:x@", "'ann'")])
def test_wrong_or_missing_credentials(
    connect: Connect, own_server: tuple[Address, redis.Redis], run_async: Any, login: str, says: str
) -> None:
    address, client = own_server
    client.config_set("requirepass", SECRET)
    said = refused(connect, f"redis://{login}127.0.0.1:{address.port}", run_async)
    assert says in said and "does not let us in" in said and "wrong-one" not in said
    connect(f"redis://:{SECRET}@127.0.0.1:{address.port}", run_async)


@every_way
def test_a_password_that_no_one_asked_for_is_told(connect: Connect, own_server: tuple[Address, redis.Redis], run_async: Any) -> None:
    address, _ = own_server
    said = refused(connect, f"redis://:{SECRET}@127.0.0.1:{address.port}", run_async) if connect is not by_ground else ""
    assert not said or "no password" in said


@every_way
def test_a_full_server_is_always_the_same_refusal(connect: Connect, own_server: tuple[Address, redis.Redis], run_async: Any) -> None:
    address, client = own_server
    client.config_set("maxclients", 1)
    for _ in range(20):
        assert "has reached its maxclients" in refused(connect, address.url, run_async)


def test_a_full_server_fails_a_run_with_that_refusal(own_server: tuple[Address, redis.Redis], small: Small, tmp_path: Path) -> None:
    address, client = own_server
    client.config_set("maxclients", 12)
    with pytest.raises(BrokerRefused, match="has reached its maxclients"):
        run_scenario(small("load.driver=pods"), on=address.url, out=tmp_path / "run")


def limited_user(client: redis.Redis, *, commands: tuple[str, ...] = (), channels: tuple[str, ...] = ("aiponge:*",)) -> None:
    """Make the user that a cautious operator would: what the bus needs and no more."""
    allowed = ["+publish", "+subscribe", "+unsubscribe", "+ping", "+set", "+get", "+del", "+eval", *commands]
    client.acl_setuser(
        USER, enabled=True, passwords=[f"+{SECRET}"], commands=["-@all", *allowed], keys=["aiponge:*"], channels=channels, reset=True
    )


def login(address: Address) -> str:
    return f"redis://{USER}:{SECRET}@127.0.0.1:{address.port}"


@pytest.mark.parametrize("driver", ["pods", "locust"])
def test_a_user_limited_to_the_bus_can_run_and_the_run_says_what_it_could_not_ask(
    own_server: tuple[Address, redis.Redis], small: Small, tmp_path: Path, driver: str
) -> None:
    address, client = own_server
    limited_user(client, commands=("+pubsub|numsub",))
    run = open_run(run_scenario(small(f"load.driver={driver}"), on=login(address), out=tmp_path / "run"))
    notes = " ".join(run.info.notes)
    for command in ("INFO", "CLIENT LIST", "CLIENT SETNAME"):
        assert command in notes
    assert run.info.state == "complete"
    assert set(run.broker["metric"]) == {"numsub", "numsub_foreign"}
    verdict = judge(run)
    assert verdict.checkers["ledger"].verdict == verdict.checkers["harness"].verdict == "valid", verdict.reasons


def test_without_numsub_what_publish_said_of_the_probes_proves_the_subscriptions(
    own_server: tuple[Address, redis.Redis], small: Small, tmp_path: Path
) -> None:
    address, client = own_server
    limited_user(client)
    run = open_run(run_scenario(small("load.driver=pods"), on=login(address), out=tmp_path / "run"))
    assert "PUBSUB NUMSUB" in " ".join(run.info.notes)
    verdict = judge(run)
    assert verdict.checkers["harness"].verdict == "valid"
    assert "PUBLISH said of the probes" in verdict.checkers["harness"].detail
    proven = run.broker[run.broker["metric"] == "probe_receivers"]
    assert set(proven["subject"]) == {channel for history in run.pod_histories for channel in history.channels}
    assert verdict.checkers["ledger"].verdict == "valid"


@pytest.mark.parametrize("right", ["SUBSCRIBE to", "PUBLISH on"])
def test_a_channel_without_permission_is_named_with_the_user(
    own_server: tuple[Address, redis.Redis], small: Small, tmp_path: Path, right: str
) -> None:
    """A user has one list of channels for both; a selector tells them apart."""
    address, client = own_server
    channel = "aiponge:events:config.template.invalidated"
    others = [name for name in ("aiponge:events:a*", "aiponge:events:config.c*", "aiponge:events:config.p*")]
    limited_user(client, commands=("+pubsub|numsub",), channels=tuple(others))
    if right == "PUBLISH on":
        client.execute_command("ACL", "SETUSER", USER, f"(+subscribe &{channel})")
    with pytest.raises(BrokerRefused) as error:
        run_scenario(small("load.driver=pods"), on=login(address), out=tmp_path / "run")
    said = str(error.value)
    assert f"{right} {channel}" in said and f"user '{USER}'" in said and "NOPERM" in said
    assert SECRET not in said and "\n" not in said


# -- the secret ------------------------------------------------------------------------------------------------


CONNECTS_S = 5.0  # the lab's own bound for a handshake: a machine that withholds as much lets nobody in


def watch_arguments(pid: int, seen: set[str], starved: Starvation, over: threading.Event) -> None:
    """Collect the command lines of a process and of all it starts, until told that it is over."""
    while not over.wait(0.02):
        starved.sample()
        try:
            processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
        for process in processes:
            with_arguments = Path(f"/proc/{process.pid}/cmdline")
            try:
                seen.add(with_arguments.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
            except OSError:
                continue


@needs_tls
@pytest.mark.parametrize("driver", ["pods", "locust"])
def test_a_whole_run_over_tls_as_a_limited_user_shows_its_secret_nowhere(strict: TlsServer, tmp_path: Path, driver: str) -> None:
    with strict.admin() as admin:
        limited_user(admin, commands=("+pubsub|numsub", "+pubsub|channels", "+info", "+client|list", "+client|setname", "+config|get"))
    folder = tmp_path / "run"
    short = ["load.warm_up_s=0.3", "load.run_s=2", "slo.lag_ms_p99=60000", f"load.driver={driver}"]
    command = [sys.executable, "-m", "sim.cli", "run", "baseline", "--out", str(folder)]
    command += [part for setting in short for part in ("--set", setting)]
    url = strict.trusted(login=f"{USER}:{SECRET}@", **strict.client_certificate)
    environment = os.environ | {"BUSLAB_ON": url, "PYTHONPATH": str(Path(__file__).parents[2])}
    arguments: set[str] = set()
    over = threading.Event()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path) as process:
        starved = Starvation(process.pid)
        watcher = threading.Thread(target=watch_arguments, args=(process.pid, arguments, starved, over))
        watcher.start()
        said, errors = process.communicate(timeout=200)
        over.set()
        watcher.join()
    with starved.excuses(CONNECTS_S):
        assert f"does not answer within {duration(CONNECTS_S)}" not in errors
    assert process.returncode == 0, said + errors
    info = read_info(folder / "run.json")
    assert (info.state, info.ground) == ("complete", f"rediss://127.0.0.1:{strict.tls_port}")
    assert not info.notes, "this user may be asked everything"
    run = open_run(folder)
    assert {"used_cpu_user_s", "numsub", "output_buffer_bytes_sum"} <= set(run.broker["metric"])
    assert any("sim.cli" in line for line in arguments)
    assert any("locust" in line for line in arguments) is (driver == "locust")
    assert SECRET not in said + errors + "".join(arguments)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"report.html", "run.json", "verdict.json", "environment.json"} <= {path.name for path in files}
    assert [path.name for path in files if SECRET.encode() in path.read_bytes()] == []


@every_way
def test_an_error_of_both_drivers_has_a_class_of_ours(connect: Connect, run_async: Any) -> None:
    with pytest.raises(BrokerError):
        connect(f"redis://{USER}:{SECRET}@127.0.0.1:{free_port()}", run_async)
