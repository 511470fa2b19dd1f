"""What to run: a TOML file as frozen structs. Where it runs is an argument, not part of it.

Unknown keys are refused with their path, values are checked with their bounds, and references between parts
(a service that nobody defines, a channel without a publisher) are checked before anything starts.
"""

from __future__ import annotations

import json
import re
import tomllib
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
import tomli_w
from msgspec import Meta

from sim.errors import ScenarioError, UsageError, did_you_mean
from sim.faults.catalogue import FAULTS
from sim.faults.own_faults import find_fault
from sim.record.limits import flat_limits, nested_limits
from sim.scenario.caches import Cache
from sim.scenario.client_settings import Ioredis
from sim.scenario.explore_bounds import Explore, bounds_problem
from sim.scenario.own_code import names_own_code, scenario_of
from sim.scenario.patterns import expand_patterns
from sim.scenario.problems import bus_problems, limit_name, problems, quoted, shown
from sim.scenario.program_problems import program_problems
from sim.scenario.replay import with_capture
from sim.scenario.run_settings import Hosts, Kubelet, Load, StepLimits
from sim.scenario.settings import REFERENCE_FILE, Bus, Channel, EnvelopeForm, Scenario, Service, reference_channels

__all__ = ["Scenario", "built_in", "check_tree", "load_bus", "load_scenario", "load_with_bounds", "to_toml"]

BUILT_IN = Path(__file__).parent / "built_in"
BUS_FILES = REFERENCE_FILE.parent
MAX_FILE_BYTES = 10_000_000  # 10,000 channels with a template each are two million
BUS_TABLES = ("channels", "envelope", "services", "bus")  # what a bus file may hold


def built_in() -> dict[str, Path]:
    """Return the built-in scenarios: name -> file."""
    return {path.stem: path for path in sorted(BUILT_IN.glob("*.toml"))}


def load_scenario(name: str, *, settings: tuple[str, ...] = ()) -> Scenario:
    """Read a built-in scenario or a file, change settings, and check it.

    Parameters
    ----------
    name
        A built-in scenario's name, or the path of a ``.toml`` file.
    settings
        ``key=value`` each; the key is a dotted TOML key, the value a TOML value or plain text.

    Raises
    ------
    ScenarioError
        Anything in it is wrong; the message names the key and the value.
    """
    return load_with_bounds(name, settings=settings)[0]


def load_with_bounds(name: str, *, settings: tuple[str, ...] = ()) -> tuple[Scenario, Explore]:
    """Read a scenario as `load_scenario` does, and return with it what of it a search may draw: its table `[explore]`."""
    path = built_in().get(name) or Path(name)
    tree = _flat_slo(_read_toml(name, path), where=f"scenario {name}")
    own = Path() if name in built_in() or _sets("code_folder", settings) else path.parent
    beside = path.parent if "bus_file" in tree else Path()
    for setting in settings:
        _apply(tree, setting)
    if _sets("bus_file", settings):
        beside = Path()
    tree["name"] = path.stem
    for key in ("locustfile", "capture"):
        _find_file_of_load(tree, key, beside=Path() if name in built_in() or _sets(f"load.{key}", settings) else path.parent)
    bounds = _take_bounds(tree, where=f"scenario {name}")
    tree, where, of_bus = _with_bus(tree, str(name), beside=beside)
    _find_code_folder(tree, beside=own, otherwise=of_bus or own, where=where)
    _find_program_folders(tree, beside=own, otherwise=of_bus or own, where=where)
    return check_tree(tree, where=where), bounds


def _take_bounds(tree: dict[str, Any], *, where: str) -> Explore:
    """Take the table `[explore]` out of a tree: it is about a search, and no run has it."""
    if "explore" not in tree:
        return Explore()
    try:
        bounds = msgspec.convert(tree["explore"], Explore)
    except msgspec.ValidationError as error:
        raise ScenarioError(f"{where}: {_explain(_below('explore', str(error)), tree)}") from None
    if problem := bounds_problem(bounds):
        raise ScenarioError(f"{where}: {problem}")
    del tree["explore"]
    return bounds


def _below(table: str, message: str) -> str:
    """Return a message of msgspec about a table as one about the tree in which the table stands."""
    return message.replace(" - at `$", f" - at `$.{table}") if " - at `" in message else f"{message} - at `$.{table}`"


def _find_file_of_load(tree: dict[str, Any], key: str, *, beside: Path) -> None:
    """Make the path of a file that the load names whole: of the user's own locustfile, or of a capture."""
    load = tree.get("load")
    if isinstance(load, dict) and isinstance(named := load.get(key), str) and named:
        tree["load"] = load | {key: str((beside / named).absolute())}


def _find_code_folder(tree: dict[str, Any], *, beside: Path, otherwise: Path, where: str) -> None:
    """Make the folder of the user's own code whole, where the scenario names one, or names code of a module."""
    named = tree.get("code_folder")
    if isinstance(named, str) and named:
        folder = (beside / named).absolute()
        if not folder.is_dir():
            raise ScenarioError(f"scenario {where}: code_folder = {shown(named)}: there is no such folder")
        tree["code_folder"] = str(folder)
    elif not named and names_own_code(tree):
        tree["code_folder"] = str(otherwise.absolute())


def _find_program_folders(tree: dict[str, Any], *, beside: Path, otherwise: Path, where: str) -> None:
    """Make whole the folder that each program of the scenario runs in."""
    services = tree.get("services")
    for name, service in services.items() if isinstance(services, dict) else ():
        if not isinstance(service, dict) or not service.get("command"):
            continue
        named = service.get("folder", "")
        folder = (beside / named if named else otherwise).absolute() if isinstance(named, str) and "\0" not in named else None
        if folder is not None and not folder.is_dir():
            raise ScenarioError(f"scenario {where}: services.{quoted(name)}.folder = {shown(named)}: there is no such folder")
        if folder is not None:
            tree["services"] = tree["services"] | {name: service | {"folder": str(folder)}}


def _sets(key: str, settings: tuple[str, ...]) -> bool:
    """Return whether one of the settings is of a key: then a path in it is seen from the working directory."""
    return any(setting.partition("=")[0].strip() == key for setting in settings)


def built_in_buses() -> dict[str, Path]:
    """Return the built-in bus files: name -> file."""
    return {path.name.removesuffix(".bus.toml"): path for path in sorted(BUS_FILES.glob("*.bus.toml"))}


def _with_bus(tree: dict[str, Any], name: str, *, beside: Path) -> tuple[dict[str, Any], str, Path | None]:
    """Return a scenario's tree over the tables of the bus file that it names, what to call the two in a message, and the file's folder.

    The folder is None where there is no bus file of the user's.
    """
    named = tree.pop("bus_file", None)
    if named is None:
        return tree, name, None
    if not isinstance(named, str) or not named:
        raise ScenarioError(f"scenario {name}: bus_file = {shown(named)}: give the path of a .bus.toml file")
    path = built_in_buses().get(named) or beside / named
    if not path.exists():
        known = ", ".join(built_in_buses())
        raise ScenarioError(f"scenario {name}: bus_file = {named!r}: there is no such file beside it; built in: {known}")
    bus = _read_bus(named, path)
    return _over(bus, tree), f"{name} with {named}", None if named in built_in_buses() else path.parent


def _read_bus(named: str, path: Path) -> dict[str, Any]:
    """Return the tables of a bus file."""
    bus = _read_toml(named, path, kind="bus file")
    for key in bus:
        if key not in BUS_TABLES:
            hint = did_you_mean(key, BUS_TABLES)
            raise ScenarioError(f"bus file {named}: {shown(key)} does not belong there{hint}; it holds {', '.join(BUS_TABLES)}")
    return bus


def load_bus(named: str, *, settings: tuple[str, ...] = ()) -> Scenario:
    """Read a bus by itself, one that is built in or a file, and check it: a scenario of that bus, with no load.

    Raises
    ------
    ScenarioError
        There is no such file, or something in it is wrong; the message names the key and the value.
    """
    path = built_in_buses().get(named) or Path(named)
    if not path.exists():
        hint, known = did_you_mean(named, built_in_buses()), ", ".join(built_in_buses())
        raise ScenarioError(f"no bus {named!r}{hint}: give the path of a .bus.toml file; built in: {known}")
    tree = {"services": {}, **_read_bus(named, path)}
    for setting in settings:
        _apply(tree, setting)
    if path not in built_in_buses().values() and names_own_code(tree):
        tree["code_folder"] = str(path.parent.absolute())
    scenario = _converted(_with_patterns(tree, where=f"bus file {named}"), where=f"bus file {named}")
    for problem in bus_problems(scenario):
        raise ScenarioError(f"bus file {named}: {problem}")
    for channel in dict.fromkeys(channel for service in scenario.services.values() for channel in service.publishes):
        scenario.content(channel)
    return scenario


def _with_patterns(tree: dict[str, Any], *, where: str) -> dict[str, Any]:
    own = tree.get("channels")
    return expand_patterns(tree, own if isinstance(own, dict) else reference_channels(), where=where)


def _converted(tree: dict[str, Any], *, where: str) -> Scenario:
    """Return a tree as a scenario, each value of its type and within its bounds."""
    try:
        return scenario_of(tree)
    except msgspec.ValidationError as error:
        raise ScenarioError(f"{where}: {_explain(str(error), tree)}") from None


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return two trees as one, in which what stands above rules; a payload is replaced and not mixed, and `caches = {}` means none."""
    merged = dict(below)
    for key, value in above.items():
        mixed = key != "payload" and (key != "caches" or value)
        both = mixed and isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _over(merged[key], value) if both else value
    return merged


def _with_rates(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the tree with the load that the channels' own rates mean, where the load itself is silent."""
    channels, load = tree.get("channels"), tree.get("load", {})
    if not isinstance(channels, dict) or not isinstance(load, dict) or load.get("mix"):
        return tree
    services = tree.get("services")
    published, programs = _published(services), _published(services, programs=True)
    rates = {name: one.get("rate_per_s") for name, one in channels.items() if isinstance(one, dict)}
    able = {name: rate for name, rate in rates.items() if name in published}  # what nobody can publish is not called
    rates = able or {name: rate for name, rate in rates.items() if name not in programs}
    mix = {name: rate for name, rate in rates.items() if isinstance(rate, int | float) and not isinstance(rate, bool) and rate > 0}
    return tree | {"load": {"rate_per_s": sum(mix.values())} | load | {"mix": mix}} if mix else tree


def _with_replay(tree: dict[str, Any], *, where: str) -> dict[str, Any]:
    """Return the tree with the load of the capture that it plays, where it plays one."""
    channels, bus = tree.get("channels"), tree.get("bus")
    prefix = bus.get("channel_prefix") if isinstance(bus, dict) else None
    own = list(channels) if isinstance(channels, dict) else list(reference_channels())
    return with_capture(tree, channels=own, prefix=prefix if isinstance(prefix, str) else Bus().channel_prefix, where=where)


def _published(services: Any, *, programs: bool = False) -> set[str]:
    """Return the channels that the services of a tree publish: those whose pods are ours, or those that are programs."""
    tables = [one for one in services.values() if isinstance(one, dict)] if isinstance(services, dict) else []
    lists = [one.get("publishes") for one in tables if bool(one.get("command")) is programs]
    return {name for names in lists if isinstance(names, list | tuple) for name in names if isinstance(name, str)}


def check_tree(tree: dict[str, Any], *, where: str) -> Scenario:
    """Turn a TOML tree into a scenario, or raise what is wrong with it."""
    faults = tree.get("faults", [])
    for place, fault in enumerate(faults if isinstance(faults, list) else []):
        if not isinstance(fault, dict):
            raise ScenarioError(
                f"scenario {where}: faults[{place}] = {shown(fault)}: a fault is a table with its kind, as [[faults]] makes one"
            )
        kind, folder = fault.get("kind"), tree.get("code_folder")
        try:
            if not isinstance(kind, str):
                raise UsageError(f"no such fault; known: {', '.join(FAULTS)}")
            find_fault(kind, folder=folder if isinstance(folder, str) else "")
        except UsageError as error:
            raise ScenarioError(f"scenario {where}: faults[{place}].kind = {shown(kind)}: {error}") from None
    tree = _flat_slo(_with_patterns(tree, where=f"scenario {where}"), where=f"scenario {where}")
    tree = _with_rates(_with_replay(tree, where=f"scenario {where}"))
    scenario = _converted(tree, where=f"scenario {where}")
    for problem in chain(problems(scenario), program_problems(scenario)):
        raise ScenarioError(f"scenario {where}: {problem}")
    return scenario


def to_toml(scenario: Scenario) -> str:
    """Return the resolved scenario as TOML, every default written out."""
    tree = msgspec.to_builtins(scenario)
    return tomli_w.dumps(tree | {"slo": nested_limits(tree["slo"])})


def _read_toml(name: str, path: Path, *, kind: str = "scenario") -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        text = raw.decode("utf-8-sig") if len(raw) <= MAX_FILE_BYTES else ""  # an editor may have put a byte order mark at the start
    except FileNotFoundError:
        known = built_in()
        hint = did_you_mean(name, known)
        raise ScenarioError(f"no scenario {name!r}{hint}: give one of {', '.join(known)}, or the path of a .toml file") from None
    except UnicodeDecodeError as error:
        wrong = f"its byte {error.start:,} is 0x{error.object[error.start]:02x}"
        raise ScenarioError(f"{kind} {name}: {wrong}, which is not UTF-8: save the file as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise ScenarioError(f"cannot read {kind} {name!r}: {error}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise ScenarioError(f"{kind} {name}: it has more than {MAX_FILE_BYTES:,} bytes: leave out what the run does not use")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ScenarioError(f"{kind} {name}: not valid TOML: {_why_no_toml(error)}") from None


def _why_no_toml(error: Exception) -> str:
    """Return what is wrong with a text; what is nested too deep, or a number of thousands of digits, is not an error of TOML itself."""
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    return str(error) if isinstance(error, tomllib.TOMLDecodeError) else "a number in it has thousands of digits"


def _apply(tree: dict[str, Any], setting: str) -> None:
    key, equals, value = setting.partition("=")
    if not equals or not key.strip():
        raise ScenarioError(f"--set {setting!r}: write key=value, for example load.rate_per_s=500")
    try:
        change = tomllib.loads(f"{key} = {value}")
    except tomllib.TOMLDecodeError:
        try:
            change = tomllib.loads(f"{key} = {msgspec.json.encode(value).decode()}")
        except UnicodeEncodeError:
            raise ScenarioError(f"--set {setting!r}: the value is not UTF-8") from None
        except tomllib.TOMLDecodeError:
            raise ScenarioError(f'--set {setting!r}: {key!r} is not a key; quote parts that hold dots: load.mix."a.b"=1') from None
    except (ValueError, RecursionError) as error:
        raise ScenarioError(f"--set {setting[:80]!r}: not a value: {_why_no_toml(error)}") from None
    _merge(tree, _flat_slo(change, where=f"--set {setting!r}"), setting)


def _flat_slo(tree: dict[str, Any], *, where: str) -> dict[str, Any]:
    """Return a tree whose limits stand by the full names of their metrics, so that one of a service does not replace one of the run."""
    slo = tree.get("slo")
    if not isinstance(slo, dict):
        return tree
    try:
        return tree | {"slo": flat_limits(slo)}
    except ValueError as error:
        raise ScenarioError(f"{where}: {error}") from None


def _merge(tree: dict[str, Any], change: dict[str, Any], setting: str) -> None:
    for key, value in change.items():
        if value == {} and isinstance(tree.get(key), dict):
            tree[key] = {}  # `slo={}` means none of those that were there
        elif isinstance(value, dict) and isinstance(tree.get(key, {}), dict):
            _merge(tree.setdefault(key, {}), value, setting)
        elif isinstance(tree.get(key), dict):
            raise ScenarioError(f"--set {setting!r}: {key!r} is a table; set one of its keys: {', '.join(tree[key])}")
        else:
            tree[key] = value


def _explain(message: str, tree: dict[str, Any]) -> str:
    """Turn a msgspec message (``… - at `$.a.b` ``) into one that names the key, the value and what is allowed."""
    what, _, at = message.partition(" - at `")
    path = [part or index for part, index in re.findall(r"\.([^.\[`]+)|\[([^\]]*)\]", at)]
    value: Any = tree
    for place, part in enumerate(path):
        if part == "..." and isinstance(value, dict):
            kinds = {"services": Cache if _of_cache(path[:place]) else Service, "channels": Channel}
            part = path[place] = _entry_at_fault(value, kinds.get(path[0], Annotated[float, Meta(ge=0)]))
        value = _inside(value, part)
    unknown = re.search(r"unknown field `(.*)`", what, re.DOTALL)
    if unknown:
        struct = _struct_at(path, tree)
        known = [f for f in struct.__struct_fields__ if f != "name"] + (["bus_file", "explore"] if struct is Scenario else [])
        hint = did_you_mean(unknown[1], known) or _quote_the_dots(path, _inside(value, unknown[1]), unknown[1])
        return f"unknown key {_dotted([*path, unknown[1]])!r}{hint}; known keys: {', '.join(known)}"
    missing = re.search(r"missing required field `(.+)`", what)
    if missing:
        return f"{_dotted([*path, missing[1]])!r} is missing"
    key = _dotted(path) or "the file"
    if what.startswith("Invalid enum value"):
        choices = get_args(get_type_hints(_struct_at(path, tree))[path[-1]])
        return f"{key} = {shown(value)}: no such {path[-1]}{did_you_mean(str(value), choices)}; known: {', '.join(choices)}"
    return f"{key} = {shown(value)}: {what[0].lower() + what[1:]}{_quote_the_dots(path, value)}"


def _quote_the_dots(path: list[str], value: Any, *more: str) -> str:
    """Return `` (did you mean channels."order.created"?)`` where a name with dots stands without its quotes, which makes tables of it."""
    of_mix = path[:2] == ["load", "mix"]
    table, names = path[: 1 + of_mix], path[1 + of_mix :]
    if len(names) != 1 or not isinstance(value, dict) or not (of_mix or path[0] in ("channels", "services")):
        return ""
    fields = {"channels": Channel, "services": Service}.get(path[0], Load).__struct_fields__
    parts = [*names, *more]
    while isinstance(value, dict) and len(value) == 1:
        ((part, value),) = value.items()
        if of_mix or (part not in fields and isinstance(value, dict)):
            parts.append(part)
    return f" (did you mean {'.'.join(table)}.{json.dumps('.'.join(parts), ensure_ascii=False)}?)"


def _dotted(path: list[str]) -> str:
    """Return the key as other messages write it: ``faults[0].at_s``."""
    if path[:1] == ["slo"] and len(path) == 2:
        return limit_name(path[1])
    return "".join(f"[{part}]" if part.isdigit() else f".{quoted(part)}" for part in path).removeprefix(".")


def _inside(value: Any, part: str) -> Any:
    if isinstance(value, list) and part.isdigit():
        return value[int(part)]
    return value.get(part) if isinstance(value, dict) else None


def _struct_at(path: list[str], tree: dict[str, Any]) -> Any:
    """Return the struct that the table at the beginning of a path is read as."""
    if path[:1] == ["faults"]:
        return find_fault(tree["faults"][int(path[1])]["kind"], folder=tree.get("code_folder", ""))
    if _of_cache(path):
        return Cache
    if path[:2] == ["bus", "ioredis"]:
        return Ioredis
    tables = {
        "load": Load,
        "bus": Bus,
        "limits": StepLimits,
        "kubelet": Kubelet,
        "hosts": Hosts,
        "envelope": EnvelopeForm,
        "explore": Explore,
        "services": Service,
        "channels": Channel,
    }
    return tables.get(path[0] if path else "", Scenario)


def _of_cache(path: list[str]) -> bool:
    """Return whether a path leads to the caches of a service, or into one."""
    return path[:1] == ["services"] and path[2:3] == ["caches"]


def _entry_at_fault(table: dict[str, Any], type: Any) -> str:
    """Return the key of the entry that is not of the type: msgspec writes `...` for any key of a dict."""
    for key, value in table.items():
        try:
            msgspec.convert(value, type)
        except msgspec.ValidationError:
            return str(key)
    return "..."
