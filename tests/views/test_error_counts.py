"""Records counted for pictures."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from shockproof.views.error_counts import ErrorCounts
from shockproof.vocabulary.models import ErrorRecord
from shockproof.vocabulary.statuses import ErrorSeverity

BEGIN = datetime(2026, 11, 25, 10, 0, tzinfo=UTC)


def record(
    after: float, message: str = "failed", *, service: str = "market", severity: str = "high"
) -> ErrorRecord:
    return ErrorRecord(
        timestamp=BEGIN + timedelta(seconds=after),
        error_type="ValueError",
        error_message=message,
        severity=ErrorSeverity(severity),
        service_name=service,
        function_name="fetch",
    )


def counted(*records: ErrorRecord) -> ErrorCounts:
    counts = ErrorCounts()
    for one in records:
        counts.add(one)
    return counts


def test_every_error_is_in_exactly_one_step() -> None:
    """What the picture shows adds up to what was counted, in whatever order it came."""
    counts = counted(*(record(after, service=f"s{after % 3}") for after in (3599, 0, 1, 1800, 1801, 60)))
    timeline = counts.timeline()
    assert timeline is not None
    assert sum(map(sum, timeline.by_severity.values())) == 6
    assert sum(map(sum, timeline.by_service.values())) == 6
    assert timeline.by_severity["high"][0] == 3
    assert timeline.by_severity["high"][-1] == 1


def test_the_length_of_a_step_follows_from_the_time() -> None:
    """A minute is shown by the second or two, a month by the half day; never in more than 60 bars."""
    steps = []
    for seconds in (0, 50, 3600, 86_400, 30 * 86_400):
        timeline = counted(record(0), record(seconds)).timeline()
        assert timeline is not None
        assert len(timeline.by_severity["high"]) <= 60
        steps.append(timeline.step)
    assert steps == [1, 1, 300, 1800, 86_400]


def test_a_period_without_errors_is_shown_where_it_was_asked_for() -> None:
    """A quiet morning is part of the picture of the day."""
    timeline = counted(record(0)).timeline(
        since=BEGIN - timedelta(hours=12), until=BEGIN + timedelta(hours=12)
    )
    assert timeline is not None
    high = timeline.by_severity["high"]
    assert (sum(high), high.index(1)) == (1, len(high) // 2)


def test_nothing_has_no_timeline() -> None:
    """There is no first and no last."""
    assert ErrorCounts().timeline() is None


def test_many_moments_take_bounded_memory_and_none_is_lost() -> None:
    """A log of weeks is counted in larger steps as it gets longer."""
    counts = ErrorCounts()
    for number in range(100_500):
        counts.add(record(number * 10))
    assert len(counts._cells) <= 100_000
    timeline = counts.timeline()
    assert timeline is not None
    assert sum(timeline.by_severity["high"]) == 100_500


def test_errors_that_differ_in_numbers_only_are_one() -> None:
    """`order 17 failed` and `order 18 failed` say the same."""
    counts = counted(
        record(0, "order 17 failed after 1.5 s"),
        record(5, "order 18 failed after 0.5 s"),
        record(1, "other"),
        record(2, "order 19 failed after 2 s", service="trading"),
    )
    first, *others = counts.most_repeated(10)
    assert (first.times, first.message, first.last) == (
        2,
        "order 18 failed after 0.5 s",
        BEGIN + timedelta(seconds=5),
    )
    assert [one.times for one in others] == [1, 1]


def test_only_the_last_are_kept_as_they_are() -> None:
    """However many there were."""
    counts = ErrorCounts(latest=2)
    for number in range(5):
        counts.add(record(number, f"{number}"))
    assert [one.error_message for one in counts.latest] == ["3", "4"]
    assert counts.total == 5


def test_a_line_that_ends_a_folded_storm_counts_as_often_as_it_says() -> None:
    """Folding makes the file smaller, and the picture no other."""
    storm = record(1).model_copy(update={"context": {"folded": {"count": 99}}})
    counts = counted(record(0), storm)

    timeline = counts.timeline()
    assert timeline is not None
    assert counts.total == counts.by_severity["high"] == sum(map(sum, timeline.by_service.values())) == 100
    assert counts.most_repeated(1)[0].times == 100
