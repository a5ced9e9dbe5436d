"""The files of a saved state, seen from outside: sound, damaged, of the original program."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from shockproof import ErrorRecoveryService
from shockproof.testing import VirtualClock

Run = Callable[..., Any]  # the fixture's result

ORIGINAL = Path(__file__).parents[1] / "data" / "original-state"


def contents(directory: Path) -> dict[Path, tuple[bytes, int]]:
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.rglob("*") if path.is_file()
    }


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """What the original program saved."""
    return Path(shutil.copytree(ORIGINAL, tmp_path / "original"))


def test_the_last_save_is_shown_to_people(shockproof: Run, killed: Path) -> None:
    """Values that JSON lacks are short texts; the program's classes are not needed."""
    shown = shockproof("state", "show", "--state-dir", killed / "state")
    assert shown.code == 0
    assert "system_state.json, save 2" in shown.out
    assert '{"price": "150.25", "quote": {"type": "__main__:Quote", "bid": "1.0"}}' in shown.out
    assert "api_key  ***" in shown.out


def test_one_value_can_be_asked_for(shockproof: Run, killed: Path) -> None:
    """A script gets it with its type, a person without."""
    words = ("state", "show", "cached_data.AAPL.price", "--state-dir", killed / "state")
    assert shockproof(*words).json == "150.25"
    assert shockproof(*words, "--json").json == {"$": "decimal", "v": "150.25"}
    assert shockproof("state", "show", "active_operations.0.symbol", *words[3:]).json == "AAPL"
    missing = shockproof("state", "show", "cached_data.MSFT", *words[3:])
    assert (missing.code, "nothing has the name 'MSFT'" in missing.err) == (3, True)


@pytest.mark.parametrize(
    "words", [("show",), ("show", "--json"), ("verify",), ("verify", "--json"), ("dump",)], ids=" ".join
)
def test_looking_changes_no_file_and_shows_no_secret(
    shockproof: Run, killed: Path, words: tuple[str, ...]
) -> None:
    """Damaged files stay where they are, too: only the program sets them aside."""
    (killed / "state" / "system_state.json").write_bytes(b"{")
    before = contents(killed)
    shown = shockproof("state", *words, "--state-dir", killed / "state")
    assert shown.code in {0, 1}
    assert "hunter2" not in shown.out + shown.err
    assert contents(killed) == before


def test_sound_files_are_told_as_sound(shockproof: Run, killed: Path) -> None:
    """Also where they hold objects of classes that only the program has: that is no damage."""
    verified = shockproof("state", "verify", "--json", "--state-dir", killed / "state")
    assert verified.code == 0
    files = {file["file"]: file for file in verified.json["files"]}
    assert {name: (file["verdict"], file["sequence"]) for name, file in files.items()} == {
        "system_state.json": ("valid", 2),
        "system_state.pkl": ("valid", 2),
        "system_state.prev.json": ("valid", 1),
    }
    assert "'__main__:Quote', which is not registered here" in files["system_state.json"]["reason"]
    assert files["system_state.json"]["is_restored"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data.replace(b"150.25", b"150.26"), "its checksum does not match"),
        (lambda data: data[: len(data) // 2], "it is no valid JSON (line "),
        (lambda data: b"[]", "it is no JSON object"),
    ],
    ids=["one digit", "cut in half", "something else"],
)
def test_damage_is_told_with_what_is_restored_instead(
    shockproof: Run, killed: Path, spoil: Callable[[bytes], bytes], said: str
) -> None:
    """What is wrong, where, and which file the program will take."""
    state = killed / "state"
    file = state / "system_state.json"
    file.write_bytes(spoil(file.read_bytes()))
    verified = shockproof("state", "verify", "--state-dir", state)
    assert verified.code == 1
    rows = {line.split()[0]: line for line in verified.out.splitlines()}
    assert said in rows["system_state.json"]
    assert "will set it aside and take another" in rows["system_state.json"]
    (restored,) = [
        row["file"]
        for row in shockproof("state", "verify", "--json", "--state-dir", state).json["files"]
        if row["is_restored"]
    ]
    assert restored == "system_state.pkl"
    shown = shockproof("state", "show", "cached_data.AAPL.price", "--state-dir", state)
    assert (shown.code, shown.json) == (0, "150.25")
    assert "system_state.json is damaged" in shown.err


def test_a_state_of_which_nothing_is_left_is_told_by_the_exit_code(shockproof: Run, killed: Path) -> None:
    """1: there is something, and it is all damaged; 3: nothing was ever saved."""
    state = killed / "state"
    shutil.rmtree(state / "journal")
    for name in ("system_state.json", "system_state.pkl", "system_state.prev.json"):
        (state / name).write_bytes(b"?")
    lost = shockproof("state", "show", "--state-dir", state)
    assert lost.code == 1
    assert lost.err.splitlines()[-1] == f"shockproof state: no state file is valid in {state}"
    (killed / "empty").mkdir()
    assert shockproof("state", "show", "--state-dir", killed / "empty").code == 3
    assert shockproof("state", "verify", "--state-dir", killed / "empty").code == 3


def test_a_newer_programs_file_is_told_from_a_damaged_one(shockproof: Run, killed: Path) -> None:
    """It is not broken, and the way out is the newer program."""
    file = killed / "state" / "system_state.json"
    lines = file.read_text().replace('"format_version": 1', '"format_version": 9').splitlines()
    lines[-2] = '  "checksum": null'
    file.write_text("\n".join(lines))
    (row,) = [
        row
        for row in shockproof("state", "verify", "--json", "--state-dir", killed / "state").json["files"]
        if row["file"] == "system_state.json"
    ]
    assert (row["verdict"], "format version 9" in row["reason"]) == ("newer", True)


def test_a_halt_is_the_first_thing_said(shockproof: Run, killed: Path) -> None:
    """Who looks at a bot that does not trade reads why."""
    mark = '{"format_version": 1, "reason": "fat finger", "since": "2026-11-25T10:00:00+00:00"}'
    (killed / "state" / "halted.json").write_text(mark)
    shown = shockproof("state", "show", "--state-dir", killed / "state")
    assert shown.out.startswith("HALTED since 2026-11-25")
    assert "fat finger" in shown.out.splitlines()[0]
    halted = shockproof("state", "show", "--json", "--state-dir", killed / "state").json["halted"]
    assert halted["reason"] == "fat finger"


def test_each_file_can_be_dumped(shockproof: Run, killed: Path) -> None:
    """The pickle too, which nobody can read otherwise; both hold the same."""
    words = ("state", "dump", "--state-dir", killed / "state", "--file")
    as_json = shockproof(*words, "system_state.json").json
    as_pickle = shockproof(*words, "system_state.pkl").json
    assert as_json.pop("file") != as_pickle.pop("file")
    assert as_json == as_pickle
    assert as_json["cached_data"]["AAPL"]["price"] == {"$": "decimal", "v": "150.25"}
    assert shockproof(*words, "system_state.prev.json").json["cached_data"] == {"generation": 1}
    missing = shockproof(*words, "state.json")
    assert (missing.code, "there are: system_state.json" in missing.err) == (3, True)


def test_a_file_that_a_person_edited_is_shown_as_it_stands(shockproof: Run, killed: Path) -> None:
    """Without its checksum, and with the forms of its values."""
    (killed / "state" / "system_state.pkl").unlink()
    file = killed / "state" / "system_state.json"
    lines = (
        file.read_text()
        .replace("150.25", "150.26")
        .replace('"bid": {"$": "decimal", "v": "1.0"}', '"bid": 1')
    )
    lines = lines.replace('"quote": {"$": "object"', '"quote": {"kind": "object"').splitlines()
    lines[-2] = '  "checksum": null'
    file.write_text("\n".join(lines))
    words = ("--state-dir", killed / "state")
    assert shockproof("state", "verify", *words).code == 0
    dumped = shockproof("state", "dump", *words).json
    assert dumped["cached_data"]["AAPL"]["price"] == {"$": "decimal", "v": "150.26"}


@pytest.mark.parametrize("name", ["system_state.json", "system_state.pkl"])
def test_files_of_the_original_program_are_read(shockproof: Run, original: Path, name: str) -> None:
    """They have no version, no number and no checksum; a pickle of its classes is read without them."""
    before = contents(original)
    dumped = shockproof("state", "dump", "--state-dir", original, "--file", name)
    assert dumped.code == 0
    assert dumped.json["service_statuses"] == {"market_data": "degraded", "trading": "operational"}
    assert dumped.json["cached_data"] == {"AAPL": {"price": 150.0}}
    assert dumped.json["sequence"] is None
    verified = shockproof("state", "verify", "--state-dir", original)
    assert verified.code == 0
    assert "by the original program" in verified.out
    assert "AAPL" in shockproof("state", "show", "--state-dir", original).out
    assert contents(original) == before


@pytest.mark.asyncio
async def test_what_is_pending_is_shown_as_it_would_be_restored(shockproof: Run, killed: Path) -> None:
    """In the same order, beside what was saved, and the same once the program has saved what it restored."""
    place = ("--state-dir", killed / "state")

    def names(operations: list[dict[str, Any]]) -> list[tuple[object, object, object]]:
        return [(one["operation"], one.get("key"), one.get("status")) for one in operations]

    shown = await asyncio.to_thread(shockproof, "state", "show", "active_operations", "--json", *place)
    (killed / "state" / "system_state.json").unlink()  # it holds a class that only the trader has
    (killed / "state" / "system_state.pkl").unlink()
    async with ErrorRecoveryService(state_dir=killed / "state", error_log_dir=killed / "errors") as recovery:
        restored = await recovery.restore_state()
        assert restored is not None
        assert names(shown.json) == [("fetch", None, None), *names(restored.active_operations)]
        assert shown.json[2] == {
            "operation": "import",
            "key": "bars",
            "status": "pending",
            "index": 3,
            "price": {"$": "decimal", "v": "1.10"},
        }
        await recovery.save_state(active_operations=restored.active_operations, force=True)
    again = await asyncio.to_thread(shockproof, "state", "show", "active_operations", "--json", *place)
    assert names(again.json) == names(restored.active_operations)


def test_pending_operations_make_a_state_where_none_was_saved(shockproof: Run, killed: Path) -> None:
    """As restore_state() gives one; where files are there and all damaged, the exit code says so all the same."""
    state = killed / "state"
    for file in state.glob("system_state*"):
        file.write_bytes(b"?")
    damaged = shockproof("state", "show", "--state-dir", state)
    assert (damaged.code, "active_operations (3)" in damaged.out) == (1, True)
    for file in state.glob("system_state*"):
        file.unlink()
    shown = shockproof("state", "show", "--state-dir", state)
    assert (shown.code, shown.out.splitlines()[0]) == (
        0,
        "No state is there: what is pending in the journal makes one.",
    )
    assert "bot-5" in shown.out
    as_json = shockproof("state", "show", "--json", "--state-dir", state).json
    assert (as_json["file"], len(as_json["active_operations"])) == (None, 3)


def test_a_state_beside_a_damaged_journal_is_shown_with_the_exit_code_of_damage(
    shockproof: Run, killed: Path
) -> None:
    """What it shows as pending may not be all: a script has to learn that."""
    assert shockproof("state", "show", "--state-dir", killed / "state").code == 0
    (segment,) = (killed / "state" / "journal").glob("journal-*.wal")
    data = bytearray(segment.read_bytes())
    data[data.index(b'"key":"bars"')] ^= 1
    segment.write_bytes(data)
    shown = shockproof("state", "show", "--state-dir", killed / "state")
    assert (shown.code, "the journal is damaged" in shown.err) == (1, True)
    assert "cached_data" in shown.out


def test_a_halt_is_said_where_nothing_was_saved(shockproof: Run, tmp_path: Path) -> None:
    """A bot that was halted before its first save is halted; scripts find it beside their document, on stderr."""
    (tmp_path / "halted.json").touch()
    shown = shockproof("state", "show", "--state-dir", tmp_path)
    assert (shown.code, shown.out.count("\n")) == (3, 1)
    assert shown.out.startswith("HALTED since ")
    assert shown.out.endswith(": by hand, no reason given: halted.json is empty\n")
    for words in (("--json",), ("cached_data",)):
        shown = shockproof("state", "show", *words, "--state-dir", tmp_path)
        assert (shown.code, shown.out, "HALTED since" in shown.err.splitlines()[0]) == (3, "", True)


def test_an_open_circuit_is_told_in_words_to_people_alone(shockproof: Run, tmp_path: Path) -> None:
    """In the state and in a report; a script gets the fields."""

    async def fail_once() -> None:
        async def fetch() -> None:
            raise ConnectionError("reset")

        async with ErrorRecoveryService(tmp_path, tmp_path / "errors", circuit_threshold=1) as recovery:
            with pytest.raises(ConnectionError):
                await recovery.retry_with_backoff(fetch, service_name="venue", max_retries=0)
            recovery.set_circuit_mode("venue", "forced-open", reason="maintenance")
            await recovery.save_state(force=True)

    asyncio.run(fail_once())
    place = ("--state-dir", tmp_path)
    assert "  venue  held open by hand: maintenance\n" in shockproof("state", "show", *place).out
    scripts = shockproof("state", "show", "circuit_breakers.venue", *place).json
    assert (scripts["is_forced_open"], scripts["reason"]) == (True, "maintenance")
    page = shockproof("report", "--output", "-", *place, "--error-log-dir", tmp_path / "errors").out
    assert "<td>held open by hand: maintenance</td>" in page


# ---- the states of days


@pytest.fixture
def in_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Takes this process into a time zone until the test ends."""

    def move(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield move
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def days(tmp_path: Path) -> Path:
    """Saved on the 22nd, the 23rd and the 25th: the first two are kept beside the newest."""
    state_dir = tmp_path / "state"
    for day in (22, 23, 25):
        clock = VirtualClock(wall=datetime(2026, 11, day, 12).astimezone().timestamp())
        recovery = ErrorRecoveryService(state_dir, tmp_path / "errors", clock=clock, keep_daily_states=5)

        async def save(recovery: ErrorRecoveryService = recovery, day: int = day) -> None:
            async with recovery:
                await recovery.save_state(cached_data={"day": day}, force=True)

        clock.run(save())
    return state_dir


def test_a_day_before_all_of_them_is_told_with_the_oldest(shockproof: Run, days: Path) -> None:
    """Whoever looks for a day learns how far back there is one; where none is kept, when the newest was saved."""
    words = ("state", "show", "--state-dir", days, "--day", "2026-11-20")
    refused = shockproof(*words)
    assert (refused.code, refused.out) == (3, "")
    assert refused.err.endswith(f"is kept in {days}: the oldest that is there is of 2026-11-22\n")
    shutil.rmtree(days / "days")
    assert f"is kept in {days}: the newest was saved 2026-11-25 12:00:00" in shockproof(*words).err


def test_a_state_of_a_day_before_is_said_to_be_one(shockproof: Run, days: Path) -> None:
    """On stderr, as a value alone does not tell; one that was saved on that day needs no words."""
    words = ("state", "show", "cached_data.day", "--state-dir", days, "--day")
    own, before = shockproof(*words, "2026-11-23"), shockproof(*words, "2026-11-24")
    assert (own.json, own.err) == (23, "")
    assert before.json == 23
    assert (
        "no state of 2026-11-24 itself is kept: this is the last before, saved 2026-11-23 12:0" in before.err
    )


def test_a_damaged_state_of_a_day_is_not_taken_for_the_newest(shockproof: Run, days: Path) -> None:
    """The newest is sound: what is wrong is told with its place."""
    (days / "days" / "2026-11-22.system_state.json").write_bytes(b"{")
    refused = shockproof("state", "show", "--state-dir", days, "--day", "2026-11-22")
    assert refused.code == 1
    assert refused.err.endswith(f"no state file is valid in {days / 'days'}\n")


def test_a_day_is_that_of_whoever_asks(
    shockproof: Run, tmp_path: Path, in_zone: Callable[[str], None]
) -> None:
    """The files have the days of the program, here those of UTC: what was saved until that day ended here is shown."""
    in_zone("UTC0")
    for number, hour, minute in ((22, 23, 54), (24, 0, 30), (26, 12, 0)):
        clock = VirtualClock(wall=datetime(2026, 11, number, hour, minute, tzinfo=UTC).timestamp())
        recovery = ErrorRecoveryService(tmp_path, tmp_path / "errors", clock=clock, keep_daily_states=5)

        async def save(recovery: ErrorRecoveryService = recovery, number: int = number) -> None:
            async with recovery:
                await recovery.save_state(cached_data={"saved": number}, force=True)

        clock.run(save())
    for zone, day, found in (
        ("JST-9", 22, None),  # it was saved on the 23rd, 8:54
        ("JST-9", 23, 22),
        ("JST-9", 24, 24),
        ("JST-9", 26, 26),
        ("PST8", 21, None),
        ("PST8", 22, 22),
        ("PST8", 23, 24),  # at 16:30, although its name is that of the day after
    ):
        in_zone(zone)
        words = ("cached_data.saved", "--state-dir", tmp_path, "--day", f"2026-11-{day}")
        shown = shockproof("state", "show", *words)
        assert (shown.code, shown.json if shown.out else None) == (3 if found is None else 0, found)


def test_the_states_of_days_are_verified_and_dumped_under_their_names(shockproof: Run, days: Path) -> None:
    """A disk that spoils one of them is noticed before somebody needs it, by the doctor too."""
    name = "days/2026-11-22.system_state.json"
    dumped = shockproof("state", "dump", "--file", name, "--state-dir", days)
    assert (dumped.json["file"], dumped.json["cached_data"]) == (name, {"day": 22})
    sound = shockproof("state", "verify", "--json", "--state-dir", days)
    found = {file["file"]: (file["verdict"], file["is_restored"]) for file in sound.json["files"]}
    assert sound.code == 0
    assert found[name] == found["days/2026-11-23.system_state.json"] == ("valid", False)
    assert found["system_state.json"] == ("valid", True)

    (days / name).write_bytes((days / name).read_bytes().replace(b'"day": 22', b'"day": 21'))

    verified = shockproof("state", "verify", "--state-dir", days)
    assert verified.code == 1
    (row,) = [line for line in verified.out.splitlines() if line.startswith(name)]
    assert row.split()[1] == "damaged"
    assert "take another" not in row
    assert shockproof("state", "dump", "--file", name, "--state-dir", days).code == 1
    unknown = shockproof("state", "dump", "--file", "x", "--state-dir", days)
    assert (unknown.code, name in unknown.err) == (3, True)
    asked = shockproof("doctor", "--json", "--state-dir", days, "--error-log-dir", days.parent / "errors")
    (problem,) = [one["text"] for one in asked.json if one["verdict"] == "problem"]
    assert problem.startswith(f"{name} is damaged")


def test_the_states_of_days_alone_are_verified_too(shockproof: Run, days: Path) -> None:
    """What is left of a directory whose newest files are gone; none of them would be restored."""
    for file in days.glob("system_state*"):
        file.unlink()
    verified = shockproof("state", "verify", "--json", "--state-dir", days)
    assert [file["is_restored"] for file in verified.json["files"]] == [False, False]
