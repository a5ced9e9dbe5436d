"""What the tests of the command line share: a way to call it, and what a killed program left."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shockproof.__main__ import main

TRADER = Path(__file__).with_name("killed_trader.py")
SERVED = Path(__file__).with_name("served_program.py")


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def shockproof(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs the command line in this process."""

    def run(*words: object) -> Result:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Result(int(code), *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def _what_a_killed_trader_left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, TRADER, place / "state", place / "errors"],
        input="die\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "READY\n"), done.stderr
    return place


@pytest.fixture
def killed(_what_a_killed_trader_left: Path, tmp_path: Path) -> Path:
    """A copy of the directories (state and errors) that a trader left when it was killed."""
    return Path(shutil.copytree(_what_a_killed_trader_left, tmp_path / "killed"))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """The state directory of a trader that lives and owns its journal, and its process."""
    place = tmp_path / "running"
    command = [sys.executable, TRADER, place / "state", place / "errors"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as trader:
        assert trader.stdout is not None
        try:
            assert trader.stdout.readline() == "READY\n"
            yield place / "state", trader.pid
        finally:
            trader.kill()


@pytest.fixture
def served() -> Callable[[Path], AbstractContextManager[subprocess.Popen[str]]]:
    """Runs a program that serves its socket in the state directory of a place, as long as a block lasts."""

    @contextmanager
    def run(place: Path) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, SERVED, place / "state", place / "errors"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
            assert program.stdout is not None
            try:
                assert program.stdout.readline() == "READY\n"
                yield program
            finally:
                program.kill()

    return run
