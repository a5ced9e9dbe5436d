"""
Orders, from the wish to the last fill, with every step safe to die after.

* The whole way is one durable *operation*: on the disk before anything is sent, ended when the book on the disk has
  the order's end. What a life leaves behind is what its journal has pending.
* The order is sent *once*: under one id, and never again before the venue is proven not to have it. Where nobody
  knows, ``confirm`` asks the venue.
* A restart calls *reconcile*, and goes on with each operation where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from shockproof import (
    UNKNOWN,
    CallRejectedError,
    ErrorRecoveryService,
    Found,
    HaltedError,
    JournalLockedError,
    JournalUnavailableError,
    OperationCompletedError,
    OutcomeUnknownError,
    StateNotSavedError,
)
from shockproof.demo.book import OPERATION, Book, Order, OrderState, Report, name_of, new_client_id, symbol_of
from shockproof.integrations.ccxt import classify_for, find_order, meaning_of
from shockproof.integrations.outcome_table import Meaning
from shockproof.vocabulary.clock import Clock, SystemClock

if TYPE_CHECKING:
    from ccxt.async_support import binance
    from ccxt.base.types import Order as CcxtOrder

    from shockproof.demo.strategy import Wish
    from shockproof.demo.timing import Timing
    from shockproof.vocabulary.look_up import LookUp

__all__ = ["ORDERS", "OrderDesk"]

ORDERS = "binance.orders"
"""The service of everything that changes something at the venue, as ``protect`` names it."""

_BINANCE_TAKES = r"[0-9A-Za-z_-]{1,36}"
_SAY_NOTHING = (HaltedError, JournalUnavailableError, JournalLockedError)
"""They refuse a call before anybody has asked what became of an earlier one with the same id."""


class OrderDesk:
    """
    Carries out orders, one task each.

    Args:
        recovery: guards the calls.
        exchange: ccxt's client: what is sent once is sent with it.
        venue: the same, protected: for cancels and look-ups.
        book: where the orders are written down.
        save: makes the book durable; raises StateNotSavedError.
        tell: told in words what happened that is worth knowing.
        outcome: told of each order whose outcome is ``"unknown"``, and then how it was settled.
        timing: the time limits.
        clock: where time comes from; the service's.
    """

    def __init__(
        self,
        recovery: ErrorRecoveryService,
        exchange: binance,
        venue: binance,
        book: Book,
        *,
        save: Callable[[], Awaitable[object]],
        tell: Callable[[str], None],
        outcome: Callable[[str, Literal["unknown", "look-up", "reconcile"]], None],
        timing: Timing,
        clock: Clock | None = None,
    ) -> None:
        self._recovery = recovery
        self._exchange = exchange
        self._venue = venue
        self._book = book
        self._save = save
        self._tell = tell
        self._outcome = outcome
        self._timing = timing
        self._clock = SystemClock() if clock is None else clock
        self._closing = asyncio.Event()
        self._unknown: set[str] = set()
        self._orders = recovery.service(
            ORDERS,
            classify=classify_for(exchange),
            timeout=timing.timeout,
            max_retries=2,
            base_delay=0.1,
        )

    async def carry_out(self, wish: Wish) -> Order:
        """Make an order of a wish, and see it through to its end."""
        order = Order(
            client_id=new_client_id(len(self._book) + 1, wish.symbol),
            symbol=wish.symbol,
            side=wish.side,
            type="market" if wish.price is None else "limit",
            quantity=wish.quantity,
            price=wish.price,
            valid_until=self._clock.time() + self._timing.valid_for,
        )
        self._book.add(order)
        await self._carry_out(order.client_id, order.to_dict())
        return order

    async def go_on_with(self, client_id: str) -> None:
        """See an order through that an earlier life left behind, from wherever it was; `reconcile` first."""
        await self._carry_out(client_id, {})

    async def reconcile(self) -> None:
        """Find out what became of the orders that nobody knows of, as those that were in flight when the trader died."""
        self._orders.once(confirm=self._confirm, settle=self._timing.settle)  # this is how they are looked up
        while True:
            settled = await self._recovery.reconcile()
            for one in settled:
                if one.outcome is UNKNOWN:
                    continue
                if isinstance(one.outcome, Found) and one.key in self._book.orders:
                    self._book.note(Report.from_ccxt(one.outcome.value))
                self._settled(one.key, "reconcile")
                is_there = isinstance(one.outcome, Found)
                self._tell(f"{name_of(one.key)} reconciled: {'found' if is_there else 'not'} at the venue")
            if all(one.outcome is not UNKNOWN for one in settled):
                return
            await self._clock.sleep(self._timing.timeout / 2)  # the venue is away

    def close(self) -> None:
        """No more waiting: nothing is sent any more, and what stands in the venue's book is cancelled now."""
        self._closing.set()

    # -- an order's way -------------------------------------------------------------------------------

    async def _carry_out(self, client_id: str, details: dict[str, Any]) -> None:  # Any: JSON
        has_begun = False
        try:
            async with self._recovery.operation(OPERATION, key=client_id, **details) as operation:
                has_begun = True
                if client_id not in self._book.orders:
                    self._book.add(Order.from_dict(operation.details))
                order = self._book.orders[client_id]
                with self._recovery.context(order=client_id, symbol=order.symbol):
                    await self._place(order)
                    await self._see_through(order)
                # First the book on the disk has its end, then the journal forgets the order.
                await self._save()
        except (*_SAY_NOTHING, StateNotSavedError) as error:
            if has_begun or not details:
                self._tell(f"{name_of(client_id)} stays pending until the next start: {error}")
            else:
                self._give_up(client_id, f"not journalled: {error}")

    async def _place(self, order: Order) -> None:
        """Send it once; when this returns, it is known what became of it."""
        once = self._orders.once(
            order.client_id,
            confirm=self._confirm,
            settle=self._timing.settle,
            key_pattern=_BINANCE_TAKES,
            valid_until=datetime.fromtimestamp(order.valid_until, UTC),
            still_wanted=lambda: not self._closing.is_set(),
        )
        while order.state is OrderState.PENDING:
            try:
                answer = await once.call(
                    self._exchange.create_order,
                    order.symbol,
                    order.type,
                    order.side,
                    float(order.quantity),
                    None if order.price is None else float(order.price),
                    {"newClientOrderId": once.key},
                )
            except OutcomeUnknownError:
                self._tell(f"{order.name} stays unknown, as the look-ups fail, too: asked again")
                await self.reconcile()
            except OperationCompletedError as known:  # an earlier life learned of it, or reconcile() did
                if isinstance(known.result, dict):
                    self._book.note(Report.from_ccxt(known.result))
                else:
                    await self._look(order)
            except _SAY_NOTHING:
                raise
            except CallRejectedError as error:  # behind a look-up, where it was ever sent
                self._give_up(order.client_id, str(error))
            except Exception as error:  # noqa: BLE001 - whatever it is: it is certain that nothing was placed
                if meaning_of(error) is Meaning.REFUSED:
                    self._book.note_rejected(order.client_id)
                    self._tell(f"{order.name} rejected: {type(error).__name__}")
                else:
                    self._give_up(order.client_id, type(error).__name__)
            else:
                self._book.note(Report.from_ccxt(answer))
        self._settled(order.client_id, "look-up")

    async def _see_through(self, order: Order) -> None:
        """Give an open order some time to be filled, then cancel it; its end is what the venue says."""
        while order.state is OrderState.OPEN:
            try:
                async with asyncio.timeout(self._timing.rest):
                    await self._closing.wait()
            except TimeoutError:
                pass
            try:
                answer = await self._venue.cancel_order("", order.symbol, {"clientOrderId": order.client_id})
                self._book.note(Report.from_ccxt(answer))
            except Exception:  # noqa: BLE001 - filled before, lost, or refused: the look-up tells
                await self._look(order)

    def _give_up(self, client_id: str, why: str) -> None:
        self._book.note_not_sent(client_id)
        self._tell(f"{name_of(client_id)} is not at the venue, and given up ({why})")

    # -- finding out ----------------------------------------------------------------------------------

    async def _look(self, order: Order) -> None:
        """Note what the venue says of an order that it has; the caller comes again."""
        found = await find_order(self._venue, order.client_id, order.symbol)
        if isinstance(found, Found):
            self._book.note(Report.from_ccxt(found.value))
        await self._clock.sleep(0.2)

    async def _confirm(self, client_id: str) -> LookUp[CcxtOrder]:
        if client_id not in self._unknown:
            self._unknown.add(client_id)
            self._outcome(client_id, "unknown")
            self._tell(f"{name_of(client_id)} unknown: looking it up")
        return await find_order(self._venue, client_id, symbol_of(client_id))

    def _settled(self, client_id: str, by: Literal["look-up", "reconcile"]) -> None:
        if client_id in self._unknown:
            self._unknown.discard(client_id)
            self._outcome(client_id, by)
