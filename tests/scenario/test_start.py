"""A bus of one's own, from its name to a folder that runs: every file of it is read as its reader would."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from sim.errors import ScenarioError, UsageError
from sim.experiments.notebooks.run import load_notebook, run_notebooks
from sim.record.limits import read_metric
from sim.results.checkers import judge
from sim.results.opened_run import open_run
from sim.run.steps import run_scenario
from sim.scenario import start
from sim.scenario.file import load_scenario
from sim.scenario.json_schema import KINDS
from sim.scenario.notes import notes_of
from sim.scenario.settings import reference_behaviours, reference_channels
from sim.scenario.start import new_bus, next_commands, scenario_names, start_files
from sim.scenario.starts import STARTS

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "shop" / "shop.bus.toml"
NAMES = [
    *("shop", "my shop", "магазин", "it's", "-x", ".hidden", 'a"b', "a`b|c", "x\ny", "a\\b", "#1", "${{ x }}", "<< x >>", "sim", "$HOME"),
    *("日" * 66, "\x7f\x85\u2028", "🛒", "a.toml", "pandas", "%s", "a:b", " "),
]


@pytest.mark.parametrize("like", STARTS)
def test_each_start_runs_at_once_and_nothing_about_it_is_odd(like: str, tmp_path: Path) -> None:
    folder = new_bus("mine", like=like, folder=tmp_path / "mine")
    for file in scenario_names("mine"):
        scenario = load_scenario(str(folder / file))
        assert notes_of(scenario) == []
        run = open_run(run_scenario(scenario, on="model", out=tmp_path / file / "run"))
        verdict = judge(run)
        assert verdict.verdict == "valid", verdict.reasons
        lost = (run.ledger()["fate"] == "missing").sum()
        assert (lost > 0) == bool(scenario.faults)
    assert load_scenario(str(folder / "mine.toml")).bus.channel_prefix == "mine:"


def test_the_reference_begins_as_the_reference() -> None:
    tree = tomllib.loads(start.start_text("mine", "aiponge"))
    assert {name: one["payload"] for name, one in tree["channels"].items() if "payload" in one} == {
        name: one.payload for name, one in reference_channels().items()
    }
    assert {name: one["behaviour"] for name, one in tree["services"].items()} == reference_behaviours()
    baseline = load_scenario("baseline")
    assert {
        name: (one["replicas"], *map(tuple, (one.get("publishes", ()), one.get("subscribes", ()))))
        for name, one in tree["services"].items()
    } == {name: (one.replicas, one.publishes, one.subscribes) for name, one in baseline.services.items()}
    rates = {name: one["rate_per_s"] for name, one in tree["channels"].items()}
    assert rates == {name: weight * baseline.load.rate_per_s / 100 for name, weight in baseline.load.mix.items()}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name_that_a_file_may_have(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = new_bus(name)
    assert folder == Path(name) and folder.is_dir() and [path.name for path in tmp_path.iterdir()] == [name]
    everyday, outage = scenario_names(name)
    monkeypatch.chdir(folder)
    for file in (everyday, outage):
        assert load_scenario(file).services["billing"].must_not_double
    code = next(cell for cell in load_notebook(f"./{name}-notebook.py").node.cells if "parameters" in cell.metadata.get("tags", ()))
    assert ast.literal_eval(ast.parse(code.source).body[0].value) == outage  # type: ignore[attr-defined]
    dashed = f"./{everyday}" if name.startswith("-") else everyday
    workflow = (folder if folder.is_absolute() else Path()) / ".github" / "workflows" / "bus.yml"
    values = [json.loads(value) for value in re.findall(r"SCENARIO: (.*)", workflow.read_text("utf-8").replace("${{ '${{' }}", "${{"))]
    assert values == [dashed, dashed]
    (check, *_) = re.findall(r"buslab check-scenario (.*)\n", (Path() / "README.md").read_text("utf-8"))
    assert said_by_a_shell(check) == dashed


def said_by_a_shell(word: str) -> str:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True, env=environment)
    return done.stdout.decode()


def test_what_to_type_next_is_as_a_shell_wants_it(tmp_path: Path) -> None:
    change, check, *_ = next_commands("it's", tmp_path / "a b")
    assert said_by_a_shell(change.removeprefix("cd ")) == str(tmp_path / "a b")
    assert said_by_a_shell(check.removeprefix("buslab check-scenario ")) == "it's.toml"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "cannot be that of a file"),
        (".", "cannot be that of a file"),
        ("..", "cannot be that of a file"),
        ("a/b", "give a name without a slash"),
        ("a\0b", "cannot be that of a file"),
        ("x" * 201, "has 201 bytes, more than 200"),
        ("\udcff", "is not UTF-8"),
    ],
    ids=ascii,
)
def test_a_name_that_no_file_can_have_is_refused(name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=says) as refused:
        new_bus(name)
    assert "\n" not in str(refused.value) and list(tmp_path.iterdir()) == []


def test_an_unknown_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no bus like 'shp' \(did you mean 'shop'\?\); there are shop, aiponge"):
        new_bus("mine", like="shp", folder=tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_anything_is_refused_and_an_empty_one_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note").touch()
    with pytest.raises(UsageError, match="the folder exists and is not empty"):
        new_bus("mine", folder=tmp_path / "mine")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="Not a directory"):
        new_bus("mine", folder=tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="leads nowhere"):
        new_bus("mine", folder=tmp_path / "link")
    (tmp_path / "mine" / "note").unlink()
    monkeypatch.chdir(tmp_path / "mine")
    assert new_bus("mine", folder=Path()) == Path()
    assert {path.name for path in Path().iterdir()} == {path.parts[0] for path in start_files("mine", start.start_text("mine", "shop"))}


def broken(*_: Any) -> Any:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("there", [False, True], ids=["new", "empty"])
@pytest.mark.parametrize("step", ["write_text", "rename"])
def test_it_is_written_whole_or_not_at_all(step: str, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "deep" / "mine"
    if there:
        folder.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    real, calls = getattr(Path, step), 0

    def fails_late(self: Path, *given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        return broken() if calls > (3 if there or step == "write_text" else 0) else real(self, *given, **named)

    monkeypatch.setattr(Path, step, fails_late)
    with pytest.raises(UsageError, match="No space left on device; choose another with --dir"):
        new_bus("mine", folder=folder)
    assert calls > 0 and sorted(tmp_path.rglob("*")) == before


def test_a_bus_from_elsewhere_begins_in_the_same_way(tmp_path: Path) -> None:
    text = EXAMPLE.read_text("utf-8")
    folder = new_bus("mine", bus_text=text, folder=tmp_path / "mine")
    assert (folder / "mine.bus.toml").read_text("utf-8") == f"#:schema ./bus.schema.json\n{text}"
    scenario = load_scenario(str(folder / "mine.toml"))
    assert list(scenario.services) == ["orders", "billing", "search", "notify"]
    assert scenario.slo == {'unserved.service."billing"': 0, "missing": 0, "lag_ms_p99": 500}
    assert "`search` (10 pods)" in (folder / "mine-notebook.py").read_text("utf-8")


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("[channels", UsageError, "mine.bus.toml: not valid TOML"),
        (
            EXAMPLE.read_text("utf-8").replace('"order.created"]\nmust', '"order.creatd"]\nmust'),
            ScenarioError,
            "unknown channel 'order.creatd'",
        ),
        ("[services.a]\nsubscribes = []\n", ScenarioError, "services.a: this service publishes nothing and subscribes to nothing"),
    ],
    ids=["toml", "channel", "service"],
)
def test_a_bus_that_cannot_run_is_not_written(text: str, error: type[Exception], says: str, tmp_path: Path) -> None:
    with pytest.raises(error) as refused:
        new_bus("mine", bus_text=text, folder=tmp_path / "mine")
    assert says in str(refused.value) and "\n" not in str(refused.value) and list(tmp_path.iterdir()) == []


def test_a_bus_that_nobody_hears_and_a_service_of_a_strange_name_begin_too(tmp_path: Path) -> None:
    text = '[channels.a]\nrate_per_s = 3\n[services."zü:\\"x"]\npublishes = ["a"]\n'
    deaf = new_bus("deaf", bus_text=text, folder=tmp_path / "deaf")
    assert "unserved" not in (deaf / "deaf.toml").read_text("utf-8")
    heard = new_bus("heard", bus_text=text + 'subscribes = ["a"]\n', folder=tmp_path / "heard")
    limits = [read_metric(metric) for metric in load_scenario(str(heard / "heard.toml")).slo]
    assert ("unserved", "service", 'zü:"x') in limits


def test_a_limit_is_on_a_service_that_hears_what_somebody_publishes(tmp_path: Path) -> None:
    """Documents of some services only: what nobody publishes would leave a limit on it unknown."""
    text = (
        '[channels.a]\nrate_per_s = 3\n[channels.b]\nrate_per_s = 3\n[services.first]\nmust_not_double = true\nsubscribes = ["a"]\n'
        '[services.second]\npublishes = ["b"]\n[services.third]\nsubscribes = ["b"]\n'
    )
    begun = load_scenario(str(new_bus("some", bus_text=text, folder=tmp_path / "some") / "some.toml"))
    assert [metric for metric in begun.slo if metric.startswith("unserved")] == ['unserved.service."third"']


def test_the_files_fit_their_schemas_which_lie_beside_them(tmp_path: Path) -> None:
    folder = new_bus("mine", folder=tmp_path / "mine")
    schemas = {kind: Draft202012Validator(json.loads((folder / f"{kind}.schema.json").read_text("utf-8"))) for kind in KINDS}
    for file in folder.glob("*.toml"):
        first, *_ = file.read_text("utf-8").splitlines()
        kind = "bus" if file.name.endswith(".bus.toml") else "scenario"
        assert first == f"#:schema ./{kind}.schema.json"
        assert schemas[kind].is_valid(tomllib.loads(file.read_text("utf-8")))


def test_the_notebook_is_the_script(tmp_path: Path) -> None:
    folder = new_bus("mine", folder=tmp_path / "mine")
    script, notebook = (load_notebook(str(folder / f"mine-notebook{ending}")) for ending in (".py", ".ipynb"))
    assert [(cell.cell_type, cell.source) for cell in script.node.cells] == [(cell.cell_type, cell.source) for cell in notebook.node.cells]
    assert script.title == notebook.title == "What does billing never see when Redis is away, and how late is the rest?"
    assert script.parameters == notebook.parameters == {"scenario": "mine-outage.toml", "ground": "model", "run_folder": ""}
    text = (folder / "mine-notebook.py").read_text("utf-8")
    assert all(f"`{service}`" in text for service in ("billing", "search", "notify")) and "<<" not in text


@pytest.mark.broker
@pytest.mark.parametrize("like", STARTS)
def test_the_notebook_runs_and_says_what_was_lost(like: str, tmp_path: Path) -> None:
    folder = new_bus("mine", like=like, folder=tmp_path / "mine")
    (done,) = run_notebooks([str(folder / "mine-notebook.ipynb")], out=tmp_path / "out", timeout_s=200)
    assert done.verdict == "valid", done
    found = re.fullmatch(
        r"Of ([\d,]+) copies ([\d,]+) are missing((?:, [\d,]+ of [\w-]+)+); of each .* handled within [\d.]+ [mun]?s\.", done.sentence
    )
    assert found, done.sentence
    numbers = [int(number.replace(",", "")) for number in re.findall(r"(?<=, )[\d,]+(?= of)", found[3])]
    assert sum(numbers) == int(found[2].replace(",", "")) > 0
