"""How old each event seemed to the pod that handled it: what that pod's wall clock showed, minus the event's timestamp."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sim.record.reader import Array, codes_in
from sim.results.copies import FATE
from sim.results.pieces import Piece
from sim.results.run_tables import RunTables


def read_stated_ages(run: RunTables, piece: Piece) -> tuple[Array, Array]:
    """Return the copies of stamped events delivered in the run phase, as entries of a piece, and their stated ages in nanoseconds."""
    stamped = run.publishes["stamped_ns"].to_numpy()
    rows = np.flatnonzero((piece.fate == FATE["delivered"]) & piece.in_run)
    rows = rows[stamped[piece.publish[rows]] > 0]
    handled = piece.heard.handled_ns[piece.delivery[rows]]
    names = [history.pod for history in run.pod_histories]
    ages: Array = handled + _ahead(run.pods, names, piece.pod[rows], handled) - stamped[piece.publish[rows]]
    return rows, ages


def _ahead(pods: pd.DataFrame, names: list[str], pod: Array, at_ns: Array) -> Array:
    """Return for each (pod, time) how far the pod's clock was ahead then, in nanoseconds."""
    ahead = np.zeros(len(at_ns), dtype=np.int64)
    number, times, values = (
        codes_in(pods["pod"], {name: place for place, name in enumerate(names)}),
        *(pods[column].to_numpy() for column in ("at_ns", "clock_ahead_ns")),
    )
    for one in np.unique(number[values != 0]):
        mine = np.flatnonzero(number == one)
        mine = mine[np.argsort(times[mine], kind="stable")]
        here = np.flatnonzero(pod == one)
        place = np.searchsorted(times[mine], at_ns[here], side="right") - 1
        ahead[here] = np.where(place >= 0, values[mine][np.maximum(place, 0)], 0)
    return ahead
