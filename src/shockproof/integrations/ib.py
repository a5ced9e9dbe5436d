"""
ib_async: what its errors say about the request, and orders that are confirmed or known to be unknown.

``IB.placeOrder`` is fire and forget: if the connection breaks, nothing is raised and the order says
``PendingSubmit`` for ever. Here an order is awaited until the other side has spoken of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol, cast
from weakref import WeakSet

from shockproof.integrations.optional import missing
from shockproof.integrations.outcome_table import Meaning, OutcomeTable, Rule
from shockproof.integrations.protected_client import Does, ProtectedClient, new_key, stand_in
from shockproof.vocabulary.look_up import NOT_FOUND, UNKNOWN, Found, LookUp
from shockproof.vocabulary.outcomes import CallInfo, Verdict

try:
    from ib_async import IB, Fill, OrderStatus, Trade, TradeLogEntry
    from ib_async.util import UNSET_DOUBLE
    from ib_async.wrapper import RequestError
except ImportError as error:
    raise missing("ib_async", "ib", error) from error

if TYPE_CHECKING:
    from ib_async import Contract, Execution, Order

    from shockproof.calls.options import ServiceOptions
    from shockproof.service import ErrorRecoveryService

__all__ = [
    "TABLE",
    "OrderBookedTwiceError",
    "OrderIsThereError",
    "OrderNotCancelledError",
    "OrderNotConfirmedError",
    "OrderRejectedError",
    "ProtectedIB",
    "classify",
    "find_order",
    "meaning_of",
    "protect",
]

_log = logging.getLogger("shockproof")

_LOOK_UP_WITHIN: Final = 10.0
"""Seconds for the three questions of `find_order`; ib_async itself waits for an answer for ever."""

_SAYS_MORE_WITHIN: Final = 2.0
"""Seconds for the status after an error that proves nothing, and for the error after an Inactive: IB sends both at once, in either order."""

# https://ibkrcampus.com/campus/ibkr-api-page/twsapi-doc/#api-error-codes
_BY_CODE: Final = {
    100: Meaning.TURNED_AWAY,  # more messages a second than allowed
    103: Meaning.UNKNOWN,  # the order id is known, most often as that of another order
    105: Meaning.UNKNOWN,  # it does not match the order that has this id
    136: Meaning.UNKNOWN,  # a cancel of it came too late, so that it is there
    161: Meaning.UNKNOWN,  # as above
    200: Meaning.REFUSED,  # no such contract
    201: Meaning.REFUSED,  # the order was rejected
    203: Meaning.REFUSED,  # the security is not available to this account
    202: Meaning.UNKNOWN,  # it was cancelled, and may have been filled in part before
    321: Meaning.REFUSED,  # the request is not valid, or the gateway is read-only
    329: Meaning.UNKNOWN,  # as 105
    354: Meaning.REFUSED,  # no market data without a subscription
    434: Meaning.REFUSED,  # the size is zero
    504: Meaning.NOT_SENT,  # not connected
    1100: Meaning.UNKNOWN,  # the connection between the gateway and IB is lost
    10148: Meaning.UNKNOWN,  # as 136
}
# IB tells of what it has changed in an order by errors, too, and new TWS versions have new ones. So what is not on this list proves nothing.
# Not on it either: what TWS does not transmit, and its user may (109, 116, 154, 163, 382, 383), and what may be about a first copy (389).
_REFUSES_AN_ORDER: Final = frozenset(
    {
        *(110, 111, *range(113, 116), *range(117, 122)),  # its price, its time in force, its destination
        *(140, 141, 144, 146, 147, 148, 152, 153, *range(155, 161), 167, 168),  # a field that is not valid
        *(200, 201, 203),  # no such contract; rejected, as for want of margin; not for this account
        *(312, 313, 314, 315, 321, 325, 328),  # combos, the request as a whole, a trailing stop
        *(*range(332, 344), 345, *range(347, 351), 352, 353),  # accounts, dates, short sales
        *(355, 356, 358, 359, *range(361, 365)),  # its size, OCA groups, stops
        *(*range(367, 376), *range(377, 381)),  # orders by volatility
        *(387, 388, *range(390, 399)),  # its type, too small, an expired contract, what IB does not take now
        *(402, 403, *range(406, 411), 412, *range(417, 420)),  # conditions, stops, scales
        *(426, 429, *range(433, 437), 439, 441, 442, 443, *range(446, 450)),  # allocations, algos, scales
        460,  # no permission to trade it
        *(10002, 10003, *range(10006, 10013), 10020),  # combos, hedges, no parent
        *(10234, 10235, 10236, 10240, *range(10243, 10253), 10254),  # fractions, an expired bond
        *(10268, 10269, 10270),  # attributes that are no more
    }
)
_IS_CLEAR: Final = frozenset(_BY_CODE) | _REFUSES_AN_ORDER
_CANCELLED: Final = 202
_NOES_AMONG_WARNINGS: Final = frozenset({105, 110, 321, 329, 434})
"""Codes that ib_async takes for warnings of an order that lives: it then says ``ValidationError``, also where IB has refused it."""
_NOTICES: Final = frozenset({131, 481, 10233, 10349})
"""IB has changed an attribute or the size of an order, and takes it. ib_async calls it ``Cancelled``; of other such codes it knows."""
_LOST, _RESTORED, _RESTORED_WITHOUT_DATA = 1100, 1102, 1101

_BOOKED: Final = (OrderStatus.PreSubmitted, OrderStatus.Submitted, OrderStatus.Filled)
_OUT_OF_THE_MARKET: Final = (OrderStatus.Cancelled, OrderStatus.ApiCancelled, OrderStatus.Inactive)
_WHILE_SHARES_ARE_LOCATED: Final = "locate"

_REMEMBERED: Final = 1_000
"""So many of the last orders are known by their permId, too."""


class OrderRejectedError(RequestError):
    """
    IB answered a new order with an error, and had not booked it before. `trade` is ib_async's, with its log.

    It is not in the market, but for a few codes that say something else: `meaning_of` tells.
    """

    def __init__(self, trade: Trade, code: int, message: str) -> None:
        super().__init__(trade.order.orderId, code, message)
        self.trade = trade


class OrderNotCancelledError(RequestError):
    """IB answered a cancel with an error: the order may be open, filled or cancelled before. `trade` is ib_async's."""

    def __init__(self, trade: Trade, code: int, message: str) -> None:
        super().__init__(trade.order.orderId, code, message)
        self.trade = trade


class OrderNotConfirmedError(Exception):
    """
    Nobody knows of the order. `trade` is ib_async's, with its log.

    The connection broke before IB had spoken of it; or IB spoke of a second copy; or all it said is an error that is not known to be a
    refusal, or ``Inactive``.
    """

    def __init__(self, trade: Trade, why: str = "the connection to IB broke before it was confirmed") -> None:
        known = f" (permId {perm_id})" if (perm_id := _perm_id_of(trade)) else ""
        super().__init__(
            f"nobody knows of order {trade.order.orderRef!r}{known}: {why}. Look it up by its orderRef"
        )
        self.trade = trade


class OrderIsThereError(Exception):
    """Nothing was sent: IB has, or had, this order already, and ``placeOrderAsync`` sends new ones."""

    def __init__(self, order: Order) -> None:
        super().__init__(
            f"IB has booked order {order.orderRef!r} (id {order.orderId}) already, so that nothing was sent: placeOrderAsync sends new "
            'orders only. A change goes by placeOrder, which waits for nothing: the trade\'s log says "Modified" when IB has taken it'
        )
        self.order = order


class OrderBookedTwiceError(Exception):
    """
    What `find_order` has on record when IB has several orders under one ``orderRef``: it is never raised.

    `perm_ids` are their permIds, by which TWS and the statements tell them apart.
    """

    def __init__(self, key: str, perm_ids: Iterable[int]) -> None:
        self.key = key
        self.perm_ids = tuple(sorted(perm_ids))
        super().__init__(
            f"IB has booked the order {key!r} {len(self.perm_ids)} times: permIds {', '.join(map(str, self.perm_ids))}. Close what "
            "is too much by hand"
        )


def _by_code(error: RequestError) -> Meaning | None:
    return _BY_CODE.get(error.code)


def _if_it_is_a_no(error: OrderRejectedError) -> Meaning | None:
    return Meaning.REFUSED if error.code in _REFUSES_AN_ORDER else None


def _if_not_connected(error: ConnectionError) -> Meaning | None:
    # ib_async says it before it sends anything.
    return Meaning.NOT_SENT if str(error) == "Not connected" else None


TABLE: Final = OutcomeTable(
    Rule("a code", (RequestError,), _by_code),
    Rule("an order that was refused", (OrderRejectedError,), _if_it_is_a_no),
    Rule("an order that is there", (OrderIsThereError,), Meaning.DONE),
    Rule("not connected", (ConnectionError,), _if_not_connected),
    Rule("no connection", (ConnectionRefusedError,), Meaning.NOT_SENT),
    Rule("cut, or another code", (RequestError, OrderNotConfirmedError, ConnectionError), Meaning.UNKNOWN),
)
"""The rules, in order."""


def meaning_of(error: object) -> Meaning | None:
    """What an error of ib_async means; None for what is not its own."""
    return TABLE.meaning_of(error)


def classify(value: object, call: CallInfo) -> Verdict | None:
    """For ``recovery.service(..., classify=...)``; it needs ``ib.RaiseRequestErrors = True``."""
    return TABLE.classify(value, call)


# -- the client ------------------------------------------------------------------------------------------


class ProtectedIB(Protocol):
    """What `protect` gives: ib_async's client, with two methods more."""

    def placeOrderAsync(  # noqa: N802 - named as ib_async names its coroutines
        self, contract: Contract, order: Order
    ) -> Coroutine[Any, Any, Trade]:  # Any: a coroutine's own
        """
        Place *order*, and wait until IB has booked it; it may be over by then, filled or cancelled, which its status says.

        An order that was sent before, and of which nobody knows, may be sent again. Under the id that it had as long as the connection is
        the same, for IB then takes both for one; under a new one after that, for another order may have the old one.

        Raises:
            OrderRejectedError: IB refused it.
            OrderIsThereError: IB has booked it already. Nothing was sent.
            OrderNotConfirmedError: nobody knows: the connection broke, or what IB says is neither a booking nor a refusal.
        """
        ...

    def cancelOrderAsync(  # noqa: N802 - as above
        self, order: Order
    ) -> Coroutine[Any, Any, Trade | None]:  # Any: as above
        """
        Cancel *order*, and wait until it is done: cancelled, or filled meanwhile. None: it is not open.

        One that was placed over an earlier connection is asked after first: another order may have its id.

        Raises:
            OrderNotCancelledError: IB did not cancel it.
            OrderNotConfirmedError: the connection broke; nobody knows.
        """
        ...

    def __getattr__(self, name: str) -> Any: ...  # Any: everything else is the client's own


class _Desk:
    """Orders of one client, awaited; what IB calls them; and whether its connection is up, by its events."""

    def __init__(self, ib: IB, record: Callable[[OrderBookedTwiceError], None]) -> None:
        self._ib = ib
        self._record = record
        self._is_lost = False
        self._placed: OrderedDict[str, Trade] = OrderedDict()
        """By the orderRef that they were sent with: in TWS a person may give them another."""
        self._recorded: set[tuple[int, ...]] = set()
        ib.errorEvent += self._note
        ib.connectedEvent += self._connected

    def _note(self, request: int, code: int, _text: str, _contract: object) -> None:
        if code == _LOST:
            self._is_lost = True
        elif code in (_RESTORED, _RESTORED_WITHOUT_DATA):
            self._is_lost = False
        elif code in _NOTICES:
            trade = self._ib.wrapper.trades.get((self._ib.wrapper.clientId, request))
            if trade is not None and trade.log[-1].errorCode == code:  # as ib_async has it for other notices
                trade.orderStatus.status = trade.log[-1].status = OrderStatus.ValidationError

    def _connected(self) -> None:
        self._is_lost = False

    def is_up(self) -> bool:
        """For ``health_check``: connected to the gateway, and the gateway to IB."""
        return self._ib.client.isReady() and not self._is_lost

    async def place(self, contract: Contract, order: Order) -> Trade:
        key = str(order.orderRef)
        self._keep_only_its_own_id(order)
        first = self._under_the_id_of(order, self._ib.wrapper.clientId)
        seen = 0 if first is None else len(first.log)
        trade = self._ib.placeOrder(contract, order)
        self._placed[key] = trade
        self._placed.move_to_end(key)
        if len(self._placed) > _REMEMBERED:
            self._placed.popitem(last=False)
        await self._hear(trade, seen)
        no, error = _no_to(trade, seen), _error_to(trade, seen)
        if _is_booked(trade) or (no is not None and no.errorCode == _CANCELLED):
            return trade
        if no is None and error is not None:
            if trade.log[-1] is error:
                # IB has not called it cancelled, ib_async has: it may be open, and is asked after.
                trade.orderStatus.status = _status_before(trade, error)
            said = f"IB says what is not known to be a refusal ({error.message})"
            raise OrderNotConfirmedError(trade, said)
        if no is None and trade.orderStatus.status == OrderStatus.Inactive:
            raise OrderNotConfirmedError(trade, "IB calls it Inactive and does not say why")
        if no is None:
            return trade
        if first is not None:
            raise OrderNotConfirmedError(
                trade, f"IB refused a second copy ({no.message}) and has not spoken of the first"
            )
        raise OrderRejectedError(trade, no.errorCode, no.message)

    async def _hear(self, trade: Trade, seen: int) -> None:
        """Until IB has booked it or refused it, or has said something else and nothing more for a while."""
        request = trade.order.orderId

        def note(about: int, code: int, text: str, _contract: object) -> None:
            # ib_async drops an error of what is over, as for one that is Inactive, and refused.
            is_in_log = trade.log[-1].errorCode == code
            if about == request and not is_in_log and trade.orderStatus.status in _OUT_OF_THE_MARKET:
                said = f"Error {code}, reqId {about}: {text}"
                trade.log.append(TradeLogEntry(trade.log[-1].time, trade.orderStatus.status, said, code))

        def is_clear() -> bool:
            return _is_booked(trade) or _no_to(trade, seen) is not None

        self._ib.errorEvent += note
        try:
            await self._until(trade, lambda: is_clear() or trade.isDone())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SAYS_MORE_WITHIN):
                    await self._until(trade, is_clear)
        finally:
            self._ib.errorEvent -= note

    def _under_the_id_of(self, order: Order, client_id: int) -> Trade | None:
        """What ib_async knows by that id, over this connection."""
        wrapper = self._ib.wrapper
        if not (order.orderId or order.permId):
            return None
        return wrapper.trades.get(wrapper.orderKey(client_id, order.orderId, order.permId))

    def _was_placed(self, order: Order) -> bool:
        """Whether its id is from an earlier attempt, and not one that was reserved for it, as ib_async does for brackets."""
        placed = self._placed.get(str(order.orderRef))
        return bool(order.clientId or order.permId) or (placed is not None and placed.order is order)

    def _keep_only_its_own_id(self, order: Order) -> None:
        """An id belongs to one connection; ib_async writes it into the order, and changes whatever order has it."""
        known = self._under_the_id_of(order, self._ib.wrapper.clientId)
        placed = self._placed.get(str(order.orderRef))
        is_its_own = known is not None and _is_same(known.order, order)
        earlier = known if is_its_own else placed if placed is not None and placed.order is order else None
        if order.permId if earlier is None else _is_booked(earlier):
            raise OrderIsThereError(order)
        if is_its_own and known is not None:
            may_stay = not known.isDone() and _no_to(known) is None
        else:
            may_stay = known is None and not self._was_placed(order)
        if not may_stay:
            order.orderId = order.permId = 0

    def perm_id_of(self, key: str) -> int:
        """The permId that IB gave to the order with this orderRef; 0: it is not known."""
        trade = self._placed.get(key)
        return 0 if trade is None else _perm_id_of(trade)

    def booked_twice(self, error: OrderBookedTwiceError) -> None:
        """Have it on record, once."""
        if error.perm_ids not in self._recorded:
            self._recorded.add(error.perm_ids)
            self._record(error)

    async def cancel(self, order: Order) -> Trade | None:
        known = self._under_the_id_of(order, order.clientId)
        if self._was_placed(order) if known is None else not _is_same(known.order, order):
            mine = next((one for one in await self._open() if _is_same(one, order)), None)
            if mine is None:
                return None
            order = mine
            known = self._under_the_id_of(order, order.clientId)
        status, seen = ("", 0) if known is None else (known.orderStatus.status, len(known.log))
        trade = self._ib.cancelOrder(order)
        if trade is None:
            return None
        await self._until(trade, lambda: trade.isDone() or _error_to(trade, seen) is not None)
        error = _error_to(trade, seen)
        if error is None or error.errorCode == _CANCELLED or _is_over_since(trade, error):
            return trade
        trade.orderStatus.status = status  # for ib_async it is cancelled, and not asked after any more
        raise OrderNotCancelledError(trade, error.errorCode, error.message)

    async def _open(self) -> list[Order]:
        """The open orders of this client, under the ids that they have now."""
        orders = [trade.order for trade in await self._ib.reqAllOpenOrdersAsync()]
        return [one for one in orders if one.clientId == self._ib.wrapper.clientId]

    async def _until(self, trade: Trade, holds: Callable[[], bool]) -> None:
        changed = asyncio.Event()

        def note(*_: object) -> None:
            changed.set()

        events = (trade.statusEvent, self._ib.errorEvent, self._ib.disconnectedEvent)
        for event in events:
            event.connect(note)
        try:
            while not holds():
                if not self._ib.isConnected():
                    raise OrderNotConfirmedError(trade)
                changed.clear()
                await changed.wait()
        finally:
            for event in events:
                event.disconnect(note)


_ASKED_BY_NAME: Final = ("openOrders", "completedOrders")
"""What ib_async calls the questions that have no number of their own."""
_IN_ORDER: Final[WeakSet[IB]] = WeakSet()
"""The clients that keep such questions apart."""


def _keep_questions_apart(ib: IB) -> None:
    """
    Have each question after orders get the answer to itself, whole.

    ib_async has one future and one list for all of a kind: a question replaces the one before, and is ended by its answer, with what was
    still to come of it. IB answers all of them, one after the other, also those that nobody waits for any more.
    """
    if ib in _IN_ORDER:
        return
    _IN_ORDER.add(ib)
    wrapper = ib.wrapper
    start: Callable[..., asyncio.Future[Any]] = wrapper.startReq  # Any: ib_async's own results
    end: Callable[..., None] = wrapper._endReq
    lines: dict[object, deque[tuple[asyncio.Future[Any], Any]]]  # Any: as above
    lines = {name: deque() for name in _ASKED_BY_NAME}

    def start_in_line(key: object, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:  # Any: as above
        earlier, its_result = wrapper._futures.get(key), wrapper._results.get(key)
        future = start(key, *args, **kwargs)
        if key in lines and earlier is not None:
            lines[key].append((future, wrapper._results[key]))
            wrapper._futures[key], wrapper._results[key] = earlier, its_result
        return future

    def end_in_line(key: object, *args: Any, **kwargs: Any) -> None:  # Any: as above
        end(key, *args, **kwargs)
        if lines.get(key):
            wrapper._futures[key], wrapper._results[key] = lines[key].popleft()

    def end_all() -> None:  # ib_async itself has ended the first of each kind
        for line in lines.values():
            for future, _ in line:
                if not future.done():
                    future.set_exception(ConnectionError("Socket disconnect"))
            line.clear()

    wrapper.startReq = start_in_line  # type: ignore[method-assign]  # there is no other way
    wrapper._endReq = end_in_line  # type: ignore[method-assign]  # as above
    ib.disconnectedEvent += end_all


def _does(name: str) -> Does | None:
    if name == "place_order_async":
        return Does.WRITE
    if name == "cancel_order_async":
        return Does.CANCEL
    if name.startswith(("req_", "qualify_", "what_if_", "calculate_", "get_")) and name.endswith("_async"):
        return Does.READ
    return None


def _with_key(
    args: tuple[Any, ...],  # Any: ib_async's own arguments
    kwargs: dict[str, Any],  # Any: as above
) -> tuple[tuple[Any, ...], dict[str, Any], str]:  # Any: as above
    order = kwargs["order"] if "order" in kwargs else args[1]
    if not order.orderRef:
        order.orderRef = new_key()  # in the caller's own object: ib_async keeps that as the trade's order
    return args, kwargs, str(order.orderRef)


def protect(
    ib: IB,
    recovery: ErrorRecoveryService,
    *,
    name: str = "ib",
    orders: ServiceOptions | None = None,
    reads: ServiceOptions | None = None,
) -> ProtectedIB:
    """
    The same *ib* with its ``req...Async`` methods guarded as reads, and with orders that are awaited.

    ``placeOrderAsync(contract, order)`` is unsafe and gives the order an ``orderRef`` if it has none: order
    ids are handed out again after a restart of the gateway, and are no key. ``cancelOrderAsync(order)`` may be
    repeated and reduces risk. Everything else is *ib*'s own, ``placeOrder`` and ``connectAsync`` too.

    *ib* is changed in two ways: ``RaiseRequestErrors`` is set, for otherwise a failed request looks like an
    empty answer; and questions after open or completed orders that are under way at the same time get an answer each, where ib_async
    gives the answer to one of them to another. Its events feed the health of ``name.reads``, every ``check_every`` seconds.

    Args:
        ib: the client.
        recovery: guards the calls.
        name: what the two services are called after: ``name.orders`` and ``name.reads``.
        orders: options of ``name.orders``; ``timeout`` is 10 seconds unless given, for IB may never answer.
        reads: options of ``name.reads``; ``timeout`` is 30 seconds unless given.

    Raises:
        TypeError: it is no ``IB``, or an option that the adapter settles by itself.
        ValueError: an option out of range.
    """
    if isinstance(ib, ProtectedClient):
        raise TypeError("ib is protected already")
    if not isinstance(ib, IB):
        raise TypeError(f"ib must be an ib_async.IB, got {ib!r}")
    ib.RaiseRequestErrors = True
    _keep_questions_apart(ib)
    desk = _Desk(ib, lambda error: recovery._record_critical(f"{name}.orders", "find_order", error))
    of_orders: ServiceOptions = {"timeout": 10.0, **(orders or {})}
    of_reads: ServiceOptions = {"timeout": 30.0, "health_check": desk.is_up, **(reads or {})}
    guarded = stand_in(
        ib,
        recovery,
        name=name,
        classify=classify,
        does=_does,
        with_key=lambda method: _with_key if method == "place_order_async" else None,
        added={
            "placeOrderAsync": desk.place,
            "cancelOrderAsync": desk.cancel,
            "_perm_id_of": desk.perm_id_of,
            "_booked_twice": desk.booked_twice,
        },
        orders=of_orders,
        reads=of_reads,
        methods_are="functions that give awaitables",
    )
    return cast("ProtectedIB", cast("object", guarded))


async def find_order(ib: IB | ProtectedIB, key: str) -> LookUp[Trade | Fill]:
    """
    Look up the order whose ``orderRef`` is *key*, among open orders, completed ones and executions.

    Of a protected *ib* also by the permId that IB gave to what was placed with this orderRef, as long as this process lives: in
    TWS a person may have given it another reference.

    Where IB has several orders under *key*, each with a permId of its own and none the child of another, it was booked so many
    times: that is a CRITICAL record of an `OrderBookedTwiceError`, or in the log where *ib* is not protected, and the first is given.

    Look-ups may run side by side, and beside questions of yours: of an *ib* that is not protected from its first look-up on.

    `Found` holds the trade, or a fill of it. `NOT_FOUND` proves absence only if the look-up began after IB had
    time to accept the order, and on the day on which the order was sent, by the gateway's clock: IB lists completed
    orders and executions of the day alone, and a key does not say when it was sent. After midnight, `NOT_FOUND` may
    be an order that was filled the day before: give ``once`` a ``confirm`` that makes it `UNKNOWN` then. A look-up
    that fails, or takes longer than 10 seconds, says nothing, so that it means `UNKNOWN`; cancellation passes.
    """
    found: list[Trade | Fill] = []
    perm_id: int = getattr(ib, "_perm_id_of", lambda _: 0)(key)
    answer: LookUp[Trade | Fill] = NOT_FOUND
    if isinstance(ib, IB) and not isinstance(ib, ProtectedClient):
        _keep_questions_apart(ib)
    try:
        async with asyncio.timeout(_LOOK_UP_WITHIN):
            # What ib_async itself remembers is not asked: an order that never arrived is in there, too.
            trades = [*await ib.reqAllOpenOrdersAsync(), *await ib.reqCompletedOrdersAsync(False)]
            found += (trade for trade in trades if _is_it(trade.order, key, perm_id))
            fills = await ib.reqExecutionsAsync()
            found += (fill for fill in fills if _is_it(fill.execution, key, perm_id))
    except Exception:  # noqa: BLE001 - whatever it is, nothing more was found out
        _log.debug("looking up %s failed", key, exc_info=True)
        answer = UNKNOWN
    if not found:
        return answer
    perm_ids = set(_booked(found))
    if len(perm_ids) > 1:
        getattr(ib, "_booked_twice", _log.critical)(OrderBookedTwiceError(key, perm_ids))
    return Found(found[0])


def _perm_id_of(trade: Trade) -> int:
    return int(trade.order.permId or trade.orderStatus.permId)


def _is_booked(trade: Trade) -> bool:
    """Whether IB has taken the order into its book, whatever became of it."""
    statuses = (trade.orderStatus.status, *(entry.status for entry in trade.log))
    return (
        trade.orderStatus.filled > 0
        or bool(trade.fills)
        or any(one in _BOOKED for one in statuses)
        or _is_held(trade)
    )


def _is_held(trade: Trade) -> bool:
    """Whether it is ``Inactive`` without having been refused: shares are located for it, or nobody has asked to transmit it yet."""
    is_kept = trade.orderStatus.whyHeld == _WHILE_SHARES_ARE_LOCATED or not trade.order.transmit
    return trade.orderStatus.status == OrderStatus.Inactive and is_kept and _no_to(trade) is None


def _errors_to(trade: Trade, since: int) -> Iterator[TradeLogEntry]:
    """The errors in the log of *trade* that ended it, or that refused it while ib_async says that it lives; the last one first."""
    for entry in reversed(trade.log[since:]):
        if entry.errorCode in _NOES_AMONG_WARNINGS or (
            entry.errorCode and entry.status in _OUT_OF_THE_MARKET
        ):
            yield entry


def _error_to(trade: Trade, since: int) -> TradeLogEntry | None:
    return next(_errors_to(trade, since), None)


def _no_to(trade: Trade, since: int = 0) -> TradeLogEntry | None:
    """The last of those errors of which it is known what it says about a new order."""
    return next((one for one in _errors_to(trade, since) if one.errorCode in _IS_CLEAR), None)


def _status_before(trade: Trade, error: TradeLogEntry) -> str:
    """What IB, or the order itself, said before."""
    earlier = trade.log[: trade.log.index(error)]
    return next(entry.status for entry in reversed(earlier) if not entry.errorCode)


def _is_over_since(trade: Trade, error: TradeLogEntry) -> bool:
    later = trade.log[trade.log.index(error) + 1 :]
    return any(entry.status in OrderStatus.DoneStates and not entry.errorCode for entry in later)


def _is_same(one: Order, other: Order) -> bool:
    """Whether both are the same order at IB: by the permId where both have one, else by the orderRef."""
    if one is other:
        return True
    if one.permId and other.permId:
        return one.permId == other.permId
    return bool(one.orderRef) and one.orderRef == other.orderRef


def _is_it(one: Order | Execution, key: str, perm_id: int) -> bool:
    return one.orderRef == key or (perm_id != 0 and one.permId == perm_id)


def _booked(found: Iterable[Trade | Fill]) -> Iterator[int]:
    """The permIds of those that are or were in the market: not of one that was refused, nor of a stop that hangs on another order."""
    trades = [one for one in found if isinstance(one, Trade)]
    children = {one.order.permId for one in trades if one.order.parentId or one.order.parentPermId}
    for trade in trades:
        is_filled = 0 < trade.order.filledQuantity < UNSET_DOUBLE
        if trade.orderStatus.status not in _OUT_OF_THE_MARKET or is_filled:
            yield from {trade.order.permId} - children - {0}
    for one in found:
        if isinstance(one, Fill):
            yield from {one.execution.permId} - children - {0}
