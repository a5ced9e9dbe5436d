"""The doctor finds what is wrong around a program, and is content where nothing is."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shockproof.command_line import doctor

Run = Callable[..., Any]  # the fixture's result


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture(autouse=True)
def _a_sound_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine of the tests is like."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(2 << 40, 1 << 40, 1 << 40))
    monkeypatch.setattr(doctor, "_is_unsynchronised", lambda: False)


def findings(shockproof: Run, place: Path, *words: str) -> tuple[int, dict[str, list[tuple[str, str]]]]:
    found = shockproof(
        "doctor", "--json", *words, "--state-dir", place / "state", "--error-log-dir", place / "errors"
    )
    sorted_by: dict[str, list[tuple[str, str]]] = {}
    for finding in found.json:
        sorted_by.setdefault(finding["about"], []).append((finding["verdict"], finding["text"]))
    return found.code, sorted_by


def test_a_program_that_has_not_begun_is_well(shockproof: Run, tmp_path: Path) -> None:
    """Nothing is there, nothing is made, and nothing is wrong."""
    code, found = findings(shockproof, tmp_path, "--strict")
    assert (code, {verdict for rows in found.values() for verdict, _ in rows}) == (0, {"ok"})
    assert {
        "python",
        "shockproof",
        "pydantic",
        "settings",
        "state_dir",
        "disk",
        "clock",
        "journal",
        "halt",
    } <= set(found)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_program_left_is_a_warning(shockproof: Run, killed: Path) -> None:
    """Exit code 0, and 1 with --strict; nothing is changed."""
    before = {path: path.stat().st_mtime_ns for path in killed.rglob("*")}
    code, found = findings(shockproof, killed)
    assert code == 0
    # A program that has not begun anything yet has not taken the lock, so that nobody can say that none runs.
    said = (
        "3 pending, and no process that this machine knows of owns the journal: a program that runs takes it with "
        "its first operation or order"
    )
    assert ("warning", said) in found["journal"]
    assert "system_state.json would be restored" in found["state"][0][1]
    assert findings(shockproof, killed, "--strict")[0] == 1
    assert {path: path.stat().st_mtime_ns for path in killed.rglob("*")} == before


@pytest.mark.parametrize(
    ("variable", "value", "verdict", "said"),
    [
        (
            "ERROR_RECOVERY_MAX_RETRIES",
            "many",
            "problem",
            "ERROR_RECOVERY_MAX_RETRIES must be a whole number",
        ),
        ("ERROR_RECOVERY_MAX_DELAY", "-1", "problem", "ERROR_RECOVERY_MAX_DELAY"),
        ("ERROR_RECOVERY_MAX_RETRY", "3", "warning", "ERROR_RECOVERY_MAX_RETRY is not one of"),
        ("ERROR_RECOVERY_MAX_RETRIES", "5", "ok", "ERROR_RECOVERY_MAX_RETRIES=5"),
    ],
)
def test_settings_of_the_environment_are_tried(
    shockproof: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    verdict: str,
    said: str,
) -> None:
    """A typing error is found before the program is started with it."""
    monkeypatch.setenv(variable, value)
    code, found = findings(shockproof, tmp_path)
    assert code == (1 if verdict == "problem" else 0)
    ((found_verdict, text),) = found["settings"]
    assert (found_verdict, said in text) == (verdict, True)


def test_directories_that_cannot_be_used_are_named(
    shockproof: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in the way, a directory of another user, one that everybody may write to."""
    (tmp_path / "state").write_text("in the way")
    (tmp_path / "errors").mkdir()
    (tmp_path / "errors").chmod(0o777)
    code, found = findings(shockproof, tmp_path)
    assert code == 1
    assert found["state_dir"] == [("problem", f"{tmp_path / 'state'} is no directory")]
    assert found["error_log_dir"] == [("warning", f"everybody may write to {tmp_path / 'errors'}")]
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    code, found = findings(shockproof, tmp_path)
    assert code == 1
    assert "may not be read and written by user" in found["error_log_dir"][0][1]


@pytest.mark.parametrize(("free", "verdict"), [(1 << 20, "problem"), (500 << 20, "warning")])
def test_a_disk_that_is_almost_full_is_told(
    shockproof: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, verdict: str
) -> None:
    """Before the journal refuses to begin anything."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(1 << 40, (1 << 40) - free, free))
    code, found = findings(shockproof, tmp_path)
    assert code == (1 if verdict == "problem" else 0)
    assert found["disk"][0][0] == verdict


def test_lines_of_the_error_log_that_are_no_records_are_a_warning(shockproof: Run, killed: Path) -> None:
    """One torn by a crash is passed over by every reader; a person should know of a file full of them."""
    assert findings(shockproof, killed)[1]["error log"][0][0] == "ok"
    (newest,) = (killed / "errors").glob("*.jsonl")
    newest.write_bytes(newest.read_bytes() + b'{"torn": \n\n')
    code, found = findings(shockproof, killed)
    ((verdict, text),) = found["error log"]
    assert (code, verdict) == (0, "warning")
    assert f"1 of 2 lines in {newest.name} are no records" in text


def test_an_error_log_that_cannot_be_read_is_a_problem(shockproof: Run, tmp_path: Path) -> None:
    """The newest file is cut in the middle of what was compressed: nobody can say what was in it."""
    (tmp_path / "errors").mkdir()
    packed = tmp_path / "errors" / "errors_20261125.jsonl.gz"
    packed.write_bytes(gzip.compress(b"{}")[:-4])
    code, found = findings(shockproof, tmp_path)
    ((verdict, text),) = found["error log"]
    assert (code, verdict, f"{packed.name} cannot be read to its end" in text) == (1, "problem", True)


def test_files_from_the_future_show_that_the_clock_went_back(shockproof: Run, killed: Path) -> None:
    """Settle windows and open circuits count on it."""
    tomorrow = time.time() + 86_400
    os.utime(killed / "state" / "system_state.json", (tomorrow, tomorrow))
    code, found = findings(shockproof, killed)
    assert (code, found["clock"][0][0]) == (1, "problem")
    assert "in the future" in found["clock"][0][1]


def test_a_clock_without_a_source_is_a_warning(
    shockproof: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Venues refuse what comes from another time."""
    monkeypatch.setattr(doctor, "_is_unsynchronised", lambda: True)
    assert findings(shockproof, tmp_path)[1]["clock"][0][0] == "warning"


def test_damage_and_a_halt_are_told(shockproof: Run, killed: Path) -> None:
    """With the command that shows more."""
    state = killed / "state"
    (state / "system_state.pkl").write_bytes(b"?")
    (segment,) = (state / "journal").glob("journal-*.wal")
    data = bytearray(segment.read_bytes())
    data[data.index(b'"key":"bars"')] ^= 1
    segment.write_bytes(data)
    (state / "halted.json").write_text('{"reason": "fat finger", "since": "2026-11-25T10:00:00+00:00"}')
    code, found = findings(shockproof, killed)
    assert code == 1
    assert found["state"][0][0] == "problem"
    assert found["journal"][0][0] == "problem"
    assert (found["halt"][0][0], "fat finger" in found["halt"][0][1]) == ("warning", True)
    shown = shockproof("doctor", "--state-dir", state, "--error-log-dir", killed / "errors").out
    assert "shockproof journal verify" in shown


def test_what_may_not_be_read_hides_nothing_else(
    shockproof: Run, killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look that fails is a finding, and the others go on."""

    def refuse(directory: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(directory))

    monkeypatch.setattr(doctor, "files_set_aside", refuse)
    code, found = findings(shockproof, killed)
    assert code == 1
    assert ("problem", f"{killed / 'state'}: Permission denied") in found["state"]
    assert found["halt"] == [("ok", "not halted")]


def test_a_package_that_is_too_old_or_missing_is_named(
    shockproof: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the words that install it."""
    monkeypatch.setattr(
        "importlib.metadata.requires", lambda name: ["anyio>=999", "no-such-thing>=1", "rich; extra"]
    )
    code, found = findings(shockproof, tmp_path)
    assert code == 1
    assert "is older than 999" in found["anyio"][0][1]
    assert found["no-such-thing"] == [("problem", "not installed")]
    assert "rich" not in found
