"""Secrets, planted in every way in which they come in, and looked for in all that a run leaves, prints, logs, serves or starts."""

from __future__ import annotations

import base64
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from click.testing import CliRunner

from sim.cli.main import cli
from sim.errors import BuslabError
from sim.pods.standalone import run_pod
from sim.wire.address import Address
from tests.support.pod_process import running_pod

pytestmark = pytest.mark.broker
BOUND_S = 300.0
SECRET = "ZqXw4/9?x@W#7vLmTr"
QUOTED = quote(SECRET, safe="")
LOCUSTFILES = Path(__file__).parents[2] / "locustfiles"
SHORT = ("--set", "load.run_s=1", "--set", "load.warm_up_s=0.2", "--set", "slo={}")
PODS = (*SHORT, "--set", "load.driver=pods")
DEEP = pytest.mark.deep
LONG = ((SHORT, ""), (PODS, "1"))


def _base64_of(text: str) -> list[str]:
    """Return what stands in any Base64 of anything that this is a part of: at each of the three places at which it may begin."""
    return [base64.b64encode(b"\0" * skip + text.encode()).decode()[4 if skip else 0 :].rstrip("=")[:-2] for skip in range(3)]


FORMS = [form.encode() for form in (SECRET, QUOTED, quote(QUOTED, safe=""), quote(SECRET), *_base64_of(SECRET))]
PIECES = [b"ZqXw4", b"vLmTr"]  # of the secret: a part of it that was taken for a host, a port or a path


def found_in(content: bytes) -> list[bytes]:
    return [form for form in FORMS if form.lower() in content.lower()]


def words_of(path: Path) -> bytes:
    """Return what a file says: of a table, every word in it."""
    if path.suffix != ".parquet":
        return path.read_bytes()
    columns = pq.ParquetFile(path).read().columns
    words = [column.unify_dictionaries().chunk(0).dictionary for column in columns if pa.types.is_dictionary(column.type) and len(column)]
    return "\n".join(str(word) for column in words for word in column.to_pylist()).encode()


def leaks_below(folder: Path) -> dict[str, list[bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files, "there is something to look into"
    return {str(path.relative_to(folder)): found for path in files if (found := found_in(words_of(path)))}


@dataclass
class Ended:
    """A command that has ended: what it printed, and which command lines its children had."""

    code: int
    said: bytes
    children: set[bytes] = field(default_factory=set)

    def check(self, *folders: Path) -> None:
        assert found_in(self.said) == [], self.said
        assert [line for line in self.children if found_in(line)] == []
        for folder in folders:
            assert leaks_below(folder) == {}


def command(*argv: object, cwd: Path, **more: str) -> Ended:
    """Run a command, and look at the command lines of all that it starts."""
    environment = os.environ | {"LOCUST_SKIP_UPDATE_CHECK": "1"} | more
    seen: set[bytes] = set()
    with subprocess.Popen(
        list(map(str, argv)), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, stdin=subprocess.DEVNULL
    ) as process:

        def look() -> None:
            while process.poll() is None:
                with contextlib.suppress(psutil.Error):
                    for child in psutil.Process(process.pid).children(recursive=True):
                        with contextlib.suppress(OSError):
                            seen.add(Path(f"/proc/{child.pid}/cmdline").read_bytes())
                    with contextlib.suppress(
                        OSError
                    ):  # a child has it between its fork and its own program; who typed it is told to use a variable
                        seen.discard(Path(f"/proc/{process.pid}/cmdline").read_bytes())
                time.sleep(0.02)

        watcher = threading.Thread(target=look)
        watcher.start()
        said, _ = process.communicate(timeout=BOUND_S)
        watcher.join()
    return Ended(process.returncode, said, seen)


def buslab(*args: object, cwd: Path, **more: str) -> Ended:
    return command(sys.executable, "-m", "sim.cli", *args, cwd=cwd, **more)


@pytest.fixture(scope="module")
def url(address: Address) -> Iterator[str]:
    """The URL of a server whose password is the secret."""
    with redis.Redis.from_url(address.url) as client:
        client.config_set("requirepass", SECRET)
        yield f"redis://:{QUOTED}@127.0.0.1:{address.port}/0"
        client.config_set("requirepass", "")


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    for form in (SECRET, QUOTED, base64.b64encode(f"user:{SECRET}".encode()).decode(), base64.b64encode(f"a{SECRET}b".encode()).decode()):
        (tmp_path / "file").write_text(f"x {form} y")
        assert leaks_below(tmp_path)
    pq.write_table(pa.table({"word": pa.array(["a", SECRET]).dictionary_encode()}), tmp_path / "file.parquet", compression="zstd")
    assert "file.parquet" in leaks_below(tmp_path)


@pytest.mark.parametrize(
    ("driver", "debug"),
    [pytest.param(SHORT, "1", id="locust-1"), pytest.param(PODS, "", id="pods-"), *(pytest.param(*one, marks=DEEP) for one in LONG)],
)
def test_a_run_by_a_url_or_a_variable_leaves_no_secret(url: str, tmp_path: Path, driver: tuple[str, ...], debug: str) -> None:
    where: dict[str, str] = {"BUSLAB_ON": url} if debug else {}
    on = () if debug else ("--on", url)
    hosts = ("--set", "hosts.kind=local") if debug else ()
    ended = buslab("run", "baseline", *on, *driver, *hosts, "--out", "run", cwd=tmp_path, BUSLAB_DEBUG=debug, **where)
    assert ended.code == 0, ended.said
    assert ended.children or (driver, hosts) == (PODS, ())
    ended.check(tmp_path)


@pytest.mark.parametrize("how", ["--host", pytest.param("--on", marks=DEEP), pytest.param("variable", marks=DEEP)])
def test_locust_s_own_files_hold_no_secret(url: str, tmp_path: Path, how: str) -> None:
    given = () if how == "variable" else (how, url)
    more = {"BUSLAB_ON": url} if how == "variable" else {}
    files = ("--html", tmp_path / "own.html", "--csv", tmp_path / "own", "--json-file", tmp_path / "own", "--logfile", tmp_path / "own.log")
    args = ("-m", "locust", "-f", LOCUSTFILES / "bus_user.py", "--headless", "-u", "3", "-r", "30", "--loglevel", "DEBUG")
    ended = command(sys.executable, *args, *given, *SHORT, *files, "--out", tmp_path / "run", cwd=tmp_path, **more)
    assert ended.code == 0, ended.said
    assert (tmp_path / "run" / "locust.html").exists() and (tmp_path / "own.html").exists()
    ended.check(tmp_path)


def test_a_sweep_keeps_no_secret_and_goes_on(url: str, tmp_path: Path) -> None:
    grid = ("sweep", "baseline", "--on", url, *PODS, "--set", "bus.batch_size=1,10", "--keep", "all", "--jobs", "2", "--out", "sweep")
    for more in ((), ("--resume",)):
        ended = buslab(*grid, *more, cwd=tmp_path)
        assert ended.code in (0, 2), ended.said  # two runs at a time on one server hear each other
        ended.check(tmp_path)
    assert b'"on": "redis://127.0.0.1:' in (tmp_path / "sweep" / "plan.json").read_bytes()


@pytest.mark.parametrize(
    ("said", "code"),
    [("print(ground); raise LookupError(ground.split('@')[0])", 2), pytest.param("pass", 0, marks=DEEP)],
    ids=["and fails", "and concludes"],
)
def test_a_notebook_that_is_given_a_url_shows_no_secret(url: str, tmp_path: Path, said: str, code: int) -> None:
    (tmp_path / "asked.py").write_text(
        '# # Where?\n# %% tags=["parameters"]\nground = "model"\n# %%\n'
        "import sim\nfrom sim.experiments.notebooks.conclusion import conclude\n"
        'settings = ["load.driver=pods", "load.run_s=1", "load.warm_up_s=0.2", "slo={}"]\n'
        f'run = sim.open_run(sim.run_scenario(sim.load_scenario("baseline", settings=settings), on=ground))\n{said}\n'
        'conclude("valid", run.info.ground)\n'
    )
    ended = buslab("notebooks", "asked.py", "-p", f"ground={url}", "--out", "out", "--html", "pages", cwd=tmp_path)
    assert ended.code == code, ended.said
    assert b"redis://127.0.0.1:" in (tmp_path / "out" / "asked.ipynb").read_bytes(), "it can be seen where it ran"
    ended.check(tmp_path / "out", tmp_path / "pages")


def test_a_pod_logs_and_serves_no_secret(url: str) -> None:
    with running_pod("api-gateway", REDIS_URL=url, ADMIN_TOKEN=SECRET) as pod:
        pod.until("connected")
        served = [pod.ask(path) for path in ("/health/live", "/health/ready", "/metrics", "/nothing")]
        served += [pod.ask("/api/admin/cache/clear", {"pattern": "*"}, token=token) for token in (SECRET, f"x{SECRET}", f"{SECRET} y")]
        assert [status for status, _ in served] == [200, 200, 200, 404, 202, 403, 401]
        assert found_in(Path(f"/proc/{pod.process.pid}/cmdline").read_bytes()) == []
        assert pod.end() == 0
        assert found_in(str((pod.log, served)).encode()) == []
    wrong = url.replace(QUOTED, f"x{QUOTED}")
    with running_pod("music-service", REDIS_URL=wrong) as pod:
        assert "does not let us in" in pod.until("disconnected")["reason"]
        assert pod.end() == 0
        assert found_in(str(pod.log).encode()) == []


BAD = {
    "missing at": f"redis://user:{SECRET}127.0.0.1:6379",
    "missing at, dotted": "redis://user:ZqXw4vLmTr.127.0.0.1:6379",
    "not quoted": f"redis://user:{SECRET}@127.0.0.1:1",
    "no scheme": f"user:{SECRET}@127.0.0.1:1",
    "wrong scheme": f"rdis://user:{QUOTED}@127.0.0.1:1",
    "bad port": f"redis://user:{QUOTED}@127.0.0.1:port",
    "in the query": f"redis://127.0.0.1:port?password={QUOTED}",
    "an option that is none": f"redis://127.0.0.1:1?password={QUOTED}&nothing=1",
    "as user": f"redis://{QUOTED}@127.0.0.1:1",
    "nobody there": f"redis://user:{QUOTED}@127.0.0.1:1",
    "quoted whole": quote(f"redis://user:{SECRET}@127.0.0.1:1", safe=""),
}


COMMANDS: list[tuple[str, ...]] = [
    ("run", "baseline", "--out", "run"),
    ("sweep", "baseline", "--set", "bus.batch_size=1,10", "--out", "sweep"),
    ("capacity", "baseline", "--out", "capacity"),
    ("matrix", "--fault", "pod_kill", "--bus", "reference", "--jobs", "1", "--out", "matrix"),
    ("claims", "2", "--jobs", "1", "--out", "claims"),
    ("fidelity", "--scenario", "baseline", "--out", "fidelity.md"),
]


def pieces_below(folder: Path) -> dict[str, list[bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): found for path in files if (found := [piece for piece in PIECES if piece in words_of(path)])}


@pytest.mark.parametrize("args", COMMANDS, ids=lambda args: args[0])
@pytest.mark.parametrize("bad", BAD)
def test_an_error_about_a_url_shows_no_piece_of_its_secret(
    bad: str, args: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(cli, [*args, "--on", BAD[bad]], standalone_mode=False)
    assert isinstance(ended.exception, BuslabError) or ended.return_value == 2, ended.output
    said = f"{ended.output} {ended.exception} {ended.exception!r}".encode()
    assert [piece for piece in PIECES if piece in said] == [], said
    assert pieces_below(tmp_path) == {}


@pytest.mark.parametrize("bad", [bad for bad in BAD if bad not in ("as user", "nobody there")])
def test_a_pod_that_is_refused_its_url_shows_no_piece_of_its_secret(bad: str) -> None:
    with pytest.raises(BuslabError) as refused:
        run_pod("music-service", environment={"REDIS_URL": BAD[bad]})
    assert [piece for piece in PIECES if piece in f"{refused.value} {refused.value!r}".encode()] == []


def test_nor_does_a_traceback(tmp_path: Path) -> None:
    for bad in ("not quoted", "nobody there"):
        ended = buslab("run", "baseline", cwd=tmp_path, BUSLAB_ON=BAD[bad], BUSLAB_DEBUG="1")
        assert (ended.code, b"Traceback" in ended.said) == (2, True), ended.said
        assert [piece for piece in PIECES if piece in ended.said] == [], ended.said


@pytest.mark.parametrize("bad", ["missing at", *(pytest.param(bad, marks=DEEP) for bad in ("not quoted", "nobody there"))])
def test_locust_s_error_about_a_url_shows_no_piece_of_its_secret(bad: str, tmp_path: Path) -> None:
    for file, given in (("bus_user.py", "--host"), ("bus_user.py", "--on"), ("gateway_user.py", "--host"), ("gateway_user.py", "--on")):
        args = ("-m", "locust", "-f", LOCUSTFILES / file, "--headless", "-u", "2", "-t", "1s", given, BAD[bad])
        ended = command(sys.executable, *args, cwd=tmp_path, ADMIN_TOKEN="token")
        assert ended.code == 2, ended.said
        assert [piece for piece in PIECES if piece in ended.said] == [], ended.said
        ended.check()


@pytest.mark.parametrize(
    "text",
    [
        '[broker]\nurl = "{url}"\n',
        '[load]\ndriver = "{url}"\n',
        '[bus]\ntransport = "{url}"\n',
        'on = "{url}"\n',
        'title = "{url}\n',
        '[[faults]]\nkind = "{url}"\nat_s = 1\n',
    ],
)
def test_a_scenario_file_with_a_url_where_none_belongs_is_refused_without_it(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text.format(url=f"redis://user:{QUOTED}@127.0.0.1:1"))
    ended = buslab("run", "mine.toml", "--on", "model", "--out", "run", cwd=tmp_path)
    assert ended.code == 2, ended.said
    assert [piece for piece in PIECES if piece in ended.said] == [], ended.said
