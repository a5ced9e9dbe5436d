"""
A durable operation as users hold it: known after a crash, and resumed from its last checkpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType, TracebackType
from typing import Any, Self

from shockproof.memory.journal.journal import Act, Journal, Session
from shockproof.memory.journal.journalled_values import JournalledValues
from shockproof.memory.journal.operation_table import Name, OperationEntry
from shockproof.memory.journal.record import Kind
from shockproof.memory.state.codec import MalformedValueError, UnknownTypeError
from shockproof.vocabulary.arguments import NOT_GIVEN
from shockproof.vocabulary.errors import (
    JournalUnavailableError,
    OperationBusyError,
    OperationCompletedError,
    StateVersionError,
)
from shockproof.vocabulary.event_loop import require_running_loop

__all__ = ["Operation", "pending_operation", "with_pending"]

RESERVED = ("operation", "key", "status")
"""What stands beside the progress in ``active_operations``."""


class Operation:
    """
    ``async with recovery.operation("rebalance", key="2026-11-23") as op:`` - durable: known after a crash.

    How the block is left decides what is known of it:

    * It comes to its end: the operation is completed, durable before the next line runs.
    * It raises, or is cancelled: the operation stays pending with the reason, and the error passes
      unchanged. The next ``operation`` with this name and key goes on from the last checkpoint.
    * The program dies: the same, without a reason.
    * `abandon` was called: it is given up, and may begin again from nothing.
    """

    def __init__(
        self,
        journal: Journal,
        values: JournalledValues,
        name: str,
        key: str | None,
        service_name: str,
        details: Mapping[str, object],
        *,
        now: Callable[[], float],
        redact: Callable[[str], str],
    ) -> None:
        self.name = name
        self.key = key
        self.result: object = None
        """What a later ``operation`` with this key finds on its OperationCompletedError; set it in the block."""
        self._journal = journal
        self._values = values
        self._service_name = service_name
        self._details: dict[str, Any] = dict(details)  # Any: the user's values
        self._progress: dict[str, Any] = {}  # Any: the user's values
        self._resumed = False
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
    def details(self) -> dict[str, Any]:  # Any: the user's values
        """What it was begun with; of a resumed one, what it was begun with the first time."""
        return dict(self._details)

    async def __aenter__(self) -> Self:
        """
        Begin, or go on; returns when that is durable.

        Raises:
            OperationCompletedError: an operation with this key was completed.
            OperationBusyError: it is running at another place of this process.
            JournalUnavailableError, JournalLockedError: it cannot be made durable; the block does not run.
            StateVersionError: a newer program wrote the journal, or what it holds of this operation.
            UnsavableValueError: the details hold a value that could not come back.

        Cancelled, the block does not run, and nothing new is pending.
        """
        require_running_loop()
        if self._life is not None:
            raise RuntimeError(
                f"operation {self.name!r} is entered already: make one with operation(...) for each block"
            )
        frozen = self._values.freeze_details(self._details)
        self._life = self._journal.life
        try:
            self._details, self._progress, self._resumed = await self._journal.ask(
                lambda session: self._begin(session, frozen.values())
            )
        except asyncio.CancelledError:
            self._journal.tell(self._never_ran)
            self._life = None
            raise
        except BaseException:
            self._life = None
            raise
        return self

    def _begin(self, session: Session, details: Any) -> Any:  # Any: frozen values; what __aenter__ unpacks
        name = Name(self.name, self.key)
        if session.claims.holder_of(name) is not None:
            raise OperationBusyError(self.name, self.key)
        known = session.table.get(name)
        if known is not None and known.is_completed:
            raise OperationCompletedError(self.name, self.key, self._thawed(known.body.get("result")))
        begun = {} if known is None else known.body
        resumed_with = self._thawed(begun.get("details", details)), self._thawed(begun.get("progress", {}))
        session.require(
            Kind.BEGIN,
            {
                "operation": self.name,
                "key": self.key,
                "service": self._service_name,
                "details": details,
                "at": self._now(),
            },
        )
        if session.claims.take(name, self) is not None:
            raise OperationBusyError(self.name, self.key)
        session.take_back.append(lambda: session.claims.give_back(name, self))
        return *resumed_with, known is not None

    def _never_ran(self, session: Session) -> None:
        name = Name(self.name, self.key)
        if session.claims.give_back(name, self):
            entry = session.table.get(name)
            if entry is not None and not entry.is_completed and entry.body.get("begun") == 1:
                session.tell(Kind.END, {"operation": self.name, "key": self.key, "status": "abandoned"})

    def _thawed(self, frozen: Any) -> Any:  # Any: frozen values, and the user's
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
            JournalUnavailableError: it is not durable; `progress` is what it was.
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

        def act(session: Session) -> Any:  # Any: the user's values
            values = frozen.values()
            session.require(
                Kind.CHECKPOINT,
                {"operation": self.name, "key": self.key, "progress": values, "at": self._now()},
            )
            return self._values.thaw(values)

        self._progress = await self._journal.ask(act)

    def abandon(self) -> None:
        """
        Give the operation up: however the block is left, it is not pending afterwards, and nothing is
        remembered of it.
        """
        self._require_running("abandon()")
        self._is_abandoned = True

    def _require_running(self, what: str) -> None:
        if self._life is None:
            raise RuntimeError(
                f"{what} belongs inside of the block: async with recovery.operation({self.name!r}) as op"
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
                memory and writes it when it can; after a crash before that it is pending.
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
            await self._journal.ask(end)
        finally:
            self._life = None

    def _tell(self, act: Act[None]) -> None:
        if self._life is self._journal.life:  # in a forked child, the parent has it to tell
            self._journal.tell(act)

    def _end(self, status: str, result: Callable[[], Any]) -> Act[None]:  # Any: frozen values
        def act(session: Session) -> None:
            session.claims.give_back(Name(self.name, self.key), self)
            body = {"operation": self.name, "key": self.key, "status": status, "at": self._now()}
            if status == "completed":
                body["result"] = result()
            session.tell(Kind.END, body)
            session.is_to_sync = True

        return act

    def _interrupt(self, error: BaseException) -> Act[None]:
        text = _described(error, self._redact)

        def act(session: Session) -> None:
            session.claims.give_back(Name(self.name, self.key), self)
            session.tell(
                Kind.INTERRUPT, {"operation": self.name, "key": self.key, "why": text, "at": self._now()}
            )

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
    shown = {"operation": entry.name.operation, "key": entry.name.key, "status": "pending"}
    try:
        return {**shown, **values.thaw(entry.body.get("progress", {}))}
    except (UnknownTypeError, MalformedValueError) as error:
        # One that cannot be restored must not hide the others.
        return {**shown, "error": str(error)}


def with_pending(
    saved: Iterable[dict[Any, Any]], pending: Sequence[dict[str, Any]]
) -> list[dict[Any, Any]]:  # Any: the user's own values
    """``active_operations`` as restored: those that were saved, then those that are pending in the journal."""
    # What an earlier restore gave, and the program has saved again, the journal knows better.
    told = {(one["operation"], one["key"]) for one in pending}
    return [*(one for one in saved if not _is_in_the_journal(one, told)), *pending]


def _is_in_the_journal(
    operation: Mapping[Any, Any], told: set[tuple[str, str | None]]
) -> bool:  # Any: the user's own
    named = operation.get("operation"), operation.get("key", NOT_GIVEN)
    return (
        operation.get("status") == "pending"
        and all(type(one) in (str, NoneType) for one in named)
        and named in told
    )
