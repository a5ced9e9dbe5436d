"""The venue as a process of its own: it comes up, says where, and ends when it should."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

import pytest

aiohttp = pytest.importorskip("aiohttp", reason="the demo extra is not installed: no aiohttp")

from shockproof.demo.venue.process import VenueProcess, VenueStartError  # noqa: E402  only with the extra

pytestmark = pytest.mark.asyncio

COMMAND = (sys.executable, "-m", "shockproof.demo.venue", "--faults=none")
PIPE = asyncio.subprocess.PIPE
DEVNULL = asyncio.subprocess.DEVNULL


async def test_it_starts_serves_and_ends_with_the_block() -> None:
    """Three addresses while it runs, nobody there afterwards."""
    async with VenueProcess.start(faults="none", seed=3) as venue, aiohttp.ClientSession() as session:
        assert venue.is_running
        async with session.get(venue.base_url + "/api/v3/ping") as answer:
            assert answer.status == 200
        async with session.get(venue.reference_url + "/latest?base=EUR") as answer:
            assert (await answer.json())["quote"] == "USD"
        assert (await venue.session())["requests"] == 1
        assert ((await venue.ledger())["orders"], (await venue.fault_log())["counts"]) == ([], {})
    assert not venue.is_running
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(venue.base_url)


async def test_the_venue_ends_when_the_block_is_left_by_an_error() -> None:
    """No process is left behind."""
    with pytest.raises(ZeroDivisionError):
        async with VenueProcess.start(faults="none") as venue:
            raise ZeroDivisionError
    assert not venue.is_running


async def test_a_venue_that_does_not_come_up_says_why() -> None:
    """The error holds what the process wrote."""
    with pytest.raises(VenueStartError, match=r"ended before it was ready[\s\S]*faults must be one of none"):
        async with VenueProcess.start(faults="earthquake"):
            pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_with_code_zero(number: signal.Signals) -> None:
    """By hand, by Ctrl-C, or by a supervisor."""
    process = await asyncio.create_subprocess_exec(*COMMAND, stdin=DEVNULL, stdout=PIPE)
    assert process.stdout is not None
    assert json.loads(await process.stdout.readline())["pid"] == process.pid
    process.send_signal(number)
    assert await process.wait() == 0


async def test_a_closed_pipe_on_standard_input_ends_it() -> None:
    """So that it never outlives the program that started it, however that ends."""
    process = await asyncio.create_subprocess_exec(*COMMAND, stdin=PIPE, stdout=PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    await process.stdout.readline()
    process.stdin.close()
    assert await process.wait() == 0


async def test_the_death_of_its_parent_ends_it() -> None:
    """Without a pipe it still notices that it is alone."""
    # The shell-like parent starts a venue with no pipe, says its line, and is killed.
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import subprocess, sys\nsubprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL)",
        *COMMAND,
        stdin=DEVNULL,
        stdout=PIPE,
    )
    assert parent.stdout is not None
    venue = json.loads(await parent.stdout.readline())["pid"]
    parent.kill()
    await parent.wait()
    try:
        async with asyncio.timeout(60):
            # The venue holds the other end of this pipe: its end is the venue's end.
            assert await parent.stdout.read() == b""
    except TimeoutError:
        os.kill(venue, signal.SIGKILL)
        raise


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("--port=70000", "--port must be from 0 to 65535, got 70000"),
        ("--day-ms=0", "--day-ms must be more than 0, got 0"),
        ("--seconds=-3", "seconds must be a number of seconds greater than 0, got -3"),
        ("--client-timeout=nan", "client_timeout must be a number of seconds greater than 0, got nan"),
        ("--faults=late,rain", "got 'rain'"),
        ("--seed=one", "invalid int value: 'one'"),
    ],
)
async def test_a_bad_option_is_refused_with_name_value_and_way_out(option: str, complaint: str) -> None:
    """Exit code 2, nothing on standard output, no traceback."""
    process = await asyncio.create_subprocess_exec(*COMMAND, option, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)
    out, err = await process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert complaint in err.decode()
    assert "Traceback" not in err.decode()
