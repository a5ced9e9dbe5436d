"""What a process is called, and whether one so called is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from shockproof.memory.stores import own_name as own_names
from shockproof.memory.stores.own_name import gone, own_name

if TYPE_CHECKING:
    import pytest


def test_a_process_of_this_machine_that_has_ended_is_gone_and_nobody_else_is() -> None:
    """Of other machines, and of those that were given a name, nobody here can tell."""
    machine, _, rest = own_name().rpartition(":")
    number, _, digits = rest.partition("-")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(60)
    names = [
        f"{machine}:{ended.pid}-{digits}",
        own_name(),
        f"another:{ended.pid}-{digits}",
        f"{machine}:{ended.pid}",
        f"{machine}:bot",
        "bot-1",
        "",
        f"{machine}:\u0661-{digits}",
    ]
    assert number == str(os.getpid())
    assert gone(names) == ({names[0]} if os.name == "posix" else frozenset())


def test_containers_that_have_their_hosts_name_are_told_apart_and_none_is_taken_for_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each of them is the first process of its own numbering, and the number of one says nothing in another."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(60)
    monkeypatch.setattr(os, "getpid", lambda: ended.pid)
    names = []
    for space in ("1", "2"):
        (tmp_path / space).symlink_to(f"pid:[{space}]")
        monkeypatch.setattr(own_names, "_PROCESSES", tmp_path / space)
        own_names._numbering.cache_clear()
        own_names._random_digits.cache_clear()
        names.append(own_name())
    assert names[0] != names[1]
    assert gone(names) == ({names[1]} if os.name == "posix" else frozenset())
    own_names._numbering.cache_clear()


def test_two_machines_of_one_name_are_two_processes() -> None:
    """By what is random: the numbers are often the same after a start of both."""
    before = own_name()
    own_names._random_digits.cache_clear()
    assert own_name() != before
