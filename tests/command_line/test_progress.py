"""A progress bar is for a person at a terminal, and for nobody else."""

from __future__ import annotations

import importlib.util
import os
import pty
import subprocess
import sys

import pytest

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


@pytest.mark.skipif(importlib.util.find_spec("rich") is None, reason="the cli extra is not installed")
def test_at_a_terminal_the_bar_is_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    """The result on stdout stays clean."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"}
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
    finally:
        os.close(ours)
    assert b"reading" in said
    assert capfd.readouterr().out == "the result\n"
