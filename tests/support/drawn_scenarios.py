"""Scenarios drawn from a seed, as `buslab explore` draws them, run into a folder and judged, on any ground.

Nothing is known of a drawn scenario beforehand, so what is demanded is what holds of every run: see `sim.experiments.explore.findings`.

To look at one seed: ``python -m tests.support.drawn_scenarios --on model 17``; a range: ``0:200``.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import tomli_w

from sim.experiments.explore.draw import Tree, base_tree, draw_scenario
from sim.experiments.explore.findings import findings
from sim.experiments.explore.shrink import shrink
from sim.results.checkers import judge
from sim.results.opened_run import open_run
from sim.run.steps import run_scenario
from sim.scenario.file import Scenario, check_tree

HANG_S = 240  # on a real ground
HANG_CPU_S = 60  # in virtual time, where nothing waits: on a busy machine only its own processor time says that it does not end


def try_scenario(scenario: Scenario, *, on: str, folder: Path) -> list[str]:
    """Run and judge a scenario; return what is wrong, also that it hangs or breaks."""

    timer, alarm, most_s = (
        (signal.ITIMER_PROF, signal.SIGPROF, HANG_CPU_S) if on == "model" else (signal.ITIMER_REAL, signal.SIGALRM, HANG_S)
    )

    def hangs(number: int, frame: object) -> None:
        raise TimeoutError(f"it hangs: not over after {most_s} s")

    before = signal.signal(alarm, hangs)
    signal.setitimer(timer, most_s)
    try:
        run = open_run(run_scenario(scenario, on=on, out=folder))
        return [one.text for one in findings(run, judge(run))]
    except Exception as error:
        return [f"{type(error).__name__}: {error}", traceback.format_exc()]
    finally:
        signal.setitimer(timer, 0)
        signal.signal(alarm, before)


def try_seed(seed: int, on: str) -> tuple[int, list[str]]:
    """Draw, run and judge the scenario of a seed."""
    with tempfile.TemporaryDirectory(prefix="drawn-") as folder:
        return seed, try_scenario(draw_scenario(seed, on=on), on=on, folder=Path(folder) / "run")


def try_seeds(seeds: Sequence[int], *, on: str, jobs: int = 1) -> Iterator[tuple[int, list[str]]]:
    """Yield what is wrong with each seed's scenario, in order; those with which nothing is are left out."""
    with ProcessPoolExecutor(jobs) as pool:
        yield from ((seed, found) for seed, found in pool.map(try_seed, seeds, [on] * len(seeds), chunksize=4) if found)


def smaller(scenario: Scenario, *, on: str) -> Tree:
    """Return the smallest schedule with which the same is wrong."""
    kind = _kind(_try_tree(base_tree(scenario), on))
    return shrink(base_tree(scenario), lambda tree: _kind(_try_tree(tree, on)) == kind).tree


def _kind(found: Sequence[str]) -> str:
    return " ".join(found[0].split(":")[0].split()[:4]) if found else ""


def _try_tree(tree: Tree, on: str) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="drawn-") as folder:
        return try_scenario(check_tree(tree, where="smaller"), on=on, folder=Path(folder) / "run")


def main() -> int:
    """Try seeds, and print what is wrong with the scenario of each, as TOML."""
    options = argparse.ArgumentParser(description=main.__doc__)
    options.add_argument("seeds", help="one seed, or FROM:TO")
    options.add_argument("--on", default="model")
    options.add_argument("--jobs", type=int, default=1)
    options.add_argument("--shrink", action="store_true")
    given = options.parse_args()
    first, _, last = given.seeds.partition(":")
    seeds = range(int(first), int(last or int(first) + 1))
    wrong = 0
    for wrong, (seed, found) in enumerate(try_seeds(seeds, on=given.on, jobs=given.jobs), start=1):  # noqa: B007 - counted
        print(f"# seed {seed}:", *(found if len(seeds) == 1 else [line for line in found if "\n" not in line]), sep="\n# ", flush=True)
        if given.shrink:
            print(tomli_w.dumps(smaller(draw_scenario(seed, on=given.on), on=given.on)), flush=True)
    print(f"{wrong} of {len(seeds)} are wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
