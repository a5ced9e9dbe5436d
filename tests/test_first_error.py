"""The first error of a process: nothing that takes long happens on the loop because of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, json, sys, threading
from shockproof import ErrorRecoveryService

on_the_loop = []
main_thread = threading.current_thread()
watching = False

def hook(event, args):
    if event == "import" and watching and threading.current_thread() is main_thread:
        on_the_loop.append(args[0])

sys.addaudithook(hook)

async def fails():
    raise ConnectionError("reset")

async def main():
    global watching
    recovery = ErrorRecoveryService("state", "errors")
    if sys.argv[1] == "started":
        await recovery.start()
    watching = True
    try:
        await recovery.retry_with_backoff(fails, max_retries=0)
    except ConnectionError:
        pass
    watching = False
    health = recovery.get_health_status()
    await recovery.aclose()
    print(json.dumps([sorted(set(on_the_loop)), recovery.get_health_status()["error_log"]["written"]]))

asyncio.run(main())
"""


@pytest.mark.parametrize("begin", ["started", "not started"])
def test_the_first_error_imports_nothing_heavy_on_the_loop(tmp_path: Path, begin: str) -> None:
    """The models, aiofiles and what else a line in a file needs are loaded by the thread that writes it."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, begin],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    imported, written = json.loads(done.stdout)
    assert written == 1
    assert imported == []
