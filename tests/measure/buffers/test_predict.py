"""When a stalled reader is cut: the arithmetic, raw sockets on real servers, and the lab's own record of a frozen pod."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from sim.bus.envelope import CHANNEL_PREFIX
from sim.cli.commands.cut import cut
from sim.errors import UsageError
from sim.grounds.model.costs import MIB, WINDOW_BYTES, OutputBufferLimit
from sim.measure.buffers.predict import REDIS_7, RULES, VALKEY_9, Cutoff, ServerRules, Stall, predict_cut, rules_of, say
from sim.measure.buffers.run import CASES, verify_cuts
from sim.results.opened_run import Run, open_run
from sim.run.steps import run_scenario
from sim.scenario.file import load_scenario
from tests.support.unknown import Starvation

NO_SOFT = OutputBufferLimit(MIB, 0, 0)
CHANNEL_BYTES = 38
servers = st.sampled_from([REDIS_7, VALKEY_9])
rates = st.floats(0.1, 1e5)
sizes = st.integers(0, 200_000)
limits = st.builds(OutputBufferLimit, st.integers(0, 64 * MIB), st.integers(0, 64 * MIB), st.integers(0, 120))


def times(stall: Stall, limit: OutputBufferLimit, rules: ServerRules = REDIS_7, began_s: float | None = None) -> tuple[float, float]:
    found = predict_cut(stall, limit=limit, rules=rules, began_s=began_s)
    return (np.inf, np.inf) if found.earliest_s is None or found.latest_s is None else (found.earliest_s, found.latest_s)


@given(rates, st.floats(1, 100), sizes, st.floats(0, 1e6), limits, servers, st.none() | st.floats(0, 1e9))
def test_a_higher_rate_never_cuts_later(
    rate: float, factor: float, size: int, reads: float, limit: OutputBufferLimit, rules: ServerRules, began_s: float | None
) -> None:
    slow, fast = (Stall(each, size, CHANNEL_BYTES, reads_bytes_per_s=reads) for each in (rate, rate * factor))
    for before, after in zip(times(slow, limit, rules, began_s), times(fast, limit, rules, began_s), strict=True):
        assert after <= before * (1 + 1e-9)


@given(rates, sizes, st.integers(1, 64 * MIB), st.integers(0, 64 * MIB), st.integers(0, 60), servers)
def test_a_higher_limit_never_cuts_earlier(rate: float, size: int, least: int, more: int, soft_s: int, rules: ServerRules) -> None:
    stall = Stall(rate, size, CHANNEL_BYTES)
    for low, high in (
        (OutputBufferLimit(least, 0, 0), OutputBufferLimit(least + more, 0, 0)),
        (OutputBufferLimit(0, least, soft_s), OutputBufferLimit(0, least + more, soft_s)),
        (OutputBufferLimit(0, least, soft_s), OutputBufferLimit(0, least, soft_s + 1)),
        (OutputBufferLimit(least, least, soft_s), OutputBufferLimit(least, 0, 0)),
    ):
        for before, after in zip(times(stall, low, rules), times(stall, high, rules), strict=True):
            assert before <= after


@given(rates, st.integers(0, 16_383), st.integers(4 * MIB, 64 * MIB), servers)
def test_the_hard_limit_is_bytes_by_bytes_per_second(rate: float, size: int, hard: int, rules: ServerRules) -> None:
    stall = Stall(rate, size, CHANNEL_BYTES)
    found = predict_cut(stall, limit=OutputBufferLimit(hard, 0, 0), rules=rules)
    assert found.by == "hard" and found.earliest_s == found.latest_s and found.full_s is not None
    assert found.full_s == pytest.approx(WINDOW_BYTES / (rate * stall.frame_bytes))
    assert found.latest_s == pytest.approx((WINDOW_BYTES + hard) / (rate * stall.frame_bytes), rel=0.01)  # nodes, and their extra
    assert found.kept_copies + found.forgotten_copies == pytest.approx(found.latest_s * rate, abs=1)


def test_soft_limit_counts_whole_seconds_of_the_servers_clock() -> None:
    stall, limit = Stall(1_000, 1_000, CHANNEL_BYTES), OutputBufferLimit(0, MIB, 2)
    earliest_s, latest_s = times(stall, limit)
    assert latest_s - earliest_s == pytest.approx(1)
    reached_s = earliest_s - 2
    for began_s in (1_000.0, 1_000.3, 1_000.9):
        exact_s, same_s = times(stall, limit, began_s=began_s)
        assert exact_s == same_s
        assert earliest_s < exact_s <= latest_s
        assert (began_s + exact_s) % 1 == pytest.approx(0, abs=1e-6)
        assert int(began_s + exact_s) - int(began_s + reached_s) == 3


@pytest.mark.parametrize(
    ("limit", "by"),
    [(OutputBufferLimit(8 * MIB, MIB, 60), "hard"), (OutputBufferLimit(64 * MIB, MIB, 1), "soft"), (OutputBufferLimit(0, 0, 0), "never")],
)
def test_which_comes_first(limit: OutputBufferLimit, by: str) -> None:
    assert predict_cut(Stall(10_000, 1_000, CHANNEL_BYTES), limit=limit).by == by


def test_who_keeps_up_is_never_cut() -> None:
    stall = Stall(1_000, 1_000, CHANNEL_BYTES)
    for reads, by in ((stall.frame_bytes * 1_000.0, "never"), (stall.frame_bytes * 999.0, "hard")):
        found = predict_cut(Stall(1_000, 1_000, CHANNEL_BYTES, reads_bytes_per_s=reads), limit=NO_SOFT)
        assert found.by == by
    assert predict_cut(Stall(0, 1_000, CHANNEL_BYTES)) == Cutoff(
        "never", None, None, None, 0, 0, "nothing is published to it: the output buffer does not grow"
    )


def test_valkey_9_hardly_counts_payloads_of_16_kb() -> None:
    small, large = (times(Stall(100, size, CHANNEL_BYTES), NO_SOFT, VALKEY_9)[0] for size in (16_383, 16_384))
    assert large > 10 * small
    assert times(Stall(100, 16_384, CHANNEL_BYTES), NO_SOFT, REDIS_7)[0] == pytest.approx(small, rel=0.01)
    assert rules_of({"redis_version": "7.2.4", "valkey_version": "9.1.2"}) is VALKEY_9
    assert rules_of({"redis_version": "7.2.4", "valkey_version": "8.1.0"}) is REDIS_7
    assert rules_of({"redis_version": "7.0.15"}) is REDIS_7
    assert "payloads that no limit counts" in say(
        predict_cut(Stall(100, 20_000, CHANNEL_BYTES)), Stall(100, 20_000, CHANNEL_BYTES), rules=VALKEY_9
    )


def test_numbers_that_cannot_be_are_refused() -> None:
    for stall in (Stall(-1, 1, 1), Stall(float("nan"), 1, 1), Stall(1, 1, 1, reads_bytes_per_s=float("inf"))):
        with pytest.raises(UsageError, match=r"rate_per_s|reads_bytes_per_s"):
            predict_cut(stall)


def test_the_command_predicts() -> None:
    said = CliRunner().invoke(cut, ["--rate", "1000", "--bytes", "12000"], standalone_mode=False)
    assert said.return_value == 0
    assert "cuts it after 3.1" in said.output
    with pytest.raises(UsageError, match="--rate and --bytes"):
        CliRunner().invoke(cut, ["--rate", "1000"], standalone_mode=False, catch_exceptions=False)
    with pytest.raises(UsageError, match="lower the limits"):
        CliRunner().invoke(cut, ["--rate", "10", "--bytes", "10", "--verify"], standalone_mode=False, catch_exceptions=False)


@pytest.mark.broker
@pytest.mark.parametrize("server", RULES)
def test_a_stalled_socket_is_cut_by_the_copy_that_was_predicted(server: str) -> None:
    """In copies, not seconds, so that a busy machine does not matter; 5 %: what sockets take moves with their pieces.

    CASES[4] has payloads that Valkey 9 shares: the prediction is a range there.
    """
    binary = None
    if server == "redis":
        found = shutil.which("redis-server")
        if found is None:
            pytest.skip("needs redis-server on PATH (Debian: apt-get install redis-server)")
        binary = Path(found)
    verified = verify_cuts((CASES[0], CASES[4]), binary=binary)
    assert verified.rules is RULES[server]
    for row in verified.rows:
        predicted = row.predicted
        assert row.cut_s is not None and predicted.earliest_s is not None and predicted.latest_s is not None
        rate = row.case.stall.rate_per_s
        assert 0.95 * predicted.earliest_s * rate <= row.copies <= 1.05 * predicted.latest_s * rate
        assert row.read_bytes == pytest.approx(verified.window_bytes, rel=0.05), "what the sockets held can still be read"


FREEZE_NS = 2_500_000_000
RATE = 1000  # copies a second for the pod that stands still
LATE_S = 0.2  # of the load at once: then a server's turn has so many copies that any pod's buffer is over the limit, or the freeze is over


def frozen_pod(folder: Path, on: str) -> Run:
    freeze = f"{{kind='pod_freeze',at_s=0.5,for_s={FREEZE_NS / 1e9},pods=['analytics-service-0']}}"
    settings = (
        f"faults=[{{kind='buffer_limit',at_s=0.2,for_s=3,hard_bytes=2000000}},{freeze}]",
        *(f"load.rate_per_s={RATE}", "load.warm_up_s=0.3", "load.run_s=3.5", "load.payload_bytes=4000", "bus.batch_size=1"),
    )
    return open_run(run_scenario(load_scenario("slow_handler", settings=settings), on=on, out=folder))


@pytest.mark.parametrize("on", ["model", pytest.param("embedded", marks=pytest.mark.broker)])
def test_a_frozen_pod_is_cut_when_predicted_by_the_labs_own_record(tmp_path: Path, on: str) -> None:
    """The first copy that is lost is the first that the sockets did not take, and the broker counts one hearer less from the cut on.

    In copies, not seconds, and from the last one that the pod heard, so that a busy machine does not matter. What a kernel's sockets take
    of one connection depends on how it was read before (they grow): here it is what the pod could read when it thawed. 10 % for the rest.
    """
    starved = Starvation()
    run = frozen_pod(tmp_path, on)
    with starved.excuses(LATE_S, run=run):
        cut_as_predicted(run, on)


def cut_as_predicted(run: Run, on: str) -> None:
    (begin_ns,) = run.faults.loc[run.faults["fault"] == "pod_freeze", "begin_ns"]
    cuts = run.broker[run.broker["metric"] == "buffer_cuts"]
    assert cuts["subject"].tolist() == ["analytics-service-0"]
    published = run.publishes.drop_duplicates("event").sort_values("sent_ns")
    heard = run.deliveries[(run.deliveries["pod"] == "analytics-service-0") & (run.deliveries["received_ns"] < begin_ns + FREEZE_NS // 2)]
    last_ns = published.loc[published["event"].isin(heard["event"]), "sent_ns"].max()
    published = published[published["phase"] == "run"]
    before, frozen = published[published["sent_ns"] <= last_ns], published[published["sent_ns"] > last_ns]
    channel_bytes = len(CHANNEL_PREFIX) + round(frozen["channel"].astype(str).str.len().mean())
    stall = Stall(RATE, round(frozen["bytes"].mean()), channel_bytes)
    ((_, thaw_ns),) = next(history.freezes for history in run.pod_histories if history.pod == "analytics-service-0")
    late = run.deliveries.loc[run.deliveries["pod"] == "analytics-service-0", "event"]
    from_sockets = int((frozen["event"].isin(late) & (frozen["sent_ns"] < thaw_ns)).sum())
    assert from_sockets > 100
    window = WINDOW_BYTES if on == "model" else from_sockets * stall.frame_bytes
    predicted = predict_cut(stall, limit=OutputBufferLimit(2_000_000, 0, 0), window_bytes=window)
    assert predicted.full_s is not None and predicted.latest_s is not None
    ledger = run.ledger()
    lost = ledger[ledger["fate"] == "missing"]
    assert set(lost["cause"]) <= {"cut", "deaf"} and set(lost["pod"]) == {"analytics-service-0"}
    first_lost = int(frozen["event"].isin(lost.loc[lost["cause"] == "cut", "event"]).argmax())
    hearers = frozen["channel"].astype(str).map(before["receivers"].groupby(before["channel"].astype(str)).max())
    first_unheard = int((frozen["receivers"] < hearers).argmax())
    full, cut = predicted.full_s * RATE, predicted.latest_s * RATE
    print(f"{on}: copy {first_lost} was lost, predicted {full:.0f}; copy {first_unheard} was not counted for it, predicted {cut:.0f}")
    assert first_lost == pytest.approx(full, rel=0.1)
    assert first_unheard == pytest.approx(cut, rel=0.1)
