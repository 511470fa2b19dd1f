"""What a notebook came to: one sentence for people, one verdict for whoever ran it.

The last cell of a notebook calls `conclude`. Run by hand, it shows the sentence. `buslab notebooks` names a file in the variable
`BUSLAB_CONCLUSION` and reads there what was concluded; a notebook that ends without a conclusion is unknown.
"""

from __future__ import annotations

import html
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from sim.errors import RecordError, UsageError, did_you_mean
from sim.pages.colours import VERDICT_COLOURS
from sim.results.checkers.verdict import VERDICTS, worst

CONCLUSION_ENV = "BUSLAB_CONCLUSION"
MEANING = {
    "valid": "the answer is what this notebook expects",
    "invalid": "the answer breaks what this notebook expects",
    "unknown": "the runs cannot be trusted to answer",
}
LINES = {"valid": "solid", "invalid": "double", "unknown": "dashed"}  # read without colour too


@dataclass(frozen=True)
class Conclusion:
    """A verdict and the sentence that answers the notebook's question."""

    verdict: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.sentence}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Show it in JupyterLab and in the rendered page."""
        line = f"{LINES[self.verdict]} {VERDICT_COLOURS[self.verdict]}"
        return (
            f'<div class="conclusion" style="border-left: 6px {line}; padding: 0.6em 1em; font-size: 1.1em">'
            f'<b title="{MEANING[self.verdict]}">{self.verdict}</b>: {html.escape(self.sentence)}</div>'
        )


def conclude(verdict: str, sentence: str) -> None:
    """Show the answer of a notebook, and record it for the runner.

    Parameters
    ----------
    verdict
        ``valid``, ``invalid`` or ``unknown``: whether the answer is what the notebook expects, as of `sim.results.checkers`. When it is
        called more than once the worst counts.
    sentence
        The answer in one sentence, with its number.

    Raises
    ------
    UsageError
        The verdict is none of the three words, or there is no sentence.
    RecordError
        The runner's file cannot be written.
    """
    if verdict not in VERDICTS:
        hint = did_you_mean(str(verdict), VERDICTS)
        raise UsageError(f"conclude({verdict!r}, …): no such verdict{hint}; give one of {', '.join(VERDICTS)}")
    if not isinstance(sentence, str) or not sentence.strip():
        raise UsageError(f"conclude({verdict!r}, {sentence!r}): give the answer in one sentence, with its number")
    made = Conclusion(verdict, " ".join(sentence.split()))
    if path := os.environ.get(CONCLUSION_ENV):
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(made)) + "\n")
        except OSError as error:
            raise RecordError(f"cannot write {path}: {error.strerror or error}; {CONCLUSION_ENV} must name a file") from None
    _show(made)


def settle(holds: bool, *judged: str) -> str:
    """Return the verdict on a statement that rests on runs: what was seen broken is invalid, what cannot be trusted unknown.

    Parameters
    ----------
    holds
        Whether the numbers are as the notebook expects.
    judged
        The verdicts of the runs that gave the numbers.
    """
    return worst(["valid", *judged, "valid" if holds or "unknown" in judged else "invalid"])


def read_conclusion(path: Path) -> Conclusion | None:
    """Return the worst conclusion in a runner's file, None when there is none.

    Raises
    ------
    RecordError
        The file holds something else.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return None
    try:
        made = [Conclusion(**json.loads(line)) for line in lines]
        return min(made, key=lambda one: VERDICTS.index(one.verdict), default=None)
    except (TypeError, ValueError) as error:
        raise RecordError(f"cannot read the conclusions in {path}: {error}; only `sim.conclude` may write there") from None


def _show(made: Conclusion) -> None:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        print(made)
        return
    from IPython.display import display

    display(made)  # type: ignore[no-untyped-call]
