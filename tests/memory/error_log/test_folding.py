"""A storm of identical errors is two lines, and the counts add up."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shockproof import ErrorRecord, ErrorSeverity
from shockproof.memory.disk.append_file import AppendFile
from shockproof.memory.error_log.capture import CapturedError
from shockproof.memory.error_log.error_log import ErrorLog
from shockproof.memory.error_log.folding import Folding, times
from shockproof.memory.error_log.redaction import Redactor
from shockproof.settings import check_error_log

MORNING = 1_795_593_600.0  # 2026-11-25 08:00 UTC
FILE = "errors_20261125.jsonl"
PATIENCE = 30.0


def error(message: str = "refused", *, at: float = 0.0, **other: Any) -> CapturedError:
    fields: dict[str, Any] = {
        "error_type": "ConnectionError",
        "severity": ErrorSeverity.MEDIUM,
        "service_name": "market",
        "function_name": "fetch",
    }
    return CapturedError(timestamp=MORNING + at, captured_at=at, error_message=message, **(fields | other))


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / FILE).read_text().splitlines()]


def said(errors: list[CapturedError] | tuple[CapturedError, ...]) -> list[tuple[str, object]]:
    """Each message with its number."""
    return [(one.error_message, (one.context or {}).get("folded")) for one in errors]


# What is decided


def test_the_first_and_the_last_of_a_storm_are_written_with_their_number_and_times() -> None:
    """Nobody waits for the first, and the last tells how many there were and from when to when."""
    folding = Folding(1.0)

    first = folding.add(error(at=0.0), now=0.0)
    others = [folding.add(error(at=at, context={"n": at}), now=at) for at in (0.25, 0.5, 0.75)]
    (last,) = folding.end()

    assert said(first) == [("refused", None)]
    assert others == [(), (), ()]
    assert last.timestamp == MORNING + 0.75
    assert last.context == {
        "n": 0.75,
        "folded": {
            "count": 3,
            "from": "2026-11-25T08:00:00.250000+00:00",
            "to": "2026-11-25T08:00:00.750000+00:00",
        },
    }
    assert folding.end() == []


def test_a_single_follower_is_written_as_it_is() -> None:
    """There is nothing to count."""
    folding = Folding(1.0)
    folding.add(error(), now=0.0)
    follower = error(at=0.5)
    assert folding.add(follower, now=0.5) == ()

    assert folding.end() == [follower]


def test_what_comes_after_the_time_is_a_first_one_again() -> None:
    """A storm of a day does not hide behind its first second; the record's own time counts, so that virtual time does."""
    folding = Folding(1.0)
    folding.add(error(at=0.0), now=0.0)
    folding.add(error(at=0.5), now=0.0)
    folding.add(error(at=0.9), now=0.0)

    again = folding.add(error(at=1.0), now=0.0)

    (before, folded), (itself, not_folded) = said(again)
    assert (before, itself, not_folded) == ("refused", "refused", None)
    assert isinstance(folded, dict)
    assert folded["count"] == 2


def test_a_storm_that_stops_is_ended_when_it_is_due() -> None:
    """Its number does not wait for the next storm."""
    folding = Folding(1.0)
    folding.add(error(at=0.0), now=10.0)
    folding.add(error(at=0.1), now=10.1)
    folding.add(error("other", at=0.5), now=10.5)

    assert folding.next_due == 11.0
    assert folding.end_due(10.9) == []
    assert len(folding.end_due(11.0)) == 1
    assert folding.next_due == 11.5
    assert folding.end_due(11.5) == []  # of the other there was one only, and it is written
    assert folding.next_due is None


@pytest.mark.parametrize(
    "other",
    [
        error("refused 2"),
        error(error_type="OSError"),
        error(severity=ErrorSeverity.HIGH),
        error(service_name="trading"),
        error(function_name="submit"),
    ],
    ids=["message", "type", "severity", "service", "function"],
)
def test_what_differs_is_not_folded(other: CapturedError) -> None:
    """Another order's refusal is another error."""
    folding = Folding(1.0)
    folding.add(error("refused 1"), now=0.0)

    assert folding.add(other, now=0.0) == (other,)


def test_numbers_may_be_told_to_count_for_nothing() -> None:
    """A client that puts the time and a signature into its messages never says the same twice."""
    folding = Folding(1.0, ignore_numbers=True)
    folding.add(error("GET /v3?timestamp=1700000000123&signature=0f1e2d3c4b5a 503"), now=0.0)

    assert folding.add(error("GET /v3?timestamp=1700000000999&signature=deadbeef0011 503"), now=0.0) == ()
    assert len(folding.add(error("POST /v3?timestamp=1 503"), now=0.0)) == 1


def test_a_clock_that_runs_backwards_begins_anew() -> None:
    """Nothing is swallowed for ever."""
    folding = Folding(1.0)
    folding.add(error(at=100.0), now=0.0)

    assert len(folding.add(error(at=5.0), now=0.0)) == 1


def test_too_many_different_errors_are_written_one_by_one() -> None:
    """The table of what is counted is bounded; beyond it nothing is lost."""
    folding = Folding(1.0)
    for number in range(300):
        folding.add(error(f"no. {number}"), now=0.0)

    assert len(folding.add(error("no. 299"), now=0.0)) == 1
    assert folding.add(error("no. 0"), now=0.0) == ()


def test_secrets_of_a_folded_line_are_taken_out() -> None:
    """The line that counts is redacted as the first one is."""
    folding = Folding(1.0)
    for at in (0.0, 0.1, 0.2):
        folding.add(
            error("refused token=abcdef123", at=at, context={"api_key": "x1y2"}, redactor=Redactor()), now=at
        )

    (last,) = folding.end()
    assert last.error_message == "refused token=***"
    assert last.context is not None
    assert last.context["api_key"] == "***"


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.floats(0, 3), st.sampled_from(["add", "end", "due"])),
        max_size=60,
    )
)
def test_the_counts_of_all_lines_add_up_to_all_records(steps: list[tuple[str, float, str]]) -> None:
    """Whatever the order of records, ends and times, every record is in exactly one line's count."""
    folding = Folding(1.0)
    now = 0.0
    added = 0
    written: list[CapturedError] = []
    for message, pause, step in steps:
        now += pause / 4
        if step == "add":
            added += 1
            written += folding.add(error(message, at=now), now=now)
        else:
            written += folding.end() if step == "end" else folding.end_due(now)
        assert len(written) + folding.folded + folding.waiting == added
    written += folding.end()
    assert sum(number_of(one) for one in written) == added
    assert folding.waiting == 0


def number_of(one: CapturedError) -> int:
    return times(ErrorRecord.model_validate(one.to_fields()))


@pytest.mark.parametrize(
    "context", [None, {}, {"folded": "yes"}, {"folded": {"count": "3"}}, {"folded": {"count": 0}}]
)
def test_a_record_that_counts_nothing_stands_for_itself(context: dict[str, Any] | None) -> None:
    """A user's own key of that name does no harm."""
    record = ErrorRecord(
        timestamp=datetime.now(UTC),
        error_type="E",
        error_message="m",
        severity=ErrorSeverity.LOW,
        service_name="s",
        function_name="f",
        retry_count=0,
        context=context,
    )
    assert times(record) == 1


# In the log


@pytest.mark.asyncio
async def test_a_storm_in_the_log_is_two_lines_and_the_counts_add_up(tmp_path: Path) -> None:
    """A flush wants everything on the disk, the number of a storm that goes on included."""
    log = ErrorLog(tmp_path, fold=60.0)
    for number in range(1_000):
        log.put(error(at=number / 1_000))
    log.put(error("another"))
    before = log.statistics()
    assert before.submitted == before.written + before.queued + before.dropped + before.folded == 1_001

    assert await log.flush()

    after = log.statistics()
    assert (after.submitted, after.written, after.queued, after.dropped, after.folded) == (
        1_001,
        3,
        0,
        0,
        998,
    )
    assert [(line["error_message"], (line["context"] or {}).get("folded")) for line in lines(tmp_path)] == [
        ("refused", None),
        ("another", None),
        (
            "refused",
            {
                "count": 999,
                "from": "2026-11-25T08:00:00.001000+00:00",
                "to": "2026-11-25T08:00:00.999000+00:00",
            },
        ),
    ]
    await log.aclose()


def test_a_storm_that_stops_is_written_without_anybody_asking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer looks when its time is over, although nothing rings."""
    all_are_there = threading.Event()
    real_append = AppendFile.append

    async def append(self: AppendFile, appended: bytes) -> tuple[int, OSError | None]:
        result = await real_append(self, appended)
        if sum(times(ErrorRecord.model_validate(line)) for line in lines(tmp_path)) == 3:
            all_are_there.set()
        return result

    monkeypatch.setattr(AppendFile, "append", append)
    log = ErrorLog(tmp_path, fold=0.2)
    for _ in range(3):
        log.put(error())

    assert all_are_there.wait(PATIENCE)
    assert log.close_blocking(PATIENCE)


def test_a_rule_for_folding_without_folding_is_refused() -> None:
    """Who gives it believes that storms are folded. Switched off on purpose it may stay where it is."""
    with pytest.raises(ValueError, match=r'nothing is folded: add "fold": 10\.0'):
        check_error_log({"fold_numbers": True})

    assert check_error_log({"fold_numbers": True, "fold": None}) == {"fold_numbers": True, "fold": None}


@pytest.mark.asyncio
async def test_folding_is_off_unless_it_is_asked_for(tmp_path: Path) -> None:
    """Every record is a line, as in the original."""
    log = ErrorLog(tmp_path)
    for _ in range(5):
        log.put(error())

    assert await log.aclose()
    assert len(lines(tmp_path)) == 5
    assert log.statistics().folded == 0


@pytest.mark.asyncio
async def test_threads_that_storm_at_once_lose_no_count(tmp_path: Path) -> None:
    """Four threads, two errors, a writer that ends storms meanwhile: every record is in one count."""
    log = ErrorLog(tmp_path, fold=0.005)

    def storm() -> None:
        for number in range(500):
            log.put(error(f"error {'AB'[number % 2]}"))

    threads = [threading.Thread(target=storm) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert await log.aclose()

    assert sum(times(ErrorRecord.model_validate(line)) for line in lines(tmp_path)) == 2_000
    now = log.statistics()
    assert now.submitted == now.written + now.folded == 2_000
