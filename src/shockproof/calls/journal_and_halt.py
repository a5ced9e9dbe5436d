"""What of the state directory is the owner's alone: the journal, which one process at a time may have, and the kill switch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from shockproof.memory.services.halt import Halt
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.errors import ShockproofError
from shockproof.vocabulary.moment import Moment

if TYPE_CHECKING:
    from shockproof.memory.journal.journal import Journal, Session

__all__ = ["JournalAndHalt"]

_log = logging.getLogger("shockproof")


class JournalAndHalt:
    """
    The journal and the kill switch of one recovery service that owns an account, or waits for it.

    Several processes of one machine may have them in common. What does not say that it waits never waits for a disk.

    Args:
        journal: gives the journal if it is used.
        loaded: gives the journal, loaded if it is not yet.
        halt: the kill switch.
        clock: by what this process counts.
    """

    def __init__(
        self,
        journal: Callable[[], Journal | None],
        loaded: Callable[[], Awaitable[Journal]],
        halt: Halt,
        clock: Clock,
    ) -> None:
        self._journal = journal
        self._loaded = loaded
        self._halt = halt
        self._clock = clock
        self._taken_over_at: Moment | None = None
        """Since when the account is this process's, this time."""
        self._told: str | None = None
        """Why it was last logged that the disk did not take it."""

    def before_owning(self) -> None:
        """The account is about to be this process's: whoever had it until now may have halted it."""
        self._taken_over_at = None
        self._halt.look_again()

    async def take_over(self, account: str, former: str | None) -> str | None:
        """
        The identity of the journal, which knows by now whether somebody else may have sent for *account*; see `Journal.take_over`.

        None where the disk does not take that within a second: then it is known here all the same, and the next owner looks up
        what was sent meanwhile.
        """
        from shockproof.memory.journal.moments import moment_of
        from shockproof.memory.journal.risk_reducing import PATIENCE

        journal = await self._loaded()
        at = self._taken_over_at = self._taken_over_at or moment_of(self._clock)
        before = journal.times_taken_over
        why: str | None = None
        identity: str | None = None
        try:
            async with asyncio.timeout(PATIENCE):
                identity = await journal.take_over(account, former, at)
        except (ShockproofError, OSError) as error:
            why = str(error) or f"the disk has not answered within {PATIENCE:g} s"
            journal.taken_over(account, at)
        if journal.times_taken_over != before:
            _log.info(
                "%r was owned by a process with another journal, or nobody can tell: a key that this journal does not know is "
                "looked up before it is sent, which takes a question to confirm",
                account,
            )
        if why is not None and why != self._told:
            _log.warning("that this journal is the one of %r could not be written: %s", account, why)
        self._told = why
        return identity

    async def seen(self, account: str, owner: str) -> None:
        """Another process owns *account*, with the journal of that identity: also where the store should ever forget that."""
        from shockproof.memory.journal.risk_reducing import PATIENCE

        journal = await self._loaded()
        try:
            async with asyncio.timeout(PATIENCE):
                await journal.remember(account, owner)
        except (ShockproofError, OSError) as error:
            _log.warning("that %r is owned elsewhere could not be written: %s", account, error)

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
    def may_still_send(self) -> bool:
        """Whether an order that was begun here may still be on its way to the venue."""
        journal = self._journal()
        return journal is not None and journal.may_still_send

    @property
    def hindrance(self) -> str | None:
        """Why the owner cannot send all the same; None: it can, as far as is known."""
        journal = self._journal()
        return None if journal is None or journal.locked is None else str(journal.locked)


def _nothing(session: Session) -> None:
    """Only have the journal opened."""
