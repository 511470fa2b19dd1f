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

from sim.record.reader import Array, codes_in
from sim.results.copies import CAUSE, FATE, KNOWN_CAUSE, OUTCOME, CopyIndex
from sim.results.heard import RESULTS
from sim.results.pieces import Piece, Pieces
from sim.results.run_tables import RunTables

NO_COPY = -1  # the fate of a pair whose pods have copies of their own
HEARD, UNHEARD, LEFT_TO_PEER, UNRECORDED, DOUBTED = 1, 2, 3, 4, 5  # what a pod's copy is to its service


class ServiceBooks(NamedTuple):
    """Every pair of an event and a service that should hear it, one entry each, service by service.

    `publish` is a row number, `service` numbers `RunTables.services`; `heard` counts the service's pods that heard it, `unheard` those that
    should have and did not. `in_doubt` is of pairs that are unserved, `half_in_doubt` of those heard by some. `fate` and `cause` are of the
    copy that a service without a pod is owed, `NO_COPY` and "" elsewhere.
    """

    publish: Array
    service: Array
    heard: Array
    unheard: Array
    in_doubt: Array
    half_in_doubt: Array
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


ROLES = (HEARD, UNHEARD, LEFT_TO_PEER)
ROLES_IN_DOUBT = (UNRECORDED, DOUBTED)  # that only a run of several clocks, or with a lost record, can have


def roles_of(run: RunTables) -> tuple[int, ...]:
    """Return what copies of this run can be to their service."""
    return ROLES + ROLES_IN_DOUBT if run.clocks.differ or run.unrecorded_pods.any() else ROLES


def count_roles(run: RunTables, piece: Piece) -> dict[int, Array]:
    """Return for each service of a piece's pods how many of these had each role for each event: (`roles_of`, publishes)."""
    role = np.zeros(len(FATE), dtype=np.int8)
    role[[FATE["delivered"], FATE["missing"], FATE["unknown"]]] = HEARD, UNHEARD, UNHEARD
    roles = role[piece.fate]
    roles[piece.cause == CAUSE["taken-by-peer"]] = LEFT_TO_PEER
    counted = roles_of(run)
    if DOUBTED in counted:
        roles[_doubted(run, piece)] = DOUBTED
        roles[(piece.fate == FATE["unknown"]) & run.unrecorded_pods[piece.pod]] = UNRECORDED
    service, many, found = run.service_of_pod[piece.pods.start : piece.pods.stop], len(run.publishes), {}
    for code in np.unique(service).tolist():
        own = [piece.of_pod(piece.pods[pod]) for pod in np.flatnonzero(service == code)]
        publish, part = (np.concatenate([column[one] for one in own]) for column in (piece.publish, roles))
        found[code] = np.stack([np.bincount(publish[part == one], minlength=many).astype(np.int16) for one in counted])
    return found


def _doubted(run: RunTables, piece: Piece) -> Array:
    """Return which copies of a piece are unknown although their publisher knows that they were published."""
    unknown = np.flatnonzero(piece.fate == FATE["unknown"])
    known = codes_in(run.publishes["outcome"], OUTCOME) != OUTCOME["unknown"]
    found: Array = unknown[known[piece.publish[unknown]]]
    return found


def keep_service_books(run: RunTables, index: CopyIndex, roles: Array) -> ServiceBooks:
    """Return what became of each event at each service; `roles` has the shape (services, `roles_of`, publishes)."""
    parts = [_of_service(run, index, service, roles[service]) for service in range(len(run.services))]
    if not parts:
        kinds = (np.int32, np.int16, np.int16, np.int16, np.bool_, np.bool_, np.int8, np.int8)
        return ServiceBooks(*(np.array([], dtype=kind) for kind in kinds))
    return ServiceBooks(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def count_handlings(run: RunTables, pieces: Pieces, books: ServiceBooks) -> Array:
    """Return how often pods of its service ran, skipped and failed to run each event of the books; shape (3, pairs)."""
    counted = np.zeros((len(RESULTS), len(books.publish)), dtype=np.int64)
    spans = np.searchsorted(books.service, np.arange(len(run.services) + 1))  # the books stand service by service
    many = len(run.publishes)

    def of_piece(piece: Piece) -> dict[tuple[int, int], Array]:
        found = {}
        service = run.service_of_pod[piece.pods.start : piece.pods.stop]
        kept = (piece.publish >= 0) & (piece.fate != FATE["unexpected"]) & (piece.delivery >= 0)
        for code in np.unique(service).tolist():
            own = [piece.of_pod(piece.pods[pod]) for pod in np.flatnonzero(service == code)]
            publish = np.concatenate([piece.publish[one][kept[one]] for one in own])
            outcome = piece.heard.outcome[np.concatenate([piece.delivery[one][kept[one]] for one in own])]
            rows = books.publish[spans[code] : spans[code + 1]]
            for word in RESULTS.values():
                chosen = outcome == word
                if chosen.any():
                    found[code, word - 1] = np.bincount(publish[chosen], minlength=many)[rows]
        return found

    for found in pieces.each(of_piece):
        for (code, word), times in found.items():
            counted[word, spans[code] : spans[code + 1]] += times
    return counted


def _of_service(run: RunTables, index: CopyIndex, service: int, roles: Array) -> ServiceBooks:
    """Return the part of one service."""
    wanted = np.array([*(word in run.service_channels[service] for word in index.channels), False])
    event = np.flatnonzero(wanted[index.channel])
    rows = index.row[event]
    heard, unheard, left_to_peer, *others = (roles[role][rows] for role in range(len(roles)))
    in_doubt = (heard == 0) & (index.outcome[event] == OUTCOME["unknown"])
    half_in_doubt = np.zeros(len(event), dtype=bool)
    if others:
        unrecorded, doubted = others
        half_in_doubt = (heard > 0) & (unheard == 0) & (unrecorded + doubted > 0) & (index.outcome[event] != OUTCOME["unknown"])
        in_doubt |= (heard == 0) & (unrecorded > 0)
        unheard = unheard + unrecorded + doubted
    alone = (heard == 0) & (unheard == 0) & (left_to_peer == 0)
    fate = np.where(alone, np.where(in_doubt, FATE["unknown"], FATE["missing"]), NO_COPY).astype(np.int8)
    cause = np.zeros(len(event), dtype=np.int8)
    cause[fate == FATE["missing"]] = _cause(index, event[fate == FATE["missing"]])
    return ServiceBooks(rows, np.full(len(event), service, dtype=np.int16), heard, unheard, in_doubt, half_in_doubt, fate, cause)


def _cause(index: CopyIndex, event: Array) -> Array:
    """Return why the copies of services without a pod are missing: what went wrong first."""
    known = np.array([CAUSE[KNOWN_CAUSE.get(word, "no-pod")] for word in OUTCOME], dtype=np.int8)
    cause: Array = known[index.outcome[event]]
    return cause
