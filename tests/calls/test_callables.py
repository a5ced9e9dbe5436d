"""What kind of callable it is, what it is called, and which ones cannot be guarded."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock

import pytest

from shockproof.calls.callables import check_callable, is_async, name_of


async def fetch() -> None:
    pass


def plain() -> None:
    pass


@functools.wraps(plain)
async def dressed() -> None:
    pass


async def ticks() -> AsyncIterator[int]:
    yield 1


def numbers() -> Iterator[int]:
    yield 1


class Broker:
    async def fetch(self) -> None:
        pass

    def plain(self) -> None:
        pass

    @classmethod
    async def of_class(cls) -> None:
        pass

    @staticmethod
    async def static() -> None:
        pass

    async def ticks(self) -> AsyncIterator[int]:
        yield 1

    async def __call__(self) -> None:
        pass


class PlainObject:
    def __call__(self) -> None:
        pass


class Feed:
    async def __call__(self) -> AsyncIterator[int]:
        yield 1


@pytest.mark.parametrize(
    "function",
    [
        fetch,
        Broker().fetch,
        Broker.fetch,
        Broker.of_class,
        Broker.static,
        Broker(),
        functools.partial(fetch),
        functools.partial(functools.partial(Broker().fetch)),
        functools.partial(Broker()),
        AsyncMock(),
        dressed,
    ],
)
def test_what_gives_a_coroutine_needs_no_thread(function: Callable[..., Any]) -> None:
    """Methods, objects, partials and mocks of coroutine functions are told as such."""
    assert is_async(function) is True
    check_callable(function)


@pytest.mark.parametrize(
    "function",
    [
        plain,
        Broker().plain,
        PlainObject(),
        functools.partial(plain),
        Mock(),
        MagicMock(),
        lambda: fetch(),  # noqa: PLW0108 - a lambda around a coroutine function is the case
        dict,
        len,
        Broker,
        "abc".upper,
    ],
)
def test_everything_else_runs_in_a_thread(function: Callable[..., Any]) -> None:
    """Whatever it returns may still be awaited then."""
    assert is_async(function) is False
    check_callable(function)


def test_what_is_marked_as_a_coroutine_function_is_one() -> None:
    """inspect.markcoroutinefunction of Python 3.12."""
    mark = getattr(inspect, "markcoroutinefunction", None)

    def returns_a_coroutine() -> Any:
        return fetch()

    if mark is not None:
        assert is_async(mark(returns_a_coroutine)) is True
    else:
        assert is_async(returns_a_coroutine) is False


@pytest.mark.parametrize("function", [ticks, Broker().ticks, functools.partial(ticks), Feed()])
def test_an_async_generator_is_refused(function: Callable[..., Any]) -> None:
    """In every wrapping; it says what to do instead."""
    with pytest.raises(TypeError, match=r"async generator.*attempts\(\)"):
        check_callable(function)


@pytest.mark.parametrize("function", [numbers, functools.partial(numbers)])
def test_a_plain_generator_is_refused(function: Callable[..., Any]) -> None:
    """It returns before anything can fail."""
    with pytest.raises(TypeError, match="is a generator"):
        check_callable(function)


def test_a_coroutine_object_is_refused_and_closed() -> None:
    """It is named, and Python does not complain that it was never awaited."""
    coroutine = fetch()
    with pytest.raises(TypeError, match=r"coroutine object fetch.*call\(fetch, \.\.\.\)"):
        check_callable(coroutine)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


def test_an_async_generator_object_is_refused() -> None:
    """It cannot be called either."""
    with pytest.raises(TypeError, match="cannot be called"):
        check_callable(ticks())


def test_a_classmethod_object_is_refused_with_the_right_order() -> None:
    """The decorator belongs below @classmethod."""
    with pytest.raises(TypeError, match="below @classmethod"):
        check_callable(vars(Broker)["of_class"])


@pytest.mark.parametrize("thing", [None, 5, "fetch", [fetch]])
def test_what_cannot_be_called_is_refused(thing: object) -> None:
    """With what it was."""
    with pytest.raises(TypeError, match="cannot be called"):
        check_callable(thing)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (fetch, "fetch"),
        (Broker().fetch, "fetch"),
        (functools.partial(functools.partial(Broker().plain)), "plain"),
        (Broker(), "Broker"),
        (Mock(), "Mock"),
        (AsyncMock(), "AsyncMock"),
        (dict, "dict"),
        (len, "len"),
        (lambda: 1, "<lambda>"),
    ],
)
def test_a_callable_is_called_what_a_person_calls_it(function: Callable[..., Any], name: str) -> None:
    """Partials and methods show what they wrap, objects their class."""
    assert name_of(function) == name
