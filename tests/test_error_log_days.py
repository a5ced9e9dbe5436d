"""Errors around midnight, when summer time begins and ends, and when somebody sets the clock: each in the file of its own date."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from shockproof import ErrorRecoveryService
from shockproof.testing import VirtualClock

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = 3600.0

# Where the wall clock is at the beginning, and by how many seconds it jumps between one error and the next.
COURSES: dict[str, tuple[ZoneInfo | None, datetime, list[float]]] = {
    "midnight in UTC": (None, datetime(2026, 11, 25, 23, 59, 58, tzinfo=UTC), [0.5] * 8),
    "midnight in Berlin": (BERLIN, datetime(2026, 11, 25, 22, 59, 58, tzinfo=UTC), [0.5] * 8),
    "summer time begins": (BERLIN, datetime(2026, 3, 28, 21, 30, tzinfo=UTC), [HOUR / 2] * 60),
    "summer time ends": (BERLIN, datetime(2026, 10, 24, 20, 30, tzinfo=UTC), [HOUR / 2] * 60),
    "set back over midnight": (
        None,
        datetime(2026, 11, 26, 0, 0, 5, tzinfo=UTC),
        [1.0, -10.0, 1.0, 1.0, 10.0, 1.0],
    ),
    "set forward by a year and back": (
        None,
        datetime(2026, 2, 28, 12, tzinfo=UTC),
        [1.0, 366 * 24 * HOUR, 1.0, -366 * 24 * HOUR, 1.0],
    ),
    "a leap day": (None, datetime(2028, 2, 28, 23, 59, 59, tzinfo=UTC), [1.0, 24 * HOUR, 1.0]),
}


async def fails(number: int) -> None:
    raise ConnectionError(f"no. {number}")


@pytest.mark.asyncio
@pytest.mark.parametrize("compress", [False, True], ids=["", "compressed"])
@pytest.mark.parametrize(("zone", "begin", "jumps"), COURSES.values(), ids=COURSES)
async def test_each_error_is_in_the_file_of_its_own_date(
    tmp_path: Path,
    clock: VirtualClock,
    *,
    zone: ZoneInfo | None,
    begin: datetime,
    jumps: list[float],
    compress: bool,
) -> None:
    """Once, whole, and with its own time, whatever the clock did between being taken down and being written."""
    clock.step_wall(begin.timestamp() - clock.time())
    options: dict[str, Any] = {"zone": zone, "compress": compress}
    recovery = ErrorRecoveryService(
        tmp_path / "state", tmp_path / "errors", clock=clock, error_log=options, circuit_threshold=None
    )
    expected: list[tuple[str, float]] = []
    for number, jump in enumerate(jumps):
        expected.append((f"no. {number}", clock.time()))
        with pytest.raises(ConnectionError):
            await recovery.retry_with_backoff(fails, number, max_retries=0)
        if number % 3 == 0:
            await recovery.aclose()  # the file is written now, or together with what follows
        clock.step_wall(jump)
    await recovery.aclose()

    read = [record async for record in recovery.read_errors()]
    assert sorted((record.error_message, record.timestamp.timestamp()) for record in read) == sorted(expected)
    for path in (tmp_path / "errors").glob("*.jsonl"):
        for line in path.read_bytes().splitlines():
            at = datetime.fromisoformat(json.loads(line)["timestamp"]).astimezone(zone or UTC)
            assert path.name == f"errors_{at:%Y%m%d}.jsonl"
    days = {datetime.fromtimestamp(at, zone or UTC).date() for _, at in expected}
    names = {
        path.name.split(".")[0] for path in (tmp_path / "errors").iterdir() if path.name.startswith("errors_")
    }
    assert names == {f"errors_{day:%Y%m%d}" for day in days}


@pytest.mark.asyncio
async def test_a_clock_that_is_wrong_for_a_moment_deletes_no_day(tmp_path: Path, clock: VirtualClock) -> None:
    """The whole log would be older than is kept. What is too old by the right clock goes when it is back."""
    clock.step_wall(datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp() - clock.time())
    errors = tmp_path / "errors"
    errors.mkdir()
    days = [f"errors_202611{day:02d}.jsonl" for day in range(10, 25)]
    for name in ("errors_20261001.jsonl", *days):
        (errors / name).write_text("{}\n")
    recovery = ErrorRecoveryService(
        tmp_path / "state", errors, clock=clock, error_log={"keep_days": 30}, circuit_threshold=None
    )

    async def record() -> set[str]:
        with pytest.raises(ConnectionError):
            await recovery.retry_with_backoff(fails, 0, max_retries=0)
        assert await recovery._error_log.aclose(60.0)  # what begins to tidy has ended
        tidying = recovery._error_log._tidying
        async with asyncio.timeout(60.0):
            while tidying is not None and not tidying.done():  # noqa: ASYNC110  it is a task of another loop
                await asyncio.sleep(0.001)
        return {path.name for path in errors.iterdir()}

    before = await record()
    clock.step_wall(366 * 24 * HOUR)
    meanwhile = await record()
    clock.step_wall(-366 * 24 * HOUR)
    back = await record()
    clock.step_wall(366 * 24 * HOUR)
    await record()
    clock.advance(HOUR + 1.0)
    after_an_hour = await record()
    await recovery.aclose()

    assert before == {*days, "errors_20261125.jsonl"}
    assert meanwhile == {*before, "errors_20271126.jsonl"}
    assert back == meanwhile
    assert after_an_hour == {"errors_20271126.jsonl"}
