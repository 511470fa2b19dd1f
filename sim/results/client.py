"""What the scenario of a run says of its pods' client: runs that were made before a setting existed have its default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def keeps_events(bus: Mapping[str, Any]) -> bool:
    """Return whether a pod kept what was published in an outage until it was over."""
    if bus.get("client") == "ioredis":
        return bool(bus.get("ioredis", {}).get("enableOfflineQueue", True))
    return bus.get("outage_queue") == "keep"


def sends_again(bus: Mapping[str, Any]) -> bool:
    """Return whether a pod sent again what had no answer when it lost its connection."""
    return bus.get("client") == "ioredis" and bool(bus.get("ioredis", {}).get("autoResendUnfulfilledCommands", True))


def gives_up_a_first_subscribe(bus: Mapping[str, Any]) -> bool:
    """Return whether a pod that could not connect for long enough after its start stays deaf."""
    return bus.get("client") == "ioredis" and int(bus.get("ioredis", {}).get("maxRetriesPerRequest", 20)) >= 0


def longest_pause_s(bus: Mapping[str, Any]) -> float:
    """Return the longest time between two attempts to connect again, seconds."""
    if bus.get("client") == "ioredis":
        return float(bus.get("ioredis", {}).get("retryMaxMs", 2000)) / 1e3
    return float(bus.get("reconnect_max_s", 0.0))
