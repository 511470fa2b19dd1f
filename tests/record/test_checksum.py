"""Whether a file was damaged or edited, file by file."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest

from sim.errors import RunFolderError
from sim.record.checksum import CHUNK_BYTES, _page_is_whole, changed_since, file_checksum, is_whole, read_json, signed_page, with_checksum


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES - 1])
def test_the_checksum_of_a_file_is_that_of_all_its_bytes(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "file").write_bytes(content)
    assert file_checksum(tmp_path / "file") == zlib.crc32(content)


def test_content_carries_the_checksum_of_what_a_reader_finds() -> None:
    content = {"b": (1, 2), "a": {3: None}, "ä": 1.5}
    signed = with_checksum(content)
    assert list(signed) == ["b", "a", "ä", "crc32"] and signed["crc32"] == zlib.crc32(b'{"a": {"3": null}, "b": [1, 2], "\\u00e4": 1.5}')
    assert with_checksum(signed) == signed, "the checksum is not of itself"
    again = json.loads(json.dumps(signed))
    assert is_whole(again) and is_whole({"no": "checksum"})
    assert not is_whole(again | {"b": [1, 3]}) and not is_whole(again | {"c": 0}) and not is_whole(again | {"crc32": None})


def test_a_page_carries_its_checksum_in_a_last_line(tmp_path: Path) -> None:
    page = f"<p>ä</p>\n<!-- crc32 of all before this line: {zlib.crc32('<p>ä</p>'.encode() + bytes([10]))} -->\n"
    assert signed_page("<p>ä</p>") == signed_page("<p>ä</p>\n") == page
    path = tmp_path / "page.html"
    for text, changed in (
        (page, False),
        (page.replace("ä", "a"), True),
        (page + "\n", True),
        (page.replace(" -->", "->"), True),
        ("<p>from before there were checksums</p>", False),
        ("<!-- crc32 of all before" + "x" * 200, False),
        ("<!-- crc32 of all before" + "x" * 176, True),
    ):
        path.write_text(text, encoding="utf-8")
        assert changed_since([path]) == ([path] if changed else []), text


def test_only_files_that_are_there_can_have_changed(tmp_path: Path) -> None:
    for name, content in {
        "good.json": with_checksum({"a": 1}),
        "bad.json": with_checksum({"a": 1}) | {"a": 2},
        "old.json": {"a": 1},
    }.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "torn.json").write_text('{"a": 1')
    (tmp_path / "folder.json").mkdir()
    paths = [tmp_path / name for name in ("good.json", "bad.json", "old.json", "torn.json", "folder.json", "none.json")]
    assert [path.name for path in changed_since(paths)] == ["bad.json", "torn.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot read {path}: Expecting property name enclosed in double quotes: line 1 column 2 (char 1); "),
        (b'{"a": "\\ud800"}', "cannot read {path}: 'utf-8' codec can't encode character '\\ud800' in position 7: surrogates not allowed; "),
        (b"[" * 100_000, "cannot read {path}: maximum recursion depth exceeded while decoding a JSON array from a unicode string; "),
    ],
)
def test_a_file_that_is_no_json_is_damaged(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(RunFolderError) as error:
        read_json(path)
    assert str(error.value).startswith(message.replace("{path}", str(path)).rstrip("; ")[:60])
    assert str(error.value).endswith("; the file is damaged, repeat the run")


def test_a_file_of_json_must_hold_an_object(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("[1]")
    with pytest.raises(RunFolderError) as error:
        read_json(path)
    assert str(error.value) == f"{path} holds a list, not an object; it is not from a run of this lab"
    path.write_text('{"a": ["ä", null]}', encoding="utf-8")
    assert read_json(path) == {"a": ["ä", None]}


def test_a_page_whose_line_with_the_checksum_is_damaged_is_told_by_what_is_left_of_it(tmp_path: Path) -> None:
    """Only the last 200 bytes are looked at: a page of before, which has no such line, may speak of one."""
    words = b"<!-- crc32 of all before"
    page, later = tmp_path / "page.html", tmp_path / "later.html"
    page.write_bytes(b"<p>" + words + b"x" * (200 - len(words)))
    later.write_bytes(b"<p>" + words + b"x" * (201 - len(words)))
    assert changed_since([page, later]) == [page]


def test_a_page_that_cannot_be_read_is_not_whole(tmp_path: Path) -> None:
    assert not _page_is_whole(tmp_path)
    assert not _page_is_whole(tmp_path / "gone.html")
