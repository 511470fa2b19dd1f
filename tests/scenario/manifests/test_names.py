"""Whatever services are called: each gets a name that Kubernetes can have, no two the same one, and none of the lab's own."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.scenario.manifests.names import OWN, file_key, fits, mapped, service_names
from tests.support.examples import examples

LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1035, as Kubernetes asks of a Service
NAMES = st.text(st.sampled_from("aZ9-._ ü注buslab"), min_size=1, max_size=80) | st.text(min_size=1, max_size=200)


@settings(max_examples=examples(200))
@given(st.lists(NAMES, unique=True, max_size=12))
def test_every_service_gets_a_name_of_its_own_that_is_a_label(services: list[str]) -> None:
    names = service_names(services)
    assert list(names) == services
    assert len(set(names.values())) == len(services)
    for name, called in names.items():
        assert LABEL.fullmatch(called), (name, called)
        assert not called.startswith(OWN)
        assert (called == name) == fits(name)
    assert service_names(services) == names


@settings(max_examples=examples(100))
@given(st.lists(NAMES, unique=True, max_size=12))
def test_every_file_gets_a_key_of_its_own(paths: list[str]) -> None:
    keys = list[str]()
    for path in paths:
        keys.append(file_key(path, keys))
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", key) and key not in (".", "..") for key in keys)


@pytest.mark.parametrize(
    ("name", "called"), [("Müller", "muller"), ("a__b", "a-b"), ("7up", "s-7up"), ("Buslab-run", "s-buslab-run"), ("x" * 63, "x" * 63)]
)
def test_a_name_stays_readable(name: str, called: str) -> None:
    assert mapped(name) == called
