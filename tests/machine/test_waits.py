"""What a process waited and stood still: by planted files of a kernel, and by real processes where this kernel keeps an account."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sim.machine.waits import (
    MACHINE_PERIOD_NS,
    MachineAccount,
    OtherWaits,
    OwnWaits,
    ThreadAccounts,
    Throttle,
    Waits,
    throttle_files,
)
from sim.record.schema import OPTIONAL

ACCOUNTS = Path("/proc/self/schedstat").exists()
counts_here = pytest.mark.skipif(not ACCOUNTS, reason="this kernel keeps no account of its threads")
LOOP = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"


def thread(proc: Path, pid: int, number: int, ran: int, waited: int) -> None:
    folder = proc / str(pid) / "task" / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schedstat").write_text(f"{ran} {waited} 3\n")


@pytest.fixture
def child() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    children: list[subprocess.Popen[bytes]] = []

    def start(code: str, **more: object) -> subprocess.Popen[bytes]:
        children.append(subprocess.Popen([sys.executable, "-c", code], **more))  # type: ignore[call-overload]
        return children[-1]

    yield start
    for one in children:
        one.kill()
        one.wait()


def test_its_columns_are_those_that_a_folder_may_lack() -> None:
    assert Waits._fields == OPTIONAL["hosts"]
    assert all(math.isnan(value) for value in Waits())


# -- threads ------------------------------------------------------------------------------------------------------


def test_the_account_is_of_all_threads_and_not_of_the_first(tmp_path: Path) -> None:
    thread(tmp_path, 7, 7, ran=100, waited=5)
    thread(tmp_path, 7, 8, ran=30, waited=4_000)
    accounts = ThreadAccounts(7, proc=tmp_path)
    assert accounts.read() == (130, 4_005)
    accounts.close()


def test_a_thread_that_has_ended_keeps_its_part(tmp_path: Path) -> None:
    thread(tmp_path, 7, 7, ran=100, waited=5)
    thread(tmp_path, 7, 8, ran=30, waited=40)
    accounts = ThreadAccounts(7, proc=tmp_path)
    accounts.read()
    (tmp_path / "7" / "task" / "8" / "schedstat").unlink()
    (tmp_path / "7" / "task" / "8").rmdir()
    thread(tmp_path, 7, 7, ran=101, waited=6)
    thread(tmp_path, 7, 9, ran=1, waited=2)
    assert accounts.read() == (132, 48)
    accounts.close()


def test_where_the_kernel_keeps_no_account_it_is_not_known_and_not_zero(tmp_path: Path) -> None:
    (tmp_path / "7" / "task" / "7").mkdir(parents=True)
    assert all(math.isnan(value) for value in ThreadAccounts(7, proc=tmp_path).read())
    assert all(math.isnan(value) for value in ThreadAccounts(8, proc=tmp_path).read())


@counts_here
def test_who_shares_a_core_with_another_has_waited_for_it(child: Callable[..., subprocess.Popen[bytes]]) -> None:
    core = {min(os.sched_getaffinity(0))}
    pair = [child(LOOP), child(LOOP)]
    for one in pair:
        os.sched_setaffinity(one.pid, core)
    account = OtherWaits()
    deadline = time.monotonic() + 30
    first = account.sample(pair[0].pid, time.monotonic_ns())[1].waited_ns
    while account.sample(pair[0].pid, time.monotonic_ns())[1].waited_ns - first < 50e6:
        assert time.monotonic() < deadline, "two loops on one core, and neither waited"
        time.sleep(0.05)
    account.close()


# -- throttling ---------------------------------------------------------------------------------------------------

V1 = "36 32 0:30 / {}/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n37 32 0:31 / {}/memory rw - cgroup cgroup rw,memory\n"
V2 = "40 32 0:40 {} {} rw,nosuid - cgroup2 cgroup2 rw\n"


def cpu_stat(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.stat").write_text(text)
    return folder / "cpu.stat"


def test_the_cgroup_and_those_above_it_are_found_in_both_versions(tmp_path: Path) -> None:
    mine, above, top = (cpu_stat(tmp_path / "cpu,cpuacct" / one, "") for one in ("pods/one", "pods", ""))
    said = "4:memory:/elsewhere\n2:cpu,cpuacct:/pods/one\n0::/ignored\n"
    assert throttle_files(said, V1.format(tmp_path, tmp_path)) == [mine, above, top]
    two = tmp_path / "two"
    inner, outer = cpu_stat(two / "a/b", ""), cpu_stat(two / "a", "")
    assert throttle_files("0::/a/b\n", V2.format("/", two)) == [inner, outer]


def test_in_a_container_the_mount_begins_at_its_own_cgroup(tmp_path: Path) -> None:
    own = cpu_stat(tmp_path, "")
    assert throttle_files("0::/docker/abc\n", V2.format("/docker/abc", tmp_path)) == [own]


@pytest.mark.parametrize(
    ("before", "after", "ns"),
    [("nr_throttled 1\nthrottled_time 5000\n", "nr_throttled 3\nthrottled_time 9000\n", 4_000),
     ("nr_throttled 1\nthrottled_usec 5\n", "nr_throttled 3\nthrottled_usec 9\n", 4_000)],
    ids=["v1", "v2"],
)  # fmt: skip
def test_throttling_is_told_in_nanoseconds_by_both_versions(tmp_path: Path, before: str, after: str, ns: int) -> None:
    mount = tmp_path / "mount"
    cpu_stat(mount / "one", before)
    (tmp_path / "self").mkdir()
    (tmp_path / "7").mkdir()
    (tmp_path / "self" / "mountinfo").write_text(V2.format("/", mount))
    (tmp_path / "7" / "cgroup").write_text("0::/one\n")
    throttle = Throttle(7, proc=tmp_path)
    assert math.isnan(throttle.read())
    throttle.look()
    assert throttle.read() == 0
    cpu_stat(mount / "one", after)
    assert throttle.read() == ns
    cpu_stat(mount / "other", "nr_throttled 9\nthrottled_usec 70000\n")  # before it came: not its own
    (tmp_path / "7" / "cgroup").write_text("0::/other\n")
    throttle.look()
    assert throttle.read() == ns
    throttle.close()


def test_a_cgroup_that_is_never_throttled_says_zero_and_none_says_nothing(tmp_path: Path) -> None:
    assert math.isnan(Throttle(7, proc=tmp_path).read())


# -- the machine --------------------------------------------------------------------------------------------------


def test_what_the_machine_says(tmp_path: Path) -> None:
    (tmp_path / "pressure").mkdir()
    (tmp_path / "stat").write_text("cpu  1 2 3 4 5 6 7 80 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n")
    (tmp_path / "pressure" / "cpu").write_text("some avg10=1.00 avg60=2.00 avg300=3.00 total=123\nfull avg10=0.00 total=9\n")
    (tmp_path / "vmstat").write_text("pswpout 6\npswpin 5\n")
    account = MachineAccount(proc=tmp_path)
    said = account.read()
    account.close()
    assert (said.steal_ns, said.pressure_ns, said.swapped_in) == (80 * 1e9 / os.sysconf("SC_CLK_TCK"), 123_000, 5)
    assert abs(said.wall_offset_ns - (time.time_ns() - time.monotonic_ns())) < 1e9
    assert math.isnan(said.waited_ns) and math.isnan(said.stood_ns)


def test_what_a_machine_does_not_say_is_not_known(tmp_path: Path) -> None:
    said = MachineAccount(proc=tmp_path).read()
    assert all(math.isnan(value) for value in (said.steal_ns, said.pressure_ns, said.swapped_in))


# -- this process -------------------------------------------------------------------------------------------------


def test_lateness_that_is_neither_computing_nor_waiting_is_standing_still() -> None:
    own = OwnWaits()
    own.woke(0)
    before = own.sample(0).stood_ns
    time.sleep(0.3)
    own.woke(300_000_000)
    stood = own.sample(0).stood_ns - before
    assert 200_000_000 < stood <= 300_000_000
    began = time.process_time_ns()
    while time.process_time_ns() - began < 300_000_000:
        pass
    own.woke(300_000_000)
    assert own.sample(0).stood_ns - before == stood
    own.close()
    own.close()


def test_the_machine_is_asked_once_in_a_while_only() -> None:
    own = OwnWaits()
    told = [not math.isnan(own.sample(at).wall_offset_ns) for at in (1, 2, MACHINE_PERIOD_NS, MACHINE_PERIOD_NS + 1, MACHINE_PERIOD_NS + 2)]
    own.close()
    assert told == [True, False, False, True, False]


@counts_here
def test_an_account_of_thirty_threads_costs_less_than_half_a_percent_of_a_core() -> None:
    """By processor time, four samples and fifty wakings a second: what a run with so many threads takes."""
    over = threading.Event()
    threads = [threading.Thread(target=over.wait, daemon=True) for _ in range(30)]
    for one in threads:
        one.start()
    own = OwnWaits()
    own.sample(0)
    began, seconds = time.process_time(), 25
    for second in range(seconds):
        for _ in range(50):
            own.woke(0)
        for quarter in range(4):
            own.sample((second * 4 + quarter) * MACHINE_PERIOD_NS // 4)
    cost = (time.process_time() - began) / seconds
    over.set()
    own.close()
    print(f"{cost:.3%} of a core")
    assert cost < 0.005


# -- another process ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux shows it")
def test_another_process_is_seen_stopped_and_keeps_its_account_under_another_id(child: Callable[..., subprocess.Popen[bytes]]) -> None:
    one, other = child("input()", stdin=subprocess.PIPE), child("input()", stdin=subprocess.PIPE)
    account, second = OtherWaits(), 1_000_000_000
    assert account.sample(one.pid, second)[1].stood_ns == 0
    one.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, one.pid, os.WSTOPPED | os.WNOWAIT)
    assert account.sample(one.pid, 3 * second)[1].stood_ns == 2 * second
    one.send_signal(signal.SIGCONT)
    os.waitid(os.P_PID, one.pid, os.WCONTINUED | os.WNOWAIT)
    cpu, waits = account.sample(one.pid, 4 * second)
    assert waits.stood_ns == 2 * second
    if ACCOUNTS:
        later, more = account.sample(other.pid, 5 * second)
        assert later >= cpu and more.waited_ns >= waits.waited_ns and more.stood_ns == 2 * second
    account.close()
