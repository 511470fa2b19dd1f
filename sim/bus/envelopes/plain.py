"""Any JSON object, with pointers that say where its id, type, time and source stand.

Rules
-----
1. `data` points to what a call carries; empty, it is the object itself, and the envelope's fields stand among the data's.
2. Our own events have text at each pointer. Of others the id may be a number; what has none is malformed.
3. `versions` are those that are read: as they are written, or with ``.*`` at the end, which stands for the version and all that
   begin with it and a dot. The first is what our own events say. Without `version`, no version is written, and any event is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import permutations
from typing import Any

import msgspec

from sim.bus.envelope import VERSION, Chunk, Event, chunk_of, read_json
from sim.bus.pointer import Pointer, find, parse_pointer
from sim.errors import UnsupportedVersion

_encoder = msgspec.json.Encoder()


class Plain:
    """Any JSON object."""

    by_channel = False
    identity = None  # an event has its id

    def __init__(
        self,
        *,
        id: str = "/id",
        type: str = "/type",
        time: str = "/time",
        source: str = "/source",
        correlation: str = "",
        data: str = "/data",
        version: str = "",
        versions: Sequence[str] = ("1.0", "1.*"),
    ) -> None:
        named = {"id": id, "type": type, "time": time, "source": source, "correlation": correlation, "version": version}
        self._at: dict[str, Pointer] = {}
        for name, text in named.items():
            if text:
                self._at[name] = _checked(name, text)
            elif name in ("id", "type", "source"):
                raise ValueError(f"{name} is empty: say where it stands, as /{name}")
        self.data_at: Pointer = _checked("data", data)
        places = {**self._at, "data": self.data_at} if self.data_at else dict(self._at)
        for (one, above), (other, below) in permutations(places.items(), 2):
            if below[: len(above)] == above:
                raise ValueError(f"{one} and {other} stand in one another: /{'/'.join(above)} and /{'/'.join(below)}")
        if version and (not versions or versions[0].endswith(".*")):
            raise ValueError(f"versions = {list(versions)!r}: begin with the version that is written, such as 1.0")
        self._version = versions[0] if version else ""
        self._exact = frozenset(one for one in versions if not one.endswith(".*"))
        self._families = tuple(one.removesuffix(".*") for one in versions if one.endswith(".*"))
        self._order = sorted(self._at, key=lambda name: name != "id")  # the id first: the receive path tells reads apart by it

    def encode(self, event: Event) -> bytes:
        """Return the event as bytes.

        Raises
        ------
        TypeError, ValueError, OverflowError, RecursionError
            Its data cannot be encoded, or has a field where the envelope has one.
        """
        values = {
            "id": event.event_id,
            "type": event.type,
            "time": event.timestamp,
            "source": event.source,
            "correlation": event.correlation_id,
            "version": self._version,
        }
        written: dict[str, Any] = {}
        for name in self._order:
            _put(written, self._at[name], values[name])
        if self.data_at:
            _put(written, self.data_at, event.data)
        elif both := written.keys() & event.data.keys():
            raise ValueError(f"the envelope has a field {min(both)!r} too; let `data` of [envelope] point elsewhere")
        else:
            written |= event.data
        return _encoder.encode(written)

    def decode_read(self, payloads: Iterable[bytes]) -> Chunk:
        """Decode the events of one read."""
        return chunk_of(payloads, self._decode)

    def _decode(self, payload: bytes) -> Event:
        fields = read_json(payload)
        if "version" in self._at:
            version = find(self._at["version"], fields)
            if version is not None and not self._is_read(str(version)):
                raise UnsupportedVersion(f"version {str(version)[:40]!r} is not read here")
        at = {name: find(pointer, fields) for name, pointer in self._at.items()}
        id, type, source = at["id"], at["type"], at["source"]
        if (
            isinstance(id, bool)
            or not isinstance(id, str | int | float)
            or id == ""
            or not isinstance(type, str)
            or not isinstance(source, str)
        ):
            raise ValueError("no id, type or source at their pointers")
        data = find(self.data_at, fields)
        time, correlation = at.get("time"), at.get("correlation")
        return Event(
            str(id),
            correlation if isinstance(correlation, str) else "",
            type,
            VERSION,
            time if isinstance(time, str) else "" if time is None else str(time),
            source,
            data if isinstance(data, dict) else {} if data is None else {"value": data},
        )

    def _is_read(self, version: str) -> bool:
        return version in self._exact or any(version == one or version.startswith(one + ".") for one in self._families)


def _checked(name: str, text: str) -> Pointer:
    try:
        return parse_pointer(text)
    except ValueError as error:
        raise ValueError(f"{name} = {error}") from None


def _put(tree: dict[str, Any], pointer: Pointer, value: Any) -> None:
    """Set what stands at a pointer of at least one name."""
    for name in pointer[:-1]:
        tree = tree.setdefault(name, {})
    tree[pointer[-1]] = value
