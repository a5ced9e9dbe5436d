"""The text of decorated functions: made for the signature, and the same to the caller."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from shockproof import ErrorRecoveryService, with_error_recovery
from shockproof.calls.wrap import source
from shockproof.decorators import set_error_recovery_service

pytestmark = pytest.mark.asyncio


async def positional(a: int, b: int = 2, /, c: int = 3, *more: int) -> Any:
    """Positional in every way."""
    return a, b, c, more


async def named(a: int = 1, *, b: int, c: int = 3, **rest: int) -> Any:
    """Named in every way."""
    return a, b, c, rest


async def nothing() -> Any:
    """No parameters at all."""
    return ()


async def underscored(plan_: int, fn_: int = 2) -> Any:
    """Parameters that look like names of the wrapper's own."""
    return plan_, fn_


@pytest.mark.parametrize("limits", [{}, {"max_concurrent": 1}], ids=str)
@pytest.mark.parametrize("is_timed", [False, True])
@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (positional, (1,), {}),
        (positional, (1, 5, 6, 7, 8), {}),
        (positional, (1,), {"c": 9}),
        (named, (), {"b": 5}),
        (named, (4,), {"b": 5, "c": 6, "d": 7}),
        (nothing, (), {}),
        (underscored, (1,), {}),
        (underscored, (1,), {"fn_": 5}),
    ],
)
async def test_arguments_arrive_as_they_were_given(
    recovery: ErrorRecoveryService,
    function: Callable[..., Any],
    args: tuple[int, ...],
    kwargs: dict[str, int],
    is_timed: bool,
    limits: dict[str, Any],
) -> None:
    """On the healthy path, and when the first attempt has failed; with the function's own defaults."""
    service = recovery.service("api", base_delay=0, **limits)
    decorated = (service.using(timeout=5.0) if is_timed else service)(function)
    expected = await function(*args, **kwargs)

    assert [await decorated(*args, **kwargs) for _ in range(3)] == [expected] * 3
    assert inspect.signature(decorated) == inspect.signature(function)


@pytest.mark.parametrize("wrong", [((), {}), ((1, 2, 3, 4), {"c": 1}), ((1,), {"x": 1})])
async def test_wrong_arguments_are_refused_as_the_function_would(
    recovery: ErrorRecoveryService, wrong: tuple[tuple[int, ...], dict[str, int]]
) -> None:
    """A TypeError at once, and nothing is counted."""
    decorated: Callable[..., Any] = recovery.service("api")(positional)
    args, kwargs = wrong

    with pytest.raises(TypeError):
        await decorated(*args, **kwargs)
    assert recovery.get_error_summary()["total_errors"] == 0


async def test_a_traceback_through_the_wrapper_shows_its_lines(recovery: ErrorRecoveryService) -> None:
    """Whoever debugs sees what runs, not an empty line."""

    @recovery.service("api", max_retries=0)
    async def fail() -> None:
        raise ValueError("mine")

    await recovery.service("api").call(nothing)
    with pytest.raises(ValueError, match="mine") as raised:
        await fail()

    assert "await coroutine_" in "".join(traceback.format_exception(raised.value))


async def test_two_functions_of_one_signature_share_their_code(recovery: ErrorRecoveryService) -> None:
    """The text is compiled once, and each keeps its own function and service."""

    async def one(x: int) -> str:
        return f"one {x}"

    async def two(x: int) -> str:
        return f"two {x}"

    first, second = recovery.service("a")(one), recovery.service("b")(two)

    assert first.__code__ is second.__code__
    assert [await first(1), await second(2)] == ["one 1", "two 2"]
    assert list(recovery.get_all_service_statuses()) == ["a", "b"]


async def test_a_function_of_the_process_follows_a_new_service(recovery: ErrorRecoveryService) -> None:
    """What may be replaced is not written into the wrapper."""

    @with_error_recovery("api")
    async def fetch(x: int) -> int:
        return x

    set_error_recovery_service(recovery)
    try:
        await fetch(1)
        await fetch(2)
    finally:
        set_error_recovery_service(None)

    assert recovery.get_health_status()["services"]["api"]["successes"] == 2


async def test_the_healthy_path_holds_no_lock_and_one_await() -> None:
    """What `source` gives is what runs: one await before the result, and nothing that waits."""
    text = source(inspect.signature(positional), is_short=True, is_timed=False, is_fixed=True)
    healthy = text[text.index("coroutine_ =") : text.index("return result_")]

    assert healthy.count("await") == 1
    assert "_lock" not in healthy
