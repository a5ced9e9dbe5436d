"""
Orders, from the wish to the last fill, with every step safe to die after.

1. The order gets its client id, and the book with it is made durable: before anything is sent.
2. It is sent, as an *unsafe* call: repeated only when the error proves that nothing happened.
3. If nobody knows what became of it, it is looked up, until it is found or proven absent.
4. Only an order that is proven absent may be sent again, under the same id.

A restart begins at 3 with whatever the book does not know.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import ccxt

from shockproof import (
    CallRejectedError,
    ErrorRecoveryService,
    Outcome,
    StateNotSavedError,
    attempts_of,
)
from shockproof.demo.book import Book, Order, OrderState, Report
from shockproof.integrations.ccxt import classify_for, meaning_of
from shockproof.integrations.outcome_table import Meaning
from shockproof.vocabulary.clock import Clock, SystemClock

if TYPE_CHECKING:
    from ccxt.async_support import binance

    from shockproof.demo.strategy import Wish
    from shockproof.demo.timing import Timing

__all__ = ["OrderDesk"]

_MOST_SENDS = 2


class OrderDesk:
    """
    Carries out orders, one task each.

    Args:
        recovery: guards the calls.
        exchange: ccxt's client.
        book: where the orders are written down.
        save: makes the book durable; raises StateNotSavedError.
        tell: told in words what happened that is worth knowing.
        timing: the time limits.
        clock: where time comes from; the service's.
    """

    def __init__(
        self,
        recovery: ErrorRecoveryService,
        exchange: binance,
        book: Book,
        *,
        save: Callable[[], Awaitable[object]],
        tell: Callable[[str], None],
        timing: Timing,
        clock: Clock | None = None,
    ) -> None:
        self._recovery = recovery
        self._exchange = exchange
        self._book = book
        self._save = save
        self._tell = tell
        self._timing = timing
        self._clock = SystemClock() if clock is None else clock
        self._closing = asyncio.Event()
        self.looked_up = 0
        """Orders whose outcome was unknown and was found out."""
        classify = classify_for(exchange)
        self._orders = recovery.service(
            "trading",
            effect="unsafe",
            timeout=timing.timeout,
            deadline=timing.deadline,
            max_retries=2,
            base_delay=0.1,
            classify=classify,
            circuit_threshold=4,
            circuit_timeout=timing.circuit_timeout,
        )
        # Cancelling twice does no harm, and it must get through when nothing else may.
        self._cancels = self._orders.using(effect="idempotent", risk_reducing=True)
        self._look_ups = recovery.service(
            "order_lookup",
            timeout=timing.timeout,
            max_retries=1,
            base_delay=0.1,
            classify=classify,
            circuit_threshold=4,
            circuit_timeout=timing.circuit_timeout / 2,
        )

    async def carry_out(self, wish: Wish) -> Order:
        """Make an order of a wish, and see it through to its end."""
        order = Order(
            client_id=f"sp-{len(self._book) + 1:04d}-{secrets.token_hex(4)}",
            symbol=wish.symbol,
            side=wish.side,
            type="market" if wish.price is None else "limit",
            quantity=wish.quantity,
            price=wish.price,
        )
        self._book.add(order)
        wanted_until = self._clock.monotonic() + 4 * self._timing.timeout
        with self._recovery.context(order=order.client_id, symbol=order.symbol):
            await self._send(order)
            if order.state is OrderState.PENDING:
                await self._find_out(order)
            while order.state is OrderState.PENDING:  # proven absent
                if (
                    order.sends >= _MOST_SENDS
                    or self._clock.monotonic() > wanted_until
                    or self._closing.is_set()
                ):
                    self._book.note_not_sent(order.client_id)
                    self._tell(f"{order.name} never reached the venue: given up")
                    break
                self._tell(f"{order.name} never reached the venue: sent again, under the same id")
                await self._send(order)
                if order.state is OrderState.PENDING:
                    await self._find_out(order)
            await self._see_through(order)
        return order

    async def take_over(self, order: Order) -> None:
        """See an order through that an earlier life left behind: look it up first, never send it again."""
        with self._recovery.context(order=order.client_id, symbol=order.symbol):
            await self.reconcile(order)
            await self._see_through(order)

    async def reconcile(self, order: Order) -> None:
        """Find out about an order that an earlier life left pending."""
        if order.state is not OrderState.PENDING:
            return
        # Should the clock have been set back meanwhile: the wait is never longer than it can have to be.
        order.settled_after = min(order.settled_after, self._clock.time() + self._timing.until_settled)
        await self._find_out(order)
        if order.state is OrderState.PENDING:
            # Its price is that of another life: better none than a stale one.
            self._book.note_not_sent(order.client_id)
            self._tell(f"{order.name} was never sent: the trader died just before")

    def close(self) -> None:
        """No more waiting: what stands in the venue's book is cancelled now."""
        self._closing.set()

    # -- sending --------------------------------------------------------------------------------------

    async def _send(self, order: Order) -> None:
        """Once it is durable that we are going to: send the order. What is not known leaves it pending."""
        intended_at = self._clock.time()
        order.sends += 1
        order.settled_after = intended_at + self._timing.until_settled  # holds even if we die right now
        try:
            await self._save()
        except StateNotSavedError as error:
            self._book.note_not_sent(order.client_id)
            self._tell(f"{order.name} was not sent: {error}")
            return
        if not 0 <= self._clock.time() - intended_at <= self._timing.send_within:
            # Too late to be covered by what is on disk, and for a price of then.
            self._book.note_not_sent(order.client_id)
            self._tell(f"{order.name} was not sent: the disk was too slow, its price is old")
            return
        try:
            answer = await self._orders.call(
                self._exchange.create_order,
                order.symbol,
                order.type,
                order.side,
                float(order.quantity),
                None if order.price is None else float(order.price),
                {"newClientOrderId": order.client_id},
            )
        except CallRejectedError:
            self._book.note_not_sent(order.client_id)  # an open circuit: it did not leave the house
        except Exception as error:  # noqa: BLE001 - each kind has its consequence, and the last is: look
            self._failed(order, error)
        else:
            self._book.note(Report.from_ccxt(answer))

    def _failed(self, order: Order, error: Exception) -> None:
        attempts = attempts_of(error)
        if meaning_of(error) is Meaning.REFUSED:
            self._book.note_rejected(order.client_id)
            self._tell(f"{order.name} rejected: {type(error).__name__}")
        elif attempts and attempts[-1].outcome is not Outcome.UNKNOWN:
            self._book.note_not_sent(order.client_id)  # every attempt proved that nothing happened
        else:
            order.settled_after = self._clock.time() + self._timing.settle
            self._tell(f"{order.name} unknown ({type(error).__name__}): looking it up")

    # -- finding out ----------------------------------------------------------------------------------

    async def _find_out(self, order: Order) -> None:
        """Look the order up until it is found; still pending afterwards: proven absent."""
        pause = 0.05
        while True:
            proves_absence = self._clock.time() > order.settled_after  # asked before the look-up begins
            try:
                report = await self._look_up(order)
            except Exception:  # noqa: BLE001 - a look-up that failed says nothing, whatever the failure
                proves_absence, report = False, None
            if report is not None:
                self._book.note(report)
                self._tell(f"{order.name} found at the venue: {report.state}")
            if report is not None or proves_absence:
                self.looked_up += 1
                return
            await self._clock.sleep(pause)
            pause = min(2 * pause, 0.5)

    async def _look_up(self, order: Order) -> Report | None:
        """What the venue knows: asked for this order, and if that finds nothing, for all of them."""
        wanted = {"origClientOrderId": order.client_id}
        try:
            return Report.from_ccxt(
                await self._look_ups.call(self._exchange.fetch_order, "", order.symbol, wanted)
            )
        except ccxt.OrderNotFound:
            pass
        for found in await self._look_ups.call(self._exchange.fetch_orders, order.symbol):
            if found["clientOrderId"] == order.client_id:
                return Report.from_ccxt(found)
        return None

    # -- an order that stands in the venue's book ---------------------------------------------------------

    async def _see_through(self, order: Order) -> None:
        """Give an open order some time to be filled, then cancel it; its end is what the venue says."""
        while order.state is OrderState.OPEN:
            try:
                async with asyncio.timeout(self._timing.rest):
                    await self._closing.wait()
            except TimeoutError:
                pass
            try:
                async with self._cancels.guard():
                    answer = await self._exchange.cancel_order(
                        "", order.symbol, {"origClientOrderId": order.client_id}
                    )
                self._book.note(Report.from_ccxt(answer))
            except Exception:  # noqa: BLE001 - filled before, lost, or refused: the look-up tells
                await self._find_out_more(order)

    async def _find_out_more(self, order: Order) -> None:
        try:
            report = await self._look_up(order)
        except Exception:  # noqa: BLE001 - as in _find_out; the caller comes again
            report = None
        if report is not None:
            self._book.note(report)
        await self._clock.sleep(0.2)
