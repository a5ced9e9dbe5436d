"""Every state in which a power cut can leave the state's directory, over two lives; and every call of the disk that can fail."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from shockproof.memory.disk.durable_file import Replacement, replace_durably
from shockproof.memory.disk.file_layer import FileLayer
from shockproof.memory.state import state_capture, state_changes, state_files
from shockproof.memory.state.packed import Packed
from shockproof.memory.state.secrets import SecretNames
from shockproof.memory.state.state_capture import NOTHING_KNOWN, CapturedState, StateSecrets, capture_state
from shockproof.memory.state.state_file import Head
from shockproof.memory.state.state_files import StateFiles
from shockproof.memory.state.stored_states import StoredStates
from tests.memory.disk.crash_histories import Findings, Known, complaints_where_calls_fail, crash_everywhere
from tests.memory.disk.simulated_disk import SimulatedDisk, crash_states
from tests.memory.disk.wrong_disks import (
    WRONG_DISKS,
    RemovesTheTargetFirst,
    SyncsTheDirectoryBeforeItRenames,
)

HOME = Path("/state")


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Damage is logged, and mutants find it again and again."""
    caplog.set_level(logging.CRITICAL, "shockproof")


Numbers = frozenset[int]
"""Which saves a program may find: the last one that returned, and those begun since."""


@functools.cache
def captured(number: int) -> CapturedState:
    sections = {"cached_data": {"number": number, "more": ["x"] * 20}, "configuration": {}}
    return asyncio.run(
        capture_state(sections, secrets=StateSecrets(SecretNames()), timestamp=1_760_000_000 + number)
    )


class Saves:
    """A program that restores its state and saves it some times. Number 0 is: there is none."""

    at_first: Numbers = frozenset({0})

    def __init__(self, saves: int = 4) -> None:
        self.saves = saves
        self.found: dict[frozenset[tuple[Path, bytes]], tuple[int, bool]] = {}

    def live(self, disk: SimulatedDisk, facts: Numbers, life: int) -> Known[Numbers]:
        known = Known(disk, facts)
        files = self.files_on(disk)
        with contextlib.suppress(OSError):
            known.now(frozenset({number_of(files)}))  # from here on it must stay
        for number in range(100 * life, 100 * life + self.saves):
            known.now(known.facts | {number})
            with contextlib.suppress(OSError):
                files.write(self.captured(number))
                known.now(frozenset({number}))
        return known

    def files_on(self, disk: SimulatedDisk) -> StateFiles:
        return StateFiles(HOME, layer=disk)

    def captured(self, number: int) -> CapturedState:
        return captured(number)

    def complaint(self, disk: SimulatedDisk, facts: Numbers) -> str | None:
        # Temporary files are never read, and make up most of the states.
        key = frozenset((path, data) for path, data in disk.files().items() if path.suffix != ".tmp")
        if key not in self.found:
            files = StateFiles(HOME, layer=disk)
            number = number_of(files)
            self.found[key] = number, any(path.parent != HOME for path in disk.names)
        number, is_damaged = self.found[key]
        if is_damaged:
            return "a crash looks like damage"
        return None if number in facts else f"found {number}, and not one of {sorted(facts)}"


def number_of(files: StateFiles) -> int:
    state = files.load().state
    if state is None:
        return 0
    number: int = state.cached_data["number"]
    return number if "all" not in state.cached_data or state.cached_data == large(number) else -1


def large(number: int) -> dict[str, Any]:
    """A dict of which each save changes an entry, adds one, removes one and moves one to the end."""
    entries = {"number": number, "all": True, **{f"entry {n}": n for n in range(12)}}
    entries[f"only in {number}"] = number
    entries[f"entry {number % 5}"] = entries.pop(f"entry {number % 5}")
    return entries


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes are written of states of any size, and twice at the most before the next whole."""
    monkeypatch.setattr(state_capture, "LARGE", 10)
    monkeypatch.setattr(state_files, "WHOLE_UP_TO", 0)
    monkeypatch.setattr(state_files, "_MOST_CHANGES", 2)
    monkeypatch.setattr(state_files, "_LARGEST_SHARE", 100.0)
    monkeypatch.setattr(state_changes, "_LARGEST_SHARE", 100.0)


class LargeSaves(Saves):
    """The same with a state that is large, and so has its changes written."""

    def __init__(self, saves: int = 5) -> None:
        super().__init__(saves)
        self.before: Mapping[tuple[str, ...], Packed] = NOTHING_KNOWN

    def live(self, disk: SimulatedDisk, facts: Numbers, life: int) -> Known[Numbers]:
        self.before = NOTHING_KNOWN
        return super().live(disk, facts, life)

    def captured(self, number: int) -> CapturedState:
        found = asyncio.run(
            capture_state(
                {"cached_data": large(number), "configuration": {}},
                secrets=StateSecrets(SecretNames()),
                timestamp=1_760_000_000 + number,
                known=self.before,
            )
        )
        self.before = found.packed
        return found


class DailySaves(Saves):
    """The same, each save on a day of its own; the last states of two days are kept."""

    def files_on(self, disk: SimulatedDisk) -> StateFiles:
        return StateFiles(HOME, layer=disk, keep_days=2)

    def captured(self, number: int) -> CapturedState:
        saved = captured(number)
        day = datetime.fromtimestamp(1_760_000_000 + 86_400 * number, UTC)
        return saved._replace(fields={**saved.fields, "timestamp": day.isoformat()})

    def complaint(self, disk: SimulatedDisk, facts: Numbers) -> str | None:
        for path in disk.files():
            if path.parent != HOME / "days":
                continue
            day = path.name[:10]
            (found, *_) = StateFiles(HOME / "days", layer=disk, prefix=f"{day}.").survey()
            if found.verdict != "valid" or found.timestamp is None or found.timestamp.isoformat()[:10] != day:
                return f"{path.name} is no state of its day"
        files = StateFiles(HOME, layer=disk)
        number = number_of(files)
        return None if number in facts else f"found {number}, and not one of {sorted(facts)}"


def crashes(
    kind: type[SimulatedDisk],
    *,
    second_life_each: int,
    most: int | None = None,
    program: Callable[[], Saves] = Saves,
) -> Findings:
    return crash_everywhere(
        program(), lambda files: kind(files, takes=100), second_life_each=second_life_each, most=most
    )


def test_whatever_a_crash_leaves_the_last_saved_state_is_there() -> None:
    """Or the one that was being saved; never an older one, never none, and also when the next life crashed too."""
    findings = crashes(SimulatedDisk, second_life_each=200)
    print(f"state: {findings}")

    assert findings.wrong == []
    assert findings.states > 20_000
    assert findings.second_crashes > 15_000


@pytest.mark.usefixtures("small_is_large")
def test_whatever_a_crash_leaves_of_a_large_state_the_last_saved_one_is_there() -> None:
    """Whole and changes together make one of the states that were saved, and none that never was."""
    assert {"system_state.json", "system_state.changes.3.json"} <= {
        path.name for path in LargeSaves(3).live(SimulatedDisk(), Saves.at_first, 1).disk.files()
    }
    findings = crashes(SimulatedDisk, second_life_each=1_000, program=LargeSaves)
    print(f"large states: {findings}")

    assert findings.wrong == []
    assert findings.states > 20_000
    assert findings.second_crashes > 15_000


def test_whatever_a_crash_leaves_the_states_of_days_are_whole_and_harm_no_save() -> None:
    """What is kept is linked before it is replaced: the newest state is there, and each day that is has its own."""
    kept = DailySaves(4).live(SimulatedDisk(), Saves.at_first, 1).disk.files()
    assert len([path for path in kept if path.parent == HOME / "days"]) == 2
    findings = crashes(SimulatedDisk, second_life_each=1_000_000, program=lambda: DailySaves(3))
    print(f"days: {findings}")

    assert findings.wrong == []
    assert findings.states > 1_000


def test_save_after_a_crash_at_any_step_goes_through_and_leaves_nothing_behind() -> None:
    """Leftover temporary files, second names and torn files do not stop the next save."""
    known = Saves(2).live(SimulatedDisk(takes=200), Saves.at_first, 1)
    for steps in range(len(known.disk.steps) + 1):
        for files in crash_states(known.disk, steps):
            after = SimulatedDisk(files)

            StateFiles(HOME, layer=after).write(captured(3))

            assert number_of(StateFiles(HOME, layer=after)) == 3
            assert not [path for path in after.names if path.name.endswith(".tmp")]


# ---- what must be noticed


HARMLESS_HERE = (RemovesTheTargetFirst, SyncsTheDirectoryBeforeItRenames)
"""Of the two files one is enough, and the other one stands by."""

STATE_DISKS = [kind for kind in WRONG_DISKS if kind not in HARMLESS_HERE]


@pytest.mark.parametrize("kind", STATE_DISKS)
def test_step_left_out_or_out_of_order_is_caught(kind: type[SimulatedDisk]) -> None:
    """The test above would notice, although the pickle and the previous generation stand by."""
    assert crashes(kind, second_life_each=1_000_000, most=1).wrong


Patch = Callable[[pytest.MonkeyPatch], None]


def overwrites_the_files_in_place(patch: pytest.MonkeyPatch) -> None:
    def overwrite(layer: FileLayer, directory: Path, replacements: Iterable[Replacement]) -> None:
        for name, content, _ in replacements:
            path = directory / name
            data = b"".join(content)
            handle = layer.rewrite(path) if path in layer.names else layer.create(path)
            while data:
                data = data[layer.write(handle, memoryview(data)) :]
            layer.fsync(handle)
            layer.fsync_directory(directory)

    patch.setattr(state_files, "replace_durably", overwrite)


def removes_the_old_files_first(patch: pytest.MonkeyPatch) -> None:
    def remove_first(layer: FileLayer, directory: Path, replacements: Iterable[Replacement]) -> None:
        for name in layer.list_directory(directory):
            layer.unlink(directory / name)
        replace_durably(layer, directory, replacements)

    patch.setattr(state_files, "replace_durably", remove_first)


def numbers_begin_anew_in_each_life(patch: pytest.MonkeyPatch) -> None:
    nothing = Head(1, 0, 1, None, None)
    patch.setattr(StateFiles, "_clear_the_way", lambda self: (nothing, 0))
    look = StoredStates.look

    def look_and_forget(self: StoredStates) -> Any:
        seen = look(self)
        self.last_sequence = 0
        return seen

    patch.setattr(StoredStates, "look", look_and_forget)


def restores_the_oldest(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        state_files,
        "sorted",
        lambda found, key=None, reverse=True: sorted(found, key=key, reverse=not reverse),
        raising=False,
    )


def restores_the_previous_one_first(patch: pytest.MonkeyPatch) -> None:
    look = StoredStates.look

    def previous_first(self: StoredStates) -> Any:
        valid, damaged, unreadable = look(self)
        return valid[-1:], damaged, unreadable

    patch.setattr(StoredStates, "look", previous_first)


def answers_before_it_writes(patch: pytest.MonkeyPatch) -> None:
    write = StateFiles.write
    waiting: dict[int, CapturedState] = {}

    def later(self: StateFiles, captured: CapturedState) -> int:
        before, waiting[id(self)] = waiting.get(id(self)), captured
        return 0 if before is None else write(self, before)

    patch.setattr(StateFiles, "write", later)


def takes_leftovers_for_files(patch: pytest.MonkeyPatch) -> None:
    """A temporary file that a crash has left is moved to its name, whole or not."""
    load = StateFiles.load

    def load_with_leftovers(self: StateFiles) -> Any:
        layer = self._layer
        for name in layer.list_directory(HOME) if layer.is_directory(HOME) else ():
            if name.endswith(".tmp") and name.startswith(".system_state.json"):
                layer.replace(HOME / name, HOME / "system_state.json")
        return load(self)

    patch.setattr(StateFiles, "load", load_with_leftovers)


WRONG_PROTOCOLS: list[Patch] = [
    overwrites_the_files_in_place,
    removes_the_old_files_first,
    numbers_begin_anew_in_each_life,
    restores_the_oldest,
    restores_the_previous_one_first,
    answers_before_it_writes,
    takes_leftovers_for_files,
]


@pytest.mark.parametrize("mutate", WRONG_PROTOCOLS)
def test_wrong_protocol_is_caught(mutate: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above would notice."""
    mutate(monkeypatch)
    assert crashes(SimulatedDisk, second_life_each=300, most=1).wrong


def forgets_the_changes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(StoredStates, "with_changes", lambda self, candidate, changes: candidate)


def removes_the_changes_before_the_whole_is_there(patch: pytest.MonkeyPatch) -> None:
    whole = StateFiles._write_whole

    def remove_first(self: StateFiles, *given: Any) -> Any:
        for _, name in self._stored.changes_names():
            self._layer.unlink(HOME / name)
        return whole(self, *given)

    patch.setattr(StateFiles, "_write_whole", remove_first)


def takes_changes_of_another_series(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(state_files.os, "urandom", bytes)
    patch.setattr(StoredStates, "changes_names", _without_numbers(StoredStates.changes_names))


def _without_numbers(names: Callable[[StoredStates], list[tuple[int, str]]]) -> Callable[..., Any]:
    # What another life left does not count: its numbers are used again.
    return lambda self: [(0, name) for _, name in names(self)]


def replaces_the_changes_of_before(patch: pytest.MonkeyPatch) -> None:
    """All in one file, each only told from the save before."""

    def one_name(layer: FileLayer, directory: Path, replacements: Iterable[Replacement]) -> None:
        renamed = [
            one._replace(name="system_state.changes.1.json") if "changes" in one.name else one
            for one in replacements
        ]
        replace_durably(layer, directory, renamed)

    patch.setattr(state_files, "replace_durably", one_name)


def writes_what_has_changed_only(patch: pytest.MonkeyPatch) -> None:
    difference = state_changes._difference
    patch.setattr(
        state_changes, "_difference", lambda before, now, *rest: ([], difference(before, now, *rest)[1])
    )


WRONG_CHANGES: list[Patch] = [
    forgets_the_changes,
    removes_the_changes_before_the_whole_is_there,
    takes_changes_of_another_series,
    replaces_the_changes_of_before,
    writes_what_has_changed_only,
]


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("mutate", WRONG_CHANGES)
def test_wrong_way_with_changes_is_caught(mutate: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test of large states would notice."""
    mutate(monkeypatch)
    assert crashes(SimulatedDisk, second_life_each=300, most=1, program=LargeSaves).wrong


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("kind", STATE_DISKS)
def test_step_left_out_of_writing_changes_is_caught(kind: type[SimulatedDisk]) -> None:
    """As for the whole."""
    assert crashes(kind, second_life_each=1_000_000, most=1, program=LargeSaves).wrong


def test_at_least_twelve_mistakes_are_tried() -> None:
    """What catches two or three may do so by luck."""
    assert len(STATE_DISKS) + len(WRONG_PROTOCOLS) >= 12


# ---- calls that fail


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("program", [Saves, LargeSaves])
@pytest.mark.parametrize("is_lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("failure", [errno.EIO, errno.ENOSPC])
def test_whichever_call_fails_the_last_saved_state_is_there(
    failure: int, is_lasting: bool, program: Callable[[], Saves]
) -> None:
    """The Nth call for every N, until it is not reached any more."""
    calls, complaints = complaints_where_calls_fail(program(), failure, is_lasting=is_lasting)

    assert complaints == []
    assert calls > 40
