"""Try changes of the code in children of one process that has imported the code and collected the tests once.

Rules
-----
1. mutmut has written all changes of a function beside it; a trampoline in its place asks at each call which one is live. Here the answer
   is a variable, `live`: "" is none, "stats" none too but the function is noted as reached, "fail" raises in every function.
2. The process that collects runs no test. Children of it run them all once with "stats": that is at once the control, since each must pass,
   the list of tests that reach a function and its lines (coverage.py notes those), and what each takes.
3. Then every change gets a child of its own, in which it is live, and which runs the tests that reach its lines, up to the first that
   fails. A test that takes far longer than it did without a change, or a child that dies, is a change noticed.
4. Tests come in rounds: first those that are nearest to the changed files, and each farther round only for what no nearer test noticed,
   some at a time.
   A test that noticed a change of the same function or file before comes first, and then the quickest.
5. Two controls can fail. With "fail" live some test must fail, or no change would ever be seen. And every test that noticed a change is
   run once more in a child of its own without one: if it fails there, because it needs a test before it, its word does not count.
6. A function that is called while the code is imported was called before the fork. A change of it that no test noticed is tried again in a
   process that imports and collects anew with the change live.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import selectors
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import coverage
import pytest
from mutmut.mutation import trampoline

TIMES_AS_LONG, AND_S = 10, 5.0  # how much longer than without a change a test may take
COLLECT_S = 300.0
FOREVER_S = 1e6
TEST_S = 400.0  # of the control; as in pyproject.toml
MORE_MEMORY = 4 << 30  # bytes; a change may ask for memory without end
PER_ROUND, PER_CHILD = 150, 15  # tests
KILL_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)

live = ""
reached: set[str] = set()  # functions
Tell = Callable[[dict[str, Any]], None]


def switch(name: str) -> None:
    """Make one change live, in this process and in those that it starts."""
    global live
    live = name
    trampoline.get_mutant_under_test = lambda: live
    trampoline.record_trampoline_hit = lambda function, caller=None: reached.add(function)
    trampoline.MutmutCallStack = NoCallers
    if name == "stats":
        os.environ.pop("MUTANT_UNDER_TEST", None)
    else:
        os.environ["MUTANT_UNDER_TEST"] = name


class NoCallers:
    """What a trampoline calls around a function whose reach is noted, in the place of mutmut's stack of callers: nobody asks for those."""

    @staticmethod
    def get() -> tuple[None, int]:
        """Return no caller."""
        return None, 0

    @staticmethod
    def set(_: object) -> None:
        """Keep nothing."""

    @staticmethod
    def reset(_: object) -> None:
        """Change nothing."""


def lines_run(noted: coverage.Coverage) -> dict[str, list[str]]:
    """Return the tests that ran each line, by `line_key`, as coverage.py has noted them."""
    data = noted.get_data()
    return {
        line_key(file, line): list(filter(None, tests))
        for file in data.measured_files()
        for line, tests in data.contexts_by_lineno(file).items()
    }


def line_key(file: str, line: int) -> str:
    """Return a line as the tests that reach it are listed by it."""
    return f"{file}:{line}"


# -- children ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a child is to do, and how long it may be silent after what it told last; `{}` is before it told anything."""

    name: str
    do: Callable[[Tell], None]
    limit_s: Callable[[dict[str, Any]], float]


@dataclass(kw_only=True)
class Child:
    """A process that does one work; it tells in lines of JSON."""

    work: Work
    pid: int
    pipe: int
    folder: str
    due_s: float
    withheld_s: float = 0.0  # how long it was runnable and did not run, up to what it told last or was given more time for
    heard: list[dict[str, Any]] = field(default_factory=list)
    rest: bytes = b""
    ended: bool = False

    def hear(self) -> None:
        """Read what was told since; an end without a last word is an end too."""
        chunk = os.read(self.pipe, 1 << 20)
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        for line in lines:
            self.heard.append(json.loads(line))
        self.ended = not chunk or bool(self.heard and "end" in self.heard[-1])
        if self.heard:
            self.due_s, self.withheld_s = time.monotonic() + self.work.limit_s(self.heard[-1]), withheld_s(self.pid)

    def is_late(self) -> bool:
        """Return whether it was silent for too long; while other work has the machine, its time stands still."""
        if self.due_s <= time.monotonic():
            withheld = withheld_s(self.pid)
            self.due_s, self.withheld_s = self.due_s + max(0.0, withheld - self.withheld_s), withheld
        return self.due_s <= time.monotonic()

    def bury(self) -> None:
        """End it with all that it started, and remove its files."""
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError):
                kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.pipe)
        shutil.rmtree(self.folder, ignore_errors=True)


def withheld_s(pid: int) -> float:
    """Return how long the threads of a process were runnable and did not run, seconds; 0 where the system does not tell."""
    waited_ns = 0
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            waited_ns += int(file.read_text().split()[1])
    return waited_ns / 1e9


def in_children(works: Iterable[Work], *, jobs: int) -> Iterator[Child]:
    """Do each work in a child of its own, so many at once, and give each child when it has ended or was too long silent."""
    waiting = iter(works)
    living: list[Child] = []
    with selectors.DefaultSelector() as selector:
        try:
            while True:
                while len(living) < jobs and (work := next(waiting, None)) is not None:
                    living.append(_fork(work))
                    selector.register(living[-1].pipe, selectors.EVENT_READ, living[-1])
                if not living:
                    return
                for key, _ in selector.select(max(0.0, min(child.due_s for child in living) - time.monotonic())):
                    key.data.hear()
                for child in [one for one in living if one.ended or one.is_late()]:
                    living.remove(child)
                    selector.unregister(child.pipe)
                    child.bury()
                    yield child
        finally:
            for child in living:
                child.bury()


def _fork(work: Work) -> Child:
    folder = tempfile.mkdtemp(prefix="mutants-")
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return Child(work=work, pid=pid, pipe=reading, folder=folder, due_s=time.monotonic() + work.limit_s({}))

    def tell(what: dict[str, Any]) -> None:
        line = json.dumps(what).encode() + b"\n"
        while line:
            line = line[os.write(writing, line) :]

    try:
        os.setpgid(0, 0)
        if sys.platform == "linux":
            import ctypes

            ctypes.CDLL(None).prctl(KILL_WITH_PARENT, signal.SIGKILL)
        os.environ["TMPDIR"] = os.environ["PYTEST_DEBUG_TEMPROOT"] = tempfile.tempdir = folder
        work.do(tell)
        tell({"end": True})
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


# -- tests in a child -------------------------------------------------------------------------------------------------


class Failures:
    """What pytest reported of the tests of this child as failed: a plugin."""

    def __init__(self) -> None:
        self.text = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the first failure of a test, be it of its set-up, its call or its tear-down."""
        if report.failed and not self.text:
            self.text = f"{report.longreprtext}\n"


def run_tests(
    items: Sequence[pytest.Item], tell: Tell, *, up_to_first_failure: bool, begin: Callable[[str], None] = lambda test: None
) -> None:
    """Run collected tests as pytest does; tell of each that it begins, and then what it reached, what it took and how it failed."""
    failures = Failures()
    items[0].config.pluginmanager.register(failures)
    for item, next_item in zip(items, [*items[1:], None], strict=True):
        tell({"begins": item.nodeid})
        begin(item.nodeid)
        reached.clear()
        failures.text = ""
        began_s = time.monotonic()
        item.ihook.pytest_runtest_protocol(item=item, nextitem=next_item)
        tell({"test": item.nodeid, "took_s": time.monotonic() - began_s, "reached": sorted(reached), "failed": failures.text})
        if failures.text and up_to_first_failure:
            return


def _silent() -> None:
    """Let what tests print go nowhere, and their memory have a bound."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MORE_MEMORY, hard))


# -- the process that collects ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one change: the test that noticed it, "" if none did; whether any reaches it; whether it noticed by taking too long."""

    by: str = ""
    is_reached: bool = False
    took_too_long: bool = False


class ControlFailed(Exception):
    """Without any change a test fails, or with everything broken none does."""


@dataclass(kw_only=True, eq=False)
class Trials:
    """A session of pytest that tries changes instead of running the tests: a plugin."""

    names: Sequence[str]
    lines: Mapping[str, Collection[str]]  # the changed ones of each as `line_key` has them; none: whoever reaches the function reaches it
    rounds: Sequence[Callable[[str, Path], bool]]  # whether tests of a file are in this round of a change
    jobs: int
    enough: int | None = None  # when so many are noticed, the farther tests of the others are not run
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    at_import: set[str] = field(default_factory=set)
    took_s: dict[str, float] = field(default_factory=dict)  # what each test takes without a change
    reaches: dict[str, set[str]] = field(default_factory=dict)  # the tests of each function and line
    doubtful: set[str] = field(default_factory=set)
    broken: str = ""
    _items: dict[str, pytest.Item] = field(default_factory=dict)
    _noticed_before: Counter[tuple[str, str]] = field(default_factory=Counter)  # (function or module, test)

    def pytest_sessionstart(self) -> None:
        """Make examples the same in every child, and leave out what is only for people to read."""
        from hypothesis import Phase, settings

        examples = settings(settings(), derandomize=True, database=None, phases=(Phase.explicit, Phase.generate))
        settings.register_profile("mutants", examples)
        settings.load_profile("mutants")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep why a file of tests could not be collected."""
        if report.failed:
            self.broken += f"{report.nodeid}: {report.longreprtext}\n"

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Try every change."""
        if self.broken:
            return True
        self.at_import = set(reached)
        self._items = {item.nodeid: item for item in session.items}
        gc.collect()
        gc.freeze()
        self.outcomes = dict.fromkeys(self.names, Outcome())
        try:
            for belongs in self.rounds:
                left = [name for name in self.names if not self.outcomes[name].by]
                files = {item.path for item in session.items if any(belongs(name, item.path) for name in left)}
                new = [item for item in session.items if item.path in files and item.nodeid not in self.took_s]
                for at in range(0, len(new), PER_ROUND):
                    left = [name for name in left if not self.outcomes[name].by]
                    if left and not self.has_enough():
                        self._control(new[at : at + PER_ROUND])
                        self._prove(left)
                        self._try(left, among={item.nodeid for item in new[at : at + PER_ROUND]})
                        print(f"after {len(self.took_s):,} tests:", *(name for name in left if not self.outcomes[name].by), flush=True)
        except ControlFailed as failed:
            self.broken = str(failed)
        return True

    def has_enough(self) -> bool:
        """Return whether so many are noticed that the others need not be tried further."""
        return self.enough is not None and sum(bool(outcome.by) for outcome in self.outcomes.values()) >= self.enough

    def _control(self, items: Sequence[pytest.Item]) -> None:
        asked = {key for keys in self.lines.values() for key in keys}
        files = sorted({key.rpartition(":")[0] for key in asked}) or [os.devnull]

        def work(some: Sequence[pytest.Item]) -> Work:
            def do(tell: Tell) -> None:
                _silent()
                switch("stats")
                noted = coverage.Coverage(data_file=None, config_file=False, include=files)
                noted.start()
                run_tests(some, tell, up_to_first_failure=False, begin=noted.switch_context)
                noted.stop()
                tell({"lines": {line: tests for line, tests in lines_run(noted).items() if line in asked}})

            return Work(name=some[0].nodeid, do=do, limit_s=lambda told: TEST_S)

        works = [work(items[at : at + PER_CHILD]) for at in range(0, len(items), PER_CHILD)]
        failed: dict[str, str] = {}
        for child in in_children(works, jobs=self.jobs):
            if not child.heard or "end" not in child.heard[-1]:
                raise ControlFailed(f"{_noticed(child)} ends its process, or does not end, without any change")
            for told in child.heard:
                failed |= self._hear_of_control(told)
        # A test that takes a machine's whole attention may fail beside others: it is asked once more, alone.
        failed = {test: failed[test] for test in self._failing(failed)}
        if failed:
            raise ControlFailed("\n\n".join(f"{test} fails without any change:\n{why}" for test, why in failed.items()))

    def _hear_of_control(self, told: Mapping[str, Any]) -> dict[str, str]:
        """Note what a child of the control tells, and return how a test failed."""
        for line, tests in told.get("lines", {}).items():
            self.reaches.setdefault(line, set()).update(tests)
        if "test" not in told:
            return {}
        self.took_s[told["test"]] = told["took_s"]
        for function in told["reached"]:
            self.reaches.setdefault(function, set()).add(told["test"])
        return {told["test"]: told["failed"]} if told["failed"] else {}

    def _failing(self, tests: Iterable[str]) -> list[str]:
        """Return which tests fail without any change, in a child of their own, beside others and then once more alone."""
        for jobs in (self.jobs, 1):
            works = [self._work("", [test], label=test) for test in tests]
            tests = [child.work.name for child in in_children(works, jobs=jobs) if _noticed(child)]
        return list(tests)

    def _work(self, name: str, tests: Sequence[str], *, label: str = "") -> Work:
        def do(tell: Tell) -> None:
            _silent()
            switch(name)
            run_tests([self._items[test] for test in tests], tell, up_to_first_failure=True)

        return Work(name=label or name, do=do, limit_s=self.limit_s)

    def limit_s(self, told: dict[str, Any]) -> float:
        """Return how long a child may be silent: so long as the test that it began may take."""
        return self.took_s.get(told.get("begins", ""), 0) * TIMES_AS_LONG + AND_S

    def tests_of(self, names: Iterable[str]) -> list[str]:
        """Return the tests that reach the functions of these changes, in the order to run them, but for those whose word does not count."""
        places = {place for name in names for place in (function_key(name), module_of(name))}
        keys = {key for name in names for key in self.lines[name] or [function_key(name)]}
        tests = set().union(*(self.reaches.get(key, set()) for key in keys)) - self.doubtful
        noticed = {test: sum(self._noticed_before[place, test] for place in places) for test in tests}
        return sorted(tests, key=lambda test: (-noticed[test], self.took_s[test]))

    def _prove(self, names: Sequence[str]) -> None:
        tests = self.tests_of(names)
        if tests:
            (child,) = in_children([self._work("fail", tests)], jobs=1)
            if not _noticed(child):
                raise ControlFailed(f"with every function raising, {len(tests):,} tests that reach one pass: no change would be noticed")

    def _try(self, names: Sequence[str], *, among: set[str]) -> None:
        left = list(names)
        while left:
            for name in left:
                is_reached = not among.isdisjoint(self.tests_of([name]))
                self.outcomes[name] = Outcome(is_reached=is_reached or self.outcomes[name].is_reached)
            works = (self._work(name, tests) for name in left if (tests := [one for one in self.tests_of([name]) if one in among]))
            for child in in_children(works, jobs=self.jobs):
                if by := _noticed(child):
                    self.outcomes[child.work.name] = Outcome(by=by, is_reached=True, took_too_long=not child.ended)
                    self._noticed_before.update((place, by) for place in (function_key(child.work.name), module_of(child.work.name)))
            noticers = {name: self.outcomes[name].by for name in left}
            self.doubtful |= set(self._failing(sorted(set(noticers.values()) - {""})))
            left = [name for name in left if noticers[name] in self.doubtful]


@dataclass(kw_only=True, eq=False)
class Anew(Trials):
    """A session of pytest in which one change, or none, is live from the beginning: a plugin."""

    tell: Tell

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the tests, those near the change first, up to the first that fails."""

        def order(item: pytest.Item) -> tuple[int, float]:
            rounds = [at for at, belongs in enumerate(self.rounds) for name in self.names if belongs(name, item.path)]
            return min(rounds, default=len(self.rounds)), self.took_s.get(item.nodeid, 0.0)

        items = sorted((item for item in session.items if item.nodeid not in self.doubtful), key=order)
        if not self.broken:
            self.tell({"collected": len(items)})
            run_tests(items, self.tell, up_to_first_failure=True)
        return True


# -- what the script asks for -----------------------------------------------------------------------------------------


def _noticed(child: Child) -> str:
    """Return the test that noticed, "" if none did: the one that failed, or that was running when the child died or was killed."""
    last = child.heard[-1] if child.heard else {}
    if "end" in last:
        return next((told["test"] for told in child.heard if told.get("failed")), "")
    return last.get("begins") or last.get("test") or "the start of the tests"


def function_key(name: str) -> str:
    """Return the function of a change as the trampolines name it."""
    return name.rpartition("__mutmut_")[0]


def module_of(name: str) -> str:
    """Return the module of a change."""
    return name.partition(".x")[0] if ".x_" in name or ".xǁ" in name else name


def try_changes(trials: Trials, *, arguments: Sequence[str], log: Path) -> None:
    """Try changes of the code below the working directory, and put what came of each into `trials`.

    Raises
    ------
    ControlFailed
        The tests cannot be collected, or fail without any change.
    """

    def session(tell: Tell) -> None:
        _print_to(log)
        switch("stats")
        code = pytest.main([*arguments, "-s"], plugins=[trials])
        if code != pytest.ExitCode.OK and not trials.broken:
            raise RuntimeError(f"pytest ended with {code!r}")
        for name, outcome in trials.outcomes.items():
            tell({"name": name, "outcome": asdict(outcome)})
        tell({"took_s": trials.took_s, "doubtful": sorted(trials.doubtful), "at_import": sorted(trials.at_import), "broken": trials.broken})

    (child,) = in_children([Work(name="", do=session, limit_s=lambda told: FOREVER_S)], jobs=1)
    if not child.heard or "end" not in child.heard[-1]:
        raise ControlFailed(f"the process that collects the tests died:\n{log.read_text()[-4000:]}")
    *outcomes, last, _ = child.heard
    if last["broken"]:
        raise ControlFailed(last["broken"])
    trials.outcomes = {told["name"]: Outcome(**told["outcome"]) for told in outcomes}
    trials.took_s, trials.doubtful, trials.at_import = last["took_s"], set(last["doubtful"]), set(last["at_import"])
    unnoticed = [name for name in trials.names if function_key(name) in trials.at_import and not trials.outcomes[name].by]
    if unnoticed and not trials.has_enough():
        _try_anew(unnoticed, trials=trials, arguments=arguments, log=log)


def _try_anew(names: Sequence[str], *, trials: Trials, arguments: Sequence[str], log: Path) -> None:
    def work(name: str) -> Work:
        def do(tell: Tell) -> None:
            _print_to(log)
            switch(name)
            anew = Anew(names=[name], lines={}, rounds=trials.rounds, jobs=1, took_s=trials.took_s, doubtful=trials.doubtful, tell=tell)
            pytest.main([*arguments, "-s"], plugins=[anew])
            if anew.broken:
                tell({"test": "the collection of the tests", "failed": anew.broken})

        return Work(name=name, do=do, limit_s=lambda told: trials.limit_s(told) if told else COLLECT_S)

    for child in in_children([work(name) for name in ("", *names)], jobs=trials.jobs):
        by = _noticed(child)
        if child.work.name:
            trials.outcomes[child.work.name] = Outcome(by=by, is_reached=True, took_too_long=bool(by) and not child.ended)
        elif by:
            why = "".join(told.get("failed", "") for told in child.heard) or "its process died, or it did not end"
            raise ControlFailed(f"{by} fails without any change, after all that are quicker:\n{why}")


def _print_to(log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
