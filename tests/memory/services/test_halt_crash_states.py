"""Every state in which a power cut can leave the mark of a halt, over two lives; and every call of the disk that can fail."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from shockproof.memory.disk.directory import make_durable
from shockproof.memory.services import halt as halt_module
from shockproof.memory.services.halt import FILE_NAME, Halt
from shockproof.testing import VirtualClock
from tests.memory.disk.crash_histories import Findings, Known, complaints_where_calls_fail, crash_everywhere
from tests.memory.disk.simulated_disk import SimulatedDisk
from tests.memory.disk.wrong_disks import WRONG_DISKS

HOME = Path("/state")

Reasons = frozenset[str | None]
"""Why it may be halted in the next life: what was decided last and is durable, and what was decided since. None: not halted."""

DECISIONS = ("a", None, "b", "c", None, None, "d" * 60, "e", None, "f")


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """A halt that is not durable is logged each time."""
    caplog.set_level(logging.CRITICAL + 1, "shockproof")


class HaltsAndResumes:
    """A program that learns whether it is halted, and is halted and resumed in turn."""

    at_first: Reasons = frozenset({None})

    def live(self, disk: SimulatedDisk, facts: Reasons, life: int) -> Known[Reasons]:
        known = Known(disk, facts)
        halt = new(disk)
        halt._read()
        known.now(frozenset({reason_of(halt)}))  # from here on it must stay
        for reason in DECISIONS if life == 1 else DECISIONS[life:]:
            told = reason and f"{reason} of life {life}"
            known.now(known.facts | {told})
            durable = halt.resume() if told is None else halt.halt(told)
            if durable._future.exception() is None:
                known.now(frozenset({told}))
        return known

    def complaint(self, disk: SimulatedDisk, facts: Reasons) -> str | None:
        halt = new(disk)
        halt._read()
        found = reason_of(halt)
        return None if found in facts else f"found {found}, and not one of {facts}"


def new(disk: SimulatedDisk) -> Halt:
    return Halt(HOME, clock=VirtualClock(), submit=lambda job: job(), on_change=lambda: None, layer=disk)


def reason_of(halt: Halt) -> str | None:
    return None if halt.mark is None else halt.mark.reason


def crashes(kind: type[SimulatedDisk], *, second_life_each: int, most: int | None = None) -> Findings:
    return crash_everywhere(
        HaltsAndResumes(), lambda files: kind(files, takes=30), second_life_each=second_life_each, most=most
    )


def test_whatever_a_crash_leaves_a_halt_is_in_force_until_it_was_resumed() -> None:
    """And what was resumed stays so: the next life finds what was decided last, or what was being decided."""
    findings = crashes(SimulatedDisk, second_life_each=25)
    print(f"halt: {findings}")

    assert findings.wrong == []
    assert findings.states > 20_000
    assert findings.second_crashes > 15_000


# ---- what must be noticed


@pytest.mark.parametrize("kind", WRONG_DISKS)
def test_step_left_out_or_out_of_order_is_caught(kind: type[SimulatedDisk]) -> None:
    """The test above would notice."""
    assert crashes(kind, second_life_each=1_000_000, most=1).wrong


Patch = Callable[[pytest.MonkeyPatch], None]


def answers_before_it_writes(patch: pytest.MonkeyPatch) -> None:
    write = Halt._write
    waiting: set[int] = set()

    def later(self: Halt) -> None:
        if id(self) in waiting:
            write(self)
        waiting.symmetric_difference_update({id(self)})

    patch.setattr(Halt, "_write", later)


def overwrites_the_mark_in_place(patch: pytest.MonkeyPatch) -> None:
    def write(self: Halt) -> None:
        layer, path = self._layer, HOME / FILE_NAME
        if self.mark is None:
            self._remove()
            return
        assert isinstance(layer, SimulatedDisk)
        make_durable(layer, HOME)
        handle = layer.rewrite(path) if path in layer.names else layer.create(path)
        layer.names[path].data = b""
        layer.write(handle, memoryview(halt_module._content(self.mark)))
        layer.fsync(handle)
        layer.fsync_directory(HOME)

    patch.setattr(Halt, "_write", write)


def resumes_without_syncing_the_directory(patch: pytest.MonkeyPatch) -> None:
    def remove(self: Halt) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._layer.unlink(HOME / FILE_NAME)

    patch.setattr(Halt, "_remove", remove)


def resumes_in_memory_only(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Halt, "_remove", lambda self: None)


def removes_the_mark_before_it_writes_another(patch: pytest.MonkeyPatch) -> None:
    write = Halt._write

    def remove_first(self: Halt) -> None:
        self._remove()
        write(self)

    patch.setattr(Halt, "_write", remove_first)


def a_halt_that_is_halted_already_is_not_written(patch: pytest.MonkeyPatch) -> None:
    write = Halt._write

    def only_the_first(self: Halt) -> None:
        if self.mark is None or HOME / FILE_NAME not in self._layer.names:
            write(self)

    patch.setattr(Halt, "_write", only_the_first)


def a_new_life_forgets_it(patch: pytest.MonkeyPatch) -> None:
    read = Halt._read

    def read_and_remove(self: Halt) -> None:
        read(self)
        self._remove()

    patch.setattr(Halt, "_read", read_and_remove)


WRONG_PROTOCOLS: list[Patch] = [
    answers_before_it_writes,
    overwrites_the_mark_in_place,
    resumes_without_syncing_the_directory,
    resumes_in_memory_only,
    removes_the_mark_before_it_writes_another,
    a_halt_that_is_halted_already_is_not_written,
    a_new_life_forgets_it,
]


@pytest.mark.parametrize("mutate", WRONG_PROTOCOLS)
def test_wrong_protocol_is_caught(mutate: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above would notice."""
    mutate(monkeypatch)
    assert crashes(SimulatedDisk, second_life_each=20, most=1).wrong


def test_at_least_twelve_mistakes_are_tried() -> None:
    """What catches two or three may do so by luck."""
    assert len(WRONG_DISKS) + len(WRONG_PROTOCOLS) >= 12


# ---- calls that fail


@pytest.mark.parametrize("is_lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("failure", [errno.EIO, errno.ENOSPC])
def test_whichever_call_fails_the_next_life_finds_what_is_durable(failure: int, is_lasting: bool) -> None:
    """The Nth call for every N, until it is not reached any more."""
    calls, complaints = complaints_where_calls_fail(HaltsAndResumes(), failure, is_lasting=is_lasting)

    assert complaints == []
    assert calls > 30
