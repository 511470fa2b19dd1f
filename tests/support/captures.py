"""Captures for tests: made of a list, or heard on a server while something publishes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sim.measure.traffic.capture import Captured, Wanted, capture_traffic
from sim.record.capture_file import FORMAT, NAME, CaptureInfo, writing_capture

BOUND_S = 60.0


def written(folder: Path, events: Sequence[tuple[int, str, bytes]], *, keep: Sequence[str] = (), **more: Any) -> Path:
    """Write a capture of (at_ns, channel, payload) and return its file."""
    folder.mkdir(parents=True, exist_ok=True)
    info: dict[str, Any] = {"server": "redis://127.0.0.1:1", "heard_by": "PSUBSCRIBE", "names": ("shop:*",), "ended": "time"}
    info |= {"format": FORMAT, "started_at": "2026-01-01T00:00:00.000+00:00", "seconds": 10.0, "wanted_s": 10.0, "events": len(events)}
    with writing_capture(folder / NAME) as writer:
        for at_ns, channel, payload in events:
            writer.add(at_ns, channel.encode(), payload, keep=channel in keep)
        writer.finish(CaptureInfo(**(info | more)))
    return folder / NAME


def heard_while(url: str, wanted: Wanted, out: Path, publish: Callable[[], None]) -> Captured:
    """Capture while a function publishes, which is called once the capture listens.

    The two are threads of one process, and connections of ours share a buffer there: what publishes may have none. See `capturing`.
    """
    listens = threading.Event()

    def tell(line: str) -> None:
        if line.startswith("listening"):
            listens.set()

    with ThreadPoolExecutor(1) as pool:
        capturing = pool.submit(capture_traffic, url, wanted, out=out, tell=tell)
        capturing.add_done_callback(lambda _: listens.set())
        assert listens.wait(BOUND_S)
        if not capturing.done():
            publish()
        return capturing.result(BOUND_S)


@contextmanager
def capturing(url: str, out: Path, *args: str) -> Iterator[None]:
    """Capture by a command of its own while the block lasts; its end is a Ctrl-C."""
    argv = [sys.executable, "-m", "sim.cli", "capture", "--for", "1h", "--out", str(out), *args]
    with subprocess.Popen(argv, env=os.environ | {"BUSLAB_ON": url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stderr is not None
            first = child.stderr.readline()
            assert first.startswith("listening"), first + child.stderr.read()
            yield
            child.send_signal(signal.SIGINT)
            said = child.communicate(timeout=BOUND_S)
        finally:
            child.kill()
    assert child.returncode == 128 + signal.SIGINT, said
