"""The exchange's API without the network: forms of requests and answers."""

from __future__ import annotations

from decimal import Decimal

import pytest

from shockproof.demo.prices.reference_rates import load_reference_rates
from shockproof.demo.prices.replay import PriceReplay
from shockproof.demo.venue.exchange import Exchange, SessionClock
from shockproof.demo.venue.fault_plan import FaultPlan
from shockproof.demo.venue.rejections import RejectedError

NOW = 1_700_000_000.0


class Hands:
    """A clock moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def exchange(hands: Hands) -> Exchange:
    replay = PriceReplay(load_reference_rates(), seed=1, day_seconds=0.5, first_day=1000)
    return Exchange(replay, FaultPlan.make("none"), clock=SessionClock(hands), wall=lambda: NOW)


LIMIT = {
    "symbol": "EURUSDT",
    "side": "BUY",
    "type": "LIMIT",
    "timeInForce": "GTC",
    "quantity": "10",
    "price": "0.9",
    "newClientOrderId": "mine",
}


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in LIMIT.items() if key != name}


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        (without("symbol"), "-1102 Mandatory parameter 'symbol'"),
        (without("side"), "-1102 Mandatory parameter 'side'"),
        (without("quantity"), "-1102 Mandatory parameter 'quantity'"),
        (without("price"), "-1102 Mandatory parameter 'price'"),
        (without("timeInForce"), "-1102 Mandatory parameter 'timeInForce'"),
        (LIMIT | {"symbol": "BTCUSDT"}, "-1121 Invalid symbol"),
        (LIMIT | {"side": "HOLD"}, "-1117 Invalid side"),
        (LIMIT | {"type": "STOP"}, "-1116 Invalid orderType"),
        (LIMIT | {"timeInForce": "DAY"}, "-1115 Invalid timeInForce"),
        (LIMIT | {"quantity": "-1"}, "-1100 Illegal characters found in parameter 'quantity'"),
        (LIMIT | {"quantity": "1e3"}, "-1100 Illegal characters found in parameter 'quantity'"),
        (LIMIT | {"price": "NaN"}, "-1100 Illegal characters found in parameter 'price'"),
        (
            LIMIT | {"newClientOrderId": "a b"},
            "-1100 Illegal characters found in parameter 'newClientOrderId'",
        ),
        (
            LIMIT | {"newClientOrderId": "x" * 37},
            "-1100 Illegal characters found in parameter 'newClientOrderId'",
        ),
        (
            LIMIT | {"newOrderRespType": "SHORT"},
            "-1100 Illegal characters found in parameter 'newOrderRespType'",
        ),
        (LIMIT | {"type": "MARKET"}, "-1106 Parameter 'price' sent when not required"),
        (
            without("price") | {"type": "MARKET", "quoteOrderQty": "5"},
            "-1128 Combination of optional parameters",
        ),
        ({"symbol": "EURUSDT", "side": "BUY", "type": "MARKET"}, "-1102 Mandatory parameter 'quantity'"),
    ],
)
def test_a_malformed_order_is_refused_with_the_exchanges_code(
    exchange: Exchange, parameters: dict[str, str], complaint: str
) -> None:
    """And nothing is booked."""
    with pytest.raises(RejectedError, match=complaint):
        exchange.api.place_order(parameters, NOW)
    assert exchange.ledger.orders == ()


def test_an_order_can_be_looked_up_listed_and_cancelled_by_its_client_id(exchange: Exchange) -> None:
    """The whole life of an order that rests."""
    placed = exchange.api.place_order(LIMIT, NOW)
    assert (placed["status"], placed["clientOrderId"], placed["fills"]) == ("NEW", "mine", [])
    asked = {"symbol": "EURUSDT", "origClientOrderId": "mine"}
    assert exchange.api.query_order(asked, NOW)["orderId"] == placed["orderId"]
    assert len(exchange.api.open_orders({}, NOW)) == 1  # type: ignore[arg-type]  # decoded JSON
    cancelled = exchange.api.cancel_order(asked, NOW)
    assert (cancelled["status"], cancelled["origClientOrderId"]) == ("CANCELED", "mine")
    assert cancelled["clientOrderId"] != "mine"
    assert exchange.api.open_orders({"symbol": "EURUSDT"}, NOW) == []
    assert exchange.api.query_order(asked, NOW)["status"] == "CANCELED"


def test_an_unknown_order_is_a_different_no_for_a_look_up_and_a_cancel(exchange: Exchange) -> None:
    """-2013 and -2011, and neither id nor client id is -1102."""
    asked = {"symbol": "EURUSDT", "origClientOrderId": "nobody"}
    with pytest.raises(RejectedError, match="-2013 Order does not exist"):
        exchange.api.query_order(asked, NOW)
    with pytest.raises(RejectedError, match="-2011 Unknown order sent"):
        exchange.api.cancel_order(asked, NOW)
    with pytest.raises(RejectedError, match="-1102 Param 'origClientOrderId' or 'orderId' must be sent"):
        exchange.api.query_order({"symbol": "EURUSDT"}, NOW)
    with pytest.raises(RejectedError, match="-1100 Illegal characters found in parameter 'orderId'"):
        exchange.api.query_order({"symbol": "EURUSDT", "orderId": "²"}, NOW)


def test_quotes_stand_around_the_replayed_price_and_move_with_it(exchange: Exchange, hands: Hands) -> None:
    """The book is a tick away from the price on both sides, at every moment."""
    exchange.clock.begin()
    for moment in (0.0, 0.7, 3.1, 9.9):
        hands.now = moment
        exchange.tick()
        ticker = exchange.api.book_ticker({"symbol": "GBPUSDT"}, NOW)
        assert isinstance(ticker, dict)
        bid, ask = float(ticker["bidPrice"]), float(ticker["askPrice"])
        assert ask - bid == pytest.approx(0.0002)
        assert (bid + ask) / 2 == pytest.approx(exchange.replay.price("GBP", moment), abs=0.0005)


def test_all_tickers_say_the_same_of_one_market(exchange: Exchange) -> None:
    """REST never contradicts itself."""
    depth = exchange.api.depth({"symbol": "EURUSDT", "limit": "1"}, NOW)
    full = exchange.api.ticker_24hr({"symbol": "EURUSDT"}, NOW)
    assert isinstance(full, dict)
    assert depth["bids"] == [[full["bidPrice"], full["bidQty"]]]
    assert depth["asks"] == [[full["askPrice"], full["askQty"]]]
    every = exchange.api.ticker_24hr({}, NOW)
    assert isinstance(every, list)
    assert [ticker["symbol"] for ticker in every] == ["EURUSDT", "GBPUSDT", "CHFUSDT", "AUDUSDT"]


def test_a_larger_order_fills_in_parts_that_the_account_shows(exchange: Exchange) -> None:
    """Several levels, several fills, one fee each; account and ledger agree."""
    market = {
        "symbol": "EURUSDT",
        "side": "BUY",
        "type": "MARKET",
        "quantity": "9000",
        "newClientOrderId": "big",
    }
    placed = exchange.api.place_order(market, NOW)
    fills = placed["fills"]
    assert isinstance(fills, list)
    assert len(fills) > 1
    assert sum(Decimal(fill["qty"]) for fill in fills) == 9000
    trades = exchange.api.my_trades({"symbol": "EURUSDT"}, NOW)
    assert isinstance(trades, list)
    assert [trade["orderId"] for trade in trades] == [placed["orderId"]] * len(fills)
    tape = exchange.api.trades({"symbol": "EURUSDT", "limit": str(len(fills))}, NOW)
    assert isinstance(tape, list)
    assert [(trade["id"], trade["isBuyerMaker"]) for trade in tape] == [(f["tradeId"], False) for f in fills]
    report = exchange.ledger_report()
    assert report["agrees"] is True
    balances = exchange.api.account({}, NOW)["balances"]
    assert isinstance(balances, list)
    assert {row["asset"]: Decimal(row["free"]) for row in balances} == {
        asset: Decimal(amount) for asset, amount in report["balances"].items()
    }


def test_a_resting_order_is_filled_when_the_market_comes_to_it(exchange: Exchange, hands: Hands) -> None:
    """Limit orders trade by price-time priority with the moving quotes."""
    exchange.clock.begin()
    prices = [exchange.replay.price("EUR", moment / 10) for moment in range(600)]
    lowest = min(prices)
    assert lowest < prices[0] - 0.001
    exchange.api.place_order(LIMIT | {"price": f"{lowest + 0.0008:.4f}"}, NOW)
    for moment in range(600):
        hands.now = moment / 10
        exchange.tick()
    assert [order["status"] for order in exchange.ledger_report()["orders"]] == ["FILLED"]


def test_lists_keep_to_their_limits_and_filters(exchange: Exchange) -> None:
    """Newest when nothing is said, oldest from a given point on."""
    for number in range(5):
        exchange.api.place_order(LIMIT | {"newClientOrderId": f"o{number}"}, NOW + number)

    def ids(**parameters: str) -> list[str]:
        rows = exchange.api.all_orders({"symbol": "EURUSDT", **parameters}, NOW)
        assert isinstance(rows, list)
        return [row["clientOrderId"] for row in rows]

    assert ids(limit="2") == ["o3", "o4"]
    assert ids(startTime=str(int((NOW + 3) * 1000))) == ["o3", "o4"]
    assert ids(startTime="0", limit="2") == ["o0", "o1"]
