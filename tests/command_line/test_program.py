"""The program as a process: what it loads, how it ends, what it does at a terminal."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]  # the fixture's result

COMMAND = [sys.executable, "-m", "shockproof"]


@pytest.mark.parametrize(
    ("words", "is_free_of"),
    [
        (["--version"], {"asyncio", "pydantic", "aiofiles", "anyio", "rich", "json", "shockproof.memory"}),
        (["--help"], {"asyncio", "pydantic", "aiofiles", "anyio", "rich", "json", "shockproof.memory"}),
        (["journal", "verify", "--help"], {"pydantic", "rich", "shockproof.demo", "ccxt"}),
    ],
    ids=["version", "help", "a command's help"],
)
def test_a_command_loads_only_what_it_needs(words: list[str], is_free_of: set[str]) -> None:
    """`shockproof --version` answers at once: other commands' imports are not its own."""
    program = (
        "import sys; from shockproof.__main__ import main\n"
        f"try: main({words!r})\n"
        "except SystemExit: pass\n"
        "print('\\n'.join(['', 'loaded:', *sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=100
    )
    assert is_free_of.isdisjoint(done.stdout.partition("loaded:")[2].split())


def test_a_reader_that_leaves_early_is_no_error(killed: Path) -> None:
    """`shockproof journal dump | head` prints no traceback; the exit code is that of a broken pipe."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*COMMAND, "journal", "dump", "--state-dir", killed / "state"],
            env={**os.environ, "PYTHONUNBUFFERED": ""},  # some is left to write when the program ends
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=100,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_an_output_that_is_full_is_said_in_one_line(killed: Path) -> None:
    """A script that saves a dump on a full disk must not believe that it has one."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "journal", "dump", "--state-dir", killed / "state"],
            env={**os.environ, "PYTHONUNBUFFERED": ""},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=100,
        )
    assert (done.returncode, done.stderr) == (2, "shockproof journal: No space left on device\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_stream_that_is_closed_is_no_error(killed: Path, closed: str) -> None:
    """As some schedulers start programs: the exit code is what it would be."""
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *COMMAND, "operations", "list", "--state-dir", killed / "state"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")


def at_a_terminal(words: list[str], typed: str, environment: dict[str, str]) -> tuple[int, str]:
    """Run a command whose stdin, stdout and stderr are a terminal."""
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            words, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, **environment}
        ) as process:
            os.close(theirs)
            os.write(ours, typed.encode())
            said = b""
            with contextlib.suppress(OSError):  # EIO: the other end is closed
                while piece := os.read(ours, 65536):
                    said += piece
            return process.wait(100), said.decode()
    finally:
        os.close(ours)


def test_at_a_terminal_there_are_colours_and_a_question(killed: Path) -> None:
    """A person says yes; the answer is recorded."""
    words = [
        *COMMAND,
        "operations",
        "resolve",
        "bot-5",
        "--outcome",
        "found",
        "--state-dir",
        killed / "state",
    ]
    code, said = at_a_terminal(list(map(str, words)), "y\n", {"TERM": "xterm", "NO_COLOR": ""})
    assert code == 0, said
    assert "Record 'found' (it is there: the order is at the venue, the job was done)? [y/N]" in said
    assert "\x1b[32mRecorded: found" in said


def test_a_person_who_does_not_agree_changes_nothing(killed: Path) -> None:
    """Enter alone is no."""
    state = killed / "state"
    words = [*COMMAND, "operations", "resolve", "bot-5", "--outcome", "found", "--state-dir", state]
    code, said = at_a_terminal(list(map(str, words)), "\n", {"TERM": "xterm", "NO_COLOR": "1"})
    assert (code, "nothing was changed" in said) == (2, True)
    assert "\x1b[" not in said
    assert not (state / "journal" / "resolved.jsonl").exists()


def test_in_a_pipe_there_are_no_colours(shockproof: Run, killed: Path) -> None:
    """A script reads words, and no escape sequences."""
    assert "\x1b" not in shockproof("operations", "list", "--state-dir", killed / "state").out


def test_what_others_wrote_cannot_reach_the_terminal(shockproof: Run, killed: Path) -> None:
    """A venue's text may hold escape sequences, which would do to the terminal whatever they say."""
    mark = '{"format_version": 1, "reason": "\\u001b]0;owned\\u0007", "since": "2026-11-25T10:00:00+00:00"}'
    (killed / "state" / "halted.json").write_text(mark)
    shown = shockproof("state", "show", "--state-dir", killed / "state").out
    assert "\x1b" not in shown
    assert "\\x1b]0;owned\\x07" in shown


def test_a_bug_is_one_line_too(shockproof: Run, killed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own exit code; --traceback shows where it came from."""
    monkeypatch.setattr("shockproof.command_line.state.StateFiles", None)
    broken = shockproof("state", "show", "--state-dir", killed / "state")
    assert (broken.code, broken.err.count("\n")) == (70, 1)
    assert broken.err.startswith(
        "shockproof state: a bug, and shockproof --traceback ... shows where: TypeError"
    )
    with pytest.raises(TypeError):
        shockproof("--traceback", "state", "show", "--state-dir", killed / "state")


def test_a_disk_that_refuses_is_one_line(
    shockproof: Run, killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the file that it was about."""

    def refuse(*words: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(killed / "state"))

    monkeypatch.setattr("shockproof.command_line.operations.read_journal", refuse)
    refused = shockproof("operations", "list", "--state-dir", killed / "state")
    assert (refused.code, refused.err) == (
        2,
        f"shockproof operations: {killed / 'state'}: Permission denied\n",
    )


def test_an_unknown_command_is_refused_in_one_line(shockproof: Run) -> None:
    """With those that there are."""
    refused = shockproof("operatoins", "list")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "choose from" in refused.err
