"""The self-audit finds exactly what it planted, and does not pass when the plant and the verdict differ."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from sim.errors import UsageError
from sim.experiments.audit import audited, run_audit
from sim.scenario.file import load_scenario

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SHOP = str(EXAMPLES / "shop" / "everyday.toml")


@pytest.mark.parametrize(
    ("name", "planted_in"), [("shop", ("billing", "search")), ("chat", ("gateway", "")), ("faststream", ("averages", "dashboard"))]
)
def test_any_bus_is_audited_with_a_few_of_its_services(name: str, planted_in: tuple[str, str], tmp_path: Path) -> None:
    scenario = load_scenario(str(EXAMPLES / name / "redis_away.toml"))
    narrow, crowd, single = audited(scenario)
    assert (crowd, single) == planted_in
    audit = run_audit(scenario=scenario, on="model", out=tmp_path / "run")
    assert {row.what: (row.planted, row.reported) for row in audit.rows if not row.exact} == {}
    missing, unheard = 2 if single else 1, 1 if single else 0
    assert [row.planted for row in audit.rows[:5]] == [missing, 1, unheard, unheard, unheard]
    assert narrow.faults == () and not any(one.batched for one in narrow.channels.values())


def test_a_bus_that_cannot_be_audited_with_says_why(tmp_path: Path) -> None:
    for settings, why in {
        ("bus.transport=streams",): r"bus.transport = 'streams': an audit plants in what each pod hears",
        ("bus.redis_url=false", "load.driver=pods"): r"bus.redis_url = false: an audit plants in what each pod hears",
        ("envelope.kind=raw", 'channels."order.created".key=""'): "envelope.kind = 'raw': an audit names the events",
        tuple(
            f'channels."{name}".order=false' for name in ("order.created", "price.invalidated", "search.asked")
        ): "nothing can be planted",
    }.items():
        with pytest.raises(UsageError, match=why):
            run_audit(scenario=load_scenario(SHOP, settings=settings), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.broker
def test_a_planted_loss_duplicate_swap_and_delay_are_each_reported_exactly(tmp_path: Path) -> None:
    audit = run_audit(out=tmp_path / "run")
    assert {row.what: (row.planted, row.reported) for row in audit.rows if not row.exact} == {}
    assert audit.exact
    assert audit.rows[-1].planted > 6_900_000, "the delay was planted"


@pytest.mark.broker
def test_an_instrument_that_loses_rows_does_not_pass_its_audit(tmp_path: Path) -> None:
    def lose_every_tenth(rows: pa.Table) -> pa.Table:
        return rows.take(pa.array([row for row in range(rows.num_rows) if row % 10]))

    audit = run_audit(out=tmp_path / "run", planter=lose_every_tenth)
    assert not audit.exact
    assert "do not trust" in audit.text
