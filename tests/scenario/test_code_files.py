"""Which files of a user's folder go to the workers, and how it is seen that they are the same there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import UsageError
from sim.scenario import code_files as module
from sim.scenario.code_files import code_checksum, code_files


def test_modules_and_packages_are_taken_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a.py", "pkg/__init__.py", "pkg/deep/b.py", "pkg/data.csv", "notes.txt", ".venv/__init__.py", ".hidden.py", "loose/c.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}")
    (tmp_path / "link.py").symlink_to(tmp_path / "a.py")
    assert code_files(tmp_path) == {name: f"# {name}".encode() for name in ("a.py", "pkg/__init__.py", "pkg/deep/b.py")}
    assert code_files(tmp_path / "none") == {}


def test_a_folder_that_is_not_one_of_modules_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 1 << 20)
    (tmp_path / "big.py").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(UsageError, match=r"has more than 1 MiB of Python files, too many to send to the workers"):
        code_files(tmp_path)


names = st.dictionaries(st.text("ab/.", min_size=1, max_size=4), st.binary(max_size=6), max_size=4)


@given(names, names)
def test_the_checksum_tells_folders_apart(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    assert (code_checksum(one) == code_checksum(dict(reversed(one.items())))) is True
    assert (code_checksum(one) == code_checksum(other)) == (one == other)
