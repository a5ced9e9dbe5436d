"""
The attempts of one call, hung on the error that ends it.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Final

from shockproof.memory.error_log.capture import text_of
from shockproof.vocabulary.outcomes import Attempt

__all__ = ["LONGEST_TEXT", "attach", "attempts_of", "describe"]

_ATTRIBUTE = "__shockproof_attempts__"
_MOST_NOTES = 10
LONGEST_TEXT: Final = 500
"""Characters after which `describe` cuts a text; what it gives is longer only if it did."""


def attempts_of(error: BaseException) -> tuple[Attempt, ...]:
    """
    The failed attempts of the call that *error* ended, first to last; empty for other errors.

    They are numbers and texts only: keeping them keeps no exception, frame or argument alive.
    """
    kept = getattr(error, _ATTRIBUTE, None)
    if isinstance(kept, tuple) and len(kept) == 2 and isinstance(kept[1], tuple):
        attempts: tuple[Attempt, ...] = kept[1]
        return attempts
    return ()


def describe(error: BaseException) -> tuple[str, str]:
    """Type and text of *error*; a text that cannot be made is said to be so."""
    text = text_of(error)
    return type(error).__name__, text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "..."


def attach(error: BaseException, service_name: str, attempts: Collection[Attempt], reason: str) -> None:
    """
    Hang *attempts* on *error*: as data, and the earlier ones as notes, with why there is no other.

    An object that is raised again by a later call carries the later call's history alone. An outer
    service that made a single attempt does not cover up what an inner one has told.
    """
    with suppress(Exception):  # no room for attributes, or hostile ones: it is raised all the same
        kept = getattr(error, _ATTRIBUTE, None)
        told_by_another = isinstance(kept, tuple) and kept[0] != service_name
        if not (told_by_another and len(attempts) == 1):
            setattr(error, _ATTRIBUTE, (service_name, tuple(attempts)))
        mark = f"shockproof {service_name}: "
        notes = [note for note in getattr(error, "__notes__", ()) if not note.startswith(mark)]
        notes += [mark + note for note in _notes(attempts, reason)]
        if notes or hasattr(error, "__notes__"):
            error.__notes__ = notes


def _notes(attempts: Collection[Attempt], reason: str) -> list[str]:
    earlier = list(attempts)[:-1]
    notes = []
    if len(earlier) > _MOST_NOTES:
        notes.append(f"{len(earlier) - _MOST_NOTES} attempts before these")
    for attempt in earlier[-_MOST_NOTES:]:
        waited = "" if attempt.delay is None else f", then waited {attempt.delay:.3g} s"
        notes.append(
            f"{'hedge of ' * attempt.is_hedge}attempt {attempt.number} failed after {attempt.duration:.3g} s "
            f"with {attempt.error_type}: {attempt.error_message}{waited}"
        )
    if reason:
        notes.append(f"not repeated: {reason}")
    return notes
