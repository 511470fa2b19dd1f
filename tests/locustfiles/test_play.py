"""What a Locust process records, tried in a process of its own: importing Locust changes the one that does it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pyarrow.parquet as pq

from sim.scenario.file import load_scenario

LOCUSTFILES = Path(__file__).parents[2] / "locustfiles"
# Every part takes a while to write. The meter hands over three tables, the writer takes two, and the run ends while the third waits.
ENDS_WHILE_ROWS_ARE_HANDED_OVER = """
import sys
sys.path.insert(0, {locustfiles!r})
from locust.env import Environment
import gevent, gevent.monkey
from pathlib import Path
import _play
from sim.record import recorder
from sim.run.locust_messages import LoadJob

write, sleep = recorder.write_table, gevent.monkey.get_original("time", "sleep")
def slowly(*what):
    sleep(0.4)
    write(*what)
recorder.write_table = slowly
_play.FLUSH_PERIOD_NS = 2 * _play.LAG_ROW_NS
job = LoadJob("redis://127.0.0.1:1", {folder!r}, 1, "run", {scenario!r})
play = _play.Play(Environment(), job, host="locust", folder=Path(job.folder), first=0, here=0, users=1)
play.recorder.tables["calls"].add(1, "a pod", "a channel", 1, "queued")
play.recorder.tables["broker"].add(1, "a metric", "a channel", 1.0)
while not play.recorder.rows("hosts") or play.recorder.tables["hosts"]:
    gevent.sleep(0.01)
error = play.close()
print(error or "closed well", play.recorder.rows("hosts"))
"""


def test_rows_that_wait_for_the_writer_when_the_run_ends_are_written(tmp_path: Path) -> None:
    code = ENDS_WHILE_ROWS_ARE_HANDED_OVER.format(
        locustfiles=str(LOCUSTFILES), folder=str(tmp_path), scenario=msgspec.to_builtins(load_scenario("baseline"))
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    *said, rows = done.stdout.split()
    assert (said, done.returncode) == (["closed", "well"], 0), done.stderr
    written = [pq.ParquetFile(part).metadata.num_rows for part in (tmp_path / "parts").glob("hosts-*")]
    assert sum(written) == int(rows) > 0
