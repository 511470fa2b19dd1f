"""What is odd about a scenario and not wrong: it runs, and perhaps does not do what its writer meant.

A channel that nobody hears, or that nobody publishes, or that nothing is called of; a service of which nothing is asked. The reference's
channels stand in every scenario that has none of its own, so those of them that no service names are no news. A cache from which no event
drops what is read. A pointer at which no call has anything, and a setting that means nothing without another one.
"""

from __future__ import annotations

from collections.abc import Iterator

from sim.bus.key_caches import PATTERN, named_key
from sim.bus.pointer import key_at
from sim.bus.services import ConfigReader
from sim.machine.words import count
from sim.record.schema import HTTP_CALL
from sim.scenario.problems import quoted
from sim.scenario.settings import Scenario, Service, reference_channels

MAX_NOTES = 10  # that are told one by one
TRIED_KEYS = 500  # of a cache, and of each channel


def notes_of(scenario: Scenario) -> list[str]:
    """Return one sentence for each oddity; it names the key."""
    return [
        *_channel_notes(scenario),
        *_service_notes(scenario),
        *_cache_notes(scenario),
        *_pointer_notes(scenario),
        *_idle_notes(scenario),
    ]


def told_notes(notes: list[str]) -> list[str]:
    """Return so many notes that a person reads them, and how many more there are."""
    more = len(notes) - MAX_NOTES
    return notes if more <= 0 else [*notes[:MAX_NOTES], f"and {count(more, 'more note')}: buslab check-scenario has them with --json"]


def _channel_notes(scenario: Scenario) -> Iterator[str]:
    heard = {name for service in scenario.services.values() for name in service.subscribes}
    published = {name for service in scenario.services.values() for name in service.publishes}
    named, reference = heard | published, reference_channels()
    by_programs = {name for service in scenario.services.values() if service.command for name in service.publishes}
    for name, channel in scenario.channels.items():
        where, called = f"channels.{quoted(name)}", scenario.load.mix.get(name, 0) > 0 or name in by_programs
        rate = f", and its rate_per_s = {channel.rate_per_s:g} is not called" if channel.rate_per_s else ""
        if name not in named:
            if channel != reference.get(name):
                yield f"{where}: no service publishes it and none hears it{rate}"
        elif name not in published:
            yield f"{where}: no service publishes it, so who subscribes to it hears nothing there{rate}"
        elif not called:
            yield f"{where}: nothing is called of it: it has no weight in load.mix" + ("" if scenario.load.mix else " and no rate_per_s")
        elif name not in heard:
            yield f"{where}: nobody hears it: its events are published and reach no pod"


def _service_notes(scenario: Scenario) -> Iterator[str]:
    called = {name for name, weight in scenario.load.mix.items() if weight > 0}
    arriving = called & {name for service in scenario.services.values() for name in service.publishes}
    arriving |= {name for service in scenario.services.values() if service.command for name in service.publishes}
    for name, service in scenario.services.items():
        behaviour = scenario.behaviour(name)
        reads = scenario.load.reads_per_s > 0 and isinstance(scenario.new_logic(name), ConfigReader)
        reads = reads or any(cache.reads_per_s > 0 for cache in service.caches.values())
        answers = HTTP_CALL in called and behaviour == "analytics"
        if not (service.command or called & set(service.publishes) or arriving & set(service.subscribes) or reads or answers):
            yield f"services.{quoted(name)}: nothing is asked of it: what it publishes is not called, and what it hears does not come"


def _pointer_notes(scenario: Scenario) -> Iterator[str]:
    """Yield a sentence for each pointer into what a call carries at which none of the first calls has anything."""
    keys, rules = scenario.keys(), scenario.cache_keys()
    for name, channel in scenario.channels.items():
        if scenario.load.mix.get(name, 0) <= 0 or name not in keys | rules or scenario.load.locustfile:
            continue
        where, content = f"channels.{quoted(name)}", scenario.content(name)
        if name in keys and not any(key_at(keys[name], content(number)) for number in range(TRIED_KEYS)):
            yield f"{where}.key = {channel.key!r}: the first {TRIED_KEYS} calls have nothing there, so no event of it has a key"
        if name in rules and not any(named_key(rules[name], content(number)) for number in range(TRIED_KEYS)):
            means = "such an event drops every copy, and makes none stale"
            yield f"{where}.invalidates = {channel.invalidates!r}: the first {TRIED_KEYS} calls have nothing there; {means}"


def _idle_notes(scenario: Scenario) -> Iterator[str]:
    for name, channel in scenario.channels.items():
        for key in ("batch_size", "batch_interval_ms"):
            if (value := getattr(channel, key)) is not None and not channel.batched:
                yield f"channels.{quoted(name)}.{key} = {value}: it means nothing without batched = true"
    for name, service in scenario.services.items():
        if service.queue_limit != Service().queue_limit and service.when_full != "queue":
            yield f"services.{quoted(name)}.queue_limit = {service.queue_limit}: it means nothing without when_full = 'queue'"


def _cache_notes(scenario: Scenario) -> Iterator[str]:
    rules = scenario.cache_keys()
    for service, one in scenario.services.items():
        dropping = [name for name in one.subscribes if name in rules]
        for cache in one.caches:
            where = f"services.{quoted(service)}.caches.{quoted(cache)}"
            if not dropping:
                yield f"{where}: no event drops a copy of it: give a channel that {service} hears invalidates"
                continue
            read = {key(number) for key in (scenario.read_key(service, cache),) for number in range(TRIED_KEYS)}
            named = [named_key(rules[name], scenario.content(name)(number)) for name in dropping for number in range(TRIED_KEYS)]
            if not any(key in read or PATTERN in key or not key for key in named):
                examples = f"read is {sorted(read)[0]!r}, and an event names {named[0]!r}"
                yield f"{where}: of {TRIED_KEYS} keys that are read none is named by the first events of {', '.join(dropping)}: {examples}"
