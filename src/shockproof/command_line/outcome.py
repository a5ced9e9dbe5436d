"""How a command ends: exit codes that scripts can use, and errors of one line."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["CommandError", "ExitCode"]


class ExitCode(IntEnum):
    """What the exit code says. Documented in ``docs/how-to/command-line.md``."""

    FINE = 0
    WRONG = 1
    """It was done, and what was looked at is not as it should be."""
    NOT_DONE = 2
    """It could not be done: wrong arguments, a disk that refuses, no answer to a question."""
    NOT_THERE = 3
    """What was asked for is not there."""
    OWNED = 4
    """Another process owns the journal."""
    BUG = 70
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class CommandError(Exception):
    """The command ends here; the text is the one line that says why."""

    def __init__(self, message: str, code: ExitCode = ExitCode.NOT_DONE) -> None:
        super().__init__(message)
        self.code = code
