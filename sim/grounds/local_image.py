"""A local image of the embedded server, for an engine that reaches no registry.

The image holds the server's binary and the libraries that it is linked with, and nothing else: no shell, no files of this machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import subprocess
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.errors import BrokerError
from sim.grounds.container_engine import asking, engine, local_image
from sim.grounds.server_binary import server_binary
from sim.machine.words import count

CONTENT_LABEL = "buslab.content"  # of the image: a digest of what went into it
BIN = "usr/local/bin"
LDD_TIMEOUT_S = 60.0
_ELF = b"\x7fELF"


@dataclass(frozen=True)
class BuiltImage:
    """The local image as it is now.

    Attributes
    ----------
    built
        False when the engine had the same content under this name already.
    """

    name: str
    size_bytes: int
    took_s: float
    built: bool


def build_image(*, tell: Callable[[str], None] = lambda text: None) -> BuiltImage:
    """Build the local image in this machine's engine, unless it is there.

    Raises
    ------
    BrokerError
        No engine, no permission, or a binary that no container can run.
    """
    began_s = time.monotonic()
    binary, name = server_binary(), local_image()
    libraries = linked_libraries(binary)
    tell(f"packing {binary.name} and {count(len(libraries), 'library', 'libraries')} that it is linked with")
    archive = pack(binary, libraries)
    content = hashlib.sha256(archive).hexdigest()
    changes = ["ENV PATH=/usr/local/bin", "WORKDIR /data", 'CMD ["valkey-server"]']
    size_bytes, built = import_archive(archive, name=name, content=content, changes=changes, tell=tell)
    return BuiltImage(name, size_bytes, time.monotonic() - began_s, built)


def import_archive(
    archive: bytes | Path, *, name: str, content: str, changes: Sequence[str], tell: Callable[[str], None]
) -> tuple[int, bool]:
    """Make an image of a tar, or of the file of one, unless the engine has it; return its size in bytes, and whether it was made.

    Parameters
    ----------
    content
        A digest of what is in it; an image of this name with another one is replaced.
    changes
        As of a Dockerfile.

    Raises
    ------
    BrokerError
        No engine, no permission, or the engine cannot.
    """
    from docker.errors import APIError, ImageNotFound

    with engine() as client, asking(f"cannot build the image {name}"):
        try:
            before = client.images.get(name)
        except ImageNotFound:
            before = None
        built = before is None or before.labels.get(CONTENT_LABEL) != content
        if built:
            size = len(archive) if isinstance(archive, bytes) else archive.stat().st_size
            tell(f"importing {size / 1e6:.1f} MB as {name}")
            repository, _, tag = name.partition(":")
            asked = {"repository": repository, "tag": tag, "changes": [f"LABEL {CONTENT_LABEL}={content}", *changes]}
            if isinstance(archive, bytes):
                client.api.import_image_from_data(archive, **asked)
            else:
                client.api.import_image_from_file(str(archive), **asked)
            if before is not None:  # nothing names it any more
                with contextlib.suppress(APIError):  # a container runs it
                    client.images.remove(before.id)
        return int(client.images.get(name).attrs["Size"]), built


def linked_libraries(*programs: Path) -> list[Path]:
    """Return the libraries that Linux programs and libraries are linked with, the loader included.

    Raises
    ------
    BrokerError
        The first is no Linux program, or a library is missing that it is linked with.
    """
    binary = programs[0]
    with binary.open("rb") as file:
        if file.read(len(_ELF)) != _ELF:
            raise BrokerError(f"{binary} is no Linux program, so no container can run it: name an official image with --image")
    try:
        said = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, timeout=LDD_TIMEOUT_S, check=False).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise BrokerError(f"ldd {binary}: {error}; name an official image with --image") from None
    own = said if len(programs) == 1 else re.split(r"^/\S.*:$", said, flags=re.MULTILINE)[1]
    if missing := re.findall(r"(\S+) => not found", own):
        raise BrokerError(f"{binary} is linked with {', '.join(missing)}, which this machine does not have; install it")
    found = [Path(path) for path in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", said, re.MULTILINE)]
    return list(dict.fromkeys(found))


def pack(binary: Path, libraries: list[Path]) -> bytes:
    """Return a tar of the image's files; the same files give the same bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, *, kind: bytes, mode: int = 0o755, data: bytes = b"", link: str = "") -> None:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(data), link
            tar.addfile(entry, io.BytesIO(data))

        add("data", kind=tarfile.DIRTYPE)
        add("tmp", kind=tarfile.DIRTYPE, mode=0o1777)
        add(f"{BIN}/valkey-server", kind=tarfile.REGTYPE, data=binary.read_bytes())
        add(f"{BIN}/redis-server", kind=tarfile.SYMTYPE, link="valkey-server")
        for library in libraries:
            add(str(library).lstrip("/"), kind=tarfile.REGTYPE, data=library.read_bytes())
    return out.getvalue()
