"""Put what is alive out of the collector's way before lag is measured: walking it would stop the loop for tens of milliseconds."""

from __future__ import annotations

import gc
import sys

GROWN = 1.25  # times as many blocks of memory as after the last whole collection

_blocks_then = 0.0


def freeze_the_living(*, is_one_of_many: bool = False) -> None:
    """Collect, and freeze what stays.

    Of many short runs in one process most only freeze: what earlier ones left is looked for when memory has grown by a quarter. Looking
    takes a tenth of a second where a test session or a notebook is alive, which is as long as such a run.
    """
    global _blocks_then
    if is_one_of_many and sys.getallocatedblocks() < GROWN * _blocks_then:
        gc.freeze()
        return
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    _blocks_then = sys.getallocatedblocks()
