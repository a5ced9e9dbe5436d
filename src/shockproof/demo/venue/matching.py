"""The matching engine: accepts, matches, settles. No I/O, no clock, no randomness."""

from __future__ import annotations

import itertools
from decimal import ROUND_DOWN, Decimal
from typing import TYPE_CHECKING, Protocol

from shockproof.demo.venue.accounts import Account
from shockproof.demo.venue.order_book import OrderBook
from shockproof.demo.venue.orders import Fill, NewOrder, Order, OrderStatus, OrderType, Side, TimeInForce
from shockproof.demo.venue.rejections import RejectedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shockproof.demo.venue.instruments import Instrument

__all__ = ["Bookkeeper", "MatchingEngine"]

_ZERO = Decimal(0)
_FEE_PLACES = Decimal("0.00000001")


class Bookkeeper(Protocol):
    """Is told everything that is booked, at the moment it happens."""

    def accepted(self, order: Order) -> None: ...

    def filled(self, order: Order, fill: Fill) -> None: ...

    def closed(self, order: Order) -> None: ...


class MatchingEngine:
    """
    Fills orders by price-time priority, and moves the money.

    Every public method either does its whole work or raises ``RejectedError`` and changes nothing.
    Time is handed in (wall time in seconds). Trades happen at the resting order's price; each
    side pays its account's fee from what it receives, into the account ``fees``.
    """

    FEES = "fees"

    def __init__(self, instruments: Iterable[Instrument], *, first_order_id: int = 1) -> None:
        self.instruments = {instrument.symbol: instrument for instrument in instruments}
        self.accounts: dict[str, Account] = {self.FEES: Account(self.FEES)}
        self._books = {symbol: OrderBook() for symbol in self.instruments}
        self._orders: dict[int, Order] = {}
        self._open: dict[tuple[str, str], dict[int, Order]] = {}  # by account and symbol
        self._order_ids = itertools.count(first_order_id)
        self._trade_ids = itertools.count(1)
        self._bookkeepers: list[Bookkeeper] = []
        self._forgetful: set[str] = set()

    def open_account(self, name: str, *, fee_rate: Decimal = _ZERO, forget_closed: bool = False) -> Account:
        """
        A new, empty account.

        Args:
            name: must be new.
            fee_rate: part of what it receives in a trade that goes to the venue.
            forget_closed: drop its orders from memory once they are closed (for market makers).
        """
        if name in self.accounts:
            raise ValueError(f"account {name!r} exists already: choose another name")
        account = self.accounts[name] = Account(name, fee_rate)
        if forget_closed:
            self._forgetful.add(name)
        return account

    def tell(self, bookkeeper: Bookkeeper) -> None:
        """From now on *bookkeeper* hears of everything that is booked."""
        self._bookkeepers.append(bookkeeper)

    def book(self, symbol: str) -> OrderBook:
        """Raises ``RejectedError`` for an unknown symbol."""
        try:
            return self._books[symbol]
        except KeyError:
            raise RejectedError.unknown_symbol() from None

    def instrument(self, symbol: str) -> Instrument:
        """Raises ``RejectedError`` for an unknown symbol."""
        try:
            return self.instruments[symbol]
        except KeyError:
            raise RejectedError.unknown_symbol() from None

    # -- orders ---------------------------------------------------------------------------------

    def place(self, new: NewOrder, now: float) -> Order:
        """
        Accept an order and match it at once.

        Raises ``RejectedError``: unknown symbol, filters, not enough money, a client order id that
        an *open* order of the account carries already, or a maker order that would take.
        """
        instrument = self.instrument(new.symbol)
        book = self._books[new.symbol]
        account = self.accounts[new.account]
        open_orders = self._open.setdefault((new.account, new.symbol), {})
        if any(order.client_order_id == new.client_order_id for order in open_orders.values()):
            raise RejectedError.duplicate()
        if new.type is OrderType.MARKET:
            quantity, to_lock = self._market_terms(instrument, book, new)
        else:
            quantity, to_lock = self._limit_terms(instrument, book, new)
            if len(open_orders) >= instrument.max_open_orders:
                raise RejectedError.filter_failure("MAX_NUM_ORDERS")
        account.lock(instrument.quote if new.side is Side.BUY else instrument.base, to_lock)
        # Nothing may fail from here on: the order is booked.
        order = Order(
            order_id=next(self._order_ids),
            account=new.account,
            client_order_id=new.client_order_id,
            symbol=new.symbol,
            side=new.side,
            type=new.type,
            time_in_force=new.time_in_force,
            quantity=quantity,
            price=new.price,
            accepted_at=now,
            updated_at=now,
            locked=to_lock,
            quote_quantity=new.quote_quantity,
        )
        self._orders[order.order_id] = order
        for bookkeeper in self._bookkeepers:
            bookkeeper.accepted(order)
        if new.time_in_force is not TimeInForce.FOK or self._can_fill_whole(book, order):
            self._match(instrument, book, order, now)
        if order.remaining and (new.type is OrderType.MARKET or new.time_in_force is not TimeInForce.GTC):
            self._close(order, OrderStatus.EXPIRED, now)
        elif order.status.is_open:
            book.add(order)
            open_orders[order.order_id] = order
        self._forget(order)
        return order

    def cancel(self, order: Order, now: float) -> None:
        """Take an open order out of the book. Raises ``RejectedError`` when it is not open any more."""
        if not order.status.is_open:
            raise RejectedError.unknown_order()
        self._books[order.symbol].remove(order)
        del self._open[order.account, order.symbol][order.order_id]
        self._close(order, OrderStatus.CANCELED, now)
        self._forget(order)

    def find(
        self, account: str, symbol: str, *, order_id: int | None = None, client_order_id: str | None = None
    ) -> Order | None:
        """The order with that id; of several with the same client order id the newest."""
        if order_id is not None:
            order = self._orders.get(order_id)
            return order if order is not None and (order.account, order.symbol) == (account, symbol) else None
        for order in reversed(self._orders.values()):
            if (order.account, order.symbol, order.client_order_id) == (account, symbol, client_order_id):
                return order
        return None

    def orders(self, account: str, symbol: str | None = None) -> list[Order]:
        """Every order of the account that is remembered, oldest first."""
        return [
            order
            for order in self._orders.values()
            if order.account == account and (symbol is None or order.symbol == symbol)
        ]

    def open_orders(self, account: str, symbol: str | None = None) -> list[Order]:
        """The account's resting orders, oldest first."""
        found = [
            order
            for (owner, market), orders in self._open.items()
            if owner == account and (symbol is None or market == symbol)
            for order in orders.values()
        ]
        return sorted(found, key=lambda order: order.order_id)

    def totals(self) -> dict[str, Decimal]:
        """What all accounts hold together, for each asset: trading never changes it."""
        totals: dict[str, Decimal] = {}
        for account in self.accounts.values():
            for asset, amount in account.totals().items():
                totals[asset] = totals.get(asset, _ZERO) + amount
        return totals

    # -- terms: how much, and what must be set aside ------------------------------------------------

    def _limit_terms(self, instrument: Instrument, book: OrderBook, new: NewOrder) -> tuple[Decimal, Decimal]:
        if new.price is None:
            raise RejectedError.missing("price")
        if new.quantity is None:
            raise RejectedError.missing("quantity")
        instrument.check_price(new.price)
        instrument.check_quantity(new.quantity)
        instrument.check_notional(new.price * new.quantity)
        best = book.best(new.side.opposite)
        if new.type is OrderType.LIMIT_MAKER and best is not None and book.crosses(new.side, new.price, best):
            raise RejectedError.would_take()
        return new.quantity, new.price * new.quantity if new.side is Side.BUY else new.quantity

    def _market_terms(
        self, instrument: Instrument, book: OrderBook, new: NewOrder
    ) -> tuple[Decimal, Decimal]:
        quantity = new.quantity
        if quantity is None:
            if new.quote_quantity is None:
                raise RejectedError.missing("quantity")
            quantity = self._quantity_for(instrument, book, new.side, new.quote_quantity)
        instrument.check_quantity(quantity)
        cost = available = _ZERO
        for resting in book.matchable(new.side, None):
            part = min(resting.remaining, quantity - available)
            cost += part * (resting.price or _ZERO)
            available += part
            if available == quantity:
                break
        if available == quantity:
            instrument.check_notional(cost)
        # The walk above is the match to come, so a buy locks to the last digit what it will spend.
        return quantity, cost if new.side is Side.BUY else quantity

    @staticmethod
    def _quantity_for(
        instrument: Instrument, book: OrderBook, side: Side, quote_quantity: Decimal
    ) -> Decimal:
        left = quote_quantity
        quantity = _ZERO
        for resting in book.matchable(side, None):
            price = resting.price or _ZERO
            affordable = (left / price / instrument.step).to_integral_value(ROUND_DOWN) * instrument.step
            part = min(resting.remaining, affordable)
            quantity += part
            left -= part * price
            if part < resting.remaining:
                break
        return quantity

    @staticmethod
    def _can_fill_whole(book: OrderBook, order: Order) -> bool:
        available = _ZERO
        for resting in book.matchable(order.side, order.price):
            available += resting.remaining
            if available >= order.quantity:
                return True
        return False

    # -- matching and settling ----------------------------------------------------------------------

    def _match(self, instrument: Instrument, book: OrderBook, taker: Order, now: float) -> None:
        while taker.remaining:
            maker = book.first(taker.side.opposite)
            if maker is None or maker.price is None or not book.crosses(taker.side, taker.price, maker.price):
                return
            quantity = min(taker.remaining, maker.remaining)
            trade_id = next(self._trade_ids)
            for order in (maker, taker):
                self._settle(instrument, order, maker.price, quantity, trade_id, order is maker, now)
            if not maker.remaining:
                book.remove(maker)
                del self._open[maker.account, maker.symbol][maker.order_id]
                self._forget(maker)

    def _settle(
        self,
        instrument: Instrument,
        order: Order,
        price: Decimal,
        quantity: Decimal,
        trade_id: int,
        is_maker: bool,
        now: float,
    ) -> None:
        account = self.accounts[order.account]
        cost = price * quantity
        if order.side is Side.BUY:
            # A limit order locked its own price: what the better price saves goes back.
            released = cost if order.price is None else order.price * quantity
            paid, paid_asset, received, received_asset = cost, instrument.quote, quantity, instrument.base
        else:
            released = quantity
            paid, paid_asset, received, received_asset = quantity, instrument.base, cost, instrument.quote
        fee = (received * account.fee_rate).quantize(_FEE_PLACES, ROUND_DOWN)
        account.locked[paid_asset] -= released
        account.free[paid_asset] += released - paid
        account.free[received_asset] += received - fee
        self.accounts[self.FEES].free[received_asset] += fee
        order.locked -= released
        order.executed += quantity
        order.executed_quote += cost
        order.updated_at = now
        order.status = OrderStatus.PARTIALLY_FILLED if order.remaining else OrderStatus.FILLED
        fill = Fill(
            trade_id=trade_id,
            order_id=order.order_id,
            price=price,
            quantity=quantity,
            fee=fee,
            fee_asset=received_asset,
            is_maker=is_maker,
            at=now,
        )
        order.fills.append(fill)
        for bookkeeper in self._bookkeepers:
            bookkeeper.filled(order, fill)

    def _close(self, order: Order, status: OrderStatus, now: float) -> None:
        instrument = self.instruments[order.symbol]
        self.accounts[order.account].unlock(
            instrument.quote if order.side is Side.BUY else instrument.base, order.locked
        )
        order.locked = _ZERO
        order.status = status
        order.updated_at = now
        for bookkeeper in self._bookkeepers:
            bookkeeper.closed(order)

    def _forget(self, order: Order) -> None:
        if order.account in self._forgetful and not order.status.is_open:
            self._orders.pop(order.order_id, None)
