"""Every exception this package raises on purpose.

Each message is one line and says what was wrong, the value, and what to do::

    BuslabError                 exit code 2
    ├── ScenarioError           the scenario file, a --set value, or a combination of both
    ├── DocumentError           an AsyncAPI document that cannot be read, or says what a bus cannot have
    ├── UsageError              an argument or an environment variable
    ├── BrokerError             a broker that cannot be started or used
    │   ├── BrokerUnreachable   nothing answers at the address
    │   └── BrokerRefused       it answers, but not to us (password, rights, TLS)
    ├── GeneratorError          the Locust child could not start or died
    ├── HostError               a process that holds pods could not start or ended by itself
    │   └── MachineLost         the worker of a Dask cluster that held it does not answer any more
    ├── RecordError             rows could not be written (disk full, no permission)
    ├── RunFolderError          a run folder that is missing, foreign, truncated or unsealed
    ├── CaptureError            traffic that cannot be captured, or a capture that is missing, cut or of another version
    ├── UnsupportedVersion      an event of a schema version that this bus does not read
    ├── NotEncodable            what a caller handed over cannot become JSON, or is no object
    └── Interrupted             Ctrl-C, SIGTERM or SIGHUP; exit code 128 + signal number
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class BuslabError(Exception):
    """The root: the CLI prints its text as one line and exits with `exit_code`; a run that failed names its sealed `run_folder`."""

    exit_code = 2
    run_folder: Path | None = None


class ScenarioError(BuslabError):
    """A scenario that is wrong: the key, its value, and what is allowed."""


class DocumentError(BuslabError):
    """An AsyncAPI document that is wrong: the file, the place in it, and what to do; what a document holds may have any character."""

    def __init__(self, message: str) -> None:
        super().__init__("".join(one if one.isprintable() else repr(one)[1:-1] for one in message))


class UsageError(BuslabError):
    """An argument or an environment variable that is wrong."""


class BrokerError(BuslabError):
    """A broker that could not be started or used."""


class BrokerUnreachable(BrokerError):
    """A broker's address at which nothing answers."""


class BrokerSilent(BrokerUnreachable):
    """A broker that took a command and did not answer in time: it may carry it out all the same."""


class BrokerRefused(BrokerError):
    """A broker that answers but refuses this client."""


class GeneratorError(BuslabError):
    """A load generator that could not start, or died."""


class MachineBusyError(BuslabError):
    """The machine withholds what a measurement needs: there is no answer, and the message says what to stop."""


class HostError(BuslabError):
    """A process of pods that could not start, or ended by itself, with the end of its log."""


class MachineLost(HostError):
    """A worker of a Dask cluster that does not answer any more, or that Dask has paused, with the pods that it held.

    `every` says that it is all of them: the way to them is gone.
    """

    every = False


class RecordError(BuslabError):
    """A file of the run folder that could not be written."""


class RunFolderError(BuslabError):
    """A run folder that is missing, foreign or damaged."""


class CaptureError(BuslabError):
    """A capture that cannot be made, or whose file is missing, foreign or damaged."""


class UnsupportedVersion(BuslabError):
    """An event of a schema version that is not read here."""


class NotEncodable(BuslabError):
    """Something that cannot be published, and why."""


class Interrupted(BuslabError):
    """An interruption: the signal that ended the run, once its data is safe."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest known word, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""
