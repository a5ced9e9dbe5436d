"""
Programs that use the disk, each in a forked process that can be traced from its first file on.

    python disk_user.py        its standard input is a socket, for both directions

It reads commands, one a line: ``PROGRAM DIRECTORY``. For each it forks; the child says ``ready PID``, waits for another
line, runs the program, and says what it knows: ``saved 3``, ``refused save 4``. Then the parent says ``ended STATUS``.

Everything is imported before, and what is heard and said goes through the socket: so each `openat`, `read` and `write` that is
traced is one of a file of the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import importlib
import logging
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from shockproof import (
    NOT_FOUND,
    ErrorRecoveryService,
    HaltedError,
    JournalUnavailableError,
    StateNotSavedError,
)
from shockproof.memory.journal import journal

_PR_SET_PTRACER = 0x59616D61
_ANY = ctypes.c_ulong(-1)
# From linux/prctl.h: where a process may trace its own children only, this one lets any other.

caller = socket.socket(fileno=0)


def say(text: str) -> None:
    caller.sendall(text.encode() + b"\n")


def hear() -> str:
    """A line, or nothing when the caller has gone; not a byte more, which would be for the next process."""
    line = b""
    while not line.endswith(b"\n"):
        piece = caller.recv(1)
        if not piece:
            return ""
        line += piece
    return line.decode().strip()


async def save(recovery: ErrorRecoveryService) -> None:
    for number in range(1, 4):
        try:
            await recovery.save_state(cached_data={"number": number}, force=True)
        except StateNotSavedError:
            say(f"refused save {number}")
        else:
            say(f"saved {number}")


async def operations(recovery: ErrorRecoveryService) -> None:
    for key in ("1", "2"):
        with refusal_of(f"operation {key}"):
            async with recovery.operation("job", key=key) as op:
                say(f"begun {key}")
                await op.checkpoint(index=1)
                say(f"reached {key} 1")
            say(f"completed {key}")
    for key in ("3", "4"):
        with contextlib.suppress(ZeroDivisionError), refusal_of(f"operation {key}"):
            async with recovery.operation("job", key=key):
                say(f"begun {key}")
                raise ZeroDivisionError
    with refusal_of("flush"):
        await recovery.aclose()
        say("flushed")


async def orders(recovery: ErrorRecoveryService) -> None:
    async def submit(*, key: str) -> str:
        say(f"sent {key}")
        return key

    async def find(_key: str) -> object:
        return NOT_FOUND

    venue = recovery.service("venue", max_retries=0)
    for key in ("order-1", "order-2", "order-3"):
        once = venue.once(key=key, confirm=find, key_argument="key")
        try:
            with refusal_of(key):
                await once.call(submit)
        except HaltedError:  # nobody could read whether it is halted
            say(f"refused {key}")
            await recovery.resume()
    with refusal_of("flush"):
        await recovery.aclose()
        say("flushed")


async def halts(recovery: ErrorRecoveryService) -> None:
    for reason in ("a", "b", None, "c"):
        try:
            await (recovery.resume() if reason is None else recovery.halt(reason))
        except StateNotSavedError:
            say(f"refused halt {reason}")
        else:
            say(f"halted {reason}")


async def restore(recovery: ErrorRecoveryService) -> None:
    while True:
        try:
            state = await recovery.restore_state()
            break
        except OSError:
            say("refused restore")
    keys = [] if state is None else [str(one["key"]) for one in state.active_operations]
    say(f"restored {None if state is None else state.cached_data['number']} {','.join(keys)}")


@contextlib.contextmanager
def refusal_of(what: str) -> Iterator[None]:
    try:
        yield
    except JournalUnavailableError:
        say(f"refused {what}")


PROGRAMS: dict[str, Callable[[ErrorRecoveryService], Awaitable[None]]] = {
    program.__name__: program for program in (save, operations, orders, halts, restore)
}


async def run(program: str, directory: Path) -> None:
    recovery = ErrorRecoveryService(directory / "state", directory / "errors")
    try:
        await PROGRAMS[program](recovery)
    except BaseException as error:
        say(f"raised {error!r}")
        raise


async def run_and_end(program: str, directory: Path) -> None:
    try:
        await run(program, directory)
    finally:
        os._exit(0)  # here: what a loop closes at its end is no file of the program


def in_the_child(work: Callable[[], None]) -> int:
    """The status of a forked process that does it."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:  # noqa: BLE001 - it goes no further than this process
            traceback.print_exc()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def warm_up() -> None:
    """Import whatever the programs do, and start no thread here. What they say is for nobody, up to ``warm``."""

    def use_everything() -> None:
        with tempfile.TemporaryDirectory() as directory:
            for program in PROGRAMS:
                asyncio.run(run(program, Path(directory)))
            names.write_text("\n".join(sys.modules))

    handle, name = tempfile.mkstemp()
    os.close(handle)
    names = Path(name)
    in_the_child(use_everything)
    for module in names.read_text().split():
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    names.unlink()


def main() -> None:
    logging.disable(logging.CRITICAL)
    journal._AGAIN_AFTER = 0.0  # a journal that failed is tried again at once
    warm_up()
    say("warm")
    while command := hear():
        program, _, directory = command.partition(" ")
        say(f"ended {in_the_child(functools.partial(one_life, program, Path(directory)))}")


def one_life(program: str, directory: Path) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANY, 0, 0, 0)
    say(f"ready {os.getpid()}")
    hear()
    asyncio.run(run_and_end(program, directory))


if __name__ == "__main__":
    main()
