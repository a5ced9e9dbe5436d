"""What a process is called, and whether one so called is gone."""

from __future__ import annotations

import os
import subprocess
import sys

from shockproof.memory.stores.own_name import gone, own_name


def test_a_process_of_this_machine_that_has_ended_is_gone_and_nobody_else_is() -> None:
    """Of other machines, and of those that were given a name, nobody here can tell."""
    machine, _, number = own_name().rpartition(":")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(60)
    names = [
        f"{machine}:{ended.pid}",
        own_name(),
        f"another:{ended.pid}",
        f"{machine}:bot",
        "bot-1",
        "",
        f"{machine}:\u0661",
    ]
    assert number == str(os.getpid())
    assert gone(names) == ({names[0]} if os.name == "posix" else frozenset())
