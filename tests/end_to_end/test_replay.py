"""A run of ours is captured and played again: the same events by channel, each at the time at which it was heard.

``python -m tests.end_to_end.test_replay [run_s] [rate]`` prints the figures.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sim.grounds.catalogue import open_broker
from sim.machine.clock import NS_PER_S
from sim.measure.traffic.scenarios import write_scenarios
from sim.measure.traffic.services import services_of
from sim.record.capture_file import NAME, Capture, read_capture
from sim.results.checkers import judge
from sim.results.opened_run import Run, open_run
from sim.run.steps import run_scenario
from sim.scenario.file import Scenario, load_scenario
from tests.support.captures import capturing

REFERENCE = Path("aiponge")  # its services publish and hear, as in the run that is captured
P99_NS = 1_000_000


def captured_run(scenario: Scenario, folder: Path) -> tuple[Capture, Run]:
    """Run a scenario on a server of its own, and capture it meanwhile."""
    with open_broker("embedded") as broker, capturing(broker.address.url, folder / "c", "--pattern", "aiponge:events:*"):
        run_scenario(scenario, on=broker.address.url, out=folder / "run")
    return read_capture(folder / "c" / NAME), open_run(folder / "run")


def zero_of(run: Run) -> int:
    return next(phase.start_ns for phase in run.info.phases if phase.name in ("warm-up", "run"))


def off_ns(capture: Capture, run: Run) -> np.ndarray:
    """Return how far each publish of a replay was from the time at which its event was heard."""
    sent = run.publishes[run.publishes["items"] > 0].sort_values(["intended_ns", "event"])
    assert Counter(f"aiponge:events:{one}" for one in sent["channel"]) == Counter(capture.channels[code] for code in capture.channel)
    found = []
    for code, rows in enumerate(capture.by_channel()):
        its = sent[sent["channel"] == capture.channels[code].removeprefix("aiponge:events:")]["sent_ns"].sort_values().to_numpy()
        found.append(its - zero_of(run) - capture.at_ns[rows])
    return np.concatenate(found)


def between_ns(one: Capture, other: Capture) -> np.ndarray:
    """Return how far the times of the events of two captures are apart, but for the time between their beginnings."""
    apart = [other.at_ns[b] - one.at_ns[a] for a, b in zip(one.by_channel(), of_names(other, one.channels), strict=True)]
    joined: np.ndarray = np.concatenate(apart)
    return joined - np.median(joined)


def of_names(capture: Capture, names: tuple[str, ...]) -> list[np.ndarray]:
    rows = dict(zip(capture.channels, capture.by_channel(), strict=True))
    return [rows[name] for name in names]


def seconds_of(at_ns: np.ndarray, capture: Capture) -> Counter[tuple[str, int]]:
    return Counter((capture.channels[code], int(second)) for code, second in zip(capture.channel, at_ns // NS_PER_S, strict=True))


def played_again(folder: Path, *, run_s: float, rate: float) -> tuple[Capture, Capture, Run, Path]:
    """Capture a run, play the capture at once its speed, and capture that."""
    load = (f"load.run_s={run_s}", "load.warm_up_s=0", f"load.rate_per_s={rate}", "load.driver=pods", "bus.batch_interval_ms=500")
    first, _ = captured_run(load_scenario("baseline", settings=load), folder / "first")
    replay = write_scenarios(folder / "first" / "c", first, told=services_of([REFERENCE])).replay
    second, run = captured_run(load_scenario(str(replay)), folder / "second")
    return first, second, run, replay


@pytest.mark.broker
def test_a_run_that_is_captured_and_played_has_the_same_events_by_channel_and_second(tmp_path: Path) -> None:
    first, second, run, replay = played_again(tmp_path, run_s=2.0, rate=150.0)
    assert judge(run).checkers["ledger"].verdict == "valid"
    intended = run.publishes[run.publishes["items"] > 0].sort_values(["intended_ns", "event"])
    assert intended["intended_ns"].to_numpy().tolist() == (first.at_ns + zero_of(run)).tolist()
    assert Counter(second.channels[code] for code in second.channel) == Counter(first.channels[code] for code in first.channel)
    assert len(off_ns(first, run)) == len(between_ns(first, second)) == len(first)
    for name, a, b in zip(first.channels, first.by_channel(), of_names(second, first.channels), strict=True):
        sizes = [np.sort(one.sizes[rows]).astype(int) for one, rows in ((first, a), (second, b))]  # publishers overtake each other
        assert np.abs(sizes[0] - sizes[1]).max() <= 40, name  # the publisher's name may be another
    on_model = open_run(run_scenario(load_scenario(str(replay), settings=("load.speed=10",)), on="model", out=tmp_path / "model"))
    assert judge(on_model).verdict == "valid"
    sent = on_model.publishes[on_model.publishes["items"] > 0].sort_values(["intended_ns", "event"])
    assert (sent["intended_ns"] - zero_of(on_model)).tolist() == np.rint(first.at_ns / 10).astype(int).tolist()


@pytest.mark.broker
@pytest.mark.deep
@pytest.mark.alone
def test_a_replay_keeps_times_to_a_millisecond(tmp_path: Path) -> None:
    first, second, run, _ = played_again(tmp_path, run_s=30.0, rate=300.0)
    assert np.percentile(np.abs(off_ns(first, run)), 99) < P99_NS
    assert np.percentile(np.abs(between_ns(first, second)), 99) < P99_NS


def main(run_s: float, rate: float) -> None:
    """Print how far a replay is from its capture, at once the speed, and how long it takes at ten times on the model."""
    with tempfile.TemporaryDirectory() as folder:
        first, second, run, replay = played_again(Path(folder), run_s=run_s, rate=rate)
        print(
            f"captured {len(first):,} events on {len(first.channels)} channels; of the replay {len(second):,}; replay {judge(run).verdict}"
        )
        shifted = seconds_of(first.at_ns, first), seconds_of(np.sort(run_at(run, first)), first)
        print(f"channels and seconds: {len(shifted[0])}, of which {sum((shifted[0] - shifted[1]).values())} events stand in another one")
        for what, apart in (
            ("publish against the captured time", off_ns(first, run)),
            ("capture against capture", between_ns(first, second)),
        ):
            late = np.abs(apart) / 1000
            print(f"{what}: p50 {np.percentile(late, 50):.0f} us, p99 {np.percentile(late, 99):.0f} us, most {late.max():.0f} us")
        begun = time.process_time(), time.monotonic()
        scenario = load_scenario(str(replay), settings=("load.speed=10",))
        on_model = open_run(run_scenario(scenario, on="model", out=Path(folder) / "model"))
        took = f"{time.process_time() - begun[0]:.2f} s of processor time, {time.monotonic() - begun[1]:.2f} s"
        print(f"at 10 x on the model: {took}, for {len(on_model.deliveries):,} deliveries; {judge(on_model).verdict}")


def run_at(run: Run, capture: Capture) -> np.ndarray:
    """Return when each captured event was published by a replay, since its time zero, in the order of the capture."""
    found = np.zeros(len(capture), dtype=np.int64)
    apart = off_ns(capture, run)
    found[np.concatenate(capture.by_channel())] = apart
    return capture.at_ns + found


if __name__ == "__main__":
    main(*(float(one) for one in (*sys.argv[1:], "10", "200")[:2]))
