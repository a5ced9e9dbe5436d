"""Orders of one service that are looked up in different places: that one is not there, only its own `confirm` can say."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from shockproof import (
    NOT_FOUND,
    UNKNOWN,
    ErrorRecoveryService,
    Found,
    HaltedError,
    OperationCompletedError,
    OutcomeUnknownError,
)
from shockproof.testing import VirtualClock

Confirm = Callable[[str], Awaitable[Any]]


class Venue:
    """It looks an order up by its symbol and its key, as many do, and loses the answers it is told to lose."""

    def __init__(self, clock: VirtualClock) -> None:
        self.orders: list[tuple[str, str]] = []
        self.loses_answers = False
        self.is_blind = False
        self.asked_at: list[float] = []
        self._clock = clock

    async def submit(self, symbol: str, *, client_order_id: str) -> str:
        self.orders.append((symbol, client_order_id))
        if self.loses_answers:
            raise ConnectionResetError
        return client_order_id

    def find(self, symbol: str) -> Confirm:
        """What a recipe for one order writes as ``lambda key: find_order(venue, key, symbol)``."""

        async def confirm(key: str) -> Any:
            self.asked_at.append(self._clock.monotonic())
            if self.is_blind:
                return UNKNOWN
            return Found(key) if (symbol, key) in self.orders else NOT_FOUND

        return confirm


def once(
    recovery: ErrorRecoveryService, venue: Venue, symbol: str, key: str | None, settle: float = 1.0
) -> Any:
    orders = recovery.service("orders", max_retries=0, circuit_threshold=100)
    return orders.once(key, confirm=venue.find(symbol), key_argument="client_order_id", settle=settle)


async def left_unknown(recovery: ErrorRecoveryService, venue: Venue, symbol: str, key: str) -> None:
    venue.loses_answers = venue.is_blind = True
    with pytest.raises(OutcomeUnknownError):
        await once(recovery, venue, symbol, key).call(venue.submit, symbol)
    venue.loses_answers = venue.is_blind = False


def next_life(recovery: ErrorRecoveryService, clock: VirtualClock) -> ErrorRecoveryService:
    return ErrorRecoveryService(recovery.state_dir, recovery.error_log_dir, clock=clock)


@pytest.mark.asyncio
@pytest.mark.parametrize("key", ["gbp", None], ids=["a key", "a key of once"])
async def test_each_order_of_a_life_is_looked_up_by_the_confirm_that_it_was_made_with(
    recovery: ErrorRecoveryService, clock: VirtualClock, key: str | None
) -> None:
    """The last one that was made knows another symbol: there it is not, and it would be sent twice."""
    venue = Venue(clock)
    await left_unknown(recovery, venue, "EUR", "eur")
    await once(recovery, venue, "GBP", key).call(venue.submit, "GBP")

    assert [one.outcome for one in await recovery.reconcile()] == [Found("eur")]
    with pytest.raises(OperationCompletedError):
        await once(recovery, venue, "EUR", "eur").call(venue.submit, "EUR")


@pytest.mark.asyncio
@pytest.mark.parametrize("key", ["gbp", None], ids=["a key", "a key of once"])
async def test_order_of_an_earlier_life_that_anothers_confirm_does_not_find_stays_pending_and_holds_nobody_up(
    recovery: ErrorRecoveryService, clock: VirtualClock, key: str | None
) -> None:
    """The first order of a life looks by what it knows; asked for again by its own key, it is found."""
    venue = Venue(clock)
    await left_unknown(recovery, venue, "EUR", "eur")
    await recovery.aclose()
    reborn = next_life(recovery, clock)
    begun = clock.monotonic()

    await once(reborn, venue, "GBP", key).call(venue.submit, "GBP")

    assert clock.monotonic() - begun < 1.5
    assert [one.outcome for one in await reborn.reconcile()] == [UNKNOWN]
    assert await once(reborn, venue, "EUR", "eur").call(venue.submit, "EUR") == "eur"
    assert len(venue.orders) == 2
    await reborn.aclose()


@pytest.mark.asyncio
async def test_what_anothers_confirm_finds_is_found(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It has been seen; where does not matter."""
    venue = Venue(clock)
    await left_unknown(recovery, venue, "EUR", "eur")
    await recovery.aclose()
    reborn = next_life(recovery, clock)
    once(reborn, venue, "EUR", "another")

    assert [one.outcome for one in await reborn.reconcile()] == [Found("eur")]
    await reborn.aclose()


@pytest.mark.asyncio
@pytest.mark.parametrize("then", ["nothing", "its key is read", "it is called"])
async def test_confirm_without_a_key_is_good_for_every_order_until_it_is_one_itself(
    recovery: ErrorRecoveryService, clock: VirtualClock, then: str
) -> None:
    """That is how a service is told how all of its orders are looked up."""
    venue = Venue(clock)
    await left_unknown(recovery, venue, "EUR", "eur")
    venue.orders.clear()
    await recovery.aclose()
    reborn = next_life(recovery, clock)
    order = once(reborn, venue, "EUR", None)
    if then == "its key is read":
        assert order.key
    elif then == "it is called":
        await order.call(venue.submit, "EUR")

    assert [one.outcome for one in await reborn.reconcile()] == [NOT_FOUND if then == "nothing" else UNKNOWN]
    await reborn.aclose()


@pytest.mark.asyncio
async def test_confirm_that_becomes_an_orders_own_while_it_is_asked_after_others_denies_nothing(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It was taken for one that is good for all, and was not."""
    venue = Venue(clock)
    await left_unknown(recovery, venue, "EUR", "eur")
    await recovery.aclose()
    reborn = next_life(recovery, clock)

    async def confirm(key: str) -> Any:
        assert order.key != key
        return NOT_FOUND

    order = reborn.service("orders").once(confirm=confirm, settle=0.0)

    assert [one.outcome for one in await reborn.reconcile()] == [UNKNOWN]
    await reborn.aclose()


@pytest.mark.asyncio
@pytest.mark.parametrize("by", ["reconcile", "its key"])
async def test_window_that_an_order_was_sent_with_counts_in_later_lives(
    recovery: ErrorRecoveryService, clock: VirtualClock, by: str
) -> None:
    """Whoever looks it up with a shorter one would free what has not arrived yet."""
    venue = Venue(clock)

    async def on_its_way(symbol: str, *, client_order_id: str) -> None:
        sent.set()
        await asyncio.Event().wait()

    sent = asyncio.Event()
    task = asyncio.ensure_future(once(recovery, venue, "EUR", "eur", settle=60.0).call(on_its_way, "EUR"))
    await sent.wait()
    task.cancel()
    await asyncio.wait({task})
    await recovery.aclose()
    begun = clock.monotonic()
    reborn = next_life(recovery, clock)

    if by == "reconcile":
        once(reborn, venue, "EUR", None, settle=1.0)
        assert [one.outcome for one in await reborn.reconcile()] == [NOT_FOUND]
    else:
        await once(reborn, venue, "EUR", "eur", settle=1.0).call(venue.submit, "EUR")

    assert clock.monotonic() - begun >= 60.0
    await reborn.aclose()


@pytest.mark.asyncio
async def test_service_that_is_used_again_looks_up_what_others_left_meanwhile(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """From `aclose` on the directory was anybody's: what was known of it is not known any more."""
    venue = Venue(clock)
    await once(recovery, venue, "GBP", "first").call(venue.submit, "GBP")
    await recovery.aclose()
    other = next_life(recovery, clock)
    await left_unknown(other, venue, "EUR", "eur")
    await other.aclose()
    venue.asked_at.clear()

    await once(recovery, venue, "GBP", "second").call(venue.submit, "GBP")

    assert venue.asked_at


@pytest.mark.asyncio
async def test_service_that_is_used_again_is_halted_if_another_process_was_meanwhile(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The mark on the disk is read again before the next order."""
    venue = Venue(clock)
    await once(recovery, venue, "GBP", "first").call(venue.submit, "GBP")
    await recovery.aclose()
    other = next_life(recovery, clock)
    await other.halt("enough")
    await other.aclose()

    with pytest.raises(HaltedError, match="enough"):
        await once(recovery, venue, "GBP", "second").call(venue.submit, "GBP")


async def blind(key: str) -> Any:
    return UNKNOWN


async def place(key: str) -> str:
    return key


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_forked_child_knows_nothing_of_what_its_parent_had_looked_at(tmp_path: Path) -> None:
    """When it has the directory for itself the parent is gone, and may have left orders, or a halt."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", max_retries=0)
    asyncio.run(recovery.service("orders").once(confirm=blind, key_argument="key").call(place))
    sendings = recovery._runtime.sendings
    assert sendings is not None
    assert sendings.are_settled("orders")
    assert recovery._halt.is_known
    child = os.fork()
    if child == 0:
        os._exit(1 if sendings.are_settled("orders") or recovery._halt.is_known else 0)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    asyncio.run(recovery.aclose())


@pytest.mark.parametrize("name", ["orders.once", ".once"])
def test_operation_with_the_name_of_a_services_orders_is_refused(
    recovery: ErrorRecoveryService, name: str
) -> None:
    """One journal, one name, one key: an order would be taken for done because something else was."""
    with pytest.raises(ValueError, match=r"'orders_once'|'_once'"):
        recovery.operation(name, key="K")
    recovery.operation(name)
