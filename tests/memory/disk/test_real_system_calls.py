"""
Real programs on a real disk, whose Nth system call kills them or fails, for every N until there is none.

strace does it: it lets a call fail with EIO or ENOSPC, or kills at it. What a program was told before then has to be on the disk,
and where it lives on, one failure costs one refusal.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from shockproof import ErrorRecoveryService
from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.journal.journal_files import Recovered, read_journal
from shockproof.memory.journal.name import Name
from shockproof.memory.journal.operation_table import OperationEntry
from shockproof.memory.services.halt import Halt
from shockproof.memory.state.state_files import StateFiles
from shockproof.testing import VirtualClock

SCRIPT = Path(__file__).with_name("disk_user.py")

CHANGES = "openat write fsync fdatasync rename link unlink mkdir fallocate ftruncate"
LOOKS = "read newfstatat getdents64 flock"
ALSO = {"rename": "renameat,?renameat2", "link": "linkat", "unlink": "unlinkat", "mkdir": "mkdirat"}
ALSO |= {"newfstatat": "stat,?fstat,?statx"}
"""What another processor, or another C library, calls it."""

FAULTS = {
    "signal=SIGKILL": CHANGES,
    "error=EIO": f"{CHANGES} {LOOKS}",
    "error=ENOSPC": "openat write fsync fdatasync rename link mkdir fallocate",
}


class Life(NamedTuple):
    """What a program said, and how it ended."""

    said: list[str]
    status: int
    trace: str
    """Its system calls, as far as they were asked for."""

    @property
    def was_killed(self) -> bool:
        return self.status == -signal.SIGKILL

    @property
    def was_touched(self) -> bool:
        return self.was_killed or "(INJECTED)" in self.trace

    def last(self, word: str) -> str | None:
        """What followed the word, when it was said last."""
        found = [line.partition(" ")[2] for line in self.said if line.partition(" ")[0] == word]
        return found[-1] if found else None


class DiskUser:
    """The process that forks a program for each life."""

    def __init__(self) -> None:
        self.ours, theirs = socket.socketpair()
        self.process = subprocess.Popen([sys.executable, SCRIPT], stdin=theirs)
        theirs.close()
        self.hit = 0
        """Calls so far at which a program was killed, or that failed."""
        self.heard = self.ours.makefile("r")
        while self.line() != "warm":
            pass

    def line(self) -> str:
        line = self.heard.readline()
        assert line, "the process that forks has died"
        return line.strip()

    def put(self, text: str) -> None:
        self.ours.sendall(text.encode() + b"\n")

    def close(self) -> None:
        self.heard.close()
        self.ours.close()
        self.process.wait(30)

    def life(self, program: str, directory: Path, inject: str) -> Life:
        """Let the program live once in the directory, with strace at it."""
        self.put(f"{program} {directory}")
        pid = self.line().removeprefix("ready ")
        trace = directory.with_suffix(".trace")
        calls = inject.partition(":")[0]
        strace = subprocess.Popen(
            ["strace", "-f", "-o", trace, "-e", f"trace={calls}", "-e", f"inject={inject}", "-p", pid],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert strace.stderr is not None
        answer = ""
        with strace, strace.stderr:
            while "attached" not in answer and (more := strace.stderr.readline()):
                answer += more
            self.put("go")
            said: list[str] = []
            while not (line := self.line()).startswith("ended "):
                said.append(line)
            strace.stderr.read()
        if "attached" not in answer:
            raise (PermissionError if "not permitted" in answer else RuntimeError)(answer.strip())
        return Life(said, int(line.removeprefix("ended ")), trace.read_text())


@pytest.fixture(scope="module")
def disk_user() -> Iterator[DiskUser]:
    if shutil.which("strace") is None:
        assert os.environ.get("CI") != "true", ".ci/run installs strace"
        pytest.skip("strace is not installed")
    user = DiskUser()
    try:
        yield user
        print(f"{user.hit:,} calls are hit")
    finally:
        user.close()


@pytest.fixture
def may_trace(disk_user: DiskUser, tmp_path: Path) -> None:
    try:
        disk_user.life("halts", tmp_path / "probe", "?fsync:error=EIO:when=65535")
    except PermissionError as error:
        pytest.skip(f"this machine lets no process trace another: {error}")


# ---- what has to be there


def complaint_about_saves(directory: Path, life: Life) -> str | None:
    restored = StateFiles(directory / "state").load()
    number = 0 if restored.state is None else restored.state.cached_data["number"]
    saved, tried = int(life.last("saved") or 0), len(life.said) + life.was_killed
    if not saved <= number <= tried:
        return f"restored {number}, and {saved} was saved"
    return f"damage: {restored.damaged}" if restored.damaged else None


def journal_in(directory: Path) -> Recovered:
    return read_journal(SystemFiles(), directory / "state" / "journal")


def complaint_about_operations(directory: Path, life: Life) -> str | None:
    recovered = journal_in(directory)
    entries = {key: recovered.table.get(Name("job", key)) for key in "1234"}
    for line in life.said:
        what, _, rest = line.partition(" ")
        complaint = about_operation(what, entries.get(rest[:1]))
        if complaint is not None:
            return f"{line}: {complaint}"
    if "flushed" in life.said and "refused operation 3" not in life.said:
        for key in "34":
            entry = entries[key]
            if entry is not None and entry.body["interrupted"] != "ZeroDivisionError":
                return f"why {key} was interrupted is lost"
    return recovered.damage


def about_operation(what: str, entry: OperationEntry | None) -> str | None:
    if what in ("begun", "reached", "completed") and entry is None:
        return "lost"
    if (
        what == "reached"
        and entry is not None
        and not entry.is_completed
        and entry.body["progress"] != {"index": 1}
    ):
        return "its checkpoint is lost"
    if what == "completed" and entry is not None and not entry.is_completed:
        return "its end is lost"
    return None


def complaint_about_orders(directory: Path, life: Life) -> str | None:
    recovered = journal_in(directory)
    for line in life.said:
        what, _, key = line.partition(" ")
        entry = recovered.table.get(Name("venue.once", key))
        if what == "sent" and entry is None:
            return f"{key} was sent, and is not known"
        if what == "sent" and "flushed" in life.said and entry is not None and not entry.is_completed:
            return f"the end of {key} is lost"
    return recovered.damage


def complaint_about_halts(directory: Path, life: Life) -> str | None:
    halt = Halt(directory / "state", clock=VirtualClock(), submit=lambda job: job(), on_change=lambda: None)
    halt._read()
    reasons = ["None", "a", "b", "None", "c"]
    done = [index for index, line in enumerate(life.said, 1) if line.startswith("halted")]
    possible = reasons[done[-1] if done else 0 : len(life.said) + 1 + life.was_killed]
    found = "None" if halt.mark is None else halt.mark.reason
    return None if found in possible else f"found {found}, and not one of {possible}"


def complaint_about_restoring(directory: Path, life: Life) -> str | None:
    if not life.was_killed and life.last("restored") != "7 pending":
        return "it did not restore the state, the second time either"
    restored = StateFiles(directory / "state").load()
    if restored.state is None or restored.state.cached_data["number"] != 7:
        return "the state is lost"
    if [entry.name.key for entry in journal_in(directory).table.pending()] != ["pending"]:
        return "the operation is lost"
    return None


def with_something_to_restore(directory: Path) -> None:
    """A state whose JSON is damaged, and an operation that is pending."""

    async def live() -> None:
        recovery = ErrorRecoveryService(directory / "state", directory / "errors")
        await recovery.save_state(cached_data={"number": 7})
        with pytest.raises(ZeroDivisionError):
            async with recovery.operation("job", key="pending"):
                raise ZeroDivisionError
        await recovery.aclose()

    asyncio.run(live())
    (directory / "state" / "system_state.json").write_text("{")


def with_nothing(directory: Path) -> None:
    """A first life."""


class Program(NamedTuple):
    """What is found by a program of disk_user.py, and what it leaves."""

    prepare: Callable[[Path], None]
    complaint: Callable[[Path, Life], str | None]
    threads: int = 1
    """How many of its threads use files. strace counts the calls of each of them, and so hits each of them once."""


PROGRAMS = {
    "save": Program(with_nothing, complaint_about_saves),
    "operations": Program(with_nothing, complaint_about_operations),
    "orders": Program(with_nothing, complaint_about_orders, threads=2),
    "halts": Program(with_nothing, complaint_about_halts),
    "restore": Program(with_something_to_restore, complaint_about_restoring, threads=2),
}


# ---- trying


def lives(disk_user: DiskUser, program: str, fault: str, home: Path) -> Iterator[tuple[str, Path, Life]]:
    """One life for each call that can be hit."""
    before = home / "before"
    before.mkdir()
    PROGRAMS[program].prepare(before)
    for name in FAULTS[fault].split():
        calls = ",".join(f"?{each}" for each in (name, *ALSO.get(name, "").split(",")) if each)
        number = 0
        while True:
            number += 1
            directory = home / f"{name}-{number}"
            shutil.copytree(before, directory)
            life = disk_user.life(program, directory, f"{calls}:{fault}:when={number}")
            yield f"{name} number {number}", directory, life
            shutil.rmtree(directory)
            if not life.was_touched:
                break


@pytest.mark.usefixtures("may_trace")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_whichever_system_call_is_hit_what_was_acknowledged_is_there(
    disk_user: DiskUser, program: str, fault: str, tmp_path: Path
) -> None:
    """Nothing acknowledged is lost, nothing looks damaged, and what lives on is refused once and no more."""
    found: list[str] = []
    touched = 0
    for where, directory, life in lives(disk_user, program, fault, tmp_path):
        touched += life.was_touched
        complaint = PROGRAMS[program].complaint(directory, life)
        if not life.was_killed and life.status:
            complaint = f"it ended with status {life.status}"
        if any(line.startswith("raised") for line in life.said):
            complaint = "it met an error that is none of its own"
        if sum(line.startswith("refused") for line in life.said) > PROGRAMS[program].threads:
            complaint = "one failure was refused more than once"
        if complaint is not None:
            found.append(f"{where}: {complaint}: it said {life.said}")

    disk_user.hit += touched
    print(f"{program}, {fault}: {touched} calls are hit")
    assert found == []
    assert touched > 3
