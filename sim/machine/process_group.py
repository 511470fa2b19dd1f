"""A program of somebody else's, in a process group of its own: started, signalled, frozen, and ended with all that it has started.

Rules
-----
1. The group ends with its leader: what the leader leaves behind is killed, also a child that has made a session of its own, as all bear a
   mark in their environment (`sim.machine.group_guard`).
2. When we end, however we end, the group ends too: the kernel kills the leader, and a guard kills the rest.
3. Its output is read as it comes, so that a program that prints much is never held up by us, and we never hold much of it.
4. A signal goes to a process of this group or to nobody: its leader is not reaped before the group is dead, so that nobody has its id.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sim.errors import HostError
from sim.machine import group_guard
from sim.machine.clock import now_ns
from sim.machine.lease import MARK, mark, note_process
from sim.machine.process import die_with_parent
from sim.machine.signals import signals_wait

READ_BYTES = 64 * 1024
LEFT_BYTES = 16 * 1024 * 1024  # of output that is still read when the program has ended
POLL_S = 0.002
FREEZE_TIMEOUT_S = 2.0


class GroupGuard:
    """The guard of the groups of this process; started with the first of them. See `sim.machine.group_guard`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def add(self, pid: int, mark: str) -> None:
        """Guard a group."""
        if self._process is None:
            argv = [sys.executable, "-I", "-S", group_guard.__file__]
            with signals_wait():
                self._process = subprocess.Popen(
                    argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
                )
        self._tell("+", pid, mark)

    def remove(self, pid: int, mark: str) -> None:
        """Guard a group no more: it is gone."""
        self._tell("-", pid, mark)

    def _tell(self, sign: str, pid: int, mark: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):  # somebody has killed it: the kernel still ends the leaders
                self._process.stdin.write(f"{sign} {pid} {mark}\n".encode())
                self._process.stdin.flush()

    def close(self) -> None:
        """End it; it kills what it still guards."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5.0)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._process = None


class ProcessGroup:
    """One program that runs, and all that it has started; use `ProcessGroup.start`.

    Attributes
    ----------
    pid
        The leader's process id, which is that of the group.
    gone
        Done when no process of it is left: the exit code of the leader, negative for the signal that ended it.
    died_ns
        When the leader was found to have ended; 0 before.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], reads: int, *, mark: str, took: Callable[[bytes], None], guard: GroupGuard
    ) -> None:
        self.pid = process.pid
        self.died_ns = 0
        self._loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[int] = self._loop.create_future()
        self._process, self._reads, self._mark, self._took, self._guard = process, reads, mark, took, guard
        self._loop.add_reader(reads, self._read)
        threading.Thread(target=self._wait, name=f"wait for {process.pid}", daemon=True).start()

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        *,
        folder: Path,
        env: Mapping[str, str],
        name: str,
        took: Callable[[bytes], None],
        guard: GroupGuard,
    ) -> ProcessGroup:
        """Start a program.

        Parameters
        ----------
        folder, env
            Its working directory, and its whole environment, to which marks are added.
        name
            How errors and leases call it.
        took
            Called with what it prints.

        Raises
        ------
        HostError
            It cannot be started.
        """
        own = secrets.token_hex(8)
        reads, writes = os.pipe()
        os.set_blocking(reads, False)
        try:
            with signals_wait():
                process = subprocess.Popen(
                    list(argv),
                    stdin=subprocess.DEVNULL,
                    stdout=writes,
                    stderr=writes,
                    env={**env, MARK: mark(), group_guard.MARK: own},
                    cwd=folder,
                    start_new_session=True,
                    preexec_fn=die_with_parent(),
                )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            os.close(reads)
            raise HostError(f"{name} cannot be started: {argv[0]!r} in {folder}: {getattr(error, 'strerror', None) or error}") from None
        finally:
            os.close(writes)
        note_process(process.pid, name)
        guard.add(process.pid, own)
        return cls(process, reads, mark=own, took=took, guard=guard)

    def ask(self, number: signal.Signals) -> None:
        """Send a signal to the leader; nothing when it has ended."""
        self._send(os.kill, number)

    def kill(self) -> None:
        """Kill all of it; `gone` says when that is done."""
        self._send(os.killpg, signal.SIGKILL)

    async def freeze(self) -> None:
        """Freeze all of it (SIGSTOP); return when the leader stands still."""
        self._send(os.killpg, signal.SIGSTOP)
        deadline_ns = now_ns() + int(FREEZE_TIMEOUT_S * 1e9)
        while not self.died_ns and not self.gone.done() and now_ns() < deadline_ns:
            with contextlib.suppress(ChildProcessError):
                if os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT):
                    return
            await asyncio.sleep(POLL_S)

    def thaw(self) -> None:
        """Thaw all of it (SIGCONT)."""
        self._send(os.killpg, signal.SIGCONT)

    def _send(self, how: Callable[[int, int], None], number: signal.Signals) -> None:
        if not self.died_ns:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                how(self.pid, number)

    def _read(self) -> None:
        try:
            data = os.read(self._reads, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._took(data)
        else:
            self._loop.remove_reader(self._reads)

    def _wait(self) -> None:
        """Wait, in a thread, until the leader has ended; it is not reaped."""
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        died_ns = now_ns()
        group_guard.kill_group(self.pid)
        group_guard.kill_marked({self._mark})
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it who would ask
            self._loop.call_soon_threadsafe(self._ended, died_ns)

    def _ended(self, died_ns: int) -> None:
        self.died_ns = died_ns
        code = self._process.wait()
        self._guard.remove(self.pid, self._mark)
        left = LEFT_BYTES
        with contextlib.suppress(OSError):
            while left > 0 and (data := os.read(self._reads, READ_BYTES)):
                left -= len(data)
                self._took(data)
        self._loop.remove_reader(self._reads)
        os.close(self._reads)
        if not self.gone.done():
            self.gone.set_result(code)
