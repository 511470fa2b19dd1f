"""Environment variables: absent, empty and blank are one thing, and a newline at the end is nobody's password."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sim.errors import UsageError
from sim.machine.import_path import OURS
from sim.machine.variables import read_switch, read_variable
from sim.pods.standalone import Settings, read_settings

URL = "redis://ann:hunter2@h:1/2"
AROUND = [("", ""), ("", "\n"), ("", "\r\n"), ("  ", "\t"), ("\n", "\n\n")]
BLANKS = ["", " ", "\n", " \t\r\n "]


@pytest.mark.parametrize("blanks", BLANKS)
def test_a_variable_of_nothing_but_blanks_is_absent(blanks: str) -> None:
    assert read_variable("X", {"X": blanks}) == read_variable("X", {}) == ""
    assert not read_switch("X", {"X": blanks})


@pytest.mark.parametrize(("before", "behind"), AROUND)
def test_blanks_at_the_ends_are_dropped_and_others_stay(before: str, behind: str) -> None:
    assert read_variable("X", {"X": f"{before}a b{behind}"}) == "a b"


@pytest.mark.parametrize("bad", ["hunter2\nhunter2", "hunter2\x1b2", "hunter\udcff2"])
def test_what_is_no_line_of_text_is_refused_without_its_value(bad: str) -> None:
    with pytest.raises(UsageError, match=r"^X holds ") as refused:
        read_variable("X", {"X": bad})
    assert "hunter" not in str(refused.value)


def test_a_list_may_stand_on_several_lines() -> None:
    assert read_variable("X", {"X": "\n one\n two\tthree \n"}, is_list=True) == "one two three"


@pytest.mark.parametrize("text", ["1", "true", "yes", "on", " on\n", "TRUE", "anything"])
def test_a_switch_is_on(text: str) -> None:
    assert read_switch("X", {"X": text})


@pytest.mark.parametrize("text", ["0", "false", "No", " off\n"])
def test_a_switch_that_says_so_is_off(text: str) -> None:
    assert not read_switch("X", {"X": text})


@pytest.mark.parametrize(("before", "behind"), AROUND)
def test_every_variable_of_a_pod_may_come_out_of_a_secret(before: str, behind: str) -> None:
    bare = {"REDIS_URL": URL, "EVENT_BUS_BATCH_SIZE": "7", "EVENT_BUS_BATCH_INTERVAL_MS": "8", "ADMIN_TOKEN": "t"}
    found = read_settings({name: f"{before}{value}{behind}" for name, value in bare.items()})
    assert found == read_settings(bare)
    assert found.address is not None and found.address.credentials == ("ann", "hunter2")
    assert (found.address.url, found.admin_token, found.batch_size) == (URL, "t", 7)


@pytest.mark.parametrize("blanks", BLANKS)
def test_a_pod_whose_variables_are_blank_has_the_defaults(blanks: str) -> None:
    names = ("REDIS_URL", "EVENT_BUS_BATCH_SIZE", "EVENT_BUS_BATCH_INTERVAL_MS", "ADMIN_TOKEN")
    assert read_settings(dict.fromkeys(names, blanks)) == Settings()


def test_a_cluster_may_stand_on_several_lines() -> None:
    found = read_settings({"REDIS_URL": "redis://h:1\nredis://h:2\n"})
    assert found.address is not None and [node.port for node in found.address.nodes] == [1, 2]


PEOPLE_SET = re.compile(r"""environ(ment)?(\.get\(|\[)\s*["'](BUSLAB_|REDIS_URL|EVENT_BUS_|ADMIN_TOKEN)|environ(\.get\(|\[)\s*IMAGE_ENV""")


def test_nothing_reads_them_in_another_way() -> None:
    files = [path for folder in ("sim", "locustfiles") for path in sorted(Path(OURS, folder).rglob("*.py"))]
    assert len(files) > 100
    assert PEOPLE_SET.search('os.environ.get("BUSLAB_ON")') and PEOPLE_SET.search("os.environ.get(IMAGE_ENV)")
    start = Path(OURS, "sim", "cli", "__main__.py")  # it tells why nothing else could be imported
    assert [path for path in files if PEOPLE_SET.search(path.read_text("utf-8"))] == [start]
