"""What a notebook concludes reaches its reader and its runner, and the worst that was concluded counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.errors import RecordError, UsageError
from sim.experiments.notebooks.conclusion import CONCLUSION_ENV, Conclusion, conclude, read_conclusion


def test_by_hand_it_shows_the_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CONCLUSION_ENV, raising=False)
    conclude("valid", "No copy of 12 is\n  missing.")
    assert capsys.readouterr().out == "valid: No copy of 12 is missing.\n"


def test_it_is_shown_as_text_that_no_browser_takes_for_markup() -> None:
    assert "5 &lt; 6 &amp; 7" in Conclusion("invalid", "5 < 6 & 7")._repr_html_()


def test_the_runner_reads_what_was_concluded_and_the_worst_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "conclusion"
    monkeypatch.setenv(CONCLUSION_ENV, str(path))
    assert read_conclusion(path) is None
    conclude("valid", "It holds.")
    assert read_conclusion(path) == Conclusion("valid", "It holds.")
    conclude("invalid", "It breaks at 7.")
    conclude("valid", "It holds again.")
    assert read_conclusion(path) == Conclusion("invalid", "It breaks at 7.")


@pytest.mark.parametrize(("verdict", "sentence"), [("true", "Yes."), ("Valid", "Yes."), (True, "Yes."), ("valid", " "), ("valid", None)])
def test_what_is_no_conclusion_is_refused_and_not_recorded(
    verdict: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CONCLUSION_ENV, str(tmp_path / "conclusion"))
    with pytest.raises(UsageError, match="conclude"):
        conclude(verdict, sentence)
    assert not (tmp_path / "conclusion").exists()


def test_a_file_that_cannot_be_written_or_read_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONCLUSION_ENV, str(tmp_path))
    with pytest.raises(RecordError, match="BUSLAB_CONCLUSION must name a file"):
        conclude("valid", "Yes.")
    for content in ("scribble", '{"verdict": "good", "sentence": "x"}', '["valid", "x"]', '{"verdict": "valid"}'):
        (tmp_path / "foreign").write_text(content, "utf-8")
        with pytest.raises(RecordError, match="cannot read the conclusions"):
            read_conclusion(tmp_path / "foreign")
