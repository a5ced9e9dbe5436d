"""What of the state directory is the owner's alone: the journal, which one process at a time may have, and the kill switch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shockproof.memory.services.halt import Halt

if TYPE_CHECKING:
    from shockproof.memory.journal.journal import Journal, Session

__all__ = ["JournalAndHalt"]


class JournalAndHalt:
    """
    The journal and the kill switch of one recovery service that owns an account, or waits for it.

    Several processes of one machine may have them in common. Never waits for a disk. *journal* gives the journal if it is used.
    """

    def __init__(self, journal: Callable[[], Journal | None], halt: Halt) -> None:
        self._journal = journal
        self._halt = halt

    def before_owning(self) -> None:
        """The account is about to be this process's: whoever had it until now may have halted it."""
        self._halt.look_again()

    def while_owning(self) -> None:
        """The account is this process's still: where another one had the journal, it may be free by now."""
        journal = self._journal()
        if journal is not None and journal.locked is not None:
            journal.tell(_nothing)

    def no_longer(self) -> None:
        """The account is another one's: it needs the journal, as soon as what runs here has ended."""
        journal = self._journal()
        if journal is not None:
            journal.give_up()

    @property
    def hindrance(self) -> str | None:
        """Why the owner cannot send all the same; None: it can, as far as is known."""
        journal = self._journal()
        return None if journal is None or journal.locked is None else str(journal.locked)


def _nothing(session: Session) -> None:
    """Only have the journal opened."""
