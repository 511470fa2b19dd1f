"""The answer, the page and the file of a measurement; planning from the file by the command."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner

from sim.cli.main import cli
from sim.errors import UsageError
from sim.measure.capacity.plan import make_plan
from sim.measure.capacity.plan_table import plan_sentence
from sim.measure.capacity.plots import predicted_against_measured, rate_against_pods, write_picture
from sim.measure.capacity.report import answer, markdown, read_capacity, write_capacity
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
    assert page == markdown(FOUND) and page.count("\n## ") == 5
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
    plan = make_plan(FOUND.model, FOUND.workload, target_calls_per_s=1_000)
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
