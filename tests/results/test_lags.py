"""Lags by channel and service."""

from __future__ import annotations

from pathlib import Path

from sim.results.opened_run import open_run
from tests.support.run_folders import MS, RUN_NS, US, RunFolder


def test_lags_of_thousands_of_channels_and_many_services_stay_apart(tmp_path: Path) -> None:
    names = [f"c{number:04}" for number in range(2_300)]
    plan = RunFolder(tmp_path / "run")
    for number in range(29):
        plan.service(f"s{number:02}", replicas=1, channels="")
    plan.service("s29", replicas=1, channels=",".join(names))
    for number, name in enumerate(names):
        plan.publish(1, start_ns=RUN_NS + number * MS, channel=name, lag_ns=(number + 1) * US)
    lags = open_run(plan.write()).lags
    assert len(lags.channels) * len(lags.services) > 1 << 16
    found = {name: lags.of(lags.lag, "channel", name).quantiles({"least": 0, "most": 1}) for name in names}
    assert found == {name: {"least": (number + 1) * US, "most": (number + 1) * US} for number, name in enumerate(names)}
    assert len(lags.of(lags.lag, "service", "s29")) == lags.copies == len(names)
    assert len(lags.of(lags.lag, "service", "s00")) == len(lags.of(lags.lag, "channel", "nowhere")) == 0
