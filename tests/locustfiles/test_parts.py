"""The record of a worker on its way home, tried in a process of its own: importing gevent here would be seen by every other test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BEGIN = """
from pathlib import Path
import os
import gevent
from locustfiles import _parts
from locustfiles._parts import Landing, Luggage

home = Path({home!r})
landing = Landing(home)
sent = []

def send(data):
    sent.append((data["name"], data["at"], len(data["piece"])))
    {spoil}
    error = landing.take("locust-1", data)
    gevent.spawn(luggage.got, {{"error": error}})

_parts.PIECE_BYTES = 1000
luggage = Luggage(send)
away = luggage.folder / "parts"
away.mkdir()
content = {{}}
for name, size in (("calls-locust-1-00002.parquet", 2500), ("publishes-locust-1-00001.parquet", 1000), ("keys-locust-1-00003.parquet", 1)):
    content[name] = os.urandom(size)
    (away / name).write_bytes(content[name])
"""


def run(script: str, home: Path, *, spoil: str = "pass") -> str:
    code = BEGIN.format(home=str(home), spoil=spoil) + script
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_record_comes_home_whole_in_pieces_and_nothing_is_left_behind(tmp_path: Path) -> None:
    said = run(
        """
print(repr(luggage.bring_home()), sorted(path.name for path in away.iterdir()))
luggage.close()
print({path.name: path.read_bytes() == content[path.name] for path in sorted((home / "parts").iterdir())}, luggage.folder.exists())
print(max(size for _, _, size in sent), len(sent))
""",
        tmp_path,
    )
    names = ("calls-locust-1-00002.parquet", "keys-locust-1-00003.parquet", "publishes-locust-1-00001.parquet")
    assert said.splitlines() == ["'' []", f"{dict.fromkeys(names, True)} False", "1000 5"]


def test_a_piece_that_is_changed_or_lost_on_its_way_is_found(tmp_path: Path) -> None:
    changed = 'data["piece"] = data["piece"][:-1] + bytes([data["piece"][-1] ^ 1])'
    bring = "print(luggage.bring_home()); print(sorted(path.name for path in (home / 'parts').iterdir()))"
    said = run(bring, tmp_path / "changed", spoil=changed)
    assert said.splitlines() == ["calls-locust-1-00002.parquet did not come as it was sent: its checksum differs", "[]"]
    lost = 'data["at"] += 1000 if data["at"] else 0'
    assert "a piece of calls-locust-1-00002.parquet did not come" in run(bring, tmp_path / "lost", spoil=lost)


def test_a_worker_may_name_parts_of_its_own_and_nothing_else(tmp_path: Path) -> None:
    said = run(
        """
for name in ("../run.json", "calls-locust-0-00001.parquet", "calls-locust-1-00001.parquet/../../x", "notes-locust-1-00001.parquet",
             "calls-locust-1-1.parquet", ".calls-locust-1-00001.parquet"):
    assert "no part of its record" in landing.take("locust-1", {"name": name, "at": 0, "size": 1, "crc": 0, "piece": b"x"}), name
assert "no part" in landing.take("locust-1", {"name": "calls-locust-1-00001.parquet", "at": 0, "size": 1, "crc": 0, "piece": b"x" * 1001})
print(list(home.iterdir()))
""",
        tmp_path,
    )
    assert said == "[]"


def test_a_lead_that_takes_nothing_is_given_up(tmp_path: Path) -> None:
    said = run(
        """
_parts.TAKEN_TIMEOUT_S = 0.2
luggage._send = lambda data: None
print(luggage.bring_home())
""",
        tmp_path,
    )
    assert said == "the master did not take the record of this worker within 0.2 s"
