"""Whom the broker cut: from two listings and a counter, by the rule in `sim/run/client_list.py`."""

from __future__ import annotations

import pytest

from sim.run.client_list import DEFAULT_LIMIT_BYTES, Listing, cut_between, read_limit

MB = 1_000_000


def line(number: int, *, output: int = 0, flags: str = "P", name: str | None = None) -> bytes:
    """One line as Valkey 9 writes it."""
    name = f"buslab-7-pod-{number}-sub" if name is None else name
    text = f"id={number} addr=127.0.0.1:41072 laddr=127.0.0.1:52003 fd=4409 name={name} age=1 idle=1 flags={flags} capa= db=0 sub=1 psub=0 "
    text += f"ssub=0 multi=-1 watch=0 qbuf=0 qbuf-free=16386 argv-mem=0 multi-mem=0 rbs=16392 rbp=16392 obl=0 oll={output // 1000} "
    return (text + f"omem={output} tot-mem=33672 events=r cmd=subscribe user=default redir=-1 resp=2 lib-name= lib-ver=\n").encode()


def listing(*lines: bytes, cuts: int | None = 0) -> Listing:
    return Listing(b"".join(lines), cuts)


def cut(before: Listing, after: Listing) -> list[int]:
    return [one.id for one in cut_between(before, after)]


def test_only_those_with_output_wait() -> None:
    found = listing(line(1), line(2, output=5), line(3), line(44, output=7 * MB)).waiting()
    assert [(one.id, one.name, one.output_bytes) for one in found] == [(2, "buslab-7-pod-2-sub", 5), (44, "buslab-7-pod-44-sub", 7 * MB)]
    assert listing().waiting() == listing(line(1)).waiting() == []


@pytest.mark.parametrize("text", [line(1, output=3), line(1, output=3).rstrip(b"\n"), line(2) + line(1, output=3).rstrip(b"\n")])
def test_the_last_line_counts_with_and_without_its_end(text: bytes) -> None:
    assert [one.id for one in Listing(text, 0).waiting()] == [1]


def test_while_the_counter_stands_nobody_was_cut() -> None:
    """However much waited: it was killed, or stopped."""
    assert cut(listing(line(1, output=30 * MB), line(2)), listing(line(2))) == []


def test_who_went_as_the_counter_rose_was_cut() -> None:
    before = listing(line(1, output=3 * MB), line(2))
    assert cut(before, listing(line(2), cuts=1)) == [1]
    assert cut(before, listing(line(2), line(9), cuts=1)) == [1], "a new connection of the same pod has another id"
    assert cut(before, listing(line(1, output=9 * MB, flags="AP"), line(2), cuts=1)) == [1], "it is listed until the loop closes it"


def test_it_may_have_gone_from_nothing_to_the_limit_between_two_listings() -> None:
    assert cut(listing(line(1), line(2)), listing(line(2), cuts=1)) == [1]


def test_of_more_that_went_than_were_cut_the_longest_buffers_are_named() -> None:
    before = listing(line(1, output=1 * MB), line(2, output=8 * MB), line(3), line(4, output=7 * MB))
    assert cut(before, listing(cuts=2)) == [2, 4]
    assert cut(listing(line(1), line(2), line(3, output=1)), listing(cuts=2)) == [3], "without evidence nobody is named"


def test_a_counter_that_fell_is_another_life_of_the_server() -> None:
    assert cut(listing(line(1, output=MB), cuts=5), listing(cuts=0)) == []


def test_without_a_counter_only_a_buffer_near_the_limit_is_evidence() -> None:
    before = listing(line(1, output=DEFAULT_LIMIT_BYTES), line(2, output=DEFAULT_LIMIT_BYTES // 3), line(3), cuts=None)
    assert cut(before, listing(cuts=None)) == [1]
    assert cut(before, listing(line(1, output=1), cuts=None)) == []


@pytest.mark.parametrize(
    ("words", "limit"),
    [
        ("normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60", 8_388_608),
        ("normal 0 0 0 slave 0 0 0 pubsub 1000000 0 0", 1_000_000),
        ("pubsub 0 0 0", DEFAULT_LIMIT_BYTES),
        ("", DEFAULT_LIMIT_BYTES),
    ],
)
def test_the_limit_is_read_from_the_server_s_configuration(words: str, limit: int) -> None:
    assert read_limit(["client-output-buffer-limit", words]) == limit
    assert read_limit([]) == DEFAULT_LIMIT_BYTES


def test_a_client_without_a_name_or_of_another_program_is_read_too() -> None:
    assert [one.name for one in listing(line(1, name="", output=1), line(2, name="other", output=2)).waiting()] == ["", "other"]
