"""Names that Kubernetes can have: a Service's is a label of DNS, and anything else that we name follows it.

Rules
-----
1. A name that fits stays as it is. Any other is mapped: small letters, digits and dashes, beginning with a letter, at most `MOST` of them.
2. No two of a bus get one name, and none gets one of the lab's own: a mapped name that is taken has a part of its hash behind it.
3. The same names give the same names, whatever else changed in the scenario.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

MOST = 63  # characters of a label of DNS
HASH = 6
OWN = "buslab-"  # what the names of the lab's own objects begin with
_FITS = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
_KEY = re.compile(r"[^A-Za-z0-9._-]+")


def service_names(services: Iterable[str]) -> dict[str, str]:
    """Return what each service is called in Kubernetes, by its name."""
    services = list(services)
    names = {name: name for name in services if fits(name)}
    taken = set(names)
    for name in services:
        if name not in names:
            names[name] = _free(mapped(name), name, taken)
            taken.add(names[name])
    return {name: names[name] for name in services}


def fits(name: str) -> bool:
    """Return whether a service may be called so there."""
    return len(name) <= MOST and _FITS.fullmatch(name) is not None and not name.startswith(OWN)


def mapped(name: str) -> str:
    """Return a name as a label of DNS; several names may be one there."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    label = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if not label:
        return f"service-{_hash(name)}"
    if not label[0].isalpha() or label.startswith(OWN):
        label = f"s-{label}"
    return label if len(label) <= MOST else f"{label[: MOST - HASH - 1].rstrip('-')}-{_hash(name)}"


def file_key(path: str, taken: Iterable[str] = ()) -> str:
    """Return the key of a ConfigMap under which a file stands."""
    key = _KEY.sub("-", unicodedata.normalize("NFKD", path).encode("ascii", "ignore").decode()) or "file"
    key = key if len(key) <= MOST else key[-MOST:]
    return f"{_hash(path)}-{key}" if key in set(taken) or key in (".", "..") else key


def _free(label: str, name: str, taken: set[str]) -> str:
    free, again = label, name
    while free in taken:
        free = f"{label[: MOST - HASH - 1].rstrip('-')}-{_hash(again)}"
        again += name
    return free


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:HASH]
