"""`buslab new`: from an empty folder to a verdict, as a user types it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_main import one_line_error
from tests.support.cli import buslab


def test_three_commands_lead_from_an_empty_folder_to_a_verdict(tmp_path: Path) -> None:
    made = buslab("new", "shop", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    *_, change, _, run, _ = made.stdout.splitlines()
    assert (change, run) == ("next     cd shop", "next     buslab run shop.toml --on model")
    assert "wrote    shop/shop.bus.toml" in made.stdout.splitlines()
    ran = buslab("run", "shop.toml", "--on", "model", "--out", "run", cwd=tmp_path / "shop")
    assert ran.returncode == 0, ran.stderr
    assert "verdict  valid" in ran.stdout and "note: " not in ran.stderr


FASTSTREAM = Path(__file__).parents[2] / "docs" / "examples" / "faststream"


def test_documents_of_services_lead_to_a_verdict_too(tmp_path: Path) -> None:
    documents = [str(FASTSTREAM / f"{name}.yaml") for name in ("gateway", "averages", "dashboard")]
    made = buslab("new", "sensors", "--from", *documents, cwd=tmp_path)  # as a shell makes it of *.yaml
    assert made.returncode == 0, made.stderr
    assert "note: the addresses have no prefix in common" in made.stderr
    ran = buslab("run", "sensors.toml", "--on", "model", "--out", "run", cwd=tmp_path / "sensors")
    assert ran.returncode == 0, ran.stderr
    assert {path.name for path in (tmp_path / "sensors").glob("*.toml")} == {"sensors.toml", "sensors-outage.toml", "sensors.bus.toml"}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["there"], "there: the folder exists and is not empty"),
        (["a/b"], "give a name without a slash"),
        (["x", "--like", "aipong"], "did you mean 'aiponge'"),
        (["x", "--dir", "there/file"], "there/file: Not a directory"),
        (["x", "--like", "shop", "--from", "there/file"], "--like shop and --from: each says what the bus is"),
        (["x", "a.yaml"], "a.yaml: a document needs --from before it, as in: buslab new x --from a.yaml"),
        (["x", "--from", "there/file"], "there/file"),
        (["x", "--from", "nowhere.yaml"], "nowhere.yaml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_refused_is_one_line_and_writes_nothing(args: list[str], says: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    assert says in one_line_error(buslab("new", *args, cwd=tmp_path))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "there"]
