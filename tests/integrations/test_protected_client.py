"""A stand-in for a client, whatever the client is."""

from __future__ import annotations

from typing import Any, Self

import pytest

from shockproof import ErrorRecoveryService, Outcome, attempts_of
from shockproof.integrations.protected_client import Does, stand_in


class Client:
    """Fails as often as it is told."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def ask(self) -> str:
        self.calls.append("ask")
        raise ConnectionResetError("cut")

    async def order(self) -> str:
        self.calls.append("order")
        raise ConnectionResetError("cut")

    async def cancel(self) -> str:
        self.calls.append("cancel")
        raise ConnectionResetError("cut")

    async def sleep(self) -> str:
        return "alone"

    def plain(self) -> str:
        return "plain"

    async def __aenter__(self) -> Self:
        self.calls.append("enter")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.calls.append("exit")


def does(name: str) -> Does | None:
    ways = {"ask": Does.READ, "cancel": Does.CANCEL, "sleep": None}
    return ways.get(name, Does.WRITE)


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def protected(client: Client, recovery: ErrorRecoveryService) -> Client:
    return stand_in(client, recovery, name="it", classify=lambda value, call: None, does=does)


@pytest.mark.asyncio
@pytest.mark.parametrize(("name", "calls"), [("ask", 4), ("cancel", 4), ("order", 1)])
async def test_each_call_is_guarded_as_what_it_does(
    name: str, calls: int, client: Client, protected: Client
) -> None:
    """A read and a cancel are repeated after a cut; an order is not, and its outcome is unknown."""
    with pytest.raises(ConnectionResetError) as caught:
        await getattr(protected, name)()
    assert client.calls == [name] * calls
    last = attempts_of(caught.value)[-1].outcome
    assert last is (Outcome.UNKNOWN if name == "order" else Outcome.FAILURE)


@pytest.mark.asyncio
async def test_a_method_that_is_not_known_is_a_write(client: Client, protected: Client) -> None:
    """What a later version of the client brings is never repeated blindly."""

    async def brand_new() -> None:
        client.calls.append("new")
        raise ConnectionResetError("cut")

    client.brand_new = brand_new  # type: ignore[attr-defined]  # as a newer version has it
    with pytest.raises(ConnectionResetError):
        await protected.brand_new()  # type: ignore[attr-defined]  # as above
    assert client.calls == ["new"]


@pytest.mark.asyncio
async def test_what_is_left_alone_is_the_clients_own(client: Client, protected: Client) -> None:
    """Not even a wrapper around it."""
    assert protected.sleep == client.sleep
    assert await protected.sleep() == "alone"
    assert protected.plain() == "plain"
    async with protected as entered:
        assert entered is protected
    assert client.calls == ["enter", "exit"]


def test_a_method_that_is_replaced_is_guarded_anew(client: Client, protected: Client) -> None:
    """A cached guard must not outlive the method it guards."""
    before = protected.ask

    async def ask() -> str:
        return "other"

    protected.ask = ask  # type: ignore[method-assign]  # what a test of a user's may do
    assert client.ask is ask
    assert protected.ask is not before
    assert protected.ask is protected.ask


def test_both_services_are_the_clients_own(recovery: ErrorRecoveryService, client: Client) -> None:
    """Options reach the service they are for."""
    options: Any = {"orders": {"max_concurrent": 3}, "reads": {"max_concurrent": 5}}
    stand_in(client, recovery, name="one", classify=lambda value, call: None, does=does, **options)
    with pytest.raises(ValueError, match="max_concurrent"):
        recovery.service("one.orders", max_concurrent=5)
    with pytest.raises(ValueError, match="max_concurrent"):
        recovery.service("one.reads", max_concurrent=3)
