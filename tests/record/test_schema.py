"""Event keys: short inside, unmistakable outside."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.record.schema import FOREIGN_BIT, TABLES, compose_key, event_id, event_key

nonces, publishers, sequences = st.integers(0, 2**15 - 1), st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)


@given(nonces, publishers, sequences)
def test_a_key_and_its_id_are_the_same_thing(nonce: int, publisher: int, sequence: int) -> None:
    key = compose_key(nonce=nonce, publisher=publisher, sequence=sequence)
    assert event_key(event_id(key)) == key < FOREIGN_BIT
    assert (key >> 48, key >> 32 & 0xFFFF, key & 0xFFFFFFFF) == (nonce, publisher, sequence)


@given(st.text())
def test_another_program_s_id_never_looks_like_ours(text: str) -> None:
    key = event_key(text)
    assert key == event_key(text)
    assert key >= FOREIGN_BIT or event_id(key) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "evt_",
        "evt_0",
        "EVT_0000000000000001",
        "evt_000000000000000G",
        "evt_00000000000000AB",
        "evt_ffffffffffffffff",
        "evt_00000000000000010",
        "evt_+000000000000001",
        "evt_0x00000000000001",
        "evt_" + 16 * chr(0x660),  # a digit elsewhere
        "\ud800",
    ],
)
def test_an_id_that_is_nearly_ours_is_foreign(text: str) -> None:
    assert event_key(text) >= FOREIGN_BIT


def test_every_column_has_a_type_that_the_recorder_can_hold() -> None:
    assert {kind for columns in TABLES.values() for kind in columns.values()} <= {
        "name",
        "text",
        "uint64",
        "int64",
        "uint32",
        "int32",
        "float64",
    }


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("order-17", 0xF8E9AE0C8E445BB0),
        ("order-18", None),
        ("\ud800", 0xC208783E927D0D68),  # half of a surrogate pair, as JSON.parse reads it
        ("evt_8000000000000000", 0x81ABFF91CC7FF5DF),  # one of ours would be below that
        ("evt_7fffffffffffffff", 0x7FFFFFFFFFFFFFFF),
    ],
)
def test_a_key_is_the_same_in_every_run_and_fits_into_its_column(text: str, key: int | None) -> None:
    """Folders of other versions hold such keys: they are BLAKE2b of eight bytes, the first the highest, with the top bit set."""
    found = event_key(text)
    assert found < 1 << 64 and (found == key if key is not None else found not in (0xF8E9AE0C8E445BB0, 0xC208783E927D0D68))
