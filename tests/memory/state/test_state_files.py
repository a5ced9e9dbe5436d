"""The state on disk: written, found again, damaged, newer, old, edited and fought over."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import pickle
import re
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shockproof.memory.disk import writer
from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.state import state_file
from shockproof.memory.state.registered_types import register_type
from shockproof.memory.state.secrets import Redacted, SecretNames
from shockproof.memory.state.state_capture import CapturedState, StateSecrets, capture_state
from shockproof.memory.state.state_files import RestoredState, StateFiles
from shockproof.vocabulary.errors import StateVersionError
from shockproof.vocabulary.models import SystemState
from shockproof.vocabulary.statuses import ServiceStatus

ORIGINAL = Path(__file__).parents[2] / "data" / "original-state"
NOW = datetime(2026, 11, 25, 10, 15, tzinfo=UTC)
JSON, PICKLE, PREVIOUS = "system_state.json", "system_state.pkl", "system_state.prev.json"
RICH = {
    "AAPL": {"price": Decimal("1.10"), "at": datetime(2026, 11, 1, 1, 30, fold=1, tzinfo=ZoneInfo("America/New_York"))},
    "ids": {1, 2},
    "by_number": {1: (1, 2), "1": b"\xff"},
}  # fmt: skip


@register_type(name="tests:state-files-quote")
@dataclass
class Quote:
    price: Decimal


def captured(number: int = 0, **sections: Any) -> CapturedState:
    full = {
        "service_statuses": {"market_data": ServiceStatus.DEGRADED},
        "active_operations": [{"operation": "fetch", "index": number}],
        "cached_data": {"number": number},
        "configuration": {"mode": "paper"},
        **sections,
    }
    return asyncio.run(
        capture_state(full, secrets=StateSecrets(SecretNames()), timestamp=1_790_000_000 + number)
    )


def files(directory: Path, **options: Any) -> StateFiles:
    return StateFiles(directory, now=lambda: NOW, **options)


def number(restored: RestoredState) -> int:
    assert restored.state is not None
    found: int = restored.state.cached_data["number"]
    return found


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A directory with two saves: 1 and 2."""
    for value in (1, 2):
        files(tmp_path).write(captured(value))
    return tmp_path


def test_state_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    """All five fields, statuses as enum members, types that JSON lacks."""
    files(tmp_path).write(captured(cached_data=RICH))

    restored = files(tmp_path).load()

    assert restored.state == SystemState(
        timestamp=datetime.fromtimestamp(1_790_000_000, UTC),
        service_statuses={"market_data": ServiceStatus.DEGRADED},
        active_operations=[{"operation": "fetch", "index": 0}],
        cached_data=RICH,
        configuration={"mode": "paper"},
    )
    assert restored.sequence == 1
    assert restored.source == tmp_path / JSON
    assert restored.damaged == ()


def test_json_file_is_readable_by_a_person(tmp_path: Path) -> None:
    """Indented, the five fields at top level, one entry a line, and the three of the file's own."""
    files(tmp_path).write(captured(3, cached_data={"AAPL": {"price": 150.0, "name": "Zürich"}}))

    text = (tmp_path / JSON).read_text("utf-8")

    assert text.startswith('{\n  "format_version": 1,\n  "sequence": 1,\n  "timestamp": "')
    assert '\n  "cached_data": {\n    "AAPL": {"price": 150.0, "name": "Zürich"}\n  },\n' in text
    assert list(json.loads(text)) == [
        "format_version", "sequence", "timestamp", "service_statuses", "active_operations", "cached_data",
        "configuration", "checksum",
    ]  # fmt: skip
    assert json.loads(text)["service_statuses"] == {"market_data": "degraded"}
    assert datetime.fromisoformat(json.loads(text)["timestamp"]).tzinfo is not None


def test_checksum_covers_everything_before_its_line(tmp_path: Path) -> None:
    """As the documentation says, so that others can check it too."""
    files(tmp_path).write(captured())

    data = (tmp_path / JSON).read_bytes()

    head, _, tail = data.rpartition(b',\n  "checksum"')
    assert tail == b': "sha256:%s"\n}\n' % hashlib.sha256(head).hexdigest().encode()


def test_pickle_holds_the_same_and_needs_no_class(tmp_path: Path) -> None:
    """Python's own pickle reads it, without shockproof."""
    files(tmp_path).write(captured(4, cached_data={"price": Decimal(1)}))

    content = pickle.loads((tmp_path / PICKLE).read_bytes())

    assert content["sequence"] == 1
    assert content["cached_data"] == {"price": {"$": "decimal", "v": "1"}}


def test_large_state_comes_back_from_json_and_from_pickle(tmp_path: Path) -> None:
    """What is written in many pieces is one file, and entries that are large themselves are divided."""
    large = {"book": [[1.5, number] for number in range(3_000)], **{str(n): {"n": n} for n in range(3_000)}}
    files(tmp_path).write(captured(cached_data=large))

    for _ in (JSON, PICKLE):
        restored = files(tmp_path).load()
        assert restored.state is not None
        assert restored.state.cached_data == large
        if (tmp_path / JSON).exists():
            (tmp_path / JSON).unlink()


def test_empty_directory_and_missing_directory_hold_nothing(tmp_path: Path) -> None:
    """Looking makes no directory."""
    assert files(tmp_path).load() == RestoredState(None)
    assert files(tmp_path / "missing").load() == RestoredState(None)
    assert not (tmp_path / "missing").exists()


def test_sequence_goes_on_in_the_next_life(saved: Path) -> None:
    """A program that starts again counts on, also when it saves before it restores."""
    assert files(saved).write(captured(3)) == 3
    again = files(saved)
    again.load()
    assert again.write(captured(4)) == 4


def test_newest_is_told_by_its_number_and_not_by_its_time(saved: Path) -> None:
    """A clock that was set back does not bring an old state back."""
    earlier = captured(3)
    earlier.fields["timestamp"] = "1999-01-01T00:00:00+00:00"
    files(saved).write(earlier)

    assert number(files(saved).load()) == 3


# ---- damage


@pytest.mark.parametrize(
    ("lost", "found", "source"),
    [
        ((), 2, JSON),
        ((JSON,), 2, PICKLE),
        ((PICKLE,), 2, JSON),
        ((JSON, PICKLE), 1, PREVIOUS),
        ((JSON, PREVIOUS), 2, PICKLE),
    ],
)
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: path.write_bytes(b"\0" * path.stat().st_size),
        lambda path: path.write_bytes(path.read_bytes().replace(b"paper", b"money")),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["missing", "empty", "torn", "zeros", "changed", "directory"],
)
def test_next_best_file_is_used(
    saved: Path, damage: Callable[[Path], object], lost: tuple[str, ...], found: int, source: str
) -> None:
    """Of JSON, pickle and previous generation the newest valid one wins; damaged ones are set aside."""
    for name in lost:
        damage(saved / name)
    present = {name for name in lost if (saved / name).exists()}

    restored = files(saved).load()

    assert number(restored) == found
    assert restored.source == saved / source
    assert {file.path.name for file in restored.damaged} == present
    for file in restored.damaged:
        assert file.moved_to == saved / "damaged" / f"{file.path.name}.20261125T101500Z"
        assert file.moved_to.exists()
        assert not file.path.exists()


def test_nothing_valid_is_no_error_and_nothing_is_deleted(saved: Path) -> None:
    """All three damaged: no state, three files aside, and the next save begins anew."""
    for name in (JSON, PICKLE, PREVIOUS):
        (saved / name).write_bytes(b"{")

    restored = files(saved).load()

    assert restored.state is None
    assert len(restored.damaged) == 3
    assert len(names(saved / "damaged")) == 3
    files(saved).write(captured(5))
    assert number(files(saved).load()) == 5


def test_two_damaged_files_of_one_second_are_both_kept(saved: Path) -> None:
    """No name in damaged/ is used twice."""
    for _ in range(2):
        (saved / JSON).write_bytes(b"{")
        files(saved).load()
        files(saved).write(captured(3))

    assert names(saved / "damaged") == {f"{JSON}.20261125T101500Z", f"{JSON}.20261125T101500Z.2"}


def test_save_without_a_restore_sets_damaged_files_aside_too(saved: Path) -> None:
    """A program that never restores does not overwrite what a person may still want to look at."""
    (saved / JSON).write_bytes(b"{ half")

    files(saved).write(captured(3))

    assert (saved / "damaged" / f"{JSON}.20261125T101500Z").read_bytes() == b"{ half"


def test_damage_is_logged_with_reason_and_place(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever starts the program learns of it."""
    (saved / JSON).write_bytes(b"{")

    files(saved).load()

    assert "system_state.json is damaged: it is no valid JSON (line 1); set aside as" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        b"[1]",
        b'"text"',
        b"{}",
        b'{"timestamp": 5000000000000000000000}',
        b'{"timestamp": "2026-02-12T11:55:00", "active_operations": 5}',
        b'{"timestamp": "2026-02-12T11:55:00", "service_statuses": {"a": "broken"}}',
        b'{"format_version": 0, "timestamp": "2026-02-12T11:55:00"}',
        b'{"format_version": "1", "timestamp": "2026-02-12T11:55:00"}',
        b'{"format_version": true, "timestamp": "2026-02-12T11:55:00"}',
        b'{"format_version": 1, "sequence": -1, "timestamp": "2026-02-12T11:55:00"}',
        b'{"format_version": 1, "sequence": 1, "timestamp": "2026-02-12T11:55:00", "cached_data": {"a": {"$": "x"}}}',
        b"[" * 100_000,
        b"1" * 5_000,
        b"\xff\xfe",
        b'{"timestamp": "2026-02-12T11:55:00", "configuration": {"api_key": "K-123"}, "cached_data": "K-456"}',
    ],
    ids=lambda content: content[:60].decode("latin-1"),
)
def test_file_that_is_no_state_is_damaged(tmp_path: Path, content: bytes) -> None:
    """Valid JSON is not enough; the reason never shows what was in the file."""
    (tmp_path / JSON).write_bytes(content)

    restored = files(tmp_path).load()

    assert restored.state is None
    assert len(restored.damaged) == 1
    assert "K-" not in restored.damaged[0].reason


@pytest.mark.parametrize("name", [JSON, PICKLE, PREVIOUS])
@given(data=st.data())
def test_any_changed_byte_is_noticed_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    """With any bit of any file wrong, what is restored is one of the two states that were saved."""
    directory = tmp_path_factory.mktemp("state")
    for value in (1, 2):
        files(directory).write(captured(value))
    content = bytearray((directory / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (directory / name).write_bytes(content)

    restored = files(directory).load()
    assert restored.state is not None
    assert restored.state.configuration == {"mode": "paper"}
    assert number(restored) == 2
    shutil.rmtree(directory)


def test_attack_in_the_pickle_is_set_aside_and_never_run(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evil pickle with a later time, and no JSON beside it."""

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, ("touch hacked",)

    monkeypatch.chdir(tmp_path)
    (saved / JSON).unlink()
    (saved / PICKLE).write_bytes(pickle.dumps({"timestamp": Evil(), "cached_data": {}}))

    restored = files(saved).load()

    assert number(restored) == 1
    assert "system, which is neither plain nor registered" in restored.damaged[0].reason
    assert "hacked" not in names(tmp_path)


def test_unreadable_disk_is_an_error_and_not_an_empty_state(saved: Path) -> None:
    """Starting from nothing because of one EIO would be the worst answer."""

    class Unreadable(SystemFiles):
        def read(self, path: Path, limit: int) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with pytest.raises(OSError, match="Input/output"):
        files(saved, layer=Unreadable()).load()
    with pytest.raises(OSError, match="Input/output"):
        files(saved, layer=Unreadable()).write(captured(3))
    assert number(files(saved).load()) == 2


def test_one_unreadable_file_does_not_hide_the_others(saved: Path) -> None:
    """It is reported, and stays where it is."""

    class OneUnreadable(SystemFiles):
        def read(self, path: Path, limit: int) -> bytes:
            if path.name == JSON:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return super().read(path, limit)

    restored = files(saved, layer=OneUnreadable()).load()

    assert number(restored) == 2
    assert restored.damaged[0].moved_to is None
    assert (saved / JSON).exists()


def test_damaged_file_in_a_directory_that_may_not_be_written_to_is_reported(saved: Path) -> None:
    """What can be read is still worth having."""

    class ReadOnly(SystemFiles):
        def make_directory(self, path: Path) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    (saved / JSON).write_bytes(b"{")

    restored = files(saved, layer=ReadOnly()).load()

    assert number(restored) == 2
    assert restored.damaged[0].moved_to is None


@pytest.mark.parametrize(
    "sections",
    [
        {"active_operations": [{1: "one"}, {("a", 1): {2: 3}}]},
        {"cached_data": {1: "one", None: 2, b"x": 3}},
        {"configuration": {("a", 1): "x", 1.5: "y"}},
        {"service_statuses": {"a\udc80": ServiceStatus.DEGRADED}},
    ],
)
@pytest.mark.parametrize("lost", [(), (JSON,)])
def test_keys_that_are_no_strings_come_back(
    tmp_path: Path, sections: dict[str, Any], lost: tuple[str, ...]
) -> None:
    """In every section, also at its top."""
    files(tmp_path).write(captured(**sections))
    for name in lost:
        (tmp_path / name).unlink()

    restored = files(tmp_path).load()

    assert restored.damaged == ()
    assert restored.state is not None
    for name, value in sections.items():
        assert getattr(restored.state, name) == value


# ---- versions, edits, the original program


def of_version(version: int, content: bytes) -> bytes:
    """The same file as a newer program might have written it, with a checksum that matches."""
    content = content.replace(b'"format_version": 1', b'"format_version": %d' % version)
    content = content.replace(b"format_version=1", b"format_version=%d" % version)
    body = (
        content[: content.rindex(b"sha256=") + 7] if b"sha256=" in content else content.rpartition(b",\n")[0]
    )
    old = re.findall(rb"[0-9a-f]{64}", content)[-1]
    return content.replace(old, hashlib.sha256(body).hexdigest().encode())


@pytest.mark.parametrize("name", [JSON, PICKLE, PREVIOUS])
def test_damaged_file_that_claims_a_newer_version_is_set_aside(saved: Path, name: str) -> None:
    """One wrong bit in the version's digit: the checksum is believed, not the digit."""
    content = (saved / name).read_bytes()
    claims = content.replace(b'"format_version": 1', b'"format_version": 9')
    (saved / name).write_bytes(claims.replace(b"format_version=1", b"format_version=9"))

    restored = files(saved).load()

    assert number(restored) == 2
    assert [(file.path.name, "does not match" in file.reason) for file in restored.damaged] == [(name, True)]


def test_damage_that_comes_later_and_claims_a_newer_version_stops_no_save(saved: Path) -> None:
    """Between two saves as well."""
    running = files(saved)
    running.write(captured(3))
    content = (saved / JSON).read_bytes().replace(b'"format_version": 1', b'"format_version": 3')
    (saved / JSON).write_bytes(content)

    running.write(captured(4))

    assert number(files(saved).load()) == 4
    assert [path.read_bytes() for path in (saved / "damaged").iterdir()] == [content]


def test_any_changed_bit_of_the_only_file_gives_the_right_state_or_none(tmp_path: Path) -> None:
    """No damage makes it a file of the original program, whose values would be taken as they stand."""
    sections = {"cached_data": {"price": Decimal("1.1")}, "configuration": {}}
    state = asyncio.run(capture_state(sections, secrets=StateSecrets(SecretNames()), timestamp=0.0))
    files(tmp_path).write(state)
    content = (tmp_path / JSON).read_bytes()
    for path in tmp_path.iterdir():
        path.unlink()
    for bit in range(len(content) * 8):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / JSON).write_bytes(damaged)
        restored = files(tmp_path).load()
        assert restored.state is None or restored.state.cached_data == {"price": Decimal("1.1")}
        if restored.state is None:
            assert restored.damaged[0].moved_to is not None
            restored.damaged[0].moved_to.unlink()


def make_directory(path: Path) -> None:
    (path / "sub").mkdir(parents=True)


def make_link_loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes there")
@pytest.mark.parametrize("make", [make_directory, make_link_loop, os.mkfifo])
@pytest.mark.parametrize("name", [JSON, PICKLE, PREVIOUS])
@pytest.mark.parametrize("when", ["before the first save", "between two saves"])
def test_what_is_no_file_is_set_aside_and_stops_no_save(
    tmp_path: Path, make: Callable[[Path], None], name: str, when: str
) -> None:
    """A pipe would hold the reader for ever, a directory cannot be replaced, a loop leads nowhere."""
    running = files(tmp_path)
    if when == "between two saves":
        running.write(captured(1))
        (tmp_path / name).unlink(missing_ok=True)
    make(tmp_path / name)

    running.write(captured(2))

    assert number(files(tmp_path).load()) == 2
    assert len(list((tmp_path / "damaged").iterdir())) == 1
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes there")
@pytest.mark.parametrize("make", [make_directory, make_link_loop, os.mkfifo])
def test_what_is_no_file_is_set_aside_when_the_state_is_restored(
    saved: Path, make: Callable[[Path], None]
) -> None:
    """The pickle beside it serves."""
    (saved / JSON).unlink()
    make(saved / JSON)

    restored = files(saved).load()

    assert number(restored) == 2
    assert [file.path.name for file in restored.damaged] == [JSON]
    assert not os.path.lexists(saved / JSON)


@pytest.mark.parametrize("name", [JSON, PICKLE, PREVIOUS])
def test_newer_version_is_refused_and_nothing_is_moved(saved: Path, name: str) -> None:
    """Its name, its version and a way out; a damaged file beside it stays where it is too."""
    (saved / name).write_bytes(of_version(9, (saved / name).read_bytes()))
    other = JSON if name != JSON else PICKLE
    (saved / other).write_bytes(b"broken")
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    with pytest.raises(StateVersionError, match=rf"{name} has format version 9.*up to 2.*another state_dir"):
        files(saved).load()
    with pytest.raises(StateVersionError, match="format version 9"):
        files(saved).write(captured(3))

    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_newer_version_that_appears_later_is_not_overwritten(saved: Path) -> None:
    """A newer program may start in the same directory while this one runs."""
    running = files(saved)
    running.write(captured(3))
    content = of_version(9, (saved / JSON).read_bytes())
    (saved / JSON).write_bytes(content)

    with pytest.raises(StateVersionError):
        running.write(captured(4))
    assert (saved / JSON).read_bytes() == content


def test_newer_version_in_another_layout_is_recognised(tmp_path: Path) -> None:
    """The version may stand anywhere in the object."""
    (tmp_path / JSON).write_text('{"timestamp": "x", "format_version": 9}')

    with pytest.raises(StateVersionError):
        files(tmp_path).load()


def test_edited_file_is_damaged_unless_its_checksum_is_taken_out(saved: Path) -> None:
    """A wrong checksum may be a broken disk; without one, an edit was meant."""
    edited = (saved / JSON).read_text().replace('"paper"', '"live"')
    (saved / JSON).write_text(edited)
    restored = files(saved).load()
    assert restored.state is not None
    assert restored.state.configuration == {"mode": "paper"}
    assert 'write "checksum": null in it' in restored.damaged[0].reason

    content = json.loads(edited)
    for checksum in ({"checksum": None}, {}):
        del content["checksum"]
        content |= checksum
        (saved / JSON).write_text(json.dumps(content, indent=4))
        restored = files(saved).load()
        assert restored.state is not None
        assert restored.state.configuration == {"mode": "live"}
        assert restored.damaged == ()
        content.setdefault("checksum", None)


def test_files_of_the_original_program_are_read(tmp_path: Path) -> None:
    """Both of them, and each alone; its naive time is local time."""
    for lost in ((), (JSON,), (PICKLE,)):
        directory = tmp_path / f"without {''.join(lost)}"
        shutil.copytree(ORIGINAL, directory)
        for name in lost:
            (directory / name).unlink()

        restored = files(directory).load()

        assert restored.damaged == ()
        assert restored.sequence is None
        assert restored.state is not None
        assert restored.state.timestamp == datetime(2026, 2, 12, 11, 55, 0, 123456).astimezone()
        assert restored.state.service_statuses["market_data"] is ServiceStatus.DEGRADED
        assert restored.state.active_operations == [
            {"operation": "fetch_data", "symbol": "AAPL", "status": "pending"}
        ]
        assert restored.state.cached_data == {"AAPL": {"price": 150.0}}
        assert restored.state.configuration == {"mode": "paper"}


def test_dict_with_a_dollar_key_in_an_original_file_is_plain(tmp_path: Path) -> None:
    """The original program knew no tags."""
    content = {
        "timestamp": "2026-02-12T11:55:00",
        "cached_data": {"$": "decimal", "v": "1"},
        "sequence": "mine",
    }
    (tmp_path / JSON).write_text(json.dumps(content))

    restored = files(tmp_path).load()

    assert restored.state is not None
    assert restored.state.cached_data == {"$": "decimal", "v": "1"}
    assert restored.state.model_extra == {"sequence": "mine"}


def test_later_file_of_the_original_program_beats_our_previous_one(saved: Path) -> None:
    """Whoever went back to it for a day goes on from that day's state."""
    later = json.loads((ORIGINAL / JSON).read_text()) | {"timestamp": "2030-01-01T00:00:00"}
    (saved / JSON).write_text(json.dumps(later))
    (saved / PICKLE).unlink()

    restored = files(saved).load()

    assert restored.state is not None
    assert restored.state.cached_data == {"AAPL": {"price": 150.0}}


def test_earlier_file_of_the_original_program_loses_to_ours(saved: Path) -> None:
    """An old copy that somebody put there does not bring the past back."""
    shutil.copy(ORIGINAL / JSON, saved / JSON)

    restored = files(saved).load()

    assert restored.source == saved / PICKLE
    assert number(restored) == 2


def test_first_save_over_original_files_keeps_the_json_as_previous(tmp_path: Path) -> None:
    """Moving over loses nothing at once, and a clock that is behind brings nothing back."""
    shutil.copytree(ORIGINAL, tmp_path, dirs_exist_ok=True)
    state = captured(1)
    state.fields["timestamp"] = "2020-01-01T00:00:00+00:00"

    assert files(tmp_path).write(state) == 1

    assert (tmp_path / PREVIOUS).read_bytes() == (ORIGINAL / JSON).read_bytes()
    assert number(files(tmp_path).load()) == 1


def test_class_that_is_not_registered_is_an_error_and_no_damage(tmp_path: Path) -> None:
    """The program forgot to register: nothing is moved, and after registering all is there."""
    state = captured(cached_data={"q": Quote(Decimal("1.5"))})
    state.fields["cached_data"]["q"]["type"] = "bot:Quote"
    files(tmp_path).write(state)

    with pytest.raises(
        StateVersionError, match=r"'bot:Quote', which is not registered here: call shockproof\.register_type"
    ):
        files(tmp_path).load()

    assert names(tmp_path) == {JSON, PICKLE}


def test_registered_class_comes_back(tmp_path: Path) -> None:
    """From JSON and from the pickle alone."""
    files(tmp_path).write(captured(cached_data={"q": [Quote(Decimal("1.5"))]}))
    first = files(tmp_path).load()
    (tmp_path / JSON).unlink()
    second = files(tmp_path).load()

    for restored in (first, second):
        assert restored.state is not None
        assert restored.state.cached_data == {"q": [Quote(Decimal("1.5"))]}


def test_secret_without_a_key_restores_as_redacted(tmp_path: Path) -> None:
    """And is in neither file."""
    files(tmp_path).write(captured(configuration={"api_key": "K-123"}))

    restored = files(tmp_path).load()

    assert restored.state is not None
    assert restored.state.configuration == {"api_key": Redacted("configuration.api_key")}
    assert all(b"K-123" not in path.read_bytes() for path in tmp_path.iterdir())


# ---- several at once, and disks that refuse


def test_two_programs_on_one_directory_take_turns(tmp_path: Path) -> None:
    """Each save is whole, the numbers never repeat, the last one wins, nothing is left behind."""
    numbers: list[int] = []
    prepared = [captured(value) for value in range(40)]

    def work(share: list[CapturedState]) -> None:
        mine = files(tmp_path)
        for state in share:
            numbers.append(mine.write(state))
            assert mine.load().damaged == ()

    threads = [threading.Thread(target=work, args=(prepared[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(numbers) == list(range(1, 41))
    assert files(tmp_path).load().sequence == 40
    assert names(tmp_path) == {JSON, PICKLE, PREVIOUS}


def test_numbers_go_on_behind_another_program(tmp_path: Path) -> None:
    """Each looks at the disk before it counts, so that the later save has the higher number."""
    one, other = files(tmp_path), files(tmp_path)

    assert [
        one.write(captured(1)),
        other.write(captured(2)),
        one.write(captured(3)),
        one.write(captured(4)),
    ] == [1, 2, 3, 4]
    assert other.write(captured(5)) == 5


def test_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    """By `prepare` as by a save, with the path."""
    (tmp_path / "state").touch()

    for attempt in (
        lambda: files(tmp_path / "state").prepare(),
        lambda: files(tmp_path / "state").write(captured()),
    ):
        with pytest.raises(OSError, match="state"):
            attempt()


def test_prepare_makes_the_directory_and_leaves_nothing_in_it(tmp_path: Path) -> None:
    """Also after one that was killed in the middle of it."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / f".probe.{os.getpid()}.0.tmp").touch()

    files(tmp_path / "deep" / "state").prepare()
    files(tmp_path / "deep").prepare()

    assert names(tmp_path / "deep") == {"state"}


def test_full_disk_leaves_what_was_saved_before(saved: Path) -> None:
    """Wherever it runs full, and the next save goes through."""

    class Full(SystemFiles):
        def __init__(self, writes: int) -> None:
            super().__init__()
            self.left = writes

        def write(self, handle: int, data: memoryview) -> int:
            if self.left == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.left -= 1
            return super().write(handle, data[:100])

    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    for writes in range(9):
        with pytest.raises(OSError, match="No space left"):
            files(saved, layer=Full(writes)).write(captured(3))
        assert {path.name: path.read_bytes() for path in saved.iterdir()} == before

    files(saved).write(captured(3))
    assert number(files(saved).load()) == 3


def test_fork_waits_until_what_a_write_takes_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child can never import what another thread was importing when the process forked."""
    held: list[str] = []

    def held_by_this_thread(module: str) -> None:
        other = threading.Thread(target=lambda: free.append(writer.imports.acquire(blocking=False)))
        other.start()
        other.join()
        held.append(module)

    free: list[bool] = []
    monkeypatch.setattr(state_file.importlib, "import_module", held_by_this_thread)
    files(tmp_path).write(captured(1))
    files(tmp_path).load()

    assert {"json", "pickle", "shockproof.vocabulary.models"} <= set(held)
    assert not any(free)
