"""What venues say when they do not know themselves, in the words that the installed ccxt has on record; and the noes beside it."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

ccxt = pytest.importorskip("ccxt", reason="the ccxt extra is not installed")

import shockproof.integrations.ccxt  # noqa: E402  after the importorskip
from shockproof.integrations.outcome_table import Meaning  # noqa: E402  as above
from shockproof.integrations.unclear_noes import is_unclear  # noqa: E402  as above

_ROW = re.compile(r"""^ +['"]((?:[^'"\\\n]|\\.)*)['"]: ([A-Z]\w+),(?: *#(.*))?$""", re.MULTILINE)
_NOES = (
    ccxt.ArgumentsRequired,
    ccxt.AuthenticationError,
    ccxt.BadRequest,
    ccxt.InsufficientFunds,
    ccxt.InvalidAddress,
    ccxt.InvalidOrder,
    ccxt.NotSupported,
    ccxt.OperationRejected,
)
"""What ccxt raises for refusals."""


@functools.cache
def noes_of(exchange: str) -> tuple[tuple[str, Exception], ...]:
    """The refusals in ccxt's own table of the exchange: its code, and what is raised, with the words that ccxt knows."""
    source = Path(ccxt.__file__).with_name("async_support") / f"{exchange}.py"
    rows = _ROW.findall(source.read_text(encoding="utf-8"))
    kinds = ((code, getattr(ccxt, name, None), words) for code, name, words in rows)
    return tuple(
        (code, kind(f"{exchange} {code} {words}"))
        for code, kind, words in kinds
        if isinstance(kind, type) and issubclass(kind, _NOES)
    )


def meanings_of(exchange: str, code: str) -> set[Meaning | None]:
    return {
        shockproof.integrations.ccxt.meaning_of(error) for known, error in noes_of(exchange) if known == code
    }


UNCLEAR = {
    # A time limit inside the venue.
    ("bybit", "170146"),  # Order creation timeout
    ("bybit", "170147"),  # Order cancellation timeout
    ("coinsph", "-1146"),
    ("coinsph", "-1147"),
    ("derive", "9000"),  # Order confirmation timeout
    ("kucoin", "408000"),  # Network timeout, please try again later
    # An error inside it.
    ("coinsph", "-1000"),  # An unknown error occured while processing the request.
    ("coinsph", "-1001"),  # Internal error.
    ("derive", "-32603"),
    ("foxbit", "400"),
    ("latoken", "For input string"),
    ("modetrade", "-1012"),  # rejected by internal module, it may be for "other internal errors"
    ("okx", "4006"),  # Abnormal disconnection
    ("onetrading", "INTERNAL_ERROR"),
    ("woo", "-1012"),
    ("woofipro", "-1012"),
    # It is under way.
    ("bybit", "170035"),  # Submitted to the system for processing!
    ("mexc", "10200"),  # transfer operation processing
    ("toobit", "-1411"),
    ("toobit", "-3147"),  # previous transfer is being processed
    ("woo", "317174"),  # The order is processing
    # It failed, and no reason is told.
    ("bitget", "33013"),  # order placement failed
    ("bitget", "36217"),
    ("coinsph", "-1149"),  # Create order failed
    ("hashkey", "-1149"),
    ("xt", "COMMON_003"),  # Operation failed, please try it later
    # It was there.
    ("bullish", "6013"),  # Partially filled
    ("derive", "11016"),  # Already consumed
    ("dydx", "23"),  # Subaccounts updated for a matched order, but ...
    ("dydx", "24"),  # Order is fully filled
    ("dydx", "2004"),  # IOC order is already filled
    ("dydx", "3008"),  # previously cancelled and therefore cannot be placed
    ("dydx", "3009"),
    ("luno", "ErrIdempotencyKeyRequestMismatch"),
}
"""Of ccxt's tables: the refusals that are none."""

CLEAR = {
    ("binance", "-2010"),
    ("bitget", "40808"),  # Parameter verification exception
    ("bitget", "36218"),  # Order cancellation failed.
    ("bybit", "110007"),
    ("bybit", "170191"),  # Can not cancel order, please try again later
    ("bybit", "175004"),  # Daily redemption limit has been exceeded. Please try again later.
    ("coinsph", "-1103"),  # An unknown parameter was sent.
    ("coinsph", "-1158"),  # create limit maker order failed
    ("grvt", "1003"),  # Request could not be processed due to malformed syntax
    ("kraken", "EOrder:Insufficient funds"),
    ("kucoin", "130302"),  # ... contact customer service for processing
    ("mexc", "10098"),  # risk control system detected abnormal
    ("okx", "51008"),
    ("okx", "51119"),  # Order placement failed due to insufficient balance
    ("poloniex", "21342"),  # ... as Poloniex is in Maintenance Mode
    ("woo", "317157"),  # Trading ... is temporarily suspended. Please try again later.
    ("woo", "302185"),  # ... cannot be processed at this moment because the position mode ...
}
"""What sounds like it, and is the no that it says."""


@pytest.mark.parametrize(("exchange", "code"), sorted(UNCLEAR))
def test_no_of_a_venue_that_does_not_know_is_looked_up(exchange: str, code: str) -> None:
    """Its key would be free, and the order may be there."""
    assert Meaning.UNKNOWN in meanings_of(exchange, code)


@pytest.mark.parametrize(("exchange", "code"), sorted(CLEAR))
def test_no_that_names_its_reason_costs_no_look_up(exchange: str, code: str) -> None:
    """Every look-up of a refused order is a wait of `settle`, for nothing."""
    assert meanings_of(exchange, code) == {Meaning.REFUSED}


def test_no_other_refusal_of_all_exchanges_is_unclear() -> None:
    """Want of funds, prices, sizes and all the rest: a word more on the list is a word to be decided on."""
    unclear = {
        (exchange, code)
        for exchange in ccxt.exchanges
        for code, error in noes_of(exchange)
        if is_unclear(str(error))
    }
    assert unclear <= UNCLEAR


def test_no_refusal_of_all_exchanges_that_speaks_of_a_time_limit_is_a_proof() -> None:
    """Also of those that a later ccxt has."""
    late = re.compile(r"time-?d? ?out(?!_of| of)|timeout|unknown error|internal error", re.IGNORECASE)
    free = {
        (exchange, code)
        for exchange in ccxt.exchanges
        for code, error in noes_of(exchange)
        if late.search(str(error)) and shockproof.integrations.ccxt.meaning_of(error) is Meaning.REFUSED
    }
    assert free == set()


@pytest.mark.parametrize(
    "words",
    [
        "Timeout waiting for response from backend server. Send status unknown; execution status unknown.",
        "An unexpected response was received from the message bus. Execution status unknown.",
        '{"msg":"Request timed out"}',
        '{"error":"INTERNAL_SERVER_ERROR"}',
        "Server is busy, please wait and try again",
        "System busy.",
        "system is abnormal, please try again later",
        "Service temporarily unavailable",
        "EService:Deadline elapsed",
        "ServerTimeout",
        "Your request is being processed",
    ],
)
def test_venue_that_ran_into_trouble_is_understood_by_its_words(words: str) -> None:
    """Whatever the class, also on the page of a bare status."""
    for error in (
        ccxt.InvalidOrder(f"venue {words}"),
        ccxt.ExchangeNotAvailable(f"venue POST https://venue/orders 400 Bad Request {words}"),
    ):
        assert shockproof.integrations.ccxt.meaning_of(error) is Meaning.UNKNOWN


@pytest.mark.parametrize(
    "words",
    [
        # Around the reason that is told.
        '{"success":false,"failure_reason":"UNKNOWN_FAILURE_REASON","error_response":{"error":"INSUFFICIENT_FUND"}}',
        '{"code":"1","data":[{"sCode":"51008","sMsg":"Order failed. Insufficient USDT balance"}],"inTime":"1","msg":"Operation failed.","outTime":"2"}',
        '{"code":"1","data":[{"sMsg":"Trail - order placement failed. The trigger price should be higher"}]}',
        # The caller's own id.
        '{"data":[{"clOrdId":"timeout-7","sMsg":"Insufficient balance"}]}',
        "Filter failure: LOT_SIZE",
        "QUERY_TIME_OUT_OF_RANGE",
        "Trading is temporarily suspended, please try again later",
        "Account has insufficient balance for requested action.",
        "Order does not meet minimum order value of 10 USDT",
        "<html><script>setTimeout(go, 1)</script>Forbidden",
        "",
    ],
)
def test_words_of_other_noes_are_no_trouble(words: str) -> None:
    """Else ordinary refusals were looked up, each of them."""
    assert not is_unclear(words)


def test_request_that_waited_too_long_in_a_line_was_turned_away() -> None:
    """Binance's -5041 is a limit of requests: it is none that was begun."""
    words = "Time out for too many requests from this account queueing at the same time."
    error = ccxt.RateLimitExceeded(f"binance -5041 {words}")
    assert shockproof.integrations.ccxt.meaning_of(error) is Meaning.TURNED_AWAY
