"""The saved state as it was at the end of a day, where the program keeps those of days."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from shockproof.memory.disk.file_layer import FileLayer, SystemFiles
from shockproof.memory.state.daily_states import days_kept, prefix_of, states_of_days
from shockproof.memory.state.state_files import StateFiles
from shockproof.memory.state.state_survey import SurveyedFile

__all__ = ["state_before", "states_kept"]


def states_kept(state_dir: Path, layer: FileLayer) -> Iterator[SurveyedFile]:
    """
    The files of the states of days, one day after the other, the oldest first: each may be large.

    Raises:
        OSError: their directory cannot be read.
    """
    for day in days_kept(layer, state_dir):
        yield from StateFiles(states_of_days(state_dir), layer=layer, prefix=prefix_of(day)).survey()


def state_before(
    until: datetime, files: tuple[SurveyedFile, ...], state_dir: Path
) -> tuple[SurveyedFile, ...]:
    """
    The files of the last state that was saved before *until*; *files*, those of the newest, where that is it or no other was kept.

    Raises:
        OSError: the directory of those that were kept cannot be read.
    """
    newest = next((file.timestamp for file in files if file.timestamp is not None), None)
    if newest is not None and newest.timestamp() < until.timestamp():
        return files
    # The days are those of the program, whose zone may be another one: the times in the files decide.
    last = (until - timedelta(microseconds=1)).astimezone().date()
    day_after = (last + timedelta(days=1)).isoformat()
    for day in reversed(days_kept(SystemFiles(), state_dir)):
        if day > day_after:
            continue
        kept = StateFiles(states_of_days(state_dir), prefix=prefix_of(day)).survey()
        saved = next((file.timestamp for file in kept if file.timestamp is not None), None)
        if day <= last.isoformat() if saved is None else saved.timestamp() < until.timestamp():
            return kept
    return files
