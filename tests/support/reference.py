"""The reference's bus as tests speak of it: its services by name, what its calls carry, and the rule of its batches."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from sim.bus.batcher import BatchRule
from sim.bus.envelope import BATCH
from sim.bus.services import BEHAVIOURS, ServiceLogic
from sim.scenario.payloads import Content
from sim.scenario.schedule import TEMPLATE_COUNT
from sim.scenario.settings import reference_behaviours, reference_contents

SERVICES: dict[str, Callable[[], ServiceLogic]] = {name: BEHAVIOURS[behaviour] for name, behaviour in reference_behaviours().items()}


@cache
def _contents(payload_bytes: int, templates: int) -> dict[str, Content]:
    return reference_contents(payload_bytes=payload_bytes, templates=templates)


def content(kind: str, number: int, payload_bytes: int, *, templates: int = TEMPLATE_COUNT) -> dict[str, Any]:
    """Return what the call of a number carries."""
    return _contents(payload_bytes, templates)[kind](number)


def batches(size: int, interval_ms: int) -> dict[str, BatchRule]:
    """Return the rules of a node whose analytics items leave so."""
    return {BATCH: BatchRule(size, interval_ms)}
