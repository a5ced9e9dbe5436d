"""
The last state of each day, kept as it was: for a report about that day.

    days/2026-11-25.system_state.json     and, of a large state, the files of changes that belong to it

They are links to what the first save of another day replaces, so that nothing is written twice. The days are those of
the timestamps in the files. Which state of a day is the last one, the order of the saves says, and not the clock, which may
have been set meanwhile. A state is saved whether or not the one before could be kept.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from shockproof.memory.disk.directory import make_durable
from shockproof.memory.disk.file_layer import FileLayer

__all__ = ["DailyStates", "days_kept", "prefix_of", "states_of_days"]

_WHOLE: Final = "system_state.json"
_KEPT: Final = r"([0-9]{4}-[0-9]{2}-[0-9]{2})\.system_state\.(?:changes\.[0-9]{1,18}\.)?json"
_TIMESTAMP: Final = rb'"timestamp":\s*"([0-9]{4}-[0-9]{2}-[0-9]{2})T'
_HEAD: Final = 512

_log = logging.getLogger("shockproof")


def states_of_days(state_dir: Path) -> Path:
    """Where those of *state_dir* are."""
    return state_dir / "days"


def prefix_of(day: str) -> str:
    """What the names of the files of *day*, such as ``2026-11-25``, begin with."""
    return f"{day}."


def days_kept(layer: FileLayer, state_dir: Path) -> list[str]:
    """
    The days of which there is a state, such as ``2026-11-25``, the oldest first.

    Raises:
        OSError: the directory cannot be read.
    """
    return sorted(_days(layer, states_of_days(state_dir)))


class DailyStates:
    """
    Keeps the last state of the newest *most* days. Everything blocks: call it in the writer's thread.

    Later days than the one that ends, from a clock that was ahead, take nobody's place; of them there are twice as many at most.
    """

    def __init__(self, layer: FileLayer, state_dir: Path, most: int) -> None:
        self._layer = layer
        self._state_dir = state_dir
        self._place = states_of_days(state_dir)
        self._most = most
        self._looked_on = ""

    def keep(self, timestamp: str, changes: Sequence[str]) -> None:
        """
        Keep what is there, if it is of another day than *timestamp*, that of the state about to be written.

        *changes*: the names of the files that go on from the whole one, oldest first.
        """
        today = timestamp[:10]
        if today == self._looked_on:  # what is there is of today
            return
        try:
            day = self._day_of([_WHOLE, *changes][-1])
            if day is not None and day != today:
                self._keep(day, changes)
                self._forget(min(day, today))
        except OSError as error:
            _log.warning("the state of the day before is not kept in %s: %s", self._place, error)
        self._looked_on = today

    def _day_of(self, name: str) -> str | None:
        try:
            found = re.search(_TIMESTAMP, self._layer.read(self._state_dir / name, _HEAD))
        except FileNotFoundError:
            return None
        return None if found is None else found[1].decode()

    def _keep(self, day: str, changes: Sequence[str]) -> None:
        make_durable(self._layer, self._place)
        # An earlier one of that day: the clock was set. What a crash has left of the same one goes as well.
        self._remove(day)
        # The whole one comes last: where it is, the others are.
        for part in (changes, [_WHOLE]):
            for name in part:
                self._layer.link(self._state_dir / name, self._place / (prefix_of(day) + name))
            if part:
                self._layer.fsync_directory(self._place)

    def _forget(self, up_to: str) -> None:
        days = days_kept(self._layer, self._state_dir)
        past, ahead = [day for day in days if day <= up_to], [day for day in days if day > up_to]
        wanted = {*past[-self._most :], *ahead[-2 * self._most :]}
        names = self._layer.list_directory(self._place)
        # Also changes whose whole could not be kept: nobody can read them.
        there = {kept[1] for name in names if (kept := re.fullmatch(_KEPT, name)) is not None}
        for day in sorted(there - wanted):
            self._remove(day)

    def _remove(self, day: str) -> None:
        names = self._layer.list_directory(self._place)
        own = [name for name in names if (kept := re.fullmatch(_KEPT, name)) is not None and kept[1] == day]
        # The whole one goes first, for the same reason that it comes last.
        for name in sorted(own, key=lambda name: name != prefix_of(day) + _WHOLE):
            self._layer.unlink(self._place / name)


def _days(layer: FileLayer, place: Path) -> set[str]:
    try:
        names = layer.list_directory(place)
    except FileNotFoundError:
        return set()
    return {
        name.removesuffix(f".{_WHOLE}")
        for name in names
        if re.fullmatch(_KEPT, name) and name.endswith(f".{_WHOLE}")
    }
