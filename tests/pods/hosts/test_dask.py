"""Host `dask`: processes of pods on the workers of a Dask cluster, which are placed, heard, lost and brought home as it says."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
import s3fs
from moto.server import ThreadedMotoServer

from sim.errors import HostError, MachineLost, ScenarioError, UsageError
from sim.machine.process import Child
from sim.pods.hosts import dask_cluster, dask_keeper
from sim.pods.hosts.dask_client import DaskClient, open_client, quiet
from sim.pods.hosts.dask_part_store import check_place
from sim.results.checkers import judge
from sim.results.checkers.verdict import Bounds
from sim.results.opened_run import open_run
from sim.run.machines import places_of
from sim.run.status import Status
from sim.run.steps import run_scenario
from sim.scenario.file import Scenario, load_scenario
from sim.wire.address import Address, free_port
from tests.support.dask_settings import DASK, on
from tests.support.early_ends import INTERRUPTED, interrupt, rows, sealed
from tests.support.own_shop import OwnShop
from tests.support.tls_server import make_certificates
from tests.support.tls_server import why_not as why_no_tls

Small = Callable[..., Scenario]
BY_HTTP = ("load.mix.'http.events.batch'=1", "services.music-service.publishes=['http.events.batch']")


def scratch_of(scheduler: str) -> list[str]:
    """What any run has left in the workers' folders."""
    with open_client(scheduler) as one:
        folders = [Path(worker["local_directory"]) for worker in one.wait(one.workers(), timeout_s=30).values()]
    return [path.name for folder in folders for path in folder.glob("buslab-*")]


@pytest.mark.broker
def test_a_run_on_a_cluster_of_its_own_is_valid_and_leaves_nothing(small: Small, tmp_path: Path) -> None:
    seen: set[str] = set()

    def watch(status: Status) -> None:
        for child in psutil.Process().children(recursive=True):
            seen.add(" ".join(child.cmdline()))

    folder = run_scenario(small(*DASK, "load.run_s=2"), out=tmp_path / "run", watch=watch)
    run = open_run(folder)
    verdict = judge(run)
    assert {name: one.detail for name, one in verdict.checkers.items() if one.verdict != "valid"} == {}
    assert verdict.checkers["ledger"].counts["missing"] == 0
    assert verdict.checkers["ledger"].counts["delivered"] > 100
    held = run.pods.drop_duplicates(["pod", "host"]).groupby("host", observed=True)["pod"].nunique().to_dict()
    assert held == {"dask-0": 6, "dask-1": 6}
    assert not [path for path in folder.rglob("*") if path.is_dir() and any(path.iterdir())], "no part and no journal is left"
    assert any("sim.pods.hosts.local_child" in one for one in seen)
    assert not any("redis://" in one for one in seen), "where the broker is stands on no command line"
    (note,) = [note for note in run.info.notes if "Dask" in note]
    assert note == "the pods were on 2 Dask workers of 1 machine: 127.0.0.1 (6 pods: dask-0); 127.0.0.1 (6 pods: dask-1)"


@pytest.mark.broker
def test_a_run_joins_a_cluster_and_leaves_it_as_it_was(small: Small, tmp_path: Path, scheduler: str) -> None:
    folder = run_scenario(small(*on(scheduler), "hosts.processes=3"), out=tmp_path / "run")
    run = open_run(folder)
    assert judge(run).checkers["ledger"].counts["delivered"] > 50
    assert {str(host) for host in run.pods["host"].unique()} == {"dask-0", "dask-1", "dask-2"}
    services = run.pods.drop_duplicates("pod")
    of = {str(one["pod"]): str(one["host"]) for one in services.to_dict("records")}
    assert len({of["music-service-0"], of["music-service-1"]}) == 2, "two replicas are on two workers"
    assert scratch_of(scheduler) == []


@pytest.mark.broker
def test_a_part_that_was_damaged_on_the_way_is_named_and_fails_the_run(
    small: Small, tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = DaskClient.ask

    async def damage(self: DaskClient, worker: str, op: str, do: str, **what: Any) -> dict[str, Any]:
        answer = await ask(self, worker, op, do, **what)
        if do == "read" and what["file"].startswith("parts/deliveries-dask-1"):
            answer = {"data": bytes(answer["data"])[:-1] + b"?"}
        return answer

    monkeypatch.setattr(DaskClient, "ask", damage)
    with pytest.raises(HostError, match=r"the part deliveries-dask-1-00001.parquet did not come home: .* not those that were written"):
        run_scenario(small(*on(scheduler)), out=tmp_path / "run")
    sealed(tmp_path / "run", "failed")
    run = open_run(tmp_path / "run")
    verdict = judge(run)
    assert [lost.host for lost in run.info.lost or []] == ["dask-1"]
    assert {str(host) for host in run.hosts["host"].unique()} >= {"dask-0"}, "what the other process recorded is there"
    assert (verdict.verdict, verdict.checkers["ledger"].counts["unexplained"]) == ("unknown", 0)
    assert scratch_of(scheduler) == []


@pytest.mark.broker
def test_an_interruption_leaves_nothing_and_keeps_what_was_recorded(tmp_path: Path) -> None:
    script = INTERRUPTED.replace('f"load.driver={driver}")', 'f"load.driver={driver}", "hosts.kind=dask")')
    stopped = interrupt(tmp_path / "run", phase="run", driver="pods", script=script)
    assert (stopped.code, stopped.errors) == (130, "")
    sealed(stopped.folder, "interrupted")
    assert {"music-service-0", "analytics-service-0"} <= {row["pod"] for row in rows(stopped.folder, "deliveries")}


@pytest.mark.broker
def test_parts_come_home_by_a_bucket_and_leave_nothing_in_it(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The S3 is moto's, on loopback; the workers have its address and keys in their environment."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        bucket = s3fs.S3FileSystem(skip_instance_cache=True)
        bucket.mkdir("records")
        folder = run_scenario(small(*DASK), out=tmp_path / "run", parts_to="s3://records/runs")
        assert judge(open_run(folder)).checkers["ledger"].counts["delivered"] > 50
        bucket.invalidate_cache()
        assert bucket.find("records") == []
        with pytest.raises(UsageError, match=r"a worker's parts would not come home: cannot write to s3://none/"):
            run_scenario(small(*DASK), out=tmp_path / "other", parts_to="s3://none/runs")
        assert not (tmp_path / "other").exists()
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("records", "write a URL that every worker can write"),
        ("s3://key:secret@records", "leave user, password and options out of the s3 URL"),
        ("nosuch://records", "fsspec knows no such kind of place"),
    ],
)
def test_a_place_for_parts_that_cannot_be_used_is_named_without_a_secret(url: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        check_place(url)
    assert said in str(error.value) and "secret" not in str(error.value)


def test_a_place_for_parts_is_for_other_machines_only(small: Small, tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match=r"--parts-to: only with hosts\.kind = 'dask'"),
        places_of(small(), Address("redis://127.0.0.1:1", "127.0.0.1", 1), run_id="x", parts_to="s3://records"),
    ):
        pass


KILLED, FROZEN = "music-service-0", "api-gateway-0"


@pytest.mark.broker
def test_a_kill_and_a_freeze_on_a_worker_are_real_and_every_copy_is_accounted_for(small: Small, tmp_path: Path, scheduler: str) -> None:
    faults = f"""faults=[{{kind="pod_kill",pods=["{KILLED}"],at_s=0.5,for_s=0.5}},
        {{kind="pod_freeze",pods=["{FROZEN}"],at_s=0.7,for_s=1.5}}]"""
    settings = ("load.run_s=3", "load.rate_per_s=600", "bus.batch_interval_ms=60000")
    statuses: set[str] = set()

    def watch(status: Status) -> None:
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                statuses.add(child.status() if "sim.pods.hosts.local_child" in " ".join(child.cmdline()) else "")

    folder = run_scenario(small(*on(scheduler), *settings, faults), out=tmp_path / "run", watch=watch)
    run = open_run(folder)
    verdict = judge(run)
    counts = verdict.checkers["ledger"].counts
    assert counts["unexplained"] == counts["unexpected"] == 0
    assert counts["delivered"] > 1000
    assert {name: one.detail for name, one in verdict.checkers.items() if one.verdict != "valid"} == {}
    assert psutil.STATUS_STOPPED in statuses
    held = run.pods.drop_duplicates(["pod", "host"]).groupby("host", observed=True)["pod"].unique().map(sorted).to_dict()
    assert held[f"{KILLED}.1"] == held[f"{KILLED}.2"] == [KILLED]
    assert held[f"{FROZEN}.1"] == [FROZEN]
    states = run.pods[run.pods["pod"] == KILLED].sort_values("at_ns")["state"].astype(str).tolist()
    assert (states[-1], states.count("aborted")) == ("stopped", 1)
    (unsent,) = run.publishes[run.publishes["outcome"] == "never-sent"].to_dict("records")
    assert unsent["publisher"] == KILLED, "the part-full batch of the killed process came home with its journal"
    frozen = run.pods[run.pods["state"] == "frozen"]["at_ns"].iloc[0]
    heard = run.deliveries[run.deliveries["pod"] == FROZEN]["received_ns"]
    assert not heard.between(frozen, frozen + 1_000_000_000).any()
    assert not [path for path in folder.rglob("*") if path.is_dir() and any(path.iterdir())], "no journal is left"
    assert scratch_of(scheduler) == []


@pytest.mark.broker
def test_a_machine_that_is_down_takes_its_pods_which_start_on_another_worker(small: Small, tmp_path: Path, scheduler: str) -> None:
    """What they recorded comes home from the worker, which is only as if it were gone: nothing is lost but what a kill loses."""
    fault = 'faults=[{kind="machine_down",machine=1,at_s=0.7,for_s=3.2,elsewhere_s=0.5}]'
    settings = ("load.run_s=4", "load.rate_per_s=300", "bus.batch_interval_ms=60000")
    folder = run_scenario(small(*on(scheduler), *settings, fault), out=tmp_path / "run")
    run = open_run(folder)
    verdict = judge(run)
    counts = verdict.checkers["ledger"].counts
    assert counts["unexplained"] == counts["unexpected"] == counts["unknown"] == 0
    assert (run.info.state, run.info.lost) == ("complete", None)
    (down,) = run.faults.to_dict("records")
    taken = set(down["target"].split(","))
    every = [name for name, _ in small().pods()]
    assert taken == set(every[1::2]), "as many workers, as many machines: the pods that are dealt out to the second of two"
    states = run.pods.sort_values("at_ns").groupby("pod", observed=True)["state"].agg(lambda some: some.astype(str).tolist()).to_dict()
    assert {pod: some.count("aborted") for pod, some in states.items()} == {pod: int(pod in taken) for pod in every}
    assert {some[-1] for some in states.values()} == {"stopped"}
    (note,) = [note for note in run.info.notes if "Dask" in note]
    first, second = note.split("; ")
    assert all(f"{pod}.2" in first and f"{pod}.1" in second for pod in taken), "they are on the other worker now"
    again_ns = run.pods[run.pods["pod"].isin(taken) & (run.pods["state"] == "starting")].groupby("pod", observed=True)["at_ns"].max()
    assert (again_ns > down["begin_ns"] + 500_000_000).all() and len(again_ns) == len(taken)
    unsent = run.publishes[run.publishes["outcome"] == "never-sent"]
    assert len(unsent) > 0 and set(unsent["publisher"]) <= taken, "part-full batches came home with the journals"
    assert scratch_of(scheduler) == []


SLOW, CUT = "music-service-0", "music-service-1"  # on two workers
DELAY_MS = 150


@pytest.mark.broker
def test_links_of_pods_are_made_bad_by_a_proxy_on_each_worker(small: Small, tmp_path: Path, scheduler: str) -> None:
    faults = f"""faults=[{{kind="link_slow",pods=["{SLOW}"],at_s=0.5,for_s=1,delay_ms={DELAY_MS},direction="to_pod"}},
        {{kind="link_blackhole",pods=["{SLOW}"],at_s=2,for_s=0.5}},{{kind="link_cut",pods=["{CUT}"],at_s=0.5,for_s=1}}]"""
    seen: set[str] = set()

    def watch(status: Status) -> None:
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                seen.add(" ".join(child.cmdline()))

    run = open_run(run_scenario(small(*on(scheduler), "load.run_s=3.5", faults), out=tmp_path / "run", watch=watch))
    verdict = judge(run)
    counts = verdict.checkers["ledger"].counts
    assert counts["unexplained"] == counts["unexpected"] == 0
    assert sum("sim.grounds.proxy" in one for one in seen) > 0
    assert not any("redis://" in one for one in seen)
    assert set(run.faults["felt"].astype(str)) == {"whole"}
    cut = run.pods[(run.pods["pod"] == CUT) & (run.pods["state"] == "disconnected")]
    assert len(cut) > 0 and set(run.pods.loc[run.pods["state"] == "disconnected", "pod"]) == {CUT}
    ledger = run.ledger().merge(run.publishes.drop_duplicates("event")[["event", "sent_ns"]], on="event")
    slowed = run.faults[run.faults["fault"] == "link_slow"].iloc[0]
    inside = ledger[ledger["sent_ns"].between(slowed["begin_ns"] + 100_000_000, slowed["end_ns"] - 300_000_000)]
    heard = inside[inside["fate"] == "delivered"].groupby("pod", observed=True)["lag_us"].min()
    assert heard[SLOW] >= DELAY_MS * 1e3
    assert (heard.drop([SLOW, CUT], errors="ignore") < DELAY_MS * 1e3).all(), "the least of them, also on a busy machine"
    held = run.faults[run.faults["fault"] == "link_blackhole"].iloc[0]
    began_ns, ended_ns = held["begin_ns"] + 20_000_000, held["end_ns"] - 20_000_000
    assert not run.deliveries.loc[run.deliveries["pod"] == SLOW, "received_ns"].between(began_ns, ended_ns).any()
    assert run.info.links_us is not None and len(run.info.links_us) == 4 and min(run.info.links_us.values()) > 0
    assert sum(str(host).startswith("proxy tcp://") for host in run.hosts["host"].unique()) == 2
    assert not any("sim.grounds.proxy" in " ".join(one.cmdline()) for one in psutil.Process().children(recursive=True))
    assert scratch_of(scheduler) == []


PROBES = ("live_delay_s=0.2", "live_period_s=0.3", "ready_delay_s=0.1", "ready_period_s=0.2", "restart_delay_s=0.1")
BUSY = ("timeout_s=5", "failure_threshold=1000")  # a busy machine must restart nothing


@pytest.mark.broker
def test_a_kubelet_probes_pods_from_their_workers_and_restarts_one_that_ended(small: Small, tmp_path: Path, scheduler: str) -> None:
    kubelet = ["kubelet.enabled=true", *(f"kubelet.{one}" for one in (*PROBES, *BUSY))]
    few = [f"services.{name}.replicas=1" for name in small().services]
    kill = f'faults=[{{kind="pod_kill",pods=["{KILLED}"],at_s=0.7,for_s=3}}]'
    run = open_run(run_scenario(small(*on(scheduler), *kubelet, *few, kill, "load.run_s=4"), out=tmp_path / "run"))
    counts = judge(run).checkers["ledger"].counts
    assert counts["unexplained"] == counts["unexpected"] == 0
    answers = run.probes.groupby(["pod", "probe"], observed=True)["status"].agg(lambda some: 200 in set(some))
    assert answers.all() and len(answers) == 2 * len(few), "each pod answered both probes"
    live = run.probes[(run.probes["probe"] == "live") & (run.probes["status"] == 200)]
    assert set(live["body"].astype(str)) == {'{"live":true}'}
    assert f"restarted by the kubelet: {KILLED} (1)" in run.info.notes
    states = run.pods[run.pods["pod"] == KILLED].sort_values("at_ns")["state"].astype(str).tolist()
    assert (states.count("aborted"), states.count("starting"), states[-1]) == (1, 2, "stopped")
    assert scratch_of(scheduler) == []


@pytest.mark.broker
def test_a_machine_that_is_not_there_or_holds_too_much_is_refused(small: Small, tmp_path: Path, scheduler: str) -> None:
    joined = f"hosts.scheduler={scheduler}"
    fault = 'faults=[{{kind="machine_down",machine={},at_s=0.1,for_s=0.5}}]'
    said = refused(small, tmp_path, joined, fault.format(2))
    assert said == "faults[0].machine = 2: the cluster has 2 workers, counted from 0: give another, or start more workers"
    many = "services.music-service.replicas=130"
    said = refused(small, tmp_path, joined, fault.format(1), many)
    assert "a process of its own: 69 are more than 64; run fewer pods, or start more workers" in said
    assert scratch_of(scheduler) == []


def test_a_proxy_beside_the_pods_needs_files_of_its_own(client: DaskClient) -> None:
    workers = [dask_cluster.Worker(f"tcp://w{number}:1", f"m{number}", most_files=1000, most_pods=9999) for number in range(2)]
    places = dask_cluster.DaskPlaces(client, workers, op="x", files_per_pod=2, own_files=30, parts_to="")
    pods = [(f"web-{number}", "web") for number in range(400)]
    places.place(pods, processes=2)
    with pytest.raises(UsageError, match=r"400 pods are more than the workers can hold \(w0 142, w1 142\)"):
        places.place(pods, processes=2, proxied=True)
    places.place(pods[:300], processes=2, proxied=True)  # 300 listeners, and 2 x 2 ends of each of 150 pods


SENT = """
class Billing:
    def __init__(self):
        self.handlers = {"order.created": self.order_created}

    def order_created(self, event):
        if "/code/" not in __file__:
            raise ValueError("this is not the module that was sent")
"""


@pytest.mark.broker
def test_modules_of_the_user_are_sent_to_the_workers(tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = OwnShop(tmp_path / "shop", code=SENT)
    settings = (*on(scheduler), "load.warm_up_s=0.3", "load.run_s=1", "slo={}")
    run = open_run(run_scenario(load_scenario(str(shop.day), settings=settings), out=tmp_path / "run"))
    heard = run.deliveries[run.deliveries["event"].isin(run.publishes.loc[run.publishes["channel"] == "order.created", "event"])]
    assert heard["outcome"].astype(str).value_counts().to_dict() == {"handled": len(heard)}
    assert len(heard) > 50
    with monkeypatch.context() as patch:
        patch.setattr(dask_cluster, "code_checksum", lambda files: 1)
        with pytest.raises(UsageError, match=r"your own modules did not arrive as they are here at the worker tcp://"):
            run_scenario(load_scenario(str(shop.day), settings=settings), out=tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert scratch_of(scheduler) == []


# -- losses ------------------------------------------------------------------------------------------------------


def workers_of_this_test() -> list[psutil.Process]:
    """The workers of the cluster that a run in this process has started: those that have processes of pods."""
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if any("sim.pods.hosts.local_child" in " ".join(one.cmdline()) for one in child.children())
    ]


def killer(phase: str, *, killed: list[int]) -> Callable[[Status], None]:
    """Return what kills a worker when a phase is reached."""

    def watch(status: Status) -> None:
        if status.phase == phase and not killed:
            killed.append(workers_of_this_test()[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    return watch


@pytest.mark.broker
def test_a_worker_that_dies_fails_the_run_unless_it_is_to_count(small: Small, tmp_path: Path) -> None:
    killed: list[int] = []
    with pytest.raises(MachineLost, match=r"the worker tcp://127\.0\.0\.1:\d+ is gone"):
        run_scenario(small(*DASK, "load.run_s=2"), out=tmp_path / "run", watch=killer("run", killed=killed))
    sealed(tmp_path / "run", "failed")
    assert len(killed) == 1
    assert len(rows(tmp_path / "run", "deliveries")) > 0, "what the other worker's pods recorded came home"


@pytest.mark.broker
def test_a_run_that_counts_goes_on_without_a_dead_worker(small: Small, tmp_path: Path) -> None:
    """Its pods are aborted, what they heard is unknown, and nothing is unexplained; limits on what is missing are not decided."""
    killed: list[int] = []
    twice = [f"services.{name}.replicas=2" for name in ("ai-config-service", "analytics-service", "system-service")]  # none without a pod
    scenario = small(*DASK, "hosts.on_loss=count", "load.run_s=3", "bus.batch_interval_ms=100", "slo.unexpected=0", *twice)
    run = open_run(run_scenario(scenario, out=tmp_path / "run", watch=killer("run", killed=killed)))
    assert len(killed) == 1
    (lost,) = run.info.lost or []
    assert re.fullmatch(r"the worker tcp://127\.0\.0\.1:\d+ is gone.*", lost.reason)
    states = run.pods[run.pods["pod"].isin(lost.pods)]
    assert set(states["host"]) == {lost.host}
    assert states[states["state"] == "aborted"]["at_ns"].tolist() == [lost.at_ns] * len(lost.pods)
    verdict = judge(run)
    counts = verdict.checkers["ledger"].counts
    assert counts["unexplained"] == 0
    assert counts["unknown"] > 0
    assert counts["unexpected"] <= counts["of_lost_publishers"] > 0, "what others heard of the lost pods is theirs"
    assert verdict.checkers["ledger"].metrics["unexpected"] == 0
    assert verdict.checkers["ledger"].verdict == "valid", verdict.checkers["ledger"].detail
    missing = verdict.checkers["ledger"].metrics["missing"]
    assert isinstance(missing, Bounds)
    assert (missing.low, missing.high >= counts["unknown"]) == (0, True)
    assert [one.verdict for one in verdict.slo if one.metric == "missing"] == ["unknown"]
    assert any(lost.host in text for text in verdict.checkers["harness"].warnings)
    alive = run.deliveries[~run.deliveries["pod"].isin(lost.pods)]
    assert (alive["received_ns"] > lost.at_ns + 500_000_000).any(), "the others went on"


# -- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("hosts.kind=dask", "hosts.scheduler=tcp://user:secret@host:1"), "without user and password"),
        (("hosts.kind=dask", "hosts.scheduler=http://host:8786"), "write tcp://HOST:PORT or tls://HOST:PORT"),
        (("hosts.kind=local", "hosts.scheduler=tcp://host:1"), "hosts.scheduler: it is of hosts.kind = 'dask'"),
        (("hosts.on_loss=count",), "hosts.on_loss = 'count': it is of hosts.kind = 'dask'"),
        (("hosts.kind=dask", "bus.transport=memory"), "carries events inside one process only"),
        (("hosts.kind=dask", *BY_HTTP), "is a call from pod to pod on one machine"),
    ],
)
def test_settings_that_do_not_fit_are_named_and_no_secret_is_told(settings: tuple[str, ...], said: str) -> None:
    with pytest.raises(ScenarioError) as error:
        load_scenario("baseline", settings=("load.driver=pods", *settings))
    assert said in str(error.value)
    assert "secret" not in str(error.value)


def refused(small: Small, tmp_path: Path, *settings: str, on: str = "embedded") -> str:
    """Return the one line that a run is refused with; there is no run folder."""
    with pytest.raises(UsageError) as error:
        run_scenario(small(*DASK, *settings), on=on, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.broker
def test_a_scheduler_that_is_not_there_or_is_none_is_one_line(small: Small, tmp_path: Path, address: Address) -> None:
    nobody = f"tcp://127.0.0.1:{free_port()}"
    assert refused(small, tmp_path, f"hosts.scheduler={nobody}").startswith(f"hosts.scheduler = '{nobody}': nothing answers there")
    other = f"tcp://127.0.0.1:{address.port}"
    assert "what listens there is no Dask scheduler" in refused(small, tmp_path, f"hosts.scheduler={other}")
    secured = f"tls://127.0.0.1:{address.port}"
    assert "TLS wants certificates; set DASK_DISTRIBUTED__COMM__TLS__CA_FILE" in refused(small, tmp_path, f"hosts.scheduler={secured}")


@pytest.mark.broker
def test_a_scheduler_that_wants_tls_is_joined_with_certificates_only(small: Small, tmp_path: Path) -> None:
    if why := why_no_tls():
        pytest.skip(why)
    made = make_certificates(tmp_path)
    files = {"ca-file": made.file("ca.crt"), "cert": made.file("server.crt"), "key": made.file("server.key")}
    tls = [word for option, file in files.items() for word in (f"--tls-{option}", file)]
    port = free_port()
    where = f"127.0.0.1:{port}"
    scheduler = ("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--protocol", "tls", "--port", port, "--no-dashboard", *tls)
    worker = (
        "distributed.cli.dask_worker",
        f"tls://{where}",
        "--no-nanny",
        "--no-dashboard",
        "--local-directory",
        tmp_path / "worker",
        *tls,
    )
    with contextlib.ExitStack() as undo:
        for name, (module, *args), ready in (("scheduler", scheduler, "Scheduler at:"), ("worker", worker, "Registered to:")):
            child = Child([sys.executable, "-m", module, *map(str, args)], log=tmp_path / f"{name}.log")
            undo.callback(child.end)
            deadline_s = time.monotonic() + 60
            while ready not in child.log.read_text("utf-8", "replace"):
                assert child.poll() is None and time.monotonic() < deadline_s, child.tail()
                time.sleep(0.05)
        assert "if it wants TLS, write tls://" in refused(small, tmp_path, f"hosts.scheduler=tcp://{where}")
        assert "TLS wants certificates" in refused(small, tmp_path, f"hosts.scheduler=tls://{where}")
        known = {"ca-file": files["ca-file"], "client.cert": files["cert"], "client.key": files["key"]}
        with dask.config.set({f"distributed.comm.tls.{name}": file for name, file in known.items()}):
            run = open_run(run_scenario(small(*on(f"tls://{where}")), out=tmp_path / "run"))
    assert judge(run).checkers["ledger"].counts["delivered"] > 50


@pytest.mark.broker
def test_a_worker_that_is_not_as_we_are_is_refused(small: Small, tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = f"hosts.scheduler={scheduler}"
    with monkeypatch.context() as patch:
        patch.setattr(dask_cluster, "source_checksum", lambda: 1)
        assert re.search(r"the worker tcp://\S+ has another buslab of the same version: its files differ", refused(small, tmp_path, joined))
    with monkeypatch.context() as patch:
        patch.setattr(dask_cluster, "loopback_name", lambda: "another machine")
        said = refused(small, tmp_path, joined)
    assert re.search(r"the broker redis://127\.0\.0\.1:\d+ is on this machine's loopback, and the worker tcp://\S+ is on another", said)
    assert "are more than the workers can hold" in refused(small, tmp_path, joined, "hosts.per_worker=5")
    assert scratch_of(scheduler) == []


@pytest.mark.parametrize(
    ("python", "buslab", "distributed", "said"),
    [
        ("3.12.1.final.0", "1", "2", "has Python 3.12, and this machine has 3.11"),
        ("3.11.9.final.0", "2", "2", "has buslab 2, and this machine has 1"),
        ("3.11.9.final.0", None, "2", "has no buslab, and this machine has 1"),
        ("3.11.9.final.0", "1", "3", "has distributed 3, and this machine has 2"),
    ],
)
def test_another_version_is_refused_with_both_named(python: str, buslab: str | None, distributed: str, said: str) -> None:
    ours = {"host": {"python": "3.11.2.final.0"}, "packages": {"buslab": "1", "distributed": "2"}}
    theirs = {"host": {"python": python}, "packages": {"buslab": buslab, "distributed": distributed}}
    with pytest.raises(UsageError, match=re.escape(f"the worker tcp://w:1 {said}")):
        dask_cluster._check_versions({"client": ours, "workers": {"tcp://w:1": theirs}}, ["tcp://w:1"])
    with pytest.raises(UsageError, match="the worker tcp://w:1 does not answer"):
        dask_cluster._check_versions({"client": ours, "workers": {"tcp://w:1": None}}, ["tcp://w:1"])
    dask_cluster._check_versions({"client": ours, "workers": {"tcp://w:1": ours}}, ["tcp://w:1"])


@pytest.mark.broker
def test_a_worker_that_does_not_reach_the_broker_is_named_and_no_secret_is_in_any_log(
    client: DaskClient, scheduler: str, caplog: pytest.LogCaptureFixture
) -> None:
    op = "buslab-test"
    client.wait(client.install(dask_keeper.Keeper(op)), timeout_s=30)
    worker = next(iter(client.wait(client.workers(), timeout_s=30)))
    url = f"redis://user:verysecret@127.0.0.1:{free_port()}"
    with pytest.raises(HostError, match=r"redis://127\.0\.0\.1:\d+ is not reachable: .* \(the worker tcp://") as error:
        client.wait(client.ask(worker, op, "reach", urls=url), timeout_s=30)
    with pytest.raises(HostError, match="TypeError in reach") as wrong:
        client.wait(client.ask(worker, op, "reach", url=url), timeout_s=30)
    client.wait(client.remove(op), timeout_s=30)
    assert "verysecret" not in f"{error.value} {wrong.value} {caplog.text}"
    logs = f"{client._client.get_worker_logs()} {client._client.get_scheduler_logs()}"
    assert "Starting Worker plugin" in logs and "verysecret" not in logs


def test_dask_is_quiet_only_while_a_run_uses_it() -> None:
    before = logging.getLogger("distributed").level
    with quiet():
        assert not logging.getLogger("distributed").isEnabledFor(logging.CRITICAL)
    assert logging.getLogger("distributed").level == before


def test_without_dask_the_extra_is_named(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dask_cluster", "dask_client"):
        monkeypatch.delitem(sys.modules, f"sim.pods.hosts.{name}")
    monkeypatch.setitem(sys.modules, "distributed", None)
    broker = Address("redis://127.0.0.1:1", "127.0.0.1", 1)
    with pytest.raises(UsageError, match=r"is not installed: install buslab\[machines\]"), places_of(small(*DASK), broker, run_id="x"):
        pass
