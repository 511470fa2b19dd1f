"""Look for connections of a program to the broker that go round its tap: what passes there is in no book.

The evidence is twofold: the broker's CLIENT LIST shows an address that is no connection of the lab's, and the kernel says that it is a
socket of the program, or of a child of it, whose other end is the broker. A broker that does not show its clients leaves the kernel's word.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import psutil

_ADDRESS = re.compile(rb"(?:^|\n)id=\d+ addr=\S*?:(\d+) ")
MOST_PROCESSES = 200  # of one program that are looked at


def ports_of_clients(listing: bytes) -> set[int]:
    """Return the ports of the clients in an answer to CLIENT LIST, as the broker sees them."""
    return {int(port) for port in _ADDRESS.findall(listing)}


def family_of(pid: int) -> list[int]:
    """Return a process and its children, theirs too, as far as the kernel shows them; empty when it is gone."""
    found: list[int] = []
    look = [pid]
    while look and len(found) < MOST_PROCESSES:
        one = look.pop()
        found.append(one)
        for file in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                look += map(int, file.read_text("ascii").split())
            except (OSError, ValueError):  # it is gone
                continue
    return found


def round_the_tap(pid: int, *, broker_ports: Collection[int], clients: Collection[int] | None) -> list[str]:
    """Return the connections of a program to the broker, as ``HOST:PORT`` of its own end.

    Parameters
    ----------
    pid
        Of the program; its children are looked at too.
    broker_ports
        The ports of the broker on this machine.
    clients
        The ports of the broker's clients (`ports_of_clients`); None where it does not show them.
    """
    found = []
    for one in family_of(pid):
        try:
            sockets = psutil.Process(one).net_connections(kind="tcp")
        except (psutil.Error, OSError):
            continue
        for socket in sockets:
            if socket.raddr and socket.raddr.port in broker_ports and (clients is None or socket.laddr.port in clients):
                found.append(f"{socket.laddr.ip}:{socket.laddr.port}")
    return found
