"""A program under a rate limit, killed with SIGKILL again and again, beside the ledger of its venue."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import asyncio, os, sys
from shockproof import ErrorRecoveryService, RateLimitedError
from shockproof.memory.disk.writer import wait_on_this_loop

async def send():
    os.write(1, b"sent\\n")  # the venue's ledger

async def main():
    recovery = ErrorRecoveryService(sys.argv[1], sys.argv[2])
    venue = recovery.service("venue", rate_limit=("48/h", "60/d"), max_wait=0.0)
    await recovery.restore_state()
    try:
        while True:
            await venue.call(send)
            # A disk that keeps up, however slow this machine is.
            await wait_on_this_loop(recovery._kept_sends._submit(lambda: None))
    except RateLimitedError:
        os.write(1, b"refused\\n")
        sys.stdin.read()

asyncio.run(main())
"""


def test_venue_that_counts_never_sees_more_than_its_limit_however_often_the_program_is_killed(
    tmp_path: Path,
) -> None:
    """It is killed after a few calls, twice; the third life sends until it is refused: 48 in all, but for a block for each kill."""
    total, refused = 0, False
    for life in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "state"), str(tmp_path / "errors")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        ) as process:
            assert process.stdout is not None
            for count, line in enumerate(process.stdout, 1):
                refused = line == b"refused\n"
                if refused or (life < 2 and count == 3 + 2 * life):
                    process.kill()
                    break
                total += 1
            rest = process.stdout.read().split(b"\n")  # what it has sent until the kill hit it
            total += rest.count(b"sent")
            total += not refused  # the last line before the kill
    assert refused
    assert 48 - 2 * 2 <= total <= 48
