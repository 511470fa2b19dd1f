"""Where a run folder may go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sim.errors import UsageError
from sim.run.folder import empty_folder


def test_a_folder_whose_name_is_no_text_is_refused_before_the_run_not_at_its_end(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9") / "run"
    with pytest.raises(UsageError, match=r"caf\\udce9/run': the name is not UTF-8; choose another") as error:
        empty_folder(folder)
    assert str(error.value).isascii()
    assert empty_folder(tmp_path / "café") == tmp_path / "café"
