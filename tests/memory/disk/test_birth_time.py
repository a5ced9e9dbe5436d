"""When a file was made stays with that file, whatever it is called and whoever owns it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from shockproof.memory.disk.file_layer import SystemFiles

LAYER = SystemFiles()


def test_birth_is_the_one_that_the_system_tells(tmp_path: Path) -> None:
    """In whole seconds, by another program; 0 is its word for a file system that does not tell."""
    path = tmp_path / "lock"
    path.touch()
    told = subprocess.run(["stat", "--format=%W", path], capture_output=True, check=True, text=True).stdout
    assert (LAYER.born_at(path) or 0) // 10**9 == int(told)


def test_birth_outlives_a_new_name_mode_time_and_a_link(tmp_path: Path) -> None:
    """So that what is moved, or backed up with hard links, is not taken for a copy."""
    path = tmp_path / "lock"
    path.touch()
    born = LAYER.born_at(path)
    os.link(path, tmp_path / "link")
    os.utime(path, (1.0, 1.0))
    path.chmod(0o400)
    assert LAYER.born_at(path.rename(tmp_path / "renamed")) == born


def test_what_is_not_there_was_not_made(tmp_path: Path) -> None:
    """Nobody has to catch anything."""
    assert LAYER.born_at(tmp_path / "none") is None
