"""A progress bar is for a person at a terminal, and for nobody else."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shockproof.command_line import reading
from shockproof.command_line.reading import files_with_progress

PROGRAM = """
import time
from shockproof.command_line.progress import progress
with progress("reading") as advance:
    for done in range(11):
        advance(done, 10)
print("the result")
"""


def test_in_a_pipe_there_is_no_bar(capfd: pytest.CaptureFixture[str]) -> None:
    """Logs of scripts stay readable, and rich is not even loaded."""
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=100)
    assert capfd.readouterr() == ("the result\n", "")


def said_at_a_terminal(program: str, *words: object) -> bytes:
    """What *program* says on stderr, which is a terminal; it ends well."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, words)],
            stdin=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "200"},
        )
        os.close(theirs)
        said = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # EIO: the other end is closed
                break
            if not piece:
                break
            said += piece
        assert process.wait(100) == 0
        return said
    finally:
        os.close(ours)


@pytest.mark.skipif(importlib.util.find_spec("rich") is None, reason="the cli extra is not installed")
def test_at_a_terminal_the_bar_is_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    """The result on stdout stays clean."""
    assert b"reading" in said_at_a_terminal(PROGRAM)
    assert capfd.readouterr().out == "the result\n"


COMMAND = """
import sys
from shockproof.command_line import reading
from shockproof.command_line.program import main
reading._SHORT = 0  # else it would take files of many megabytes
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(importlib.util.find_spec("rich") is None, reason="the cli extra is not installed")
@pytest.mark.parametrize("command", ["state", "journal"])
def test_large_states_and_journals_are_read_with_a_bar(
    command: str, killed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Who waits for half a minute sees that it goes on."""
    said = said_at_a_terminal(COMMAND, command, "verify", "--json", "--state-dir", killed / "state")
    assert f"reading {killed / 'state'}".encode() in said
    assert json.loads(capfd.readouterr().out)  # one document, and nothing in between


def test_the_bar_is_told_of_each_file_and_of_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends where it said that it would; little is read without one."""
    told: list[tuple[float, float]] = []

    @contextlib.contextmanager
    def recorded(what: str) -> Iterator[Callable[[float, float], None]]:
        yield lambda done, total: told.append((done, total))

    monkeypatch.setattr(reading, "progress", recorded)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"12345")
    (tmp_path / "below").mkdir()
    for short, expected in ((0, [(0, 10), (5, 10), (10, 10)]), (11, [])):
        told.clear()
        monkeypatch.setattr(reading, "_SHORT", short)
        with files_with_progress(tmp_path) as layer:
            assert [layer.read(tmp_path / name, 100) for name in ("a", "b")] == [b"12345"] * 2
        assert told == expected
    with files_with_progress(tmp_path / "absent") as layer, pytest.raises(FileNotFoundError):
        layer.read(tmp_path / "absent" / "a", 1)
