"""Large states: what has not changed is known, what has is written beside the whole, and together they are what was saved."""

from __future__ import annotations

import asyncio
import copy
import errno
import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st

from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.disk.pacing import Pace
from shockproof.memory.state import packed, state_capture, state_files
from shockproof.memory.state.codec import UnsavableValueError
from shockproof.memory.state.packed import Packed
from shockproof.memory.state.pieces import json_pieces
from shockproof.memory.state.reading import OtherFormError, read_lines
from shockproof.memory.state.secrets import Redacted, SecretCipher, SecretNames
from shockproof.memory.state.state_capture import NOTHING_KNOWN, CapturedState, StateSecrets, capture_state
from shockproof.memory.state.state_files import StateFiles

JSON, PICKLE, PREVIOUS = "system_state.json", "system_state.pkl", "system_state.prev.json"
SECRETS = StateSecrets(SecretNames())


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four entries are many, three are a part, and every state is worth telling its changes of."""
    monkeypatch.setattr(state_capture, "LARGE", 4)
    monkeypatch.setattr(packed, "_SIZE", 3)
    monkeypatch.setattr(packed, "_LEAST", 2)
    monkeypatch.setattr(packed, "_MOST", 6)
    monkeypatch.setattr(state_files, "WHOLE_UP_TO", 0)
    monkeypatch.setattr(state_files, "_LARGEST_SHARE", 100.0)


class Program:
    """A program with a state in memory, which it saves."""

    def __init__(
        self, directory: Path, secrets: StateSecrets = SECRETS, layer: SystemFiles | None = None
    ) -> None:
        self.directory = directory
        self.secrets = secrets
        self.files = StateFiles(directory, secrets=secrets, layer=layer)
        self.known: Mapping[tuple[str, ...], Packed] = NOTHING_KNOWN

    def captured(self, **sections: Any) -> CapturedState:
        found = asyncio.run(
            capture_state(sections, secrets=self.secrets, timestamp=1_790_000_000, known=self.known)
        )
        self.known = found.packed
        return found

    def save(self, cached_data: Any, **sections: Any) -> int:
        return self.files.write(self.captured(cached_data=cached_data, **sections))

    def restored(self) -> Any:
        state = StateFiles(self.directory, secrets=self.secrets).load().state
        return None if state is None else state.cached_data


def quotes(count: int = 20) -> dict[str, Any]:
    return {f"SYM{number}": {"price": number / 4, "levels": [number, [1.5]]} for number in range(count)}


def changes(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if ".changes." in path.name)


# ---- what is written


def test_changes_of_a_large_state_are_a_file_that_a_person_can_read(tmp_path: Path) -> None:
    """What changed in place, what is new and what is gone; everything small as it is; the whole is not touched."""
    program, state = Program(tmp_path), quotes()
    program.save(state, configuration={"mode": "paper"})
    whole = (tmp_path / JSON).read_bytes()
    state["SYM3"]["levels"][1].append(2.5)
    state["new"] = 1
    del state["SYM7"]
    program.save(state, configuration={"mode": "live"})

    assert (tmp_path / JSON).read_bytes() == whole
    content = json.loads((tmp_path / "system_state.changes.2.json").read_text())
    assert content["cached_data"] == {
        "$": "changed",
        "removed": ["SYM7"],
        "set": {"SYM3": {"price": 0.75, "levels": [3, [1.5, 2.5]]}, "new": 1},
    }
    assert content["configuration"] == {"mode": "live"}
    assert (content["format_version"], content["sequence"], content["since"]) == (2, 2, 1)
    assert content["series"] == json.loads(whole)["series"]
    assert '\n      "new": 1\n' in (tmp_path / "system_state.changes.2.json").read_text()
    restored = StateFiles(tmp_path).load()
    assert restored.state is not None
    assert restored.sequence == 2
    assert restored.state.cached_data == state
    assert list(restored.state.cached_data) == list(state)
    assert restored.state.configuration == {"mode": "live"}


def test_large_dicts_in_a_section_are_told_apart(tmp_path: Path) -> None:
    """Whoever keeps several of them in cached_data loses nothing by it."""
    program = Program(tmp_path)
    state = {"quotes": quotes(), "books": quotes(8), "few": {"a": (1, 2)}}
    program.save(state)
    state["books"]["SYM1"]["price"] = -1.0
    state["few"]["b"] = Decimal("1.5")
    program.save(state)

    content = json.loads((tmp_path / "system_state.changes.2.json").read_text())
    assert content["cached_data"]["quotes"] == {"$": "changed", "removed": [], "set": {}}
    assert list(content["cached_data"]["books"]["set"]) == ["SYM1"]
    assert program.restored() == state
    assert list(program.restored()) == list(state)
    del state["quotes"]
    state["few"] = quotes(5)
    program.save(state)
    assert program.restored() == state


def test_small_state_is_written_whole_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And programs that know of no changes can read it."""
    monkeypatch.setattr(state_capture, "LARGE", 500)
    program = Program(tmp_path)
    for _ in range(3):
        program.save(quotes())

    assert changes(tmp_path) == []
    assert json.loads((tmp_path / JSON).read_text())["format_version"] == 1
    assert "series" not in (tmp_path / JSON).read_text()


def test_state_up_to_a_megabyte_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its shape."""
    monkeypatch.setattr(state_files, "WHOLE_UP_TO", 1 << 20)
    program = Program(tmp_path)
    for _ in range(3):
        program.save(quotes())
    assert changes(tmp_path) == []


def test_whole_is_written_again_when_much_has_changed_or_changes_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that restoring stays quick and the directory small; what leads to the previous whole and is older is removed."""
    monkeypatch.setattr(state_files, "_MOST_CHANGES", 3)
    program, state = Program(tmp_path), quotes(60)
    for number in range(1, 14):
        state["SYM3"]["price"] = number
        program.save(state)
        assert program.restored() == state
    assert json.loads((tmp_path / JSON).read_text())["sequence"] == 13
    assert json.loads((tmp_path / PREVIOUS).read_text())["sequence"] == 9
    assert changes(tmp_path) == [f"system_state.changes.{number}.json" for number in (10, 11, 12)]

    for entry in state.values():
        entry["price"] += 1
    program.save(state)
    assert json.loads((tmp_path / JSON).read_text())["sequence"] == 14
    monkeypatch.setattr(state_files, "_LARGEST_SHARE", 0.0)
    for _ in range(2):
        state["SYM3"]["price"] += 1
        program.save(state)
    assert json.loads((tmp_path / JSON).read_text())["sequence"] == 16


def test_next_life_begins_with_a_whole(tmp_path: Path) -> None:
    """It knows of no copy before, and goes on counting behind the changes."""
    program, state = Program(tmp_path), quotes()
    for _ in range(3):
        state["SYM1"]["price"] += 1
        program.save(state)
    again = Program(tmp_path)
    assert again.restored() == state
    assert again.save(state) == 4
    assert json.loads((tmp_path / JSON).read_text())["sequence"] == 4
    assert again.restored() == state


# ---- what may be different


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(
        [0.0, -0.0, 1.0, math.inf, 1 << 70, "", "a", "\udc80", b"a", Decimal("1.0"), (1,), (1.0,)]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "$", 1]), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = st.sampled_from([f"key {n}" for n in range(7)])


def same(one: Any, other: Any) -> bool:
    """Equal in types, signs and order as well."""
    return repr(one) == repr(other)


@settings(max_examples=60)
@given(
    first=st.dictionaries(KEYS, VALUES, min_size=4),
    steps=st.lists(
        st.lists(st.tuples(KEYS, st.none() | VALUES, st.booleans()), max_size=4), min_size=1, max_size=5
    ),
    lost=st.sampled_from([None, JSON]),
)
def test_whatever_changes_what_is_restored_is_what_was_saved(
    tmp_path_factory: pytest.TempPathFactory,
    first: dict[str, Any],
    steps: list[list[tuple[str, Any, bool]]],
    lost: str | None,
) -> None:
    """Entries set, removed, moved and changed in place, to anything that can be saved; from JSON and from the pickle."""
    program = Program(tmp_path_factory.mktemp("state"))
    state = copy.deepcopy(first)
    program.save(state)
    for step in steps:
        for key, value, is_in_place in step:
            if is_in_place and isinstance(state.get(key), list):
                state[key].append(value)
            elif is_in_place and type(state.get(key)) is dict:
                state[key]["a"] = value
            elif value is None:
                state.pop(key, None)
            else:
                if is_in_place:
                    state.pop(key, None)
                state[key] = copy.deepcopy(value)
        program.save(state)
        if lost is not None and changes(program.directory):
            (program.directory / lost).rename(program.directory / "away")
        assert same(program.restored(), state)
        if (program.directory / "away").exists():
            (program.directory / "away").rename(program.directory / JSON)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        ([1], (1,)),
        (b"x", bytearray(b"x")),
        (Decimal(1), {"$": "decimal", "v": "1"}),
        ({"$": "decimal", "v": "1"}, Decimal(1)),
        ((1, 2), {"$": "tuple", "v": [1, 2]}),
        (Decimal(1), Decimal("1.0")),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ],
)
def test_equal_is_not_the_same(tmp_path: Path, before: Any, after: Any) -> None:
    """What compares equal, or looks alike on the disk, is told apart."""
    program, state = Program(tmp_path), {**quotes(), "it": before}
    program.save(state)
    state["it"] = after
    program.save(state)

    assert len(changes(tmp_path)) == 1
    assert same(program.restored()["it"], after)


def test_what_has_not_changed_is_not_written_again(tmp_path: Path) -> None:
    """Also where it is of types that JSON lacks, or not finite."""
    state = {
        **quotes(),
        "d": Decimal("1.1"),
        "t": (1, {2}),
        "n": math.nan,
        "s": "\udc80",
        "b": b"x",
        "u": {1: 2},
    }
    program = Program(tmp_path)
    program.save(state)
    program.save(copy.deepcopy(state))

    content = json.loads((tmp_path / "system_state.changes.2.json").read_text())
    assert content["cached_data"] == {"$": "changed", "removed": [], "set": {}}


@pytest.mark.parametrize(
    "keys", [{1: "one"}, {"$": "x"}, {"a\udc80": 1}, {("a", 1): 2}, {None: 1}], ids=ascii
)
@pytest.mark.parametrize("is_deep", [False, True])
def test_keys_that_need_another_form_come_back(tmp_path: Path, keys: dict[Any, Any], is_deep: bool) -> None:
    """They are rare enough to be written whole."""
    program, state = Program(tmp_path), {**quotes(), **keys}
    for _ in range(2):
        state["SYM1"]["price"] += 1
        saved = {"deep": state, "other": quotes()} if is_deep else state
        program.save(saved)
        assert same(program.restored(), saved)


# ---- secrets, and what cannot be saved


def test_secrets_in_a_large_state_are_found_whenever_they_come(tmp_path: Path) -> None:
    """As an entry, in one, in a list, under a name that had no secret before."""
    program, state = Program(tmp_path), {**quotes(), "password": None, "account": {"api_key": "K-1"}}
    assert program.captured(cached_data=state).left_out == ("cached_data.account.api_key",)
    program.save(state)
    state["password"] = "K-2"
    state["SYM2"]["levels"] = [["secret", "K-3"]]
    state["SYM3"]["client_secret"] = "K-4"
    state["private_key"] = b"K-5"
    found = program.captured(cached_data=state)
    program.files.write(found)

    assert set(found.left_out) == {
        "cached_data.account.api_key",
        "cached_data.password",
        'cached_data["SYM2"].levels[0][1]',
        'cached_data["SYM3"].client_secret',
        "cached_data.private_key",
    }
    assert not [path for path in tmp_path.iterdir() if b"K-" in path.read_bytes()]
    assert program.restored()["password"] == Redacted("cached_data.password")


def test_secrets_in_changes_are_encrypted_with_a_key(tmp_path: Path) -> None:
    """And come back; no token holds an exclamation mark."""
    secrets = StateSecrets(SecretNames(), SecretCipher([Fernet.generate_key()]))
    program, state = Program(tmp_path, secrets), {"deep": {**quotes(), "api_key": "K!1"}, "n": 1}
    for number in range(3):
        state["deep"]["account"] = {"password": f"K!{number}"}  # type: ignore[index]  # it is a dict
        program.save(state)
        assert program.restored() == state
    assert len(changes(tmp_path)) == 2
    assert not [path for path in tmp_path.iterdir() if b"K!" in path.read_bytes()]


def test_secret_is_told_once_where_a_section_needs_another_form(tmp_path: Path) -> None:
    """What was found before that was noticed is found again."""
    state = {"api_key": "K-1", **quotes(), 5: 1}
    assert Program(tmp_path).captured(cached_data=state).left_out == ("cached_data['api_key']",)


def test_what_cannot_be_saved_is_refused_with_its_path(tmp_path: Path) -> None:
    """In an entry of many, at any depth; what contains itself, too."""
    circle: list[Any] = []
    circle.append(circle)
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    for value, complaint in (
        ({"fee": object()}, r'cached_data\["SYM5"\]\.fee is of type builtins\.object'),
        (circle, r'cached_data\["SYM5"\]\[0\] contains itself'),
        (deep, r"is nested deeper than 100 levels"),
    ):
        for state in ({**quotes(), "SYM5": value}, {"deep": {**quotes(), "SYM5": value}}):
            with pytest.raises(
                UnsavableValueError, match=complaint.replace("cached_data", r"cached_data(\.deep)?")
            ):
                Program(tmp_path).captured(cached_data=state)


# ---- damage, edits, others at work


def history(directory: Path) -> list[dict[str, Any]]:
    """Saves 1 (whole), 2, 3, 4 (whole), 5, 6: what each of them holds."""
    program, state = Program(directory), quotes()
    saved: list[dict[str, Any]] = []
    for number in range(1, 7):
        if number == 4:
            for entry in state.values():
                entry["price"] += 1
        state["SYM3"]["price"] = number
        assert program.save(state) == number
        saved.append(copy.deepcopy(state))
    assert changes(directory) == [f"system_state.changes.{number}.json" for number in (2, 3, 5, 6)]
    return saved


@pytest.mark.parametrize(
    ("damaged", "found", "source"),
    [
        ([], 6, JSON),
        ([JSON], 6, PICKLE),
        ([JSON, PICKLE], 3, PREVIOUS),
        (["system_state.changes.6.json"], 5, JSON),
        (["system_state.changes.5.json"], 4, JSON),
        ([JSON, PICKLE, "system_state.changes.3.json"], 2, PREVIOUS),
        (["system_state.changes.2.json"], 6, JSON),
    ],
)
def test_newest_state_that_is_whole_is_restored(
    tmp_path: Path, damaged: list[str], found: int, source: str
) -> None:
    """Of three files with their changes; the previous generation is the state before the last whole one."""
    saved = history(tmp_path)
    for name in damaged:
        content = bytearray((tmp_path / name).read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / name).write_bytes(content)

    restored = StateFiles(tmp_path).load()

    assert restored.state is not None
    assert restored.state.cached_data == saved[found - 1]
    assert restored.source == tmp_path / source
    assert restored.sequence == found
    assert sorted(file.path.name for file in restored.damaged) == sorted(damaged)


def test_edit_of_the_whole_is_taken_as_it_stands(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever writes into it means it; what was saved after it is named, and stays until the next save."""
    history(tmp_path)
    content = json.loads((tmp_path / JSON).read_text())
    content["cached_data"] = {"mine": 1}
    content["checksum"] = None
    (tmp_path / JSON).write_text(json.dumps(content))

    with caplog.at_level(logging.WARNING, "shockproof"):
        restored = StateFiles(tmp_path).load()

    assert restored.state is not None
    assert restored.state.cached_data == {"mine": 1}
    assert "is not applied: system_state.changes.5.json, system_state.changes.6.json" in caplog.text


def test_another_program_on_the_directory_is_never_mixed_in(tmp_path: Path) -> None:
    """Whoever saves last wins as a whole, however the two take turns."""
    one, other = Program(tmp_path), Program(tmp_path)
    states = {one: quotes(), other: {f"other {n}": n for n in range(9)}}
    for number, program in enumerate([one, one, other, one, other, other, one, one, one, other, one]):
        states[program]["turn"] = number
        assert program.save(states[program]) == number + 1
        assert program.restored() == states[program]


def test_changes_of_another_state_are_not_applied(tmp_path: Path) -> None:
    """A whole file from a backup, with the same number: it belongs to another series."""
    (tmp_path / "a").mkdir()
    program, state = Program(tmp_path / "a"), quotes()
    program.save(state)
    state["SYM1"]["price"] = 99
    program.save(state)
    Program(tmp_path / "b").save({f"b {n}": n for n in range(9)})
    for name in (JSON, PICKLE):
        (tmp_path / "b" / name).replace(tmp_path / "a" / name)

    assert program.restored() == {f"b {n}": n for n in range(9)}
    state["SYM1"]["price"] = 100
    assert program.save(state) == 3
    assert program.restored() == state


def test_after_a_disk_that_refused_the_whole_is_written(tmp_path: Path) -> None:
    """Nobody knows what became of the changes."""

    class Refuses(SystemFiles):
        refuses = False

        def fsync_directory(self, path: Path) -> None:
            if self.refuses:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            super().fsync_directory(path)

    layer = Refuses()
    program, state = Program(tmp_path, layer=layer), quotes()
    program.save(state)
    layer.refuses = True
    state["SYM1"]["price"] = 50
    with pytest.raises(OSError, match="Input/output"):
        program.save(state)
    layer.refuses = False
    state["SYM2"]["price"] = 60
    assert program.save(state) == 3
    assert json.loads((tmp_path / JSON).read_text())["sequence"] == 3
    assert program.restored() == state


def test_copy_that_was_never_written_leaves_no_gap(tmp_path: Path) -> None:
    """Saves that come too early are copied and not written: changes are told from what was."""
    program, state = Program(tmp_path), quotes()
    program.save(state)
    state["SYM1"]["price"] = 50
    program.captured(cached_data=state)
    state["SYM2"]["price"] = 60
    program.captured(cached_data=state)
    state["SYM1"]["price"] = 0.25
    program.save(state)
    assert len(changes(tmp_path)) == 1
    assert program.restored() == state


# ---- reading by lines

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.just("$"), inner, max_size=4),
    max_leaves=20,
)


@given(content=st.dictionaries(st.text(), JSON_VALUES, max_size=4), expand=st.integers(0, 4))
def test_reading_by_lines_is_reading(content: dict[str, Any], expand: int) -> None:
    """Whatever stands in it, and however it was spread over lines."""
    data = b"".join(json_pieces(content, pace=Pace(), expand=expand))
    try:
        found = read_lines(data + b"\n", lambda value: value, Pace())
    except OtherFormError:
        assert expand == 0 or not content
    else:
        assert same(found, content)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"{\n", b"[]", b'{"a": 1}', b'{\n  "a": 1,\n', b'{\n  "a": {\n    "b": 1\n}', b'{\n  1: {\n    "b": 1\n  }\n}',
     b'{\n  "a": 1\n}\n{', b'{\n  "a": [\n    1\n  }\n}', b'{\n  "a": \xff\n}'],
)  # fmt: skip
def test_other_forms_are_noticed(data: bytes) -> None:
    """Then it is decoded as a whole, which says what is wrong."""
    with pytest.raises(OtherFormError):
        read_lines(data, lambda value: value, Pace())


def test_sound_file_in_another_form_is_restored_all_the_same(tmp_path: Path) -> None:
    """The checksum is right: somebody wrote it with another program, or a later one writes it so."""
    program = Program(tmp_path)
    program.save({**quotes(), "d": Decimal("1.5")})
    content = json.loads((tmp_path / JSON).read_text())
    del content["checksum"]
    head = json.dumps(content, indent=1)[:-2].encode()
    (tmp_path / JSON).write_bytes(
        head + b',\n  "checksum": "sha256:%s"\n}\n' % hashlib.sha256(head).hexdigest().encode()
    )
    assert program.restored() == {**quotes(), "d": Decimal("1.5")}


def test_edit_while_the_program_runs_takes_no_later_save_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The whole on the disk is not the one that was written: what is saved next is a whole again, and the newest."""
    program, state = Program(tmp_path), quotes()
    program.save(state)
    state["SYM1"]["price"] = -1.0
    program.save(state)
    edited = re.sub(rb'"checksum": "[^"]*"', b'"checksum": null', (tmp_path / JSON).read_bytes())
    (tmp_path / JSON).write_bytes(edited.replace(b'"price": 0.5', b'"price": 99.5'))

    state["SYM2"]["price"] = -2.0
    assert program.save(state) == 3
    state["SYM3"]["price"] = -3.0
    assert program.save(state) == 4

    (record,) = caplog.records
    assert str(tmp_path / JSON) in record.getMessage()
    assert program.restored() == state
    assert b'"price": 99.5' in (tmp_path / PREVIOUS).read_bytes()
    assert changes(tmp_path)[-1] == "system_state.changes.4.json"


def test_file_of_changes_that_was_not_written_under_its_name_stops_no_later_save(tmp_path: Path) -> None:
    """A copy with the highest number there is: no save could come behind it."""
    program, state = Program(tmp_path), quotes()
    for number in range(3):
        state["SYM1"]["price"] = -float(number)
        program.save(state)
    copy = tmp_path / "system_state.changes.999999999999999999.json"

    for next_one in (program, Program(tmp_path)):
        shutil.copy(tmp_path / changes(tmp_path)[0], copy)
        for number in range(3):
            state["SYM1"]["price"] += 1.0 + number
            assert next_one.save(state) < 20
            assert program.restored() == state
        assert not copy.exists()
    assert [path.name.partition(".json.")[0] for path in (tmp_path / "damaged").iterdir()] == [copy.stem] * 2
