"""The house's limits on its own files: sizes, names, depth, and what may not stand in them."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIM = ROOT / "sim"
FILES = sorted(SIM.rglob("*.py"))
MAX_LINES = 500
MAX_FUNCTION_LINES = 70
BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "base", "misc"}
PUBLIC = "public"  # the one room whose `__init__` names what is in it, as `import sim` does
ROOMS = sorted(p.parent for p in SIM.glob("*/__init__.py"))
FAMILIES = {  # folder -> the dict that lists its members, and where it stands
    "bus/services": ("BEHAVIOURS", "__init__.py"),
    "cli/commands": ("COMMANDS", "__init__.py"),
    "experiments/claims/catalogue": ("CLAIMS", "__init__.py"),
    "faults/catalogue": ("FAULTS", "__init__.py"),
    "grounds": ("GROUNDS", "catalogue.py"),
    "measure/bench": ("CLIENTS", "__init__.py"),
    "pods/hosts": ("HOSTS", "__init__.py"),
    "results/checkers": ("CHECKERS", "__init__.py"),
    "scenario/starts": ("STARTS", "__init__.py"),
    "wire/transports": ("TRANSPORTS", "__init__.py"),
}
CLAIMS = ("experiments", "claims", "catalogue")  # the one folder that may be deeper than a family
VERBS = {  # an order as the first word of a class, such as Hold: it is a thing, and what the thing is should be said
    "Accept", "Append", "Ask", "Be", "Bound", "Call", "Carry", "Collect", "Come", "Copy", "Count", "Cut", "Decide", "Delete", "Describe",
    "Do", "End", "Estimate", "Flush", "Freeze", "Gather", "Give", "Hand", "Handle", "Hear", "Hold", "Hurt", "Instruct", "Keep", "Kill",
    "Let", "Listen", "Look", "Make", "Measure", "Name", "Offer", "Own", "Pass", "Plant", "Probe", "Publish", "Put", "Read", "Refuse",
    "Remember", "Reset", "Return", "Run", "Say", "Serve", "Set", "Shape", "Sort", "Speak", "Stall", "Start", "Stop", "Take", "Tell",
    "Turn", "Write",
}  # fmt: skip
SAY_LITTLE = {"Hold", "Let", "Own", "Say"}  # of what a function does


def lines_of(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_and_its_functions_are_short_and_it_says_why_it_exists(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert lines_of(path) <= MAX_LINES
    assert ast.get_docstring(tree), "a file opens with why it exists"
    long = [
        f"{node.name} has {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert long == []


def test_a_class_is_a_noun_and_a_function_says_what_it_does() -> None:
    assert {path: found for path in FILES if (found := badly_begun(path.read_text("utf-8")))} == {}


def badly_begun(source: str) -> list[str]:
    """Return the docstrings of classes that begin with an order, and those of functions that begin with a word that says little."""
    barred = {ast.ClassDef: VERBS, ast.FunctionDef: SAY_LITTLE, ast.AsyncFunctionDef: SAY_LITTLE}
    named = [(node, ast.get_docstring(node) or "") for node in ast.walk(ast.parse(source)) if type(node) in barred]
    return [f"{node.name}: {text.splitlines()[0]}" for node, text in named if re.split(r"\W", text)[0] in barred[type(node)]]


def test_a_docstring_that_begins_badly_is_found() -> None:
    source = "class A:\n    'Hold a thing.'\n    async def f(self):\n        'Let it go.'\n    def g(self):\n        'Keep it.'\n"
    assert badly_begun(source) == ["A: Hold a thing.", "f: Let it go."]
    assert badly_begun("class A:\n    'One thing that is held.'\n    def f(self):\n        'Holds.'\n") == []


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [path for path in FILES if path.stem in BANNED_NAMES] == []


def test_no_folder_is_deeper_than_a_family() -> None:
    folders = {path.relative_to(SIM).parts[:-1] for path in FILES}
    assert {folder for folder in folders if len(folder) > 2} == {CLAIMS}


@pytest.mark.parametrize("room", ROOMS, ids=lambda p: p.name)
def test_a_room_is_its_charter_and_defines_nothing(room: Path) -> None:
    tree = ast.parse((room / "__init__.py").read_text("utf-8"))
    charter = ast.get_docstring(tree) or ""
    assert charter.endswith(".")
    assert room.name == PUBLIC or len(tree.body) == 1
    assert f"| `{room.name}` | {charter} |" in (ROOT / "docs" / "explanation" / "architecture.md").read_text("utf-8")


def test_the_contract_has_every_room_in_its_layers() -> None:
    assert sorted(path.stem for path in SIM.glob("*.py")) == sorted(["__init__", "errors"])
    (layers,) = re.findall(r"^layers = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.M | re.S)
    assert sorted(re.findall(r"\w+", layers)) == sorted([*(room.name for room in ROOMS), "errors"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_says_how_to_add_a_member_and_lists_them_in_one_plain_dict(family: str) -> None:
    name, file = FAMILIES[family]
    text = (SIM / family / file).read_text("utf-8")
    assert "To add one" in (ast.get_docstring(ast.parse(text)) or "").replace("\n", " ")
    assert re.search(rf"^{name}: dict\[.*\] = \{{", text, re.M)
    again = re.compile(rf"^{name}\b.*= *[{{(\[]", re.M)
    elsewhere = [path for path in FILES if path != SIM / family / file and again.search(path.read_text("utf-8"))]
    assert elsewhere == [], f"{name} is listed once"


def test_no_two_classes_have_one_name_but_for_members_of_a_family() -> None:
    where: dict[str, list[Path]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef):
                where.setdefault(node.name, []).append(path)
    twice = {
        name: paths
        for name, paths in where.items()
        if len(paths) > 1 and {str(path.parent.relative_to(SIM)) for path in paths} - set(FAMILIES)
    }
    assert twice == {}


def test_a_test_stands_under_the_room_of_what_it_tests() -> None:
    """Whole runs stand in end_to_end, rules of the house in house, what tests share in support."""
    tests = ROOT / "tests"
    apart = {"end_to_end", "house", "support", "locustfiles"}
    folders = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")}
    assert [folder for folder in folders if folder.parts[:1] and folder.parts[0] not in apart and not (SIM / folder).is_dir()] == []
    assert list(tests.glob("test_*.py")) == []


def test_no_tracked_file_names_a_registry_a_machine_path_or_a_lock_with_hosts() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    banned = re.compile(
        "|".join(["pypi" + r"\.org", "python" + "hosted", "registry" + r"\.npmjs", "deb" + r"\.debian", r"/(?:root|home)/"])
    )
    found = []
    for name in filter(None, tracked):
        path = ROOT / name
        if path.suffix not in {".png", ".parquet"} and path.is_file() and banned.search(path.read_text("utf-8", "replace")):
            found.append(name)
    assert found == []
    assert not {"uv.lock", "package-lock.json"} & set(tracked)


def test_every_requirement_is_pinned_and_has_its_hashes() -> None:
    text = (ROOT / "requirements.lock").read_text("utf-8")
    wanted = re.compile(
        r"(?:[A-Za-z0-9._\[\]-]+==[^ ]+(?: ; [^\\\n]+)? \\\n(?:    --hash=sha256:[0-9a-f]{64} \\\n)*    --hash=sha256:[0-9a-f]{64}\n)"
    )
    rest = wanted.sub("", re.sub(r"^ *#.*\n", "", text, flags=re.M))
    assert wanted.search(text) and rest == ""


PLAIN_CLIENT = "experiments/claims/client_outage.py"  # what is asked there is redis-py as it comes


def test_every_client_of_redis_py_looks_at_a_reply_before_it_takes_memory_for_it() -> None:
    made = {"redis.Redis", "redis.Redis.from_url", "redis.asyncio.Redis.from_url", "ConnectionPool.from_url", "Connection"}
    plain, guarded = [], 0
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in made and path != SIM / PLAIN_CLIENT:
                looks = any(word.arg == "parser_class" and ast.unparse(word.value) == "GuardedParser" for word in node.keywords)
                guarded += looks
                plain += [] if looks else [f"{path.relative_to(ROOT)}:{node.lineno}"]
    assert plain == []
    assert guarded >= 7
