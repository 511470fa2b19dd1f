"""What a program reports: lines among its other output, in whatever pieces they come, and bodies of a POST."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.machine.http_server import Refusal, Request
from sim.pods.programs.reports import MAX_LINE, ReportReader, handled_endpoint

OUTPUT = b"up\nbuslab handled a-1\r\nnot buslab handled b\nbuslab handled c at=70\nbuslab handled d at=900  \n"
OUTPUT += b"buslab handled\nbuslab handled e f\n"
FOUND = [("a-1", 100), ("c", 70), ("d", 100)]  # a time that is yet to come is now


@given(st.lists(st.integers(0, len(OUTPUT))))
def test_reports_are_found_in_whatever_pieces_the_output_comes(cuts: list[int]) -> None:
    found: list[tuple[str, int]] = []
    reader = ReportReader(lambda event, at_ns: found.append((event, at_ns)))
    places = [0, *sorted(cuts), len(OUTPUT)]
    for begin, end in itertools.pairwise(places):
        reader.take(OUTPUT[begin:end], 100)
    assert found == FOUND


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    found: list[str] = []
    reader = ReportReader(lambda event, at_ns: found.append(event))
    for _ in range(100):
        reader.take(b"x" * MAX_LINE, 1)
    assert len(reader._rest) <= MAX_LINE
    reader.take(b"\nbuslab handled a\n", 1)
    assert found == ["a"]


@pytest.mark.parametrize(
    ("body", "ids"),
    [({"event": "a b"}, ["a b"]), ({"events": ["a", "b"]}, ["a", "b"]), (["a"], ["a"]), ("a", ["a"])],
)
def test_a_post_says_which_events_were_handled(body: object, ids: list[str]) -> None:
    found: list[tuple[str, int]] = []
    answer = handled_endpoint(lambda event, at_ns: found.append((event, at_ns)), lambda: 5)(
        Request("POST", "/", {}, json.dumps(body).encode())
    )
    assert answer.status == 200 and json.loads(answer.body) == {"taken": len(ids)} and found == [(one, 5) for one in ids]


@pytest.mark.parametrize("body", [b"{}", b"[1]", b'{"event": ""}', b"null", b"no json", json.dumps(["a"] * 10_001).encode()])
def test_a_post_that_names_no_event_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal):
        handled_endpoint(lambda event, at_ns: None, lambda: 5)(Request("POST", "/", {}, body))
