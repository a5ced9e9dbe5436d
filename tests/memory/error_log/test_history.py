"""The last errors in memory."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from shockproof.memory.error_log.capture import CapturedError
from shockproof.memory.error_log.history import ErrorHistory
from shockproof.memory.error_log.redaction import Redactor
from shockproof.vocabulary.statuses import ErrorSeverity

START = 1_790_000_000.0


def error(
    number: int, *, service: str = "market", severity: ErrorSeverity = ErrorSeverity.MEDIUM
) -> CapturedError:
    return CapturedError(
        timestamp=START + number,
        captured_at=float(number),
        error_type="ValueError" if number % 2 else "KeyError",
        error_message=f"number {number} token=hidden",
        severity=severity,
        service_name=service,
        function_name="fetch",
        context={"api_key": "hidden"},
        redactor=Redactor(),
    )


def history_of(*errors: CapturedError) -> ErrorHistory:
    history = ErrorHistory()
    for one in errors:
        history.add(one)
    return history


def test_a_summary_counts_and_shows_the_last_ten_oldest_first() -> None:
    """It is plain JSON, and holds no secret."""
    history = history_of(*(error(number) for number in range(25)), error(25, service="orders"))

    summary = history.summary()

    assert summary["total_errors"] == 26
    assert summary["errors_by_service"] == {"market": 25, "orders": 1}
    assert summary["errors_by_type"] == {"KeyError": 13, "ValueError": 13}
    assert summary["errors_by_severity"] == {"medium": 26}
    recent = summary["recent_errors"]
    assert isinstance(recent, list)
    assert [one["error_message"] for one in recent] == [
        f"number {number} token=***" for number in range(16, 26)
    ]
    assert set(recent[0]) == {
        "timestamp",
        "error_type",
        "error_message",
        "severity",
        "service_name",
        "function_name",
        "retry_count",
        "stack_trace",
        "context",
    }
    assert "hidden" not in json.dumps(summary)


def test_an_empty_summary_has_all_its_keys() -> None:
    """Nobody has to ask whether they are there."""
    assert ErrorHistory().summary() == {
        "total_errors": 0,
        "errors_by_service": {},
        "errors_by_type": {},
        "errors_by_severity": {},
        "recent_errors": [],
    }


def test_a_summary_can_be_narrowed() -> None:
    """By time (a naive datetime is local), by service, by severity."""
    history = history_of(
        error(0),
        error(1, severity=ErrorSeverity.HIGH),
        error(2, service="orders", severity=ErrorSeverity.CRITICAL),
    )

    def total(**narrowed: object) -> object:
        return history.summary(**narrowed)["total_errors"]  # type: ignore[arg-type]  # keywords as a caller gives them

    assert total(since=START + 1) == 2
    assert total(since=datetime.fromtimestamp(START + 1)) == 2
    assert total(since=datetime.fromtimestamp(START + 2, UTC)) == 1
    assert total(service_name="market") == 2
    assert total(min_severity=ErrorSeverity.HIGH) == 2
    assert total(min_severity=ErrorSeverity.HIGH, service_name="orders") == 1


def test_only_the_last_ones_are_kept() -> None:
    """A storm takes no memory."""
    history = ErrorHistory(kept=3)
    for number in range(10):
        history.add(error(number))

    assert len(history) == 3
    history.clear()
    assert len(history) == 0


def test_recent_errors_are_counted_by_the_monotonic_clock() -> None:
    """A wall clock that is set back makes no error young again."""
    history = history_of(*(error(number) for number in range(0, 1_000, 100)))

    assert history.recent_count(900.0) == 4
    assert history.recent_count(900.0, within=50.0) == 1
    assert history.recent_count(10_000.0) == 0
