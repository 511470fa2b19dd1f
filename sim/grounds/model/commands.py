"""The commands of the model's Redis that touch keys, clients and settings, and how replies are written.

A command is a function of (server, client, words) that returns its reply: bytes (a bulk string), an int, a str (a status), a list,
`NIL`, or None when it has replied itself. To add one, write the function and list it in `MODEL_COMMANDS`.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from functools import lru_cache

from sim.bus.once import DELETE_IF_MINE
from sim.faults.server_commands import SPIN
from sim.grounds.model.costs import Costs
from sim.grounds.model.server import Client, Command, ModelRedis
from sim.machine.clock import NS_PER_MS, NS_PER_S, wall_offset_ns
from sim.wire.resp import NIL, Error, Reply, encode

VERSION = "model"
MAX_LISTINGS = 8  # kept answers to CLIENT LIST, each with other filters
# What CLIENT PAUSE with WRITE holds back: commands that change keys, and PUBLISH, since a replica would be told of it.
WRITES = frozenset(("DEL", "EVAL", "FLUSHALL", "PUBLISH", "SET", "XACK", "XADD", "XAUTOCLAIM", "XGROUP", "XREADGROUP"))


def _auth(server: ModelRedis, client: Client, words: list[bytes]) -> Reply:
    if not server.password and len(words) == 2:
        return Error(
            "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?"
        )
    if words[1:-1] not in ([], [b"default"]) or (server.password and words[-1] != server.password):
        return Error("WRONGPASS invalid username-password pair or user is disabled.")
    client.let_in = True
    return "OK"


def _ping(server: ModelRedis, client: Client, words: list[bytes]) -> Reply:
    said = words[1] if len(words) > 1 else b""
    if client.channels:
        return [b"pong", said]
    return said or "PONG"


def _subscribe(server: ModelRedis, client: Client, words: list[bytes]) -> Reply:
    for channel in words[1:]:
        client.channels[channel] = None
        server.subscribers.setdefault(channel, {})[client] = None
        server.roster_changed()
        server.reply(client, encode([b"subscribe", channel, len(client.channels)]))
    return None


def _unsubscribe(server: ModelRedis, client: Client, words: list[bytes]) -> Reply:
    listed = words[1:] or list(client.channels)
    if not listed:
        server.reply(client, encode([b"unsubscribe", NIL, 0]))
    for channel in listed:
        client.channels.pop(channel, None)
        server.subscribers.get(channel, {}).pop(client, None)
        server.roster_changed()
        server.reply(client, encode([b"unsubscribe", channel, len(client.channels)]))
    return None


def _pubsub(server: ModelRedis, client: Client, words: list[bytes]) -> Reply:
    what = words[1].upper()
    if what == b"NUMSUB":
        return [word for channel in words[2:] for word in (channel, len(server.subscribers.get(channel, ())))]
    if what == b"CHANNELS":
        pattern = words[2] if len(words) > 2 else b"*"
        return [channel for channel, heard_by in server.subscribers.items() if heard_by and fnmatchcase(channel, pattern)]
    return Error(f"ERR unknown subcommand '{what.decode('latin-1')}'")


def _client(server: ModelRedis, client: Client, words: list[bytes]) -> Reply:
    what = words[1].upper()
    if what == b"SETNAME":
        client.name = words[2].decode()
        server.roster_changed()
        return "OK"
    if what == b"ID":
        return client.id
    if what == b"LIST":
        return _listing(server, words[2:])
    if what == b"KILL":
        killed = [one for one in _chosen(server, words[2:]) if one is not client]
        for one in killed:
            server.cut(one)
        return len(killed)
    if what == b"PAUSE":
        server.pause(int(words[2]) * 1_000_000, only=WRITES if words[3:] and words[3].upper() == b"WRITE" else None)
        return "OK"
    if what == b"UNPAUSE":
        server.unpause()
        return "OK"
    if what in (b"SETINFO", b"NO-EVICT", b"NO-TOUCH"):
        return "OK"
    return Error(f"ERR unknown subcommand '{what.decode('latin-1')}'")


def _chosen(server: ModelRedis, filters: list[bytes]) -> list[Client]:
    chosen = list(server.clients.values())
    for key, value in zip(filters[::2], filters[1::2], strict=False):
        key, value = key.upper(), value.lower()
        if key == b"TYPE":
            chosen = [one for one in chosen if bool(one.channels) == (value == b"pubsub")]
        elif key == b"ID":
            chosen = [one for one in chosen if one.id == int(value)]
    return chosen


def _listing(server: ModelRedis, filters: list[bytes]) -> bytes:
    """Return the lines of CLIENT LIST. A run asks for them again and again, and of thousands of clients hardly one has changed."""
    lines = server.listings.get(tuple(filters))
    if lines is None:
        lines = {one: _client_line(one, 0) for one in _chosen(server, filters)}
        if len(server.listings) < MAX_LISTINGS:
            server.listings[tuple(filters)] = lines
    waiting = {one: _client_line(one, one.buffered_bytes) for one in server.waiting() if one in lines}
    return b"".join((lines | waiting if waiting else lines).values())


def _client_line(client: Client, omem: int) -> bytes:
    channels = len(client.channels)
    return f"id={client.id} addr=127.0.0.1:{50_000 + client.id} name={client.name} sub={channels} oll=0 omem={omem} cmd=NULL\n".encode()


@lru_cache(maxsize=8)
def _said(costs: Costs) -> str:
    return "; ".join(f"{name}={cost:.6g}" for name, cost in asdict(costs).items())


def _info(server: ModelRedis, client: Client, words: list[bytes]) -> Reply:
    stats = server.stats
    fields = {
        "redis_version": VERSION,
        "model_costs": _said(server.costs),
        "process_id": 0,
        "connected_clients": len(server.clients),
        "pubsub_clients": server.hearing,
        "used_cpu_user": f"{server.busy_ns / NS_PER_S:.6f}",
        "used_cpu_sys": "0.000000",
        "total_commands_processed": stats["commands"],
        "total_net_input_bytes": stats["bytes_in"],
        "total_net_output_bytes": stats["bytes_out"],
        "client_output_buffer_limit_disconnections": stats["cuts"],
        "mem_clients_normal": server.buffered_bytes,
    }
    return "".join(f"{name}:{value}\r\n" for name, value in fields.items()).encode()


def _set(server: ModelRedis, client: Client, words: list[bytes]) -> Reply:
    key, value = words[1], words[2]
    options = [word.upper() for word in words[3:]]
    if b"NX" in options and server.keys.get(key) is not None:
        return NIL
    ttl_ns = 0
    wall_ns = server.loop.now_ns() + wall_offset_ns()
    for option, unit_ns, since_ns in ((b"EX", NS_PER_S, 0), (b"PX", NS_PER_MS, 0), (b"PXAT", NS_PER_MS, wall_ns)):
        if option in options:
            ttl_ns = int(options[options.index(option) + 1]) * unit_ns - since_ns
            if ttl_ns <= 0 and since_ns:  # a time that has passed: the key is gone as soon as it is set
                server.keys.delete(key)
                return "OK"
    server.keys.set(key, value, ttl_ns=ttl_ns)
    return "OK"


def _get(server: ModelRedis, client: Client, words: list[bytes]) -> Reply:
    value = server.keys.get(words[1])
    return NIL if value is None else value


def _del(server: ModelRedis, client: Client, words: list[bytes]) -> Reply:
    deleted = sum(server.keys.delete(key) for key in words[1:])
    server.serve_blocked(*words[1:])
    return deleted


def _eval(server: ModelRedis, client: Client, words: list[bytes]) -> Reply:
    if words[1].decode() == SPIN:
        server.spent_ns += int(words[3]) * 1_000_000
        return b"done"
    if words[1].decode() != DELETE_IF_MINE:
        return Error(f"ERR the model runs no script but the bus's own, not {hashlib.sha1(words[1]).hexdigest()}")
    return int(server.keys.get(words[3]) == words[4] and server.keys.delete(words[3]))


def _scan(server: ModelRedis, client: Client, words: list[bytes]) -> Reply:
    """Return every key that matches, in one go."""
    pattern = words[words.index(b"MATCH") + 1].decode() if b"MATCH" in words else "*"
    return [b"0", [key for key in server.keys.names() if fnmatchcase(key.decode("latin-1"), pattern)]]


def _config(server: ModelRedis, client: Client, words: list[bytes]) -> Reply:
    what, name = words[1].upper(), words[2].lower()
    settings = {
        b"client-output-buffer-limit": lambda: _limits(server),
        b"maxclients": lambda: b"%d" % server.max_clients,
        b"requirepass": lambda: server.password,
    }
    if what == b"GET":
        return [name, settings[name]()] if name in settings else []
    if what != b"SET" or name not in settings:
        return Error(f"ERR the model has no setting '{name.decode('latin-1')}'")
    value = words[3]
    if name == b"client-output-buffer-limit":
        limits = value.split()
        for kind, hard, soft, soft_s in zip(*(limits[place::4] for place in range(4)), strict=True):
            if kind == b"pubsub":  # the model knows no other
                server.limit = replace(server.limit, hard_bytes=int(hard), soft_bytes=int(soft), soft_s=int(soft_s))
    elif name == b"maxclients":
        server.max_clients = int(value)
    else:
        server.password = value
    return "OK"


def _limits(server: ModelRedis) -> bytes:
    limit = server.limit
    return b"normal 0 0 0 slave 268435456 67108864 60 pubsub %d %d %d" % (limit.hard_bytes, limit.soft_bytes, limit.soft_s)


def _flushall(server: ModelRedis, client: Client, words: list[bytes]) -> Reply:
    server.keys.clear()
    server.serve_blocked(*server.blocked)
    return "OK"


MODEL_COMMANDS: dict[str, Command] = {
    "AUTH": _auth,
    "CLIENT": _client,
    "CONFIG": _config,
    "DBSIZE": lambda server, client, words: len(server.keys),
    "DEL": _del,
    "EXISTS": lambda server, client, words: sum(server.keys.get(key) is not None for key in words[1:]),
    "EVAL": _eval,
    "FLUSHALL": _flushall,
    "GET": _get,
    "INFO": _info,
    "PING": _ping,
    "PUBSUB": _pubsub,
    "SCAN": _scan,
    "SET": _set,
    "SUBSCRIBE": _subscribe,
    "UNSUBSCRIBE": _unsubscribe,
}
