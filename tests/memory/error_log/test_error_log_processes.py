"""The error log when a program ends, forks, is killed, or shares a directory with others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from shockproof.memory.error_log.error_log import ErrorLog

PATIENCE = 60
COUNT = 500

PRELUDE = """
import asyncio, atexit, os, signal, sys, threading, warnings
from pathlib import Path
from shockproof.memory.disk import writer as background
from shockproof.memory.error_log.capture import CapturedError
from shockproof.memory.error_log.error_log import ErrorLog
from shockproof.vocabulary.statuses import ErrorSeverity

# Seconds; five and one, as it is, which a slow machine may take.
background.EXIT_TIMEOUT = background._FORK_PATIENCE = 60.0
directory = Path(sys.argv[1])
log = ErrorLog(directory)

def put(first, count, log=log):
    for number in range(first, first + count):
        log.put(CapturedError(
            timestamp=1_795_593_600.0, error_type="ValueError", error_message=str(number),
            severity=ErrorSeverity.MEDIUM, service_name=str(os.getpid()), function_name="f",
            stack_trace="Traceback (most recent call last):\\n" + "x" * 500))
"""


def start(code: str, directory: Path) -> subprocess.Popen[str]:
    # -X dev: a file, a loop or a coroutine that is left open says so on stderr.
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", PRELUDE + textwrap.dedent(code), str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(code: str, directory: Path) -> tuple[int, str, str]:
    process = start(code, directory)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def written(directory: Path) -> list[int]:
    """The numbers of all records, every line being whole."""
    return [
        int(json.loads(line)["error_message"])
        for path in sorted(directory.iterdir())
        for line in path.read_bytes().splitlines()
    ]


ENDS = {
    "the last statement": ("put(0, 500)", 0),
    "an exception": ("put(0, 500)\nraise SystemError('over')", 1),
    "sys.exit": ("put(0, 500)\nsys.exit(3)", 3),
    # A shell starts what it runs in the background with SIGINT ignored: then there would be no Ctrl-C.
    "Ctrl-C": (
        (
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "put(0, 500)\nos.kill(os.getpid(), signal.SIGINT)\nthreading.Event().wait()"
        ),
        None,
    ),
    "the end of asyncio.run": (
        """
        async def main():
            put(0, 500)
        asyncio.run(main())
        """,
        0,
    ),
    "an exception out of asyncio.run": (
        """
        async def main():
            put(0, 500)
            raise SystemError("over")
        asyncio.run(main())
        """,
        1,
    ),
    "SIGTERM that somebody handles": (
        """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        async def main():
            put(0, 500)
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()
        asyncio.run(main())
        """,
        0,
    ),
    "a thread that outlives the main one": (
        """
        main_thread = threading.main_thread()
        def late():
            main_thread.join()
            put(0, 500)
        threading.Thread(target=late).start()
        """,
        0,
    ),
    "an exit handler of the user that comes first": ("log\natexit.register(put, 100, 400)\nput(0, 100)", 0),
    "an object of the program that is taken down with the interpreter": (
        """
        class Connection:
            def __del__(self):
                put(100, 400)
        connection = Connection()
        put(0, 100)
        """,
        0,
    ),
    "an exit handler of the user that comes last": ("atexit.register(put, 100, 400)\nput(0, 100)", 0),
}


@pytest.mark.parametrize(("code", "status"), ENDS.values(), ids=ENDS)
def test_an_orderly_end_loses_nothing(tmp_path: Path, code: str, status: int | None) -> None:
    """Nobody flushed, nobody closed, and every record is there; stderr is the program's own."""
    returncode, _, err = run(code, tmp_path)

    assert (returncode == status) if status is not None else (returncode != 0)
    assert sorted(written(tmp_path)) == list(range(COUNT))
    assert "shockproof:" not in err
    assert "Warning" not in err


def test_what_an_exit_handler_records_is_waited_for_where_the_machine_stands_still(tmp_path: Path) -> None:
    """Each record is saved before the next one; one that was not in time takes all behind it along."""
    returncode, _, err = run(
        """
        from shockproof.memory.disk.file_layer import SystemFiles
        class StandsStill(SystemFiles):
            def open_to_append(self, path):
                if background.is_exiting():
                    SystemFiles.open_to_append(self, path).close()
                    threading.Event().wait(1.7)
                    StandsStill.open_to_append = SystemFiles.open_to_append
                return SystemFiles.open_to_append(self, path)

        log = ErrorLog(directory, layer=StandsStill())
        atexit.register(put, 100, 400, log)
        put(0, 100, log)
        assert log.flush_blocking(60)
        """,
        tmp_path,
    )

    assert (returncode, err) == (0, "")
    assert sorted(written(tmp_path)) == list(range(COUNT))


def test_errors_that_come_too_late_to_be_written_are_told_of_at_once(tmp_path: Path) -> None:
    """The first of all comes while the interpreter is taken down: nothing can be loaded any more, and nobody waits for it."""
    returncode, _, err = run(
        """
        class Connection:
            def __del__(self):
                put(0, 2)
        connection = Connection()
        """,
        tmp_path / "errors",
    )

    assert returncode == 0
    assert (
        err
        == f"shockproof: errors can no longer be written to {tmp_path}/errors (the interpreter is shutting down)\n"
    )


def test_an_end_with_a_hanging_disk_is_bounded_and_says_what_is_lost(tmp_path: Path) -> None:
    """One line on stderr instead of a program that never ends."""
    os.mkfifo(tmp_path / "errors_20261125.jsonl")
    reader = os.open(tmp_path / "errors_20261125.jsonl", os.O_RDONLY | os.O_NONBLOCK)
    returncode, _, err = run("background.EXIT_TIMEOUT = 0.2\nput(0, 500)", tmp_path)
    os.close(reader)

    assert returncode == 0
    (line,) = err.splitlines()
    assert line.startswith("shockproof: ")
    assert line.split()[1].isdigit()
    assert f"error records could not be written to {tmp_path} in time" in line


def test_an_end_with_a_full_disk_says_why(tmp_path: Path) -> None:
    """The system's own words."""
    (tmp_path / "errors_20261125.jsonl").symlink_to("/dev/full")
    returncode, _, err = run(
        """
        background.EXIT_TIMEOUT = 0.2
        put(0, 10)
        while "No space" not in str(log.statistics().last_error):  # it has tried
            log.flush_blocking(0.1)
        """,
        tmp_path,
    )

    assert returncode == 0
    assert "shockproof: 10 error records could not be written" in err
    assert "No space left on device" in err


def test_a_fork_writes_its_own_records_and_no_others(tmp_path: Path) -> None:
    """What waited in the parent is written by the parent, once; the child has threads of its own."""
    returncode, _, err = run(
        """
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks with threads
        put(0, 1)
        log.flush_blocking()
        put(1, 99)
        child = os.fork()
        if child == 0:
            assert log.statistics().submitted == 0
            put(100, 100)
            assert log.flush_blocking()
            put(200, 100)
            sys.exit(0)
        put(300, 200)
        _, status = os.waitpid(child, 0)
        sys.exit(os.waitstatus_to_exitcode(status))
        """,
        tmp_path,
    )

    assert (returncode, err) == (0, "")
    assert sorted(written(tmp_path)) == list(range(COUNT))


def test_a_fork_waits_for_an_import_of_the_writer(tmp_path: Path) -> None:
    """Or the child could never import what the parent's thread was importing just then."""
    returncode, out, err = run(
        """
        from importlib.abc import MetaPathFinder
        warnings.simplefilter("ignore", DeprecationWarning)
        begun, goes_on = threading.Event(), threading.Event()

        class Slow(MetaPathFinder):
            def find_spec(self, name, path, target=None):
                if name == "aiofiles" and threading.current_thread() is not threading.main_thread():
                    begun.set()
                    assert goes_on.wait(60)

        sys.meta_path.insert(0, Slow())
        put(0, 1)
        assert begun.wait(60)
        os.register_at_fork(before=goes_on.set)  # called before the library's own
        child = os.fork()
        if child == 0:
            put(1, 1)
            print(log.flush_blocking(20), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        """,
        tmp_path,
    )

    assert (returncode, out, err) == (0, "True\n", "")
    assert sorted(written(tmp_path)) == [0, 1]


def test_a_forked_worker_of_multiprocessing_saves_its_records(tmp_path: Path) -> None:
    """It ends without the interpreter's exit handlers."""
    returncode, _, err = run(
        """
        import multiprocessing
        warnings.simplefilter("ignore", DeprecationWarning)
        put(0, 100)
        processes = [multiprocessing.get_context("fork").Process(target=put, args=(first, 200)) for first in (100, 300)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        """,
        tmp_path,
    )

    assert (returncode, err) == (0, "")
    assert sorted(written(tmp_path)) == list(range(COUNT))


def test_four_processes_share_a_file(tmp_path: Path) -> None:
    """Every line is whole, none is missing, and each process's own are in order."""
    code = """
        log = ErrorLog(directory)
        sys.stdin.readline()
        for first in range(0, 2_000, 50):
            put(first, 50, log)
            log.flush_blocking()
    """
    processes = [start(code, tmp_path) for _ in range(4)]
    results = [process.communicate("go\n", timeout=PATIENCE) for process in processes]
    assert [result[1] for result in results] == [""] * 4

    by_process: dict[str, list[int]] = {}
    (path,) = tmp_path.iterdir()
    for line in path.read_bytes().splitlines():
        fields = json.loads(line)
        by_process.setdefault(fields["service_name"], []).append(int(fields["error_message"]))
    assert list(by_process.values()) == [list(range(2_000))] * 4


@pytest.mark.asyncio
async def test_a_killed_process_leaves_whole_lines_and_at_most_one_torn(tmp_path: Path) -> None:
    """What it called flushed is there, and the next process goes on behind it."""
    code = """
        for first in range(0, 10**9, 100):
            put(first, 100)
            log.flush_blocking()
            print(first + 100, flush=True)
    """
    process = start(code, tmp_path)
    assert process.stdout is not None
    flushed = 0
    for line in process.stdout:
        flushed = int(line)
        if flushed >= 2_000:
            process.kill()
            break
    process.communicate(timeout=PATIENCE)
    with (tmp_path / "errors_20261125.jsonl").open("ab") as torn:
        torn.write(b'{"timestamp": "2026-')  # the worst that a kill can leave

    assert run("put(0, 1)", tmp_path)[0] == 0
    reading = ErrorLog(tmp_path).read()
    numbers = [int(record.error_message) async for record in reading]
    assert reading.skipped == 1
    assert numbers[:flushed] == list(range(flushed))
    assert numbers[-1] == 0


def test_a_file_that_may_not_grow_gets_whole_lines_only(tmp_path: Path) -> None:
    """A real short write in the middle of a line, and room again later."""
    returncode, out, err = run(
        """
        import resource
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        put(0, 500)
        while log.statistics().state != "degraded":
            log.flush_blocking(0.0)
        log.flush_blocking(0.1)
        full = log.statistics()
        print((directory / "errors_20261125.jsonl").read_bytes().endswith(b"\\n"))
        print(full.written + full.queued == 500, 0 < full.written < 20, "large" in full.last_error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        print(log.flush_blocking(30))
        """,
        tmp_path,
    )

    assert (returncode, out.split(), err) == (0, ["True"] * 5, "")
    assert written(tmp_path) == list(range(COUNT))


def test_a_record_in_an_exit_handler_after_ours_is_saved(tmp_path: Path) -> None:
    """By then nobody else would wait for it."""
    returncode, out, _ = run(
        """
        @atexit.register
        def last():
            put(1, 1)
            print(log.statistics().written)
        put(0, 1)
        """,
        tmp_path,
    )

    assert (returncode, out) == (0, "2\n")
    assert written(tmp_path) == [0, 1]
