"""What every exchange of ccxt really asks its venue before `find_order` says that an order is not there."""

from __future__ import annotations

import itertools
from typing import Any, Final

import pytest

ccxt = pytest.importorskip("ccxt.async_support", reason="the ccxt extra is not installed")

from shockproof.integrations.ccxt import find_order  # noqa: E402  after the importorskip
from shockproof.vocabulary.look_up import NOT_FOUND  # noqa: E402  as above

pytestmark = pytest.mark.asyncio

KEY: Final = "12345678901234567"
SPOT, LINEAR, INVERSE = "BTC/USDT", "BTC/USDT:USDT", "BTC/USD:BTC"
KEYS: Final = {
    **dict.fromkeys(("apiKey", "uid", "password", "login", "accountId"), "k" * 32),
    "secret": "c2VjcmV0" * 4,
    "walletAddress": "0x" + "1" * 40,
    "privateKey": "0x" + "2" * 64,
}
LIST_ALL: Final = frozenset({"alpaca", "bybit", "bybiteu", "bybitid"})
"""Who cannot be asked by the key, and lists the open orders and all that ended."""


def market(symbol: str) -> dict[str, Any]:
    quote, _, settle = symbol.partition("/")[2].partition(":")
    derives = bool(settle)
    return {
        "id": symbol.replace("/", "").replace(":", "_"),
        "symbol": symbol,
        "active": True,
        "base": "BTC",
        "baseId": "BTC",
        "quote": quote,
        "quoteId": quote,
        "settle": settle or None,
        "settleId": settle or None,
        "contractSize": 1.0 if derives else None,
        "type": "swap" if derives else "spot",
        "spot": not derives,
        "swap": derives,
        "contract": derives,
        "linear": derives and settle == quote,
        "inverse": derives and settle != quote,
    }


class Asked:
    """An exchange of ccxt, whose venue knows no order, and what is asked there by an order's id."""

    def __init__(self, name: str) -> None:
        self.exchange = getattr(ccxt, name)(KEYS)
        self.exchange.set_markets(
            [self.exchange.safe_market_structure(market(symbol)) for symbol in (SPOT, LINEAR, INVERSE)]
        )
        self.questions: list[list[Any]] = []
        self.paths: list[str] = []
        self.lists_asked: list[dict[str, Any]] = []
        self.exchange.request = self._request
        for before in ("sign_in", "authenticate_rest", "load_markets"):
            setattr(self.exchange, before, self._nothing)
        for lists in ("", "open_", "closed_", "canceled_", "canceled_and_closed_"):
            setattr(self.exchange, f"fetch_{lists}orders", self._no_orders)

    async def _nothing(self, *_: object, **__: object) -> dict[str, Any]:
        return {}

    async def _no_orders(self, _symbol: str, _since: None, _limit: int, params: dict[str, Any]) -> list[Any]:
        self.lists_asked.append(params)
        return []

    async def _request(
        self,
        path: str,
        api: object = "",
        method: object = "",
        params: object = None,
        *_: object,
        **__: object,
    ) -> dict[str, Any]:
        values = list(params.values()) if isinstance(params, dict) else []
        if "order" not in path.lower() and KEY not in str(values):
            return {}  # which kind of account it is
        self.questions.append(values)
        self.paths.append(path)
        raise ccxt.OrderNotFound(path)

    def was_asked_by_key(self, *, kinds: int) -> bool:
        """Whether it was asked for every kind of order after the key, and after nothing else beside it."""
        return len(self.questions) >= kinds and all(
            any(KEY in str(value) for value in values) and not any(value in ("", [""]) for value in values)
            for values in self.questions
        )

    def lists_triggers_apart(self, symbol: str) -> bool:
        return any(
            self.exchange.feature_value(symbol, lists, "trigger") is True
            for lists in ("fetchOrders", "fetchOpenOrders", "fetchClosedOrders")
        )


async def test_no_exchange_proves_an_absence_that_was_not_asked_for_the_key() -> None:
    """Ccxt asks many for an empty id in its place, and each of those answers that it knows no such order."""
    proven: set[tuple[str, str, bool]] = set()
    unproven: set[tuple[str, str, bool]] = set()
    for name in ccxt.exchanges:
        asked = Asked(name)
        for symbol, trigger in itertools.product((SPOT, LINEAR, INVERSE), (True, False)):
            asked.questions.clear()
            if await find_order(asked.exchange, KEY, symbol, trigger=trigger) is NOT_FOUND:
                kinds = 2 if trigger and asked.lists_triggers_apart(symbol) else 1
                is_proven = name in LIST_ALL or asked.was_asked_by_key(kinds=kinds)
                (proven if is_proven else unproven).add((name, symbol, trigger))
    assert unproven == set()
    for name in ("binance", "bybit", "gate", "hyperliquid", "okx", "phemex"):
        assert {(name, SPOT, True), (name, LINEAR, True)} <= proven
    for name in ("alpaca", "coinbaseexchange", "htx", "kucoin", "mexc"):
        assert (name, SPOT, False) in proven
    assert ("bitget", LINEAR, False) in proven


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("binance", "margin/order"),
        ("kucoin", "hf/margin/orders/client-order/{clientOid}"),
        ("mexc", "margin/order"),
    ],
)
async def test_margin_order_is_asked_for_where_it_is(name: str, path: str) -> None:
    """Under the same symbol, but in another account: the spot account knows nothing of it, which proved that it was not there."""
    asked = Asked(name)
    margin = {"marginMode": "isolated"}
    await find_order(asked.exchange, KEY, SPOT, trigger=False, params=margin)
    assert asked.paths == [path]
    assert asked.lists_asked in ([margin], [margin] * 2)
    assert asked.was_asked_by_key(kinds=1)
    assert margin == {"marginMode": "isolated"}
