"""`buslab schema`: what it prints is what the reference publishes, and a file of it is written whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from sim.cli.commands.schema import schema
from sim.errors import UsageError

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize("kind", ["scenario", "bus"])
def test_it_prints_or_writes_what_is_published(kind: str, tmp_path: Path) -> None:
    published = (REFERENCE / f"{kind}.schema.json").read_text("utf-8")
    assert CliRunner().invoke(schema, [kind], standalone_mode=False).output == published
    file = tmp_path / "new" / "a.json"
    assert CliRunner().invoke(schema, [kind, "--out", str(file)], standalone_mode=False).output == f"schema   {file}\n"
    assert file.read_text("utf-8") == published


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(schema, ["--out", str(tmp_path)], standalone_mode=False)
    assert isinstance(done.exception, UsageError) and "it is a folder" in str(done.exception)
