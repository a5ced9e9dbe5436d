"""Orders of one service that are looked up in different places: that one is not there, only its own `confirm` can say."""

from __future__ import annotations

import asyncio
import errno
import functools
import gc
import os
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shockproof import (
    NOT_FOUND,
    UNKNOWN,
    ErrorRecoveryService,
    Found,
    HaltedError,
    JournalLockedError,
    OperationCompletedError,
    OutcomeUnknownError,
)
from shockproof.testing import VirtualClock
from tests.forked_child import ForkedChild

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


class Program:
    """Lives one after the other, on one state directory, that place their orders at one venue."""

    def __init__(self, recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
        self.recovery = recovery
        self.venue = Venue(clock)
        self._clock = clock
        self._lives = [recovery]

    def once(self, symbol: str, key: str | None, settle: float = 1.0) -> Any:
        orders = self.recovery.service("orders", max_retries=0, circuit_threshold=100)
        confirm = self.venue.find(symbol)
        return orders.once(key, confirm=confirm, key_argument="client_order_id", settle=settle)

    async def places(self, symbol: str, key: str | None, settle: float = 1.0) -> Any:
        return await self.once(symbol, key, settle).call(self.venue.submit, symbol)

    async def leaves_unknown(self, symbol: str, key: str) -> None:
        self.venue.loses_answers = self.venue.is_blind = True
        with pytest.raises(OutcomeUnknownError):
            await self.places(symbol, key)
        self.venue.loses_answers = self.venue.is_blind = False

    async def begins_a_new_life(self) -> None:
        await self.recovery.aclose()
        first = self._lives[0]
        self.recovery = ErrorRecoveryService(first.state_dir, first.error_log_dir, clock=self._clock)
        self._lives.append(self.recovery)

    async def goes_on_as_its_first_life(self) -> None:
        await self.recovery.aclose()
        self.recovery = self._lives[0]

    async def looked_up(self) -> list[Any]:
        """What became of each order that was left unknown."""
        return [one.outcome for one in await self.recovery.reconcile()]

    async def ends(self) -> None:
        for life in self._lives:
            await life.aclose()


@pytest_asyncio.fixture
async def program(recovery: ErrorRecoveryService, clock: VirtualClock) -> AsyncIterator[Program]:
    program = Program(recovery, clock)
    yield program
    await program.ends()


@pytest_asyncio.fixture
async def reborn(program: Program) -> Program:
    """In its second life; the first one left an order for EUR unknown."""
    await program.leaves_unknown("EUR", "eur")
    await program.begins_a_new_life()
    return program


@pytest.mark.asyncio
@pytest.mark.parametrize("key", ["gbp", None], ids=["a key", "a key of once"])
async def test_each_order_of_a_life_is_looked_up_by_the_confirm_that_it_was_made_with(
    program: Program, key: str | None
) -> None:
    """The last one that was made knows another symbol: there it is not, and it would be sent twice."""
    await program.leaves_unknown("EUR", "eur")
    await program.places("GBP", key)

    assert await program.looked_up() == [Found("eur")]
    with pytest.raises(OperationCompletedError):
        await program.places("EUR", "eur")


@pytest.mark.asyncio
@pytest.mark.parametrize("key", ["gbp", None], ids=["a key", "a key of once"])
async def test_order_of_an_earlier_life_that_anothers_confirm_does_not_find_stays_pending_and_holds_nobody_up(
    reborn: Program, clock: VirtualClock, key: str | None
) -> None:
    """The first order of a life looks by what it knows; asked for again by its own key, it is found."""
    begun = clock.monotonic()

    await reborn.places("GBP", key)

    assert clock.monotonic() - begun < 1.5
    assert await reborn.looked_up() == [UNKNOWN]
    assert await reborn.places("EUR", "eur") == "eur"
    assert len(reborn.venue.orders) == 2


@pytest.mark.asyncio
async def test_what_anothers_confirm_finds_is_found(reborn: Program) -> None:
    """It has been seen; where does not matter."""
    reborn.once("EUR", "another")

    assert await reborn.looked_up() == [Found("eur")]


@pytest.mark.asyncio
@pytest.mark.parametrize("then", ["nothing", "its key is read", "it is called"])
async def test_confirm_without_a_key_is_good_for_every_order_until_it_is_one_itself(
    reborn: Program, then: str
) -> None:
    """That is how a service is told how all of its orders are looked up."""
    reborn.venue.orders.clear()
    order = reborn.once("EUR", None)
    if then == "its key is read":
        assert order.key
    elif then == "it is called":
        await order.call(reborn.venue.submit, "EUR")

    assert await reborn.looked_up() == [NOT_FOUND if then == "nothing" else UNKNOWN]


@pytest.mark.asyncio
async def test_confirm_that_becomes_an_orders_own_while_it_is_asked_after_others_denies_nothing(
    reborn: Program,
) -> None:
    """It was taken for one that is good for all, and was not."""

    async def confirm(key: str) -> Any:
        assert order.key != key
        return NOT_FOUND

    order = reborn.recovery.service("orders").once(confirm=confirm, settle=0.0)

    assert await reborn.looked_up() == [UNKNOWN]


@pytest.mark.asyncio
@pytest.mark.parametrize("made", ["a partial", "a partial alone", "a lambda", "a basket", "with details"])
async def test_order_that_is_only_made_denies_no_other_order(reborn: Program, made: str) -> None:
    """It asks for a price first, or is decided against: the other one is there, and would be placed again."""
    orders, venue = reborn.recovery.service("orders"), reborn.venue

    async def find(symbol: str, key: str) -> Any:
        return await venue.find(symbol)(key)

    if made == "a partial":
        orders.once(confirm=functools.partial(find, "GBP"), key_argument="client_order_id", settle=1.0)
    elif made == "a partial alone":
        orders.once(confirm=functools.partial(find, "GBP"), settle=1.0)
    elif made == "a lambda":
        orders.once(confirm=lambda key: find("GBP", key), key_argument="client_order_id", settle=1.0)
    elif made == "a basket":
        for symbol in ("GBP", "USD"):
            reborn.once(symbol, None)
    else:
        orders.once(confirm=venue.find("GBP"), details={"symbol": "GBP"}, settle=1.0)

    assert await reborn.looked_up() == [UNKNOWN]
    assert await reborn.places("EUR", "eur") == "eur"
    assert venue.orders == [("EUR", "eur")]


@pytest.mark.asyncio
async def test_order_in_the_making_takes_no_key_from_the_confirm_that_was_given_for_it(
    program: Program,
) -> None:
    """Only one that is given alone says anew how all are looked up."""
    await program.leaves_unknown("EUR", "eur")
    program.once("GBP", None)

    assert await program.looked_up() == [Found("eur")]


@pytest.mark.asyncio
async def test_orders_that_are_certainly_not_there_keep_nothing_of_what_they_were_made_with(
    program: Program,
) -> None:
    """A confirm holds what it closes over: a client, a book, a day's prices."""
    confirms = weakref.WeakSet[Any]()

    async def refused(symbol: str, *, client_order_id: str) -> None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody there")

    async def places(key: str | None) -> None:
        orders = program.recovery.service("orders", max_retries=0, circuit_threshold=None)
        confirm = program.venue.find("EUR")
        confirms.add(confirm)
        once = orders.once(key, confirm=confirm, key_argument="client_order_id", settle=0.0)
        with pytest.raises(ConnectionRefusedError):
            await once.call(refused, "EUR")

    for number in range(20):
        await places(None if number % 2 else f"eur-{number}")
    gc.collect()
    assert len(confirms) <= 2, "the last one, and nobody else's"


@pytest.mark.asyncio
async def test_directory_that_this_process_owns_by_another_path_is_named_so(tmp_path: Path) -> None:
    """Nobody is told to end the process that they look at."""
    (tmp_path / "state").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "state")
    async with (
        ErrorRecoveryService(tmp_path / "state", tmp_path / "errors") as first,
        ErrorRecoveryService(tmp_path / "link", tmp_path / "errors") as second,
        first.operation("rebalance", key="1"),
    ):
        with pytest.raises(
            JournalLockedError, match=r"belongs to this process \(\d+\) already, by another path"
        ):
            async with second.operation("rebalance", key="2"):
                pytest.fail("it does not run")


@pytest.mark.asyncio
@pytest.mark.parametrize("by", ["reconcile", "its key"])
async def test_window_that_an_order_was_sent_with_counts_in_later_lives(
    program: Program, clock: VirtualClock, by: str
) -> None:
    """Whoever looks it up with a shorter one would free what has not arrived yet."""

    async def on_its_way(symbol: str, *, client_order_id: str) -> None:
        sent.set()
        await asyncio.Event().wait()

    sent = asyncio.Event()
    task = asyncio.ensure_future(program.once("EUR", "eur", settle=60.0).call(on_its_way, "EUR"))
    await sent.wait()
    task.cancel()
    await asyncio.wait({task})
    await program.begins_a_new_life()
    begun = clock.monotonic()

    if by == "reconcile":
        program.once("EUR", None, settle=1.0)
        assert await program.looked_up() == [NOT_FOUND]
    else:
        await program.places("EUR", "eur", settle=1.0)

    assert clock.monotonic() - begun >= 60.0


@pytest.mark.asyncio
async def test_service_that_is_used_again_looks_up_what_others_left_meanwhile(program: Program) -> None:
    """From `aclose` on the directory was anybody's: what was known of it is not known any more."""
    await program.places("GBP", "first")
    await program.begins_a_new_life()
    await program.leaves_unknown("EUR", "eur")
    await program.goes_on_as_its_first_life()
    program.venue.asked_at.clear()

    await program.places("GBP", "second")

    assert program.venue.asked_at


@pytest.mark.asyncio
async def test_service_that_is_used_again_is_halted_if_another_process_was_meanwhile(
    program: Program,
) -> None:
    """The mark on the disk is read again before the next order."""
    await program.places("GBP", "first")
    await program.begins_a_new_life()
    await program.recovery.halt("enough")
    await program.goes_on_as_its_first_life()

    with pytest.raises(HaltedError, match="enough"):
        await program.places("GBP", "second")


async def blind(key: str) -> Any:
    return UNKNOWN


async def place(key: str) -> str:
    return key


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_forked_child_knows_nothing_of_what_its_parent_had_looked_at(tmp_path: Path) -> None:
    """When it has the directory for itself the parent is gone, and may have left orders, or a halt."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", max_retries=0)
    asyncio.run(recovery.service("orders").once(confirm=blind, key_argument="key").call(place))
    sendings = recovery._sendings
    assert sendings.are_settled("orders")
    assert recovery._halt.is_known
    child = ForkedChild(lambda: [sendings.are_settled("orders"), recovery._halt.is_known])

    assert child.answer() == [False, False]
    asyncio.run(recovery.aclose())


@pytest.mark.parametrize("name", ["orders.once", ".once"])
def test_operation_with_the_name_of_a_services_orders_is_refused(
    recovery: ErrorRecoveryService, name: str
) -> None:
    """One journal, one name, one key: an order would be taken for done because something else was."""
    with pytest.raises(ValueError, match=r"'orders_once'|'_once'"):
        recovery.operation(name, key="K")
    recovery.operation(name)
