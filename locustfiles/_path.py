"""Put the import path in order before anything else is imported: Locust puts the working directory first, and it is the user's.

Locust takes this folder off the front again once the locustfile is loaded; so this file leaves it there.
"""

from __future__ import annotations

import os
import sys

_ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, _ours)
from sim.machine.import_path import put_working_folder_last  # noqa: E402
from sim.machine.open_files import raise_open_files  # noqa: E402

sys.path.remove(_ours)
put_working_folder_last()
raise_open_files()
