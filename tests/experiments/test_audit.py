"""The self-audit finds exactly what it planted, and does not pass when the plant and the verdict differ."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from sim.experiments.audit import run_audit

pytestmark = pytest.mark.broker


def test_a_planted_loss_duplicate_swap_and_delay_are_each_reported_exactly(tmp_path: Path) -> None:
    audit = run_audit(out=tmp_path / "run")
    assert {row.what: (row.planted, row.reported) for row in audit.rows if not row.exact} == {}
    assert audit.exact
    assert audit.rows[-1].planted > 6_900_000, "the delay was planted"


def test_an_instrument_that_loses_rows_does_not_pass_its_audit(tmp_path: Path) -> None:
    def lose_every_tenth(rows: pa.Table) -> pa.Table:
        return rows.take(pa.array([row for row in range(rows.num_rows) if row % 10]))

    audit = run_audit(out=tmp_path / "run", planter=lose_every_tenth)
    assert not audit.exact
    assert "do not trust" in audit.text
