"""What venues say of an order that is there already, in the words that the installed ccxt has on record."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

ccxt = pytest.importorskip("ccxt", reason="the ccxt extra is not installed")

import shockproof.integrations.ccxt  # noqa: E402  after the importorskip
from shockproof.integrations.known_there import meaning_of_words  # noqa: E402  as above
from shockproof.integrations.outcome_table import Meaning  # noqa: E402  as above

_ROW = re.compile(r"""^ +['"]((?:[^'"\\\n]|\\.)*)['"]: ([A-Z]\w+),(?: *#(.*))?$""", re.MULTILINE)


@functools.cache
def rows_of(exchange: str) -> tuple[tuple[str, str, str], ...]:
    """The rows of ccxt's own table: what the exchange answers, the class that it is raised as, and words of the exchange."""
    source = Path(ccxt.__file__).with_name("async_support") / f"{exchange}.py"
    return tuple(_ROW.findall(source.read_text(encoding="utf-8")))


def error_of(exchange: str, code: str, words: str) -> Exception:
    """What ccxt raises for it, by its own table."""
    name = next(name for key, name, _ in rows_of(exchange) if key == code)
    return getattr(ccxt, name)(f'{exchange} {{"code":"{code}","data":[{{"clOrdId":"a1"}}],"msg":"{words}"}}')


@pytest.mark.parametrize(
    ("exchange", "code", "words"),
    [
        ("okx", "51016", "Client order ID already exists."),
        ("okx", "51011", "Duplicated order ID"),
        ("bybit", "110072", "OrderLinkedID is duplicate"),
        ("bybit", "170141", "Duplicate clientOrderId"),
        ("bybit", "12141", "Duplicate clientOrderId."),
        ("bybit", "30001", "order_link_id is repeated"),
        ("kucoin", "126044", "clientOid duplicate"),
        ("kucoin", "126033", "Duplicate order"),
        ("gate", "REPEATED_CREATION", ""),
        ("paradex", "DUPLICATED_CLIENT_ID", ""),
        ("toobit", "-1141", "Duplicate clientOrderId"),
        ("poloniex", "21312", "Client orderId already exists"),
        ("blofin", "102002", "Duplicate customized order ID"),
        ("blofin", "150003", "clientId already exist"),
        ("lighter", "21728", "client order index already exists"),
        ("pacifica", "36", "DUPLICATE_CLIENT_ORDER_ID"),
        ("extended", "1134", "Duplicate Order."),
        ("grvt", "2012", "Client Order ID overlaps with existing active order"),
    ],
)
def test_id_that_the_venue_knows_is_no_refusal(exchange: str, code: str, words: str) -> None:
    """Ccxt has a class for it that says a clear no: the key would be free, and the order is there."""
    error = error_of(exchange, code, words)
    assert isinstance(error, (ccxt.InvalidOrder, ccxt.BadRequest))
    assert shockproof.integrations.ccxt.meaning_of(error) is Meaning.DONE


@pytest.mark.parametrize(
    "words",
    [
        '{"error":["EOrder:Duplicate client order id"]}',
        '{"err-code":"client-order-id-existed","err-msg":"x"}',
        '{"message":"duplicate_label"}',
        '{"message":"client_order_id must be unique"}',
        '{"msg":"clientOrderID unique check failed"}',
        '{"error":{"message":"Duplicate clOrdID","name":"HTTPError"}}',
        "Duplicate cloid",
        "The clOrdId is already in use",
        "this client order ID has been used",
        '{"msg":"Order already exists"}',
    ],
)
def test_venues_that_have_no_class_for_it_are_understood_by_their_words(words: str) -> None:
    """However they write an id: in one word, with hyphens, or short; also on the page of a bare status."""
    for error in (
        ccxt.ExchangeError(f"venue {words}"),
        ccxt.ExchangeNotAvailable(f"venue POST https://venue/orders 400 Bad Request {words}"),
    ):
        assert shockproof.integrations.ccxt.meaning_of(error) is Meaning.DONE


@pytest.mark.parametrize(
    ("exchange", "code", "words"),
    [
        ("bybit", "10014", "Request is duplicate"),
        ("mexc", "603", "Repeated request"),
        ("woo", "-1007", "The data is already exists or your request is duplicated."),
        ("woo", "302178", "Order is rejected as you have an existing market close order."),
        ("grvt", "2116", "Position linked TPSL order for this asset already exists"),
        (
            "dydx",
            "30",
            "An order with the same `OrderId` and `OrderHash` has already been processed for this CLOB",
        ),
        ("derive", "11017", "Non unique nonce"),
        ("polymarket", "signature_already_used", ""),
        ("polymarket", "duplicate_order_in_batch", ""),
        ("phemex", "11083", "TakeProfit order already exists"),
    ],
)
def test_what_may_be_the_first_copy_is_looked_up(exchange: str, code: str, words: str) -> None:
    """A request that came before, or an order of the kind, may be this one."""
    error = error_of(exchange, code, words)
    assert shockproof.integrations.ccxt.meaning_of(error) is Meaning.UNKNOWN


def test_no_row_of_ccxt_that_speaks_of_a_second_copy_is_a_proof_that_there_is_none() -> None:
    """All exchanges, also those that a later ccxt has."""
    twice = re.compile(r"duplicate|already_?\s?exist|is repeated|repeated request|existed", re.IGNORECASE)
    free = {
        (exchange, key, words)
        for exchange in ccxt.exchanges
        for key, name, words in rows_of(exchange)
        if twice.search(f"{key}{words}") and issubclass(getattr(ccxt, name, str), ccxt.BaseError)
        if shockproof.integrations.ccxt.meaning_of(getattr(ccxt, name)(f"{exchange} {key} {words}"))
        not in (Meaning.DONE, Meaning.UNKNOWN)
    }
    assert {exchange for exchange, *_ in free} <= {"coinsph"}, free  # a parameter that is given twice


@pytest.mark.parametrize(
    "words",
    [
        "Order is already cancelled or filled",
        "Order does not exist",
        "Too many parameters; duplicate values detected.",
        "Duplicate parameter symbol",
        "Account has insufficient balance for requested action.",
        "potential wash trade detected. opposite side market/stop order exists",
        "ReduceOnly Order Failed. Please check your existing position and open orders",
        "does not need to be adjusted repeatedly",
        '{"clientOrderId":"repeat-7","msg":"Filter failure: LOT_SIZE"}',
        '{"data":[{"clOrdId": "duplicate-order-1","sMsg":"Insufficient USDT balance"}]}',
        "",
    ],
)
def test_other_noes_stay_noes(words: str) -> None:
    """Else a refused order would be left pending; an id that the answer repeats is the caller's own text."""
    assert meaning_of_words(words) is None
