"""Directories that settings name: made, or refused with a way out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shockproof.memory.disk.directory import make_writable


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
