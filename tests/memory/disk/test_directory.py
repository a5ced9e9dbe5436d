"""Directories that settings name: made, or refused with a way out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shockproof.memory.disk.directory import make_durable, make_writable
from tests.memory.disk.simulated_disk import Files, SimulatedDisk, crash_states


def test_it_is_made_with_its_parents_and_may_be_there_already(tmp_path: Path) -> None:
    """As often as one likes."""
    for _ in range(2):
        make_writable(tmp_path / "a" / "b", "state_dir")

    assert (tmp_path / "a" / "b").is_dir()


def test_a_file_in_its_place_is_refused_by_name(tmp_path: Path) -> None:
    """The setting, the value, what the system said, and what to do."""
    (tmp_path / "file").write_text("")

    with pytest.raises(NotADirectoryError) as raised:
        make_writable(tmp_path / "file" / "x", "state_dir")
    assert str(raised.value).endswith(
        f"state_dir='{tmp_path}/file/x' cannot be used: Not a directory; "
        "make it a directory that this user may write to, or pass another state_dir="
    )


def test_one_that_is_not_writable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is half-done there."""
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere

    with pytest.raises(PermissionError, match="it is not writable"):
        make_writable(tmp_path, "error_log_dir")


HOME = Path("/data/state")


def kept(disk: SimulatedDisk) -> list[Files]:
    """What can be on the disk after a power cut now."""
    return list(crash_states(disk, len(disk.steps)))


def save(disk: SimulatedDisk) -> Files:
    handle = disk.create(HOME / "file")
    disk.write(handle, memoryview(b"saved"))
    disk.fsync(handle)
    disk.fsync_directory(HOME)
    return {HOME / "file": b"saved"}


def test_what_is_saved_in_a_new_directory_survives_a_power_cut() -> None:
    """Its name, and those of the parents that were missing too, are durable before anything is put there."""
    disk = SimulatedDisk()
    make_durable(disk, HOME)

    assert kept(disk) == [{}]
    assert [save(disk)] == kept(disk)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_one_that_was_left_by_a_killed_program_is_made_durable_by_the_next(steps: int) -> None:
    """Killed between making it and syncing its name: it is there, and would go at the next power cut."""
    disk = SimulatedDisk()
    disk.fails = lambda call, what: call > steps  # it does nothing more
    with pytest.raises(OSError, match="refuses"):
        make_durable(disk, HOME)
    disk.fails = lambda call, what: False
    make_durable(disk, HOME)

    assert [save(disk)] == kept(disk)


def test_parent_that_may_not_be_read_is_no_hindrance(tmp_path: Path) -> None:
    """As a home under a directory that only shows what one knows the name of."""

    class Closed(SimulatedDisk):
        def fsync_directory(self, path: Path) -> None:
            if path == HOME.parent:
                raise PermissionError(13, "Permission denied")
            super().fsync_directory(path)

    make_durable(Closed(directories=[HOME.parent, HOME]), HOME)
    with pytest.raises(PermissionError):
        make_durable(Closed(directories=[HOME.parent]), HOME)
