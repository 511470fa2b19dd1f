"""The list of tests that are too long for each change: each entry names tests, and something of each file stays."""

from __future__ import annotations

import pytest

from tests.support.too_long import COLLECTED, TOO_LONG


def test_each_entry_names_a_test_and_leaves_others_of_its_file(request: pytest.FixtureRequest) -> None:
    """Judged is what this session collected: all, or the files that it was given."""
    collected = request.config.stash[COLLECTED]
    files = {name.partition("::")[0] for name in collected}
    entries = [entry for entry in TOO_LONG if entry.partition("::")[0] in files]
    stale = [entry for entry in entries if not any(name.startswith(entry) for name in collected)]
    is_whole = not any("::" in argument for argument in request.config.args)
    assert not (stale and is_whole), stale
    for file in {entry.partition("::")[0] for entry in entries}:
        assert any(name.startswith(f"{file}::") and not name.startswith(TOO_LONG) for name in collected), file


def test_an_entry_is_there_once_and_covers_no_other() -> None:
    assert [one for one in TOO_LONG if sum(other.startswith(one) for other in TOO_LONG) > 1] == []
