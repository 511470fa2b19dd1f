"""Make a valid run folder of any size with known defects in it, so that a judge of a hundred million deliveries can be checked to the copy.

It is written in pieces, so its own memory does not grow with the run. As a script it makes one, or judges one in a process of its own and
prints how long that took and how much memory it needed::

    python -m tests.support.large_runs make FOLDER --deliveries 100000000
    python -m tests.support.large_runs judge FOLDER
    python -m tests.support.large_runs report FOLDER

The plan: every publisher sends one event after the other, a millisecond apart, and pods of three services hear those of their channels a
quarter of a millisecond later. Planted are, in this order of time:

- an **outage**: the broker is down for a while, publishes are refused, and the pods are back one after the other when it is up again: until
  then they are deaf.
- a **deaf pod**: its connection is gone for a while, for no reason that anybody knows.
- a **dead pod**: it is killed, and the events before its end never came.
- in the rest of the run, each in a pod and an event of its own: copies that are **lost** without a cause, heard **twice**, or **swapped**
  with the next one of their publisher and channel.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from sim.record.recorder import PARTS, arrow_table, seal_tables, write_table
from sim.record.run_info import LoadInfo, Phase
from sim.record.schema import compose_key
from tests.support.run_folders import MS, NONCE, RUN_NS, SECOND, US, RunFolder

SERVICES = {  # service -> its share of the pods, and what it hears
    "web": (0.5, ("config.updated", "orders.placed", "orders.paid")),
    "audit": (0.3, ("orders.placed", "orders.paid")),
    "mailer": (0.2, ("orders.paid",)),
}
CHANNELS = ("config.updated", "orders.placed", "orders.paid")
PUBLISHERS = ("locust-0", "locust-1", "locust-2", "locust-3")
STRIDE = len(CHANNELS) * len(PUBLISHERS)  # events from one to the next of the same publisher and channel
STEP_NS = MS
NEVER_HEARD = 3  # events before the end of the dead pod
ROWS_A_PART = 1_000_000


class Planted(msgspec.Struct):
    """What a judge must find, and nothing else; `copies` names (event key, pod) of each single defect."""

    deliveries: int = 0
    events: int = 0
    expected: int = 0
    delivered: int = 0
    missing: dict[str, int] = {}
    duplicates: int = 0
    swaps: int = 0
    copies: dict[str, list[tuple[int, str]]] = {}


@dataclass(frozen=True)
class LargeRun:
    """The plan of one run: of how many deliveries, for how many pods, and how many single defects of each kind."""

    deliveries: int
    pods: int = 200
    defects: int = 20
    seed: int = 1

    @property
    def names(self) -> list[tuple[str, str]]:
        """Pod and service, in the order of their numbers."""
        many = {service: max(1, round(share * self.pods)) for service, (share, _) in SERVICES.items()}
        return [(f"{service}-{number}", service) for service, replicas in many.items() for number in range(replicas)]

    @property
    def hears(self) -> np.ndarray:
        """Which pod hears which channel; shape (channels, pods)."""
        return np.array([[channel in SERVICES[service][1] for _, service in self.names] for channel in CHANNELS])

    @property
    def events(self) -> int:
        """How many events make so many deliveries, were none lost."""
        return max(int(self.deliveries / self.hears.sum(axis=1).mean()), 60 * STRIDE)

    def at(self, share: float) -> int:
        """Return the time at a share of the run phase, nanoseconds; between two events."""
        return RUN_NS + int(share * self.events) * STEP_NS + STEP_NS // 2

    @property
    def outage_ns(self) -> tuple[int, int]:
        """From when until when the broker is down."""
        return self.at(0.2), self.at(0.25)

    @property
    def back_ns(self) -> np.ndarray:
        """When each pod is subscribed again after the outage."""
        return self.outage_ns[1] + np.arange(len(self.names)) % 40 * 2 * MS

    @property
    def deaf(self) -> tuple[int, int, int]:
        """The deaf pod, since when, until when."""
        return 1, self.at(0.5), self.at(0.52)

    @property
    def dead(self) -> tuple[int, int]:
        """The dead pod, and when it dies; in a run of its service's only pod nothing else would be heard."""
        return 0, self.at(0.6)

    def sent_ns(self, event: np.ndarray) -> np.ndarray:
        """Return when events were sent."""
        return RUN_NS + event * STEP_NS + 50 * US

    def fates(self, event: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return which pod is expected to hear each event, does hear it, is deaf, and is down; shape (events, pods) each."""
        sent = self.sent_ns(event)[:, None]
        expected = self.hears[event // len(PUBLISHERS) % len(CHANNELS)]
        begin, end = self.outage_ns
        refused = (sent >= begin) & (sent < end)
        deaf = (sent >= end) & (sent <= self.back_ns)
        pod, since, until = self.deaf
        deaf[:, pod] |= (sent[:, 0] >= since) & (sent[:, 0] <= until)
        dead, dies = self.dead
        expected[:, dead] &= sent[:, 0] < dies
        down = np.zeros_like(expected)
        ordinal = np.flatnonzero(expected[:, dead] & (sent[:, 0] >= dies - NEVER_HEARD * STRIDE * STEP_NS))
        down[ordinal, dead] = True
        return expected, expected & ~refused & ~deaf & ~down, expected & deaf, expected & down & ~deaf

    def single_defects(self) -> dict[str, np.ndarray]:
        """Return (event, pod) of each single defect: no two of them near each other in a pod, none at an edge of a part."""
        rng, hears = np.random.default_rng(self.seed), self.hears
        first, last = int(0.65 * self.events), self.events - 2 * STRIDE
        blocks = np.arange(first, last - 2 * STRIDE, 3 * STRIDE)
        most = min(self.defects, len(blocks) // 3)
        chosen = rng.permutation(blocks)[: 3 * most] + rng.integers(0, STRIDE, 3 * most)
        pods = np.array([rng.choice(np.flatnonzero(hears[event // len(PUBLISHERS) % len(CHANNELS)])[1:]) for event in chosen.tolist()])
        cells = np.column_stack([chosen, pods]).reshape(3, most, 2)
        return dict(zip(("lost", "twice", "swapped"), cells, strict=True))

    def write(self, folder: Path) -> Planted:
        """Write the folder, and what is planted in it as planted.json beside run.json."""
        names = [name for name, _ in self.names]
        small = RunFolder(folder)
        end_ns = self.at(1.0)
        load_end = end_ns + SECOND
        for name, service in self.names:
            small.pod(name, service=service, channels=",".join(SERVICES[service][1]), end_ns=load_end + SECOND)
        begin, end = self.outage_ns
        small.faults = [("broker_down", "broker", begin, end)]
        for number, name in enumerate(names):
            small.state(name, begin, "disconnected", "outage").state(name, int(self.back_ns[number]), "subscribed")
        pod, since, until = self.deaf
        small.state(names[pod], since, "disconnected", "outage").state(names[pod], until, "subscribed")
        small.end(names[self.dead[0]], self.dead[1])
        small.states.sort(key=lambda row: row[1])
        seconds = range(8, load_end // SECOND + 3)
        small.hosts = [(s * SECOND, host, int(s * 0.3 * SECOND), 20 * US) for s in seconds for host in ("locust", "h0")]
        spans = {"provision": (0, 1), "start": (1, 8), "probe": (8, 9), "warm-up": (9, 10)}
        phases = [Phase(name, a * SECOND, b * SECOND) for name, (a, b) in spans.items()]
        small.info.phases = [*phases, Phase("run", RUN_NS, load_end), Phase("drain", load_end, load_end + SECOND)]
        small.load = LoadInfo(generators=["locust"], offered_calls=self.events)
        small.slo = {"lag_ms_p99": 50.0}
        small.calls = [(0, "", "", 0, "ok")][:0] or [(RUN_NS, PUBLISHERS[0], CHANNELS[0], 5 * US, "ok")]
        small.write(seal=False)
        for part in (folder / PARTS).glob("calls-*"):
            part.unlink()
        planted = self._write_pieces(folder, names)
        info = json.loads((folder / "run.json").read_text())
        info["tables"] = {table: msgspec.to_builtins(sealed) for table, sealed in seal_tables(folder).items()}
        (folder / "run.json").write_text(json.dumps(info))
        (folder / "planted.json").write_bytes(msgspec.json.encode(planted))
        return planted

    def _write_pieces(self, folder: Path, names: list[str]) -> Planted:
        per_piece = max(ROWS_A_PART // len(names) // (3 * STRIDE), 1) * 3 * STRIDE
        planted, defects = Planted(events=self.events), self.single_defects()
        lag_rng = np.random.default_rng(self.seed + 1)
        first = int(0.65 * self.events)
        for number, begin in enumerate(range(-(-first // (3 * STRIDE)) * -3 * STRIDE + first, self.events, per_piece)):
            event = np.arange(max(begin, 0), min(begin + per_piece, self.events))
            if not len(event):
                continue
            expected, heard, deaf, down = self.fates(event)
            copies = heard.astype(np.int64)
            mine = {kind: cells[(cells[:, 0] >= event[0]) & (cells[:, 0] <= event[-1])] for kind, cells in defects.items()}
            for kind, times in (("lost", 0), ("twice", 2)):
                copies[mine[kind][:, 0] - event[0], mine[kind][:, 1]] = times
            rows = np.arange(copies.size).reshape(copies.shape)
            at, pod = mine["swapped"][:, 0] - event[0], mine["swapped"][:, 1]
            rows[at, pod], rows[at + STRIDE, pod] = rows[at + STRIDE, pod], rows[at, pod]
            taken = np.repeat(rows.ravel(), copies.ravel())
            self._write_deliveries(folder, number, event, taken, names, lag_rng)
            self._write_publishes(folder, number, event, heard.sum(axis=1))
            self._count(planted, event, names, mine, expected=expected, copies=copies, deaf=deaf, down=down)
        return planted

    def _write_deliveries(
        self, folder: Path, number: int, event: np.ndarray, taken: np.ndarray, names: list[str], rng: np.random.Generator
    ) -> None:
        row, pod = taken // len(names), taken % len(names)
        lag = (150 * US + rng.gamma(2.0, 40 * US, len(taken))).astype(np.int64)
        received = self.sent_ns(event)[row] + np.minimum(lag, 800 * US)
        none = np.zeros(len(taken), dtype=np.uint16)
        columns = {"event": self._keys(event)[row], "pod": pod, "received_ns": received, "handled_ns": received + 10 * US}
        words = {"pod": names, "path": ["broker", "memory"], "outcome": ["handled", "skipped", "failed"]}
        table = arrow_table("deliveries", columns | {"path": none, "outcome": none}, words)
        write_table(folder / PARTS / f"deliveries-h0-{number:05d}.parquet", "deliveries", table)

    def _write_publishes(self, folder: Path, number: int, event: np.ndarray, receivers: np.ndarray) -> None:
        sent, (begin, end) = self.sent_ns(event), self.outage_ns
        refused = ((sent >= begin) & (sent < end)).astype(np.uint16)
        none, intended = np.zeros(len(event), dtype=np.int64), sent - 50 * US
        channel, publisher = event // len(PUBLISHERS) % len(CHANNELS), event % len(PUBLISHERS)
        columns = {
            "event": self._keys(event), "channel": channel, "publisher": publisher, "items": (none + 1).astype(np.uint32),
            "bytes": (none + 300).astype(np.uint32), "first_item_ns": intended, "items_wait_ns": none, "intended_ns": intended,
            "sent_ns": sent, "acked_ns": sent + 100 * US, "outcome": refused, "subject": none, "stamped_ns": none,
            "receivers": np.where(refused, -1, receivers).astype(np.int32),
        }  # fmt: skip
        names = {"channel": list(CHANNELS), "publisher": list(PUBLISHERS)}
        words = names | {"outcome": ["acknowledged", "refused"], "subject": [""]}
        write_table(folder / PARTS / f"publishes-h0-{number:05d}.parquet", "publishes", arrow_table("publishes", columns, words))
        calls = {"intended_ns": intended, "publisher": publisher, "channel": channel, "took_ns": none + 5 * US, "outcome": refused}
        table = arrow_table("calls", calls, names | {"outcome": ["ok", "failed"]})
        write_table(folder / PARTS / f"calls-h0-{number:05d}.parquet", "calls", table)

    @staticmethod
    def _keys(event: np.ndarray) -> np.ndarray:
        start = np.array([compose_key(nonce=NONCE, publisher=n, sequence=0) for n in range(len(PUBLISHERS))], dtype=np.uint64)
        return start[event % len(PUBLISHERS)] + (event // len(PUBLISHERS)).astype(np.uint64)

    def _count(
        self,
        planted: Planted,
        event: np.ndarray,
        names: list[str],
        mine: dict[str, np.ndarray],
        *,
        expected: np.ndarray,
        copies: np.ndarray,
        deaf: np.ndarray,
        down: np.ndarray,
    ) -> None:
        sent, (begin, end) = self.sent_ns(event), self.outage_ns
        causes = {
            "publish-refused": int(expected[(sent >= begin) & (sent < end)].sum()),
            "deaf": int(deaf.sum()),
            "pod-down": int(down.sum()),
            "unexplained": len(mine["lost"]),
        }
        for cause, many in causes.items():
            planted.missing[cause] = planted.missing.get(cause, 0) + many
        planted.deliveries += int(copies.sum())
        planted.expected += int(expected.sum())
        planted.delivered += int((copies > 0).sum())
        planted.duplicates += len(mine["twice"])
        planted.swaps += len(mine["swapped"])
        for kind, cells in mine.items():
            keys = self._keys(cells[:, 0]).tolist()
            planted.copies.setdefault(kind, []).extend((key, names[pod]) for key, pod in zip(keys, cells[:, 1].tolist(), strict=True))


def read_planted(folder: Path) -> Planted:
    """Return what was planted in a folder."""
    return msgspec.json.decode((folder / "planted.json").read_bytes(), type=Planted)


def found_otherwise(folder: Path, counts: dict[str, dict[str, float]]) -> list[str]:
    """Return each number in which a verdict differs from what was planted; `counts` are those of its checkers."""
    planted, books = read_planted(folder), counts["ledger"]
    wanted = {
        "events": planted.events, "expected": planted.expected, "delivered": planted.delivered, "duplicate": planted.duplicates,
        "missing": sum(planted.missing.values()), "unexpected": 0, "unknown": 0, **planted.missing,
    }  # fmt: skip
    found = [f"{name}: {books.get(name)} for {many}" for name, many in wanted.items() if books.get(name) != many]
    others = {("duplication", "redelivered"): planted.duplicates, ("order", "out_of_order"): planted.swaps}
    return found + [f"{name}: {counts[of][name]} for {many}" for (of, name), many in others.items() if counts[of][name] != many]


def main() -> int:
    """Make a run, or judge one and print what that took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("make", "judge", "report"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--deliveries", type=int, default=1_000_000)
    parser.add_argument("--pods", type=int, default=200)
    parser.add_argument("--defects", type=int, default=20)
    given = parser.parse_args()
    began, cpu = time.monotonic(), time.process_time()
    otherwise: list[str] = []
    if given.what == "make":
        run = LargeRun(given.deliveries, pods=given.pods, defects=given.defects)
        told = f"{run.write(given.folder).deliveries:,} deliveries"
    else:
        from sim.results.judged_run import judge_folder

        judged = judge_folder(given.folder, write=False)
        otherwise = found_otherwise(given.folder, {name: result.counts for name, result in judged.verdict.checkers.items()})
        told = f"{judged.verdict.verdict}; " + ("; ".join(otherwise) or "every planted defect was found, and nothing else")
        if given.what == "report":
            from sim.results.report import write_report

            judged_s = time.monotonic() - began
            write_report(judged.run, judged.verdict)
            told = f"judged in {judged_s:.1f} s; {told}"
    took, used = time.monotonic() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    print(f"{given.what}: {took:.1f} s, {used:.1f} s of processor time, at most {peak:.2f} GiB; {told}")
    return 1 if otherwise else 0


if __name__ == "__main__":
    sys.exit(main())
