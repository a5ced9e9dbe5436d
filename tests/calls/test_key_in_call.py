"""An order is sent with its key, or not at all where nobody else can know it."""

from __future__ import annotations

import contextvars
import functools
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from shockproof import NOT_FOUND, ErrorRecoveryService, LookUp
from shockproof.calls.once import Once

sent: list[object] = []
current: contextvars.ContextVar[object] = contextvars.ContextVar("current", default=None)
module_key = ""


async def absent(key: str) -> LookUp[str]:
    return NOT_FOUND


async def submit(symbol: object, client_order_id: object = None, **more: object) -> str:
    """As many clients: makes an id of its own where none is given."""
    sent.append(client_order_id)
    return "sent"


async def flatten(within: float = 1.0) -> str:
    return "sent"


class Client:
    async def submit(self, symbol: str, client_order_id: str | None = None) -> str:
        return await submit(symbol, client_order_id)


class Slotted:
    __slots__ = ("__key",)

    def __init__(self, key: str) -> None:
        self.__key = key

    async def send(self, symbol: str) -> str:
        return await submit(symbol, self.__key)


class Desk:
    """Can be called; what it knows is its own affair."""

    def __init__(self) -> None:
        self.name = "desk"

    async def __call__(self, symbol: str) -> str:
        return "sent"


class Closed:
    """Whoever looks into it gets an error."""

    @property
    def __dict__(self) -> Any:
        raise RuntimeError("closed")


@dataclass
class Order:
    symbol: str
    id: object = None

    async def send(self, price: float) -> str:
        return await submit(self.symbol, self.id)


@pytest.fixture(autouse=True)
def nothing_sent() -> None:
    sent.clear()


@pytest.mark.asyncio
@pytest.mark.parametrize("function", [submit, Client().submit, functools.partial(submit), Order("AAPL").send])
async def test_order_whose_key_nobody_can_know_is_refused_before_anything_is_journalled(
    recovery: ErrorRecoveryService, function: Callable[..., Awaitable[str]]
) -> None:
    """The key was made by itself and never read: whatever id is sent, it is another."""
    once = recovery.service("orders").once(confirm=absent)

    with pytest.raises(ValueError, match=r"does not get the order's key: .* once\(key_argument=\.\.\.\)"):
        await once.call(function, "AAPL")

    assert sent == []
    assert not (recovery.state_dir / "journal").exists()


@pytest.mark.asyncio
async def test_refusal_names_the_parameters_that_were_left_out(recovery: ErrorRecoveryService) -> None:
    """One of them is the one to name."""
    with pytest.raises(ValueError, match="perhaps 'client_order_id'"):
        await recovery.service("orders").once(confirm=absent).call(Client().submit, "AAPL")


@pytest.mark.asyncio
@pytest.mark.parametrize("given", [(), ("another",), ({"id": "another"},), (Order("AAPL"),)])
async def test_order_that_is_sent_without_the_key_it_was_given_warns_at_the_call(
    recovery: ErrorRecoveryService, given: tuple[object, ...]
) -> None:
    """The function may make the same key by itself; most likely it was forgotten."""
    once = recovery.service("orders").once("bot-1", confirm=absent)

    with pytest.warns(UserWarning, match="key_argument") as warned:
        assert await once.call(submit, "AAPL", *given) == "sent"

    (warning,) = warned
    assert warning.filename == __file__
    assert "bot-1" not in str(warning.message), "each order would warn anew"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "hold",
    [
        lambda key: key,
        lambda key: {"newClientOrderId": key},
        lambda key: {"params": [{"id": key}]},
        lambda key: f'{{"id": "{key}"}}',
        lambda key: f"id={key}".encode(),
        lambda key: Order("AAPL", key),
        Slotted,
        lambda key: Order("AAPL", Slotted(key)),
        lambda key: iter([key]),
        lambda key: lambda: key,
        lambda key: [*range(2000)],
        lambda key: Desk(),
        lambda key: Closed(),
    ],
)
async def test_order_whose_arguments_hold_the_key_or_may_hold_it_is_sent_and_nothing_is_said(
    recovery: ErrorRecoveryService, hold: Callable[[str], object]
) -> None:
    """As a text, in a body, in a request object, or in what nobody can look into."""
    once = recovery.service("orders").once(confirm=absent)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert await once.call(submit, "AAPL", hold(once.key)) == "sent"


@pytest.mark.asyncio
async def test_key_that_is_a_number_is_found(recovery: ErrorRecoveryService) -> None:
    """Some venues count their orders."""
    assert await recovery.service("orders").once("41", confirm=absent).call(submit, "AAPL", 41) == "sent"


def in_a_closure(once: Once[str]) -> Callable[..., Awaitable[str]]:
    async def place(symbol: str) -> str:
        return await submit(symbol, once.key)

    return place


def in_a_variable_of_the_context(once: Once[str]) -> Callable[..., Awaitable[str]]:
    current.set(once)
    return submit


def in_a_variable_of_the_module(once: Once[str]) -> Callable[..., Awaitable[str]]:
    global module_key
    module_key = once.key
    return submit


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "bind",
    [
        in_a_closure,
        in_a_variable_of_the_context,
        in_a_variable_of_the_module,
        lambda once: functools.partial(submit, client_order_id=once.key),
        lambda once: Order("AAPL", once).send,
        lambda once: Order("AAPL", {"id": once.key}).send,
        lambda once: Slotted(once.key).send,
        lambda once: Desk(),
    ],
)
async def test_function_that_has_the_key_or_may_have_it_is_sent_and_nothing_is_said(
    recovery: ErrorRecoveryService, bind: Callable[[Once[str]], Any]
) -> None:
    """Bound to it, or around it."""
    once = recovery.service("orders").once(confirm=absent)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert await once.call(bind(once), "AAPL") == "sent"


@pytest.mark.asyncio
async def test_function_that_is_given_nothing_is_sent_and_nothing_is_said(
    recovery: ErrorRecoveryService,
) -> None:
    """It says by itself what it sends: to flatten a book needs no key."""
    assert await recovery.service("orders").once(confirm=absent).call(flatten) == "sent"
    assert await recovery.service("orders").once("bot-1", confirm=absent).call(flatten) == "sent"


@pytest.mark.asyncio
async def test_key_argument_that_the_function_does_not_have_is_named_with_the_nearest(
    recovery: ErrorRecoveryService,
) -> None:
    """And nothing is journalled."""
    once = recovery.service("orders").once("bot-1", confirm=absent, key_argument="clientOrderId")

    with pytest.raises(
        TypeError, match=r"key_argument='clientOrderId': submit\(\) has no such argument; did you mean client"
    ):
        await once.call(Client().submit, "AAPL")

    with pytest.raises(TypeError, match=r"flatten\(\) has no such argument; there are within"):
        await once.call(flatten)
    assert await once.call(submit, "AAPL") == "sent", "**more takes it"


def test_names_that_are_no_text_are_refused_with_an_example_of_their_kind(
    recovery: ErrorRecoveryService,
) -> None:
    """Not with the name of a feed."""
    orders = recovery.service("orders")
    with pytest.raises(TypeError, match='key must be a string such as "bot-1", got 5'):
        orders.once(5, confirm=absent)  # type: ignore[call-overload]  # what is refused
    with pytest.raises(
        ValueError, match='key_argument must be a string such as "client_order_id", got an empty'
    ):
        orders.once(confirm=absent, key_argument="")
    with pytest.raises(
        ValueError, match='reason must be a string such as "lost the risk feed", got an empty one'
    ):
        _ = recovery.halt("")
