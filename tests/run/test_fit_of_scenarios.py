"""What of a scenario can run here: its pods, its kind of time, its ground, and how many files it opens."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sim.bus.envelope import EVENT_TYPES
from sim.errors import UsageError
from sim.run.fit import OWN_FILES, SERVER_FILES, check_ground, check_open_files, files_needed, fit_time, peopled
from sim.scenario.file import Scenario, load_scenario
from sim.scenario.run_settings import Kubelet
from sim.wire.address import join_nodes, parse_address

ONE = parse_address("redis://127.0.0.1:7000")
TWO = join_nodes([parse_address(f"redis://127.0.0.1:{port}") for port in (7000, 7001)])


def ground(name: str, *, several: bool = False, ours: bool = True) -> Any:
    return SimpleNamespace(ground=name, control=object() if ours else None, address=TWO if several else ONE)


def refusal(attempt: Any) -> str:
    with pytest.raises(UsageError) as refused:
        attempt()
    return str(refused.value)


def test_a_fleet_of_ours_is_the_scenario_as_it_is_and_no_fleet_leaves_the_load_alone() -> None:
    scenario = load_scenario("baseline", settings=("kubelet.enabled=true",))
    assert peopled(scenario, fleet="ours") is scenario
    alone = peopled(scenario, fleet="none")
    assert (alone.services, alone.load.reads_per_s, alone.kubelet) == ({}, 0.0, Kubelet())
    assert (alone.load.rate_per_s, alone.load.mix, alone.bus) == (scenario.load.rate_per_s, scenario.load.mix, scenario.bus)


def test_a_fleet_that_is_none_or_cannot_do_what_the_scenario_wants_is_refused() -> None:
    assert refusal(lambda: peopled(load_scenario("baseline"), fleet="theirs")) == "the fleet 'theirs' is none of ours, none"
    assert refusal(lambda: peopled(load_scenario("baseline", settings=("load.driver=pods",)), fleet="none")) == (
        "load.driver = 'pods' and no fleet: nobody would publish; use load.driver = 'locust'"
    )
    assert refusal(lambda: peopled(load_scenario("broker_down", settings=("load.driver=locust",)), fleet="none")) == (
        "faults are for a fleet of ours: leave them out with --set 'faults=[]', or start the fleet with --fleet ours"
    )


def test_in_virtual_time_pods_publish_and_all_are_in_one_process_and_a_note_says_what_was_not_used() -> None:
    scenario = load_scenario("baseline", settings=("hosts.kind=local", "hosts.processes=4"))
    assert fit_time(scenario, virtual=False) == (scenario, [])
    fitted, notes = fit_time(scenario, virtual=True)
    assert (fitted.load.driver, fitted.hosts.kind, fitted.hosts.processes) == ("pods", "inline", 4)
    assert notes == ["virtual time is that of one process: hosts.kind = 'local' was not used"]
    together, notes = fit_time(load_scenario("baseline"), virtual=True)
    assert (together, notes) == (load_scenario("baseline", settings=("load.driver=pods",)), [])


EVICTED = ("faults=[{kind='keys_lost',at_s=1,for_s=1,how='evict'}]",)
REFUSED: list[tuple[str, tuple[str, ...], Any, str]] = [
    (
        "baseline",
        ("bus.transport=streams",),
        ground("cluster", several=True),
        "cluster has several nodes, and bus.transport = 'streams' keeps events on one: use --on embedded or cluster:1",
    ),
    (
        "broker_down",
        (),
        ground("theirs", ours=False),
        "theirs is not ours to hurt: the fault broker_down needs a broker that is; use --on embedded or --on model",
    ),
    (
        "link_cut",
        (),
        ground("theirs", ours=False),
        "theirs is not ours to hurt: the fault link_cut needs a broker that is; use --on embedded or --on model",
    ),
    (
        "broker_failover",
        (),
        ground("embedded"),
        "embedded has no replica that could take over: run broker_failover with --on cluster or container-cluster",
    ),
    (
        "connections_refused",
        (),
        ground("cluster", several=True),
        "cluster has several nodes, which could not reach each other any more: run connections_refused with --on embedded",
    ),
    (
        "keys_lost",
        EVICTED,
        ground("model"),
        "the model keeps no account of memory, so how = 'evict' would evict nothing: run the fault keys_lost with --on embedded",
    ),
    (
        "link_cut",
        (),
        ground("cluster", several=True),
        "cluster has several nodes, and a pod's link leads to one: run link_cut on embedded or model",
    ),
    (
        "link_cut",
        ("load.driver=locust",),
        ground("embedded"),
        "the fault link_cut acts on the links of pods, and Locust has links of its own: set load.driver = 'pods'",
    ),
]


@pytest.mark.parametrize(("name", "settings", "on", "said"), REFUSED, ids=[said[:40] for *_, said in REFUSED])
def test_a_ground_that_cannot_run_a_scenario_says_why_and_which_can(name: str, settings: tuple[str, ...], on: Any, said: str) -> None:
    assert refusal(lambda: check_ground(load_scenario(name, settings=settings), on)) == said


@pytest.mark.parametrize(
    ("name", "settings", "on"),
    [
        ("baseline", ("bus.transport=streams",), ground("embedded")),
        ("baseline", (), ground("theirs", several=True, ours=False)),
        ("pod_kill", (), ground("theirs", several=True, ours=False)),
        ("link_cut", (), ground("model")),
        ("broker_failover", (), ground("cluster", several=True)),
        ("connections_refused", (), ground("embedded")),
        ("keys_lost", EVICTED, ground("embedded")),
    ],
)
def test_a_ground_that_can_run_a_scenario_is_not_refused(name: str, settings: tuple[str, ...], on: Any) -> None:
    check_ground(load_scenario(name, settings=settings), on)


BY_HTTP = ("load.mix.'http.events.batch'=1", "services.music-service.publishes=['http.events.batch']")
UNUSED = [f"load.mix.'{kind}'=0" for kind in EVENT_TYPES if kind != "config.template.invalidated"]

# settings, nodes, whether the server is ours, the files: of 12 pods that hear and speak, of which the 11 that publish are Locust's
FILES: list[tuple[tuple[str, ...], int, bool, int]] = [
    (("load.driver=pods",), 1, False, OWN_FILES + 12 * 2),
    (("load.driver=pods",), 1, True, SERVER_FILES + 12 * 2),
    ((), 1, True, SERVER_FILES + 12 * 2 + 11),
    ((), 1, False, OWN_FILES + 12 * 2),
    (("hosts.kind=local", "hosts.processes=12"), 1, False, OWN_FILES + 11),
    (("load.driver=pods", "bus.once=two-key"), 1, False, OWN_FILES + 12 * 3),
    (("load.driver=pods", "bus.once=two-key"), 6, False, OWN_FILES + 12 * (2 + 6)),
    (("load.driver=pods",), 6, False, OWN_FILES + 12 * 2),
    (("load.driver=pods", "bus.transport=sharded"), 6, False, OWN_FILES + 12 * 2 * 6),
    (("bus.transport=sharded", "hosts.kind=local", "hosts.processes=12"), 6, False, OWN_FILES + 11 * 6),
    (("load.driver=pods", "kubelet.enabled=true"), 1, False, OWN_FILES + 12 * 4),
    (("load.driver=pods", *BY_HTTP), 1, False, OWN_FILES + 12 * 4),
    (("load.driver=pods", "hosts.kind=local", "hosts.processes=4"), 1, False, OWN_FILES + 3 * 2),
    (("load.driver=pods", "hosts.kind=local", "hosts.processes=5"), 1, False, OWN_FILES + 3 * 2),
    (("load.driver=pods", "hosts.kind=local", "hosts.processes=4"), 1, True, SERVER_FILES + 12 * 2),
    (("load.driver=pods", "bus.transport=memory"), 1, True, OWN_FILES + 12 * 2),
    ((*UNUSED,), 1, True, SERVER_FILES + 12 * 2 + 1),
    ((*UNUSED, "load.mix.'config.template.invalidated'=0.5"), 1, True, SERVER_FILES + 12 * 2 + 1),
]


@pytest.mark.parametrize(("settings", "nodes", "ours", "files"), FILES)
def test_the_process_that_opens_most_files_is_the_one_that_counts(settings: tuple[str, ...], nodes: int, ours: bool, files: int) -> None:
    assert files_needed(load_scenario("baseline", settings=settings), nodes=nodes, server_is_ours=ours) == files


def test_a_proxy_of_links_has_both_ends_of_every_connection_and_a_door_for_each_pod() -> None:
    cut = load_scenario("link_cut", settings=("bus.once=two-key",))
    assert files_needed(cut) == files_needed(cut, server_is_ours=False) == OWN_FILES + len(cut.pods()) * (1 + 2 * 3)


def test_a_limit_that_is_just_enough_is_enough_and_the_model_opens_none(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = load_scenario("baseline", settings=("load.driver=pods",))

    def tried(may: int, on: str, **how: int) -> Scenario:
        monkeypatch.setattr("sim.run.fit.raise_open_files", lambda: may)
        return check_open_files(scenario, on=on, **how)

    ours, theirs = SERVER_FILES + 24, OWN_FILES + 24
    for may, on in ((ours, "embedded"), (theirs, "cluster:3"), (theirs, "redis://127.0.0.1:7000"), (1, "model"), (1, "model:7")):
        assert tried(may, on) is scenario
    said = "12 pods need about {:,} open files in one process, and this shell allows {:,}: run `ulimit -n {}` first"
    more = " (where the hard limit is lower, root must raise it), or run fewer pods"
    assert refusal(lambda: tried(ours - 1, "embedded")) == said.format(ours, ours - 1, ours) + more
    assert refusal(lambda: tried(ours - 1, "embedded:2")) == said.format(ours, ours - 1, ours) + more
    assert refusal(lambda: tried(theirs - 1, "cluster:3", nodes=3)) == said.format(theirs, theirs - 1, theirs) + more


def test_one_server_of_ours_is_what_is_meant_where_nothing_else_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = load_scenario("baseline", settings=("load.driver=pods", "bus.transport=sharded", "bus.once=two-key"))
    assert files_needed(scenario) == files_needed(scenario, nodes=1, server_is_ours=True) == SERVER_FILES + 12 * 3
    monkeypatch.setattr("sim.run.fit.raise_open_files", lambda: SERVER_FILES + 12 * 3)
    assert check_open_files(scenario) is scenario
    monkeypatch.setattr("sim.run.fit.raise_open_files", lambda: SERVER_FILES + 12 * 3 - 1)
    assert f"{SERVER_FILES + 12 * 3} open files" in refusal(lambda: check_open_files(scenario))
    assert f"{OWN_FILES + 12 * (2 * 6 + 6)} open files" in refusal(lambda: check_open_files(scenario, on="cluster:3", nodes=6))


def test_users_of_one_s_own_live_in_real_time_and_each_publishes_as_every_service(tmp_path: Path) -> None:
    (tmp_path / "users.py").write_text("")
    own = load_scenario("baseline", settings=(f"load.locustfile={tmp_path / 'users.py'}", "load.users=70"))
    assert refusal(lambda: fit_time(own, virtual=True)) == ("--on model: the users of load.locustfile live in real time: use --on embedded")
    assert fit_time(own, virtual=False)[0] is own
    publishing = [service for service in own.services.values() if service.publishes]
    assert 1 < len(publishing) < len(own.services)
    assert files_needed(own, server_is_ours=False) == OWN_FILES + 70 * len(publishing)
    assert files_needed(own) == SERVER_FILES + 12 * 2 + 70 * len(publishing)
