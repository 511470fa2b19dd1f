"""`buslab` as a command for tests, without its start: a process that has imported the lab already forks for each call.

What a test of the start itself, of the working folder's modules, of streams or of signals needs is a process of its own: not this.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
BOUND_S = 200.0  # of a command; reached only when the test fails
_started: list[subprocess.Popen[str]] = []  # the one of this process


def buslab(*args: object, cwd: Path, timeout: float = BOUND_S, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and return what it wrote and its exit code; -N where signal N ended it.

    Raises
    ------
    subprocess.TimeoutExpired
        It was killed, as it took longer.
    """
    argv = list(map(str, args))
    with tempfile.TemporaryDirectory(prefix="buslab-cli-") as folder:
        out, err = (Path(folder) / name for name in ("out", "err"))
        request = {"argv": argv, "cwd": str(cwd), "env": dict(os.environ if env is None else env), "out": str(out), "err": str(err)}
        code = _asked(json.dumps(request), timeout)
        if code is None:
            raise subprocess.TimeoutExpired(argv, timeout, out.read_bytes(), err.read_bytes())
        return subprocess.CompletedProcess(["buslab", *argv], code, out.read_text("utf-8"), err.read_text("utf-8"))


def end_server() -> None:
    """End the process that forks, where there is one."""
    while _started:
        with _started.pop() as server:
            assert server.stdin is not None
            server.stdin.close()


def server_pid() -> int | None:
    """Return the process that forks: it stays until the session ends."""
    return _started[0].pid if _started else None


def _asked(request: str, timeout_s: float) -> int | None:
    if not _started:
        argv = [sys.executable, "-m", "tests.support.cli"]
        _started.append(subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    server = _started[0]
    assert server.stdin is not None and server.stdout is not None
    try:
        server.stdin.write(f"{request}\n")
        server.stdin.flush()
        pid = int(server.stdout.readline())
        if select.select([server.stdout], [], [], timeout_s)[0]:
            return int(server.stdout.readline())
        os.kill(pid, 9)
        server.stdout.readline()
        return None
    except BaseException:  # the test was ended: nobody reads this answer
        server.kill()
        end_server()
        raise


def _serve() -> None:
    import matplotlib.figure  # noqa: F401  what most commands import, which is all that a fork saves

    import sim.cli.main
    import sim.results.checkers
    import sim.results.report
    import sim.run.steps

    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become(json.loads(line))
            sim.cli.main.main()  # ends this process
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _become(request: dict[str, str]) -> None:
    """Make of this fork what a shell starts: its folder, environment, streams and arguments."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, path in ((1, request["out"]), (2, request["err"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), stream)
    sys.argv = ["buslab", *request["argv"]]
    sys.path[:] = [folder for folder in sys.path if folder not in ("", str(ROOT))] + [request["cwd"]]


if __name__ == "__main__":
    _serve()
