"""The answer, the page and the file of a measurement; planning from the file by the command."""

from __future__ import annotations

import re
from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner

from sim.cli.main import cli
from sim.errors import UsageError
from sim.measure.capacity.plan import SustainedRate, make_plan
from sim.measure.capacity.plan_table import plan_sentence
from sim.measure.capacity.plots import predicted_against_measured, rate_against_pods, write_picture
from sim.measure.capacity.report import Capacity, answer, markdown, read_capacity, search_rows, write_capacity
from sim.measure.capacity.run import workload_of
from sim.scenario.file import load_scenario
from tests.support.measured import measured, nothing_carried, step

FOUND = measured()


def test_the_answer_names_rate_limit_pods_core_next_limit_headroom_and_error() -> None:
    text = answer(FOUND)
    assert "carries 150,000 calls/s = 69,000 events/s" in text and "at p99 <= 50 ms (measured 12.5 ms)" in text
    assert "with all pods up (2 of 2 repeats held) and with one pod down (1 of 1 held)" in text
    assert "The broker's core is then at 85 %, 95 % interval 72 .. 98 %." in text
    assert "The next limit is the broker's core (at 200,000 calls/s p99 of lag is 80.0 ms, over 50 ms)" in text
    full = 1e6 / 6.1 / 0.46
    assert f"plan for {full * 0.288:,.0f} calls/s at most" in text
    assert "Of 6 held-out combinations the fan-out model's saturation rate was off by 0% in the median" in text and "6 of 6 lie" in text
    assert "not at rest" not in text


def test_a_neighbour_that_takes_the_core_is_named_as_the_limit_and_as_noise() -> None:
    steps = (step(100_000.0, core=0.3), step(120_000.0, core=0.4, why_not="p99 of lag is 80.0 ms, over 50 ms"))
    text = answer(msgspec.structs.replace(measured(core=0.4), steps=steps))
    assert "The next limit is not the broker's core, which had 40%: it may be this machine's other work" in text
    assert "The machine was not at rest" in text and "as little as 40% of its core" in text


def test_when_nothing_was_carried_it_says_so() -> None:
    assert answer(nothing_carried()).startswith(
        "No rate that was tried was carried at p99 <= 50 ms, the lowest was 1,000 calls/s: the backlog"
    )


def test_held_out_points_that_lie_off_are_told() -> None:
    text = answer(measured(off=2.0))
    assert "off by 100% in the median" in text and "0 of 6 lie" in text


def test_the_committed_measurement_is_still_read() -> None:
    found = read_capacity(Path(__file__).parents[3] / "reports")
    assert found.carried is not None and found.model.cost_us([(1.0, 12, 300)]).known
    assert found.usl.sigma.low <= found.usl.sigma.value <= found.usl.sigma.high


def test_a_file_is_read_back_as_it_was_written_and_its_page_has_every_table(tmp_path: Path) -> None:
    path = write_capacity(FOUND, tmp_path / "new")
    assert read_capacity(path.parent) == FOUND == read_capacity(str(path))
    page = (path.parent / "capacity.md").read_text()
    assert page == markdown(FOUND) and page.count("\n## ") == 6
    assert sorted(p.name for p in path.parent.iterdir()) == ["capacity.json", "capacity.md"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot read"), (b"{", "holds no measurement"), (b"[]", "holds no measurement"), (b"\xff", "holds no measurement")],
)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "capacity.json").write_bytes(content)
    with pytest.raises(UsageError, match=f"{words}.*buslab capacity"):
        read_capacity(tmp_path)


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    write_capacity(msgspec.structs.replace(FOUND, format=99), tmp_path)
    with pytest.raises(UsageError, match="format 99, this version reads 1"):
        read_capacity(tmp_path)


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="choose another folder with --out"):
        write_capacity(FOUND, tmp_path / "file")


@pytest.mark.parametrize("place", ['"batch_size": ', '"lag_ms_p99": ', '"share": '])
def test_a_file_that_was_edited_is_refused(place: str, tmp_path: Path) -> None:
    path = write_capacity(FOUND, tmp_path)
    text = path.read_text("utf-8")
    path.write_text(text.replace(place, place + "1", 1), "utf-8")
    with pytest.raises(UsageError, match="was damaged or changed after it was written"):
        read_capacity(tmp_path)


@pytest.mark.parametrize("option", ["--target-rate", "--link-mbit", "--lag-ms-p99"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_number_that_is_none_is_refused_before_anything_is_measured(option: str, value: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["capacity", "baseline", "--out", str(tmp_path), option, value], standalone_mode=False)
    assert isinstance(done.exception, click.BadParameter)
    assert list(tmp_path.iterdir()) == []


def test_the_command_plans_from_a_file_and_its_exit_code_says_whether_a_target_is_carried(tmp_path: Path) -> None:
    write_capacity(FOUND, tmp_path)
    many = ("--pods-per-service", "2")
    for target, code, words in (("500", 0, "take replicas as they are, 1 broker"), ("90000000", 1, "no option is left")):
        done = CliRunner().invoke(
            cli, ["capacity", "baseline", "--from", str(tmp_path), "--target-rate", target, *many], standalone_mode=False
        )
        assert done.exception is None and done.return_value == code
        assert words in " ".join(done.output.split())
    write_capacity(nothing_carried(), tmp_path)
    assert CliRunner().invoke(cli, ["capacity", "--from", str(tmp_path)], standalone_mode=False).return_value == 1


def test_the_sentence_of_a_plan_names_choice_and_share() -> None:
    plan = make_plan(FOUND.plan_model, FOUND.workload, target_calls_per_s=1_000, measured=FOUND.measured)
    assert plan_sentence(plan).startswith("For 1,000 calls/s take replicas as they are, 1 broker, batches of 10")


def test_the_picture_of_held_out_points_holds_each_with_its_interval() -> None:
    ax = predicted_against_measured(FOUND)
    assert ax.get_title() == "Held out: off by 0% in the median, 6 of 6 inside the interval"
    assert "events/s" in ax.get_xlabel() and "events/s" in ax.get_ylabel()
    (bars,) = ax.containers
    assert len(bars[0].get_xdata()) == 6
    assert sorted(bars[0].get_xdata()) == pytest.approx(sorted(one.measured for one in FOUND.held()))


def test_the_picture_of_pods_shades_what_was_tested_and_draws_a_line_for_each_size(tmp_path: Path) -> None:
    ax = rate_against_pods(FOUND)
    assert "From 1 to 72 pods" in ax.get_title()
    labels = ax.get_legend_handles_labels()[1]
    assert "tested" in labels and len([label for label in labels if "payload" in label]) == 5
    assert len({line.get_color() for line in ax.lines if "payload" in str(line.get_label())}) == 5
    write_picture(FOUND, tmp_path / "capacity.png")
    assert (tmp_path / "capacity.png").stat().st_size > 10_000


# -- one truth about what was carried ----------------------------------------------------------------------------


def held_once(repeats: int = 1) -> Capacity:
    """Return a measurement whose search held a rate that of four repeats only so many did."""
    why = "the backlog grows by 90 events/s"
    again = tuple(step(2_239.0, why_not="" if n < repeats else why) for n in range(4))
    return msgspec.structs.replace(measured(), steps=(step(2_239.0), step(4_478.0, why_not=why)), at_answer=again, one_down=())


@pytest.mark.parametrize("repeats", range(5))
def test_a_rate_is_carried_when_three_of_four_repeats_held_and_text_table_and_plan_agree(repeats: int) -> None:
    found = held_once(repeats)
    carried = repeats >= 3
    assert (found.carried is not None) == carried == (found.measured.held_calls_per_s == 2_239.0)
    text, table = answer(found), {row[0]: row[-1] for row in search_rows(found)}
    assert text.startswith("This bus" if carried else "No rate was carried") and ": ." not in text and ": , " not in text
    assert table == {"2,239": "yes" if carried else "once, but not again", "4,478": "no: the backlog grows by 90 events/s"}
    assert table["2,239"] in markdown(found)
    plan = make_plan(found.plan_model, found.workload, target_calls_per_s=100, measured=found.measured)
    assert (plan.best is not None) == carried
    if not carried:
        said = f"in the search 2,239 calls/s held once, but of the repeats at 2,239 only {repeats} of 4 held: the backlog grows by 90"
        assert said in text and "2,239 calls/s" in plan_sentence(plan)


def test_a_rate_that_was_lowered_is_what_held_and_the_one_before_was_too_much() -> None:
    lower = tuple(step(1_999.0) for _ in range(4))
    found = msgspec.structs.replace(held_once(1), at_answer=lower, lowered=held_once(1).at_answer)
    assert found.measured == SustainedRate(found.workload, 1_999.0, 2_239.0, "the backlog grows by 90 events/s")
    assert search_rows(found)[0][-1] == "once, but not again"
    old = msgspec.structs.replace(found, lowered=())  # a file of before they were kept
    assert old.measured.too_much_calls_per_s == 2_239.0 and "held once" in old.measured.why_not
    assert "." in answer(nothing_carried()) and nothing_carried().measured.held_calls_per_s == 0.0


def test_what_to_plan_for_is_never_more_than_was_carried() -> None:
    found = held_once(4)
    assert "plan for 2,239 calls/s at most, which was measured" in answer(found) and "which is computed" in answer(found)


def test_a_file_of_before_intervals_told_their_parts_is_fitted_anew(tmp_path: Path) -> None:
    parts = {"rounds_freedom": 0, "noise": 0.0, "windows": 0}
    old = msgspec.structs.replace(FOUND, model=msgspec.structs.replace(FOUND.model, **parts))
    assert read_capacity(write_capacity(old, tmp_path)) == FOUND


# -- the command -------------------------------------------------------------------------------------------------


def command(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["capacity", "baseline", *words], standalone_mode=False)
    if isinstance(done.exception, UsageError):
        return 2, str(done.exception)
    assert done.exception is None, done.exception
    return int(done.return_value), " ".join(done.output.split())


def test_from_writes_to_out_when_it_is_given_and_else_says_that_it_does_not(tmp_path: Path) -> None:
    write_capacity(FOUND, tmp_path / "kept")
    _, said = command("--from", str(tmp_path / "kept"))
    assert "nothing is written without --out" in said and [path.name for path in tmp_path.iterdir()] == ["kept"]
    code, said = command("--from", str(tmp_path / "kept"), "--target-rate", "90000000", "--out", str(tmp_path / "new"))
    assert code == 1 and f"capacity {tmp_path / 'new' / 'capacity.json'}" in said
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["capacity.json", "capacity.md", "capacity.png"]
    assert read_capacity(tmp_path / "new") == FOUND
    page = (tmp_path / "new" / "capacity.md").read_text("utf-8")
    assert "## Planned: `baseline` at 90,000,000 calls/s" in page and "What would have to change" in page
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_options_that_only_measuring_uses_are_named_and_another_limit_on_lag_is_refused(tmp_path: Path) -> None:
    write_capacity(FOUND, tmp_path)
    code, said = command("--from", str(tmp_path), "--lag-ms-p99", "10")
    assert code == 2 and "--lag-ms-p99 10: the file of --from was measured with 50" in said
    code, said = command("--from", str(tmp_path), "--lag-ms-p99", "50", "--deep", "--on", "container")
    assert code == 0 and "--on and --deep changed nothing: with --from nothing is measured" in said


def test_the_command_refuses_what_the_search_of_its_file_did_not_hold(tmp_path: Path) -> None:
    two = [f"services.{name}.replicas=2" for name in ("ai-config-service", "system-service")]
    workload = workload_of(load_scenario("baseline", settings=tuple(two)))
    why = "p99 of lag is 80.0 ms, over 50 ms"
    steps = (step(30_000.0), step(36_259.0), step(39_541.0, why_not=why))
    found = msgspec.structs.replace(FOUND, workload=workload, steps=steps, at_answer=(step(36_259.0),) * 4)
    write_capacity(found, tmp_path)
    again = ("--set", two[0], "--set", two[1], "--from", str(tmp_path))
    code, said = command(*again, "--target-rate", "36000")
    assert code == 0 and "1 broker, batches of 100" in said and "Measured: 36,259 calls/s held." in said
    code, said = command(*again, "--target-rate", "70000")
    assert "36,259 calls/s held, 39,541 did not: p99 of lag is 80.0 ms" in said
    taken = re.search(r"take [^:]*", said)
    assert (code == 1) == (taken is None) and (taken is None or (", 1 broker" not in taken.group() and "computed" in said))


def test_a_service_that_adds_up_is_one_that_hears_what_it_counts_and_has_no_recipe_that_lasts() -> None:
    def adding(*settings: str) -> tuple[str, ...]:
        return workload_of(load_scenario("baseline", settings=settings)).adding_up

    assert adding() == adding("bus.once=finally-del") == ("analytics-service",)
    assert adding("bus.once=keep-marker") == adding("bus.once=two-key") == ()
    assert adding("load.mix={}", 'load.mix."config.cache.invalidate"=1') == ()
