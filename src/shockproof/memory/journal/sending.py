"""
What the journal knows of something that is sent once: that it may be under way, since when, and its end.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from shockproof.memory.journal.fingerprint import Fingerprint, differing
from shockproof.memory.journal.journal import Act, Journal, RecordTooLargeError, Session
from shockproof.memory.journal.journalled_values import JournalledValues, KeptDetails
from shockproof.memory.journal.lost_details import ELSEWHERE, LostDetails
from shockproof.memory.journal.name import name_of_sending, service_of_name
from shockproof.memory.journal.operation_table import OperationEntry
from shockproof.memory.journal.record import Kind
from shockproof.memory.state.codec import MalformedValueError, UnknownTypeError
from shockproof.vocabulary.errors import KeyReusedError, OperationBusyError, OperationCompletedError
from shockproof.vocabulary.moment import Moment

__all__ = [
    "Earlier",
    "NotFreshError",
    "Sending",
    "is_sending",
    "key_of",
    "sent_at",
    "service_of",
    "under_way_until",
]

_log = logging.getLogger("shockproof")


def is_sending(entry: OperationEntry) -> bool:
    """Whether an operation of the journal is something that is sent once."""
    return "sent_at" in entry.body and entry.name.key is not None


def service_of(entry: OperationEntry) -> str:
    """Whose it is."""
    return service_of_name(entry.name)


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
    differs: tuple[str, ...] = ()
    """The arguments that were others when it was sent."""
    settle: float = 0.0
    """Seconds that the other side may take to show it, as it was sent with; 0: nobody has said."""
    details: Mapping[str, Any] = MappingProxyType({})  # Any: the user's own values
    """What it was journalled with, to look it up by."""


class NotFreshError(Exception):
    """Somebody has sent this key, or is about to: `Sending.claim` tells more."""


class _Told(NamedTuple):
    """What was told of a key, for those who ask before the journal's thread has recorded it."""

    outcome: Literal["there", "unknown", "not there"]
    result: object = None
    counts_from: Moment | None = None
    is_known_there: bool = False


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
        arguments: Fingerprint | None = None,
        compared: Collection[str] | None = None,
        settle: float | None = None,
        weight: int | Mapping[str, int] | None = None,
        counts_for: float | None = None,
        details: KeptDetails | None = None,
        lasts: float = 0.0,
    ) -> None:
        self._lasts = lasts
        """Seconds that an attempt may be under way, at most, of a process that has lost its account meanwhile; 0: nobody can tell."""
        self.taken_over_before = journal.times_taken_over
        """How often the journal had taken over from another owner's."""
        self._details = details
        """What it is to be journalled with; None: nothing."""
        self._known_details: Mapping[str, Any] = {}  # Any: the user's own values
        """What is under way was journalled with."""
        self._weight = dict(weight) if isinstance(weight, Mapping) else weight
        """What each attempt counts in a rate limit; None: there is none."""
        self._counts_for = counts_for
        """Seconds of its longest window."""
        self._settle = settle
        """Seconds that the other side may take to show it; None: whoever only looks it up does not say."""
        self._known_settle = 0.0
        """The one that it was sent with."""
        self._arguments = arguments
        """What it is to be sent with; None: that is not compared."""
        self._compared = compared
        """The arguments that have to be the same as before; None: all."""
        self._known_arguments: object = arguments
        """What is under way, or there, was sent with."""
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
        """Whether the journal was asked, and nobody else of this process may send it until `release`."""
        self._is_from_here = False
        """Whether all that the journal knows of it was told from here; for its thread."""
        self.was_about_to_send = False
        """Whether `about_to_send` was called, whatever came of it."""
        self.is_new = False
        """Whether the key was made for this, since the last take-over, and never sent: then no journal can have lost it."""
        self._is_released = False
        self._told: _Told | None = None
        self._goes_without = False
        """Whether it was sent without the journal, which hears of it as soon as it can."""

    @property
    def is_overtaken(self) -> bool:
        """Whether somebody else may have sent it since it was known here that nobody had: it has to be claimed anew."""
        return self._journal.times_taken_over != self.taken_over_before

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
            OperationCompletedError, KeyReusedError: it was sent, and is there.
            OperationBusyError: it is being sent at another place of this process.
            JournalUnavailableError, JournalLockedError, StateVersionError: the journal cannot tell.
        """

        def act(session: Session) -> Earlier | None:
            known = session.table.get(self._name)
            if known is not None and known.is_completed:
                raise self._completed(known)
            if session.claims.take(self._name, self) is not None:
                raise OperationBusyError(self._name.operation, self._key)
            self.is_claimed = True
            if known is None and self._may_be_lost:
                session.tell(Kind.SEND, self._lost())
                known = session.table.get(self._name)
            return None if known is None else self._earlier(known, is_under_way)

        return await self._journal.ask(act)

    def claim_at_once(self, *, is_under_way: Callable[[], bool]) -> Earlier | None:
        """
        As `claim`, by what stands in memory: no disk that is slow or fails keeps from knowing what this process did.

        None also where only the disk knows more: then the first `about_to_send` finds it out.

        Raises:
            OperationCompletedError, KeyReusedError, OperationBusyError: see `claim`.
        """
        claims = self._journal.claims
        told: _Told | None = None
        while (holder := claims.take(self._name, self)) is not None:
            told = holder._told if isinstance(holder, Sending) else None
            if isinstance(holder, Sending) and told is not None and told.outcome == "there":
                raise self._is_there_already(holder._known_arguments, told.result)
            if not isinstance(holder, Sending) or not holder._is_released:
                raise OperationBusyError(self._name.operation, self._key)
            if claims.take(self._name, self, instead_of=holder) is None:
                self._known_arguments, self._known_settle = holder._known_arguments, holder._known_settle
                self._known_details = holder._known_details
                # Until something else is told of it, all of that holds; and it is told behind what that one told.
                self._goes_without, self._told = holder._goes_without, told
                break  # whatever that one told is recorded before anything that is told from here
        if told is not None and told.outcome == "not there":
            return None
        if told is not None:
            self.is_claimed = True
            passed = None if told.counts_from is None else self._now().since(told.counts_from)
            differs = self._differs_from(self._known_arguments)
            return Earlier(
                passed or 0.0,
                is_there=told.is_known_there,
                differs=differs,
                settle=self._known_settle,
                details=self._known_details,
            )
        known = self._journal.known(self._name)
        if known is None and self._may_be_lost:
            body = self._lost()
            self._tell(lambda session: session.tell(Kind.SEND, body))
            known = OperationEntry(self._name, body)
        if known is None:
            return None
        if known.is_completed:
            raise self._completed(known)
        self.is_claimed = True
        return self._earlier(known, is_under_way)

    def _completed(self, known: OperationEntry) -> Exception:
        return self._is_there_already(known.body.get("arguments"), self._result_of(known))

    def _is_there_already(self, arguments: object, result: object) -> Exception:
        differs = self._differs_from(arguments)
        if differs:
            return self.reused(differs, result)
        return OperationCompletedError(self._name.operation, self._key, result)

    def reused(self, differs: tuple[str, ...], result: object) -> KeyReusedError:
        """The error for whoever wanted to send something else: *differs*, and *result* is the order that has the key."""
        return KeyReusedError(self._name.operation, self._key, result, differs, self._service_name)

    def _differs_from(self, arguments: object) -> tuple[str, ...]:
        return differing(arguments, self._arguments, only=self._compared)

    @property
    def _may_be_lost(self) -> bool:
        journal = self._journal
        return (journal.has_lost_something or self._name in journal.pending_elsewhere) and not self.is_new

    def _lost(self) -> dict[str, Any]:  # Any: frozen values
        """It may have been sent by an earlier life, or another owner, of which this journal does not know."""
        now, journal = self._now(), self._journal
        noticed = journal.loss_noticed
        if journal.lost is not None or self._name in journal.pending_elsewhere:
            noticed = journal.loss_noticed = noticed or now
        elif self._since_taken_over(now) is not None and journal.owned_elsewhere is not None:
            noticed = journal.owned_elsewhere.since
        noticed = noticed or now
        return {
            **self._body(),
            **self._settles(),
            "service": self._service_name,
            "at": noticed.wall,
            "sent_at": noticed.wall,
            "counts_from": noticed.as_dict(),
        }

    def _since_taken_over(self, now: Moment) -> float | None:
        """Seconds since this process, or an earlier life, took over from another journal's owner; None: it never did."""
        elsewhere = self._journal.owned_elsewhere
        if elsewhere is None:
            return None
        passed = None if elsewhere.since is None else now.since(elsewhere.since)
        if passed is None:
            # At an earlier start of the machine: before this life, and that is all that can be told.
            self._journal.taken_over_by(now)
        return passed or 0.0

    @property
    def is_news(self) -> bool:
        """Whether it turned out meanwhile that the key is known, and nobody has claimed it knowingly."""
        return not self.is_claimed and self._journal.known(self._name) is not None

    def _earlier(self, known: OperationEntry, is_under_way: Callable[[], bool]) -> Earlier:
        now = self._now()
        counts_from = Moment.from_dict(known.body.get("counts_from"))
        passed = None if counts_from is None else now.since(counts_from)
        if passed is None and not self.is_left_behind and not is_under_way():
            self._seen(now)
        self._known_arguments = arguments = known.body.get("arguments")
        self._known_settle = max(0.0, _seconds(known.body.get("settle")) or 0.0)
        taken_over = self._since_taken_over(now)
        if taken_over is not None and passed is not None and taken_over <= passed:
            # Whoever owned the account until then may have sent it, too, and be at it still.
            passed = taken_over
            self._known_settle = max(self._known_settle, self._settle or 0.0) + self._lasts
        self._known_details = self._details_of(known)
        return Earlier(
            passed or 0.0,
            is_there=known.body.get("effect") == "done",
            differs=self._differs_from(arguments),
            settle=self._known_settle,
            details=self._known_details,
        )

    def _details_of(self, known: OperationEntry) -> Mapping[str, Any]:  # Any: the user's own values
        try:
            details = self._values.thaw(known.body.get("details"))
        except (UnknownTypeError, MalformedValueError) as error:
            _log.warning(
                "the details of %s %r cannot be restored: %s", self._name.operation, self._key, error
            )
            why = str(error)
        else:
            if details != ELSEWHERE:
                return details if isinstance(details, dict) else {}
            why = "they are in the journal of another machine"
        # Those that it is given with now are of the same order.
        return LostDetails(why) if self._details is None else {}

    def _seen(self, at: Moment) -> None:
        # By itself, so that a disk that takes nothing keeps nobody from looking it up.
        body = {**self._body(), "at": at.wall, "counts_from": at.as_dict()}
        self._tell(lambda session: session.tell(Kind.SEEN, body))

    def _result_of(self, entry: OperationEntry) -> Any:  # Any: the user's value
        try:
            return self._values.thaw(entry.body.get("result"))
        except (UnknownTypeError, MalformedValueError):
            return None

    async def about_to_send(
        self, *, at_most_for: float | None, even_without_space: bool, is_told_again: bool = False
    ) -> Moment | None:
        """
        Have it durable that it may be under way from now on, for *at_most_for* seconds; None: nobody knows.

        An attempt of which that *is_told_again*, since it would have begun too late, counts once in a rate limit.

        Returns the moment that the journal was told: later lives count from it, whatever time the disk took. Whoever
        would be under way for longer has to tell the journal again before it is sent.

        Raises:
            NotFreshError: it was not claimed, and it is known or may be lost; nothing was written.
            JournalUnavailableError, JournalLockedError, StateVersionError: it is not.
        """

        def act(session: Session) -> Moment | None:
            if not self.is_claimed:
                self._claim_fresh(session)
            now = self._now()
            body = {**self._sent(now, at_most_for), **self._detailed()}
            if is_told_again:
                body.pop("weight", None)
            session.require(Kind.SEND, body, even_without_space=even_without_space)
            self._remember_which(session)
            return None if at_most_for is None else now.later(at_most_for)

        self.was_about_to_send = True
        return await self._journal.ask(act)

    def sends_all_the_same(self, *, at_most_for: float | None) -> None:
        """It is sent although `about_to_send` did not succeed. That has happened, and is an outcome; never waits."""
        self._goes_without = True
        body = self._sent(self._now(), at_most_for)

        def act(session: Session) -> None:
            known = session.table.get(self._name)
            if known is None:
                session.tell(Kind.SEND, {**body, **self._detailed()})
                self.is_claimed = self._is_from_here = True
            elif not known.is_completed:
                # What was asked for may have been recorded by now, and be taken back if the disk refuses: not this.
                session.tell(Kind.INTERRUPT, {**body, **self._detailed(), "why": None})
            self._remember_which(session)

        self._tell(act)

    def _sent(self, now: Moment, at_most_for: float | None) -> dict[str, Any]:  # Any: frozen values
        until = now.later(at_most_for or 0.0)
        self._known_arguments, self._known_settle = self._arguments, self._settle or 0.0
        self._known_details = {} if self._details is None else self._details.values
        return {
            **self._body(),
            **self._settles(),
            **({} if self._arguments is None else {"arguments": self._arguments}),
            **({} if self._weight is None else {"weight": self._weight, "counts_for": self._counts_for}),
            "service": self._service_name,
            "at": now.wall,
            "sent_at": until.wall,
            "counts_from": None if at_most_for is None else until.as_dict(),
        }

    def _detailed(self) -> dict[str, Any]:  # Any: frozen values
        # In the journal's thread, which alone may look inside.
        return {} if self._details is None else {"details": self._details.frozen.values()}

    def _remember_which(self, session: Session) -> None:
        known = session.table.get(self._name)
        self._which = 0 if known is None else known.times_begun

    def _claim_fresh(self, session: Session) -> None:
        known = session.table.get(self._name)
        if known is not None or self._may_be_lost or session.claims.take(self._name, self) is not None:
            raise NotFreshError
        self.is_claimed = self._is_from_here = True

    def outcome_unknown(self, why: str, at: Moment, *, is_over: bool, is_there: bool = False) -> None:
        """
        It may have been under way until *at*, and if not *is_over* it still may be; never waits.

        With *is_there*, the other side said that it has this key already.
        """
        self._told = _Told("unknown", counts_from=at if is_over else None, is_known_there=is_there)
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
        self._told = _Told("there", result)
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
        was_claimed = self.is_claimed
        if was_claimed:
            self._told = _Told("not there")

        def act(session: Session) -> None:
            # Not what an earlier life left, if nobody had asked for it, whoever asks until this is heard.
            if (was_claimed or self._is_from_here) and session.table.get(self._name) is not None:
                self._abandon(session)

        self._tell(act)

    def _abandon(self, session: Session) -> None:
        session.tell(Kind.END, {**self._body(), "status": "abandoned", "at": self._now().wall})

    def release(self) -> None:
        """Whatever is known of it stays; another place may claim it. Never waits."""
        self._is_released = True
        self._journal.tell(self._give_back, needs_open=False, until_heard=self._goes_without)

    def _give_back(self, session: Session) -> None:
        # Behind all that was told: until then, whoever asks for the key asks `self`.
        session.claims.give_back(self._name, self)

    def _settles(self) -> dict[str, float]:
        return {} if self._settle is None else {"settle": self._settle}

    def _body(self) -> dict[str, Any]:  # Any: frozen values
        return {"operation": self._name.operation, "key": self._key}

    def _tell(self, act: Act[None], *, needs_open: bool = True) -> None:
        if self._life is self._journal.life:  # in a forked child, the parent has it to tell
            self._journal.tell(act, needs_open=needs_open, until_heard=self._goes_without)
