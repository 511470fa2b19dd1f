"""A file is there whole or not at all: on a full disk, when writing fails, and when it is interrupted."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sim.machine.files import file_name, whole_file, whole_files, write_all, write_whole

LARGE = "0123456789abcdef" * 64 * 1024  # 1 MiB: more than the small disk holds


@contextmanager
def no_larger_file_than(size: int) -> Iterator[None]:
    """The kernel refuses a write past this size, in the middle of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB, where one can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", str(disk)], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def listing(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in folder.iterdir()}


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "one\n")
    write_whole(tmp_path / "a.txt", "zwölf\n")
    assert listing(tmp_path) == {"a.txt": "zwölf\n"}


def test_a_full_disk_leaves_what_was_there_and_nothing_else(small_disk: Path) -> None:
    write_whole(small_disk / "a.txt", "before\n")
    with pytest.raises(OSError, match="No space left"):
        write_whole(small_disk / "a.txt", LARGE)
    assert listing(small_disk) == {"a.txt": "before\n"}
    write_whole(small_disk / "a.txt", LARGE[: 64 * 1024])  # the room is there again


def test_a_write_that_fails_in_the_middle_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "before\n")
    with no_larger_file_than(64 * 1024), pytest.raises(OSError, match="File too large"):
        write_whole(tmp_path / "a.txt", LARGE)
    assert listing(tmp_path) == {"a.txt": "before\n"}


def test_of_several_none_is_moved_when_one_cannot_be_written(tmp_path: Path) -> None:
    write_all({tmp_path / "a.txt": "1", tmp_path / "b.txt": "2"})
    with no_larger_file_than(64 * 1024), pytest.raises(OSError, match="File too large"):
        write_all({tmp_path / "a.txt": "new", tmp_path / "b.txt": LARGE})
    assert listing(tmp_path) == {"a.txt": "1", "b.txt": "2"}


def test_the_first_file_stands_before_the_others_so_that_the_last_proves_them(tmp_path: Path) -> None:
    (tmp_path / "b.txt").mkdir()  # it cannot be replaced by a file
    with pytest.raises(OSError, match="directory"):
        write_all({tmp_path / "a.txt": "1", tmp_path / "b.txt": "2"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]
    assert (tmp_path / "a.txt").read_text("utf-8") == "1"


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "a.txt") as unfinished:
        unfinished.write_text("half", "utf-8")
        assert listing(tmp_path) == {"a.txt.unfinished": "half"}
        raise KeyboardInterrupt
    assert listing(tmp_path) == {}


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path, texts, seen = tmp_path / "a.txt", (LARGE, LARGE.upper()), set()
    write_whole(path, texts[0])
    stop = threading.Event()
    written = [0]

    def write() -> None:
        while not stop.is_set():
            write_whole(path, texts[written[0] % 2])
            written[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    end_s = time.monotonic() + 10
    while written[0] < 10 and time.monotonic() < end_s:
        seen.add(path.read_text("utf-8"))
    stop.set()
    writer.join()
    assert written[0] >= 10
    assert seen <= set(texts)


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    code = "import os, signal, sys; from pathlib import Path; from sim.machine.files import whole_file\n"
    code += "with whole_file(Path(sys.argv[1])) as part:\n    part.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")], cwd=Path(__file__).parents[2], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert listing(tmp_path) == {"a.txt.unfinished": "half"}
    with whole_files(tmp_path / "a.txt") as (unfinished,):
        unfinished.write_text("whole", "utf-8")
    assert listing(tmp_path) == {"a.txt": "whole"}


def test_a_pipe_takes_what_is_written_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        write_all({pipe: "all of it\n", tmp_path / "a.txt": "one\n"})
        assert os.read(reader, 100) == b"all of it\n"
    finally:
        os.close(reader)
    assert pipe.is_fifo() and sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "pipe"]


def test_a_link_stays_one_and_its_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "real.txt").write_text("before\n")
    (tmp_path / "a.txt").symlink_to(tmp_path / "elsewhere" / "real.txt")
    write_whole(tmp_path / "a.txt", "after\n")
    assert (tmp_path / "a.txt").is_symlink() and listing(tmp_path / "elsewhere") == {"real.txt": "after\n"}


def test_a_link_in_the_place_of_the_unfinished_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("kept\n")
    (tmp_path / "a.txt.unfinished").symlink_to(tmp_path / "precious.txt")
    write_whole(tmp_path / "a.txt", "one\n")
    assert listing(tmp_path) == {"a.txt": "one\n", "precious.txt": "kept\n"} and not (tmp_path / "a.txt").is_symlink()


def test_a_link_that_leads_round_in_a_circle_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to(tmp_path / "a.txt")
    write_whole(tmp_path / "a.txt", "one\n")
    assert listing(tmp_path) == {"a.txt": "one\n"}


def test_a_text_has_a_file_name_of_its_own_that_any_folder_takes(tmp_path: Path) -> None:
    texts = ["billing-0", "team/orders-0", "team%2Forders-0", "..", ".", "a\\b", "价格-0", "п" * 300, "п" * 299 + "ф", "x\0y"]
    names = [file_name(text) for text in texts]
    assert names[:2] == ["billing-0", "team%2Forders-0"] and len(set(names)) == len(texts)
    for name in names:
        (tmp_path / f"deliveries-{name}.1-00001.parquet").write_text("")
    assert len(list(tmp_path.iterdir())) == len(texts)
