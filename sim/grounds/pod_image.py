"""A local image of `buslab pod`, for an engine that reaches no registry: this interpreter, this code, and the packages that they need.

Rules
-----
1. What a pod needs is asked, not listed: a process of its own imports it and says which packages came along, and which others the modules
   of ours that it loaded would import later. With them come what they require, and packages that bring behaviours or recipes.
2. Files keep their times, so that what Python has compiled here is used there: nothing can be compiled in a root that cannot be written.
3. The image runs as no root, holds no shell, and nothing of this machine but the interpreter, packages, the libraries that these are linked
   with and the list of certificates that are trusted here.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import ssl
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution, entry_points, packages_distributions
from io import BytesIO
from pathlib import Path

from sim.errors import BrokerError, UsageError
from sim.grounds.container_engine import POD_REPOSITORY
from sim.grounds.local_image import BuiltImage, import_archive, linked_libraries
from sim.machine.import_path import child_environment
from sim.machine.user_code import GROUPS
from sim.machine.words import count

CODE_LABEL = "buslab.code"  # of the image: a digest of this package as it went in
USER = 10_001
PACKAGES = "opt/buslab/lib"
BIN = "usr/local/bin"
PROBE_TIMEOUT_S = 60.0
_PACKAGE = Path(__file__).parents[1]
_LEFT_OUT = {"test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages", "dist-packages", "__pycache__"}
_NO_USE = re.compile(r"\.(a|h|hpp|pxd|pyx|pyi|pyc|lib|cpp|cc)$")
_COMPILED = re.compile(r"\.pyc$")
_PROBE = """
import json, sys
import sim.cli.main, sim.cli.commands.pod, sim.pods.standalone, sim.pods.hosts.container_child
mine = [module.__file__ for name, module in sys.modules.items() if name.startswith("sim.") and not name.startswith("sim.cli.commands")]
json.dump({"loaded": sorted({name.partition(".")[0] for name in sys.modules}), "mine": [file for file in mine if file]}, sys.stdout)
"""


def pod_image() -> str:
    """Return the name of the image that `buslab image --pods` builds."""
    from sim import __version__

    return f"{POD_REPOSITORY}:{__version__}"


def code_digest() -> str:
    """Return a digest of the code of this package: an image with another one runs something else than what is here."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(_PACKAGE)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def build_pod_image(*, packages: Sequence[str] = (), tell: Callable[[str], None] = lambda text: None) -> BuiltImage:
    """Build the image in this machine's engine, unless it is there.

    Parameters
    ----------
    packages
        Installed packages that code of the user's needs, beside those that a pod does.

    Raises
    ------
    BrokerError
        No engine, no permission, or an interpreter that no container can run.
    UsageError
        A package is not installed.
    """
    began_s = time.monotonic()
    interpreter = Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))
    needed = _with_required([*_needed(), *_bringing(), *packages])
    files = {**_interpreter_files(interpreter), **_package_files(needed)}
    libraries = linked_libraries(interpreter, *(path for path in files.values() if _is_library(path)))
    inside = {os.path.realpath(path) for path in files.values()}
    files |= {str(path).lstrip("/"): path for path in libraries if os.path.realpath(path) not in inside}
    tell(f"packing Python {sys.version.split()[0]}, {count(len(needed), 'package')} and {count(len(libraries), 'library', 'libraries')}")
    with tempfile.TemporaryDirectory(prefix="buslab-image-") as folder:
        archive = Path(folder) / "pod.tar"
        content = _pack(archive, files, interpreter)
        changes = [
            f"LABEL {CODE_LABEL}={code_digest()}",
            f"ENV PATH=/{BIN}",
            f"ENV PYTHONPATH=/{PACKAGES}",
            "ENV PYTHONDONTWRITEBYTECODE=1",
            "ENV LANG=C.UTF-8",
            "ENV HOME=/tmp",
            f"USER {USER}:{USER}",
            "WORKDIR /tmp",
            "EXPOSE 3000",
            'CMD ["buslab", "pod", "--help"]',
        ]
        size_bytes, built = import_archive(archive, name=pod_image(), content=content, changes=changes, tell=tell)
    return BuiltImage(pod_image(), size_bytes, time.monotonic() - began_s, built)


# -- which packages ------------------------------------------------------------------------------------------------


def _needed() -> set[str]:
    """Return the packages that a pod imports, now or later."""
    argv = [sys.executable, "-P", "-c", _PROBE]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, env=child_environment(), check=True)
    except subprocess.CalledProcessError as error:
        raise BrokerError(f"cannot see what a pod needs: {error.stderr.strip().splitlines()[-1:]}") from None
    except subprocess.SubprocessError as error:
        raise BrokerError(f"cannot see what a pod needs: {error}") from None
    said = json.loads(done.stdout)
    names = {*said["loaded"]}.union(*(_imports(Path(file)) for file in said["mine"]))
    known = packages_distributions()
    return {package for name in names for package in known.get(name, ()) if name != "sim"}


def _imports(path: Path) -> set[str]:
    """Return the names at the top of what a module imports, wherever in it that stands."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    names = {one.name for node in nodes if isinstance(node, ast.Import) for one in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in names}


def _bringing() -> set[str]:
    """Return the installed packages that bring behaviours, recipes or faults of the user's."""
    return {one.dist.name for group in GROUPS.values() for one in entry_points(group=group) if one.dist is not None}


def _with_required(names: Iterable[str]) -> list[str]:
    """Return packages with what they require, as far as that is installed.

    Raises
    ------
    UsageError
        One of those that are named is not installed.
    """
    named, found, waiting = set(names), dict[str, None](), sorted(names)
    while waiting:
        name = waiting.pop(0)
        try:
            about = distribution(name)
        except PackageNotFoundError:
            if name in named:
                raise UsageError(f"--package {name}: it is not installed here") from None
            continue  # required elsewhere, on another system or by another Python
        if about.name not in found and about.name != "buslab":
            found[about.name] = None
            waiting += [re.split(r"[^A-Za-z0-9._-]", one)[0] for one in about.requires or () if "extra ==" not in one]
    return list(found)


# -- which files ---------------------------------------------------------------------------------------------------


def _interpreter_files(interpreter: Path) -> dict[str, Path]:
    """Return the interpreter and its library, by their paths in the image, which are those here: it knows no others."""
    files = {str(interpreter).lstrip("/"): interpreter}
    for folder in {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib")}:
        base = Path(folder)
        # The folder config-… has the static library that programs are linked with which hold an interpreter.
        files |= {
            str(path).lstrip("/"): path
            for path in _files_below(base, left_out=_LEFT_OUT)
            if not path.relative_to(base).parts[0].startswith("config-")
        }
    trusted = ssl.get_default_verify_paths().cafile
    return files | ({} if trusted is None else {trusted.lstrip("/"): Path(os.path.realpath(trusted))})


def _package_files(names: Iterable[str]) -> dict[str, Path]:
    """Return the files of packages, and of this one, by their paths in the image."""
    files = dict[str, Path]()
    for path in _files_below(_PACKAGE, left_out={"__pycache__"}, no_use=_COMPILED):
        files[f"{PACKAGES}/sim/{path.relative_to(_PACKAGE)}"] = path
    for name in names:
        for file in distribution(name).files or ():
            if ".." in file.parts or _LEFT_OUT & {*file.parts} or _NO_USE.search(file.name) or "include" in file.parts:
                continue
            path = Path(str(file.locate()))
            if path.is_file():
                files |= {f"{PACKAGES}/{inside}": there for inside, there in _with_compiled(Path(str(file)), path)}
    return files


def _files_below(folder: Path, *, left_out: set[str], no_use: re.Pattern[str] = _NO_USE) -> Iterator[Path]:
    for at, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - left_out)
        for name in sorted(names):
            path = Path(at, name)
            if not no_use.search(name) and path.is_file():
                yield path
                yield from (there for _, there in _with_compiled(path, path) if there != path)


def _with_compiled(inside: Path, path: Path) -> Iterator[tuple[Path, Path]]:
    """Yield a file, and what Python has compiled of it, if it has."""
    yield inside, path
    if path.suffix == ".py":
        compiled = Path("__pycache__") / f"{path.stem}.{sys.implementation.cache_tag}.pyc"
        if (path.parent / compiled).is_file():
            yield inside.parent / compiled, path.parent / compiled


def _is_library(path: Path) -> bool:
    return path.suffix == ".so" or ".so." in path.name


# -- the archive ---------------------------------------------------------------------------------------------------


def _pack(archive: Path, files: dict[str, Path], interpreter: Path) -> str:
    """Write the tar of the image and return a digest of what is in it."""
    texts = {
        f"{BIN}/buslab": f"#!{interpreter}\nfrom sim.cli.__main__ import main\n\nmain()\n",
        "etc/passwd": f"root:x:0:0:root:/:/none\nbuslab:x:{USER}:{USER}:buslab:/tmp:/none\n",
        "etc/group": f"root:x:0:\nbuslab:x:{USER}:\n",
    }
    digest = hashlib.sha256()
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, *, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, data: bytes = b"", link: str = "", at_s: int = 0) -> None:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.size, entry.linkname, entry.mtime = kind, mode, len(data), link, at_s
            digest.update(f"{name}\0{mode}\0{link}\0{at_s}\0{len(data)}\0".encode() + data)
            tar.addfile(entry, BytesIO(data))

        links = {f"{BIN}/{name}": f"/{str(interpreter).lstrip('/')}" for name in ("python", "python3")}
        links = {name: link for name, link in links.items() if name not in files}
        folders = {str(parent) for name in (*files, *texts, *links) for parent in Path(name).parents} - {"."}
        for folder in sorted(folders - {"tmp"}):
            add(folder, kind=tarfile.DIRTYPE, mode=0o755)
        add("tmp", kind=tarfile.DIRTYPE, mode=0o1777)
        for name, text in texts.items():
            add(name, mode=0o755 if name.startswith(BIN) else 0o644, data=text.encode())
        for name, link in links.items():
            add(name, kind=tarfile.SYMTYPE, mode=0o777, link=link)
        for name, path in sorted(files.items()):
            about = path.stat()
            runs = bool(about.st_mode & 0o100) or _is_library(path)
            add(name, mode=0o755 if runs else 0o644, data=path.read_bytes(), at_s=int(about.st_mtime))
    return digest.hexdigest()
