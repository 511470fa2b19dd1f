"""A measurement of capacity as it would be found on a machine whose costs are known."""

from __future__ import annotations

import msgspec
import numpy as np

from sim.measure.capacity.fit import Point, columns_of, fit_costs, fit_usl
from sim.measure.capacity.report import FILE_FORMAT, Capacity, TriedRate
from sim.measure.capacity.workload import EventType, Workload

KINK = 16_384
COSTS = (2.0, 0.001, 0.5, 0.0006, 1.0, 0.0003)
LOAD = Workload(
    (
        EventType("analytics.events.batch", 0.6, True, 200, 150, ("reader",), ("writer",)),
        EventType("config.cache.invalidate", 0.4, False, 400, 0, ("reader", "writer"), ("writer",)),
    ),
    {"reader": 2, "writer": 3},
    10,
    30.0,
)


def point(pods: int, size: int, *, off: float = 1.0, core: float = 1.0) -> Point:
    cost = off * float(columns_of(pods, size, KINK) @ np.array(COSTS))
    costs = tuple(cost * factor for factor in (0.97, 1.0, 1.02))
    return Point(pods, 64, 1, size, costs, tuple(core * 1e6 / c for c in costs), (core,) * 3)


def step(calls_per_s: float, *, core: float = 0.8, why_not: str = "") -> TriedRate:
    return TriedRate(calls_per_s, calls_per_s * 0.46, 0.8, 12.5, 1.2, 3.0, core, why_not)


def measured(*, core: float = 1.0, off: float = 1.0) -> Capacity:
    """Return one; `off` is how far held-out points lie from the costs that were fitted."""
    fitted = [point(pods, size, core=core) for pods in (1, 6, 24, 72) for size in (290, 1_800, 16_100, 16_500, 70_000)]
    steps = (step(100_000.0), step(150_000.0), step(200_000.0, core=0.98, why_not="p99 of lag is 80.0 ms, over 50 ms"))
    return Capacity(
        format=FILE_FORMAT,
        measured_at="2026-11-24T12:00:00+00:00",
        took_s=180.0,
        scenario="baseline",
        ground="embedded",
        lag_ms_p99=50.0,
        connections=4,
        workload=LOAD,
        fitted=tuple(fitted),
        held_out=tuple(point(pods, size, off=off, core=core) for pods in (3, 12, 48) for size in (700, 40_000)),
        model=fit_costs(fitted, kink_bytes=KINK),
        usl=fit_usl(fitted, kink_bytes=KINK),
        mix_cpu_us=(6.0, 6.1, 6.2),
        mix_core=(core,) * 3,
        steps=steps,
        at_answer=(step(150_000.0, core=0.84), step(150_000.0, core=0.86)),
        one_down=(step(150_000.0, core=0.8),),
        host_copies_per_s=500_000.0,
        about={"machine": {"cores": 2, "processor": "x86_64"}, "broker": {"server_name": "valkey", "valkey_version": "9.1.2"}},
    )


def nothing_carried() -> Capacity:
    return msgspec.structs.replace(measured(), steps=(step(1_000.0, why_not="the backlog grows by 9 events/s"),), at_answer=(), one_down=())
