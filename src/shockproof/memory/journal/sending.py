"""
What the journal knows of something that is sent once: that it may be under way, since when, and its end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from shockproof.memory.journal.journal import Act, Journal, RecordTooLargeError, Session
from shockproof.memory.journal.journalled_values import JournalledValues
from shockproof.memory.journal.operation_table import Name, OperationEntry
from shockproof.memory.journal.record import Kind
from shockproof.memory.state.codec import MalformedValueError, UnknownTypeError
from shockproof.vocabulary.errors import OperationBusyError, OperationCompletedError

__all__ = ["Sending", "is_sending", "key_of", "name_of_sending", "sent_at", "service_of"]

_SUFFIX = ".once"


def name_of_sending(service_name: str, key: str) -> Name:
    """What the journal calls it: each service has keys of its own."""
    return Name(service_name + _SUFFIX, key)


def is_sending(entry: OperationEntry) -> bool:
    """Whether an operation of the journal is something that is sent once."""
    return "sent_at" in entry.body and entry.name.key is not None


def service_of(entry: OperationEntry) -> str:
    """Whose it is."""
    return entry.name.operation.removesuffix(_SUFFIX)


def key_of(entry: OperationEntry) -> str:
    """Its key."""
    assert entry.name.key is not None
    return entry.name.key


def sent_at(entry: OperationEntry) -> float:
    """When it was last under way, as far as is known: wall time, seconds since 1970 UTC."""
    at = entry.body.get("sent_at")
    return float(at) if isinstance(at, int | float) else 0.0


class Sending:
    """One key on its way: `claim`, then `about_to_send` before each attempt, then one of the ends."""

    def __init__(
        self,
        journal: Journal,
        values: JournalledValues,
        service_name: str,
        key: str,
        *,
        now: Callable[[], float],
    ) -> None:
        self._journal = journal
        self._values = values
        self._service_name = service_name
        self._key = key
        self._name = name_of_sending(service_name, key)
        self._now = now
        self._life = journal.life

    async def claim(self) -> float | None:
        """
        Be the only one of this process that sends this key; nothing is written.

        Returns when an earlier life, or an earlier call, last sent it without learning what became of it; None
        when there was none.

        Raises:
            OperationCompletedError: it was sent, and is there.
            OperationBusyError: it is being sent at another place of this process.
            JournalUnavailableError, JournalLockedError, StateVersionError: the journal cannot tell.
        """

        def act(session: Session) -> float | None:
            known = session.table.get(self._name)
            if known is not None and known.is_completed:
                raise OperationCompletedError(self._name.operation, self._key, self._result_of(known))
            if session.running.get(self._name) is not None:
                raise OperationBusyError(self._name.operation, self._key)
            session.running[self._name] = self
            return None if known is None else sent_at(known)

        return await self._journal.ask(act)

    def _result_of(self, entry: OperationEntry) -> Any:  # Any: the user's value
        try:
            return self._values.thaw(entry.body.get("result"))
        except (UnknownTypeError, MalformedValueError):
            return None

    async def about_to_send(self, *, at_most_for: float = 0.0, even_without_space: bool) -> None:
        """
        Have it durable that it may be under way from now on, for *at_most_for* seconds where that is known.

        Raises:
            JournalUnavailableError, JournalLockedError, StateVersionError: it is not.
        """

        def act(session: Session) -> None:
            at = self._now()
            body = {**self._body(), "service": self._service_name, "at": at, "sent_at": at + at_most_for}
            session.require(Kind.SEND, body, even_without_space=even_without_space)

        await self._journal.ask(act)

    def outcome_unknown(self, why: str, at: float) -> None:
        """It may have been under way until *at* (wall time); never waits."""
        self._tell(
            lambda session: session.tell(
                Kind.INTERRUPT, {**self._body(), "why": why, "at": at, "sent_at": at}
            )
        )

    def is_there(self, result: object) -> None:
        """It was sent, and is there; never waits. A result that could not come back is not kept."""
        at = self._now()
        frozen = None
        # Also what the user's own values raise, and a warning that is an error: the order is there all the same.
        with contextlib.suppress(Exception):
            frozen = self._values.freeze("result", result)

        def act(session: Session) -> None:
            body = {**self._body(), "status": "completed", "at": at}
            try:
                session.tell(Kind.END, {**body, "result": None if frozen is None else frozen.values()})
            except RecordTooLargeError:
                session.tell(Kind.END, {**body, "result": None})

        self._tell(act)

    def is_not_there(self) -> None:
        """It is certain that it was not sent, or did not arrive; never waits. The key may be used again."""

        def act(session: Session) -> None:
            if session.table.get(self._name) is not None:
                session.tell(Kind.END, {**self._body(), "status": "abandoned", "at": self._now()})

        self._tell(act)

    def release(self) -> None:
        """Whatever is known of it stays; another place may claim it. Never waits."""

        def act(session: Session) -> None:
            if session.running.get(self._name) is self:
                del session.running[self._name]

        self._journal.tell(act, needs_open=False)

    def _body(self) -> dict[str, Any]:  # Any: frozen values
        return {"operation": self._name.operation, "key": self._key}

    def _tell(self, act: Act[None]) -> None:
        if self._life is self._journal.life:  # in a forked child, the parent has it to tell
            self._journal.tell(act)
