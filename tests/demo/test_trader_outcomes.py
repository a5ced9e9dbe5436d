"""What an error of ccxt proves about a request."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

aiohttp = pytest.importorskip("aiohttp", reason="the demo extra is not installed: no aiohttp")
ccxt = pytest.importorskip("ccxt", reason="the demo extra is not installed: no ccxt")

from shockproof import CallInfo, Outcome  # noqa: E402  after the importorskip
from shockproof.demo.ccxt_outcomes import (  # noqa: E402  after the importorskip
    classify_for,
    is_refusal,
    may_succeed_later,
    verdict_on,
)

CALL = CallInfo("trading", "create_order", 1, "unsafe")


def caused_by(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def never_connected() -> Exception:
    key = SimpleNamespace(host="127.0.0.1", port=1, ssl=None)
    return aiohttp.ClientConnectorError(key, OSError(111, "refused"))


REFUSALS = [
    ccxt.InsufficientFunds("-2010"),
    ccxt.InvalidOrder("-1013"),
    ccxt.OrderNotFound("-2013"),
    ccxt.BadSymbol("-1121"),
    ccxt.AuthenticationError("-2015"),
    ccxt.ArgumentsRequired("symbol"),
    ccxt.MarketClosed("closed"),
]
NOTHING_HAPPENED = [
    ccxt.DDoSProtection("429"),
    ccxt.RateLimitExceeded("-1015"),
    ccxt.InvalidNonce("-1021"),
    caused_by(ccxt.ExchangeNotAvailable("refused"), never_connected()),
    caused_by(ccxt.RequestTimeout("connect"), aiohttp.ConnectionTimeoutError()),
    caused_by(ccxt.ExchangeNotAvailable("cut"), caused_by(OSError(), ConnectionRefusedError())),
]
NOBODY_KNOWS = [
    ccxt.ExchangeNotAvailable("503"),
    caused_by(ccxt.ExchangeNotAvailable("cut"), aiohttp.ServerDisconnectedError()),
    caused_by(ccxt.ExchangeNotAvailable("reset"), aiohttp.ClientOSError(104, "reset")),
    caused_by(ccxt.RequestTimeout("late"), TimeoutError()),
    ccxt.RequestTimeout("-1007"),
    ccxt.OperationFailed("-1006"),
    ccxt.BadResponse("garbage"),
    ccxt.OnMaintenance("maintenance"),
    ccxt.ExchangeError("for want of a better name"),
]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_a_clear_refusal_is_no_failure_of_the_venue(error: Exception) -> None:
    """It answered: asking again changes nothing, and its circuit must not open."""
    verdict = verdict_on(error)
    assert verdict is not None
    assert verdict.outcome is Outcome.SUCCESS
    assert is_refusal(error)
    assert not may_succeed_later(error)


@pytest.mark.parametrize("error", NOTHING_HAPPENED, ids=repr)
def test_what_never_got_in_may_be_sent_again(error: Exception) -> None:
    """Turned away at the door, or without a connection: provably nothing was booked."""
    verdict = verdict_on(error)
    assert verdict is not None
    assert (verdict.outcome, verdict.effect) == (Outcome.FAILURE, "none")
    assert may_succeed_later(error)


@pytest.mark.parametrize("error", NOBODY_KNOWS, ids=repr)
def test_everything_else_may_have_been_booked(error: Exception) -> None:
    """5xx, a cut, a late or unreadable answer prove nothing."""
    verdict = verdict_on(error)
    assert verdict is not None
    assert (verdict.outcome, verdict.effect) == (Outcome.FAILURE, "unknown")
    assert not is_refusal(error)


@pytest.mark.parametrize(
    "error", [ccxt.DuplicateOrderId("x"), ccxt.InvalidOrder('{"code":-2010,"msg":"Duplicate order sent."}')]
)
def test_a_duplicate_id_says_that_the_order_is_there(error: Exception) -> None:
    """It is no refusal: the first order stands, and must be looked up."""
    verdict = verdict_on(error)
    assert verdict is not None
    assert verdict.effect == "done"
    assert not is_refusal(error)


@pytest.mark.parametrize("value", [None, {"id": "1"}, KeyError("x"), TimeoutError()], ids=repr)
def test_what_is_not_ccxts_is_left_to_the_rules(value: object) -> None:
    """Answers and foreign errors get no verdict here."""
    assert verdict_on(value) is None


@pytest.mark.parametrize(("header", "seconds"), [("2", 2.0), ("", None), ("soon", None)])
def test_retry_after_is_taken_from_the_clients_last_headers(header: str, seconds: float | None) -> None:
    """The client drops the header from its exception, and keeps it elsewhere."""
    exchange = SimpleNamespace(last_response_headers={"Retry-After": header})
    verdict = classify_for(exchange)(ccxt.DDoSProtection("429"), CALL)
    assert verdict is not None
    assert verdict.retry_after == seconds
    assert verdict.effect == "none"


def test_retry_after_of_another_answer_is_not_asked_for() -> None:
    """Only an answer that turned us away says how long to wait."""
    exchange = SimpleNamespace(last_response_headers={"Retry-After": "2"})
    verdict = classify_for(exchange)(ccxt.ExchangeNotAvailable("503"), CALL)
    assert verdict is not None
    assert verdict.retry_after is None
