"""
What stands beside each call while somebody traces them. Nothing of it is asked for otherwise.

`shockproof.integrations` makes the traces; this says only where they are told what happens. Nothing here may raise.
"""

from __future__ import annotations

from typing import Protocol

from shockproof.vocabulary.outcomes import Outcome

__all__ = ["AttemptTrace", "CallTrace", "Tracer"]


class AttemptTrace(Protocol):
    """One attempt, from just before its function runs; current for what the function does, in the task it runs in."""

    def ended(self, error: BaseException | None) -> None:
        """It ended with *error*, or well; what was current before is so again."""
        ...


class CallTrace(Protocol):
    """One call, from its beginning."""

    def enter(self) -> None:
        """Be current from here on, in the task that runs now."""
        ...

    def leave(self) -> None:
        """What was current before is so again; a second time, nothing."""
        ...

    def attempt(self, number: int, *, is_hedge: bool) -> AttemptTrace | None:
        """An attempt begins; None: it is not traced."""
        ...

    def judged(self, outcome: Outcome) -> None:
        """What became of the last attempt, by the classification of the handle."""
        ...

    def raises(self, error: BaseException) -> None:
        """The caller gets *error*."""
        ...

    def ended(self) -> None:
        """It is over, however it ended."""
        ...


class Tracer(Protocol):
    """Whoever wants to know of each call."""

    def call(self, service_name: str, function_name: str) -> CallTrace | None:
        """A call begins; None: it is not traced."""
        ...
