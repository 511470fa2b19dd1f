"""Manifests are written whole or not at all, hold no secret, and say what is wrong in one line."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sim.errors import BuslabError, ScenarioError, UsageError
from sim.scenario.file import load_scenario
from sim.scenario.manifests.objects import MOST_BYTES
from sim.scenario.manifests.write import MARK, manifests, one_text, write_manifests
from tests.support.cli import buslab as command

EXAMPLES = Path("docs/examples")
PASSWORD = "hunter2-Z9"


def buslab(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return command("manifests", *args, cwd=Path(), env={"PATH": "/usr/bin:/bin", **environment})


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# -- the folder ----------------------------------------------------------------------------------------------------------


def test_a_folder_for_each_kubectl_apply_and_one_stream_say_the_same(tmp_path: Path) -> None:
    found = manifests("baseline")
    paths = write_manifests(found, out=tmp_path / "a" / "k8s")
    assert files_of(tmp_path / "a" / "k8s") == {path.as_posix() for path in found.files} | {MARK}
    assert {path.relative_to(tmp_path / "a" / "k8s").parts[0] for path in paths} == {"bus", "redis", "lab", "locust"}
    written = [one for path in paths for one in yaml.safe_load_all(path.read_text("utf-8"))]
    assert written == list(yaml.safe_load_all(one_text(found))) == [one for objects in found.files.values() for one in objects]


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the fourth file be the one that does not fit."""
    usual, written = Path.write_text, list[Path]()

    def write(path: Path, *args: str, **more: str) -> int:
        written.append(path)
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        return usual(path, *args, **more)

    monkeypatch.setattr(Path, "write_text", write)


@pytest.mark.parametrize("there", [False, True])
def test_what_cannot_be_written_whole_is_not_written_and_what_was_there_stays(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "new" / "k8s"
    if there:
        write_manifests(manifests(str(EXAMPLES / "chat/chat.bus.toml")), out=target)
    before = files_of(tmp_path)
    full_disk(monkeypatch)
    with pytest.raises(UsageError, match=r"cannot write .*k8s: No space left on device; choose another --out"):
        write_manifests(manifests("baseline"), out=target, force=True)
    assert files_of(tmp_path) == before
    assert (tmp_path / "new").exists() == there


def test_force_replaces_a_folder_of_ours_whole_so_that_no_service_of_yesterday_is_applied(tmp_path: Path) -> None:
    target = tmp_path / "k8s"
    write_manifests(manifests("baseline"), out=target)
    with pytest.raises(UsageError, match="there are manifests already: choose another --out, or --force"):
        write_manifests(manifests("baseline"), out=target)
    found = manifests(str(EXAMPLES / "chat/chat.bus.toml"))
    write_manifests(found, out=target, force=True)
    assert files_of(tmp_path) == {f"k8s/{path.as_posix()}" for path in found.files} | {f"k8s/{MARK}"}


def foreign(folder: Path) -> None:
    folder.mkdir()
    (folder / "ours.yaml").write_text("kind: Secret", "utf-8")


PLACES: list[tuple[Callable[[Path], object], str]] = [
    (foreign, "the folder holds what `buslab manifests` did not write"),
    (lambda path: path.write_text("x", "utf-8"), "is a file"),
    (lambda path: path.symlink_to("/nowhere/at/all"), "is a link that leads nowhere"),
]


@pytest.mark.parametrize(("make", "said"), PLACES)
def test_a_place_that_is_not_ours_is_left_alone_even_with_force(make: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    make(tmp_path / "k8s")
    before = files_of(tmp_path)
    with pytest.raises(UsageError, match=said):
        write_manifests(manifests("baseline"), out=tmp_path / "k8s", force=True)
    assert files_of(tmp_path) == before


def test_an_empty_folder_and_a_link_to_one_are_filled(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write_manifests(manifests("baseline"), out=tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "bus" / "music-service.yaml").is_file()


# -- the user's own files --------------------------------------------------------------------------------------------------


def test_code_and_locustfiles_come_along_with_what_they_import_and_the_scenario_runs_where_they_are_mounted(tmp_path: Path) -> None:
    found = manifests(
        str(EXAMPLES / "own-code/day.toml"), settings=("load.driver=locust", f"load.locustfile={EXAMPLES / 'own-code/shop_users.py'}")
    )
    by_name = {(one["kind"], one["metadata"]["name"]): one for objects in found.files.values() for one in objects}
    job, data = by_name["Job", "buslab-run"], by_name["ConfigMap", "buslab-run"]["data"]
    assert set(data) == {"day.toml", "shopcode.py", "shopfaults.py", "shopchecks.py", "shoponce.py", "shop_users.py"}
    (files,) = [one for one in job["spec"]["template"]["spec"]["volumes"] if one["name"] == "files"]
    for item in files["configMap"]["items"]:
        (tmp_path / item["path"]).write_text(data[item["key"]], "utf-8")
    assert str(Path.cwd()) not in data["day.toml"], "no path of this machine"
    done = command("check-scenario", tmp_path / "day.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "billing" in done.stdout
    locust = by_name["Job", "buslab-locust-master"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert locust[:2] == ["-f", "/etc/buslab/shop_users.py"]


def test_a_package_keeps_its_folders(tmp_path: Path) -> None:
    package = tmp_path / "mine" / "deep"
    package.mkdir(parents=True)
    (tmp_path / "mine" / "__init__.py").write_text("", "utf-8")
    (package / "__init__.py").write_text("", "utf-8")
    (package / "logic.py").write_text("import beside\n\nclass Hears:\n    handlers = {}\n", "utf-8")
    (tmp_path / "beside.py").write_text("import json\n", "utf-8")
    (tmp_path / "unused.py").write_text("", "utf-8")
    services = '[services.a]\nbehaviour = "mine.deep.logic:Hears"\nsubscribes = ["x"]\npublishes = ["x"]\n'
    (tmp_path / "one.toml").write_text(f"{services}[channels.x]\nrate_per_s = 1\npayload = 1\n", "utf-8")
    found = manifests(str(tmp_path / "one.toml"))
    (pod,) = [one for one in found.files[Path("bus/a.yaml")] if one["kind"] == "Deployment"]
    paths = {item["path"] for item in pod["spec"]["template"]["spec"]["volumes"][1]["configMap"]["items"]}
    assert paths == {"one.bus.toml", "mine/__init__.py", "mine/deep/__init__.py", "mine/deep/logic.py", "beside.py"}


def test_files_that_no_config_map_holds_are_refused(tmp_path: Path) -> None:
    users = tmp_path / "users.py"
    users.write_text(f"# {'x' * MOST_BYTES}\n", "utf-8")
    with pytest.raises(ScenarioError, match="a ConfigMap holds 1,000,000: build an image of your own"):
        manifests("baseline", settings=(f"load.locustfile={users}",))


# -- secrets ---------------------------------------------------------------------------------------------------------------

URLS = [
    f"redis://:{PASSWORD}@db:6379",
    f"rediss://user:{PASSWORD}@db",
    f"redis://:{PASSWORD}/with@slash@db:6379",
    f"see https://user:{PASSWORD}@example.test/x for more",
    f"tls://{PASSWORD}@scheduler:8786",
    f"https://example.test/hook?a=1&token={PASSWORD}",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("key", ["title", 'channels."order.created".payload.note', "bus.channel_prefix"])
def test_a_url_with_a_secret_is_refused_by_its_place_and_not_shown(url: str, key: str) -> None:
    with pytest.raises(ScenarioError, match="a URL with a user or a password does not go into a manifest") as refused:
        manifests(str(EXAMPLES / "shop/everyday.toml"), settings=(f'{key}="{url}"',))
    assert PASSWORD not in str(refused.value)
    assert str(refused.value).startswith(key.replace('"', "") + ": ")


def test_a_secret_in_code_is_refused_by_its_line(tmp_path: Path) -> None:
    users = tmp_path / "users.py"
    users.write_text(f'import redis\nr = redis.Redis.from_url("redis://:{PASSWORD}@db")\n', "utf-8")
    with pytest.raises(ScenarioError, match=r"users\.py, line 2: a URL with a user or a password") as refused:
        manifests("baseline", settings=(f"load.locustfile={users}",))
    assert PASSWORD not in str(refused.value)


def test_a_scheduler_that_is_there_is_used_and_one_with_a_secret_is_refused() -> None:
    found = manifests("baseline", settings=("hosts.kind=dask", "hosts.scheduler=tls://dask.example.test:8786"))
    text = one_text(found)
    assert "hosts.scheduler=tls://dask.example.test:8786" in text
    assert "buslab-dask" not in text, "no second cluster"
    with pytest.raises(BuslabError) as refused:
        manifests(
            "baseline",
            settings=(
                "hosts.kind=dask",
                f"hosts.scheduler=tls://u:{PASSWORD}@dask.example.test:8786",
            ),
        )
    assert PASSWORD not in str(refused.value)


def test_what_only_looks_like_a_secret_goes_in() -> None:
    urls = (
        "https://cdn.example.test/a/b.mp3?width=3",
        "https://medium.example.test/@someone",
        "redis://db:6379/0",
        "mail someone@example.test",
    )
    for url in urls:
        assert url in one_text(manifests("baseline", settings=(f'title="{url}"',)))


def test_no_variable_of_this_shell_gets_into_a_manifest(tmp_path: Path) -> None:
    secret = {name: f"redis://:{PASSWORD}@db" for name in ("REDIS_URL", "BUSLAB_ON")} | {"ADMIN_TOKEN": PASSWORD}
    done = buslab("baseline", "--out", str(tmp_path / "k8s"), HOME=str(tmp_path), **secret)
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / "k8s").rglob("*.yaml"):
        assert PASSWORD not in path.read_text("utf-8")
    assert PASSWORD not in done.stdout + done.stderr


# -- the command -----------------------------------------------------------------------------------------------------------


def test_the_command_writes_a_stream_for_kubectl_and_tells_beside_it_what_to_do() -> None:
    done = buslab("aiponge")
    assert done.returncode == 0, done.stderr
    assert {one["kind"] for one in yaml.safe_load_all(done.stdout)} == {"ConfigMap", "Deployment", "Service"}
    assert "note: make the Secret yourself" in done.stderr
    assert "kubectl create secret generic redis-credentials" in done.stderr


def test_only_some_folders_are_wanted(tmp_path: Path) -> None:
    assert {path.parts[0] for path in manifests("baseline", only=("redis", "lab")).files} == {"redis", "lab"}
    done = buslab("baseline", "--only", "redis")
    assert {one["metadata"]["name"] for one in yaml.safe_load_all(done.stdout)} == {"buslab-redis"}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("aiponge", "--only", "lab"), "--only lab: of this there are only bus, redis"),
        (("baselin",), "no scenario 'baselin' (did you mean 'baseline'?)"),
        (("nowhere.bus.toml",), "no bus 'nowhere.bus.toml'"),
        (("baseline", "--image", f"https://u:{PASSWORD}@registry/x"), "--image: this is no name of an image"),
        (("baseline", "--image", "Büro:1"), "--image: this is no name of an image"),
        (("baseline", "--set", "services={}", "--set", "load.mix={}"), "services"),
        (("baseline", "--out", "/proc/nowhere/k8s"), "cannot write /proc/nowhere/k8s: No such file or directory"),
    ],
)
def test_what_is_wrong_is_one_line_and_2(args: tuple[str, ...], said: str) -> None:
    done = buslab(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert PASSWORD not in done.stderr


def test_the_scenario_of_the_job_is_the_scenario_and_loads_with_what_the_job_sets(tmp_path: Path) -> None:
    found = manifests("baseline")
    (data,) = [one["data"] for one in found.files[Path("lab/buslab-run.yaml")] if one["kind"] == "ConfigMap"]
    assert set(data) == {"baseline.toml"}
    (tmp_path / "baseline.toml").write_text(data["baseline.toml"], "utf-8")
    assert load_scenario(str(tmp_path / "baseline.toml")) == load_scenario("baseline")
    (job,) = [one for one in found.files[Path("lab/buslab-run.yaml")] if one["kind"] == "Job"]
    args = job["spec"]["template"]["spec"]["containers"][0]["args"]
    there = load_scenario(str(tmp_path / "baseline.toml"), settings=tuple(args[3:-1:2]))
    assert (there.hosts.kind, there.hosts.scheduler) == ("dask", "tcp://buslab-dask-scheduler:8786")
