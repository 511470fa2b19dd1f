"""Keep the books per service: what became of each event at each service that should hear it.

A service should hear the events of its pods' channels, whether or not one of its pods lives. Beside the copies of its pods
(`sim.results.copies`) a pair of event and service is

- **heard by all**: every pod that was to hear it did; where a transport hands an event to one pod of each service, one of them did.
- **heard by some**: some of its pods did, and some did not. *In doubt* where nobody knows of any of the latter whether it was to hear it
  (`sim.results.clock_doubt`), or did: its record is lost.
- **unserved**: none did. *In doubt* when its publisher does not know whether it was published, or the record of one of its pods is lost.
- without a pod, when none of the service's pods was alive at the moment at which the event was due (when it was sent; at its intended
  time, if it never left) and none heard it later. The service is then owed one copy, which no pod stands for. Its cause is what its
  publisher knew, else **no-pod**. A pod that came alive before the answer, or that reads what a
  stream kept, and heard the event makes it an ordinary copy.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.record.reader import Array, codes_in, codes_of
from sim.results.copies import CAUSE, FATE, KNOWN_CAUSE, OUTCOME, Copies, CopyIndex
from sim.results.run_tables import RunTables

NO_COPY = -1  # the fate of a pair whose pods have copies of their own
HEARD, UNHEARD, LEFT_TO_PEER, UNRECORDED = 1, 2, 3, 4  # what a pod's copy is to its service


class ServiceBooks(NamedTuple):
    """Every pair of an event and a service that should hear it, one entry each, service by service.

    `publish` is a row number, `service` numbers `RunTables.services`; `heard` counts the service's pods that heard it, `unheard` those that
    should have and did not. `fate` and `cause` are of the copy that a service without a pod is owed, `NO_COPY` and "" elsewhere.
    """

    publish: Array
    service: Array
    heard: Array
    unheard: Array
    in_doubt: Array
    fate: Array
    cause: Array

    @property
    def unserved(self) -> Array:
        """Whether no pod of the service heard the event."""
        none: Array = self.heard == 0
        return none

    @property
    def half_served(self) -> Array:
        """Whether some of its pods heard it, and some did not."""
        some: Array = (self.heard > 0) & (self.unheard > 0)
        return some

    @property
    def alone(self) -> Array:
        """Which pairs are of a service without a pod."""
        none: Array = np.flatnonzero(self.fate != NO_COPY)
        return none


def keep_books(run: RunTables, index: CopyIndex, copies: Copies) -> ServiceBooks:
    """Return what became of each event at each service."""
    role = np.zeros(len(FATE), dtype=np.int8)
    role[[FATE["delivered"], FATE["missing"], FATE["unknown"]]] = HEARD, UNHEARD, UNHEARD
    roles = role[copies.fate]
    roles[copies.cause == CAUSE["taken-by-peer"]] = LEFT_TO_PEER
    if run.unrecorded_pods.any():
        roles[(copies.fate == FATE["unknown"]) & run.unrecorded_pods[copies.pod]] = UNRECORDED
    bounds = np.searchsorted(copies.pod, np.arange(len(run.pod_histories) + 1))
    parts = []
    for service in range(len(run.services)):
        own = [slice(bounds[pod], bounds[pod + 1]) for pod in np.flatnonzero(run.service_of_pod == service)]
        publish, part = (np.concatenate([column[:0], *(column[one] for one in own)]) for column in (copies.publish, roles))
        parts.append(_of_service(run, index, service, publish=publish, roles=part))
    if not parts:
        kinds = (np.int32, np.int16, np.int16, np.int16, np.bool_, np.int8, np.int8)
        return ServiceBooks(*(np.array([], dtype=kind) for kind in kinds))
    return ServiceBooks(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def count_handlings(run: RunTables, copies: Copies, books: ServiceBooks) -> tuple[Array, Array, Array]:
    """Return how often pods of its service ran, skipped and failed to run each event of the books; shape (pairs,) each."""
    heard = np.flatnonzero((copies.publish >= 0) & (copies.fate != FATE["unexpected"]) & (copies.delivery >= 0))
    outcome = codes_in(run.deliveries["outcome"], {"handled": 1, "skipped": 2, "failed": 3})[copies.delivery[heard]]
    publish, service = copies.publish[heard], run.service_of_pod[copies.pod[heard]]
    counted = np.zeros((3, len(books.publish)), dtype=np.int64)
    for code in range(len(run.services)):
        mine = books.service == code
        for word in (1, 2, 3):
            rows = publish[(service == code) & (outcome == word)]
            counted[word - 1, mine] = np.bincount(rows, minlength=len(run.publishes))[books.publish[mine]]
    return counted[0], counted[1], counted[2]


def half_in_doubt(run: RunTables, copies: Copies, books: ServiceBooks) -> Array:
    """Return for each pair of the books whether it is heard by some only if clocks that are not known so well, or a lost record, say so."""
    in_doubt = np.zeros(len(books.publish), dtype=bool)
    if not run.clocks.differ and not run.unrecorded_pods.any():
        return in_doubt
    known = codes_in(run.publishes["outcome"], OUTCOME) != OUTCOME["unknown"]
    doubted = np.flatnonzero((copies.fate == FATE["unknown"]) & known[copies.publish])
    for service in range(len(run.services)):
        mine, its = books.service == service, doubted[run.service_of_pod[copies.pod[doubted]] == service]
        many = np.bincount(copies.publish[its], minlength=len(run.publishes))[books.publish[mine]]
        in_doubt[mine] = books.half_served[mine] & (books.unheard[mine] == many)
    return in_doubt


def _of_service(run: RunTables, index: CopyIndex, service: int, *, publish: Array, roles: Array) -> ServiceBooks:
    """Return the part of one service, from the copies of its pods."""
    wanted = np.array([*(word in run.service_channels[service] for word in codes_of(run.publishes["channel"])[1]), False])
    event = np.flatnonzero(wanted[index.channel])
    rows = index.row[event]
    heard, unheard, left_to_peer, unrecorded = (
        np.bincount(publish[roles == role], minlength=len(run.publishes))[rows].astype(np.int16)
        for role in (HEARD, UNHEARD, LEFT_TO_PEER, UNRECORDED)
    )
    unheard += unrecorded
    in_doubt = (heard == 0) & ((index.outcome[event] == OUTCOME["unknown"]) | (unrecorded > 0))
    alone = (heard == 0) & (unheard == 0) & (left_to_peer == 0)
    fate = np.where(alone, np.where(in_doubt, FATE["unknown"], FATE["missing"]), NO_COPY).astype(np.int8)
    cause = np.zeros(len(event), dtype=np.int8)
    cause[fate == FATE["missing"]] = _cause(index, event[fate == FATE["missing"]])
    return ServiceBooks(rows, np.full(len(event), service, dtype=np.int16), heard, unheard, in_doubt, fate, cause)


def _cause(index: CopyIndex, event: Array) -> Array:
    """Return why the copies of services without a pod are missing: what went wrong first."""
    known = np.array([CAUSE[KNOWN_CAUSE.get(word, "no-pod")] for word in OUTCOME], dtype=np.int8)
    cause: Array = known[index.outcome[event]]
    return cause
