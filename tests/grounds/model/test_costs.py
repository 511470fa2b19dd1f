"""The file of costs: what is written is read, and what cannot be is refused with its name and value."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from sim.errors import UsageError
from sim.grounds.model.costs import (
    FILE_FORMAT,
    LINK,
    VALUES,
    WINDOW_BYTES,
    CostInterval,
    Costs,
    CostsFile,
    GroundCosts,
    read_costs,
    write_costs,
)

DEFAULTS = asdict(Costs()) | {"link_delay_ns": LINK.delay_ns, "link_jitter_ns": LINK.jitter_ns, "window_bytes": WINDOW_BYTES}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of the defaults."""
    values = {name: CostInterval(value, value, value) for name, value in DEFAULTS.items()}
    write_costs(CostsFile(FILE_FORMAT, "2026-01-01T00:00:00", 3, values, {}, {}), tmp_path / "made" / "costs.json")
    return tmp_path / "made" / "costs.json"


def test_what_is_written_is_read(path: Path) -> None:
    assert set(DEFAULTS) == set(VALUES)
    assert read_costs(path) == GroundCosts()


def changed(path: Path, change: dict[str, Any]) -> None:
    tree = json.loads(path.read_text())
    values = change.pop("values", {})
    tree |= change
    for name, value in values.items():
        if value is None:
            del tree["values"][name]
        else:
            tree["values"][name] = {"mean": value, "low": 0, "high": 0}
    path.write_text(json.dumps(tree))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"values": {"write_ns": -5}}, "write_ns = -5"),
        ({"values": {"write_ns": "fast"}}, "mean"),
        ({"values": {"write_ns": None}}, "lacks write_ns"),
        ({"values": {"wrte_ns": 1}}, "does not know: wrte_ns"),
        ({"values": {"window_bytes": 0}}, "window_bytes = 0"),
        ({"format": 99}, "format 99"),
        ({"colour": "red"}, "colour"),
    ],
    ids=str,
)
def test_a_wrong_file_is_refused_with_what_is_wrong(path: Path, change: dict[str, Any], says: str) -> None:
    changed(path, change)
    with pytest.raises(UsageError, match=says) as refused:
        read_costs(path)
    assert "buslab calibrate" in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"], ids=str)
def test_a_file_that_is_no_calibration_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(UsageError, match="holds no costs"):
        read_costs(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere.json"):
        with pytest.raises(UsageError, match="cannot read the model's costs from"):
            read_costs(path)
    with pytest.raises(UsageError, match="cannot write"):
        write_costs(CostsFile(FILE_FORMAT, "", 3, {}, {}, {}), tmp_path)


def test_the_committed_calibration_is_still_read() -> None:
    costs = read_costs(Path(__file__).parents[3] / "reports" / "costs.json")
    assert costs.server.turn_ns > 0 and costs.window_bytes > 0 and costs.link.delay_ns > 0
