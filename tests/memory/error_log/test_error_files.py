"""The names of the error log's files, and whose day it is."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shockproof.memory.error_log.error_files import day_in, error_files, file_name, parse_name

STRANGERS = [
    "errors.jsonl",
    "errors_20261301.jsonl",
    "errors_2026112.jsonl",
    "errors_20261125_0.jsonl",
    "errors_20261125_01.jsonl",
    "errors_20261125.jsonl.bak",
    "errors_20261125.jsonl.gz.tmp",
    "my_errors_20261125.jsonl",
    "errors_20261125.jsonl\n",
    "errors_\uff12\uff10\uff12\uff161125.jsonl",
    "system_state.json",
]


@given(st.dates(), st.integers(0, 10**8))
def test_a_name_says_its_day_and_part(day: date, part: int) -> None:
    """Both ways, plain and compressed."""
    name = file_name(day, part)

    assert parse_name(name) == (day, part, True)
    assert parse_name(name + ".gz") == (day, part, False)


@pytest.mark.parametrize("name", STRANGERS)
def test_other_names_are_not_ours(name: str) -> None:
    """So they are neither read nor deleted."""
    assert parse_name(name) is None


def test_files_are_listed_in_the_order_of_writing(tmp_path: Path) -> None:
    """Days, then parts by number and not by letter; only regular files, links to them as asked."""
    names = [f"errors_20261124{part}.jsonl" for part in ("", "_1", "_2", "_10")] + [
        "errors_20261125.jsonl.gz"
    ]
    for name in [*names, *(name for name in STRANGERS if "\n" not in name)]:
        (tmp_path / name).write_text("12345")
    (tmp_path / "errors_20261123.jsonl").mkdir()
    (tmp_path / "errors_20261122.jsonl").symlink_to(tmp_path / "system_state.json")
    (tmp_path / "errors_20261121.jsonl").symlink_to(tmp_path / "nowhere")

    listed = error_files(tmp_path)

    assert [file.path.name for file in listed] == ["errors_20261122.jsonl", *names]
    assert [file.path.name for file in error_files(tmp_path, follow_links=False)] == names
    assert {file.size for file in listed} == {5}
    assert [file.path.name for file in error_files(tmp_path, first=date(2026, 11, 25))] == names[-1:]
    assert error_files(tmp_path, last=date(2026, 11, 20)) == []
    assert error_files(tmp_path / "missing") == []


class HalfAnHourLess(tzinfo):
    """Lord Howe Island's way: from +11:00 to +10:30 when summer ends, at 15:00 UTC the day before."""

    END = datetime(2026, 4, 4, 15, tzinfo=UTC)

    def utcoffset(self, moment: datetime | None) -> timedelta:
        assert moment is not None
        return (
            timedelta(hours=11) if moment.replace(tzinfo=UTC) < self.END else timedelta(hours=10, minutes=30)
        )

    def dst(self, moment: datetime | None) -> timedelta:
        return timedelta(0)

    def tzname(self, moment: datetime | None) -> str:
        return "howe"

    def fromutc(self, moment: datetime) -> datetime:
        return moment + self.utcoffset(moment.replace(tzinfo=None))


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_the_day_is_utcs_unless_a_zone_is_given() -> None:
    """A second before midnight and midnight itself, here and there."""
    utc, tokyo = day_in(None), day_in(timezone(timedelta(hours=9)))

    assert utc(at("2026-11-25T23:59:59.999999+00:00")) == date(2026, 11, 25)
    assert utc(at("2026-11-26T00:00:00+00:00")) == date(2026, 11, 26)
    assert tokyo(at("2026-11-25T14:59:59+00:00")) == date(2026, 11, 25)
    assert tokyo(at("2026-11-25T15:00:00+00:00")) == date(2026, 11, 26)


def test_a_day_of_another_length_ends_at_its_own_midnight() -> None:
    """Dates are compared, no seconds added: the day of the change has 24.5 hours."""
    day_of = day_in(HalfAnHourLess())

    assert day_of(at("2026-04-04T12:59:59+00:00")) == date(2026, 4, 4)
    assert day_of(at("2026-04-04T13:00:00+00:00")) == date(2026, 4, 5)
    assert day_of(at("2026-04-05T13:29:59+00:00")) == date(2026, 4, 5)
    assert day_of(at("2026-04-05T13:30:00+00:00")) == date(2026, 4, 6)


@pytest.mark.parametrize("zone", [None, UTC, timezone(timedelta(hours=-12))])
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf"), 1e300, -1e300, -1.0, 0.0])
def test_a_time_that_no_calendar_has_has_a_day(zone: tzinfo | None, odd: float) -> None:
    """A record with a broken time is written all the same."""
    assert isinstance(day_in(zone)(odd), date)
