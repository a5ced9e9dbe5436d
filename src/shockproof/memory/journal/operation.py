"""
A durable operation as users hold it: known after a crash, and resumed from its last checkpoint.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from types import NoneType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from shockproof.memory.journal.name import Name
from shockproof.memory.journal.record import Kind
from shockproof.memory.journal.risk_reducing import NO_JOURNAL, PATIENCE
from shockproof.vocabulary.arguments import NOT_GIVEN
from shockproof.vocabulary.errors import (
    JournalUnavailableError,
    OperationBusyError,
    OperationCompletedError,
    StateVersionError,
)
from shockproof.vocabulary.event_loop import require_running_loop

# What this imports is loaded on a loop, where an operation is the first thing a program does: the journal is not.
if TYPE_CHECKING:
    from shockproof.memory.journal.journal import Act, Journal, Session
    from shockproof.memory.journal.journalled_values import FrozenValues, JournalledValues
    from shockproof.memory.journal.operation_table import OperationEntry, OperationTable

__all__ = ["Operation", "name_of_pending", "pending_operation", "saved_but_ended", "with_pending"]

RESERVED = ("operation", "key", "status")
"""What stands beside the progress in ``active_operations``."""


class _Begun(NamedTuple):
    """What a block begins with."""

    details: dict[str, Any]  # Any, here and below: the user's values
    progress: dict[str, Any]  # Any: as the journal keeps it, plain values
    is_resumed: bool
    taken_over: float | None
    """The take-over that was the last one when it began; None: there was none, or nobody knows."""


class _Left(NamedTuple):
    """How a block was left, for those of this process who ask before the journal has recorded it."""

    is_completed: bool
    begun: _Begun | None = None
    """What the next block goes on from; None: it begins from nothing."""
    result: object = None


class _Block:
    """One time that the block is entered, for what its own tasks and threads record of it."""

    __slots__ = ("has_ended", "is_new")

    def __init__(self) -> None:
        self.has_ended = False
        """In the journal: a checkpoint behind that would make it pending again."""
        self.is_new = False
        """In the journal: nothing was known of the operation before."""


class Operation:
    """
    ``async with recovery.operation("rebalance", key="2026-11-23") as op:`` - durable: known after a crash.

    How the block is left decides what is known of it:

    * It comes to its end: the operation is completed, durable before the next line runs.
    * It raises, or is cancelled: the operation stays pending with the reason, and the error passes
      unchanged. The next ``operation`` with this name and key goes on from the last checkpoint.
    * The program dies: the same, without a reason.
    * `abandon` was called: it is given up, and may begin again from nothing.

    With ``risk_reducing`` the block runs and goes on whatever the disk does, and what is known of it is durable
    when the disk is there again.
    """

    def __init__(
        self,
        opened: Callable[[], Awaitable[tuple[Journal, JournalledValues]]],
        name: str,
        key: str | None,
        service_name: str,
        details: Mapping[str, object],
        *,
        now: Callable[[], float],
        redact: Callable[[str], str],
        goes_without: Callable[[Exception], None] | None = None,
    ) -> None:
        self._goes_without = goes_without
        """Told why it goes on without the journal, which is for what reduces risk; None: it does not."""
        self._is_without = False
        self._waits_in_vain = False
        """Whether the disk was asked in vain, and has not come to it yet."""
        self._left: _Left | None = None
        self._block = _Block()
        self._found: _Begun | None = None
        """What it goes on from, by what stands in memory."""
        self._is_behind = False
        """Whether the journal may have to hear first of what went without it."""
        self.name = name
        self.key = key
        self.result: object = None
        """What a later ``operation`` with this key finds on its OperationCompletedError; set it in the block."""
        self._opened = opened
        """Gives where it is recorded, and in which form, once both are loaded."""
        self._journal: Journal
        self._values: JournalledValues
        self._service_name = service_name
        self._details: dict[str, Any] = dict(details)  # Any: the user's values
        self._progress: dict[str, Any] = {}  # Any: the user's values
        self._resumed = False
        self._may_have_run = False
        self._taken_over: float | None = None
        self._is_abandoned = False
        self._life: object = None
        """The life of the journal that this block was entered in; None outside of it."""
        self._now = now
        self._redact = redact

    def __repr__(self) -> str:
        return f"<Operation {self.name!r} key={self.key!r} progress={self._progress!r}>"

    @property
    def progress(self) -> dict[str, Any]:  # Any: the user's values
        """The last checkpoint; ``{}`` before the first."""
        return dict(self._progress)

    @property
    def resumed(self) -> bool:
        """Whether it began earlier and did not come to its end."""
        return self._resumed

    @property
    def may_have_run(self) -> bool:
        """
        Whether it may have begun, gone on, or been completed, although the journal does not know of it: something of that is
        missing, or another owner with another journal had the account.

        It goes on from what the journal knows all the same: from nothing, or, where it was pending here when the account was
        taken over, from its last checkpoint here. An order in it that is sent by `Handle.once` with a key of yours is looked up first.
        """
        return self._may_have_run

    @property
    def details(self) -> dict[str, Any]:  # Any: the user's values
        """What it was begun with; of a resumed one, what it was begun with the first time."""
        return dict(self._details)

    async def __aenter__(self) -> Self:
        """
        Begin, or go on; returns when that is durable.

        Raises:
            OperationCompletedError: an operation with this key was completed.
            OperationBusyError: it is running at another place of this process.
            JournalUnavailableError, JournalLockedError: it cannot be made durable; the block does not run. Not with
                ``risk_reducing``.
            StateVersionError: a newer program wrote the journal, or what it holds of this operation. As above.
            UnsavableValueError: the details hold a value that could not come back.

        Cancelled, the block does not run, and nothing new is pending.
        """
        require_running_loop()
        self._journal, self._values = await self._opened()
        if self._life is not None:
            raise RuntimeError(
                f"operation {self.name!r} is entered already: make one with operation(...) for each block"
            )
        frozen = self._values.freeze_details(self._details)
        self._life = self._journal.life
        self._left = self._found = None
        self._block = _Block()
        try:
            if self._goes_without is None:
                begun = await self._journal.ask(lambda session: self._begin(session, frozen.values()))
            else:
                begun = await self._begin_whatever_the_disk_does(frozen)
        except asyncio.CancelledError:
            self._left = _Left(is_completed=False, begun=self._found)
            # Claimed at once, it has to be given back whatever the disk does.
            self._journal.tell(
                self._never_ran, needs_open=self._goes_without is None, until_heard=self._is_behind
            )
            self._life = None
            raise
        except BaseException:
            if self._goes_without is not None:
                self._journal.claims.give_back(Name(self.name, self.key), self)
            self._life = None
            raise
        self._details, self._progress, self._resumed, self._taken_over = begun
        self._may_have_run = (
            self._was_owned_elsewhere(begun) if begun.is_resumed else self._journal.has_lost_something
        )
        return self

    def _was_owned_elsewhere(self, begun: _Begun) -> bool:
        """Whether another journal's owner may have gone on with it since it had begun here."""
        elsewhere = self._journal.owned_elsewhere
        if elsewhere is None:
            return False
        return elsewhere.since is None or elsewhere.since.wall != begun.taken_over

    @property
    def _last_take_over(self) -> float | None:
        """What tells it from those before: its wall time, which is compared with nothing but itself."""
        elsewhere = self._journal.owned_elsewhere
        return None if elsewhere is None or elsewhere.since is None else elsewhere.since.wall

    def _begin(self, session: Session, details: Any) -> _Begun:  # Any: frozen values
        name = Name(self.name, self.key)
        if session.claims.holder_of(name) not in {None, self}:
            raise OperationBusyError(self.name, self.key)
        known = session.table.get(name)
        begun = self._known(known, details)
        reduces_risk = self._goes_without is not None
        session.require(
            Kind.BEGIN,
            self._beginning(details),
            even_without_space=reduces_risk,
        )
        self._block.is_new = known is None
        if session.claims.take(name, self) is not None:
            raise OperationBusyError(self.name, self.key)
        if not reduces_risk:
            session.take_back.append(lambda: session.claims.give_back(name, self))
        return begun

    def _known(self, known: OperationEntry | None, details: Any) -> _Begun:  # Any: as above
        if known is not None and known.is_completed:
            raise OperationCompletedError(self.name, self.key, self._thawed(known.body.get("result")))
        body = {} if known is None else known.body
        taken_over = self._last_take_over if known is None else body.get("taken_over")
        return _Begun(
            self._thawed(body.get("details", details)),
            self._thawed(body.get("progress", {})),
            known is not None,
            taken_over,
        )

    def _beginning(self, details: Any) -> dict[str, Any]:  # Any: frozen values
        """Of one that is known already, the journal keeps what it was begun with the first time."""
        body, taken_over = self._body(details=details, service=self._service_name), self._last_take_over
        return body if taken_over is None else {**body, "taken_over": taken_over}

    def _body(self, **more: Any) -> dict[str, Any]:  # Any: frozen values
        return {"operation": self.name, "key": self.key, **more, "at": self._now()}

    async def _begin_whatever_the_disk_does(self, frozen: FrozenValues) -> _Begun:
        begun = self._claim_at_once()
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._journal.ask(lambda session: self._begin(session, frozen.values()))
        except NO_JOURNAL as error:
            self._goes_on(error)
        details = self._values.freeze_details(
            self._details
        )  # what was asked for may look at the others at this moment

        def act(session: Session) -> None:
            known = session.table.get(Name(self.name, self.key))
            if known is None:
                session.tell(Kind.BEGIN, self._beginning(details.values()))
            elif not known.is_completed:
                # It may have been recorded by now, and be taken back if the disk refuses: not this.
                session.tell(Kind.INTERRUPT, self._body(why=None))
            self._waits_in_vain = False

        self._tell(act)
        if begun is not None:
            return begun
        return _Begun(dict(self._details), {}, is_resumed=False, taken_over=self._last_take_over)

    def _claim_at_once(self) -> _Begun | None:
        """
        Be the only one of this process, by what stands in memory; what it goes on from, as far as that is known.

        Raises:
            OperationCompletedError, OperationBusyError: see `__aenter__`.
        """
        name, claims = Name(self.name, self.key), self._journal.claims
        while (holder := claims.take(name, self)) is not None:
            left = holder._left if isinstance(holder, Operation) else None
            if left is None:
                raise OperationBusyError(self.name, self.key)
            if left.is_completed and self.key is not None:
                raise OperationCompletedError(self.name, self.key, left.result)
            if claims.take(name, self, instead_of=holder) is None:
                self._found = left.begun
                self._is_behind = isinstance(holder, Operation) and holder._is_behind
                return left.begun
        try:
            known = self._journal.known(name)
            return None if known is None else self._known(known, None)
        except StateVersionError:
            return None  # the journal says so, too
        except BaseException:
            claims.give_back(name, self)
            raise

    def _goes_on(self, error: Exception) -> None:
        self._waits_in_vain = self._waits_in_vain or isinstance(error, TimeoutError)
        if not self._is_without and self._goes_without is not None:
            self._is_without = self._is_behind = True
            self._goes_without(error)

    def _never_ran(self, session: Session) -> None:
        name = Name(self.name, self.key)
        if session.claims.give_back(name, self):
            entry = session.table.get(name)
            # Not what an earlier life left, and the disk has not taken that it began again.
            if self._block.is_new and entry is not None and not entry.is_completed:
                session.tell(Kind.END, {"operation": self.name, "key": self.key, "status": "abandoned"})

    def _thawed(self, frozen: Any) -> Any:  # Any: frozen values, and the user's
        from shockproof.memory.state.codec import MalformedValueError, UnknownTypeError

        try:
            return self._values.thaw(frozen)
        except UnknownTypeError as error:
            raise StateVersionError(
                f"operation {self.name!r} with key {self.key!r} cannot be restored from the journal: {error}"
            ) from error
        except MalformedValueError as error:
            raise StateVersionError(
                f"operation {self.name!r} with key {self.key!r} cannot be read from the journal: {error}"
            ) from error

    async def checkpoint(self, **progress: Any) -> None:  # Any: the user's values
        """
        Make *progress* what is known of this operation after a crash; returns when it is durable.

        It takes the place of the checkpoint before. Values are those of the state: plain ones, Decimal,
        datetime, registered types, and so on.

        Raises:
            JournalUnavailableError: it is not durable; `progress` is what it was. Not with ``risk_reducing``: then it
                counts, and is durable later.
            UnsavableValueError: a value could not come back.
            ValueError: more than a megabyte, or a name that ``active_operations`` has a meaning for.
            RuntimeError: outside of the block.

        Cancelled while it waits, the checkpoint may be known after a crash or not.
        """
        self._require_running("checkpoint()")
        self._require_this_process()
        for name in RESERVED:
            if name in progress:
                raise ValueError(
                    f"checkpoint({name}=...) would hide what active_operations says: give it another name"
                )
        frozen = self._values.freeze("progress", progress)
        block = self._block

        def act(session: Session) -> Any:  # Any: the user's values
            if block.has_ended:
                raise self._outside("checkpoint()")
            values = frozen.values()
            even_without_space = self._goes_without is not None
            session.require(
                Kind.CHECKPOINT, self._body(progress=values), even_without_space=even_without_space
            )
            return self._values.thaw(values)

        if self._goes_without is None:
            self._progress = await self._journal.ask(act)
        else:
            await self._checkpoint_whatever_the_disk_does(act, progress)

    async def _checkpoint_whatever_the_disk_does(
        self, act: Act[dict[str, Any]], progress: dict[str, Any]
    ) -> None:  # Any: the user's values
        frozen = self._values.freeze("progress", progress)  # as above
        block = self._block
        if not self._waits_in_vain:
            try:
                async with asyncio.timeout(PATIENCE):
                    self._progress = await self._journal.ask(act)
                    return
            except NO_JOURNAL as error:
                self._goes_on(error)

        def told(session: Session) -> None:
            if not block.has_ended:
                session.tell(Kind.CHECKPOINT, self._body(progress=frozen.values()))
            self._waits_in_vain = False

        self._tell(told)
        self._progress = copy.deepcopy(progress)

    def abandon(self) -> None:
        """
        Give the operation up: however the block is left, it is not pending afterwards, and nothing is
        remembered of it.
        """
        self._require_running("abandon()")
        self._is_abandoned = True

    def _require_running(self, what: str) -> None:
        if self._life is None or self._left is not None:
            raise self._outside(what)

    def _outside(self, what: str) -> RuntimeError:
        return RuntimeError(
            f"{what} belongs inside of the block: async with recovery.operation({self.name!r}) as op. "
            "What the block has begun, such as a task, it has to await"
        )

    def _require_this_process(self) -> None:
        if self._life is not self._journal.life:
            raise JournalUnavailableError(
                f"operation {self.name!r} belongs to the process that this one was forked from: "
                "only that one can record it"
            )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """
        End it as the class says.

        Raises:
            JournalUnavailableError: it came to its end, and that is not durable: the journal still holds it in
                memory and writes it when it can; after a crash before that it is pending. Not with ``risk_reducing``.
            UnsavableValueError: the result could not come back; the operation stays pending.
        """
        try:
            if error is not None:
                self._tell(
                    self._end("abandoned", lambda: None) if self._is_abandoned else self._interrupt(error)
                )
                return
            try:
                frozen = self._values.freeze("result", None if self._is_abandoned else self.result)
            except BaseException as unsavable:
                self._tell(self._interrupt(unsavable))
                raise
            self._require_this_process()
            end = self._end("abandoned" if self._is_abandoned else "completed", frozen.values)
            if self._goes_without is None:
                await self._journal.ask(end)
            else:
                await self._end_whatever_the_disk_does(end)
        finally:
            self._life = None

    async def _end_whatever_the_disk_does(self, end: Act[None]) -> None:
        is_heard = False

        def act(session: Session) -> None:
            nonlocal is_heard
            if not is_heard:
                is_heard = True
                end(session)

        if self._waits_in_vain:
            self._tell(act)
            return
        try:
            async with asyncio.timeout(PATIENCE):
                await self._journal.ask(act)
        except NO_JOURNAL as error:
            self._goes_on(error)
            # An end that was heard has happened, durable or not. A journal that could not be opened has not heard it.
            self._tell(act)

    def _tell(self, act: Act[None]) -> None:
        if self._life is self._journal.life:  # in a forked child, the parent has it to tell
            self._journal.tell(act, until_heard=self._is_behind)

    def _end(self, status: str, result: Callable[[], Any]) -> Act[None]:  # Any: frozen values
        self._left = _Left(status == "completed", result=self.result)
        block = self._block

        def act(session: Session) -> None:
            block.has_ended = True
            session.claims.give_back(Name(self.name, self.key), self)
            body = self._body(status=status)
            if status == "completed":
                body["result"] = result()
            session.tell(Kind.END, body)
            session.is_to_sync = True

        return act

    def _interrupt(self, error: BaseException) -> Act[None]:
        text = _described(error, self._redact)
        begun = _Begun(self._details, self._progress, is_resumed=True, taken_over=self._taken_over)
        self._left = _Left(is_completed=False, begun=begun)
        block = self._block

        def act(session: Session) -> None:
            block.has_ended = True
            session.claims.give_back(Name(self.name, self.key), self)
            session.tell(Kind.INTERRUPT, self._body(why=text))

        return act


_MOST_TEXT = 500


def _described(error: BaseException, redact: Callable[[str], str]) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  the user's own __str__
        text = ""
    return redact(f"{type(error).__name__}: {text}"[:_MOST_TEXT].removesuffix(": "))


def pending_operation(entry: OperationEntry, values: JournalledValues) -> dict[str, Any]:  # Any: the user's
    """An operation as ``active_operations`` shows it. For the journal's thread."""
    from shockproof.memory.state.codec import MalformedValueError, UnknownTypeError

    shown = {"operation": entry.name.operation, "key": entry.name.key, "status": "pending"}
    try:
        return {**shown, **values.thaw(entry.body.get("progress", {}))}
    except (UnknownTypeError, MalformedValueError) as error:
        # One that cannot be restored must not hide the others.
        return {**shown, "error": str(error)}


def with_pending(
    saved: Iterable[dict[Any, Any]],
    pending: Sequence[dict[str, Any]],
    ended: Collection[tuple[str, str | None]] = (),
) -> list[dict[Any, Any]]:  # Any: the user's own values
    """``active_operations`` as restored: those that were saved, then those that are *pending* in the journal."""
    # What an earlier restore gave, and the program has saved again, the journal knows better.
    known = {*ended, *((one["operation"], one["key"]) for one in pending)}
    return [*(one for one in saved if name_of_pending(one) not in known), *pending]


def saved_but_ended(
    saved: Iterable[Mapping[Any, Any]], table: OperationTable
) -> set[tuple[str, str | None]]:  # Any: the user's own values
    """Which of those that were saved as pending have come to their end by what the journal knows."""
    named = {name_of_pending(one) for one in saved} - {None}
    known = {name: table.get(Name(*name)) for name in named if name is not None}
    return {name for name, entry in known.items() if entry is not None and entry.is_completed}


def name_of_pending(operation: Mapping[Any, Any]) -> tuple[str, str | None] | None:  # Any: the user's own
    """The name and key of one that was saved in the form in which the journal's are restored."""
    name, key = operation.get("operation"), operation.get("key", NOT_GIVEN)
    # Exactly these: a subclass of str may compare as it likes.
    if operation.get("status") != "pending" or type(name) is not str or type(key) not in (str, NoneType):
        return None
    return name, key
