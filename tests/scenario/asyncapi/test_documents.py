"""Documents are read within bounds, and their references lead where they should or are refused by name."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import DocumentError
from sim.scenario.asyncapi.documents import MAX_BYTES, Documents, Dumper, Located, read_tree
from tests.support.asyncapi_documents import written


def read(folder: Path, text: str, name: str = "a.yaml") -> Any:
    return read_tree(written(folder, name, text), where=name)


def refusal(folder: Path, text: str, name: str = "a.yaml") -> str:
    with pytest.raises(DocumentError) as refused:
        read(folder, text, name)
    assert "\n" not in str(refused.value) and str(refused.value).startswith(name)
    return str(refused.value)


def test_yaml_is_read_as_yaml_1_2_has_it(tmp_path: Path) -> None:
    text = "on: [NO, yes, 2026-01-01, 12:30, 017, 0x1f, 0o17, 1e3, 1.5, -3, ~, true, 'true', .inf]\nempty:\n"
    assert read(tmp_path, text) == {
        "on": ["NO", "yes", "2026-01-01", "12:30", 17, 31, 15, 1000.0, 1.5, -3, None, True, "true", ".inf"],
        "empty": None,
    }
    assert read(tmp_path, "\ufeff" + '{"a": 1, "b": [null]}', "a.json") == {"a": 1, "b": [None]}
    assert read(tmp_path, "{a: 1}") == {"a": 1}, "what begins as JSON may be YAML"
    assert read(tmp_path, "base: &b {a: 1, b: 2}\nover: {<<: *b, b: 3}\n")["over"] == {"a": 1, "b": 3}
    assert read(tmp_path, "") is None


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
TREES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=12)


@given(TREES)
def test_what_is_written_as_yaml_is_read_again(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "again.yaml"
    tree = {"value": value, "words": ["on", "1e5", "0o7", "2026-01-01", "~", "<<"], "\x85": "\u2028 \x85", "\n": " a\n b\r\t"}
    path.write_text(yaml.dump(tree, Dumper=Dumper, allow_unicode=True), "utf-8")
    assert read_tree(path, where="again") == tree


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("a: [1", "a.yaml", "not valid YAML: while parsing"),
        ("a: 1\n\tb: 2", "a.yaml", "not valid YAML"),
        ("a: 1\n---\nb: 2", "a.yaml", "line 2: a second document begins"),
        ("a: *b", "a.yaml", "line 1: nothing has the anchor 'b'"),
        ('{"a": 1', "a.json", "not valid JSON"),
        ("a: 1\na: 2", "a.yaml", "line 2: 'a' stands twice"),
        ('{"a": 1, "a": 2}', "a.json", "'a' stands twice"),
        ('{"a": NaN}', "a.json", "NaN is no number"),
        ("a: !!python/object/apply:os.system [ls]", "a.yaml", "a list"),
        ("a: !secret x", "a.yaml", "the tag '!secret' is not read"),
        ("[a]: 1", "a.yaml", "a key is text"),
        ("a: &a [*a]", "a.yaml", "an alias holds itself"),
        ("[" * 400 + "]" * 400, "a.yaml", "nested deeper than 100"),
        ("[" * 100_000, "a.yaml", "a.yaml: "),
        ('{"a":' * 400 + "1" + "}" * 400, "a.json", "nested deeper than 100"),
        ("[" * 100_000, "a.json", "nested deeper than 100"),
        ("a: " + "1" * 5000, "a.yaml", "is no number"),
        ("<<: 3", "a.yaml", "<< takes an object"),
    ],
    ids=lambda value: value[:24],
)
def test_what_is_no_document_is_refused_in_one_line(tmp_path: Path, text: str, name: str, says: str) -> None:
    if "python/object" in text:
        assert read(tmp_path, text, name) == {"a": ["ls"]}, "a tag on a list makes nothing but a list"
    else:
        assert says in refusal(tmp_path, text, name)


def test_a_bomb_of_aliases_is_refused_before_it_goes_off(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    begun = time.process_time()
    assert "its aliases make more than 1,000,000 values of it" in refusal(tmp_path, "\n".join(lines))
    assert time.process_time() - begun < 5


def test_fifty_megabytes_are_refused_and_not_read(tmp_path: Path) -> None:
    for name in ("a.yaml", "a.json"):
        path = tmp_path / name
        path.write_bytes(b"")
        os.truncate(path, 50_000_000)
        with pytest.raises(DocumentError, match=f"{name}: it has more than {MAX_BYTES:,} bytes"):
            read_tree(path, where=name)
    with pytest.raises(DocumentError, match=r"b\.yaml: cannot be read: No such file"):
        read_tree(tmp_path / "b.yaml", where="b.yaml")
    with pytest.raises(DocumentError, match="cannot be read: Is a directory"):
        read_tree(tmp_path, where="b.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(DocumentError, match="cannot be read: 'utf-8' codec"):
        read_tree(tmp_path / "latin.yaml", where="latin.yaml")


def opened(folder: Path, tree: Any, name: str = "a.yaml") -> tuple[Documents, Located]:
    documents = Documents()
    return documents, documents.open(written(folder, name, tree), name=name)


def follow(folder: Path, tree: Any, key: str = "at") -> Any:
    documents, root = opened(folder, tree)
    return documents.follow(root.child(key)).value


def test_references_lead_into_the_document_and_into_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    written(tmp_path / "parts", "b.json", {"x": {"$ref": "#/y"}, "y": {"$ref": "../c.yaml#/z/0"}})
    written(tmp_path, "c.yaml", {"z": [{"deep": 1}], "whole": True})
    tree = {
        "at": {"$ref": "#/a~1b/c~0d/%7Be%7D"},
        "a/b": {"c~d": {"{e}": 7}},
        "file": {"$ref": "./parts/b.json#/x"},
        "whole": {"$ref": "c.yaml"},
        "through": {"$ref": "#/file/deep"},
        "empty": {"$ref": "#"},
    }
    assert [follow(tmp_path, tree, key) for key in ("at", "file", "through")] == [7, {"deep": 1}, 1]
    assert follow(tmp_path, tree, "whole")["whole"] is True and set(follow(tmp_path, tree, "empty")) == set(tree)


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"at": {"$ref": "#/at"}}, "a.yaml#/at: a cyclic $ref: a.yaml#/at -> a.yaml#/at"),
        ({"at": {"$ref": "#/b"}, "b": {"$ref": "#/at"}}, "a cyclic $ref: a.yaml#/at -> a.yaml#/b -> a.yaml#/at"),
        ({"at": {"$ref": "#/at/x"}}, "a cyclic $ref"),
        ({"at": {"$ref": "#/nothing"}}, "'#/nothing' leads nowhere: a.yaml has no 'nothing'"),
        ({"at": {"$ref": "#/l/7"}, "l": [1]}, "leads nowhere: a.yaml#/l has no '7'"),
        ({"at": {"$ref": "gone.yaml#/x"}}, "a.yaml#/at: $ref to gone.yaml: cannot be read: No such file"),
        ({"at": {"$ref": "https://example.com/a.yaml"}}, "is on another machine"),
        ({"at": {"$ref": "file:///etc/passwd"}}, "is on another machine"),
        ({"at": {"$ref": "//host/a.yaml"}}, "is on another machine"),
        ({"at": {"$ref": "/etc/passwd"}}, "is no path relative to the document"),
        ({"at": {"$ref": "#name"}}, "is no JSON pointer"),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_a_reference_that_leads_nowhere_is_named(tmp_path: Path, tree: Any, says: str) -> None:
    with pytest.raises(DocumentError) as refused:
        follow(tmp_path, tree)
    assert says in str(refused.value)


def test_files_of_one_name_are_told_apart_and_only_so_many_are_read(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    written(tmp_path / "x", "a.yaml", {"at": 5})
    assert follow(tmp_path, {"at": {"$ref": "x/a.yaml#/at"}}) == 5
    for number in range(101):
        written(tmp_path, f"f{number}.yaml", {"at": {"$ref": f"f{number + 1}.yaml#/at"}})
    with pytest.raises(DocumentError, match="100 files are the most"):
        follow(tmp_path, {"at": {"$ref": "f0.yaml#/at"}})
