"""Draw the README's picture from a run folder: what an outage did over time, and who heard whom while it lasted.

``python -m docs.picture RUN`` writes reports/outage.png; the committed one is of `buslab run broker_down`, on a real server.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import matplotlib

from sim.results.opened_run import open_run
from sim.results.outage_plots import rates_and_states, reachability_map

PICTURE = Path(__file__).parents[1] / "reports" / "outage.png"
INCHES, DOTS_PER_INCH = (13, 5.6), 90
TITLE_LETTERS = 56  # of a line


def draw(folder: Path, out: Path = PICTURE) -> None:
    """Draw both figures side by side and write them as one file."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    run = open_run(folder)
    with pyplot.rc_context({"axes.titlesize": 11, "font.size": 10}):
        figure, (left, right) = pyplot.subplots(1, 2, figsize=INCHES, layout="constrained", width_ratios=(1.15, 1))
        rates_and_states(run, left)
        reachability_map(run, right)
        left.set_title(textwrap.fill(left.get_title(), TITLE_LETTERS), pad=78)  # the band of pods and its legend stand between
        right.set_title(textwrap.fill(right.get_title(), TITLE_LETTERS))
        figure.savefig(out, dpi=DOTS_PER_INCH, pil_kwargs={"optimize": True})
        pyplot.close(figure)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
