"""Venues that find an order by symbol and id: `confirm` gets the details that the order was journalled with."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from unittest.mock import AsyncMock

import pytest

from shockproof import (
    NOT_FOUND,
    UNKNOWN,
    ErrorRecoveryService,
    Found,
    LookUp,
    OutcomeUnknownError,
    register_type,
)
from shockproof.calls.confirm import with_details
from shockproof.memory.state import registered_types
from shockproof.memory.state.codec import UnsavableValueError
from shockproof.testing import VirtualClock

DETAILS = {"symbol": "EURUSDT", "limit": Decimal("1.10"), "at": datetime(2026, 11, 26, tzinfo=UTC)}


class Venue:
    """It books an order under its symbol, loses the answer, and finds it there alone."""

    def __init__(self) -> None:
        self.orders: dict[tuple[str, str], str] = {}
        self.is_down = True
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def submit(self, symbol: str, *, order_id: str) -> str:
        self.orders[symbol, order_id] = order_id
        raise ConnectionResetError

    async def find(self, key: str, details: Mapping[str, Any]) -> LookUp[str]:
        self.asked.append((key, dict(details)))
        if self.is_down:
            raise ConnectionResetError
        return Found(key) if (details["symbol"], key) in self.orders else NOT_FOUND


def next_life(recovery: ErrorRecoveryService, clock: VirtualClock) -> ErrorRecoveryService:
    return ErrorRecoveryService(recovery.state_dir, recovery.error_log_dir, clock=clock)


@pytest.mark.asyncio
async def test_order_is_looked_up_by_its_details_in_this_life(recovery: ErrorRecoveryService) -> None:
    """They are as they were when the order was made, whatever becomes of the dict."""
    venue, details = Venue(), dict(DETAILS)
    venue.is_down = False
    once = recovery.service("orders").once("a", confirm=venue.find, details=details, key_argument="order_id")
    details.clear()
    assert await once.call(venue.submit, "EURUSDT") == "a"
    assert venue.asked == [("a", DETAILS)]


@pytest.mark.asyncio
async def test_later_life_looks_every_order_up_by_its_own_details(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """One confirm is good for all symbols, and gets the values in the types that they had."""
    venue = Venue()
    for key, symbol in (("a", "EURUSDT"), ("b", "GBPUSDT")):
        once = recovery.service("orders", circuit_threshold=None).once(
            key,
            confirm=venue.find,
            details={**DETAILS, "symbol": symbol},
            key_argument="order_id",
            settle=1.0,
        )
        with pytest.raises(OutcomeUnknownError):
            await once.call(venue.submit, symbol)
    await recovery.aclose()
    venue.is_down, venue.asked = False, []

    reborn = next_life(recovery, clock)
    reborn.service("orders").once(confirm=venue.find, settle=1.0)
    assert [one.outcome for one in await reborn.reconcile()] == [Found("a"), Found("b")]
    assert sorted(venue.asked, key=lambda one: one[0]) == [
        ("a", DETAILS),
        ("b", {**DETAILS, "symbol": "GBPUSDT"}),
    ]
    await reborn.aclose()


@pytest.mark.asyncio
async def test_key_that_is_placed_again_is_looked_up_by_what_it_was_journalled_with(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """What is given now may be another place. Where nothing was journalled, it is all there is."""
    venue = Venue()
    orders = recovery.service("orders", circuit_threshold=None)
    for key, details in (("a", DETAILS), ("b", None)):
        once = orders.once(key, confirm=venue.find, details=details, key_argument="order_id", settle=1.0)
        with pytest.raises(OutcomeUnknownError):
            await once.call(venue.submit, "EURUSDT")
    venue.is_down = False
    again = orders.once(
        "a", confirm=venue.find, details={"symbol": "GBPUSDT"}, key_argument="order_id", settle=1.0
    )
    assert await again.call(venue.submit, "EURUSDT") == "a"
    await recovery.aclose()

    reborn = next_life(recovery, clock)
    again = reborn.service("orders").once(
        "b", confirm=venue.find, details={"symbol": "EURUSDT"}, key_argument="order_id", settle=1.0
    )
    assert await again.call(venue.submit, "EURUSDT") == "b"
    assert len(venue.orders) == 2
    await reborn.aclose()


@pytest.mark.asyncio
async def test_details_that_cannot_come_back_are_refused_before_anything_is_sent(
    recovery: ErrorRecoveryService,
) -> None:
    """Where they are given, with their path."""
    orders, venue = recovery.service("orders"), Venue()
    with pytest.raises(UnsavableValueError, match=r"details\.client"):
        orders.once(confirm=venue.find, details={"client": object()})
    for bad in ("EURUSDT", {1: "EURUSDT"}):
        with pytest.raises(TypeError, match="details must be a dict of what the order is looked up by"):
            orders.once(confirm=venue.find, details=bad)  # type: ignore[arg-type]  # on purpose


@dataclass
class _Market:
    """A class of the program's own, which a later life may not have registered."""

    name: str


@pytest.mark.asyncio
async def test_details_that_a_later_life_cannot_read_prove_nothing(
    recovery: ErrorRecoveryService, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A confirm that looks in a default place instead would not find the order, and it would be sent again."""
    monkeypatch.setattr(registered_types, "_by_name", {})
    register_type(_Market)
    venue = Venue()
    once = recovery.service("orders").once(
        "a", confirm=venue.find, details={"market": _Market("EURUSDT")}, key_argument="order_id", settle=1.0
    )
    with pytest.raises(OutcomeUnknownError):
        await once.call(venue.submit, "EURUSDT")
    await recovery.aclose()
    venue.is_down, venue.asked = False, []
    registered_types._by_name.clear()

    async def find_in_a_market(key: str, details: Mapping[str, Any]) -> LookUp[str]:
        return await venue.find(key, {"symbol": details.get("market", "spot")})

    async def find_anywhere(key: str, details: Mapping[str, Any]) -> LookUp[str]:
        return Found(key)

    reborn = next_life(recovery, clock)
    reborn.service("orders").once(confirm=find_in_a_market, settle=1.0)
    assert [one.outcome for one in await reborn.reconcile()] == [UNKNOWN]
    assert venue.asked == []
    reborn.service("orders").once(confirm=find_anywhere, settle=1.0)
    assert [one.outcome for one in await reborn.reconcile()] == [Found("a")]
    await reborn.aclose()


async def of_the_key(key: str) -> LookUp[str]:
    return Found(key)


async def with_a_default(key: str, market: str = "spot") -> LookUp[str]:
    return Found(market)


async def with_details_by_default(key: str, details: Mapping[str, Any] | None = None) -> LookUp[str]:
    return Found(str(details))


async def of_both(key: str, about: Mapping[str, Any], /) -> LookUp[str]:
    return Found(str(about))


async def behind_a_venue(venue: str, key: str, details: Mapping[str, Any]) -> LookUp[str]:
    return Found(f"{venue} {details}")


async def of_anything(key: str, *more: object) -> LookUp[str]:
    return Found(str(more))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("confirm", "answer"),
    [
        (of_the_key, "k"),
        (with_a_default, "spot"),
        (of_anything, "()"),
        (AsyncMock(return_value=Found("mock")), "mock"),
        (with_details_by_default, "{'a': 1}"),
        (of_both, "{'a': 1}"),
        (functools.partial(behind_a_venue, "v"), "v {'a': 1}"),
    ],
)
async def test_whether_it_takes_details_is_told_by_its_second_parameter(confirm: Any, answer: str) -> None:
    """One with a default and another name is the user's own."""
    assert await with_details(confirm)("k", {"a": 1}) == Found(answer)


@pytest.mark.parametrize("confirm", [lambda: None, lambda key, details, more: None, lambda *, key: None])
def test_confirm_that_can_take_neither_is_refused_at_once(confirm: Any) -> None:
    """At the order it would count as a look-up that failed, for ever."""
    with pytest.raises(
        TypeError, match="confirm must be an async function of the key, or of the key and the details"
    ):
        with_details(confirm)
