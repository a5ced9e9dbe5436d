"""The journal of a killed process, verified and dumped: sound, torn, damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.journal.position import Position, position_path, write_position

Run = Callable[..., Any]  # the fixture's result


def contents(directory: Path) -> dict[Path, tuple[bytes, int]]:
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.rglob("*") if path.is_file()
    }


def segment_of(killed: Path) -> Path:
    (segment,) = (killed / "state" / "journal").glob("journal-*.wal")
    return segment


def records(shockproof: Run, killed: Path, *words: str) -> list[dict[str, Any]]:
    dumped = shockproof("journal", "dump", "--json", *words, "--state-dir", killed / "state")
    return [json.loads(line) for line in dumped.out.splitlines()]


def test_a_sound_journal_is_told_as_sound(shockproof: Run, killed: Path) -> None:
    """With what is in it, and who owns it."""
    verified = shockproof("journal", "verify", "--state-dir", killed / "state")
    assert verified.code == 0
    assert f"{segment_of(killed).name}: sound, " in verified.out
    assert "1 send" in verified.out
    as_json = shockproof("journal", "verify", "--json", "--state-dir", killed / "state").json
    assert (as_json["pending"], as_json["has_reserve"], as_json["owner"]["is_owned"]) == (3, True, False)


def test_every_record_is_dumped_with_its_place(shockproof: Run, killed: Path) -> None:
    """The offset is where an editor finds it in the file."""
    found = records(shockproof, killed)
    data = segment_of(killed).read_bytes()
    assert [record["sequence"] for record in found] == list(range(1, len(found) + 1))
    for record in found[1:]:
        body = record["offset"] + 29
        length = int.from_bytes(data[record["offset"] : record["offset"] + 4], "little")
        assert json.loads(data[body : body + length])["key"] == record["key"]
    assert [record["kind"] for record in records(shockproof, killed, "--key", "bot-5")] == [
        "send",
        "interrupt",
    ]
    assert {record["operation"] for record in records(shockproof, killed, "--operation", "import")} == {
        "import"
    }


def test_a_torn_end_is_told_from_damage(shockproof: Run, killed: Path) -> None:
    """A crash in the middle of a write lost nothing that anybody was told of: exit code 0."""
    segment = segment_of(killed)
    end = shockproof("journal", "verify", "--json", "--state-dir", killed / "state").json["segments"][0][
        "chain_end"
    ]
    data = bytearray(segment.read_bytes())
    data[end : end + 40] = b"\x20\0\0\0" + b"torn" * 9
    segment.write_bytes(data)
    verified = shockproof("journal", "verify", "--state-dir", killed / "state")
    assert verified.code == 0
    assert ": torn, " in verified.out
    assert f"from byte {end:,} on (40 B): nothing in it had been acknowledged" in verified.out


def test_damage_is_told_with_its_place_and_what_it_means(shockproof: Run, killed: Path) -> None:
    """Exit code 1; what stands behind the damage is still shown."""
    damaged = next(record for record in records(shockproof, killed) if record["kind"] == "checkpoint")
    segment = segment_of(killed)
    data = bytearray(segment.read_bytes())
    data[damaged["offset"] + 40] ^= 1
    segment.write_bytes(data)
    before = contents(killed)
    verified = shockproof("journal", "verify", "--state-dir", killed / "state")
    assert verified.code == 1
    assert f"record {damaged['sequence']} is damaged, and it had been acknowledged as durable" in verified.out
    assert f"from byte {damaged['offset']:,} on" in verified.out
    assert "An operation may be missing, or pending that had ended" in verified.out
    dumped = shockproof("journal", "dump", "--state-dir", killed / "state")
    assert dumped.code == 1
    assert f"the chain of records is broken at byte {damaged['offset']:,}" in dumped.err
    assert "rebalance" in dumped.out
    assert contents(killed) == before


def test_what_is_missing_is_told_until_the_journal_is_trusted(shockproof: Run, killed: Path) -> None:
    """A copy was put back: a person marks it, sees it in verify and doctor, and takes the mark away."""
    mark = killed / "state" / "journal" / "incomplete.json"
    mark.touch()
    verified = shockproof("journal", "verify", "--state-dir", killed / "state")
    assert verified.code == 1
    assert "Something is missing from it: by hand" in verified.out
    assert "shockproof journal trust" in verified.out
    as_json = shockproof("journal", "verify", "--json", "--state-dir", killed / "state").json
    assert as_json["incomplete"] == "by hand: incomplete.json is empty"
    doctor = shockproof("doctor", "--state-dir", killed / "state", "--error-log-dir", killed / "errors")
    assert "something is missing from it" in doctor.out
    listed = shockproof("operations", "list", "--state-dir", killed / "state")
    assert "something is missing from the journal (by hand: " in listed.err
    shown = shockproof("state", "show", "--state-dir", killed / "state")
    assert "something is missing from the journal: by hand: " in shown.err

    assert shockproof("journal", "trust", "--state-dir", killed / "state").code == 0
    assert not mark.exists()
    assert shockproof("journal", "verify", "--state-dir", killed / "state").code == 0
    assert "Nothing was missing" in shockproof("journal", "trust", "--state-dir", killed / "state").out


def test_journal_is_not_trusted_while_it_is_owned_or_damaged(shockproof: Run, killed: Path) -> None:
    """A program that runs remembers what is missing; and damage is first kept by one."""
    journal = killed / "state" / "journal"
    (journal / "incomplete.json").touch()
    handle = SystemFiles().own(journal / "lock", b"1")
    refused = shockproof("journal", "trust", "--state-dir", killed / "state")
    SystemFiles().close(handle)
    assert refused.code == 4
    segment_of(killed).rename(journal / "away")
    refused = shockproof("journal", "trust", "--state-dir", killed / "state")
    assert refused.code == 2
    assert "start the program once" in refused.err
    verified = shockproof("journal", "verify", "--state-dir", killed / "state")
    assert "there was one: its segment was removed or renamed" in verified.out
    assert (journal / "incomplete.json").exists()


def test_a_newer_programs_journal_is_refused_by_name(shockproof: Run, killed: Path) -> None:
    """Guessing at a form that this program does not know would show lies."""
    import struct
    import zlib

    segment = segment_of(killed)
    data = bytearray(segment.read_bytes())
    struct.pack_into("<H", data, 8, 9)
    struct.pack_into("<I", data, 40, zlib.crc32(data[:40]))
    segment.write_bytes(data)
    refused = shockproof("journal", "verify", "--state-dir", killed / "state")
    assert (refused.code, refused.out) == (2, "")
    assert "has format version 9: use the newer shockproof" in refused.err
    assert refused.err.count("\n") == 1


@pytest.mark.parametrize(
    "words", [("verify",), ("dump",), ("verify", "--json"), ("dump", "--json")], ids=" ".join
)
def test_looking_changes_no_file_and_shows_no_secret(
    shockproof: Run, killed: Path, words: tuple[str, ...]
) -> None:
    """Neither the lock nor a file's time is touched, and a password stays what it is."""
    before = contents(killed)
    shown = shockproof("journal", *words, "--state-dir", killed / "state")
    assert shown.code == 0
    assert "hunter2" not in shown.out + shown.err
    assert contents(killed) == before


def test_without_a_journal_the_exit_code_says_so(shockproof: Run, tmp_path: Path) -> None:
    """A program that never began an operation has none, and that is no error of the journal."""
    for words in (("verify",), ("dump",)):
        missing = shockproof("journal", *words, "--state-dir", tmp_path)
        assert (missing.code, "no operation ever began" in missing.err) == (3, True)


def test_journal_that_was_removed_is_told_until_it_is_trusted(shockproof: Run, killed: Path) -> None:
    """Verify, doctor and the report say so; one command takes what is there for all there is."""
    shutil.rmtree(killed / "state" / "journal")
    verified = shockproof("journal", "verify", "--state-dir", killed / "state")
    assert verified.code == 1
    assert "Something is missing from it: its segment 1 is gone" in verified.out
    assert "gone" in shockproof("journal", "verify", "--json", "--state-dir", killed / "state").json["behind"]
    doctor = shockproof("doctor", "--state-dir", killed / "state", "--error-log-dir", killed / "errors")
    assert doctor.code == 1
    assert "something is missing from it: its segment 1 is gone" in doctor.out

    trusted = shockproof("journal", "trust", "--state-dir", killed / "state")
    assert trusted.code == 0
    assert "Forgotten: its segment 1 is gone" in trusted.out
    assert "no operation ever began" in shockproof("journal", "verify", "--state-dir", killed / "state").err


def test_end_that_was_overwritten_is_told_until_it_is_trusted(shockproof: Run, killed: Path) -> None:
    """The position beside it says how far it had come."""
    position = position_path(killed / "state" / "journal")
    write_position(SystemFiles(), killed / "state" / "journal", Position(1, 99))
    verified = shockproof("journal", "verify", "--state-dir", killed / "state")
    assert verified.code == 1
    assert "and 99 had been acknowledged as durable" in verified.out
    assert shockproof("journal", "trust", "--state-dir", killed / "state").code == 0
    assert not position.exists()
    assert shockproof("journal", "verify", "--state-dir", killed / "state").code == 0


def test_copy_is_told_and_is_no_damage(shockproof: Run, killed: Path) -> None:
    """It may be a backup that was put back, or the other one may still be in use."""
    verified = shockproof("journal", "verify", "--state-dir", killed / "state")
    assert verified.code == 0
    assert "it is a copy, or was put back from one" in verified.out
    doctor = shockproof("doctor", "--state-dir", killed / "state", "--error-log-dir", killed / "errors")
    assert "it is a copy, or was put back from one" in doctor.out
    assert shockproof("journal", "trust", "--state-dir", killed / "state").code == 0
    assert "copy" not in shockproof("journal", "verify", "--state-dir", killed / "state").out
