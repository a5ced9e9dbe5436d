"""
Decorated functions: the healthy path, written out in one coroutine.

One extra frame, no lock, one clock reading, a counter and a flag. Whatever is not healthy goes to
`execute`: a circuit that is not closed before the call, a failed first attempt after it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any

from shockproof.calls.callables import check_callable, is_async, name_of
from shockproof.calls.executor import execute, failure_of
from shockproof.calls.plan import Plan
from shockproof.calls.timer import start_timer

__all__ = ["wrap"]


def wrap(
    plan: Plan, fn: Callable[..., Any]
) -> Callable[..., Coroutine[Any, Any, Any]]:  # Any: told by the overloads of Handle.__call__
    """
    *fn* as a coroutine function that runs through *plan*, with its signature, name and docstring.

    Raises:
        TypeError: *fn* cannot be guarded (a coroutine object, a generator, a classmethod object).
    """
    if isinstance(fn, staticmethod):
        return staticmethod(wrap(plan, fn.__func__))
    check_callable(fn)
    if not is_async(fn) or not plan.is_simple:

        async def call(*args: Any, **kwargs: Any) -> Any:  # Any: see the overloads
            return await execute(plan, fn, args, kwargs)

    else:
        limit = plan.limit

        async def call(*args: Any, **kwargs: Any) -> Any:  # Any: see the overloads
            ticket = plan.circuit.closed
            if ticket is None:
                refused_for = plan.refuses_for()
                if refused_for:
                    raise plan.refused(refused_for)
                return await execute(plan, fn, args, kwargs)
            coroutine = fn(*args, **kwargs)  # wrong arguments are raised here: nothing taken or counted
            if limit is None:
                timer, started = None, plan.stopwatch()
            else:
                timer = start_timer(limit)
                started = timer.started
            try:
                result = await coroutine
            except BaseException as error:
                failure = failure_of(plan, error, ticket, started, timer)
                if failure is None:
                    raise
            else:
                if timer is not None:
                    timer.stop()
                state = plan.state
                state.successes += 1
                if state.stirred:
                    state.settle(ticket, plan.runtime.clock.monotonic(), plan.stopwatch() - started)
                return result
            try:
                return await execute(plan, fn, args, kwargs, failure)
            finally:
                failure = None  # the traceback holds this frame: no cycle

    _dress(call, fn)
    return call


def _dress(call: Callable[..., Any], fn: Callable[..., Any]) -> None:  # Any: any signature
    functools.update_wrapper(call, fn)
    if not hasattr(fn, "__name__"):  # a partial, a callable object
        call.__name__ = call.__qualname__ = name_of(fn)
