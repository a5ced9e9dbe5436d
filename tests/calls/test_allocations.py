"""How many pieces of memory a call takes: counted, because a count is the same on every machine and a time is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# In a process of its own: what pytest, its threads and its tracing allocate would be counted, too.
PROGRAM = """
import asyncio, gc, json, sys, time, tracemalloc
from shockproof import CircuitOpenError, ErrorRecoveryService
from shockproof.memory.disk.writer import DiskThread, Writer

# Its threads would end after some idle seconds, on a slow machine in the middle, and free what they had.
for kind in (DiskThread, Writer):
    kind.__init__.__kwdefaults__["idle_after"] = 1e6

blocks = sys.getallocatedblocks

async def in_flight(x):
    return blocks()

async def main(directory):
    recovery = ErrorRecoveryService(f"{directory}/state", f"{directory}/errors")
    await recovery.start()  # else a thread loads the rest of the package after the first call, and allocates, too
    plain = recovery.service("plain", fallback=0)
    timed = plain.using(timeout=5.0, deadline=20.0)
    opened = recovery.service("opened", circuit_threshold=1, circuit_timeout=3600.0, max_retries=0)

    def in_guard(handle):
        async def block():
            async with handle.guard():
                return await in_flight(1)
        return block

    async def in_attempts():
        async for attempt in plain.attempts():
            async with attempt:
                return await in_flight(1)

    async def in_coroutine():
        return await in_flight(1)

    # Nothing fails here: a record would wake the writer, and its thread allocates, too.
    opened.plan.prepare()
    opened.plan.state.circuit.closed.failed(time.monotonic(), "OSError: down")
    refused = opened(in_flight)
    stood_in = opened.using(fallback=0)(in_flight)

    async def refusal():
        try:
            await refused(1)
        except CircuitOpenError:
            return 0

    async def refusal_of_call():
        try:
            await opened.call(in_flight, 1)
        except CircuitOpenError:
            return 0

    decorated, decorated_timed = plain(in_flight), timed(in_flight)
    forms = {
        "bare": lambda: in_flight(1),
        "decorated": lambda: decorated(1),
        "call": lambda: plain.call(in_flight, 1),
        "decorated, timed": lambda: decorated_timed(1),
        "call, timed": lambda: timed.call(in_flight, 1),
        "in a coroutine": in_coroutine,
        "guard": in_guard(plain),
        "guard, timed": in_guard(timed),
        "attempts": in_attempts,
        "refused": refusal,
        "refused through call": refusal_of_call,
        "stood in for": lambda: stood_in(1),
    }
    gc.collect()
    gc.disable()
    found, counts = {}, [0] * 100
    for name, form in forms.items():
        for _ in range(3):  # only the last counts: then all is specialised, and the interpreter's free lists are filled
            for number in range(100):
                before = blocks()
                counts[number] = await form() - before
            before = blocks()
            for _ in range(1_000):
                await form()
            after = blocks()
        found[name] = [min(counts), max(counts), after - before]
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    handles = [recovery.service(f"one of many {number}") for number in range(10_000)]
    found["bytes of a service"] = (tracemalloc.get_traced_memory()[0] - before) / len(handles)
    tracemalloc.stop()
    print(json.dumps(found))

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """For each form: the least and the most blocks a call holds while its function runs, and those that 1,000 left behind."""
    directory: Path = tmp_path_factory.mktemp("allocations")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(directory)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    counted: dict[str, Any] = json.loads(done.stdout)
    return counted


@pytest.mark.parametrize(
    ("form", "around", "most"),
    [
        ("decorated", "bare", 1),  # the coroutine
        ("decorated, timed", "bare", 1),
        ("call", "bare", 1),
        ("call, timed", "bare", 1),
        ("guard", "in a coroutine", 2),  # the guard, and its bound __aexit__
        ("guard, timed", "in a coroutine", 2),
        ("attempts", "in a coroutine", 3),  # the loop, the block, its bound __aexit__
    ],
)
def test_a_healthy_call_takes_no_more_pieces_of_memory(
    found: dict[str, Any], form: str, around: str, most: int
) -> None:
    """Beside what its function takes; what comes from the interpreter's free lists takes none. Each call the same."""
    least, largest, _ = found[form]

    assert least == largest
    assert largest - found[around][1] <= most


@pytest.mark.parametrize(
    "form",
    [
        "decorated",
        "call, timed",
        "guard, timed",
        "attempts",
        "refused",
        "refused through call",
        "stood in for",
    ],
)
def test_a_call_leaves_nothing_behind(found: dict[str, Any], form: str) -> None:
    """Neither one that is well nor one that is refused: not a byte per call, without the garbage collector."""
    assert found[form][2] <= 5  # in a thousand: numbers of the counting itself


def test_a_service_takes_a_kibibyte(found: dict[str, Any]) -> None:
    """With its handle, its name and its places in the lists of all; in a process in which another one has opened before."""
    assert found["bytes of a service"] <= 1_024 + 32  # interpreters differ by a few words
