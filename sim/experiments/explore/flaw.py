"""One thing that is wrong with a run: what a search looks for, and what it need not tell again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Flaw:
    """One thing that is wrong.

    Attributes
    ----------
    name
        Who found it, and what kind of thing it is, without a number or a name: two runs with the same name show the same.
    text
        One sentence.
    event
        The id of an event whose story shows it, empty where none does.
    """

    name: str
    text: str
    event: str = ""


def is_known(name: str, known: Sequence[str]) -> bool:
    """Return whether a finding is one of those that do not count, by its name or the beginning of it."""
    return any(name == one or name.startswith(one) for one in known)
