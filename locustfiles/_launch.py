"""Start the run that a Locust command line means, as a child of Locust: ``buslab run`` with this Locust as its generator.

The child owns broker, fleet, probes, faults and judgement, exactly as by hand; only the calls are made here. So a Locust process never
runs asyncio, and there is one way to run a scenario. What is left for here: the options, the child's life, Locust's tables in the run
folder.
"""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import gevent
import gevent.subprocess
import psutil
from locust import LoadTestShape
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import RPCError
from locust.html import get_html_report
from locust.stats import PERCENTILES_TO_REPORT, StatsCSV, StatsCSVFileWriter

from sim.errors import UsageError
from sim.grounds.catalogue import shown_ground
from sim.machine.import_path import child_environment, python_child
from sim.machine.line import open_line
from sim.machine.standard_streams import take_over_streams
from sim.machine.variables import read_variable
from sim.run.folder import empty_folder
from sim.scenario.file import load_scenario
from sim.scenario.schedule import SHAPES

log = logging.getLogger("buslab")
INTERRUPTED = 128 + signal.SIGINT
PARENT_PERIOD_S = 0.5
_ended_with: set[int] = set()  # the exit codes of the runs of this process
END_TIMEOUT_S = 120.0  # a run needs less to heal, stop, seal and judge


def variable(name: str, *, otherwise: str | None = None, is_list: bool = False) -> str | None:
    """Return what an environment variable says, or `otherwise`; one that cannot be read ends Locust with one line and 2."""
    try:
        return read_variable(name, is_list=is_list) or otherwise
    except UsageError as error:
        log.error("%s", error)
        sys.exit(2)


def add_options(parser: LocustArgumentParser) -> None:
    """Add what `buslab run` takes, under the same names, to Locust's own options."""
    add = parser.add_argument
    add("--scenario", default=variable("BUSLAB_SCENARIO", otherwise="baseline"), help="A built-in scenario or a .toml file.")
    add(
        "--on",
        default=variable("BUSLAB_ON", is_list=True),
        metavar="GROUND",
        help="embedded (default), container, cluster, or a URL as --host.",
    )
    add("--fleet", choices=("ours", "none"), default="ours", help="none: load a fleet that runs already; start no pods.")
    add("--shape", choices=tuple(SHAPES), help="How the rate goes over the run: sets load.shape.")
    for option, more in (
        ("--set", {"dest": "settings", "action": "append", "metavar": "KEY=VALUE", "help": "Change a setting; may be repeated."}),
        ("--out", {"metavar": "DIR", "help": "The run folder to make."}),
        ("--image", {"metavar": "IMAGE", "help": "What the grounds of containers run."}),
        ("--yes-load-this-server", {"action": "store_true", "help": "Allow a server on another machine."}),
    ):
        add(option, include_in_web_ui=False, **more)  # type: ignore[arg-type]


def own_locustfile(environment: Environment) -> str:
    """Return the user's own locustfile, whose users publish in a closed loop; empty where the schedule is played.

    Raises
    ------
    UsageError
        Users of both kinds are there.
    """
    kinds = {one.closed_loop: one for one in environment.user_classes if hasattr(one, "closed_loop")}
    if len(kinds) > 1:
        names = " and ".join(one.__name__ for one in kinds.values())
        raise UsageError(f"{names} do not go together: one is closed loop, the other follows the schedule; name those to start")
    return str(Path(sys.modules[kinds[True].__module__].__file__ or "").absolute()) if True in kinds else ""


def settings(environment: Environment, *, run_s: float | None) -> tuple[str, ...]:
    """Return the settings that the command line means, as ``--set`` takes them."""
    options = environment.parsed_options
    given = ["load.driver=locust", *(options.settings or ()), f"load.locustfile={json.dumps(own_locustfile(environment))}"]
    if run_s is not None:
        given.append(f"load.run_s={float(run_s)}")
    if options.shape:
        given.append(f"load.shape={options.shape}")
    return tuple(given)


def check_options(environment: Environment, *, run_s: float | None) -> None:
    """Refuse what cannot work, and fill in how many users there are.

    Raises
    ------
    BuslabError
    """
    options = environment.parsed_options
    if str(options.on or environment.host or "").strip().partition(":")[0] == "model":
        raise UsageError("--on model: Locust lives in real time; use `buslab run SCENARIO --on model`")
    scenario = load_scenario(options.scenario, settings=settings(environment, run_s=run_s))
    if scenario.load.driver != "locust":
        raise UsageError(f"load.driver = {scenario.load.driver!r}: here Locust drives; use `buslab run SCENARIO` for the pods' own calls")
    if options.out:
        empty_folder(Path(options.out))
    if options.num_users is not None and options.num_users < 1:
        raise UsageError(f"-u {options.num_users}: give at least one user, or leave it out: then there is one for each publishing pod")
    if options.num_users is None:
        options.num_users = max(1, scenario.users())
    if options.spawn_rate is None:
        options.spawn_rate = min(100, options.num_users)


class Grounds:
    """The grounds that this process was given: Locust's pages and files show what may be shown of them, the run gets the whole."""

    def __init__(self) -> None:
        self._whole: dict[str, str] = {}

    def hide(self, environment: Environment) -> None:
        """Put what may be shown in the place of each; done again when the form of the web interface has brought another."""
        options = environment.parsed_options
        environment.host, options.on = self._shown(environment.host), self._shown(options.on)
        options.host = self._shown(options.host)

    def _shown(self, on: str | None) -> str | None:
        if not on or on in self._whole:
            return on
        shown = shown_ground(on)
        self._whole[shown] = on
        return shown

    def whole(self, shown: str) -> str:
        """Return the ground that is shown so."""
        return self._whole.get(shown, shown)


class Signals:
    """The way in which a Ctrl-C or SIGTERM ends us: in order, whatever Locust is doing; the second one ends at once.

    Without this, Python raises KeyboardInterrupt wherever it happens to be, also in a user between a publish and its record, and Locust
    notices a SIGTERM neither while it waits for workers nor while it follows a shape.
    """

    def __init__(self, end: Callable[[], None], *numbers: int) -> None:
        self._end = end
        self._heard = False
        self._watchers = {number: gevent.signal_handler(number, self._hear) for number in numbers}

    def _hear(self) -> None:
        for number, watcher in self._watchers.items():
            if number != signal.SIGHUP:  # a terminal that goes may send several
                watcher.cancel()
        if not self._heard:
            self._heard = True
            gevent.spawn(self._end)

    def leave_to_locust(self, number: int) -> None:
        """Listen for this signal no more: Locust does now."""
        if watcher := self._watchers.pop(number, None):
            watcher.cancel()


def leave_1_to_the_verdict() -> None:
    """Set hooks, and take over the streams: 1 is left to a run that is invalid; Locust's own errors, and Python's, end with 2.

    Where another Locust has the master's port there is one line in the place of a traceback.
    """
    streams, usual_exit, usual_hook = take_over_streams(), sys.exit, sys.excepthook

    def leave(code: object = None) -> NoReturn:
        if isinstance(code, str):  # as `sys.exit` does
            print(code, file=sys.stderr)
        number = code if isinstance(code, int) else 0 if code is None else 2
        usual_exit(streams.finish(2 if number < 0 or (number == 1 and 1 not in _ended_with) else number))

    def explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, RPCError):
            log.error("%s: does another Locust run? Give this one a port of its own: --master-bind-port and --master-port", error)
        elif not isinstance(error, KeyboardInterrupt):
            usual_hook(kind, error, trace)
        end_workers()
        psutil.wait_procs(psutil.Process().children(), timeout=END_TIMEOUT_S)
        streams.finish(2)
        os._exit(INTERRUPTED if isinstance(error, KeyboardInterrupt) else 2)  # Locust's own way out would wait once more, and end with 1

    sys.exit, sys.excepthook = leave, explain  # type: ignore[assignment]


def end_with_parent() -> None:
    """End in order when the master that forked this worker is gone; Locust alone would wait for its return for a minute."""
    parent = os.getppid()
    while os.getppid() == parent:
        gevent.sleep(PARENT_PERIOD_S)
    os.kill(os.getpid(), signal.SIGTERM)


def end_workers() -> None:
    """End the workers that ``--processes`` forked, before there is a run: a master that ends so early does not end them, but waits."""
    for worker in psutil.Process().children():
        worker.terminate()


class Child:
    """The run: a `buslab run` in a session of its own. When we are gone its line is closed, and it ends in order.

    It does not ask the kernel for a signal when its parent dies: while a parent with several threads is killed, its children pass from
    thread to thread, and each time the kernel would send the signal again; the second one ends a run at once.
    """

    def __init__(self, environment: Environment, *, run_s: float | None, grounds: Grounds) -> None:
        options = environment.parsed_options
        self.line, theirs = open_line(name="the run")
        argv = python_child("sim.cli", "run", options.scenario, "--driven-by", theirs.fileno(), "--fleet", options.fleet)
        for setting in settings(environment, run_s=run_s):
            argv += ["--set", setting]
        for name, value in (("--out", options.out), ("--image", options.image)):
            argv += [name, value] if value else []
        argv += ["--yes-load-this-server"] if options.yes_load_this_server else []
        on = grounds.whole(environment.host or options.on or "embedded")
        with theirs:
            self.process = gevent.subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                env=child_environment(BUSLAB_ON=on),  # it may hold a password, and anybody can read a command line
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.said = ""
        self._asked = False

    def wait(self, folder: Path | None) -> int:
        """Wait for its end and return its exit code; `said` is then what it printed. `folder` is the run's, if it got that far.

        A Python that dies of an error ends with 1 as well as a run that is invalid, but only the latter has a verdict.
        """
        said, _ = self.process.communicate()
        self.said = said.decode("utf-8", "replace")
        if self._asked and self.process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM):
            return INTERRUPTED
        judged = folder is not None and (folder / "verdict.json").exists()
        code = 2 if self.process.returncode < 0 or (self.process.returncode == 1 and not judged) else self.process.returncode
        _ended_with.add(code)
        return code

    def interrupt(self, *, begun: bool) -> None:
        """Ask it to heal, stop, seal and judge; once, as a second signal ends a run at once.

        A run that has not begun gets SIGTERM: while Python still imports, SIGINT would end in a traceback.
        """
        if self.process.poll() is None and not self._asked:
            self._asked = True
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGINT if begun else signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        if self.process.poll() is None:
            self.process.kill()


class Tables:
    """Locust's csv in the run folder, and with `pages` its html and json, whatever else its command line asks for.

    Locust's own csv lacks what happened in its last second.
    """

    def __init__(self, environment: Environment, folder: Path, *, pages: bool) -> None:
        self._environment = environment
        self._pages = pages
        self._prefix = str(folder / "locust")
        self._writer = StatsCSVFileWriter(environment, PERCENTILES_TO_REPORT, self._prefix, full_history=pages)
        self._writing = gevent.spawn(self._writer.stats_writer)

    def write(self) -> None:
        """Write what Locust knows now, over what was written before."""
        if self._writing is not None:
            self._writing.kill()
            self._writer.close_files()
            self._writing = None
        plain = StatsCSV(self._environment, PERCENTILES_TO_REPORT)
        for name, rows in (("stats", plain.requests_csv), ("failures", plain.failures_csv), ("exceptions", plain.exceptions_csv)):
            with Path(f"{self._prefix}_{name}.csv").open("w", encoding="utf-8", newline="") as file:
                rows(csv.writer(file))
        if not self._pages:
            return
        entries = [
            entry.serialize() for _, entry in sorted(self._environment.runner.stats.entries.items())
        ]  # Locust's own function would reset them
        Path(f"{self._prefix}.json").write_text(json.dumps(entries, indent=4), "utf-8")
        Path(f"{self._prefix}.html").write_text(get_html_report(self._environment, show_download_link=False), "utf-8")


class RunShape(LoadTestShape):
    """The number of users that -u says until the run ends: the *rate* follows the scenario's shape, by the run's own schedule."""

    use_common_options = True
    abstract = True  # so that Locust does not pick it by itself

    def __init__(self, environment: Environment) -> None:
        super().__init__()
        self._environment = environment

    def tick(self) -> tuple[int, float] | None:
        """Return the same users until the run is over."""
        options, lead = self._environment.parsed_options, self._environment.buslab.lead  # type: ignore[attr-defined]
        return None if lead is not None and lead.greenlet.ready() else (options.num_users, options.spawn_rate)
