"""The trader's own parts: its slow disk, its reports, its quotes."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shockproof import ErrorRecoveryService
from shockproof.demo.reports import Reports
from shockproof.demo.slow_disk import SlowDisk
from shockproof.demo.timing import Timing


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe."""
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        try:
            os.close(descriptor)
        except OSError:
            pass


@pytest.mark.asyncio
async def test_reports_arrive_as_json_lines_in_order(pipe: tuple[int, int]) -> None:
    """One object per line."""
    reading, writing = pipe
    reports = Reports(writing)
    for number in range(3):
        reports.send("note", number=number)
    lines = os.read(reading, 65536).splitlines()
    assert [json.loads(line) for line in lines] == [{"kind": "note", "number": number} for number in range(3)]


@pytest.mark.asyncio
async def test_a_reader_that_does_not_read_never_holds_the_trader(pipe: tuple[int, int]) -> None:
    """What does not fit waits here within a bound; the rest is dropped and counted; no line is torn."""
    reading, writing = pipe
    reports = Reports(writing)
    for _ in range(5000):
        reports.send("note", text="x" * 100)
    assert reports.dropped > 0
    os.set_blocking(reading, False)
    received = b""
    while received.count(b"\n") < 5000 - reports.dropped:
        try:
            received += os.read(reading, 65536)
        except BlockingIOError:
            await asyncio.sleep(0)
    assert all(json.loads(line)["kind"] == "note" for line in received.splitlines())
    reports.close()


@pytest.mark.asyncio
async def test_a_reader_that_is_gone_breaks_nothing(pipe: tuple[int, int]) -> None:
    """The trader notices, and goes on."""
    reading, writing = pipe
    os.close(reading)
    reports = Reports(writing)
    reports.send("note")
    reports.send("note")
    assert reports.is_broken


@pytest.mark.asyncio
async def test_a_slow_disk_holds_the_save_and_not_the_loop(tmp_path: Path) -> None:
    """While the disk's thread hangs in an access, the event loop takes thousands of turns."""
    disk = SlowDisk(tmp_path / "state", tmp_path / "errors")
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    disk.set_delay(0.05)
    begun = time.monotonic()
    saving = asyncio.ensure_future(recovery.save_state(cached_data={"a": 1}, force=True))
    turns = 0
    while not saving.done():
        turns += 1
        await asyncio.sleep(0)
    assert await saving is True
    assert time.monotonic() - begun >= 0.05  # the delay is real, so this much is certain
    assert turns > 10
    assert disk.delayed > 0
    disk.set_delay(0)
    await recovery.aclose()


@pytest.mark.parametrize("seconds", [5, 6, 10, 30, 3600])
def test_the_wait_for_certainty_covers_every_way_an_order_can_take(seconds: float) -> None:
    """The venue's receive window, from the end of the last attempt that is made while the order is wanted."""
    timing = Timing.for_session(seconds)
    assert timing.settle > timing.receive_window >= timing.timeout
    assert timing.until_settled >= timing.valid_for + timing.timeout + timing.settle


@pytest.mark.asyncio
async def test_quotes_age(recovery: ErrorRecoveryService) -> None:
    """A cached quote is used for a while and then refused, with its age."""
    pytest.importorskip("aiohttp", reason="the demo extra is not installed: no aiohttp")
    pytest.importorskip("ccxt", reason="the demo extra is not installed: no ccxt")
    from shockproof.demo.quotes import Quote, QuoteCache, StaleQuoteError

    now = [100.0]
    cache = QuoteCache(max_age=5.0, now=lambda: now[0])
    with pytest.raises(StaleQuoteError, match="no quote of EUR/USDT so far"):
        cache.get("EUR/USDT")
    cache.put(Quote("EUR/USDT", 1.08, "stream", 100.0))
    now[0] = 105.0
    assert cache.get("EUR/USDT").source == "cache"
    assert not cache.get("EUR/USDT").is_tradable
    now[0] = 105.1
    with pytest.raises(StaleQuoteError, match=r"5\.1 s old, more than 5 s"):
        cache.get("EUR/USDT")


def test_quotes_are_as_old_after_a_restart_as_before() -> None:
    """The monotonic clock begins anew; the age of a quote does not."""
    pytest.importorskip("aiohttp", reason="the demo extra is not installed: no aiohttp")
    pytest.importorskip("ccxt", reason="the demo extra is not installed: no ccxt")
    from shockproof.demo.quotes import Quote, QuoteCache, StaleQuoteError

    earlier = QuoteCache(max_age=60.0, now=lambda: 1000.0)
    earlier.put(Quote("EUR/USDT", 1.08, "stream", 960.0))
    earlier.put(Quote("GBP/USDT", 1.25, "stream", 900.0))

    now = [5.0]
    later = QuoteCache(max_age=60.0, now=lambda: now[0])
    later.restore(earlier.to_state())

    assert later.get("EUR/USDT").price == 1.08
    with pytest.raises(StaleQuoteError):
        later.get("GBP/USDT")
    now[0] += 30.0
    with pytest.raises(StaleQuoteError):
        later.get("EUR/USDT")
