"""What one AsyncAPI document says of its service: the channels that it sends on and hears, and what travels on them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import msgspec

from sim.bus.pointer import Pointer, find, parse_pointer
from sim.errors import DocumentError, did_you_mean
from sim.scenario.asyncapi.documents import Documents, Located
from sim.scenario.asyncapi.templates import Template, literal, make_template
from sim.scenario.problems import shown
from sim.scenario.settings import Bus, Channel, EnvelopeForm, Service

PROTOCOLS = ("redis", "rediss", "redis-secure", "valkey", "valkeys")
NO_PUBSUB = ("list", "lpop", "lpush", "rpop", "rpush", "blpop", "brpop", "xadd", "xread", "xreadgroup", "xgroup")  # of a Redis binding
ACTIONS = ("send", "receive")
BUS_TABLES: dict[str, type[Bus] | type[EnvelopeForm]] = {"bus": Bus, "envelope": EnvelopeForm}
PLAIN_PARTS = ("id", "type", "time", "source", "correlation", "version", "data")  # of a plain envelope
MAX_EXPANDED = 1000  # channels that the parameters of one address make
CHANNEL_KEYS = Channel.__struct_fields__
HANDLER_KEYS = ("handler_ms", "handler_cpu_ms")  # of a receive operation: how long the service takes for that channel
SERVICE_KEYS = ("service", *(name for name in Service.__struct_fields__ if name not in ("publishes", "subscribes")), "bus", "envelope")
_PARAMETER = re.compile(r"\{([^{}]*)\}")
_IN_PAYLOAD = re.compile(r"\$message\.payload#(/([^/~]|~[01])*)+$")
_JSON = re.compile(r"application/json\b|[\w.+-]+/([\w.-]+\+)?json\b|text/json\b", re.I)
_SCHEMA_FORMATS = re.compile(r"application/(vnd\.aai\.asyncapi|schema|vnd\.oai\.openapi)\b", re.I)


@dataclass(frozen=True)
class ChannelUse:
    """One channel as one service uses it.

    Attributes
    ----------
    where
        The channel's place in its document.
    address
        The channel's name at the broker; of a pattern, the pattern.
    sends, hears
        Whether the service does so: the number of the first operation that says it, from 1; 0 where none does.
    settings
        What `x-buslab` says of it: keys of a bus file's channel; a `payload` that is None means that nothing is known of it.
    template
        What its message's schema became.
    correlation
        Where the message has its correlation id, as the document writes it.
    pattern
        What the names match that it means; None for one channel.
    handlers
        How long the service takes for an event of it: keys of a bus file's service.
    """

    where: Located
    address: str
    sends: int = 0
    hears: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    template: Template = field(default_factory=Template)
    correlation: str = ""
    pattern: re.Pattern[str] | None = None
    handlers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ServiceDocument:
    """One document: the name of its service, its settings, and its channels."""

    root: Located
    name: str
    settings: dict[str, Any]
    uses: list[ChannelUse]
    notes: list[str]


def bus_settings(documents: Documents, root: Located) -> dict[str, dict[str, Any]]:
    """Return what one document says of the whole bus: its tables `bus` and `envelope`.

    Raises
    ------
    DocumentError
        It is no AsyncAPI 3, or the settings are none of a bus.
    """
    settings = _buslab(documents, _root_fields(documents, root).get("x-buslab"), SERVICE_KEYS, "the document")
    found: dict[str, dict[str, Any]] = {}
    for table, kind in BUS_TABLES.items():
        said = settings.get(table, {})
        if not isinstance(said, dict) or set(said) - set(kind.__struct_fields__):
            known = ", ".join(kind.__struct_fields__)
            raise root.wrong(f"x-buslab.{table} = {shown(said)}: an object of settings of [{table}] in a bus file: {known}")
        found[table] = said
    return found


def read_service(documents: Documents, root: Located, *, envelope: dict[str, Any]) -> ServiceDocument:
    """Read one document.

    Parameters
    ----------
    envelope
        What the documents say of the bus' envelope.

    Raises
    ------
    DocumentError
        It is no AsyncAPI 3, says nothing that a bus could have, or says what a bus on Redis cannot have.
    """
    fields = _root_fields(documents, root)
    settings = _buslab(documents, fields.get("x-buslab"), SERVICE_KEYS, "the document")
    settings = {key: value for key, value in settings.items() if key not in BUS_TABLES}
    notes: list[str] = []
    name = settings.pop("service", None)
    if name is None:
        info = documents.fields(fields["info"]) if "info" in fields else {}
        title = info["title"].value if "title" in info else None
        if not isinstance(title, str) or not title.strip():
            wrong = "is missing" if title is None else f"= {shown(title)} is no text"
            raise root.wrong(f"info.title {wrong}: it is the service's name, unless x-buslab.service gives one")
        name = re.sub(r"[\s,/\\]+", "-", title.strip())
        if name != title:
            notes.append(f"{root.home.name}: the service of {shown(title)} is called {name}: x-buslab.service gives another name")
    if not isinstance(name, str):
        raise root.wrong(f"x-buslab.service = {shown(name)}: a name is text")
    reader = _Channels(documents, root, fields, envelope)
    return ServiceDocument(root, name, settings, reader.uses(), notes + reader.notes)


def _root_fields(documents: Documents, root: Located) -> dict[str, Located]:
    if not isinstance(root.value, dict):
        raise root.wrong("it holds no AsyncAPI document, which is an object with asyncapi: 3.0.0")
    fields = documents.fields(root)
    if "asyncapi" not in fields:
        other = next((key for key in ("openapi", "swagger") if key in fields), "")
        what = f"it is a document of {other}, not AsyncAPI" if other else "asyncapi is missing"
        raise root.wrong(f"{what}: give a document with asyncapi: 3.0.0")
    version = str(fields["asyncapi"].value)
    if re.match(r"[12](\.|$)", version):
        name = root.home.path.name
        new = re.sub(r"(\.\w+)?$", r".v3\1", name, count=1)
        command = f"npx @asyncapi/cli convert {name} --output {new} --target-version 3.0.0"
        raise root.wrong(f"it is AsyncAPI {version}, and 3 is read: convert it by `{command}`")
    if not re.match(r"3(\.|$)", version):
        raise root.wrong(f"asyncapi: {shown(version)} is not read: 3.0 and 3.1 are")
    return fields


def _buslab(documents: Documents, place: Located | None, known: tuple[str, ...], what: str) -> dict[str, Any]:
    """Return the settings of one `x-buslab`; an unknown key is refused."""
    if place is None:
        return {}
    fields = documents.fields(place)
    for key in fields:
        if key not in known:
            other = CHANNEL_KEYS if known is SERVICE_KEYS else SERVICE_KEYS
            there = "a channel, a message or a send operation" if other is CHANNEL_KEYS else "the document"
            hint = f": it belongs to the x-buslab of {there}" if key in other else did_you_mean(key, known)
            raise place.wrong(f"{shown(key)} is no setting of {what}{hint}; known: {', '.join(known)}")
    values = {key: documents.follow(one).value for key, one in fields.items()}
    return {key: value for key, value in values.items() if value is not None or key == "payload"}


_Roles = dict[str, list[tuple[int, list[Located]]]]  # of one channel: action -> the numbers of its operations and their messages


class _Channels:
    """The channels of one document, from its operations and their messages."""

    def __init__(self, documents: Documents, root: Located, fields: dict[str, Located], envelope: dict[str, Any]) -> None:
        self._documents = documents
        self._root = root
        self._fields = fields
        self._envelope = envelope if envelope.get("kind") == "plain" else {}
        self.notes: list[str] = []
        self._default_type = fields["defaultContentType"].value if "defaultContentType" in fields else None

    def uses(self) -> list[ChannelUse]:
        """Return each channel with what the service does with it."""
        channels = self._named("channels")
        if not channels:
            raise self._root.wrong("it has no channels: there is nothing to import")
        self._check_protocol(channels)
        roles: dict[str, _Roles] = {name: {action: [] for action in ACTIONS} for name in channels}
        settings: dict[str, list[tuple[Located, dict[str, Any]]]] = {name: [] for name in channels}
        places = {self._documents.follow(channel).key: name for name, channel in channels.items()}
        for number, operation in enumerate(self._named("operations").values(), 1):
            for name, action, messages, said in self._operation(operation, places):
                roles[name][action].append((number, messages))
                settings[name].append((operation, said))
        if not any(some for role in roles.values() for some in role.values()):
            raise self._root.wrong("it has no operations: say what the service sends and receives")
        return [use for name, channel in channels.items() for use in self._uses(channel, roles[name], settings[name])]

    def _named(self, key: str) -> dict[str, Located]:
        return self._documents.fields(self._fields[key]) if key in self._fields and self._fields[key].value is not None else {}

    def _check_protocol(self, channels: dict[str, Located]) -> None:
        """Refuse a document of another broker; one that has a Redis too is read, without the channels that are not on it."""
        servers = {name: self._documents.fields(one) for name, one in self._named("servers").items()}
        protocols = {name: str(one["protocol"].value).lower() if "protocol" in one else "" for name, one in servers.items()}
        ours = [name for name, protocol in protocols.items() if protocol in PROTOCOLS]
        hint = "buslab plays a bus on Redis Pub/Sub: to try these channels there, take servers and bindings out of the document"
        if servers and not ours:
            name, protocol = next(iter(protocols.items()))
            raise self._root.wrong(f"servers.{name} is of {shown(protocol)}, not of redis; {hint}")
        for name, channel in list(channels.items()):
            fields = self._documents.fields(channel)
            bindings = list(self._documents.fields(fields["bindings"])) if "bindings" in fields else []
            foreign = [one for one in bindings if one not in ("redis", "valkey") and not one.startswith("x-")]
            if foreign and not ours and "redis" not in bindings:
                raise channel.wrong(f"its binding is of {foreign[0]}, not of redis; {hint}")
            at = [self._documents.follow(one).pointer.rpartition("/")[2] for one in self._listed(fields.get("servers"))]
            if at and not set(at) & set(ours):
                self.notes.append(f"{channel.where} is on no Redis, and is left out")
                del channels[name]

    def _listed(self, place: Located | None) -> list[Located]:
        if place is None or place.value is None:
            return []
        if not isinstance(place.value, list):
            raise place.wrong(f"{shown(place.value)} stands where a list belongs")
        return list(place.items())

    def _operation(
        self, operation: Located, places: dict[tuple[int, str], str]
    ) -> Iterator[tuple[str, str, list[Located], dict[str, Any]]]:
        """Yield the channel of an operation, what is done with it and its messages; then the same of its reply."""
        fields = self._with_traits(operation)
        action = fields["action"].value if "action" in fields else None
        if action not in ACTIONS:
            old = ": publish and subscribe are of AsyncAPI 2" if action in ("publish", "subscribe") else ""
            raise operation.wrong(f"action: {shown(action)} is neither send nor receive{old}")
        name = self._channel_of(operation, fields, places)
        if name:
            known = CHANNEL_KEYS if action == "send" else (*CHANNEL_KEYS, *HANDLER_KEYS)
            said = _buslab(self._documents, fields.get("x-buslab"), known, f"a {action} operation")
            yield name, action, self._listed(fields.get("messages")), said
        if "reply" not in fields or not name:
            return
        reply = self._documents.fields(fields["reply"])
        if "channel" not in reply:
            raise fields["reply"].wrong(
                "where the reply goes is known at run time only: give it a channel with an address, or leave it out"
            )
        back = self._channel_of(fields["reply"], reply, places)
        if back:
            yield back, "receive" if action == "send" else "send", self._listed(reply.get("messages")), {}

    def _channel_of(self, place: Located, fields: dict[str, Located], places: dict[tuple[int, str], str]) -> str:
        """Return the name of the channel that an operation means; empty for one that was left out."""
        if "channel" not in fields:
            raise place.wrong("channel is missing: an operation is of one")
        target = self._documents.follow(fields["channel"])
        if target.key in places:
            return places[target.key]
        if target.pointer.startswith("#/channels/") and target.home is self._root.home:
            return ""
        raise place.wrong(f"channel: {target.where} is none of the document's channels: add it there")

    def _with_traits(self, place: Located) -> dict[str, Located]:
        """Return the fields of an operation or a message with those of its traits, which count less, the later ones more."""
        own = self._documents.fields(place)
        whole: dict[str, Located] = {}
        for trait in self._listed(own.get("traits")):
            whole |= self._documents.fields(trait)
        return whole | own

    def _uses(self, channel: Located, roles: _Roles, settings: list[tuple[Located, dict[str, Any]]]) -> Iterator[ChannelUse]:
        fields = self._documents.fields(channel)
        messages = list(self._documents.fields(fields["messages"]).values()) if "messages" in fields else []
        message = self._sent_message(channel, roles, messages)
        said = [(channel, _buslab(self._documents, fields.get("x-buslab"), CHANNEL_KEYS, "a channel")), *settings]
        template, correlation = Template(), ""
        if message is not None:
            parts = self._with_traits(message)
            said.append((message, _buslab(self._documents, parts.get("x-buslab"), CHANNEL_KEYS, "a message")))
            correlation = self._correlation(parts)
            if not any("payload" in some for _, some in said):
                template = self._template(message, parts)
                self.notes += [f"{message.where}: {note}" for note in template.notes]
                if not self._envelope and not template.envelope:
                    _add_correlation(template, correlation)
        sends, hears = (roles[action][0][0] if roles[action] else 0 for action in ACTIONS)
        joined = _joined(said)
        handlers = {key: joined.pop(key) for key in HANDLER_KEYS if key in joined}
        use = ChannelUse(channel, "", sends, hears, joined, template, correlation, handlers=handlers)
        yield from self._addressed(use, fields)

    def _sent_message(self, channel: Located, roles: _Roles, messages: list[Located]) -> Located | None:
        """Return the message whose schema the payload is made from: the first that is sent, else the first that is received."""
        named = [some for action in ACTIONS for _, some in roles[action] if some]
        found = named[0] if named else messages
        if len(found) > 1:
            first = found[0].pointer.rpartition("/")[2] if found is messages else found[0].value.get("$ref", "").rpartition("/")[2]
            self.notes.append(f"{channel.where} has {len(found)} messages: the first, {first}, is made")
        return found[0] if found else None

    def _correlation(self, parts: dict[str, Located]) -> str:
        if "correlationId" not in parts:
            return ""
        fields = self._documents.fields(parts["correlationId"])
        location = fields["location"].value if "location" in fields else None
        if not isinstance(location, str) or not re.match(r"\$message\.(header|payload)#", location):
            raise parts["correlationId"].wrong(f"location: {shown(location)}: write $message.header#/… or $message.payload#/…")
        return location

    def _template(self, message: Located, parts: dict[str, Located]) -> Template:
        kind = parts["contentType"].value if "contentType" in parts else self._default_type
        if kind is not None and not (isinstance(kind, str) and _JSON.match(kind)):
            raise message.wrong(f"contentType: {shown(kind)} is not JSON: give its x-buslab a payload, such as 900 bytes")
        payload = parts.get("payload")
        if payload is not None and payload.value is not None:
            target = self._documents.follow(payload)
            if isinstance(target.value, dict) and "schemaFormat" in target.value:
                if not _SCHEMA_FORMATS.match(str(target.value["schemaFormat"])):
                    what = f"schemaFormat: {shown(target.value['schemaFormat'])} is not JSON Schema"
                    raise message.wrong(f"{what}: give its x-buslab a payload, such as 900 bytes")
                payload = target.child("schema") if "schema" in target.value else target
            made = make_template(self._documents, payload, whole=bool(self._envelope))
            if self._envelope and made.value is not None:
                made = _unwrapped(made, self._envelope)
            if made.envelope or made.value is not None:
                return made
        for example in self._listed(parts.get("examples")):
            one = self._documents.fields(example).get("payload")
            if one is not None and isinstance(one.value, dict):
                return Template(literal(one.value))
        return Template()

    def _addressed(self, use: ChannelUse, fields: dict[str, Located]) -> Iterator[ChannelUse]:
        """Yield the channel once for each address that it means."""
        address = fields["address"].value if "address" in fields else None
        if not isinstance(address, str) or not address:
            raise use.where.wrong(f"address: {shown(address)}: without one, nobody knows the channel's name at the broker: give it")
        method = self._method(fields)
        if method in NO_PUBSUB:
            raise use.where.wrong(f"bindings.redis.method: {method} is of a list or a stream, not of Pub/Sub: leave the channel out")
        names = list(dict.fromkeys(_PARAMETER.findall(address)))
        parameters = self._documents.fields(fields["parameters"]) if "parameters" in fields else {}
        values = [self._values(parameters.get(name)) for name in names]
        glob = method == "psubscribe" and re.search(r"[*?]", address) is not None
        if glob or not all(values):
            name = next((name for name, some in zip(names, values, strict=True) if not some), "")
            why = f"parameter {shown(name)} has no enum, default or examples" if name else f"{address} is a pattern"
            if use.sends or not use.hears:
                raise use.where.wrong(f"{why}: which channels there are is not known; name them by enum")
            yield replace(use, address=address, pattern=_matching(address, glob=glob))
            return
        many = 1
        for some in values:
            many *= len(some)
        if many > MAX_EXPANDED:
            raise use.where.wrong(f"its parameters make {many:,} channels of it: {MAX_EXPANDED:,} are the most")
        for chosen in product(*values):
            yield self._expanded(use, address, dict(zip(names, chosen, strict=True)), parameters, many)

    def _method(self, fields: dict[str, Located]) -> str:
        bindings = self._documents.fields(fields["bindings"]) if "bindings" in fields else {}
        redis = self._documents.fields(bindings["redis"]) if "redis" in bindings and bindings["redis"].value is not None else {}
        return str(redis["method"].value).lower() if "method" in redis else ""

    def _values(self, parameter: Located | None) -> list[str]:
        fields = self._documents.fields(parameter) if parameter is not None and parameter.value is not None else {}
        for key in ("enum", "default", "examples"):
            if key in fields:
                value = fields[key].value
                values = value if isinstance(value, list) else [value]
                return [str(one) for one in dict.fromkeys(values) if isinstance(one, str | int)]
        return []

    def _expanded(self, use: ChannelUse, address: str, chosen: dict[str, str], parameters: dict[str, Located], many: int) -> ChannelUse:
        """Return one of the channels of an address with parameters: its share of the rate, each value where it stands in the payload."""
        settings, template = dict(use.settings), use.template
        if many > 1 and isinstance(settings.get("rate_per_s"), int | float):
            settings["rate_per_s"] /= many
        for name, value in chosen.items():
            fields = self._documents.fields(parameters[name])
            location = fields["location"].value if "location" in fields else None
            if isinstance(location, str) and _IN_PAYLOAD.match(location) and template.value is not None:
                pointer = parse_pointer(location.partition("#")[2].removeprefix("/data" if template.envelope else ""))
                template = replace(template, value=_with_value(template.value, pointer, literal(value)))
        return replace(use, address=_PARAMETER.sub(lambda found: chosen[found[1]], address), settings=settings, template=template)


def _matching(address: str, *, glob: bool) -> re.Pattern[str]:
    parts = re.split(r"(\{[^{}]*\})", address)
    plain = [re.escape(one).replace(r"\*", ".*").replace(r"\?", ".") if glob else re.escape(one) for one in parts]
    return re.compile("".join(".+" if one.startswith("{") else text for one, text in zip(parts, plain, strict=True)))


def _joined(said: list[tuple[Located, dict[str, Any]]]) -> dict[str, Any]:
    """Return the settings of several `x-buslab` of one channel as one; the same key with two values is refused."""
    whole: dict[str, Any] = {}
    for place, settings in said:
        for key, value in settings.items():
            if key in whole and whole[key] != value:
                raise place.wrong(f"x-buslab.{key} = {shown(value)}, and {shown(whole[key])} elsewhere for this channel: say it once")
            whole[key] = value
    return whole


def _add_correlation(template: Template, location: str) -> None:
    """Give a payload the correlation id that its schema does not mention."""
    where, _, pointer = location.partition("#")
    part = pointer.removeprefix("/")
    if where == "$message.payload" and template.value is not None and part and "/" not in part:
        template.value.setdefault(part, "{uuid()}")


def _unwrapped(template: Template, envelope: dict[str, Any]) -> Template:
    """Return what an event in a plain envelope carries, from the template of the whole event."""
    said = {name: envelope.get(name, "" if name in ("correlation", "version") else f"/{name}") for name in PLAIN_PARTS}
    try:
        at = {name: parse_pointer(text) for name, text in said.items() if isinstance(text, str)}
    except ValueError:
        return template  # the bus file with this envelope is refused
    data, value = at.pop("data", ()), template.value or {}
    if not data:
        for pointer in at.values():
            value = _without(value, pointer)
        return replace(template, value=value, optional=set())
    optional = {one.removeprefix(said["data"]) for one in template.optional if one.startswith(f"{said['data']}/")}
    found = find(data, value)
    return replace(template, value=found if isinstance(found, dict) else None, optional=optional)


def _without(tree: dict[str, Any], pointer: Pointer) -> dict[str, Any]:
    """Return a template without what stands at a pointer, and without an object that held nothing else."""
    if not pointer or pointer[0] not in tree:
        return tree
    name, below = pointer[0], tree[pointer[0]]
    if len(pointer) > 1 and isinstance(below, dict) and (rest := _without(below, pointer[1:])):
        return tree | {name: rest}
    return {key: value for key, value in tree.items() if key != name}


def _with_value(template: dict[str, Any], pointer: Pointer, value: Any) -> dict[str, Any]:
    """Return a template in which a value stands where a pointer leads; what is no object on the way stays as it is."""
    if len(pointer) == 1:
        return template | {pointer[0]: value}
    below = template.get(pointer[0]) if pointer else None
    return template | {pointer[0]: _with_value(below, pointer[1:], value)} if isinstance(below, dict) else template


def check_settings(place: Located, key: str, settings: dict[str, Any], kind: type[Channel] | type[Service]) -> None:
    """Refuse settings of `x-buslab` that a bus file would refuse.

    Raises
    ------
    DocumentError
        A value is of another type or out of bounds.
    """
    try:
        msgspec.convert({name: value for name, value in settings.items() if name in kind.__struct_fields__}, kind)
    except msgspec.ValidationError as error:
        what, _, at = str(error).partition(" - at `$.")
        name = at.rstrip("`")
        raise DocumentError(f"{place.where}: x-buslab.{name or key} = {shown(settings.get(name))}: {what[0].lower()}{what[1:]}") from None
