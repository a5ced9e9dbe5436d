"""
What the journal knows of something that is sent once: that it may be under way, since when, and its end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

from shockproof.memory.journal.journal import Act, Journal, RecordTooLargeError, Session
from shockproof.memory.journal.journalled_values import JournalledValues
from shockproof.memory.journal.operation_table import Name, OperationEntry
from shockproof.memory.journal.record import Kind
from shockproof.memory.state.codec import MalformedValueError, UnknownTypeError
from shockproof.vocabulary.errors import OperationBusyError, OperationCompletedError
from shockproof.vocabulary.moment import Moment

__all__ = [
    "Earlier",
    "NotFreshError",
    "Sending",
    "is_sending",
    "key_of",
    "name_of_sending",
    "sent_at",
    "service_of",
    "under_way_until",
]

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


def sent_at(entry: OperationEntry) -> float | None:
    """
    When its last attempt began: wall time, seconds since 1970 UTC. For people.

    None where nobody knows: an older shockproof kept of an order that was sent again only until when it might run.
    """
    body = entry.body
    attempt_at = _seconds(body.get("attempt_at"))
    if attempt_at is not None:
        return attempt_at
    if entry.times_begun == 1:
        return _seconds(body.get("at"))
    sent, ended = _seconds(body.get("sent_at")), _seconds(body.get("ended"))
    return sent if sent is not None and ended is not None and sent <= ended else None


def under_way_until(entry: OperationEntry) -> float | None:
    """Until when its last attempt may be under way, at most, as `sent_at`; None: it has ended, or nobody knows."""
    counts_from = entry.body.get("counts_from")
    until = _seconds(entry.body.get("sent_at"))
    # A later life that saw one whose sending nobody can date counts from then; that says nothing of when it was sent.
    return until if isinstance(counts_from, dict) and counts_from.get("wall") == until else None


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


class Earlier(NamedTuple):
    """A key that was sent without anybody learning what became of it."""

    passed: float
    """Seconds, at least, since it was last under way."""
    is_there: bool
    """The other side said that it has this key; what it is, nobody knows."""


class NotFreshError(Exception):
    """Somebody has sent this key, or is about to: `Sending.claim` tells more."""


class Sending:
    """
    One key on its way: `claim`, then `about_to_send` before each attempt, then one of the ends.

    A key that is expected to be fresh needs no `claim`: the first `about_to_send` claims it, in one turn of the disk.
    """

    def __init__(
        self,
        journal: Journal,
        values: JournalledValues,
        service_name: str,
        key: str,
        *,
        now: Callable[[], Moment],
    ) -> None:
        self._journal = journal
        self._values = values
        self._service_name = service_name
        self._key = key
        self._name = name_of_sending(service_name, key)
        self._now = now
        self._life = journal.life
        self._which = 0
        """How often it had been sent, by anybody, when it was last sent from here."""
        self.is_claimed = False
        """Whether nobody else of this process may send it until `release`."""
        self.was_about_to_send = False
        """Whether `about_to_send` was called, whatever came of it."""

    @property
    def is_left_behind(self) -> bool:
        """Whether an attempt of this process that nobody waits for may still send it."""
        return self._name in self._journal.left_behind

    async def claim(self, *, is_under_way: Callable[[], bool]) -> Earlier | None:
        """
        Be the only one of this process that sends this key.

        *is_under_way* tells whether somebody of this process may still be sending it.

        Returns what an earlier life, or an earlier call, left; None when there was none. Where nobody can tell how long
        ago that was, it is 0 seconds, and counts from now on, for later lives as well: the program may be started
        again and again before the window has closed.

        Raises:
            OperationCompletedError: it was sent, and is there.
            OperationBusyError: it is being sent at another place of this process.
            JournalUnavailableError, JournalLockedError, StateVersionError: the journal cannot tell.
        """
        first_seen: Moment | None = None

        def act(session: Session) -> Earlier | None:
            nonlocal first_seen
            known = session.table.get(self._name)
            if known is not None and known.is_completed:
                raise OperationCompletedError(self._name.operation, self._key, self._result_of(known))
            if session.running.get(self._name) is not None:
                raise OperationBusyError(self._name.operation, self._key)
            session.running[self._name] = self
            self.is_claimed = True
            if known is None:
                return None
            now = self._now()
            counts_from = Moment.from_dict(known.body.get("counts_from"))
            passed = None if counts_from is None else now.since(counts_from)
            if passed is None and not self.is_left_behind and not is_under_way():
                first_seen = now
            return Earlier(passed or 0.0, is_there=known.body.get("effect") == "done")

        earlier = await self._journal.ask(act)
        if first_seen is not None:
            self._seen(first_seen)
        return earlier

    def _seen(self, at: Moment) -> None:
        # By itself, so that a disk that takes nothing keeps nobody from looking it up.
        body = {**self._body(), "at": at.wall, "counts_from": at.as_dict()}
        self._tell(lambda session: session.tell(Kind.SEEN, body))

    def _result_of(self, entry: OperationEntry) -> Any:  # Any: the user's value
        try:
            return self._values.thaw(entry.body.get("result"))
        except (UnknownTypeError, MalformedValueError):
            return None

    async def about_to_send(self, *, at_most_for: float | None, even_without_space: bool) -> None:
        """
        Have it durable that it may be under way from now on, for *at_most_for* seconds; None: nobody knows.

        Raises:
            NotFreshError: it was not claimed, and it is known; nothing was written.
            JournalUnavailableError, JournalLockedError, StateVersionError: it is not.
        """

        def act(session: Session) -> None:
            if not self.is_claimed:
                self._claim_fresh(session)
            now = self._now()
            until = now.later(at_most_for or 0.0)
            session.require(
                Kind.SEND,
                {
                    **self._body(),
                    "service": self._service_name,
                    "at": now.wall,
                    "sent_at": until.wall,
                    "counts_from": None if at_most_for is None else until.as_dict(),
                },
                even_without_space=even_without_space,
            )
            known = session.table.get(self._name)
            self._which = 0 if known is None else known.times_begun

        self.was_about_to_send = True
        await self._journal.ask(act)

    def _claim_fresh(self, session: Session) -> None:
        if session.table.get(self._name) is not None or session.running.get(self._name) is not None:
            raise NotFreshError

        def take_back() -> None:
            session.running.pop(self._name, None)
            self.is_claimed = False

        session.running[self._name] = self
        self.is_claimed = True
        session.take_back.append(take_back)

    def outcome_unknown(self, why: str, at: Moment, *, is_over: bool, is_there: bool = False) -> None:
        """
        It may have been under way until *at*, and if not *is_over* it still may be; never waits.

        With *is_there*, the other side said that it has this key already.
        """
        body = self._interrupted(why, at, is_over=is_over, is_there=is_there)
        self._tell(lambda session: session.tell(Kind.INTERRUPT, body))

    def leave_behind(self) -> None:
        """It goes on although nobody waits for it; one of the three below tells when it has ended. Never waits."""
        self._journal.left_behind.add(self._name)

    def _interrupted(
        self, why: str, at: Moment, *, is_over: bool, is_there: bool
    ) -> dict[str, Any]:  # Any: frozen values
        return {
            **({"effect": "done"} if is_there else {}),
            **self._body(),
            "why": why,
            "at": at.wall,
            "sent_at": at.wall,
            "counts_from": at.as_dict() if is_over else None,
        }

    def ended_late(self, why: str, at: Moment, *, is_there: bool = False) -> None:
        """What was left behind came to its end at *at*, and its outcome is unknown; from any thread, never waits."""

        def act(session: Session) -> None:
            self._journal.left_behind.discard(self._name)
            if self._is_pending_as_sent(session):
                body = self._interrupted(why, at, is_over=True, is_there=is_there)
                session.tell(Kind.INTERRUPT, body)

        self._tell(act, needs_open=False)

    def is_there_late(self, result: object) -> None:
        """As `is_there`, of what was left behind."""
        end = self._there(result)

        def act(session: Session) -> None:
            self._journal.left_behind.discard(self._name)
            if session.table.get(self._name) is not None:
                end(session)

        self._tell(act, needs_open=False)

    def is_not_there_late(self) -> None:
        """As `is_not_there`, of what was left behind; nothing if it was sent again since."""

        def act(session: Session) -> None:
            self._journal.left_behind.discard(self._name)
            if self._is_pending_as_sent(session):
                self._abandon(session)

        self._tell(act, needs_open=False)

    def _is_pending_as_sent(self, session: Session) -> bool:
        # A journal that was given up in between knows nothing, and is not taken again for this.
        known = session.table.get(self._name)
        return known is not None and not known.is_completed and known.times_begun == self._which

    def is_there(self, result: object) -> None:
        """It was sent, and is there; never waits. A result that could not come back is not kept."""
        self._tell(self._there(result))

    def _there(self, result: object) -> Act[None]:
        at = self._now().wall
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

        return act

    def is_not_there(self) -> None:
        """It is certain that it was not sent, or did not arrive; never waits. The key may be used again."""

        def act(session: Session) -> None:
            if session.running.get(self._name) is self and session.table.get(self._name) is not None:
                self._abandon(session)

        self._tell(act)

    def _abandon(self, session: Session) -> None:
        session.tell(Kind.END, {**self._body(), "status": "abandoned", "at": self._now().wall})

    def release(self) -> None:
        """Whatever is known of it stays; another place may claim it. Never waits."""

        def act(session: Session) -> None:
            if session.running.get(self._name) is self:
                del session.running[self._name]

        self._journal.tell(act, needs_open=False)

    def _body(self) -> dict[str, Any]:  # Any: frozen values
        return {"operation": self._name.operation, "key": self._key}

    def _tell(self, act: Act[None], *, needs_open: bool = True) -> None:
        if self._life is self._journal.life:  # in a forked child, the parent has it to tell
            self._journal.tell(act, needs_open=needs_open)
