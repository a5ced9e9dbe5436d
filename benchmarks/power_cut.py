"""
What a power cut leaves on a real ext4: the image under a mounted file system is copied while it is written to.

    sudo ./run sh python benchmarks/power_cut.py [--cuts 100] [--seed 1] [--directory DIR]     # on a terminal
    sudo ./run bench power_cut                                                                 # into docs/explanation/crash-safety.md

Linux only; needs root, loop devices and e2fsprogs. A copy of the image holds what had reached the disk at that instant, and nothing of what
the kernel only had in memory: that is a power cut. For each writer below, an image is made and mounted, the writer
runs in a process of its own and says what it takes for durable, is stopped at a random moment, the image is copied, and the writer
goes on. Then each copy is mounted, which replays the file system's journal, and what is found is compared with what was said. Beside every
writer, another program appends to a file of its own and syncs that: so the file system commits now and then, as in real life.

Writers:
    shockproof                     saves its state, runs operations, halts and resumes, side by side
    write, rename                  json.dump to a temporary file, os.replace
    write, fsync, rename           the same, with the file synced; the directory is not

"lost" counts the cuts after which something was missing that had been said to be durable; "torn" those after which a file was empty, cut
off or no JSON, or, of shockproof, looked damaged. It models no disk that loses or reorders what it was told to flush.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from published import LEFT_OUT, SECTIONS, setting, table

from shockproof import ErrorRecoveryService
from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.journal.journal_files import read_journal
from shockproof.memory.journal.name import Name
from shockproof.memory.services.halt import FILE_NAME
from shockproof.memory.state.state_files import StateFiles

SECTION = SECTIONS["power_cut"]
IMAGE_BYTES = 48 << 20
MOST_LINES = 60
"""A cut comes after 1 to so many things that were said."""

# ---- writers: each in a process of its own


def say(text: str) -> None:
    os.write(1, text.encode() + b"\n")


async def shockproof(directory: Path) -> None:
    recovery = ErrorRecoveryService(directory / "state", directory / "errors")

    async def saves() -> None:
        number = 0
        while True:
            number += 1
            await recovery.save_state(cached_data={"number": number, "more": ["x"] * 500}, force=True)
            say(f"saved {number}")

    async def operations(worker: int) -> None:
        number = 0
        while True:
            number += 1
            key = f"{worker}-{number}"
            async with recovery.operation("job", key=key) as op:
                say(f"begun {key}")
                await op.checkpoint(index=1)
                say(f"reached {key}")
            say(f"completed {key}")

    async def halts() -> None:
        while True:
            say("halting")
            await recovery.halt("a test")
            say("halted")
            await asyncio.sleep(0)
            say("resuming")
            await recovery.resume()
            say("resumed")

    await asyncio.gather(saves(), halts(), *(operations(worker) for worker in range(4)))


def renames(directory: Path, *, sync: bool) -> None:
    number = 0
    while True:
        number += 1
        with (directory / "state.tmp").open("w") as file:
            json.dump({"number": number, "more": ["x"] * 500}, file)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        (directory / "state.tmp").replace(directory / "state.json")
        say(f"saved {number}")


def another_program(directory: Path) -> None:
    with (directory / "another.log").open("wb", buffering=0) as file:
        while True:
            file.write(b"a line\n")
            os.fsync(file.fileno())
            time.sleep(0.02)


WRITERS: dict[str, Callable[[Path], object]] = {
    "shockproof": lambda directory: asyncio.run(shockproof(directory)),
    "write, rename": lambda directory: renames(directory, sync=False),
    "write, fsync, rename": lambda directory: renames(directory, sync=True),
}


SHOWN = {"shockproof": "shockproof: state, operations, halts"}


def write(writer: str, directory: Path) -> None:
    threading.Thread(target=another_program, args=(directory,), daemon=True).start()
    WRITERS[writer](directory)


# ---- what a copy holds


def look_at_shockproof(directory: Path, said: list[str]) -> tuple[bool, bool]:
    last = {line.partition(" ")[0]: line.partition(" ")[2] for line in said}
    restored = StateFiles(directory / "state").load()
    number = 0 if restored.state is None else restored.state.cached_data["number"]
    is_lost = number < int(last.get("saved", 0))
    recovered = read_journal(SystemFiles(), directory / "state" / "journal")
    for line in said:
        what, _, key = line.partition(" ")
        if what in ("begun", "reached", "completed"):
            entry = recovered.table.get(Name("job", key))
            is_lost |= entry is None
            if entry is not None and not entry.is_completed:
                is_lost |= what == "completed" or (
                    what == "reached" and entry.body["progress"] != {"index": 1}
                )
    halts = [line for line in said if line in ("halting", "halted", "resuming", "resumed")]
    is_halted = (directory / "state" / FILE_NAME).exists()
    if halts and halts[-1] in ("halted", "resumed"):
        is_lost |= is_halted != (halts[-1] == "halted")
    is_torn = bool(restored.damaged) or recovered.damage is not None
    if is_halted:
        is_torn |= json.loads((directory / "state" / FILE_NAME).read_text())["reason"] != "a test"
    return is_lost, is_torn


def look_at_renames(directory: Path, said: list[str]) -> tuple[bool, bool]:
    last = int(said[-1].partition(" ")[2]) if said else 0
    try:
        number = json.loads((directory / "state.json").read_text())["number"]
    except FileNotFoundError:
        return last > 0, False
    except ValueError:
        return True, True
    return number < last, False


# ---- cutting


class Heard:
    """The lines that a writer has said so far, from a pipe."""

    def __init__(self, pipe: int) -> None:
        self.lines: list[str] = []
        self._pipe = pipe
        self._rest = b""

    def wait_for(self, more: int) -> None:
        """Return when so many more lines were said."""
        wanted = len(self.lines) + more
        while len(self.lines) < wanted:
            select.select([self._pipe], [], [])
            self.take()

    def take(self) -> None:
        """Take what is in the pipe."""
        while select.select([self._pipe], [], [], 0)[0]:
            data = os.read(self._pipe, 1 << 16)
            if not data:
                raise SystemExit("power_cut: the writer has died")
            *lines, self._rest = (self._rest + data).split(b"\n")
            self.lines += [line.decode() for line in lines]


def run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - tools of the system


@contextlib.contextmanager
def mounted(image: Path, at: Path, options: str) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    run("mount", "-o", f"loop,{options}", image, at)
    try:
        yield at
    finally:
        run("umount", at)


def stop(pid: int) -> None:
    """Return when no thread of the process runs, and none is in a system call."""
    os.kill(pid, signal.SIGSTOP)
    while True:
        tasks = Path(f"/proc/{pid}/task").glob("*/stat")
        if all(task.read_text().rpartition(")")[2].split()[0] == "T" for task in tasks):
            return
        time.sleep(0.001)


def cuts(
    writer: str, options: str, count: int, rng: random.Random, home: Path
) -> list[tuple[bool, bool, int]]:
    """Of each cut whether something was lost, or torn, and how much had been said."""
    image, place = home / "image", home / "mounted"
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    run("mkfs.ext4", "-q", "-F", image)
    seen: list[tuple[Path, int]] = []
    with mounted(image, place, options):
        command = [sys.executable, __file__, "--writer", writer, "--directory", str(place)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603 - this script itself
        assert process.stdout is not None
        heard = Heard(process.stdout.fileno())
        try:
            for number in range(count):
                heard.wait_for(rng.randint(1, MOST_LINES))
                stop(process.pid)
                heard.take()
                copy = home / f"copy-{number}"
                shutil.copyfile(image, copy)
                seen.append((copy, len(heard.lines)))
                os.kill(process.pid, signal.SIGCONT)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
    look = look_at_shockproof if writer == "shockproof" else look_at_renames
    results: list[tuple[bool, bool, int]] = []
    for copy, length in seen:
        with mounted(copy, place, options):
            results.append((*look(place, heard.lines[:length]), length))
        copy.unlink()
    return results


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cuts", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, default=None)
    parser.add_argument("--write", action="store_true", help=f"into {SECTION.page}")
    parser.add_argument("--writer", choices=WRITERS, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if options.writer is not None:
        write(options.writer, options.directory)
    missing = needed()
    if missing:
        print(f"power_cut: {missing} needed", file=sys.stderr)
        return LEFT_OUT
    rows = []
    for writer in WRITERS:
        for mount_options in ("defaults", "noauto_da_alloc"):
            with tempfile.TemporaryDirectory(dir=options.directory) as home:
                rng = random.Random(options.seed)
                found = cuts(writer, mount_options, options.cuts, rng, Path(home))
            lost, torn = (sum(each[index] for each in found) for index in (0, 1))
            rows.append(
                (SHOWN.get(writer, writer), f"`{mount_options}`", len(found), f"{found[-1][2]:,}", lost, torn)
            )
            print(*rows[-1], file=sys.stderr)
    text = table(
        [
            "writer",
            "ext4 mounted with",
            "cuts",
            "said to be durable",
            "cuts that lost some of it",
            "cuts that tore a file",
        ],
        rows,
    )
    print(f"{setting()}\n\n{text}")
    if options.write:
        SECTION.write(
            text,
            method=f"Seed {options.seed}; {IMAGE_BYTES >> 20} MiB of ext4 in a loop device.",
            cannot_tell="how a drive behaves that loses what it was told to flush, or other file systems; another run cuts elsewhere.",
        )
    return 0


def needed() -> str:
    """What is missing here, in words; empty: nothing."""
    if os.geteuid() != 0:
        return "root is"
    if not Path("/dev/loop-control").exists():
        return "loop devices are"
    return "" if shutil.which("mkfs.ext4") else "mkfs.ext4, of e2fsprogs, is"


if __name__ == "__main__":
    sys.exit(main())
