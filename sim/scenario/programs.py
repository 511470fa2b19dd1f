"""Services whose pods are programs of the user's own: the keys that a scenario has for them.

Each replica is a process that the run starts, with a tap between it and the broker (`sim.pods.programs`). The lab sees what passes there
and what the program says on its standard output; it cannot look inside.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from sim.bus.event_rule import ID_POINTERS

if TYPE_CHECKING:
    from sim.scenario.settings import EnvelopeForm, Scenario

PLACES = ("python", "port", "pod", "redis_url")  # what may stand in braces in a command and in the values of `env`
SUBSCRIBED = "subscribed"
STARTED = "started"
PLACE = re.compile(r"\{([^{}]*)\}")
READY = re.compile(r"http://(127\.0\.0\.1|localhost):(\{port\}|[1-9][0-9]{0,4})(/[\x21-\x7e]*)", re.ASCII)


class OwnProgram(msgspec.Struct, frozen=True):
    """The keys of a service whose pods are programs of yours.

    Attributes
    ----------
    command
        What each of its pods runs, as a list: the program and its arguments. With it, the service's pods are processes of yours behind a
        tap, and no pods of ours. `{python}` stands for the Python that runs the lab, `{port}` for the pod's PORT, `{pod}` for its name,
        `{redis_url}` for its REDIS_URL.
    folder
        Of `command`: where it runs; without it, the folder of the scenario's file.
    env
        Of `command`: variables that it gets beside those of the lab's own environment and REDIS_URL, POD_NAME, PORT and BUSLAB_HANDLED_URL,
        which the run sets. They are written into the run folder: leave secrets in the lab's own environment.
    ready
        Of `command`: when a pod counts as up. `subscribed`: when the broker has confirmed all that it subscribes to. `started`: at once.
        An address as `http://127.0.0.1:{port}/health/ready`: when that answers with a status from 200 to 399; it is asked for the whole
        run, and what it says is what the pod believes of its connections. Without it, `subscribed` for a service that subscribes to
        something, else `started`.
    stop, grace_s
        Of `command`: the signal that asks a pod to end in order, and how long it has until it is killed.
    reports_handled
        Of `command`: whether its pods report what they have handled, by a line `buslab handled EVENT_ID` on their standard output or by
        POST to BUSLAB_HANDLED_URL. Then lag is that to the handler, and what was heard and never reported counts as not handled.
    """

    command: tuple[str, ...] = ()
    folder: Annotated[str, Meta(max_length=4000)] = ""
    env: dict[str, str] = {}
    ready: Annotated[str, Meta(max_length=2000)] = ""
    stop: str = "SIGTERM"
    grace_s: Annotated[float, Meta(ge=0, le=3600)] = 30.0
    reports_handled: bool = False

    @property
    def is_ready_when(self) -> str:
        """The rule by which a pod counts as up: `subscribed`, `started` or an address."""
        return self.ready or (SUBSCRIBED if getattr(self, "subscribes", ()) else STARTED)

    @property
    def own_behaviour(self) -> str:
        """What its pods do with what they hear, where the scenario says it; nobody knows what a program does, but that it hears."""
        return "hears" if self.command else str(getattr(self, "behaviour", ""))

    @property
    def called(self) -> tuple[str, ...]:
        """The event types that its pods send when the load calls them; a program decides by itself what it sends."""
        return () if self.command else tuple(getattr(self, "publishes", ()))

    @property
    def stop_signal(self) -> signal.Signals:
        """The signal that asks a pod to end in order."""
        return signal.Signals[self.stop]


def ready_address(ready: str, *, port: int) -> tuple[int, str] | None:
    """Return the port and the path that say whether a pod is ready, None where no address does."""
    found = READY.fullmatch(ready)
    return None if found is None else (port if found[2] == "{port}" else int(found[2]), found[3])


def filled(text: str, values: Mapping[str, str]) -> str:
    """Return a text with what its braces stand for (`PLACES`)."""
    return PLACE.sub(lambda found: values.get(found[1], found[0]), text)


def no_program(word: str, *, folder: str, env: Mapping[str, str]) -> str:
    """Return why the first word of a command cannot be run from a folder, empty where it can."""
    if "{" in word:  # what stands for something is there when it is filled in
        return ""
    path = env.get("PATH", os.environ.get("PATH", os.defpath))
    named = Path(folder or ".") / word if "/" in word else None
    if named is None:
        return "" if shutil.which(word, path=path) else "no such program is on PATH; install it, or give its path"
    if named.is_file():
        return "" if os.access(named, os.X_OK) else f"{named} may not be executed: chmod +x it, or put what runs it before it"
    return f"there is no file {named}; give the path as seen from the folder of the scenario (or services.X.folder), or a name on PATH"


def programs_of(scenario: Scenario) -> list[str]:
    """Return the services whose pods are programs."""
    return [name for name, service in scenario.services.items() if service.command]


def id_pointer(form: EnvelopeForm) -> str:
    """Return where in an event its id stands, as a JSON pointer; empty where events carry none."""
    own = form.id if form.kind == "plain" else None
    return ID_POINTERS[form.kind] if own is None else own
