"""
alpaca-py: what its errors say about the request, and a client protected in one line.

alpaca-py is synchronous: its calls run in threads, so that the event loop goes on.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from shockproof.integrations.optional import missing

try:
    from alpaca.common.exceptions import APIError
    from alpaca.common.rest import RESTClient
except ImportError as error:
    raise missing("alpaca-py", "alpaca", error) from error

# After its own client: who has neither is told of this module and its extra.
import shockproof.integrations.requests as requests_outcomes
from shockproof.integrations.http_status import meaning_of_status
from shockproof.integrations.known_there import meaning_of_words
from shockproof.integrations.outcome_table import Meaning, OutcomeTable, Rule
from shockproof.integrations.protected_client import Does, ProtectedClient, WithKey, new_key, stand_in
from shockproof.integrations.unclear_noes import is_unclear
from shockproof.policies.retry_after import asked_to_wait
from shockproof.vocabulary.arguments import seconds
from shockproof.vocabulary.clock import Clock as OurClock
from shockproof.vocabulary.look_up import NOT_FOUND, UNKNOWN, Found, LookUp
from shockproof.vocabulary.outcomes import CallInfo, Verdict

if TYPE_CHECKING:
    from uuid import UUID

    from alpaca.trading.client import TradingClient
    from alpaca.trading.models import Clock, Order, Position, TradeAccount
    from alpaca.trading.requests import (
        ClosePositionRequest,
        GetOrdersRequest,
        OrderRequest,
        ReplaceOrderRequest,
    )

    from shockproof.calls.options import ServiceOptions
    from shockproof.service import ErrorRecoveryService

__all__ = [
    "KEY_PATTERN",
    "TABLE",
    "ProtectedTradingClient",
    "classify",
    "find_order",
    "meaning_of",
    "protect",
]

_log = logging.getLogger("shockproof")

KEY_PATTERN: Final = r"[!-~]{1,128}"
"""What is safe as a ``client_order_id``, of which Alpaca says the length only; for ``once(key_pattern=...)``."""

_NO_SUCH_ORDER: Final = 40410000


def _answer_of(error: APIError) -> dict[str, Any]:  # Any: JSON
    # Not error.code and error.message: on a page of HTML they raise.
    try:
        answer: object = json.loads(str(error))
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _by_words(error: APIError) -> Meaning | None:
    # "client_order_id must be unique": its code, 40010001, is that of every malformed request.
    return meaning_of_words(str(_answer_of(error).get("message")))


def _if_it_is_unclear(error: APIError) -> Meaning | None:
    return Meaning.UNKNOWN if is_unclear(str(_answer_of(error).get("message"))) else None


def _by_status(error: APIError) -> Meaning:
    return meaning_of_status(error.status_code or 0) or Meaning.UNKNOWN


def _asked_to_wait(error: object, clock: OurClock) -> float | None:
    waits = asked_to_wait(error, clock)
    if waits is None and isinstance(error, APIError) and error.status_code == 429:
        reset = str(getattr(error.response, "headers", {}).get("X-RateLimit-Reset", ""))
        if reset.isdecimal():
            return max(0.0, int(reset) - clock.time())
    return waits


TABLE: Final = OutcomeTable(
    Rule("the id is known, in words", (APIError,), _by_words),
    Rule("no clear no, in words", (APIError,), _if_it_is_unclear),
    Rule("a status", (APIError,), _by_status),
    *requests_outcomes.TABLE.rules,
    asked_to_wait=_asked_to_wait,
)
"""The rules, in order; those of requests, which alpaca-py lets through, come last."""


def meaning_of(error: object) -> Meaning | None:
    """What an error of alpaca-py means; None for what is neither its own nor requests'."""
    return TABLE.meaning_of(error)


def classify(value: object, call: CallInfo) -> Verdict | None:
    """For ``recovery.service(..., classify=...)``. Retry-After and X-RateLimit-Reset are honoured."""
    return TABLE.classify(value, call)


# -- the client ------------------------------------------------------------------------------------------

_LEFT_ALONE: Final = frozenset({"response_wrapper"})


def _does(name: str) -> Does | None:
    if name in _LEFT_ALONE:
        return None
    for start, does in (
        ("get_", Does.READ),
        ("cancel_", Does.CANCEL),
        ("close_", Does.CLOSE),
        ("set_account_configurations", Does.SET),
    ):
        if name.startswith(start):
            return does
    return Does.READ if name == "get" else Does.WRITE


_ORDER_AT: Final = {"submit_order": 0, "submit_order_for_account": 1}
"""The methods that send an order, the second of a BrokerClient, and where their ``order_data`` stands."""


def _with_key(method: str) -> WithKey | None:
    position = _ORDER_AT.get(method)
    if position is None:
        return None

    def with_key(
        args: tuple[Any, ...],  # Any: alpaca-py's own arguments
        kwargs: dict[str, Any],  # Any: as above
    ) -> tuple[tuple[Any, ...], dict[str, Any], str]:  # Any: as above
        order: OrderRequest = args[position] if len(args) > position else kwargs["order_data"]
        if not order.client_order_id:
            order = order.model_copy(update={"client_order_id": new_key()})
        named = {name: value for name, value in kwargs.items() if name != "order_data"}
        return args[:position], {**named, "order_data": order}, str(order.client_order_id)

    return with_key


class ProtectedTradingClient(Protocol):
    """What `protect` gives: the methods of alpaca-py's client, each a coroutine function."""

    def submit_order(self, order_data: OrderRequest) -> Coroutine[Any, Any, Order]: ...  # Any: a coroutine's
    def replace_order_by_id(
        self, order_id: UUID | str, order_data: ReplaceOrderRequest | None = None
    ) -> Coroutine[Any, Any, Order]: ...  # Any: a coroutine's own
    def cancel_order_by_id(self, order_id: UUID | str) -> Coroutine[Any, Any, None]: ...  # Any: as above
    def get_order_by_client_id(self, client_id: str) -> Coroutine[Any, Any, Order]: ...  # Any: as above
    def get_order_by_id(self, order_id: UUID | str) -> Coroutine[Any, Any, Order]: ...  # Any: as above
    def get_orders(
        self,
        filter: GetOrdersRequest | None = None,  # noqa: A002 - alpaca-py's name for it
    ) -> Coroutine[Any, Any, list[Order]]: ...  # Any: as above
    def get_all_positions(self) -> Coroutine[Any, Any, list[Position]]: ...  # Any: as above
    def close_position(
        self, symbol_or_asset_id: UUID | str, close_options: ClosePositionRequest | None = None
    ) -> Coroutine[Any, Any, Order]: ...  # Any: as above
    def get_account(self) -> Coroutine[Any, Any, TradeAccount]: ...  # Any: as above
    def get_clock(self) -> Coroutine[Any, Any, Clock]: ...  # Any: as above
    def __getattr__(
        self, name: str
    ) -> Callable[..., Coroutine[Any, Any, Any]]: ...  # Any: every other method


def protect(
    client: TradingClient,
    recovery: ErrorRecoveryService,
    *,
    name: str = "alpaca",
    connect_timeout: float = 3.0,
    read_timeout: float = 10.0,
    orders: ServiceOptions | None = None,
    reads: ServiceOptions | None = None,
) -> ProtectedTradingClient:
    """
    A client with the methods of *client* as coroutine functions, run in threads and guarded.

    ``get_*`` are reads; ``cancel_*`` may be repeated and reduce risk; ``close_*`` reduce risk and are not
    repeated blindly; everything else, with ``submit_order``, is unsafe. An order without a
    ``client_order_id`` gets one before its first attempt; it stands in the error log, and in a note on
    the error that ends the call.

    *client* itself is changed in two ways, both warned of or documented here: its own retries, which send an
    order up to four times after a 504, are switched off, and its requests, which had no time limit at all,
    get one.

    Args:
        client: a ``TradingClient``; other clients of alpaca-py work, too. A ``BrokerClient`` has orders by account: their id is made as
            well, and looked up with ``get_order_for_account_by_client_id``, which `find_order` does not know.
        recovery: guards the calls.
        name: what the two services are called after: ``name.orders`` and ``name.reads``.
        connect_timeout: seconds a connection may take, more than 0. Beyond it nothing was sent.
        read_timeout: seconds the other side may be silent, more than 0. Beyond it nobody knows.
        orders: options of ``name.orders``, such as ``{"timeout": 15.0, "circuit_threshold": 3}``.
        reads: options of ``name.reads``.

    A call that is cancelled leaves its thread behind, until the request ends; it keeps what it holds of the
    service's limits.

    Raises:
        TypeError: it is no client of alpaca-py, or an option that the adapter settles by itself.
        ValueError: an option out of range.
    """
    if isinstance(client, ProtectedClient):
        raise TypeError("client is protected already")
    if not isinstance(client, RESTClient):
        raise TypeError(f"client must be one of alpaca-py's, such as a TradingClient, got {client!r}")
    limits = (
        seconds("connect_timeout", connect_timeout, more_than=0),
        seconds("read_timeout", read_timeout, more_than=0),
    )
    _switch_off_retries(client, name)
    session = client._session  # there is no other way to give its requests a time limit
    send = functools.partial(session.request, timeout=limits)

    def send_once(*args: Any, **kwargs: Any) -> Any:  # Any: those of requests
        _switch_off_retries_of_session(client, name)  # also of what was mounted since
        return send(*args, **kwargs)

    session.request = send_once  # type: ignore[method-assign]  # as above
    guarded = stand_in(
        client,
        recovery,
        name=name,
        classify=classify,
        does=_does,
        with_key=_with_key,
        orders=orders,
        reads=reads,
        methods_are="functions that wait",
    )
    return cast("ProtectedTradingClient", cast("object", guarded))


def _switch_off_retries(client: RESTClient, name: str) -> None:
    if not hasattr(client, "_retry"):
        raise RuntimeError(
            "this version of alpaca-py keeps its retries elsewhere than shockproof knows, so that they cannot "
            "be switched off, and may send an order several times: use another version"
        )
    client._retry = 0  # retry_attempts=0 is ignored: it is falsy
    _switch_off_retries_of_session(client, name)


def _switch_off_retries_of_session(client: RESTClient, name: str) -> None:
    for retries in requests_outcomes.switch_off_retries(client._session):
        _log.warning(
            "%s: the retries of its session (%r) are switched off: they send an order again that may be there",
            name,
            retries,
        )


async def find_order(client: ProtectedTradingClient, key: str) -> LookUp[Order]:
    """
    Look up the order whose ``client_order_id`` is *key*, with a client that `protect` gave.

    `NOT_FOUND` proves absence only if the look-up began after the broker had time to book the order. A look-up
    that fails says nothing, so that every error means `UNKNOWN`; cancellation passes.
    """
    try:
        return Found(await client.get_order_by_client_id(key))
    except APIError as error:
        # Not every 404 is about the order: a wrong address, or something in between, answers so, too.
        if error.status_code == 404 and _answer_of(error).get("code") == _NO_SUCH_ORDER:
            return NOT_FOUND
    except Exception:  # noqa: BLE001 - whatever it is, nothing was found out
        _log.debug("looking up %s failed", key, exc_info=True)
    return UNKNOWN
