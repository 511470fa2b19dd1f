"""What a killed process left on the disk is removed by the next one; what a living one uses is not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sim.grounds.catalogue import open_broker
from sim.grounds.embedded import FOLDER_PREFIX

pytestmark = pytest.mark.broker
HOLD = "from sim.grounds.catalogue import open_broker\nwith open_broker('embedded') as b:\n print(b.address.port, flush=True)\n input()"


def folders() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*")}


def test_the_folder_of_a_killed_process_is_swept_and_that_of_a_living_one_is_not() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        (theirs,) = {name for name in folders() if name.startswith(f"{FOLDER_PREFIX}{other.pid}-")}
        with open_broker("embedded"):
            assert theirs in folders()
        other.kill()
        other.wait()
    with open_broker("embedded"):
        assert theirs not in folders()
        assert any(name.startswith(f"{FOLDER_PREFIX}{os.getpid()}-") for name in folders())
    assert not any(name.startswith(f"{FOLDER_PREFIX}{os.getpid()}-") for name in folders())
