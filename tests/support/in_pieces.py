"""Let short runs be judged as those with too many deliveries for the memory are: a few pods at a time. For tests."""

from __future__ import annotations

import pytest

from sim.results import heard


def judge_in_pieces(monkeypatch: pytest.MonkeyPatch, *, copies: int = 1) -> None:
    """Judge every run so many copies at a time, at least those of one pod."""
    monkeypatch.setattr(heard, "ROWS_IN_MEMORY", -1)
    monkeypatch.setattr(heard, "ROWS_A_PIECE", copies)
