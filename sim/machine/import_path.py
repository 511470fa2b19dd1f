"""Where modules come from: ours and what is installed are found before whatever lies in the user's own folder.

Python and Locust put the working directory first, so that a `sim/`, `redis.py` or `random.py` of the user's would be imported in the place
of what we mean. Here it comes last: what the user wrote is found, and shadows nothing.

Rules
-----
1. A Python child of ours is started by `python_child` with `child_environment`, whichever module it is: this file, run as a program, puts
   the path in order and then runs the module.
2. Of the working directory nothing is imported before that, so this file imports what Python itself has imported already.
3. The folder of our own package stands before the user's: an editable install is found after all folders of the path.
"""

from __future__ import annotations

import os
import sys

OURS = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def put_working_folder_last() -> None:
    """Look for modules in the working directory after all other places, wherever it stands in the path now."""
    here = _here()
    sys.path[:] = [folder for folder in sys.path if not _is_here(folder, here)]
    sys.path += [folder for folder in dict.fromkeys((OURS, here)) if folder and folder not in sys.path]


def python_child(module: str, *args: object) -> list[str]:
    """Return the command line of a child that runs a module, ours or an installed one, as `python -m` does."""
    return [sys.executable, "-P", os.path.join(OURS, "sim", "machine", "import_path.py"), module, *map(str, args)]


def child_environment(**more: str) -> dict[str, str]:
    """Return the environment of a Python child of ours: this process's and `more`, with no PYTHONPATH that means the working directory."""
    environment = {**os.environ, **more}
    here = _here()
    folders = [os.path.abspath(folder) for folder in environment.pop("PYTHONPATH", "").split(os.pathsep) if not _is_here(folder, here)]
    return environment | ({"PYTHONPATH": os.pathsep.join(folders)} if folders else {})


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return ""


def is_working_folder(folder: str) -> bool:
    """Return whether an entry of the path means the working directory."""
    return _is_here(folder, _here())


def _is_here(folder: str, here: str) -> bool:
    """Return whether an entry means the working directory; where there is none any more, no relative one means anything."""
    if not here:
        return not os.path.isabs(folder)
    return os.path.realpath(folder) == os.path.realpath(here)


def _main() -> None:
    del sys.argv[0]
    put_working_folder_last()
    import runpy

    from sim.machine.open_files import raise_open_files  # `sim` is ours from here on

    raise_open_files()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
