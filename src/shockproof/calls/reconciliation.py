"""
What earlier lives left under way: looked up before anything new of the same service is sent.
"""

from __future__ import annotations

import asyncio
import logging
import reprlib
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from shockproof.calls.confirm import Confirm, asked_of
from shockproof.calls.ways import WaysOfServices
from shockproof.memory.journal.journal import Journal
from shockproof.memory.journal.journalled_values import JournalledValues, KeptDetails
from shockproof.memory.journal.moments import moment_of
from shockproof.memory.journal.operation_table import OperationEntry
from shockproof.memory.journal.sending import Sending, is_sending, key_of, service_of
from shockproof.policies.confirmation import Confirmation, window_left
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.errors import OperationBusyError, OperationCompletedError
from shockproof.vocabulary.look_up import NOT_FOUND, UNKNOWN, Found, LookUp

__all__ = ["Reconciled", "Reconciliation", "look_up", "warn_of_contradiction"]

R = TypeVar("R")

_AT_ONCE: Final = 8
"""Questions for one service at a time. The settle windows of all keys run side by side."""
_IN_A_SECOND: Final = 32
"""Questions for one service while its windows are open, about."""
_BEGUN_AT_ONCE: Final = 32
"""Keys of one turn of the loop: about a millisecond, up to where each is with the journal."""
_LOOK_AGAIN: Final = 1.0
"""Seconds after which it is asked whether another thread's loop still runs."""

_log = logging.getLogger("shockproof")


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What became of one order that an earlier life left pending."""

    service_name: str
    key: str
    outcome: LookUp[Any]  # Any: what ``confirm`` found
    """``Found(...)``; NOT_FOUND: it is certain that there is none; UNKNOWN: it stays pending."""


class _Line:
    """
    The keys of one service that wait for their turn to be asked after.

    Nobody waits for ever: when no question has been answered for as long as one key is worth, those in the line
    give up. So a venue that is down costs the time of one key, however many there are.
    """

    def __init__(self, clock: Clock, keys: int) -> None:
        self._clock = clock
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._heard_at = float("-inf")
        self.at_least = keys / _IN_A_SECOND

    async def has_turn(self, questions: Confirmation) -> bool:
        """Wait; False: it is time to give up. Whoever has a turn `leaves`."""
        while (left := self._left(questions)) > 0:
            try:
                async with asyncio.timeout(left):
                    await self._places.acquire()
            except TimeoutError:
                continue  # there may have been answers meanwhile
            return True
        return False

    def _left(self, questions: Confirmation) -> float:
        gives_up_at = max(questions.gives_up_at, self._heard_at + questions.patience)
        return gives_up_at - self._clock.monotonic()

    def leaves(self, answer: LookUp[object]) -> None:
        """It was asked, and this is the answer."""
        if answer is not UNKNOWN:
            self._heard_at = self._clock.monotonic()
        self._places.release()


async def look_up(
    confirm: Confirm[R],
    key: str,
    *,
    closes_at: float,
    settle: float,
    clock: Clock,
    is_under_way: Callable[[], bool] = lambda: False,
    line: _Line | None = None,
) -> LookUp[R]:
    """
    Ask ``confirm`` until its answers prove something; UNKNOWN when they do not in time.

    As long as *is_under_way* an attempt was left behind and may still send it: the window begins behind that.

    An exception of ``confirm``, and one that takes too long, prove nothing; so does a CancelledError while nobody has
    cancelled the current task. The caller's cancellation passes.

    Raises:
        TypeError: it gave neither Found(...), NOT_FOUND nor UNKNOWN.
    """
    questions = Confirmation(
        closes_at=closes_at, settle=settle, at_least=0.0 if line is None else line.at_least
    )
    failures = _Failures(key)
    while True:
        if line is not None and not await line.has_turn(questions):
            return UNKNOWN
        answer: LookUp[R] = UNKNOWN
        try:
            begun = clock.monotonic()
            if is_under_way():
                questions.still_under_way(begun + settle)
            answer = await _answer(confirm, key, failures, within=questions.asks(begun))
        finally:
            if line is not None:
                line.leaves(answer)
        step = questions.answered(answer, clock.monotonic())
        if step == "found":
            return answer
        if step == "absent":
            return NOT_FOUND
        if step == "unproven":
            return UNKNOWN
        await clock.sleep(step)


class _Failures:
    """How the questions after one key failed: logged when it is another failure than before, and not each time."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._last = ""

    def tell(self, error: BaseException) -> None:
        how = f"{type(error).__name__} in {_place(error)}"
        if how != self._last:
            self._last = how
            _log.warning("confirm(%r) failed, which proves nothing: %s", self._key, how)


async def _answer(confirm: Confirm[R], key: str, failures: _Failures, *, within: float) -> LookUp[R]:
    answer: object
    task = asyncio.current_task()
    cancellations = 0 if task is None else task.cancelling()
    try:
        async with asyncio.timeout(within) as limit:
            question: object = confirm(key)
            is_async = isinstance(question, Awaitable)
            answer = await question if isinstance(question, Awaitable) else question
    except asyncio.CancelledError as error:
        if task is None or task.cancelling() > 0:
            raise
        # Nobody has cancelled the caller: what confirm awaited was cancelled, a connection's task for example.
        failures.tell(error)
        return UNKNOWN
    except Exception as error:
        if task is not None and task.cancelling() > cancellations:
            raise asyncio.CancelledError from error  # confirm has made an error of the caller's cancellation
        failures.tell(error)
        return UNKNOWN
    if not is_async:
        raise _NoAnswerError(
            f"confirm must be an async function of the key, and confirm({key!r}) gave {_shown(answer)} at once: "
            "the order stays pending, since nothing was proven"
        )
    if task is not None and task.cancelling() > cancellations:
        raise asyncio.CancelledError  # confirm has swallowed it
    if answer is NOT_FOUND and limit.expired():
        # It was cut off, and made the best of it: who has not seen everything has not seen that it is not there.
        failures.tell(TimeoutError())
        return UNKNOWN
    if isinstance(answer, Found) or answer is NOT_FOUND or answer is UNKNOWN:
        return answer
    raise _NoAnswerError(
        f"confirm({key!r}) must give Found(...), NOT_FOUND or UNKNOWN, got {_shown(answer)}: "
        "the order stays pending, since nothing was proven"
    )


def _shown(answer: object) -> str:
    """What confirm gave, cut short; one that cannot be shown is named by its class."""
    shown = reprlib.Repr()
    shown.maxother = shown.maxstring = shown.maxlong = 200
    return shown.repr(answer)


class _NoAnswerError(TypeError):
    """``confirm`` gave what is no answer."""


def warn_of_contradiction(service_name: str, key: str) -> None:
    """The venue said that it has the key, and ``confirm`` says that it does not: neither is believed."""
    _log.warning(
        "the venue has said that it has order %r of service %r, and confirm does not find it: it stays pending, and is "
        "not sent again; let confirm look at orders that are filled or cancelled, too",
        key,
        service_name,
    )


def _place(error: BaseException) -> str:
    """The line that raised *error*, to find it by: its text may hold what the venue, or a secret, says."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


class _UnderLookUp:
    """A key that somebody looks up, on a loop of this process."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.over: Future[None] = Future()
        self.came_to_its_end = False

    async def is_over(self) -> bool:
        """Wait; False: it runs on a loop of another thread, which has stopped in the middle of it."""
        over = asyncio.wrap_future(self.over)
        if asyncio.get_running_loop() is self._loop:
            await asyncio.wait({over})
            return True
        hold: Callable[[], AbstractContextManager[object]] = getattr(
            asyncio.get_running_loop(), "hold_time", nullcontext
        )
        with hold():
            while not over.done() and self._loop.is_running():
                await asyncio.wait({over}, timeout=_LOOK_AGAIN)
        return over.done()


class Reconciliation:
    """The orders of all services of one recovery service that are under way or were left so."""

    def __init__(
        self, journal: Journal, values: JournalledValues, clock: Clock, ways: WaysOfServices
    ) -> None:
        self._journal = journal
        self._values = values
        self._clock = clock
        self._ways = ways
        self._is_settled: dict[str, object] = {}
        """In which tenure of the journal: another process may have placed orders since it was given up."""
        self._looked_up: dict[tuple[object, str, str], _UnderLookUp] = {}
        """What is being looked up, in whatever thread, by the life of the journal, service and key."""
        self._tasks: dict[tuple[str, asyncio.AbstractEventLoop], asyncio.Task[list[Reconciled]]] = {}
        self._waiting: Counter[asyncio.Task[list[Reconciled]]] = Counter()
        """How many wait for each of them."""

    def sending(
        self,
        service_name: str,
        key: str,
        *,
        arguments: Mapping[str, object] | None = None,
        compared: Collection[str] | None = None,
        settle: float | None = None,
        weight: int | Mapping[str, int] | None = None,
        counts_for: float | None = None,
        details: KeptDetails | None = None,
        lasts: float = 0.0,
    ) -> Sending:
        """
        A way to tell the journal of one key.

        Args:
            service_name: whose order it is.
            key: its key.
            arguments: what it is to be sent with. None: whatever it was sent with is the same.
            compared: those of them that have to be the same as before. None: all.
            settle: seconds that the other side may take to show it. None: nothing is sent.
            weight: what each attempt counts in a rate limit. None: there is none.
            counts_for: seconds of the longest window of that.
            details: what it is journalled with, for whoever looks it up. None: nothing.
            lasts: seconds that an attempt of another owner may have been under way, at most. 0: nobody can tell.
        """
        told = None
        if arguments is not None:
            told = self._values.fingerprint(arguments, salt=f"{service_name}\0{key}")
        return Sending(
            self._journal,
            self._values,
            service_name,
            key,
            now=lambda: moment_of(self._clock),
            arguments=told,
            compared=compared,
            settle=settle,
            weight=weight,
            counts_for=counts_for,
            details=details,
            lasts=lasts,
        )

    def details(self, details: Mapping[str, object]) -> KeptDetails:
        """
        *details* of an order, as they are now.

        Raises:
            UnsavableValueError: one of them could not come back.
        """
        return self._values.keep(details)

    def are_settled(self, service_name: str) -> bool:
        """Whether `earlier_are_settled` has nothing to wait for any more."""
        return self._is_settled.get(service_name) is self._journal.tenure

    async def earlier_are_settled(self, service_name: str, *, but: str) -> None:
        """
        Wait until the orders were looked up that earlier lives left pending on this service.

        Those that cannot be proven stay pending, and hold nobody up a second time. *but* is left out: whoever
        sends it looks it up by itself. One look-up serves all who wait; whoever is cancelled only stops waiting.

        Raises:
            JournalUnavailableError, JournalLockedError: it cannot be known whether there are any.
        """
        loop = asyncio.get_running_loop()
        tenure = self._journal.tenure
        if self.are_settled(service_name):
            return
        task = self._tasks.get((service_name, loop))
        if task is None:
            left = [one for one in await self._pending() if one[0] == service_name and one[1] != but]
            task = self._tasks.get((service_name, loop))
            if task is None:
                if not left:
                    self._is_settled[service_name] = tenure
                    return
                task = self._tasks[service_name, loop] = loop.create_task(self._settle(left))
                task.add_done_callback(lambda done: self._ended(service_name, loop, tenure, done))
        self._waiting[task] += 1
        try:
            await asyncio.wait({task})
        finally:
            self._waiting -= Counter([task])  # and whoever is waited for by none is forgotten

    async def stop(self) -> None:
        """End the look-ups on this loop that nobody waits for any more: until then they hold the journal."""
        loop = asyncio.get_running_loop()
        forgotten = [
            task
            for (_, its_loop), task in self._tasks.items()
            if its_loop is loop and not self._waiting[task]
        ]
        for task in forgotten:
            task.cancel()
        if forgotten:
            await asyncio.wait(forgotten)

    def _ended(
        self,
        service_name: str,
        loop: asyncio.AbstractEventLoop,
        tenure: object,
        task: asyncio.Task[list[Reconciled]],
    ) -> None:
        self._tasks.pop((service_name, loop), None)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._is_settled[service_name] = tenure
        else:
            _log.error(
                "orders of service %s that were left pending could not be looked up: %s", service_name, error
            )

    async def reconcile(self) -> list[Reconciled]:
        """See `ErrorRecoveryService.reconcile`."""
        return await self._settle(await self._pending())

    async def _pending(self) -> list[tuple[str, str]]:
        def of(entry: OperationEntry) -> tuple[str, str] | None:
            return (service_of(entry), key_of(entry)) if is_sending(entry) else None

        return [one for one in await self._journal.pending(of) if one is not None]

    async def _settle(self, left: list[tuple[str, str]]) -> list[Reconciled]:
        keys = Counter(service_name for service_name, _ in left)
        lines = {service_name: _Line(self._clock, count) for service_name, count in keys.items()}
        settling: list[asyncio.Task[Reconciled | None]] = []
        try:
            for service_name, key in left:
                if settling and len(settling) % _BEGUN_AT_ONCE == 0:
                    await asyncio.sleep(0)
                settling.append(
                    asyncio.ensure_future(self._settle_once(service_name, key, lines[service_name]))
                )
        except asyncio.CancelledError:
            for begun in settling:
                begun.cancel()
            await asyncio.gather(*settling, return_exceptions=True)
            raise
        results = await asyncio.gather(*settling, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [result for result in results if isinstance(result, Reconciled)]

    async def _settle_once(self, service_name: str, key: str, line: _Line) -> Reconciled | None:
        # Who comes second waits for the first: nothing is settled while somebody still looks.
        which = self._journal.life, service_name, key
        mine = _UnderLookUp(asyncio.get_running_loop())
        while (running := self._looked_up.setdefault(which, mine)) is not mine:
            if await running.is_over() and not running.came_to_its_end:
                continue  # whoever looked was cancelled
            return None
        try:
            settled = await self._settle_one(service_name, key, line)
            mine.came_to_its_end = True
        finally:
            del self._looked_up[which]
            mine.over.set_result(None)
        return settled

    async def is_over(self, service_name: str, key: str) -> bool:
        """Wait for whoever looks this key up for somebody else; False: nobody does, or nobody can wait for it."""
        running = self._looked_up.get((self._journal.life, service_name, key))
        return running is not None and await running.is_over()

    async def _settle_one(self, service_name: str, key: str, line: _Line) -> Reconciled | None:
        known = self._ways.known_of(service_name)
        way = None if known is None else known.of(key)
        if known is None or way is None:
            _log.warning(
                "order %r of service %r stays pending: nobody has said how to look it up; call "
                "service(%r).once(confirm=...) before reconcile()",
                key,
                service_name,
                service_name,
            )
            return Reconciled(service_name, key, UNKNOWN)
        sending = self.sending(service_name, key)
        try:
            try:
                earlier = await sending.claim(is_under_way=known.is_under_way)
            except (OperationBusyError, OperationCompletedError):
                return None  # somebody else is at it
            if earlier is None:
                return None
            settle = max(way.settle, earlier.settle)
            left = window_left(settle, passed=earlier.passed)
            try:
                outcome = await look_up(
                    asked_of(way.confirm, earlier.details),
                    key,
                    closes_at=self._clock.monotonic() + left,
                    settle=settle,
                    clock=self._clock,
                    is_under_way=lambda: sending.is_left_behind or known.is_under_way(),
                    line=line,
                )
            except _NoAnswerError as error:
                # One bad confirm must not take the outcomes of all other services with it.
                _log.error("order %r of service %r is unknown: %s", key, service_name, error)
                outcome = UNKNOWN
            if outcome is NOT_FOUND and earlier.is_there:
                warn_of_contradiction(service_name, key)
                outcome = UNKNOWN
            if outcome is NOT_FOUND and not known.may_deny(key, way):
                _log.warning(
                    "order %r of service %r was not found by the confirm of another order, which proves nothing: it stays "
                    "pending until its own key is given to once() again, or until service(%r).once(confirm=..., settle=...) "
                    "says how every order of the service is looked up",
                    key,
                    service_name,
                    service_name,
                )
                outcome = UNKNOWN
            if isinstance(outcome, Found):
                sending.is_there(outcome.value)
                known.found()
            elif outcome is NOT_FOUND:
                sending.is_not_there()
            return Reconciled(service_name, key, outcome)
        finally:
            sending.release()
