"""The last state of each day, kept for who asks about that day."""

from __future__ import annotations

import asyncio
import errno
import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from shockproof import ErrorRecoveryService
from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.state import state_capture, state_changes, state_files
from shockproof.memory.state.daily_states import days_kept, prefix_of, states_of_days
from shockproof.memory.state.secrets import SecretNames
from shockproof.memory.state.state_capture import NOTHING_KNOWN, CapturedState, StateSecrets, capture_state
from shockproof.memory.state.state_files import StateFiles
from shockproof.testing import VirtualClock

ORIGINAL = Path(__file__).parents[2] / "data" / "original-state"


class Bot:
    """It saves a number as of any moment."""

    def __init__(self, directory: Path, *, keep_days: int = 3, layer: SystemFiles | None = None) -> None:
        self.files = StateFiles(directory, keep_days=keep_days, layer=layer)
        self.known: Any = NOTHING_KNOWN

    def save(self, moment: str, number: int, **more: Any) -> None:
        self.files.write(self.captured(moment, number, **more))

    def captured(self, moment: str, number: int, **more: Any) -> CapturedState:
        at = datetime.fromisoformat(moment).astimezone(UTC).timestamp()
        sections = {"cached_data": {"number": number, **more}}
        saved = asyncio.run(
            capture_state(sections, secrets=StateSecrets(SecretNames()), timestamp=at, known=self.known)
        )
        self.known = saved.packed
        return saved


def kept(directory: Path) -> dict[str, Any]:
    """What is kept of each day."""
    found = {}
    for path in sorted(states_of_days(directory).glob("*.system_state.json")):
        day = path.name[:10]
        (state, *wrong) = StateFiles(states_of_days(directory), prefix=prefix_of(day)).survey()
        assert wrong == []
        assert state.content is not None
        cached: Any = state.content["cached_data"]
        found[day] = cached["number"]
    return found


def test_the_last_state_of_each_day_is_kept_and_only_of_so_many_days(tmp_path: Path) -> None:
    """A night without a save, and a weekend, end the day before them."""
    bot = Bot(tmp_path)
    bot.save("2026-11-20 09:00", 1)
    bot.save("2026-11-20 23:59", 2)
    assert kept(tmp_path) == {}
    bot.save("2026-11-21 00:01", 3)
    assert kept(tmp_path) == {"2026-11-20": 2}
    bot.save("2026-11-24 09:00", 4)
    Bot(tmp_path).save("2026-11-25 09:00", 5)  # after a restart
    Bot(tmp_path).save("2026-11-25 10:00", 6)
    assert kept(tmp_path) == {"2026-11-20": 2, "2026-11-21": 3, "2026-11-24": 4}
    bot.save("2026-11-26 09:00", 7)
    assert kept(tmp_path) == {"2026-11-21": 3, "2026-11-24": 4, "2026-11-25": 6}
    assert days_kept(SystemFiles(), tmp_path) == ["2026-11-21", "2026-11-24", "2026-11-25"]


def test_nothing_is_kept_unless_it_is_asked_for(tmp_path: Path) -> None:
    """Whoever wants it says of how many days."""
    bot = Bot(tmp_path, keep_days=0)
    bot.save("2026-11-20 09:00", 1)
    bot.save("2026-11-21 09:00", 2)
    assert not states_of_days(tmp_path).exists()


def test_the_last_save_of_a_day_is_kept_whatever_the_clock_did(tmp_path: Path) -> None:
    """Which one that is, the order of the saves says: a day to which the clock comes back is not over."""
    bot = Bot(tmp_path)
    bot.save("2026-11-21 09:00", 1)
    bot.save("2026-11-20 09:00", 2)
    assert kept(tmp_path) == {"2026-11-21": 1}
    bot.save("2026-11-21 10:00", 3)
    Bot(tmp_path).save("2026-11-22 10:00", 4)
    assert kept(tmp_path) == {"2026-11-20": 2, "2026-11-21": 3}
    bot.save("2025-10-01 10:00", 5)
    bot.save("2026-11-23 10:00", 6)
    assert kept(tmp_path) == {"2025-10-01": 5, "2026-11-20": 2, "2026-11-21": 3, "2026-11-22": 4}
    bot.save("2026-11-24 10:00", 7)
    assert kept(tmp_path) == {"2026-11-21": 3, "2026-11-22": 4, "2026-11-23": 6}


def test_days_of_a_clock_that_was_ahead_push_no_other_out(tmp_path: Path) -> None:
    """Nor does one that starts in 1970 remove those that it takes for days to come."""
    bot = Bot(tmp_path)
    days = ["2026-11-20", "2026-11-21", "2026-11-22"]
    for number, day in enumerate([*days, "2056-01-01", "2026-11-22", "2056-01-01", "2026-11-22"]):
        bot.save(f"{day} 09:00", number)
    assert kept(tmp_path) == {"2026-11-20": 0, "2026-11-21": 1, "2026-11-22": 4, "2056-01-01": 5}
    for number, day in enumerate(["1970-01-01", "2026-11-23"], 7):
        bot.save(f"{day} 09:00", number)
    assert kept(tmp_path) == {
        "1970-01-01": 7,
        "2026-11-20": 0,
        "2026-11-21": 1,
        "2026-11-22": 6,
        "2056-01-01": 5,
    }
    for year in range(2057, 2062):
        bot.save(f"{year}-01-01 09:00", year)
        bot.save("2026-11-23 10:00", 7)
    assert list(kept(tmp_path)) == [
        "2026-11-21",
        "2026-11-22",
        "2026-11-23",
        *(f"{year}-01-01" for year in range(2056, 2062)),
    ]


def test_a_machine_that_starts_each_day_in_1970_keeps_the_newest_days_all_the_same(tmp_path: Path) -> None:
    """Until it is told the time, all that it has kept is of days to come."""
    bot = Bot(tmp_path)
    for day in range(10, 20):
        bot.save("1970-01-01 00:01", 0)
        bot.save(f"2026-11-{day} 09:00", day)
    assert list(kept(tmp_path).values()) == [0, *range(13, 19)]


def test_a_later_state_of_a_day_takes_the_place_of_the_earlier_one_with_its_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file of the earlier one is left to be read with it."""
    monkeypatch.setattr(state_capture, "LARGE", 10)
    monkeypatch.setattr(state_files, "WHOLE_UP_TO", 0)
    monkeypatch.setattr(state_files, "_LARGEST_SHARE", 100.0)
    monkeypatch.setattr(state_changes, "_LARGEST_SHARE", 100.0)
    many = {f"entry {number}": number for number in range(50)}
    for number, day in enumerate(["2026-11-20", "2026-11-20", "2026-11-21"]):
        Bot(tmp_path).save(f"{day} 09:00", number, **many)
    bot = Bot(tmp_path)
    for number, day in enumerate(["2026-11-20", "2026-11-20", "2026-11-20", "2026-11-21"], 10):
        bot.save(f"{day} 10:00", number, **many)
    assert kept(tmp_path) == {"2026-11-20": 12, "2026-11-21": 2}
    assert len(list(states_of_days(tmp_path).glob("2026-11-20.system_state.changes.*"))) == 2


def test_a_large_state_is_kept_with_its_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its whole alone would be one of hours before."""
    monkeypatch.setattr(state_capture, "LARGE", 10)
    monkeypatch.setattr(state_files, "WHOLE_UP_TO", 0)
    monkeypatch.setattr(state_files, "_LARGEST_SHARE", 100.0)
    monkeypatch.setattr(state_changes, "_LARGEST_SHARE", 100.0)
    bot, many = Bot(tmp_path), {f"entry {number}": number for number in range(50)}
    for number, moment in enumerate(["2026-11-20 09:00", "2026-11-20 12:00", "2026-11-20 15:00"]):
        bot.save(moment, number, **many)
    assert list(tmp_path.glob("system_state.changes.*.json"))
    bot.save("2026-11-21 09:00", 3, **many)
    assert kept(tmp_path) == {"2026-11-20": 2}


def test_changes_whose_whole_could_not_be_kept_are_not_left_behind(tmp_path: Path) -> None:
    """The disk refused in between: alone, they are of no use."""
    states_of_days(tmp_path).mkdir()
    alone = states_of_days(tmp_path) / "2026-11-19.system_state.changes.2.json"
    others = states_of_days(tmp_path) / "notes.txt"
    for path in (alone, others):
        path.write_text("{}")
    bot = Bot(tmp_path)
    bot.save("2026-11-20 09:00", 1)
    bot.save("2026-11-21 09:00", 2)
    assert (alone.exists(), others.exists()) == (False, True)
    assert kept(tmp_path) == {"2026-11-20": 1}


def test_what_the_original_program_left_is_kept_as_the_state_of_its_day(tmp_path: Path) -> None:
    """Its last one, before this program saves its first."""
    shutil.copytree(ORIGINAL, tmp_path, dirs_exist_ok=True)
    Bot(tmp_path).save("2026-11-20 09:00", 1)
    (path,) = states_of_days(tmp_path).iterdir()
    assert path.read_bytes() == (ORIGINAL / "system_state.json").read_bytes()


class NoLinks(SystemFiles):
    """A file system without links, such as that of a memory stick."""

    def link(self, existing: Path, new: Path) -> None:
        if new.parent.name == "days":
            raise OSError(errno.EPERM, "no links here")
        super().link(existing, new)


def test_a_state_that_cannot_be_kept_is_told_and_the_next_one_is_saved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once a day: a picture of yesterday is worth no save of today."""
    bot = Bot(tmp_path, layer=NoLinks())
    bot.save("2026-11-20 09:00", 1)
    with caplog.at_level(logging.WARNING, "shockproof"):
        bot.save("2026-11-21 09:00", 2)
        bot.save("2026-11-21 09:01", 3)
    assert [record.message for record in caplog.records] == [
        f"the state of the day before is not kept in {tmp_path / 'days'}: [Errno 1] no links here"
    ]
    state = StateFiles(tmp_path).load().state
    assert state is not None
    assert state.cached_data["number"] == 3


def test_the_service_keeps_them(tmp_path: Path, clock: VirtualClock) -> None:
    """By its own clock."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", clock=clock, keep_daily_states=1)

    async def main() -> None:
        async with recovery:
            for number in range(3):
                await recovery.save_state(cached_data={"number": number}, force=True)
                clock.advance(86_400.0)

    clock.run(main())
    assert list(kept(tmp_path / "state").values()) == [1]
    for wrong in (-1, 1.5, True):
        with pytest.raises((ValueError, TypeError), match="keep_daily_states"):
            ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", keep_daily_states=wrong)  # type: ignore[arg-type]  # the point
