"""Services whose pods are programs: what a scenario may say of them, and the one sentence on what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.errors import ScenarioError, UsageError
from sim.run.fit import check_hosts, fit_time
from sim.scenario.file import load_scenario
from sim.scenario.manifests.write import manifests
from sim.scenario.notes import notes_of
from sim.scenario.programs import id_pointer, no_program, ready_address
from sim.scenario.settings import EnvelopeForm

OWN = """
[channels."order.created"]
rate_per_s = 10
[channels."stock.reserved"]
rate_per_s = 5
[services.web]
publishes = ["order.created"]
[services.stock]
command = ["node", "stock.js"]
subscribes = ["order.created"]
publishes = ["stock.reserved"]
[services.billing]
subscribes = ["stock.reserved"]
"""


def write(folder: Path, text: str = OWN) -> str:
    (folder / "own.toml").write_text(text)
    return str(folder / "own.toml")


def test_it_runs_in_the_scenario_s_folder_and_decides_by_itself_what_it_sends(tmp_path: Path) -> None:
    scenario = load_scenario(write(tmp_path))
    stock = scenario.services["stock"]
    assert stock.folder == str(tmp_path.absolute())
    assert scenario.load.mix == {"order.created": 10.0} and scenario.load.rate_per_s == 10
    pods = [name for name, _ in scenario.first_pods()]
    assert {pods[number] for number in set(scenario.schedule().pod.tolist())} == {"web-0"}
    assert (stock.is_ready_when, stock.own_behaviour) == ("subscribed", "hears")
    assert not notes_of(scenario)


def test_a_service_of_the_reference_s_name_that_is_a_program_does_nothing_of_ours(tmp_path: Path) -> None:
    text = '[services.music-service]\npublishes = ["config.template.invalidated"]\n[services.ai-config-service]\ncommand = ["x"]\n'
    text += 'subscribes = ["config.template.invalidated"]\n[load]\nmix = {"config.template.invalidated" = 1}\n'
    scenario = load_scenario(write(tmp_path, text))
    assert scenario.behaviour("ai-config-service") == "hears"


def test_programs_alone_may_make_the_load(tmp_path: Path) -> None:
    text = '[channels."a.b"]\n[services.one]\ncommand = ["x"]\npublishes = ["a.b"]\n[services.two]\ncommand = ["y"]\nsubscribes = ["a.b"]\n'
    scenario = load_scenario(write(tmp_path, text))
    assert len(scenario.schedule()) == 0


WRONG = [
    (
        "replicas = 2\nenv = {A = 'x'}\n",
        "web",
        "services.web.env = {'A': 'x'}: it is of a program, and this service has none; give it a command",
    ),
    ('ready = "subscribed"\n', "web", "services.web.ready = 'subscribed': it is of a program, and this service has none"),
    (
        "handler_ms = 5\n",
        "stock",
        "services.stock.handler_ms = 5.0: it says how a pod of ours is simulated, and these are programs; leave it out",
    ),
    ('behaviour = "gateway"\n', "stock", "services.stock.behaviour = 'gateway': it says how a pod of ours is simulated"),
    ('env = {REDIS_URL = "x"}\n', "stock", "services.stock.env.REDIS_URL: the run sets it itself; leave it out"),
    ('env = {"A B" = "x"}\n', "stock", "services.stock.env: 'A B' is no name of a variable"),
    (
        'env = {A = "{prot}"}\n',
        "stock",
        "services.stock.env.A = '{prot}': {prot} stands for nothing (did you mean 'port'?); known: {python}, {port}",
    ),
    ('stop = "SIGKILL"\n', "stock", "services.stock.stop = 'SIGKILL': no such signal"),
    ("grace_s = -1\n", "stock", "services.stock.grace_s = -1: expected `float` >= 0.0"),
    (
        'ready = "http://example.org/ready"\n',
        "stock",
        "services.stock.ready = 'http://example.org/ready': give 'subscribed', 'started', or an",
    ),
    (
        'ready = "http://127.0.0.1:80/r"\nreplicas = 2\n',
        "stock",
        "services.stock.ready = 'http://127.0.0.1:80/r': 2 replicas cannot listen on one port; write {port}",
    ),
    ('ready = "http://127.0.0.1:70000/r"\n', "stock", "services.stock.ready = 'http://127.0.0.1:70000/r': ports end at 65535"),
    ("replicas = 300\n", "stock", "services ask for 300 programs, more than 256: lower replicas"),
    ('folder = "nowhere"\n', "stock", "services.stock.folder = 'nowhere': there is no such folder"),
]


@pytest.mark.parametrize(("lines", "service", "said"), WRONG)
def test_what_is_wrong_with_a_program_is_one_sentence(tmp_path: Path, lines: str, service: str, said: str) -> None:
    text = OWN.replace(f"[services.{service}]\n", f"[services.{service}]\n{lines}")
    with pytest.raises(ScenarioError) as refused:
        load_scenario(write(tmp_path, text))
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (('services.stock.command=[""]',), "services.stock.command[0] = '': name the program that its pods run"),
        (('services.stock.command="node stock.js"',), "services.stock.command = 'node stock.js': expected `array`, got `str`"),
        (('services.stock.command=["node", 3]',), "services.stock.command[1] = 3: expected `str`, got `int`"),
        (('hosts.kind="local"',), "hosts.kind = 'local': services.stock is a program, beside which pods of ours live in the run's process"),
        (('bus.transport="streams"',), "bus.transport = 'streams': services.stock is a program, and those are followed on Pub/Sub only"),
        (("bus.redis_url=false", 'load.driver="pods"'), "bus.redis_url = false: services.stock is a program, which gets a REDIS_URL"),
        (('load.mix."stock.reserved"=1',), "load.mix: 'stock.reserved' is published by programs, which decide by themselves when"),
        (
            ('faults=[{kind="slow_handler", at_s=1, for_s=1, handler_ms=5}]',),
            "faults[0]: slow_handler acts inside pods of ours, and stock is",
        ),
        (
            ('faults=[{kind="clock_skew", at_s=1, for_s=1, skew_ms=5, pods=["stock-0"]}]',),
            "faults[0]: clock_skew acts inside pods of ours, and stock-0 is a program: name pods of ours in its pods, or leave it out",
        ),
        (
            ('faults=[{kind="subscribers_cut", at_s=1, for_s=1}]',),
            "faults[0]: subscribers_cut finds connections by the names that pods of ours",
        ),
    ],
)
def test_what_does_not_go_together_with_programs_is_one_sentence(tmp_path: Path, settings: tuple[str, ...], said: str) -> None:
    with pytest.raises(ScenarioError) as refused:
        load_scenario(write(tmp_path), settings=settings)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_program_lives_in_real_time_and_must_be_there(tmp_path: Path) -> None:
    scenario = load_scenario(write(tmp_path), settings=('services.stock.command=["no-such-program-7"]',))
    with pytest.raises(UsageError, match=r"--on model: services\.stock is a program, which lives in real time"):
        fit_time(scenario, virtual=True)
    with pytest.raises(UsageError, match=r"services\.stock\.command\[0\] = 'no-such-program-7': no such program is on PATH"):
        check_hosts(scenario)


def test_a_command_is_looked_for_on_path_or_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "plain.sh").write_text("exit 0\n")
    assert no_program("sh", folder=str(tmp_path), env={}) == ""
    assert "no such program is on PATH" in no_program("sh", folder=str(tmp_path), env={"PATH": str(tmp_path)})
    assert f"there is no file {tmp_path / 'none.sh'}" in no_program("./none.sh", folder=str(tmp_path), env={})
    assert "may not be executed: chmod +x it" in no_program("./plain.sh", folder=str(tmp_path), env={})


def test_where_readiness_and_ids_are_found() -> None:
    assert ready_address("http://127.0.0.1:{port}/health/ready?x=1", port=4000) == (4000, "/health/ready?x=1")
    assert ready_address("http://localhost:81/", port=4000) == (81, "/")
    assert ready_address("subscribed", port=4000) is None
    kinds = {"aiponge": "/eventId", "cloudevents": "/id", "plain": "/id", "raw": ""}
    assert {kind: id_pointer(EnvelopeForm(kind=kind)) for kind in kinds} == kinds  # type: ignore[arg-type]
    assert id_pointer(EnvelopeForm(kind="plain", id="/meta/id")) == "/meta/id"


def test_no_manifests_are_made_of_a_program(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"services\.stock is a program of yours, whose manifests are yours to write"):
        manifests(write(tmp_path))
