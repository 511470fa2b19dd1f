"""A link keeps order, adds its delay, and lets bytes pass no faster than its rate."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from sim.faults.link import NS_PER_S, Link, LinkPlan

plans = st.builds(
    LinkPlan,
    delay_ns=st.integers(0, 10**6),
    jitter_ns=st.integers(0, 10**6),
    bytes_per_s=st.sampled_from([0, 1, 1000, 10**6, 10**9]),
)
pieces = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**5)), max_size=30)  # (after the one before, bytes)


@given(plans, pieces, st.integers())
def test_pieces_arrive_in_order_and_not_too_soon(plan: LinkPlan, pieces: list[tuple[int, int]], seed: int) -> None:
    link = Link(plan, random.Random(seed).random)
    sent_ns, arrived_ns, first_ns, passed = 0, 0, None, 0
    for gap_ns, size in pieces:
        sent_ns += gap_ns
        first_ns = sent_ns if first_ns is None else first_ns
        passed += size
        arrival_ns = link.arrival_ns(sent_ns, size)
        assert arrival_ns is not None
        assert arrival_ns >= max(arrived_ns, sent_ns + plan.delay_ns)
        if not plan.bytes_per_s:
            assert arrival_ns <= max(arrived_ns, sent_ns + plan.delay_ns + plan.jitter_ns)
        else:
            rounded_ns = len(pieces)
            assert arrival_ns + rounded_ns >= first_ns + passed * NS_PER_S // plan.bytes_per_s + plan.delay_ns
        arrived_ns = arrival_ns


def test_a_held_link_lets_nothing_pass_until_it_is_released() -> None:
    link = Link(LinkPlan(delay_ns=5, held=True), random.random)
    assert link.arrival_ns(100, 10) is None
    link.plan = LinkPlan(delay_ns=5)
    assert link.arrival_ns(900, 10) == 905
