"""Redis is killed for five seconds at 200 events/s: the ledger's missing copies against raw witnesses, copy by copy.

Beside each of three pods stand a tap on its connection and a raw subscriber (`broker_taps`), which share no code with the lab. With the
publishers' log they imply which copies are missing: what was published on a pod's channels, did not cross its wire, and was not handled
inside the pod that published it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.grounds.catalogue import open_broker
from sim.record.schema import event_id
from sim.results.checkers import judge
from sim.results.checkers.deaf import windows
from sim.results.opened_run import Run, open_run
from sim.results.outages import read_outages
from sim.run import steps as live
from sim.scenario.file import BUILT_IN, Scenario, check_tree
from sim.wire.address import Address, parse_address
from tests.support.unknown import latest_s

pytestmark = pytest.mark.broker
PODS = ("music-service-0", "music-service-1", "music-service-2")
CHANNELS = ["config.template.invalidated", "config.cache.invalidate"]


def three_pods() -> Scenario:
    """The built-in scenario's fault and rate, with three pods that all hear what each of them publishes."""
    tree = tomllib.loads((BUILT_IN / "broker_down.toml").read_text("utf-8"))
    tree["services"] = {"music-service": {"replicas": 3, "publishes": CHANNELS, "subscribes": CHANNELS}}
    tree["load"]["mix"] = dict.fromkeys(CHANNELS, 1)
    tree["load"]["run_s"] = 9
    return check_tree({**tree, "name": "broker_down"}, where="broker_down")


class TapLinks:
    """Lead each pod to its tap; nothing else of `sim.grounds.links.Links` is asked for in this run."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports

    def address(self, pod: int) -> Address:
        return parse_address(f"redis://127.0.0.1:{self._ports[pod]}")

    async def close(self) -> None:
        """The taps' process ends at the end of the test."""


@dataclass
class Witnessed:
    run: Run
    heard: list[dict[str, Any]]


@pytest.fixture(scope="module")
def witnessed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Witnessed]:
    with open_broker("embedded") as broker:
        argv = [sys.executable, str(Path(__file__).parents[1] / "support" / "broker_taps.py"), str(broker.address.port), str(len(PODS))]
        taps = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert taps.stdout is not None
            links = TapLinks(json.loads(taps.stdout.readline()))

            async def open_taps(*args: object, **named: object) -> tuple[TapLinks, dict[str, float]]:
                return links, {}

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(live, "open_links", open_taps)
                patch.setattr(live, "open_broker", lambda *args, **named: nullcontext(broker))
                folder = live.run_scenario(three_pods(), out=tmp_path_factory.mktemp("witnessed") / "run")
            said, _ = taps.communicate(timeout=60)
        finally:
            taps.kill()
            taps.wait()
    yield Witnessed(open_run(folder), json.loads(said))


def published(run: Run) -> dict[str, tuple[str, str, str]]:
    """Event id -> (publisher, outcome, phase), from the publishers' log."""
    rows = run.publishes[run.publishes["items"] > 0]
    return {
        event_id(int(event)): (str(publisher), str(outcome), str(phase))
        for event, publisher, outcome, phase in zip(rows["event"], rows["publisher"], rows["outcome"], rows["phase"], strict=True)
    }


def implied_missing(witnessed: Witnessed, number: int) -> set[str]:
    """Return the events of the run phase that a pod did not get, by its tap and the publishers' log alone.

    A publish without an answer is nobody's loss unless somebody heard it.
    """
    on_its_wire = {event for _, _, event in witnessed.heard[number]["tap"]}
    anywhere = {event for one in witnessed.heard for _, _, event in one["tap"] + one["raw"]}
    missing = set()
    for event, (publisher, outcome, phase) in published(witnessed.run).items():
        inside = outcome == "memory" and publisher == PODS[number]
        nobody_knows = outcome == "unknown" and event not in anywhere
        if phase == "run" and event not in on_its_wire and not inside and not nobody_knows:
            missing.add(event)
    return missing


def test_missing_copies_equal_what_raw_witnesses_and_publishers_imply(witnessed: Witnessed, capsys: pytest.CaptureFixture[str]) -> None:
    run = witnessed.run
    ledger = run.ledger()
    ledger = ledger[ledger["phase"] == "run"]
    raw = {event for one in witnessed.heard for _, _, event in one["raw"]}
    lines = [f"{'pod':<16} {'ledger':>7} {'implied':>8}  causes"]
    for number, pod in enumerate(PODS):
        mine = ledger[(ledger["pod"] == pod) & (ledger["fate"] == "missing")]
        missing = {event_id(int(event)) for event in mine["event"]}
        implied = implied_missing(witnessed, number)
        lines.append(
            f"{pod:<16} {len(missing):>7} {len(implied):>8}  {mine['cause'].astype(str).value_counts().loc[lambda n: n > 0].to_dict()}"
        )
        assert missing == implied
        assert len(missing) > 500, "five seconds at 200 events/s, two thirds of them of other pods"
        log = published(run)
        for event, cause in zip(mine["event"], mine["cause"].astype(str), strict=True):
            outcome = log[event_id(int(event))][1]
            if cause == "sent-in-memory-mode":
                assert outcome == "memory"
                assert event_id(int(event)) not in raw, "it never reached the broker"
            elif cause == "deaf":
                assert outcome in ("acknowledged", "unknown")
            else:
                assert (cause, outcome) == ("publish-refused", "refused")
    with capsys.disabled():
        print("", *lines, sep="\n")


def test_what_the_broker_took_the_raw_subscribers_heard(witnessed: Witnessed) -> None:
    """What was acknowledged once they were back is in their account: the broker had the copies that deaf pods lost."""
    begin_ns = int(witnessed.run.faults["begin_ns"].iloc[0])  # after it only a new server takes a subscription
    back_ns = max(min(at for at in one["raw_subscribed_ns"] if at > begin_ns) for one in witnessed.heard)
    rows = witnessed.run.publishes
    after = rows[(rows["outcome"] == "acknowledged") & (rows["sent_ns"] > back_ns + 10_000_000) & (rows["items"] > 0)]
    taken = {event_id(int(event)) for event in after["event"]}
    assert len(taken) > 100
    for one in witnessed.heard:
        assert taken <= {event for _, _, event in one["raw"]}


def test_the_deaf_window_of_each_pod_is_the_one_on_its_wire(witnessed: Witnessed, capsys: pytest.CaptureFixture[str]) -> None:
    run = witnessed.run
    assert judge(run).checkers["ledger"].counts["unexplained"] == 0
    measured = {window.pod: window for window in windows(run, read_outages(run))}
    end_ns = int(run.faults["end_ns"].iloc[0])
    late_s = latest_s(run) or 0.0
    lines = [f"{'pod':<16} {'deaf s':>8} {'by the tap':>11} {'lost after':>11}"]
    for number, pod in enumerate(PODS):
        subscribed_ns = np.array(witnessed.heard[number]["tap_subscribed_ns"])
        again_s = (subscribed_ns[subscribed_ns > end_ns].min() - end_ns) / 1e9
        first_heard_s = (min(at for at, _, _ in witnessed.heard[number]["tap"] if at > end_ns) - end_ns) / 1e9
        lines.append(f"{pod:<16} {measured[pod].deaf_s:>8.3f} {first_heard_s:>11.3f} {measured[pod].lost_after:>11}")
        assert measured[pod].ended
        assert again_s <= measured[pod].deaf_s, "the checker ends a window when the pod has its subscription, and heard"
        assert measured[pod].deaf_s <= first_heard_s + 0.05 + late_s, "one read of the loop later at most"
    with capsys.disabled():
        print("", *lines, sep="\n")
