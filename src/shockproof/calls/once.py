"""
An order that is never blindly sent twice: journalled before it is sent, looked up when its outcome is unknown.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar, overload

from shockproof.calls.callables import check_callable, is_async, name_of
from shockproof.calls.confirm import Confirm, DetailedConfirm, with_details
from shockproof.calls.descent import note_makers_here
from shockproof.calls.freshness import Freshness
from shockproof.calls.hedge_race import lanes_around
from shockproof.calls.named_arguments import check_takes, named_arguments
from shockproof.calls.order_key import check_key, make_key
from shockproof.calls.orders_inside import OrderInside
from shockproof.calls.plan import Plan
from shockproof.calls.tracing import CallTrace, Tracer
from shockproof.calls.wanted_order import CallOfOrder, WantedOrder
from shockproof.calls.ways import Way
from shockproof.vocabulary.arguments import Seconds, a_name, seconds
from shockproof.vocabulary.errors import OutcomeUnknownError
from shockproof.vocabulary.outcomes import Outcome

if TYPE_CHECKING:
    from shockproof.memory.journal.journalled_values import KeptDetails

# What stands above is loaded on a loop, where an order is the first thing a program does: how it is placed is not.
__all__ = ["KeyedOnce", "Once"]

P = ParamSpec("P")
R = TypeVar("R")

_NEVER_REFUSED: Final = frozenset({str, int, float, bool, type(None)})
"""Of details: nor do they change, so that it is early enough to copy them when the journal is loaded."""


class Once(Generic[R]):
    """
    ``once = trading.once(confirm=find_order)``: one order, however often it is sent.

    Made by `Handle.once`; one for each order that is wanted. The function gets `key` from you:
    ``await once.call(submit, symbol="AAPL", client_order_id=once.key)``.
    """

    _passes_its_key = False

    def __init__(
        self,
        plan: Plan,
        *,
        key: str | None,
        confirm: Confirm[R] | DetailedConfirm[R],
        details: Mapping[str, object] | None,
        key_pattern: str | re.Pattern[str] | None,
        settle: Seconds,
        valid_until: datetime | None,
        still_wanted: Callable[[], bool] | None,
        compare_arguments: bool | Collection[str],
    ) -> None:
        if plan.fallbacks:
            raise ValueError(
                "once() and fallback= do not go together: an order at another venue needs a key of its own and "
                "its own way to look it up. Catch the error, and place it with once() of that venue's service"
            )
        sent_once = plan.runtime.sent_once
        if sent_once is None:
            raise ValueError(
                "once() needs the journal of a recovery service: use ErrorRecoveryService(...).service(name)"
            )
        detailed = with_details(confirm)
        is_new = key is None
        if key is None:
            key = make_key(key_pattern)
        else:
            key = a_name("key", key, "bot-1")
            if key_pattern is not None:
                check_key(key, key_pattern)
        compared = _names_compared(compare_arguments)
        way = Way(detailed, seconds("settle", settle))
        kept: Callable[[], KeptDetails] | None = None
        if details is not None:
            values = dict(_checked_details(details))
            kept = cache(lambda: sent_once.reconciliation().details(values))
            if not all(type(value) in _NEVER_REFUSED for value in values.values()):
                kept()
        self._wanted = WantedOrder(
            key=key,
            is_key_new=is_new,
            taken_over_before=sent_once.times_taken_over(),
            plan=plan.of_orders(),
            freshness=Freshness(plan.state.name, plan.runtime.clock, valid_until, still_wanted),
            way=way,
            details=kept,
            compares_arguments=compare_arguments is not False,
            compared=compared,
        )
        self._confirm = confirm
        """As it was given."""
        self._is_key_known = not is_new
        """Outside of this object."""
        self._sent_once = sent_once
        self._ways = sent_once.ways().of(
            plan.state.name, self._wanted.is_under_way, found=plan.state.found_later
        )
        note_makers_here(plan.runtime.clock)  # its task may be made next
        self._was_sent = False
        """By an earlier call of this object: then a journal may have lost a key that was made for it, too."""
        self._number: int | None = None
        """As long as it cannot be told from an order in the making, it says how all are looked up."""
        of_an_order = (details, key_pattern, valid_until, still_wanted)
        if not is_new:
            self._ways.for_one(key, way)
        elif any(option is not None for option in of_an_order) or _is_written_for_one(confirm):
            self._ways.for_another(way)
        elif not self._passes_its_key:
            self._number = self._ways.for_all(way)
        else:
            self._number = self._ways.perhaps_for_all(way, confirm)

    @property
    def key(self) -> str:
        """Made once; pass it to the venue, or let ``key_argument`` do it."""
        self._is_key_known = True
        self._is_an_order()
        return self._wanted.key

    def _require_a_way_to_look_up(self) -> None:
        """
        Before anything is sent: what ``confirm`` gives can be awaited.

        A coroutine function's can, and a plain one is asked for it. A coroutine that it gives is never begun.
        """
        if is_async(self._confirm):
            return
        try:
            question: object = self._wanted.confirm(self._wanted.key)
        except Exception:  # noqa: BLE001  it proves nothing, here as anywhere, and is told when it matters
            return
        if not inspect.isawaitable(question):
            raise TypeError(
                f"confirm must be an async function of the key, and {name_of(self._confirm)} gave a "
                f"{type(question).__name__} at once: write `async def`. Nothing was sent"
            )
        if inspect.iscoroutine(question):
            question.close()

    def _checked(
        self,
        fn: Callable[..., Any],  # Any, here and below: the function's own arguments
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> dict[str, Any]:
        """What *fn* is called with, by name, if that may be sent."""
        check_callable(fn)
        wanted = self._wanted
        arguments = named_arguments(fn, args, kwargs)
        left_out = [name for name in wanted.compared or () if name not in arguments]
        check_takes(fn, "compare_arguments", left_out)
        if not self._passes_its_key:
            from shockproof.calls.key_in_call import require_key

            require_key(fn, args, kwargs, key=wanted.key, owner=self, is_known=self._is_key_known)
        self._require_a_way_to_look_up()
        return arguments

    def _is_an_order(self) -> None:
        if self._number is not None:
            self._ways.withdraw(self._number)
            self._number = None
        self._ways.for_one(self._wanted.key, self._wanted.way)

    def __repr__(self) -> str:
        return f"<Once {self._wanted.key!r} of service {self._wanted.service_name!r}>"

    @overload
    async def call(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def call(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:  # Any: see the overloads
        """
        Send it through all policies of the handle, and return when its outcome is known.

        It is on the disk before it is sent, each time. An attempt is repeated, with the same key, where the error
        proves that nothing happened. Otherwise ``confirm`` is asked: found, and that is the answer; not found by a question
        asked ``settle`` seconds after the last attempt ended, and it may be sent again; neither, and it stays pending.
        Orders that an earlier life left pending on this service are looked up first.

        Returns:
            What *fn* returned, or what ``confirm`` found.

        Raises:
            OutcomeUnknownError: it was sent, and nothing can be proven; it stays pending, and
                `ErrorRecoveryService.reconcile` or another call with the same key settles it.
            OperationCompletedError: it was sent in an earlier call, and is there.
            KeyReusedError: as above, and it was sent with other arguments (`Handle.once`): this one is another order.
            OperationBusyError: it is being sent at another place.
            JournalUnavailableError, JournalLockedError: it could not be journalled; it was not sent.
            HaltedError: `ErrorRecoveryService.halt` is in force; it was not sent. Nobody asked what came of an earlier
                call with this key: `ErrorRecoveryService.reconcile` does.
            CallRejectedError: it is not wanted any more (``policy`` is ``"valid_until"`` or ``"still_wanted"``), another request
                of a hedged call around it has sent an order (``"hedge"``), a call around it is repeated without having waited for it
                (``"repetition"``), the event
                loop stood still before its task had a turn (``"timeout"``; with ``grace`` only), or a limit or the open
                circuit refused it; it was not sent.
            Exception: *fn*'s own error; it is certain that nothing happened.
            TypeError: ``confirm`` is a plain function that gives nothing to await; it was not sent. Or it gave neither Found(...),
                NOT_FOUND nor UNKNOWN; it stays pending.
            ValueError: *fn* cannot know the key: there is no ``key_argument``, nobody has read `key`, and *fn* is a plain
                function or method. Where the key was given to `Handle.once`, that is a warning.

        Cancelled in flight it stays pending, and the cancellation passes at once.
        """
        self._is_an_order()
        wanted, plan = self._wanted, self._wanted.plan
        order = OrderInside(wanted.key, wanted.service_name, wanted.clock, is_key_ours=wanted.is_key_new)
        lanes = lanes_around()
        for lane in lanes:
            lane.race.comes(lane.request, order)
        try:
            # Behind that: whoever repeats a call around it knows of it, and it will not be sent beside the repetition.
            await self._sent_once.loaded()
            from shockproof.calls.leave_to_send import require_no_halt
            from shockproof.calls.placement import place
            from shockproof.calls.portions import turn_here

            turn = None if plan.risk_reducing else turn_here()
            if turn is not None:
                await turn
            arguments = self._checked(fn, args, kwargs)
            if plan.has_to_learn_of_halt:
                await plan.learn_of_halt()
            require_no_halt(plan)
            tracer: Tracer | None = plan.state.tracer
            trace = None if tracer is None else tracer.call(plan.state.name, name_of(fn))
            this = CallOfOrder(fn, args, kwargs, order, wanted.clock.monotonic(), self._was_sent, trace)
            # No frame more than is needed: thousands of orders may be under way, each with all of its frames.
            if trace is None:
                placed = await place(wanted, this, arguments)
            else:
                placed = await _traced(trace, place, wanted, this, arguments)
            self._ways.forget(wanted.key, wanted.way)
            return placed
        finally:
            order.ends()
            self._was_sent = self._was_sent or order.was_sent
            # Of a key of the user's that was not sent now, an earlier life may have left an order.
            if order.is_nowhere and (wanted.is_key_new or order.was_sent):
                self._ways.forget(wanted.key, wanted.way)
            for lane in lanes:
                lane.race.ends(order)


async def _traced(
    trace: CallTrace,
    place: Callable[[WantedOrder, CallOfOrder, Mapping[str, object]], Awaitable[Any]],
    wanted: WantedOrder,
    this: CallOfOrder,
    arguments: Mapping[str, object],
) -> Any:  # Any, here and above: the function's own result
    """The whole of it is one call: what is looked up belongs to it, and how it ends is known behind that."""
    trace.enter()
    try:
        return await place(wanted, this, arguments)
    except BaseException as error:
        if isinstance(error, OutcomeUnknownError):
            trace.judged(Outcome.UNKNOWN)
        trace.raises(error)
        raise
    finally:
        trace.leave()
        trace.ended()


class KeyedOnce(Once[R]):
    """
    ``once = trading.once(confirm=find_order, key_argument="client_order_id")``: an `Once` that passes its key.

    No type takes a keyword out of a signature. So type checkers know what `call` returns, and not which arguments are
    left: those are checked when it is called, before anything is journalled. Where they are to be known, leave
    ``key_argument`` out.
    """

    _passes_its_key = True

    def __init__(
        self,
        plan: Plan,
        key_argument: str,
        *,
        key: str | None,
        confirm: Confirm[R] | DetailedConfirm[R],
        details: Mapping[str, object] | None,
        key_pattern: str | re.Pattern[str] | None,
        settle: Seconds,
        valid_until: datetime | None,
        still_wanted: Callable[[], bool] | None,
        compare_arguments: bool | Collection[str],
    ) -> None:
        self._key_argument = a_name("key_argument", key_argument, "client_order_id")
        super().__init__(
            plan,
            key=key,
            confirm=confirm,
            details=details,
            key_pattern=key_pattern,
            settle=settle,
            valid_until=valid_until,
            still_wanted=still_wanted,
            compare_arguments=compare_arguments,
        )

    @overload
    async def call(
        self,
        fn: Callable[..., Awaitable[R]],
        /,
        *args: Any,  # Any, here and below: the key is added to them, under a name that no type says
        **kwargs: Any,
    ) -> R: ...
    @overload
    async def call(
        self,
        fn: Callable[..., R],
        /,
        *args: Any,  # Any: as above
        **kwargs: Any,
    ) -> R: ...
    async def call(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:  # Any: see the overloads
        """See `Once.call`; *fn* is called with the key as well."""
        name = self._key_argument
        if kwargs.get(name, self._wanted.key) != self._wanted.key:
            raise ValueError(
                f"{name}={kwargs[name]!r} is given to call(), and once() has the key {self._wanted.key!r}: leave it out, "
                "or give it to once(key=...)"
            )
        check_callable(fn)
        check_takes(fn, "key_argument", (name,))
        return await super().call(fn, *args, **{**kwargs, name: self._wanted.key})


def _is_written_for_one(confirm: object) -> bool:
    """Whether it looks as if it knew where one order is: ``partial(find, "AAPL")``, ``lambda key: find("AAPL", key)``."""
    return isinstance(confirm, functools.partial) or getattr(confirm, "__name__", "") == "<lambda>"


def _checked_details(details: object) -> Mapping[str, object]:
    if not isinstance(details, Mapping) or not all(isinstance(name, str) for name in details):
        raise TypeError(
            f'details must be a dict of what the order is looked up by, such as {{"symbol": "AAPL"}}, got {details!r}'
        )
    return details


def _names_compared(compare_arguments: bool | Collection[str]) -> tuple[str, ...] | None:
    if isinstance(compare_arguments, bool):
        return None
    if isinstance(compare_arguments, str) or not isinstance(compare_arguments, Collection):
        raise TypeError(
            "compare_arguments must be True, False or the names of those that tell orders apart, such as "
            f'("symbol", "qty"), got {compare_arguments!r}'
        )
    return tuple(a_name("each of compare_arguments", name, "symbol") for name in compare_arguments)
