"""
Decorated functions: the healthy path, written for the function's own parameters.

What runs is what `source` gives: one coroutine, no lock, one clock reading, a counter and a flag.
Whatever is not healthy goes to `execute`: a circuit that is not closed before the call, a failed first
attempt after it. The text is made for each signature, because forwarding ``*args, **kwargs`` would cost
as much as all the rest; it is compiled once for each text, and tracebacks show its lines.

What it reads stands in its own globals, and what a healthy call reads stands in front. (A closure is slower twice: each
of its cells is written to when a call begins.)
"""

from __future__ import annotations

import functools
import inspect
import linecache
import textwrap
import time
from collections.abc import Callable, Coroutine
from types import CodeType, FunctionType, MethodType
from typing import Any, Final

from shockproof.calls.callables import check_callable, is_async, name_of
from shockproof.calls.executor import execute, failure_of, substitute
from shockproof.calls.limits import attend
from shockproof.calls.limits_around import TIMED_WRAPPER_FILE, WRAPPER_FILE
from shockproof.calls.plan import Plan, new_refusal
from shockproof.calls.timer import CURRENT_TASK, HERE, Timer
from shockproof.vocabulary.errors import CircuitOpenError

__all__ = ["source", "wrap"]

_FORWARDING: Final = inspect.Signature(
    [
        inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
        inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
    ]
)

_LONG: Final = """\
{instead}
        return await execute_(plan_, fn_, {args}, {kwargs})
"""
_REFUSAL: Final = """\
        left_ = plan_.refuses()
        if left_ is not None:
            state_ = plan_.state
            raise new_refusal_(circuit_open_error_, state_.name, "circuit_breaker", left_, state_.circuit.last_error)
        refusal_ = plan_.refusal()
        if refusal_ is not None:
            try:
                raise refusal_
            finally:
                del refusal_  # its traceback holds this frame: no cycle"""
_SUBSTITUTE: Final = """\
        stand_in_ = plan_.substitute()
        if stand_in_ is not None:
            return await substitute_(plan_, stand_in_, {args}, {kwargs})"""
_ENTRY: Final = f"""\
async def call({{parameters}}):
{{entrance}}    ticket_ = entrance_.lane
    if ticket_ is None:
{_LONG}"""
# With limits: whatever is more than a free place, and a closed circuit, is for the executor.
_LIMITED_ENTRY: Final = f"""\
async def call({{parameters}}):
    ticket_, places_ = circuit_.closed, limits_.lane
    if ticket_ is None or places_ is None:
{_LONG}    try:
        places_.free.pop()
    except IndexError:
        places_ = None  # and not from here: the call's own errors would name this one as their context
    if places_ is None:
        return await execute_(plan_, fn_, {{args}}, {{kwargs}})
    try:
"""
_LIMITED_EXIT: Final = """\
    finally:
        places_.free.append(None)
        if places_.watched:
            attend_(places_)
"""
_ATTEMPT: Final = """\
    coroutine_ = fn_({forwarded})  # wrong arguments are raised here: nothing taken or counted
{start}
    try:
        result_ = await coroutine_
    except BaseException as error_:
        failure_ = failure_of_(plan_, error_, ticket_, started_, {timer})
        if failure_ is None:
            raise
    else:
{stop}
        entrance_.successes += 1
        if entrance_.stirred:
            plan_.state.settle(ticket_, plan_.runtime.clock.monotonic(), {elapsed})
        return result_
"""
_REPETITION: Final = """\
    try:
        return await execute_(plan_, fn_, {args}, {kwargs}, failure_)
    finally:
        failure_ = None  # the traceback holds this frame: no cycle
"""

_START: Final = "    started_ = {stopwatch}()"
# The same as `TimeLimit.start` and `Timer.stop`, without their calls and their object.
_START_TIMED: Final = """\
    try:
        queue_ = queues_[here_()]
        task_ = current_task_(queue_.loop)
    except KeyError:
        queue_, task_ = attach_()
    cancels_ = task_.cancelling()
    clock_ = queue_.clock  # a name first: 3.11 is slow to call what stands in a slot like a method
    started_ = clock_()
    queue_.waiting[coroutine_] = (task_, started_)"""
_TIMER: Final = "timer_(queue_, task_, started_, waits_as=(coroutine_, cancels_))"
_STOP_TIMED: Final = f"""\
        try:
            del queue_.waiting[coroutine_]
        except KeyError:
            {_TIMER}.stop()  # it answered although it was cancelled"""

_LONG_WAY: Final = """\
async def call({parameters}):
    return await execute_(plan_, fn_, {args}, {kwargs})
"""


_NAMES: Final[dict[str, object]] = {
    "entrance_": None,
    "fn_": None,
    "circuit_": None,
    "limits_": None,
    "here_": HERE,
    "queues_": None,
    "current_task_": CURRENT_TASK,
    "stopwatch_": time.monotonic,
    "plan_": None,
    "attach_": None,
    "attend_": attend,
    "circuit_open_error_": CircuitOpenError,
    "execute_": execute,
    "failure_of_": failure_of,
    "new_refusal_": new_refusal,
    "substitute_": substitute,
    "timer_": Timer,
}
"""What wrappers read, in the order of a healthy call, since so they lie in memory; None where each has its own."""


_READER: Final = (lambda: plan_).__code__  # type: ignore[name-defined]  # noqa: F821 - in whatever globals it is given
"""Reads one of those names."""
_UNTIL_IT_IS_NUMBERED: Final = 100
"""Calls after which the interpreter has surely looked at the layout of the globals: 3.11 to 3.13 do so within twenty."""


def source(
    signature: inspect.Signature,
    *,
    is_short: bool,
    is_timed: bool,
    is_fixed: bool,
    is_limited: bool = False,
    has_stand_in: bool = False,
) -> str:
    """
    The text of a wrapper for a function with this *signature*.

    *is_short*: the healthy path is all there is to a success. *is_timed*: there is a time limit.
    *is_fixed*: the service of the plan never changes, so that what is its own is read directly.
    *is_limited*: the service has limits already; else its calls take the long way from when it has.
    *has_stand_in*: there is a fallback that can answer for an open circuit in passing.
    """
    positional: list[str] = []
    named: list[str] = []
    forwarded: list[str] = []
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        match parameter.kind:
            case parameter.VAR_POSITIONAL:
                positional.append(f"*{name}")
                forwarded.append(f"*{name}")
            case parameter.VAR_KEYWORD:
                named.append(f"**{name}")
                forwarded.append(f"**{name}")
            case parameter.KEYWORD_ONLY:
                named.append(f"{name!r}: {name}")
                forwarded.append(f"{name}={name}")
            case _:
                positional.append(name)
                forwarded.append(name)
        # Only that there is a default matters here: its value is set on the function.
        default = parameter.empty if parameter.default is parameter.empty else None
        parameters.append(parameter.replace(annotation=parameter.empty, default=default))
    stopwatch = "stopwatch_" if is_fixed else "plan_.stopwatch"
    fields = {
        "parameters": str(inspect.Signature(parameters))[1:-1],
        "args": f"({', '.join(positional)},)" if positional else "()",
        "kwargs": f"{{{', '.join(named)}}}",
        "forwarded": ", ".join(forwarded),
        "entrance": "" if is_fixed else "    entrance_ = plan_.entrance\n",
        "start": _START_TIMED if is_timed else _START.format(stopwatch=stopwatch),
        "timer": _TIMER if is_timed else "None",
        "elapsed": "clock_() - started_" if is_timed else f"{stopwatch}() - started_",
        "stop": _STOP_TIMED if is_timed else "",
    }
    fields["instead"] = (_SUBSTITUTE if has_stand_in else _REFUSAL).format(**fields)
    if not is_short:
        text = _LONG_WAY.format(**fields)
    elif is_limited:
        attempt = textwrap.indent(_ATTEMPT.format(**fields), "    ")
        text = _LIMITED_ENTRY.format(**fields) + attempt + _LIMITED_EXIT + _REPETITION.format(**fields)
    else:
        text = (_ENTRY + _ATTEMPT + _REPETITION).format(**fields)
    return text


def wrap(plan: Plan, fn: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:  # Any: see Handle
    """
    *fn* as a coroutine function that runs through *plan*, with its signature, name and docstring.

    Raises:
        TypeError: *fn* cannot be guarded (a coroutine object, a generator, a classmethod object).
    """
    if isinstance(fn, staticmethod):
        return staticmethod(wrap(plan, fn.__func__))
    check_callable(fn)
    signature = _signature_of(fn)
    is_limited = plan.is_fixed and plan.state.limits is not None
    text = source(
        signature,
        is_limited=is_limited,
        is_short=plan.is_simple and is_async(fn),
        is_timed=plan.limit is not None,
        is_fixed=plan.is_fixed,
        has_stand_in=plan.stand_in is not None,
    )
    code, names_read = _compiled(text, is_timed=plan.limit is not None)
    names = names_read.copy()
    names["plan_"], names["fn_"] = plan, fn
    if plan.is_fixed and "entrance_" in names:
        names["entrance_"] = plan.entrance
    if "stopwatch_" in names:
        names["stopwatch_"] = plan.stopwatch
    if plan.first_limit is not None and "queues_" in names:
        names["queues_"], names["attach_"] = plan.first_limit.queues, plan.first_limit.attach
    if is_limited and "limits_" in names:
        names["circuit_"], names["limits_"] = plan.circuit, plan.state.limits
    call = FunctionType(code, names, "call")
    _set_defaults(call, signature)
    _dress(call, fn)
    return call


def _dress(call: FunctionType, fn: Callable[..., Any]) -> None:  # Any: any signature
    if isinstance(fn, FunctionType | MethodType):
        functools.update_wrapper(call, fn)
        return
    # A partial or a callable object has no name of its own, and a Mock has Mocks for everything.
    functools.update_wrapper(call, fn, assigned=("__doc__",), updated=())
    call.__name__ = call.__qualname__ = name_of(fn)


def _signature_of(fn: Callable[..., Any]) -> inspect.Signature:  # Any: any signature
    # Names of ours end in an underscore; a parameter of the user's that does, too, would hide one.
    if type(fn) is FunctionType:
        signature = inspect.signature(fn, follow_wrapped=False)
        if not any(name.endswith("_") for name in signature.parameters):
            return signature
    return _FORWARDING


def _set_defaults(call: FunctionType, signature: inspect.Signature) -> None:
    defaults = [one for one in signature.parameters.values() if one.default is not one.empty]
    call.__defaults__ = tuple(one.default for one in defaults if one.kind is not one.KEYWORD_ONLY)
    call.__kwdefaults__ = {one.name: one.default for one in defaults if one.kind is one.KEYWORD_ONLY}


@functools.lru_cache(maxsize=1024)
def _compiled(text: str, *, is_timed: bool) -> tuple[CodeType, dict[str, object]]:
    """The code of a wrapper, and the globals that it reads."""
    filename = f"{TIMED_WRAPPER_FILE if is_timed else WRAPPER_FILE}{len(linecache.cache)}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    module = compile(text, filename, "exec")
    code = next(constant for constant in module.co_consts if isinstance(constant, CodeType))
    names = {name: value for name, value in _NAMES.items() if name in code.co_names}
    _number(names)
    return code, names


def _number(names: dict[str, object]) -> None:
    """
    Have the interpreter number the layout of *names*; copies keep the number.

    Code remembers by that number where it has found a global name. All wrappers of a text share its code, and have a copy
    each: with numbers of their own each would make it search, a third of what a healthy call takes.
    """
    reader = FunctionType(_READER, names)
    for _ in range(_UNTIL_IT_IS_NUMBERED):
        reader()
