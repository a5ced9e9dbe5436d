"""What holds for every test: no skip goes unseen, no thread is left behind, coroutines run on asyncio. And what many call."""

from __future__ import annotations

import inspect
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

import shockproof
from shockproof.calls import plan
from shockproof.memory.disk import writer
from shockproof.testing import VirtualClock, no_blocking_files, virtual_time

pytest_plugins = ["shockproof.testing.pytest_plugin"]

# All but the demo, a program whose venue reads its prices when it is made.
LIBRARY = [place for place in Path(shockproof.__file__).parent.iterdir() if place.name != "demo"]
SKIPS = Path(__file__).with_name("allowed_skips.txt")

# Hypothesis: no verdict may depend on how fast the machine is; in CI, none on chance.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None)
# Under mutation too; and there a counterexample is enough, however large.
settings.register_profile(
    "mutation",
    settings.get_profile("ci"),
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(
    "mutation" if "MUTANT_UNDER_TEST" in os.environ else "ci" if os.environ.get("CI") == "true" else "default"
)

# The first write of a life waits for the disk for five real seconds: a busy one may take longer to say that nothing is halted.
plan._PATIENCE = 60.0  # type: ignore[misc]  # see above
# So may a thread for which virtual time stands still: it must not go on before, or what the thread does comes too late in it.
virtual_time._PATIENCE = 60.0  # type: ignore[misc]  # see above
# And so may what another thread imports, which a fork waits for: the child could never import it.
writer._FORK_PATIENCE = 60.0  # type: ignore[misc]  # see above

# A shell's own settings of the service are no input of the tests.
for name in [name for name in os.environ if name.startswith("ERROR_RECOVERY_")]:
    del os.environ[name]


@dataclass(frozen=True)
class AllowedSkip:
    """One line of allowed_skips.txt."""

    pattern: str
    reason: str

    def matches(self, nodeid: str) -> bool:
        # Not fnmatch: the brackets of a parametrized test are no character class.
        return re.fullmatch(".*".join(map(re.escape, self.pattern.split("*"))), nodeid) is not None


def read_allowed_skips(text: str) -> list[AllowedSkip]:
    """The lines of allowed_skips.txt; one without a reason is refused."""
    allowed: list[AllowedSkip] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        pattern, _, reason = line.partition("  #")
        if not pattern.strip() or not reason.strip():
            raise pytest.UsageError(f"{SKIPS.name}:{number}: {line!r} has no '  # reason' behind its test")
        allowed.append(AllowedSkip(pattern.strip(), reason.strip()))
    return allowed


@dataclass(eq=False)
class SkipWatch:
    """Remembers what was skipped; where it counts, a skip that nobody allowed fails the session."""

    is_strict: bool
    allowed: list[AllowedSkip]
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    collected: list[str] = field(default_factory=list[str])
    is_whole: bool = False

    def note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            where = report.longrepr
            reason = str(where[2]) if isinstance(where, tuple) else str(where)
            self.skipped[report.nodeid] = reason.removeprefix("Skipped: ")

    pytest_runtest_logreport = note
    pytest_collectreport = note

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.collected = [item.nodeid for item in session.items]
        options = session.config.option
        narrowed = (
            session.config.args_source is pytest.Config.ArgsSource.ARGS or options.keyword or options.markexpr
        )
        self.is_whole = not narrowed and not session.config.getoption("lf", default=False)

    def complaints(self) -> list[str]:
        """What fails the session, one line each."""
        lines = [
            f"skipped and not listed in tests/{SKIPS.name}: {nodeid} ({reason})"
            for nodeid, reason in self.skipped.items()
            if not any(skip.matches(nodeid) for skip in self.allowed)
        ]
        if self.is_whole:
            known = self.collected + list(self.skipped)
            lines += [
                f"tests/{SKIPS.name} lists {skip.pattern!r}, which matches no test: remove the line"
                for skip in self.allowed
                if not any(skip.matches(nodeid) for nodeid in known)
            ]
        return lines

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.is_strict and session.exitstatus == pytest.ExitCode.OK and self.complaints():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.is_strict:
            for line in self.complaints():
                terminalreporter.write_line(f"CI: {line}", red=True)
        elif self.skipped:
            reasons = "; ".join(sorted(set(self.skipped.values())))
            terminalreporter.write_line(
                f"not tested here ({len(self.skipped)} skipped): {reasons}", yellow=True
            )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "plays_the_disk: it does on its own loop what the library does in the disk's thread"
    )
    allowed = read_allowed_skips(SKIPS.read_text(encoding="utf-8"))
    config.pluginmanager.register(SkipWatch(os.environ.get("CI") == "true", allowed), "skip-watch")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse coroutine tests that would not run, or would run on another event loop than they claim."""
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        if marks & {"anyio", "trio"}:
            raise pytest.UsageError(
                f"{item.nodeid}: shockproof is asyncio only: mark it with pytest.mark.asyncio"
            )
        is_async = isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj)
        if is_async and "asyncio" not in marks:
            raise pytest.UsageError(f"{item.nodeid}: a coroutine test needs @pytest.mark.asyncio")


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """Fail a test that leaves a thread behind which would keep the program from ending."""
    before = set(threading.enumerate())
    yield
    for thread in threading.enumerate():
        if thread not in before and not thread.daemon:
            thread.join(60.0)  # one that is on its way out may finish, on a machine that stands still, too
            assert not thread.is_alive(), f"the test left the thread {thread.name!r} running"


@pytest.fixture(autouse=True)
def _no_file_on_the_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test in which code of the library touches a file on an event loop; not one that does the disk's work itself."""
    if request.node.get_closest_marker("plays_the_disk") is not None:
        yield
        return
    with no_blocking_files(*LIBRARY):
        yield


@pytest.fixture
def _eager_switching() -> Iterator[None]:
    """Threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Scripted:
    """An async function that plays its outcomes one by one, the last for ever, and knows when it was called."""

    __name__ = "scripted"

    def __init__(self, clock: VirtualClock, *outcomes: object) -> None:
        self.clock = clock
        self.outcomes = list(outcomes)
        self.times: list[float] = []
        self.arguments: list[tuple[tuple[object, ...], dict[str, object]]] = []
        self.began = clock.monotonic()

    @property
    def calls(self) -> int:
        return len(self.times)

    async def __call__(self, /, *args: object, **kwargs: object) -> Any:
        self.times.append(round(self.clock.monotonic() - self.began, 6))
        self.arguments.append((args, kwargs))
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


@pytest.fixture
def script(clock: VirtualClock) -> Callable[..., Scripted]:
    """`script(error, error, answer)`: a function that plays these."""
    return lambda *outcomes: Scripted(clock, *outcomes)
