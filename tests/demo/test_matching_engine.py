"""The matching engine against a naive model, and its single promises one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shockproof.demo.venue.instruments import Instrument
from shockproof.demo.venue.ledger import Ledger
from shockproof.demo.venue.matching import MatchingEngine
from shockproof.demo.venue.orders import NewOrder, Order, OrderStatus, OrderType, Side, TimeInForce
from shockproof.demo.venue.rejections import RejectedError

EUR = Instrument(symbol="EURUSDT", base="EUR", quote="USDT", min_notional=Decimal(1))
ACCOUNTS = ("alice", "bob", "carol")
OPENING = {"EUR": Decimal(1000), "USDT": Decimal(1000)}


def make_engine(fee_rate: str = "0.001") -> MatchingEngine:
    engine = MatchingEngine([EUR])
    for name in ACCOUNTS:
        engine.open_account(name, fee_rate=Decimal(fee_rate)).free.update(OPENING)
    return engine


class Desk:
    """Places orders in few words."""

    def __init__(self, engine: MatchingEngine) -> None:
        self.engine = engine
        self.count = 0

    def place(
        self,
        account: str,
        side: Side,
        quantity: str | None,
        price: str | None = None,
        *,
        order_type: OrderType | None = None,
        tif: TimeInForce = TimeInForce.GTC,
        client_order_id: str | None = None,
        quote_quantity: str | None = None,
    ) -> Order:
        self.count += 1
        default = OrderType.MARKET if price is None else OrderType.LIMIT
        return self.engine.place(
            NewOrder(
                account=account,
                symbol="EURUSDT",
                side=side,
                type=order_type or default,
                client_order_id=client_order_id or f"order-{self.count}",
                quantity=None if quantity is None else Decimal(quantity),
                price=None if price is None else Decimal(price),
                quote_quantity=None if quote_quantity is None else Decimal(quote_quantity),
                time_in_force=tif,
            ),
            now=float(self.count),
        )

    def buy(self, account: str, quantity: str | None, price: str | None = None, **options: object) -> Order:
        return self.place(account, Side.BUY, quantity, price, **options)  # type: ignore[arg-type]  # keyword options of place

    def sell(self, account: str, quantity: str | None, price: str | None = None, **options: object) -> Order:
        return self.place(account, Side.SELL, quantity, price, **options)  # type: ignore[arg-type]  # keyword options of place


@pytest.fixture
def desk() -> Desk:
    return Desk(make_engine())


def fills_of(order: Order) -> list[tuple[str, str]]:
    return [(str(fill.price), str(fill.quantity)) for fill in order.fills]


def test_the_better_price_trades_first_and_the_older_order_before_the_younger(desk: Desk) -> None:
    """Price-time priority: the taker meets the best price first, and within a price who came first."""
    young = desk.sell("bob", "10", "1.2")
    late_but_cheap = desk.sell("carol", "10", "1.1")
    younger = desk.sell("carol", "10", "1.2")
    taker = desk.buy("alice", "25", "1.2")
    assert fills_of(taker) == [("1.1", "10"), ("1.2", "10"), ("1.2", "5")]
    assert (late_but_cheap.status, young.status) == (OrderStatus.FILLED, OrderStatus.FILLED)
    assert (younger.status, younger.remaining) == (OrderStatus.PARTIALLY_FILLED, Decimal(5))


def test_a_limit_order_that_gets_a_better_price_pays_that_price(desk: Desk) -> None:
    """What a buy had locked beyond the trade's price is free again."""
    desk.sell("bob", "10", "1.1")
    desk.buy("alice", "10", "1.5")
    alice = desk.engine.accounts["alice"]
    assert alice.free["USDT"] == Decimal(1000) - Decimal("11.0")
    assert alice.locked["USDT"] == 0


def test_each_side_pays_its_fee_from_what_it_receives(desk: Desk) -> None:
    """0.1 % of the base currency for the buyer, of the quote currency for the seller."""
    desk.sell("bob", "10", "1.1")
    desk.buy("alice", "10")
    accounts = desk.engine.accounts
    assert accounts["alice"].free["EUR"] == Decimal(1010) - Decimal("0.01")
    assert accounts["bob"].free["USDT"] == Decimal(1011) - Decimal("0.011")
    assert accounts["fees"].totals() == {"EUR": Decimal("0.01"), "USDT": Decimal("0.011")}


def test_a_market_order_larger_than_the_book_fills_what_there_is_and_expires(desk: Desk) -> None:
    """The rest of a market order does not rest in the book."""
    desk.sell("bob", "10", "1.1")
    order = desk.buy("alice", "30")
    assert (order.status, order.executed, order.locked) == (OrderStatus.EXPIRED, Decimal(10), Decimal(0))
    assert desk.engine.open_orders("alice") == []


def test_a_market_order_by_quote_amount_spends_no_more_than_that(desk: Desk) -> None:
    """The quantity is what the amount pays for, rounded down to the lot size."""
    desk.sell("bob", "10", "1.1")
    desk.sell("bob", "10", "1.2")
    order = desk.buy("alice", None, quote_quantity="20")
    assert (order.status, order.executed) == (OrderStatus.FILLED, Decimal("17.5"))
    assert order.executed_quote == Decimal("20.00")


def test_an_immediate_or_cancel_order_leaves_nothing_in_the_book(desk: Desk) -> None:
    """It takes what crosses and expires with the rest."""
    desk.sell("bob", "10", "1.1")
    order = desk.buy("alice", "30", "1.1", tif=TimeInForce.IOC)
    assert (order.status, order.executed) == (OrderStatus.EXPIRED, Decimal(10))
    assert desk.engine.accounts["alice"].locked["USDT"] == 0


def test_a_fill_or_kill_order_fills_whole_or_not_at_all(desk: Desk) -> None:
    """Too little in the book: nothing trades. Enough: everything does."""
    resting = desk.sell("bob", "10", "1.1")
    killed = desk.buy("alice", "11", "1.1", tif=TimeInForce.FOK)
    assert (killed.status, killed.executed, resting.executed) == (OrderStatus.EXPIRED, Decimal(0), Decimal(0))
    filled = desk.buy("alice", "10", "1.1", tif=TimeInForce.FOK)
    assert filled.status is OrderStatus.FILLED


def test_a_maker_order_that_would_take_is_refused(desk: Desk) -> None:
    """LIMIT_MAKER only ever adds to the book."""
    desk.sell("bob", "10", "1.1")
    with pytest.raises(RejectedError, match="-2010 Order would immediately match and take"):
        desk.buy("alice", "10", "1.1", order_type=OrderType.LIMIT_MAKER)
    assert desk.buy("alice", "10", "1.0", order_type=OrderType.LIMIT_MAKER).status is OrderStatus.NEW


def test_a_client_order_id_is_refused_only_while_its_order_is_open(desk: Desk) -> None:
    """As on the real exchange: after a fill the same id makes a second order, a real duplicate."""
    desk.sell("bob", "20", "1.1")
    desk.buy("alice", "10", "1.0", client_order_id="mine")
    with pytest.raises(RejectedError, match="-2010 Duplicate order sent"):
        desk.buy("alice", "10", client_order_id="mine")
    desk.engine.cancel(desk.engine.open_orders("alice")[0], now=9.0)
    first = desk.buy("alice", "10", client_order_id="mine")
    second = desk.buy("alice", "10", client_order_id="mine")
    assert first.order_id != second.order_id
    assert desk.engine.find("alice", "EURUSDT", client_order_id="mine") is second


@pytest.mark.parametrize(
    ("quantity", "price", "complaint"),
    [
        ("0.05", "1.1", "-1013 Filter failure: LOT_SIZE"),
        ("10.05", "1.1", "-1013 Filter failure: LOT_SIZE"),
        ("0", "1.1", "-1013 Filter failure: LOT_SIZE"),
        ("10", "1.00001", "-1013 Filter failure: PRICE_FILTER"),
        ("10", "0", "-1013 Filter failure: PRICE_FILTER"),
        ("0.1", "1.1", "-1013 Filter failure: NOTIONAL"),
        ("1000", "1.1", "-2010 Account has insufficient balance for requested action."),
    ],
)
def test_an_order_that_breaks_a_rule_is_refused_and_changes_nothing(
    desk: Desk, quantity: str, price: str, complaint: str
) -> None:
    """Each refusal carries the exchange's code and text, and leaves no trace."""
    with pytest.raises(RejectedError) as refusal:
        desk.buy("alice", quantity, price)
    assert str(refusal.value) == complaint
    assert desk.engine.orders("alice") == []
    assert desk.engine.accounts["alice"].totals() == {"EUR": 1000, "USDT": 1000}


def test_a_cancelled_order_gives_back_what_it_had_locked(desk: Desk) -> None:
    """Also after a partial fill, and a second cancel is refused."""
    order = desk.buy("alice", "10", "1.1")
    desk.sell("bob", "4", "1.1")
    desk.engine.cancel(order, now=5.0)
    alice = desk.engine.accounts["alice"]
    assert (order.status, order.executed) == (OrderStatus.CANCELED, Decimal(4))
    assert (alice.locked["USDT"], alice.free["USDT"]) == (Decimal(0), Decimal(1000) - Decimal("4.4"))
    with pytest.raises(RejectedError, match="-2011 Unknown order sent"):
        desk.engine.cancel(order, now=6.0)


def test_an_unknown_symbol_is_refused_everywhere(desk: Desk) -> None:
    """-1121 for whatever names a market that does not exist."""
    with pytest.raises(RejectedError, match="-1121 Invalid symbol"):
        desk.engine.book("BTCUSDT")
    with pytest.raises(RejectedError, match="-1121 Invalid symbol"):
        desk.engine.instrument("BTCUSDT")


@dataclass
class ModelOrder:
    """What the naive model remembers of a resting order."""

    order_id: int
    side: Side
    price: Decimal
    remaining: Decimal


class NaiveBook:
    """Price-time priority by sorting a list: slow, short, and easy to believe."""

    def __init__(self) -> None:
        self.resting: list[ModelOrder] = []

    def candidates(self, side: Side, limit: Decimal | None) -> Iterator[ModelOrder]:
        sign = 1 if side is Side.BUY else -1
        opposite = [order for order in self.resting if order.side is side.opposite]
        for order in sorted(opposite, key=lambda order: (sign * order.price, order.order_id)):
            if limit is None or sign * order.price <= sign * limit:
                yield order

    def match(
        self, side: Side, quantity: Decimal, limit: Decimal | None
    ) -> list[tuple[int, Decimal, Decimal]]:
        trades: list[tuple[int, Decimal, Decimal]] = []
        for order in list(self.candidates(side, limit)):
            part = min(quantity, order.remaining)
            if not part:
                break
            trades.append((order.order_id, order.price, part))
            order.remaining -= part
            quantity -= part
        self.resting = [order for order in self.resting if order.remaining]
        return trades


class EngineAgainstModel(RuleBasedStateMachine):
    """Any sequence of orders and cancels: same trades as the model, and money is never made or lost."""

    @initialize()
    def start(self) -> None:
        self.engine = make_engine()
        self.desk = Desk(self.engine)
        self.model = NaiveBook()
        self.ledgers = [Ledger(name, OPENING, {"EURUSDT": ("EUR", "USDT")}) for name in ACCOUNTS]
        for ledger in self.ledgers:
            self.engine.tell(ledger)
        self.opening = self.engine.totals()
        self.traded: list[tuple[int, Decimal, Decimal]] = []

    @rule(
        account=st.sampled_from(ACCOUNTS),
        side=st.sampled_from(Side),
        tenths=st.integers(10, 500),
        ticks=st.one_of(st.none(), st.integers(9990, 10010)),
        tif=st.sampled_from(TimeInForce),
    )
    def place(self, account: str, side: Side, tenths: int, ticks: int | None, tif: TimeInForce) -> None:
        quantity = Decimal(tenths) / 10
        price = None if ticks is None else Decimal(ticks) / 10_000
        if price is None:
            tif = TimeInForce.GTC
        available = sum((order.remaining for order in self.model.candidates(side, price)), Decimal(0))
        try:
            order = self.desk.place(
                account, side, str(quantity), None if price is None else str(price), tif=tif
            )
        except RejectedError as rejected:
            assert rejected.code in (-2010, -1013)  # noqa: PT017  the refusal is one of the outcomes
            return
        expected = []
        if tif is not TimeInForce.FOK or available >= quantity:
            expected = self.model.match(side, quantity, price)
        by_trade = {
            fill.trade_id: maker.order_id
            for name in ACCOUNTS
            for maker in self.engine.orders(name)
            for fill in maker.fills
            if fill.is_maker
        }
        taken = [fill for fill in order.fills if not fill.is_maker]
        assert [(by_trade[fill.trade_id], fill.price, fill.quantity) for fill in taken] == expected
        if order.status.is_open:
            assert price is not None
            self.model.resting.append(ModelOrder(order.order_id, side, price, order.remaining))

    @precondition(lambda self: self.model.resting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        victim = data.draw(st.sampled_from([order.order_id for order in self.model.resting]))
        order = next(
            order for name in ACCOUNTS for order in self.engine.orders(name) if order.order_id == victim
        )
        self.engine.cancel(order, now=1.0)
        self.model.resting = [order for order in self.model.resting if order.order_id != victim]

    @invariant()
    def money_is_conserved(self) -> None:
        totals = self.engine.totals()
        assert {asset: amount for asset, amount in totals.items() if amount} == self.opening

    @invariant()
    def nobody_owes(self) -> None:
        for account in self.engine.accounts.values():
            assert all(amount >= 0 for amount in account.free.values())
            assert all(amount >= 0 for amount in account.locked.values())

    @invariant()
    def what_is_locked_belongs_to_open_orders(self) -> None:
        for name in ACCOUNTS:
            locked = {"EUR": Decimal(0), "USDT": Decimal(0)}
            for order in self.engine.open_orders(name):
                locked["USDT" if order.side is Side.BUY else "EUR"] += order.locked
            assert {asset: self.engine.accounts[name].locked[asset] for asset in locked} == locked

    @invariant()
    def the_book_is_not_crossed(self) -> None:
        book = self.engine.book("EURUSDT")
        bid, ask = book.best(Side.BUY), book.best(Side.SELL)
        assert bid is None or ask is None or bid < ask

    @invariant()
    def the_book_is_the_models(self) -> None:
        for side in Side:
            resting = [(o.order_id, o.remaining) for o in self.engine.book("EURUSDT").in_priority(side)]
            sign = -1 if side is Side.BUY else 1
            expected = sorted(
                (order for order in self.model.resting if order.side is side),
                key=lambda order: (sign * order.price, order.order_id),
            )
            assert resting == [(order.order_id, order.remaining) for order in expected]

    @invariant()
    def the_ledger_tells_the_same_story(self) -> None:
        for ledger in self.ledgers:
            held = self.engine.accounts[ledger.account].totals()
            assert ledger.balances() == held
            orders = self.engine.orders(ledger.account)
            assert [entry.status for entry in ledger.orders] == [order.status for order in orders]
            assert [entry.executed for entry in ledger.orders] == [order.executed for order in orders]


TestEngineAgainstModel = EngineAgainstModel.TestCase
TestEngineAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
