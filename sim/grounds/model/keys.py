"""The keys of the model's Redis, which expire in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Keys:
    """Keys that expire in virtual time."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._values: dict[bytes, tuple[Any, int]] = {}

    def __len__(self) -> int:
        return len(self.names())

    def names(self) -> list[bytes]:
        """Return the keys that have not expired."""
        return [key for key in list(self._values) if self.get(key) is not None]

    def get(self, key: bytes) -> Any:
        """Return a key's value, None when it is absent or expired."""
        value, expires_ns = self._values.get(key, (None, 0))
        if expires_ns and expires_ns <= self._now_ns():
            del self._values[key]
            return None
        return value

    def set(self, key: bytes, value: Any, *, ttl_ns: int = 0) -> None:
        """Set a key, for ever or for a time."""
        self._values[key] = (value, self._now_ns() + ttl_ns if ttl_ns else 0)

    def delete(self, key: bytes) -> bool:
        """Remove a key and say whether it was there."""
        there = self.get(key) is not None
        self._values.pop(key, None)
        return there

    def clear(self) -> None:
        """Remove every key."""
        self._values.clear()
