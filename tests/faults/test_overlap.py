"""Any two faults of one run overlap as they like: both end and heal, nothing stays behind, and the run is judged."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest
from msgspec import to_builtins

from sim.errors import Interrupted
from sim.faults.catalogue import FAULTS
from sim.faults.timeline import Timeline
from sim.results.opened_run import Run, open_run
from sim.run.steps import run_scenario
from sim.scenario.file import check_tree, load_scenario
from tests.support.fault_pairs import Pair, Watched, chosen, one_broker, problems, watching

SEED = 20
DRAWN_MODEL = chosen("model", 0.01, seed=SEED)[0]
DRAWN_REAL = chosen("embedded", 0.0018, seed=SEED)[0]
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


@pytest.mark.parametrize("on", ["model", pytest.param("embedded", marks=pytest.mark.broker)])
@pytest.mark.parametrize("listed", ["the outage first", "the limit first"])
def test_a_ctrl_c_in_an_outage_that_began_inside_another_fault_ends_at_once(tmp_path: Path, on: str, listed: str) -> None:
    """The limit can be taken back only by a broker that is there: so the outage, which began last, ends first, however they are listed."""
    faults = [
        {"kind": "broker_down", "at_s": 0.5, "for_s": 9},
        {"kind": "buffer_limit", "at_s": 0.3, "for_s": 10, "hard_bytes": 1000},
    ]
    run, watched = interrupted(tmp_path / "run", faults if listed == "the outage first" else faults[::-1], on=on)
    assert (watched.found, run.info.state) == ([], "interrupted")
    assert watched.heal_s < 5, "of the ten for which a broker that stays away is waited for"


@pytest.mark.parametrize("turned", [False, True])
def test_what_began_last_ends_first(tmp_path: Path, turned: bool) -> None:
    faults = [
        {"kind": kind, "at_s": at_s, "for_s": 9} for kind, at_s in (("handler_error", 0.7), ("pod_freeze", 0.9), ("slow_handler", 0.5))
    ]
    run, _ = interrupted(tmp_path / "run", faults[::-1] if turned else faults, on="model")
    ended = run.faults["fault"].astype(str).tolist()  # a row is written when its end is done
    assert ended == ["pod_freeze", "handler_error", "slow_handler"]


def test_a_ctrl_c_while_faults_are_healed_leaves_none_unhealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heal = Timeline.heal

    async def interrupted_in_the_middle(self: Timeline) -> None:
        for task in self._tasks:
            task.cancel()
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.5)
        await heal(self)

    monkeypatch.setattr(Timeline, "heal", interrupted_in_the_middle)
    faults = [{"kind": "broker_freeze", "at_s": 1, "for_s": 1}, {"kind": "buffer_limit", "at_s": 0.5, "for_s": 1, "hard_bytes": 1000}]
    tree = to_builtins(load_scenario("baseline", settings=("load.driver=pods", "load.run_s=2", "slo={}"))) | {"faults": faults}
    watched = Watched(None)
    with watching(watched), pytest.raises(Interrupted):
        run_scenario(check_tree(tree, where="healing"), on="model", out=tmp_path / "run")
    run = open_run(tmp_path / "run")
    assert (watched.found, run.info.state, len(run.faults)) == ([], "interrupted", 2)
    assert "drain" not in run.phases, "it ends when all is healed"


def interrupted(folder: Path, faults: list[dict[str, object]], *, on: str) -> tuple[Run, Watched]:
    """Run baseline with some faults, and interrupt it 1.5 s after its load began."""
    tree = to_builtins(load_scenario("baseline", settings=("load.driver=pods", "load.run_s=12", "slo={}"))) | {"faults": faults}
    watched = Watched(1.5)
    with watching(watched), pytest.raises(Interrupted):
        run_scenario(check_tree(tree, where="interrupted"), on=on, out=folder)
    return open_run(folder), watched


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
