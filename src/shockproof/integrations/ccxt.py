"""
ccxt, asynchronous: what its errors say about the request, and a client that is protected in one line.

ccxt's own tree answers another question (is it worth another try?), so its branches are regrouped here.
Only a clear answer, or a connection that never stood, proves that nothing happened.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
from collections.abc import Callable, Mapping
from socket import gaierror
from typing import TYPE_CHECKING, Any, Final, TypeVar

from shockproof.integrations.optional import missing

try:
    import ccxt
except ImportError as error:
    raise missing("ccxt", "ccxt", error) from error

# After its own client: who has neither is told of this module and its extra.
import shockproof.integrations.aiohttp as aiohttp_outcomes
from shockproof.integrations.http_status import meaning_of_status
from shockproof.integrations.known_there import meaning_of_words
from shockproof.integrations.outcome_table import Meaning, OutcomeTable, Rule
from shockproof.integrations.protected_client import Does, ProtectedClient, only_closes, stand_in
from shockproof.integrations.unclear_noes import is_unclear
from shockproof.policies.retry_after import asked_to_wait
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.look_up import NOT_FOUND, UNKNOWN, Found, LookUp
from shockproof.vocabulary.outcomes import CallInfo, Verdict

if TYPE_CHECKING:
    from ccxt.async_support import Exchange
    from ccxt.base.types import Order

    from shockproof.calls.options import ServiceOptions
    from shockproof.policies.classification import Classify
    from shockproof.service import ErrorRecoveryService

__all__ = ["TABLE", "classify", "classify_for", "find_order", "meaning_of", "protect"]

_log = logging.getLogger("shockproof")

# "binance POST https://... 403 Forbidden <html>...": what ccxt makes of a status that the exchange's own
# code does not know.
_STATUS: Final = re.compile(r"\A\S+ (?:GET|POST|PUT|PATCH|DELETE) \S+ (\d{3}) ")
# Hyperliquid answers for several orders at once: an order with its stop, or a batch. Ccxt raises the first refusal among them.
_ONE_IS_THERE: Final = re.compile(r'"(?:resting|filled)"\s*:\s*\{|"waitingFor(?:Fill|Trigger)"')
_BANNED_UNTIL: Final = re.compile(r"banned until (\d{13})\b")


def _if_known(error: Exception) -> Meaning | None:
    return Meaning.DONE if meaning_of_words(str(error)) is Meaning.DONE else None


def _if_it_may_be_known(error: Exception) -> Meaning | None:
    return meaning_of_words(str(error))


def _if_one_of_several_is_there(error: Exception) -> Meaning | None:
    return Meaning.UNKNOWN if _ONE_IS_THERE.search(str(error)) else None


def _if_it_is_unclear(error: Exception) -> Meaning | None:
    return Meaning.UNKNOWN if is_unclear(str(error)) else None


def _if_never_connected(error: Exception) -> Meaning | None:
    cause = error.__cause__
    if isinstance(cause, gaierror):
        return Meaning.UNKNOWN if aiohttp_outcomes.was_sent_before(cause) else Meaning.NOT_SENT
    if aiohttp_outcomes.meaning_of(cause) is Meaning.NOT_SENT:
        return Meaning.NOT_SENT
    return None


def _by_status(error: Exception) -> Meaning | None:
    status = None if error.__cause__ else _STATUS.match(str(error))
    return None if status is None else meaning_of_status(int(status[1]))


def _asked_to_wait(error: object, clock: Clock) -> float | None:
    banned_until = _BANNED_UNTIL.search(str(error)) if isinstance(error, ccxt.NetworkError) else None
    if banned_until is not None:
        return max(0.0, int(banned_until[1]) / 1000 - clock.time())
    return asked_to_wait(error, clock)


TABLE: Final = OutcomeTable(
    Rule("the id is known", (ccxt.DuplicateOrderId,), Meaning.DONE),
    # Ccxt has that class for few venues; the others' word for it is an InvalidOrder or a BadRequest.
    Rule("the id is known, in words", (ccxt.BaseError,), _if_known),
    Rule("one of several is there", (ccxt.BaseError,), _if_one_of_several_is_there),
    # Siblings, not parent and child.
    Rule("too many requests", (ccxt.DDoSProtection, ccxt.RateLimitExceeded), Meaning.TURNED_AWAY),
    Rule("no connection", (ccxt.NetworkError,), _if_never_connected),
    Rule("something is there already", (ccxt.BaseError,), _if_it_may_be_known),
    # A nonce or a timestamp that is off is refused unread.
    Rule("a clock that is off", (ccxt.InvalidNonce,), Meaning.TURNED_AWAY),
    # Ccxt calls a time limit inside the venue an InvalidOrder or a BadRequest, where the venue's code is among those of its noes.
    Rule("no clear no, in words", (ccxt.BaseError,), _if_it_is_unclear),
    Rule(
        "a clear no",
        (
            ccxt.ArgumentsRequired,
            ccxt.AuthenticationError,
            ccxt.BadRequest,
            ccxt.ExchangeClosedByUser,  # our own: it is closed, and sends nothing
            ccxt.InsufficientFunds,
            ccxt.InvalidAddress,
            ccxt.InvalidOrder,  # with OrderNotFound
            ccxt.NotSupported,
            ccxt.OperationRejected,  # with MarketClosed
        ),
        Meaning.REFUSED,
    ),
    # ccxt calls 400, 403, 404, 405, 410 and 451 a network error.
    Rule("a status", (ccxt.ExchangeError, ccxt.NetworkError), _by_status),
    # A cut, a late answer, one that nobody can read, and ExchangeError, for want of a better name.
    Rule("everything else", (ccxt.BaseError,), Meaning.UNKNOWN),
    asked_to_wait=_asked_to_wait,
)
"""The rules, in order."""


def meaning_of(error: object) -> Meaning | None:
    """What an error of ccxt means; None for what is not ccxt's."""
    return TABLE.meaning_of(error)


def classify(value: object, call: CallInfo) -> Verdict | None:
    """
    For ``recovery.service(..., classify=...)``.

    ccxt drops the answer's headers from its errors, and Retry-After with them: `classify_for` finds it.
    """
    return TABLE.classify(value, call)


def classify_for(exchange: Exchange) -> Classify:
    """
    `classify`, completed by the Retry-After of the answer that *exchange* received last.

    ccxt sets ``last_response_headers`` and raises without a pause in between, so that an error which is
    judged at once, as shockproof does, finds its own answer's headers.

    And a change of an order that ccxt makes out of a cancel and a new order is unknown, whichever of the two has failed.
    """

    def classify(value: object, call: CallInfo) -> Verdict | None:
        verdict = TABLE.classify(value, call)
        if verdict is not None and _EDITS.match(call.function_name) and _cancels_and_creates(exchange):
            return Meaning.UNKNOWN.verdict()
        if verdict is None or verdict.retry_after is not None:
            return verdict
        if isinstance(value, (ccxt.DDoSProtection, ccxt.RateLimitExceeded)):
            return Verdict(verdict.outcome, asked_to_wait(_Answer(exchange), call.clock), verdict.effect)
        return verdict

    return classify


_EDITS: Final = re.compile(r"edit_\w*order")


def _cancels_and_creates(exchange: Exchange) -> bool:
    from ccxt.async_support import Exchange as AsyncExchange

    return exchange.has.get("editOrder") is not True or type(exchange).edit_order is AsyncExchange.edit_order


class _Answer:
    """What `asked_to_wait` looks at."""

    def __init__(self, exchange: Exchange) -> None:
        headers: dict[str, str] = exchange.last_response_headers or {}
        self.headers = {name.lower(): text for name, text in headers.items()}


# -- the client ------------------------------------------------------------------------------------------

_LEFT_ALONE: Final = frozenset(
    {"close", "fetch", "fetch2", "request", "safe_deterministic_call", "sleep", "throttle"}
)
_DOES: Final = (
    (re.compile(r"fetch_|load_|is_"), Does.READ),
    (re.compile(r"cancel_"), Does.CANCEL),
    (re.compile(r"close_(all_)?position|create_reduce_only_order"), Does.CLOSE),
    (re.compile(r"set_(leverage|margin_mode|position_mode)|sign_in"), Does.SET),
    (re.compile(r"watch_|un_watch_|close_"), None),
)


def _does(name: str) -> Does | None:
    if name in _LEFT_ALONE:
        return None
    return next((does for pattern, does in _DOES if pattern.match(name)), Does.WRITE)


_OWN_RETRIES: Final = ("maxRetriesOnFailure", "defaultMaxRetriesOnFailure")
_CLIENT_ORDER_IDS: Final = ("clientOrderId", "newClientOrderId", "clOrdId", "text")


_CREATES_ONE: Final = re.compile(r"create_(\w+_)?order(_ws)?$")


def _params(
    args: tuple[Any, ...],  # Any: ccxt's own arguments
    kwargs: dict[str, Any],  # Any: as above
) -> dict[str, Any]:  # Any: as above
    return kwargs.get("params") or next((one for one in reversed(args) if isinstance(one, dict)), {})


def _closes(
    args: tuple[Any, ...],  # Any: ccxt's own arguments
    kwargs: dict[str, Any],  # Any: as above
) -> bool:
    return only_closes(_params(args, kwargs))


def _with_key(
    args: tuple[Any, ...],  # Any: ccxt's own arguments
    kwargs: dict[str, Any],  # Any: as above
) -> tuple[tuple[Any, ...], dict[str, Any], str | None]:  # Any: as above
    given = _params(args, kwargs)
    for name in _OWN_RETRIES:
        if given.get(name):
            raise ValueError(
                f"params must not hold {name}={given[name]!r}: ccxt would send this again by itself although it may "
                "be there; how often shockproof may is set by orders={'max_retries': ...}"
            )
    # No exchange takes every form of id, so that none is made up here.
    key = next((given[name] for name in _CLIENT_ORDER_IDS if given.get(name)), None)
    return args, kwargs, None if key is None else str(key)


E = TypeVar("E", bound="Exchange")


def protect(
    exchange: E,
    recovery: ErrorRecoveryService,
    *,
    name: str | None = None,
    orders: ServiceOptions | None = None,
    reads: ServiceOptions | None = None,
) -> E:
    """
    The same *exchange* with its unified methods guarded.

    ``fetch_*`` and ``load_*`` are reads; ``cancel_*`` may be repeated and reduce risk; closing a position
    reduces risk and is not repeated blindly, and so does an order whose ``params`` hold a true ``reduceOnly`` or
    ``closePosition``; everything else that talks to the venue, with ``create_*`` and ``edit_*``, is unsafe. ``watch_*`` and the implicit methods (``private_post_order``) are left alone, and
    so is everything that is no call. The exchange itself stays as it is, but for its own retries
    (``maxRetriesOnFailure``) and those of its session, which are switched off: they send an order a second time. And its markets go on
    loading when the call that began it is cut off, for all others wait for the same. The client order id among an order's ``params`` stands in the error log, and in a note on the error that ends the call.

    Args:
        exchange: an asynchronous exchange of ccxt, of ``ccxt.async_support`` or ``ccxt.pro``.
        recovery: guards the calls.
        name: what the two services are called after, ``name.orders`` and ``name.reads``; by default
            ``exchange.id``.
        orders: options of ``name.orders``, such as ``{"timeout": 5.0, "circuit_threshold": 3}``.
        reads: options of ``name.reads``.

    Raises:
        TypeError: it is no asynchronous exchange of ccxt, or an option that the adapter settles by itself.
        ValueError: an option out of range.
    """
    from ccxt.async_support import Exchange as AsyncExchange

    if isinstance(exchange, ProtectedClient):
        raise TypeError("exchange is protected already")
    if not isinstance(exchange, AsyncExchange):
        raise TypeError(f"exchange must be one of ccxt.async_support or ccxt.pro, got {exchange!r}")
    _switch_off_retries(exchange)
    _switch_off_retries_of_sessions(exchange)
    _have_loading_survive(exchange)

    def with_key(
        args: tuple[Any, ...],  # Any: ccxt's own arguments
        kwargs: dict[str, Any],  # Any: as above
    ) -> tuple[tuple[Any, ...], dict[str, Any], str | None]:  # Any: as above
        _switch_off_retries(exchange)  # also those that were switched on since
        return _with_key(args, kwargs)

    return stand_in(
        exchange,
        recovery,
        name=name or str(exchange.id),
        classify=classify_for(exchange),
        does=_does,
        with_key=lambda method: None if _does(method) is Does.READ else with_key,
        closes=lambda method: _closes if _CREATES_ONE.match(method) else None,
        orders=orders,
        reads=reads,
    )


def _switch_off_retries(exchange: Exchange) -> None:
    options: dict[str, Any] = exchange.options or {}  # Any: ccxt's options are free-form
    for holder in (options, *(value for value in options.values() if isinstance(value, dict))):
        for name in _OWN_RETRIES:
            if holder.get(name):
                _log.warning(
                    "%s: its own retries (%s=%r) are switched off: they send an order again that may be there",
                    exchange.id,
                    name,
                    holder[name],
                )
                holder[name] = 0


def _switch_off_retries_of_sessions(exchange: Exchange) -> None:
    # aiohttp's own. Ccxt opens a session with the first request, and again after a close.
    open_one = exchange.open

    def open_and_switch_off(*args: Any, **kwargs: Any) -> None:  # Any: ccxt's own arguments
        open_one(*args, **kwargs)
        if exchange.session is not None:
            aiohttp_outcomes.switch_off_retries(exchange.session)

    exchange.open = open_and_switch_off  # there is no other way


def _have_loading_survive(exchange: Exchange) -> None:
    # All calls that need the markets await one task of ccxt's: whoever is cut off would cancel it for the others, whom nobody has cancelled.
    load = exchange.load_markets

    @functools.wraps(load)
    async def load_and_survive(
        reload: bool = False,
        *args: Any,  # Any: as ccxt has them
        **kwargs: Any,  # Any: as above
    ) -> Any:  # Any: as above
        loading = load(reload, *args, **kwargs)
        if not reload and exchange.markets_loading is not None and exchange.markets_loading.done():
            return await loading
        # Not asyncio.shield: what an order shields is a part of it, which may send something yet.
        loaded: asyncio.Future[Any] = asyncio.get_running_loop().create_future()  # Any: as above
        asyncio.ensure_future(loading).add_done_callback(functools.partial(_pass_on, loaded))
        return await loaded

    exchange.load_markets = load_and_survive  # there is no other way


def _pass_on(to: asyncio.Future[Any], of: asyncio.Future[Any]) -> None:  # Any: whatever it is
    error = None if of.cancelled() else of.exception()  # looked at in any case, for else asyncio complains
    if to.done():
        return
    if of.cancelled():
        to.cancel()
    elif error is not None:
        to.set_exception(error)
    else:
        to.set_result(of.result())


_GATES: Final = ("gate", "gateeu")

_PAGE: Final = 20
"""Orders asked for where ccxt does not say how many an exchange lists at once: few, so that none lists fewer."""


async def find_order(
    exchange: Exchange,
    key: str,
    symbol: str,
    *,
    trigger: bool = True,
    params: Mapping[str, Any] | None = None,  # Any: ccxt's own
) -> LookUp[Order]:
    """
    Look up the order of *symbol* whose client order id is *key*.

    The venue is asked for it, and if it has none of that id, for its lists of the open orders and of those that ended. Where ccxt cannot ask
    by that id (but for Alpaca and Bybit, whose lists hold all), where there are no such lists, and where one is as long as the longest page
    that the venue gives, the order may be where nobody looked: `UNKNOWN`. Many venues list trigger orders (stops, take-profits) apart: there they are looked for as well.

    `NOT_FOUND` proves absence only if the look-up began after the venue had time to book the order, and before the
    order was older than what the venue lists. A look-up that fails says nothing, so that every error means `UNKNOWN`;
    cancellation passes.

    Args:
        exchange: the exchange, protected or not.
        key: the id that the order was sent with.
        symbol: what was ordered.
        trigger: False spares the question after trigger orders, where *key* is certainly not of one.
        params: what of the order's own ``params`` says in which account, or among which orders, it is, such as
            ``{"marginMode": "cross"}``. Without that it is looked for where it is not.
    """
    where = dict(params or {})
    try:
        answer = await _find(exchange, key, symbol, {}, where)
        if not isinstance(answer, Found) and trigger and _lists_triggers_apart(exchange, symbol):
            apart = await _find(exchange, key, symbol, {"trigger": True}, where)
            answer = apart if isinstance(apart, Found) or answer is NOT_FOUND else answer
    except Exception:  # noqa: BLE001 - whatever it is, nothing was found out
        _log.debug("%s: looking up %s failed", exchange.id, key, exc_info=True)
        return UNKNOWN
    return answer


_KNOW_CLIENT_IDS: Final = frozenset(
    {
        *("apex", "aster", "binance", "binancecoinm", "binanceus", "binanceusdm"),
        *("bitget", "bitstamp", "bitvavo", "coinbaseexchange", "coinsph", "delta"),
        *("extended", "gate", "gateeu", "grvt", "hashkey", "htx"),
        *("hyperliquid", "kucoin", "kucoinfutures", "mexc", "modetrade", "myokx"),
        *("okx", "okxus", "paradex", "phemex", "weex", "woo"),
        "woofipro",
    }
)
"""
Exchanges whose ``fetch_order`` asks by ``params["clientOrderId"]``. The others ask after an empty id of their own, or after one of another
kind beside it: that they do not find it says nothing.
"""
_ONLY_OF_SPOT: Final = frozenset({"hashkey", "htx", "mexc"})
"""Of those, who ask by it for spot orders alone; at HTX others have a margin mode, which nobody knows here."""
_ONLY_OF_PLAIN: Final = frozenset({"bitget", "woo"})
"""Of those, who do not ask for trigger orders by it."""
_LIST_ALL: Final = frozenset({"alpaca", "bybit", "bybiteu", "bybitid"})
"""Others, whose lists hold the open orders and all that ended."""

_ALL_HOLD_OPEN: Final = frozenset({"binance", "binancecoinm", "binanceus", "binanceusdm"})
"""Of those who are asked by the key, whose list of all orders holds the open ones, too: asking for them again would only use up limits."""

_ALL_THAT_ENDED: Final = "fetchCanceledAndClosedOrders"
_LISTS: Final = ("fetchOrders", "fetchOpenOrders", "fetchClosedOrders")


def _lists_triggers_apart(exchange: Exchange, symbol: str) -> bool:
    return any(exchange.feature_value(symbol, ability, "trigger") is True for ability in _LISTS)


async def _find(
    exchange: Exchange,
    key: str,
    symbol: str,
    kind: dict[str, Any],  # Any: ccxt's own
    where: dict[str, Any],  # Any: as above
) -> LookUp[Order]:
    by_id = exchange.id in _KNOW_CLIENT_IDS and not (kind and exchange.id in _ONLY_OF_PLAIN)
    if not kind or exchange.feature_value(symbol, "fetchOrder", "trigger") is True:
        try:
            order = await exchange.fetch_order("", symbol, {**where, "clientOrderId": key, **kind})
        except ccxt.OrderNotFound:
            pass
        except (ccxt.ArgumentsRequired, ccxt.BadRequest, ccxt.NotSupported):
            by_id = False  # it is not asked so: Bybit wants a promise, others the venue's own id
        except ccxt.BaseError:
            if by_id:
                raise
        else:
            if order["clientOrderId"] == _id_at(exchange, key):
                return Found(order)
            if by_id:
                return UNKNOWN  # it may have answered with another order
        if exchange.id in _ONLY_OF_SPOT:
            by_id = by_id and not kind and exchange.market(symbol)["spot"] is True
    else:
        by_id = False
    return await _find_listed(exchange, key, symbol, kind, where, by_id=by_id)


def _id_at(exchange: Exchange, key: str) -> str:
    """What ccxt makes of a client order id before it sends it: only Gate's are changed, and told back so."""
    return f"t-{key}" if exchange.id in _GATES and not key.startswith("t") else key


def _may_be(key: str) -> re.Pattern[str]:
    """Ids that an exchange may have made of *key*: with a prefix, in other letters, or by way of a number."""
    return re.compile(rf"(?:.*[^0-9a-z])?0*{re.escape(key.lstrip('0'))}", re.IGNORECASE)


async def _find_listed(
    exchange: Exchange,
    key: str,
    symbol: str,
    kind: dict[str, Any],  # Any: ccxt's own
    where: dict[str, Any],  # Any: as above
    *,
    by_id: bool,
) -> LookUp[Order]:
    # "emulated" is no list of the venue's. What ccxt calls all orders is at many venues a history, without the open ones; at Kraken's futures
    # those that ended in the last five seconds. Among closed ones many list the filled alone, and cancelled ones may be filled in part.
    has_all = exchange.has.get("fetchOrders") is True
    lists: dict[str, Callable[..., Any]] = {}  # Any: ccxt's own
    if not (has_all and by_id and exchange.id in _ALL_HOLD_OPEN):
        lists["fetchOpenOrders"] = exchange.fetch_open_orders
    if has_all and (by_id or exchange.id in _LIST_ALL):
        lists["fetchOrders"] = exchange.fetch_orders
    elif exchange.has.get(_ALL_THAT_ENDED) is True:
        lists[_ALL_THAT_ENDED] = exchange.fetch_canceled_and_closed_orders
    else:
        lists["fetchClosedOrders"] = exchange.fetch_closed_orders
        if not by_id:
            lists["fetchCanceledOrders"] = exchange.fetch_canceled_orders
    if has_all and not kind:
        lists["fetchOrders"] = exchange.fetch_orders  # it may be there, also where that proves nothing
    # Also of trigger orders: Bitget, HTX and WEEX list some of them where ccxt does not ask.
    is_whole = by_id or exchange.id in _LIST_ALL
    known_as = _id_at(exchange, key)
    ids: list[str | None] = []
    for ability, fetch in lists.items():
        if exchange.has.get(ability) is not True:
            is_whole = False
            continue
        # Of those that ended ccxt names the limit of the closed ones only.
        page_of = "fetchClosedOrders" if ability == _ALL_THAT_ENDED else ability
        longest: object = exchange.feature_value(symbol, page_of, "limit")
        limit = longest if isinstance(longest, int) else _PAGE
        listed: list[Order] = await fetch(symbol, None, limit, {**where, **kind})
        order = next((one for one in listed if one["clientOrderId"] == known_as), None)
        if order is not None:
            return Found(order)
        ids += [one["clientOrderId"] for one in listed]
        is_whole = is_whole and len(listed) < limit
    if ids and not any(ids):  # it does not list them, or got none
        return UNKNOWN
    changed = _may_be(key)
    is_like_one = any(changed.fullmatch(listed_id) for listed_id in ids if listed_id)
    return NOT_FOUND if is_whole and not is_like_one else UNKNOWN
