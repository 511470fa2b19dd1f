"""What is odd about a scenario and not wrong, one sentence each."""

from __future__ import annotations

from typing import Any

import pytest

from sim.scenario.file import built_in, check_tree, load_scenario
from sim.scenario.notes import MAX_NOTES, notes_of, told_notes


def tree(**more: Any) -> dict[str, Any]:
    channels = {"a": {"rate_per_s": 1}, "b": {}}
    services = {"one": {"publishes": ["a", "b"]}, "two": {"subscribes": ["a", "b"]}}
    return {"channels": channels, "services": services} | more


def notes(**more: Any) -> list[str]:
    return notes_of(check_tree(tree(**more), where="test"))


def test_each_oddity_has_one_sentence_with_its_key() -> None:
    assert notes() == ["channels.b: nothing is called of it: it has no weight in load.mix"]
    assert notes(load={"mix": {"a": 1, "b": 1}}) == []
    deaf = {"one": {"publishes": ["a"]}, "two": {"subscribes": ["b"]}}
    assert notes(services=deaf) == [
        "channels.a: nobody hears it: its events are published and reach no pod",
        "channels.b: no service publishes it, so who subscribes to it hears nothing there",
        "services.two: nothing is asked of it: what it publishes is not called, and what it hears does not come",
    ]
    nobody = {"one": {"publishes": ["a"], "subscribes": ["a"]}}
    assert notes(services=nobody) == ["channels.b: no service publishes it and none hears it"]
    rated = {"a": {"rate_per_s": 1}, "b": {"rate_per_s": 2}}
    assert notes(services=nobody, channels=rated) == [
        "channels.b: no service publishes it and none hears it, and its rate_per_s = 2 is not called"
    ]


def test_a_service_that_is_read_or_called_by_http_is_asked_something() -> None:
    services = {"one": {"publishes": ["a", "b"], "subscribes": ["a", "b"]}, "reader": {"behaviour": "config-cache", "subscribes": ["c"]}}
    channels = {"a": {}, "b": {}, "c": {}}
    load = {"mix": {"a": 1, "b": 1}}
    silent = [note for note in notes(channels=channels, services=services, load=load) if note.startswith("services")]
    assert silent == ["services.reader: nothing is asked of it: what it publishes is not called, and what it hears does not come"]
    read = notes(channels=channels, services=services, load=load | {"reads_per_s": 5})
    assert [note for note in read if note.startswith("services")] == []


@pytest.mark.parametrize("name", sorted(built_in()))
def test_no_built_in_scenario_is_odd(name: str) -> None:
    assert notes_of(load_scenario(name)) == []


def test_many_notes_are_told_in_few_lines() -> None:
    some = [f"note {number}" for number in range(MAX_NOTES)]
    assert told_notes(some) == some
    told = told_notes([*some, "x", "y"])
    assert told[:MAX_NOTES] == some and told[-1].startswith("and 2 more notes: buslab check-scenario")


def test_a_cache_from_which_no_event_drops_what_is_read_is_odd() -> None:
    def of(invalidates: str, reads: str = "a:{integer(1, 20)}") -> list[str]:
        channels = {"a": {"rate_per_s": 1, "payload": {"id": "{integer(1, 20)}"}, "invalidates": invalidates}}
        services = {"one": {"publishes": ["a"]}, "two": {"subscribes": ["a"], "caches": {"c": {"reads": reads, "reads_per_s": 1}}}}
        return notes(channels=channels, services=services)

    assert of("a:{/data/id}") == of("a:*") == []
    (told,) = of("{/data/absent}")
    assert told.startswith("channels.a.invalidates = '{/data/absent}': the first 500 calls have nothing there; such an event drops every")
    assert of("") == ["services.two.caches.c: no event drops a copy of it: give a channel that two hears invalidates"]
    (told,) = of("A:{/data/id}", "a:1")
    assert told.startswith("services.two.caches.c: of 500 keys that are read none is named by the first events of a: read is 'a:1'")


def test_a_service_whose_cache_is_read_is_asked_something() -> None:
    channels = {"a": {"rate_per_s": 1}, "b": {"invalidates": "b"}}
    services = {"one": {"publishes": ["a"]}, "two": {"subscribes": ["b"], "caches": {"c": {"reads": "b", "reads_per_s": 1}}}}
    services["three"] = {"publishes": ["b"], "subscribes": ["a"]}
    load = {"mix": {"a": 1}}
    assert [note for note in notes(channels=channels, services=services, load=load) if note.startswith("services")] == []


def test_a_key_at_which_no_call_has_anything_is_odd() -> None:
    def of(key: str, **more: Any) -> list[str]:
        channels = {"a": {"rate_per_s": 1, "payload": {"nr": "{number}", "some": "{'x' if number == 400 else ''}"}, "key": key} | more}
        return notes(channels=channels, services={"one": {"publishes": ["a"]}, "two": {"subscribes": ["a"]}})

    assert of("/data/nr") == of("/data/some") == of("/data/nr", batched=True) == []
    assert of("/data/rn") == ["channels.a.key = '/data/rn': the first 500 calls have nothing there, so no event of it has a key"]
    assert of("/data/nr", payload=100) == [
        "channels.a.key = '/data/nr': the first 500 calls have nothing there, so no event of it has a key"
    ]


def test_a_setting_that_means_nothing_without_another_one_is_odd() -> None:
    channels = {"a": {"rate_per_s": 1, "batch_size": 5}, "b": {"rate_per_s": 1, "batch_size": 5, "batched": True}}
    services = {
        "one": {"publishes": ["a", "b"]},
        "two": {"subscribes": ["a", "b"], "queue_limit": 50},
        "three": {"subscribes": ["a"], "queue_limit": 50, "when_full": "queue"},
    }
    assert notes(channels=channels, services=services) == [
        "channels.a.batch_size = 5: it means nothing without batched = true",
        "services.two.queue_limit = 50: it means nothing without when_full = 'queue'",
    ]
