"""Environment variables that people set: the one way in which each of ours is read.

Rules
-----
1. Blanks at both ends are dropped, and so is the newline at the end that a Kubernetes secret made with `echo` has.
2. A variable that is empty, or holds nothing but blanks, counts as absent, as in a manifest whose value nobody filled in.
3. One that is no text (bytes that are not UTF-8) or goes over several lines is refused by its name, unless it is a list: there a line
   break parts as a blank does. The message holds no value: it may be a password.
4. A switch is off when it is absent or says so: 0, false, no, off, in capitals or not. Anything else is on.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping

from sim.errors import UsageError

OFF = ("", "0", "false", "no", "off")


def read_variable(name: str, environment: Mapping[str, str] | None = None, *, is_list: bool = False) -> str:
    """Return a variable's text, of this process unless given; empty when it is absent. The words of a list have one blank between them.

    Raises
    ------
    UsageError
        It holds bytes that are not UTF-8, or a control character.
    """
    text = (os.environ if environment is None else environment).get(name, "").strip()
    if is_list:
        text = " ".join(text.split())
    kinds = {unicodedata.category(character) for character in text}
    if "Cs" in kinds:  # how Python stands for a byte that is not UTF-8
        raise UsageError(f"{name} holds bytes that are not UTF-8: set it to text, or unset it")
    if "Cc" in kinds:
        raise UsageError(f"{name} holds a line break or another control character: set it to one line of text, or unset it")
    return text


def read_switch(name: str, environment: Mapping[str, str] | None = None) -> bool:
    """Return whether a variable switches something on."""
    return (os.environ if environment is None else environment).get(name, "").strip().lower() not in OFF
