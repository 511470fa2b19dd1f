"""Code of the user's own: found last, told apart from what hides it, and whatever is wrong with it is one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sim.errors import UsageError
from sim.machine.import_path import put_working_folder_last
from sim.machine.user_code import find_member, installed_members, takes_turns

OURS = {"hears": object}


def refusal(name: str, folder: Path | str = "") -> str:
    with pytest.raises(UsageError) as refused:
        find_member(name, kind="behaviour", members=OURS, folder=str(folder))
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The import path, as it was again afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    return sys.path


def install(folder: Path, *, name: str, entry_points: str) -> None:
    """Put what pip would have written of a package into a folder of the path."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


def test_a_module_of_the_folder_is_found_after_all_other_places(tmp_path: Path, path: list[str]) -> None:
    (tmp_path / "uc_pkg").mkdir()
    (tmp_path / "uc_pkg" / "__init__.py").touch()
    (tmp_path / "uc_pkg" / "deep.py").write_text("class A:\n    class B:\n        word = 'mine'\n")
    before = list(path)
    assert find_member("uc_pkg.deep:A.B", kind="behaviour", members=OURS, folder=str(tmp_path)).word == "mine"
    assert path == [*before, str(tmp_path)]
    assert find_member("uc_pkg.deep:A", kind="behaviour", members=OURS, folder=str(tmp_path)).B.word == "mine"
    assert path == [*before, str(tmp_path)], "once"
    assert find_member("hears", kind="behaviour", members=OURS) is object


def test_the_working_directory_comes_after_the_folder_that_was_named(
    tmp_path: Path, path: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("here", "named"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "uc_both.py").write_text(f"class A:\n    word = {folder!r}\n")
    monkeypatch.chdir(tmp_path / "here")
    put_working_folder_last()
    assert find_member("uc_both:A", kind="behaviour", members=OURS, folder=str(tmp_path / "named")).word == "named"


@pytest.mark.parametrize("name", ["redis", "json", "sim", "errno"])
def test_what_hides_a_module_of_the_folder_is_named_and_not_taken_for_it(tmp_path: Path, path: list[str], name: str) -> None:
    (tmp_path / f"{name}.py").write_text("class Redis: pass\n")
    message = refusal(f"{name}:Redis", tmp_path)
    assert f"the module {name} of {tmp_path} is hidden by" in message and "give it another name" in message


def test_a_module_of_another_folder_is_not_taken_for_one_of_the_same_name(tmp_path: Path, path: list[str]) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "uc_twice.py").write_text(f"class A:\n    word = {folder!r}\n")
    assert find_member("uc_twice:A", kind="behaviour", members=OURS, folder=str(tmp_path / "one")).word == "one"
    assert f"hidden by {tmp_path / 'one' / 'uc_twice.py'}" in refusal("uc_twice:A", tmp_path / "two")


@pytest.mark.parametrize(
    ("code", "name", "says"),
    [
        (None, "uc_nowhere:A", ["there is no module 'uc_nowhere' in", "none is installed"]),
        ("", "uc_m.deep:A", ["there is no module 'uc_m.deep'"]),
        ("class Billing: pass", "uc_m:Biling", ["uc_m.py) has no 'Biling'", "did you mean 'Billing'"]),
        ("\n\nraise ValueError('a\\nb')", "uc_m:A", ["importing uc_m raised ValueError: a b (line 3 of uc_m.py)"]),
        ("import uc_missing", "uc_m:A", ["importing uc_m raised ModuleNotFoundError: No module named 'uc_missing' (line 1 of uc_m.py)"]),
        ("def f(:", "uc_m:A", ["importing uc_m raised SyntaxError", "uc_m.py"]),
        ("raise SystemExit(3)", "uc_m:A", ["importing uc_m raised SystemExit: 3"]),
        ("", "uc_m:", ["write module:Name"]),
        ("", ":A", ["write module:Name"]),
        ("", "uc m:A", ["write module:Name"]),
        ("", "../uc_m:A", ["write module:Name"]),
        ("", "heers", ["no such behaviour (did you mean 'hears'?); known: hears, your own as module:Name"]),
    ],
)
def test_what_is_wrong_with_it_is_one_line(tmp_path: Path, path: list[str], code: str | None, name: str, says: list[str]) -> None:
    if code is not None:
        (tmp_path / "uc_m.py").write_text(code)
    sys.modules.pop("uc_m", None)
    message = refusal(name, tmp_path)
    assert [word for word in says if word not in message] == [], message


def test_a_line_of_pythons_own_is_never_told_as_one_of_the_users(tmp_path: Path, path: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "uc_m.py").write_text("def f(:")
    sys.modules.pop("uc_m", None)
    monkeypatch.chdir(tmp_path)
    assert "frozen" not in refusal("uc_m:A", tmp_path)


def test_an_installed_package_brings_members_by_name_but_never_in_the_place_of_ours(tmp_path: Path, path: list[str]) -> None:
    (tmp_path / "uc_shoplab.py").write_text("class Billing: pass\nclass Hears: pass\n")
    points = "[buslab.behaviours]\nbilling = uc_shoplab:Billing\nhears = uc_shoplab:Hears\nbroken = uc_shoplab:Nothing\n"
    install(tmp_path, name="shoplab", entry_points=points)
    path.append(str(tmp_path))
    assert find_member("billing", kind="behaviour", members=OURS).__name__ == "Billing"
    assert find_member("hears", kind="behaviour", members=OURS) is object
    assert installed_members("behaviour")["billing"] == "uc_shoplab:Billing of shoplab 1.0"
    assert "uc_shoplab:Nothing of shoplab 1.0 raised AttributeError" in refusal("broken")
    assert "did you mean 'billing'" in refusal("biling") and "known: hears, billing" in refusal("biling")
    install(tmp_path / "more", name="othershop", entry_points="[buslab.behaviours]\nbroken = uc_shoplab:Billing\n")
    path.append(str(tmp_path / "more"))
    assert "several packages bring a behaviour of this name: shoplab 1.0, othershop 1.0" in refusal("broken")


def test_what_a_call_would_only_begin_is_told_apart() -> None:
    async def later() -> None: ...

    def bit_by_bit():  # type: ignore[no-untyped-def]
        yield

    class Later:
        async def __call__(self) -> None: ...

    assert [takes_turns(one) for one in (later, bit_by_bit, Later(), print, len, int, Path.exists)] == [True] * 3 + [False] * 4
