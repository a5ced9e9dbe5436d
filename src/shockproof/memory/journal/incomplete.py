"""
The mark that a journal does not know of all that was sent: ``incomplete.json`` beside its segments.

A program that finds damage writes it before it goes on, so that later lives know too; so does one that takes over an account
which another journal's owner had; a person who puts an older copy of the directory in place makes an empty one. As long as it
is there, a key that the journal does not know may have been sent all the same, and is looked up first.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from shockproof.memory.disk.durable_file import Replacement, replace_durably
from shockproof.memory.disk.file_layer import FileLayer
from shockproof.vocabulary.moment import Moment

__all__ = [
    "COMPLETE",
    "INCOMPLETE_NAME",
    "Incomplete",
    "OwnedElsewhere",
    "mark_incomplete",
    "mark_removed",
    "read_incomplete",
]

INCOMPLETE_NAME: Final = "incomplete.json"

_FORMAT_VERSION: Final = 1
_MOST_BYTES: Final = 1 << 20


class OwnedElsewhere(NamedTuple):
    """What was sent for an account by an owner with another journal: nothing is missing here, and yet not all is known."""

    why: str
    since: Moment | None
    """When the account was taken over, at last: that owner may have sent until then. None: not known."""


class Incomplete(NamedTuple):
    """What a journal does not know of."""

    lost: str | None = None
    """What of it is missing; None: nothing that is known."""
    elsewhere: OwnedElsewhere | None = None
    """Who else has sent; None: nobody that is known."""


COMPLETE: Final = Incomplete()


def read_incomplete(layer: FileLayer, directory: Path) -> Incomplete:
    """Why the journal counts as incomplete, if it does."""
    try:
        content = layer.read(directory / INCOMPLETE_NAME, _MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return COMPLETE
    except OSError as error:
        return Incomplete(f"{INCOMPLETE_NAME} cannot be read: {error.strerror or error}")
    # That it is there is what counts.
    if not content.strip():
        return Incomplete(f"by hand: {INCOMPLETE_NAME} is empty")
    try:
        fields = json.loads(content)
        if "owned_elsewhere" not in fields:
            return Incomplete(str(fields["reason"]))
        told, lost = fields["owned_elsewhere"], fields["lost"]
        elsewhere = OwnedElsewhere(str(told["why"]), Moment.from_dict(told["since"]))
        return Incomplete(None if lost is None else str(lost), elsewhere)
    except (ValueError, TypeError, KeyError, RecursionError):
        return Incomplete(f"for a reason that cannot be read: {INCOMPLETE_NAME} is damaged")


def mark_incomplete(layer: FileLayer, directory: Path, incomplete: Incomplete) -> None:
    """Make the mark, durably; who calls this owns the journal. Raises OSError."""
    lost, elsewhere = incomplete
    fields: dict[str, Any] = {"format_version": _FORMAT_VERSION, "reason": lost}  # Any: texts and numbers
    if elsewhere is not None:
        since = None if elsewhere.since is None else elsewhere.since.as_dict()
        # An older shockproof knows the reason alone.
        fields["reason"] = lost or elsewhere.why
        fields |= {"lost": lost, "owned_elsewhere": {"why": elsewhere.why, "since": since}}
    content = json.dumps(fields, indent=2) + "\n"
    replace_durably(layer, directory, [Replacement(INCOMPLETE_NAME, [content.encode()])])


def mark_removed(layer: FileLayer, directory: Path) -> None:
    """Take the mark away, durably; who calls this owns the journal. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        layer.unlink(directory / INCOMPLETE_NAME)
    layer.fsync_directory(directory)
