"""
What an error of ccxt says about the request: refused, never sent, or perhaps carried out.

ccxt's tree answers another question (is it worth another try?), so its branches are regrouped
here. The one rule that matters: only a clear answer, or a connection that never stood, proves that
nothing happened. Everything else may have been booked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from socket import gaierror
from typing import TYPE_CHECKING

import ccxt
from aiohttp import ClientConnectorError, ConnectionTimeoutError

from shockproof import CallInfo, Outcome, Verdict

if TYPE_CHECKING:
    from ccxt.async_support import Exchange

__all__ = ["classify_for", "is_refusal", "may_succeed_later", "verdict_on"]

# The venue understood the request and said no: it is well, and asking again changes nothing.
_REFUSALS = (
    ccxt.AuthenticationError,
    ccxt.ArgumentsRequired,
    ccxt.BadRequest,
    ccxt.InsufficientFunds,
    ccxt.InvalidOrder,  # with OrderNotFound
    ccxt.NotSupported,
    ccxt.OperationRejected,
)

# Turned away at the door, before anything was looked at. The two are siblings, not parent and child.
_TURNED_AWAY = (ccxt.DDoSProtection, ccxt.RateLimitExceeded, ccxt.InvalidNonce)

# No connection, so no request. Not its parent ClientOSError: that is also a connection that was cut.
_NEVER_CONNECTED = (ClientConnectorError, ConnectionTimeoutError, ConnectionRefusedError, gaierror)


def verdict_on(error: object) -> Verdict | None:
    """
    What shockproof should think of *error*; None for what is not ccxt's, and for good answers.

    A clear refusal is a success of the *service*: its circuit must not open because we asked for
    nonsense. A duplicate id is no refusal: it says that the order exists.
    """
    if not isinstance(error, ccxt.BaseError):
        return None
    if _is_duplicate(error):
        return Verdict(Outcome.FAILURE, effect="done")
    if isinstance(error, _REFUSALS):
        return Verdict(Outcome.SUCCESS)
    if isinstance(error, _TURNED_AWAY) or _never_connected(error):
        return Verdict(Outcome.FAILURE, effect="none")
    # 5xx, a cut, a late answer, an answer nobody can read, and whatever ccxt calls ExchangeError for
    # want of a better name: it may have happened.
    return Verdict(Outcome.FAILURE, effect="unknown")


def is_refusal(error: BaseException) -> bool:
    """Whether the venue answered with a clear no: nothing was booked, and nothing will be."""
    return isinstance(error, _REFUSALS) and not _is_duplicate(error)


def may_succeed_later(error: Exception) -> bool:
    """For ``retry_on``: whether the same request may do better in a moment."""
    return not is_refusal(error)


def classify_for(exchange: Exchange) -> Callable[[object, CallInfo], Verdict | None]:
    """
    `verdict_on`, completed by the venue's Retry-After, which ccxt drops from its exceptions.

    ``last_response_headers`` belongs to the whole client, so that with several requests in flight it
    may be another answer's; a wait that is a little wrong is the worst that comes of it.
    """

    def classify(result: object, _call: CallInfo) -> Verdict | None:
        verdict = verdict_on(result)
        if verdict is not None and isinstance(result, (ccxt.DDoSProtection, ccxt.RateLimitExceeded)):
            headers = exchange.last_response_headers or {}
            seconds = str(headers.get("Retry-After", ""))
            if seconds.isdecimal():
                return Verdict(verdict.outcome, float(seconds), verdict.effect)
        return verdict

    return classify


def _is_duplicate(error: BaseException) -> bool:
    return isinstance(error, ccxt.DuplicateOrderId) or (
        isinstance(error, ccxt.InvalidOrder) and "duplicate order" in str(error).lower()
    )


def _never_connected(error: BaseException) -> bool:
    return isinstance(error, ccxt.NetworkError) and any(
        isinstance(cause, _NEVER_CONNECTED) for cause in _causes(error)
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(8):  # chains are short; one that is not may be a circle
        error = None if error is None else error.__cause__
        if error is None:
            return
        yield error
