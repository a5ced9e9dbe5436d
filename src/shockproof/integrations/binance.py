"""
python-binance, asynchronous: what its errors say about the request, and a client protected in one line.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, get_args

from shockproof.integrations.optional import missing

try:
    from binance.async_client import AsyncClient
    from binance.exceptions import BinanceAPIException, BinanceRequestException
except ImportError as error:
    raise missing("python-binance", "binance", error) from error

# After its own client: who has neither is told of this module and its extra.
import shockproof.integrations.aiohttp as aiohttp_outcomes
from shockproof.integrations.http_status import meaning_of_status
from shockproof.integrations.known_there import meaning_of_words
from shockproof.integrations.outcome_table import Meaning, OutcomeTable, Rule
from shockproof.integrations.protected_client import (
    Does,
    ProtectedClient,
    WithKey,
    new_key,
    only_closes,
    stand_in,
)
from shockproof.integrations.unclear_noes import is_unclear
from shockproof.policies.retry_after import asked_to_wait
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.look_up import NOT_FOUND, UNKNOWN, Found, LookUp
from shockproof.vocabulary.outcomes import CallInfo, Verdict

if TYPE_CHECKING:
    from shockproof.calls.options import ServiceOptions
    from shockproof.service import ErrorRecoveryService

__all__ = ["KEY_PATTERN", "TABLE", "Market", "classify", "find_order", "meaning_of", "protect"]

_log = logging.getLogger("shockproof")

KEY_PATTERN: Final = r"[.A-Z:/a-z0-9_-]{1,36}"
"""What Binance takes as a ``newClientOrderId``; for ``once(key_pattern=...)``."""

# Binance's numbers, which say more than the status that carries them.
_BY_CODE: Final = {
    -1000: Meaning.UNKNOWN,  # an unknown error while the request was processed
    -1001: Meaning.UNKNOWN,  # an internal error; unable to process the request
    -1003: Meaning.TURNED_AWAY,  # too many requests, or banned
    -1006: Meaning.UNKNOWN,  # an unexpected response from the message bus: execution status unknown
    -1007: Meaning.UNKNOWN,  # timeout of the backend: execution status unknown
    -1015: Meaning.TURNED_AWAY,  # too many orders
    -1021: Meaning.TURNED_AWAY,  # the timestamp is outside of the receive window
    -4111: Meaning.DONE,  # the client id of a transfer is known
    -4115: Meaning.DONE,  # as above
    -4116: Meaning.DONE,  # the client order id is known (futures)
    -20132: Meaning.DONE,  # the client algo id is known
}
_NO_SUCH_ORDER: Final = -2013
_BANNED_UNTIL: Final = re.compile(r"banned until (\d{13})\b")


def _by_words(error: BinanceAPIException) -> Meaning | None:
    return meaning_of_words(str(error.message))


def _if_it_is_unclear(error: BinanceAPIException) -> Meaning | None:
    return Meaning.UNKNOWN if is_unclear(str(error.message)) else None


def _by_code(error: BinanceAPIException) -> Meaning | None:
    return _BY_CODE.get(error.code)


def _by_status(error: BinanceAPIException) -> Meaning:
    return meaning_of_status(error.status_code) or Meaning.UNKNOWN


def _asked_to_wait(error: object, clock: Clock) -> float | None:
    if isinstance(error, BinanceAPIException):
        banned_until = _BANNED_UNTIL.search(str(error.message))
        if banned_until is not None:
            return max(0.0, int(banned_until[1]) / 1000 - clock.time())
    return asked_to_wait(error, clock)


TABLE: Final = OutcomeTable(
    Rule("a code", (BinanceAPIException,), _by_code),
    Rule("the id is known, in words", (BinanceAPIException,), _by_words),
    Rule("no clear no, in words", (BinanceAPIException,), _if_it_is_unclear),
    Rule("a status", (BinanceAPIException,), _by_status),
    Rule("an answer that nobody can read", (BinanceRequestException,), Meaning.UNKNOWN),
    *aiohttp_outcomes.TABLE.rules,
    asked_to_wait=_asked_to_wait,
)
"""The rules, in order; those of aiohttp, which python-binance lets through, come last."""


def meaning_of(error: object) -> Meaning | None:
    """What an error of python-binance means; None for what is neither its own nor aiohttp's."""
    return TABLE.meaning_of(error)


def classify(value: object, call: CallInfo) -> Verdict | None:
    """For ``recovery.service(..., classify=...)``. Retry-After and the end of a ban are honoured."""
    return TABLE.classify(value, call)


# -- the client ------------------------------------------------------------------------------------------

_DOES: Final = (
    (re.compile(r"create$|close_connection$"), None),
    (re.compile(r"(\w+_)?cancel_(and_)?replace"), Does.WRITE),
    (re.compile(r"(\w+_)?cancel_"), Does.CANCEL),
    (re.compile(r"(\w+_)?(create|post|put|delete)_"), Does.WRITE),
    (re.compile(r"papi_get_margin_repay_debt$"), Does.WRITE),  # a POST, whatever its name says
    (re.compile(r"(\w+_)?get_"), Does.READ),
    (
        re.compile(
            r"(futures_)?(coin_)?(ping|time|exchange_info|order_book|klines|account|account_balance)$"
        ),
        Does.READ,
    ),
    (re.compile(r"futures_(coin_)?(position_information|account_trades|mark_price|\w*ticker)$"), Does.READ),
    (re.compile(r"futures_(coin_)?change_(leverage|margin_type|position_mode)$"), Does.SET),
    (re.compile(r"(\w+_)?stream_(keepalive|close)$"), Does.SET),
)
_MAY_ONLY_CLOSE: Final = re.compile(r"(ws_)?futures_(coin_)?(create|limit|market)_|papi_create_")
_TAKES_A_KEY: Final = re.compile(
    r"(create|create_test|create_margin|futures_create|futures_coin_create)_order$|order_(market|limit)(_buy|_sell)?$"
)

_CONDITIONAL: Final = frozenset(
    {"STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET", "TRAILING_STOP_MARKET"}
)
"""Futures orders that are kept apart from the others, under a ``clientAlgoId``."""


def _does(name: str) -> Does | None:
    return next((does for pattern, does in _DOES if pattern.match(name)), Does.WRITE)


def _with_key(
    args: tuple[Any, ...],  # Any: python-binance's own arguments
    kwargs: dict[str, Any],  # Any: as above
) -> tuple[tuple[Any, ...], dict[str, Any], str]:  # Any: as above
    key = kwargs.get("newClientOrderId") or new_key()
    return args, {**kwargs, "newClientOrderId": key}, key


def _with_key_of_futures(
    args: tuple[Any, ...],  # Any: python-binance's own arguments
    kwargs: dict[str, Any],  # Any: as above
) -> tuple[tuple[Any, ...], dict[str, Any], str]:  # Any: as above
    # For these python-binance drops the newClientOrderId, and makes a clientAlgoId for each attempt.
    if str(kwargs.get("type")).upper() not in _CONDITIONAL:
        return _with_key(args, kwargs)
    key = kwargs.get("clientAlgoId") or kwargs.get("newClientOrderId") or new_key()
    return args, {**kwargs, "clientAlgoId": key}, key


def _with_key_of_its_kind(method: str) -> WithKey | None:
    if not _TAKES_A_KEY.match(method):
        return None
    return _with_key_of_futures if method == "futures_create_order" else _with_key


def _closes(
    _args: tuple[Any, ...],  # Any: python-binance's own arguments
    kwargs: dict[str, Any],  # Any: as above
) -> bool:
    return only_closes(kwargs)


C = TypeVar("C", bound=AsyncClient)


def protect(
    client: C,
    recovery: ErrorRecoveryService,
    *,
    name: str = "binance",
    orders: ServiceOptions | None = None,
    reads: ServiceOptions | None = None,
) -> C:
    """
    The same *client* with its coroutine methods guarded.

    ``get_*`` and the like are reads; ``cancel_*`` may be repeated and reduce risk; leverage and margin type
    may be set again; a futures order with a true ``reduceOnly`` or ``closePosition`` reduces risk and is not repeated
    blindly; everything else, orders included, is unsafe. An order without a ``newClientOrderId``
    gets one before its first attempt, so that a second attempt sends the same: python-binance itself makes
    a new one for each. It stands in the error log, and in a note on the error that ends the call.

    *client* itself is changed in two ways: its requests follow no redirects, for what comes after one proves
    nothing about the order before it, and aiohttp below it sends each once, where it repeats a PUT or DELETE by itself.

    Args:
        client: an ``AsyncClient``.
        recovery: guards the calls.
        name: what the two services are called after: ``name.orders`` and ``name.reads``.
        orders: options of ``name.orders``, such as ``{"timeout": 5.0, "circuit_threshold": 3}``.
        reads: options of ``name.reads``.

    Raises:
        TypeError: it is no ``AsyncClient``, or an option that the adapter settles by itself.
        ValueError: an option out of range.
    """
    if isinstance(client, ProtectedClient):
        raise TypeError("client is protected already")
    if not isinstance(client, AsyncClient):
        raise TypeError(f"client must be a binance.AsyncClient, got {client!r}")
    client._requests_params = {
        **(client._requests_params or {}),
        "allow_redirects": False,
    }  # there is no other way
    if client.session is not None:
        aiohttp_outcomes.switch_off_retries(client.session)
    return stand_in(
        client,
        recovery,
        name=name,
        classify=classify,
        does=_does,
        with_key=_with_key_of_its_kind,
        closes=lambda method: _closes if _MAY_ONLY_CLOSE.match(method) else None,
        orders=orders,
        reads=reads,
    )


Market = Literal["spot", "margin", "isolated_margin", "futures", "coin_futures"]
"""Where an order is: each market of Binance has orders of its own."""

_Question = tuple[str, str, str, str, int, dict[str, Any]]  # Any: python-binance's own arguments
"""
The method that asks for one, with which argument; the one that lists the latest, where the id is, and how many it lists at
most; what both take.
"""

_ASKS: Final[dict[Market, tuple[_Question, ...]]] = {
    "spot": (("get_order", "origClientOrderId", "get_all_orders", "clientOrderId", 1000, {}),),
    "margin": (("get_margin_order", "origClientOrderId", "get_all_margin_orders", "clientOrderId", 500, {}),),
    "isolated_margin": (
        (
            "get_margin_order",
            "origClientOrderId",
            "get_all_margin_orders",
            "clientOrderId",
            500,
            {"isIsolated": "TRUE"},
        ),
    ),
    "futures": (
        ("futures_get_order", "origClientOrderId", "futures_get_all_orders", "clientOrderId", 1000, {}),
        (
            "futures_get_order",
            "clientAlgoId",
            "futures_get_all_orders",
            "clientAlgoId",
            1000,
            {"conditional": True},
        ),
    ),
    "coin_futures": (
        (
            "futures_coin_get_order",
            "origClientOrderId",
            "futures_coin_get_all_orders",
            "clientOrderId",
            100,
            {},
        ),
    ),
}


_REACHES_BACK: Final = 600.0
"""
Seconds that a list which is full has to span. It is there for what the venue does not find by its id yet; behind a younger one
may stand an order that is as new.
"""


class _ListTooShortError(Exception):
    """There are more orders than one list holds."""


async def find_order(
    client: AsyncClient, key: str, symbol: str, *, market: Market = "spot"
) -> LookUp[dict[str, Any]]:  # Any: Binance's own order
    """
    Look up the order of *symbol* whose ``newClientOrderId`` was *key*, in *market* and nowhere else.

    The venue is asked for it, and if it has none of that id, for the latest orders. `NOT_FOUND` proves absence only
    in the market that the order was sent to, and only if the look-up began after the venue had time to book it. A
    look-up that fails says nothing, so that every error means `UNKNOWN`, and so does a list that is full and does not reach
    back ten minutes; cancellation passes.

    Args:
        client: an ``AsyncClient``, protected or not.
        key: the id that the order was sent with.
        symbol: what was ordered.
        market: "spot", "margin" (cross), "isolated_margin", "futures" (USD-M) or "coin_futures" (COIN-M).

    Raises:
        ValueError: there is no such market.
    """
    if market not in _ASKS:
        raise ValueError(f"market must be one of {', '.join(get_args(Market))}, got {market!r}")
    try:
        for question in _ASKS[market]:
            order = await _answer_to(client, question, key, symbol)
            if order is not None:
                return Found(order)
    except Exception:  # noqa: BLE001 - whatever it is, nothing was found out
        _log.debug("binance: looking up %s failed", key, exc_info=True)
        return UNKNOWN
    return NOT_FOUND


async def _answer_to(
    client: AsyncClient, question: _Question, key: str, symbol: str
) -> dict[str, Any] | None:  # Any: Binance's own order
    ask, by, list_latest, its_id, most, with_both = question
    try:
        one: dict[str, Any] = await getattr(client, ask)(
            symbol=symbol, **{by: key}, **with_both
        )  # Any: as above
    except BinanceAPIException as error:
        if error.code != _NO_SUCH_ORDER:
            raise
    else:
        return one
    listed: list[dict[str, Any]] = await getattr(client, list_latest)(
        symbol=symbol, limit=most, **with_both
    )  # Any: as above
    found = next((one for one in listed if one[its_id] == key), None)
    if found is None and len(listed) >= most and _seconds_spanned(listed) < _REACHES_BACK:
        raise _ListTooShortError(f"{most} orders of {symbol} within {_seconds_spanned(listed):g} s")
    return found


def _seconds_spanned(listed: list[dict[str, Any]]) -> float:  # Any: as above
    times = [one.get("time", one.get("createTime")) for one in listed]
    known = [time for time in times if isinstance(time, int)]
    return (max(known) - min(known)) / 1000 if known else 0.0
