"""Any two faults of one run overlap as they like: both end and heal, nothing stays behind, and the run is judged."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from sim.faults.catalogue import FAULTS
from tests.support.fault_pairs import Pair, chosen, one_broker, problems

SEED = 20
DRAWN_MODEL = chosen("model", 0.0109, seed=SEED)[0]
DRAWN_REAL = chosen("embedded", 0.0019, seed=SEED)[0]
SHARES = {"model": 1.0, "embedded": 1 / 3, "cluster": 1 / 10}  # of the pairs that a ground can do


def test_of_every_change_forty_pairs_are_tried() -> None:
    assert len(DRAWN_MODEL) + len(DRAWN_REAL) == 40
    assert any(pair.interrupted for pair in DRAWN_MODEL) and any(pair.interrupted for pair in DRAWN_REAL)


@pytest.mark.parametrize("pair", DRAWN_MODEL, ids=str)
def test_a_drawn_pair_ends_heals_and_is_judged(pair: Pair, tmp_path: Path) -> None:
    assert problems(pair, tmp_path / "run", on="model") == []


@pytest.mark.broker
@pytest.mark.parametrize("pair", DRAWN_REAL, ids=str)
def test_a_drawn_pair_ends_heals_and_is_judged_on_a_real_server(pair: Pair, tmp_path: Path) -> None:
    assert problems(pair, tmp_path / "run", on="embedded") == []


@pytest.mark.deep
@pytest.mark.parametrize("first", sorted(FAULTS))
@pytest.mark.parametrize(
    ("on", "share"),
    [
        pytest.param("model", SHARES["model"]),
        pytest.param("embedded", SHARES["embedded"], marks=pytest.mark.broker),
        pytest.param("cluster", SHARES["cluster"], marks=pytest.mark.broker),
    ],
)
def test_every_pair_that_begins_with_a_fault_ends_heals_and_is_judged(first: str, on: str, share: float, tmp_path: Path) -> None:
    """All of them on the model, a third on a real server, a tenth on a cluster."""
    pairs, _, _ = chosen(on, share, seed=SEED)
    mine = [pair for pair in pairs if pair.first == first]
    with one_broker(on) if on == "cluster" else contextlib.nullcontext():
        wrong = {str(pair): found for pair in mine if (found := problems(pair, tmp_path / str(pair), on=on))}
    assert wrong == {}


@pytest.mark.deep
def test_how_many_pairs_each_ground_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    """Printed, as what is left out must be known; a pair that one scenario cannot hold at all counts as one that no ground can do."""
    for on, share in SHARES.items():
        pairs, can, cannot = chosen(on, share, seed=SEED)
        assert len(pairs) == round(can * share) > 0 and can + cannot == len(FAULTS) ** 2 * 3 * 2
        with capsys.disabled():
            print(f"\npairs of faults on {on}: {len(pairs):,} of {can:,} that it can do are tried; {cannot:,} it cannot do")
