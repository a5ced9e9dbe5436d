"""Files that are touched on an event loop: found with their line, and nothing else is."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from shockproof import ErrorRecoveryService
from shockproof.testing import BlockingFileCall, no_blocking_files

Touch = Callable[[Path], object]


def with_descriptor(path: Path, act: Callable[[int], object]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        act(descriptor)
    finally:
        os.close(descriptor)


TOUCHES: dict[str, Touch] = {
    "open": lambda path: path.open("a").close(),
    "os.open": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_CREAT)),
    "os.stat": lambda path: path.exists(),
    "os.listdir": lambda path: list(path.parent.iterdir()),
    "os.scandir": lambda path: os.scandir(path.parent).close(),
    "os.mkdir": lambda path: path.with_name("new").mkdir(),
    "os.rename": lambda path: path.rename(path.with_name("there is no such directory") / "file"),
    "os.fsync": lambda path: with_descriptor(path, os.fsync),
    "os.write": lambda path: with_descriptor(path, lambda descriptor: os.write(descriptor, b"here")),
    "sqlite3.connect": lambda path: sqlite3.connect(":memory:").close(),
}


def found_in(main: Callable[[], Awaitable[object]], *only: Path) -> list[BlockingFileCall]:
    """What a loop that runs *main* is caught at."""

    async def running() -> None:
        await main()

    found: list[BlockingFileCall] = []
    told = ""
    try:
        with no_blocking_files(*only) as so_far:
            found = so_far
            asyncio.run(running())
    except AssertionError as error:
        told = str(error)
    assert bool(told) is bool(found)
    assert all(str(call) in told for call in found)
    return found


@pytest.mark.parametrize("name", TOUCHES)
def test_what_touches_a_file_on_the_loop_is_found_with_its_line(tmp_path: Path, name: str) -> None:
    """Whichever way it is done, and whoever of the standard library does it."""

    async def main() -> None:
        try:
            TOUCHES[name](tmp_path / "a file")
        except OSError:  # what matters is that it was tried
            pass

    found = found_in(main)
    assert found
    assert any(call.call == name or (name, call.call) == ("os.open", "open") for call in found)
    assert all(call.where.startswith(f"{__file__}:") for call in found)


def test_in_a_thread_or_without_a_loop_it_is_what_files_are_for(tmp_path: Path) -> None:
    """Only the thread whose loop runs has to be quick."""

    def touch() -> None:
        for touching in TOUCHES.values():
            try:
                touching(tmp_path / "a file")
            except OSError:
                pass

    async def main() -> None:
        await asyncio.to_thread(touch)

    assert found_in(main) == []
    with no_blocking_files():
        touch()


def test_only_the_code_that_is_asked_for_counts(tmp_path: Path) -> None:
    """A test's own files are no business of the library's."""

    async def main() -> None:
        (tmp_path / "a file").touch()

    assert found_in(main, Path(__file__).parent)
    assert found_in(main, Path(__file__))
    assert found_in(main, tmp_path) == []
    assert found_in(main, tmp_path, Path(__file__))
    assert found_in(main, Path(__file__).with_name("test_block")) == []


def test_imports_and_logging_handlers_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first happens once, the other is for the program to choose."""
    (tmp_path / "a_module_of_this_test.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    logger = logging.getLogger("of this test")
    logger.addHandler(logging.FileHandler(tmp_path / "log", delay=True))

    async def main() -> None:
        importlib.import_module("a_module_of_this_test")
        logger.warning("a line in a file")

    assert found_in(main) == []
    assert (tmp_path / "log").read_text() == "a line in a file\n"
    logger.handlers[0].close()
    del sys.modules["a_module_of_this_test"]


def test_what_the_loop_does_for_itself_does_not_count() -> None:
    """A process's pipes are read with `os.read`, and are no files."""

    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "print(1)", stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert out == b"1\n"

    assert {call.call for call in found_in(main)} <= {"open"}  # what starting a process opens itself


def test_the_block_s_own_error_is_not_replaced() -> None:
    """What went wrong first is what is told."""

    async def main() -> None:
        TOUCHES["os.stat"](Path())
        raise KeyError("first")

    with pytest.raises(KeyError, match="first"), no_blocking_files():
        asyncio.run(main())


def test_afterwards_everything_is_as_it_was() -> None:
    """Also where several watched at the same time."""

    async def main() -> None:
        TOUCHES["os.stat"](Path())

    before = os.stat
    inner: list[BlockingFileCall] = []

    async def twice() -> None:
        await main()
        try:
            with no_blocking_files() as found:
                await main()
        except AssertionError:
            inner.extend(found)

    outer = found_in(twice)
    assert (len(inner), len(outer)) == (1, 2)
    # This suite watches all of its tests itself: it is the one that puts the functions back.
    assert os.stat is before
    asyncio.run(main())
    assert len(outer) == 2


def test_a_save_touches_no_file_on_the_loop(tmp_path: Path) -> None:
    """All tests of this suite are watched like this, by a fixture of conftest.py."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    library = Path(sys.modules["shockproof"].__file__ or "").parent

    async def save() -> None:
        await recovery.save_state(cached_data={"AAPL": 1}, force=True)
        await recovery.aclose()

    assert found_in(save, library) == []


def test_what_a_loop_in_debug_mode_takes_down_does_not_count() -> None:
    """Each future looks for the source of the lines that made it; that is what was asked for."""

    async def main() -> None:
        asyncio.get_running_loop().set_debug(True)
        await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))

    assert found_in(main) == []
