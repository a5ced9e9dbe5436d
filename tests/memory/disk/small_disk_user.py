"""
A program whose disk gets full, or read-only, and good again: in a mount namespace of its own.

    unshare --mount python small_disk_user.py full|too-small|read-only DIRECTORY

It mounts a file system of 64 KiB at DIRECTORY, forks a process that lives there until it kills itself, and then reads what that
one has left. Both say what they see, a line for each thing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from shockproof import (
    NOT_FOUND,
    ErrorRecoveryService,
    JournalUnavailableError,
    StateNotSavedError,
)
from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.journal import journal as journals
from shockproof.memory.journal.journal_files import read_journal
from shockproof.memory.state.state_files import StateFiles

SEGMENT = 8192


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


class Program:
    """What a trading program does with its disk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.recovery = ErrorRecoveryService(directory / "state", directory / "errors", max_retries=0)
        self.venue = self.recovery.service("venue", effect="unsafe", max_retries=0)
        self.recovery.service("feed", circuit_threshold=100)

    async def save(self, number: int) -> None:
        try:
            await self.recovery.save_state(cached_data={"number": number, "more": "x" * 4000}, force=True)
        except StateNotSavedError as error:
            cause = error.__cause__
            assert isinstance(cause, OSError)
            say("save", number, "refused:", errno.errorcode[cause.errno or 0])
        else:
            say("save", number, "done")

    async def begin(self, key: str, *, ends: bool = False) -> bool:
        """Begin an operation, and let it be pending, or not."""
        try:
            with contextlib.suppress(ZeroDivisionError):
                async with self.recovery.operation("job", key=key, details="x" * 300):
                    if not ends:
                        raise ZeroDivisionError
        except JournalUnavailableError:
            return False
        return True

    async def order(self, key: str, *, is_cancel: bool = False) -> None:
        handle = self.venue.using(risk_reducing=is_cancel)
        what = "cancel" if is_cancel else "order"

        async def send(*, key: str) -> str:
            say(what, key, "sent")
            return key

        async def find(_key: str) -> object:
            return NOT_FOUND

        try:
            await handle.once(key=key, confirm=find, key_argument="key").call(send)
        except JournalUnavailableError:
            say(what, key, "refused")

    async def fail(self, text: str) -> None:
        """Have an error logged."""

        async def failing() -> None:
            raise ConnectionError(text)

        with contextlib.suppress(ConnectionError):
            await self.recovery.retry_with_backoff(failing, service_name="feed")

    async def error_log_is(self, state: str) -> None:
        """Say so when it is."""
        while self.recovery.get_health_status()["error_log"]["state"] != state:
            await self.recovery._error_log.flush(0.0)
        say("error log:", state)


def fill(directory: Path) -> None:
    """Take all the space that is left."""
    handle = os.open(directory / "ballast", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with contextlib.suppress(OSError):
        while os.write(handle, bytes(512)):
            pass
    os.close(handle)


async def full(directory: Path) -> None:
    program = Program(directory)
    await program.save(1)
    await program.order("o-1")
    await program.fail("before")
    async with program.recovery.operation("job", key="open"):
        say("operation open begun")
        fill(directory)
        await program.save(2)
        begun = 0
        # They end: the next segment begins with all that are pending, and this one here is small.
        while await program.begin(f"filler-{begun}", ends=True):
            begun += 1
            fill(directory)  # also what a segment leaves behind when another one is begun
        say("operations refused after some:", 10 < begun < 60)
        say("journal:", program.recovery.get_health_status()["journal"]["state"])
        await program.order("o-2")
        await program.order("c-1", is_cancel=True)
    say("operation open completed")
    for _ in range(12):  # one may fit in what is left of the log's last page
        await program.fail("full")
    await program.error_log_is("degraded")
    (directory / "ballast").unlink()
    await program.save(3)
    say("operation after", "begun" if await program.begin("after") else "refused")
    await program.order("o-3")
    await program.fail("after")
    await program.recovery.aclose(60.0)
    say("fillers:", begun)


async def too_small(directory: Path) -> None:
    program = Program(directory)
    await program.save(1)
    say("operation 1", "begun" if await program.begin("1") else "refused")
    await program.order("o-1")
    await program.order("c-1", is_cancel=True)
    await program.fail("one")
    try:
        await program.recovery.aclose(60.0)
    except JournalUnavailableError:
        say("at the end: c-1 is not journalled")


async def read_only(directory: Path) -> None:
    program = Program(directory)
    await program.save(1)
    say("operation 1", "begun" if await program.begin("1") else "refused")
    await program.recovery.aclose(60.0)  # what is open for writing stays so
    mount("--bind", directory, directory)
    mount("-o", "remount,bind,ro", directory)
    await program.save(2)
    say("operation 2", "begun" if await program.begin("2") else "refused")
    await program.order("o-1")
    await program.order("c-1", is_cancel=True)
    await program.fail("read-only")
    await program.error_log_is("degraded")
    umount(directory)
    await program.save(3)
    say("operation 3", "begun" if await program.begin("3") else "refused")
    await program.fail("after")
    await program.recovery.aclose(60.0)


PROGRAMS: dict[str, Callable[[Path], Awaitable[None]]] = {
    "full": full,
    "too-small": too_small,
    "read-only": read_only,
}


def mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


def umount(directory: Path) -> None:
    subprocess.run(["umount", directory], check=True)


def report(directory: Path) -> None:
    """What is there after the program's end."""
    restored = StateFiles(directory / "state").load()
    number = None if restored.state is None else restored.state.cached_data["number"]
    say("restored:", number, "damaged:", len(restored.damaged))
    recovered = read_journal(SystemFiles(), directory / "state" / "journal")
    pending = [str(entry.name.key) for entry in recovered.table.pending()]
    completed = [str(entry.name.key) for entry in recovered.table.completed()]
    say("fillers found:", sum(key.startswith("filler") for key in pending + completed))
    say(
        "pending:",
        *sorted(key for key in pending if not key.startswith("filler")),
        "damage:",
        recovered.damage,
    )
    say("completed:", *sorted(key for key in completed if not key.startswith("filler")))
    lines = [
        json.loads(line)
        for path in sorted((directory / "errors").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    say("errors:", *(line["error_message"] for line in lines if line["service_name"] == "feed"))


def main() -> None:
    scenario, directory = sys.argv[1], Path(sys.argv[2])
    logging.disable(logging.CRITICAL)
    journals._AGAIN_AFTER = (
        0.0  # one that failed is tried again with the next request, and not a second later
    )
    mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", directory)
    say("mounted")
    if scenario != "too-small":
        path = directory / "state" / "journal"
        small = journals.Journal(path, segment_bytes=SEGMENT)
        journals._journals[str(path)] = small
    child = os.fork()
    if not child:
        try:
            asyncio.run(PROGRAMS[scenario](directory))
        except BaseException as error:
            say("raised", repr(error))
            raise
        finally:
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    report(directory)


if __name__ == "__main__":
    main()
