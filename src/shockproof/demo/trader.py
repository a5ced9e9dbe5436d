"""
A trader: an asyncio program that uses ccxt's own client through shockproof.

``python -m shockproof.demo.trader --help`` tells its arguments. The demo runs it in a process of its own,
so that it can be killed. It reports in JSON lines on standard output, ends in order at ``stop`` or the
end of its standard input, and may die at any instant: the next one restores the state, reconciles what
was under way, and goes on.

One of several that share a store (``--store``) stands by until it owns the account. Then it is the next one. What it must
not do any more when it has lost the account, it does not: it ends, with `LOST` as its exit code.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp

from shockproof import (
    ErrorRecoveryService,
    JournalLockedError,
    ServiceStatus,
    StateNotSavedError,
    set_error_recovery_service,
)
from shockproof.demo.account import ACCOUNT, ALLOWED
from shockproof.demo.book import OPERATION, Book, OrderState
from shockproof.demo.order_desk import ORDERS, OrderDesk
from shockproof.demo.price_feed import PriceFeed
from shockproof.demo.quotes import Quote, QuoteCache, price_source
from shockproof.demo.reports import Reports
from shockproof.demo.shared_store import open_store
from shockproof.demo.slow_disk import SlowDisk
from shockproof.demo.strategy import Rebalancing
from shockproof.demo.telemetry import Telemetry
from shockproof.demo.timing import Timing
from shockproof.demo.venue.client import connect_ccxt
from shockproof.demo.venue.fault_plan import FaultKind, FaultPlan
from shockproof.endpoints import serve
from shockproof.integrations.ccxt import classify_for, protect

if TYPE_CHECKING:
    from ccxt.async_support import binance

    from shockproof.calls.options import ServiceOptions

T = TypeVar("T")

__all__ = ["LOST", "SYMBOLS", "Assignment", "Trader", "main"]

SYMBOLS = ("EUR/USDT", "GBP/USDT", "CHF/USDT", "AUD/USDT")
LOST = 75
"""The exit code of a trader that owns the account no longer: it may be started again, to stand by."""
_READS = "binance.reads"
"""The service of everything that asks the venue, as ``protect`` names it."""
_MAY_BE_REPEATED = 2
"""What a request counts that aiohttp sends a second time by itself, where its connection breaks: all but new orders."""
_BETWEEN_PRICES = 0.2
_BETWEEN_BALANCES = 0.1
"""Of a fleet: often enough that all together want more than their limit."""
_BETWEEN_LOOKS = 0.05
"""Seconds between two looks whether the account is still owned."""
_MOST_UNSETTLED = 8
"""With so many orders under way no new risk is taken."""
_HURRY = 2.5
"""Seconds for what is under way when somebody asked for the end."""
_STANDS_STILL = 15.0
"""More seconds for it at the end of the session: only a machine that stands still, or is very slow, takes any of them."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """Where to trade, for how long, and where to keep what must survive."""

    base_url: str
    stream_url: str
    reference_url: str
    state_dir: Path
    error_log_dir: Path
    seconds: float
    seed: int
    faults: str
    begun: float | None
    """Wall time at which the session began; None: now."""
    status_page: int | None = None
    """The port of a status page; None: there is none."""
    store: str | None = None
    """What is shared with the other traders of the account; None: there are none."""
    name: str | None = None
    """As what it counts among them."""
    life: int = 1
    """Where there are others: which of all their lives this is."""


class Trader:
    """One life of the trader."""

    def __init__(self, assignment: Assignment, reports: Reports) -> None:
        self.assignment = assignment
        self.timing = Timing.for_session(assignment.seconds)
        self.begun = assignment.begun if assignment.begun is not None else time.time()
        # Before the service: it has to find the writer with the slow thread in it.
        self.disk = SlowDisk(assignment.state_dir, assignment.state_dir / "journal", assignment.error_log_dir)
        self.recovery = ErrorRecoveryService(
            assignment.state_dir,
            assignment.error_log_dir,
            max_retries=3,
            base_delay=0.1,
            max_delay=self.timing.timeout,
            circuit_threshold=5,
            circuit_timeout=self.timing.circuit_timeout,
            store=None if assignment.store is None else open_store(assignment.store),
            owns=None if assignment.store is None else ACCOUNT,
            process_name=assignment.name,
        )
        set_error_recovery_service(self.recovery)  # for what is decorated with @with_error_recovery
        self.telemetry = Telemetry(self.recovery, reports)
        self.tell = self.telemetry.tell
        self.book = Book()
        self.left_behind: list[str] = []
        """Client ids of the orders that were under way when the earlier life ended."""
        self.cache = QuoteCache(max_age=4 * self.timing.timeout)
        self.strategy = Rebalancing(assignment.seed)
        self.life = assignment.life
        self._stop_saving: Callable[[], None] = lambda: None
        self.balance: dict[str, Any] = {}  # Any: ccxt's unified balance
        self.stopping = asyncio.Event()
        """Somebody asked for the end: what cannot be seen through soon stays pending in the state."""
        self.has_begun = False
        """It knows what the life before has left, so that what it knows is worth saving."""
        self.has_lost = False
        """It owns the account no longer."""

    # -- a life --------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Trade until the session is over or somebody says stop; the exit code."""
        latency = self.telemetry.latency
        async with (
            self.recovery,
            aiohttp.ClientSession(trace_configs=[latency.trace()]) as http,
            self._status_page(),
        ):
            exchange = connect_ccxt(
                self.assignment.base_url,
                timeout=2 * self.timing.timeout,  # shockproof's is shorter, and decides
                options={"recvWindow": round(1000 * self.timing.receive_window)},
            )
            exchange.session, exchange.own_session = http, False
            try:
                if not self._has_others:
                    await self._is_alone()
                with self.recovery.context(life=self.life):
                    await self._live(exchange, http)
            finally:
                await exchange.close()
        self.telemetry.end(self.life, self.book)
        return LOST if self.has_lost else 0

    @property
    def _has_others(self) -> bool:
        return self.assignment.store is not None

    @property
    def _may_write(self) -> bool:
        """Whether it owns the account, or nobody else could."""
        if not self._has_others:
            return True
        shared = self.recovery.get_health_status()["shared"]
        return bool(shared["owns"]["is_owner"])

    def _status_page(self) -> contextlib.AbstractAsyncContextManager[object]:
        port = self.assignment.status_page
        if port is None:
            return contextlib.nullcontext()
        return serve(self.recovery, port=port, status_page=True)

    async def _restore(self) -> bool:
        """Read what the life before has left; whether there was one."""
        state = await self.recovery.restore_state()
        if state is not None:
            self.book.orders.update(Book.from_state(state.cached_data["settled_orders"]).orders)
            self.left_behind = [
                pending["key"] for pending in state.active_operations if pending["operation"] == OPERATION
            ]
            self.cache.restore(state.cached_data["quotes"])
            if not self._has_others:
                self.life = state.cached_data["life"] + 1
            self.begun = state.configuration["session_begun"]
        return state is not None

    async def _is_alone(self) -> None:
        restored = await self._restore()
        if not restored and self.assignment.begun is None:
            self.begun = time.time()  # as at the venue: a slow start costs nothing of the session
        await self._is_up(restored=restored)

    async def _is_up(self, *, restored: bool) -> None:
        self.has_begun = True
        self.telemetry.up(self.life, self.begun, self.book, pending=len(self.left_behind), restored=restored)
        if self._may_write:  # else it is noticed soon
            await self.save()

    async def _live(self, exchange: binance, http: aiohttp.ClientSession) -> None:
        recovery, timing, urls = self.recovery, self.timing, self.assignment
        venue = protect(
            exchange,
            recovery,
            orders={
                "timeout": timing.timeout,
                "circuit_threshold": 4,
                "circuit_timeout": timing.circuit_timeout,
                **self._shared("orders"),
            },
            # What looks up has a circuit of its own, and tries again sooner.
            reads={
                "timeout": timing.timeout,
                "max_retries": 1,
                "circuit_threshold": 4,
                "circuit_timeout": timing.circuit_timeout / 2,
                **self._shared("reads"),
            },
        )
        desk = OrderDesk(
            recovery,
            exchange,
            venue,
            self.book,
            save=self.save,
            tell=self.tell,
            outcome=self.telemetry.outcome,
            timing=timing,
        )
        feed = PriceFeed(recovery, http, urls.stream_url, SYMBOLS, self.cache, timing)
        fetch_quote = price_source(recovery, exchange, http, urls.reference_url, self.cache, timing)
        async with asyncio.TaskGroup() as tasks:
            beside = [
                tasks.create_task(work)
                for work in (
                    feed.run(),
                    self._watch_balance_with_others(exchange, venue)
                    if self._has_others
                    else self._watch_balance(exchange),
                    self.telemetry.lag.run(),
                    self.telemetry.run(self.life, self.book, feed, self.disk),
                )
            ]
            orders: set[asyncio.Task[Any]] = set()  # Any: as in _trade
            # Nothing new before it is known what became of the old; stopped before that, it stays pending.
            if await self._unless_stopped(self._take_over(venue)) and await self._unless_stopped(
                self._begin(venue, desk, beside, tasks)
            ):
                orders |= {tasks.create_task(desk.go_on_with(client_id)) for client_id in self.left_behind}
                await self._unless_stopped(self._none_pending())
                await self._trade(fetch_quote, desk, tasks, orders)
            if not self.has_lost:
                self.telemetry.ending()
            desk.close()
            await self._see_through(orders)
            for task in beside:
                task.cancel()
        self._stop_saving()
        if self.has_begun and self._may_write:
            await self.save()

    def _shared(self, what: str) -> ServiceOptions:
        """What a service shares with those of the other traders, if there are any."""
        if not self._has_others:
            return {}
        return {"shared": True, "rate_limit": ALLOWED[what].told(self.timing), "weight": _MAY_BE_REPEATED}

    async def _take_over(self, venue: binance) -> None:
        """Wait until the account is this trader's, and find out where the one before has left it."""
        if not self._has_others:
            return
        await self.recovery.owned()
        restored = await self._when_the_journal_is_free(self._restore)
        if not restored:  # it is the first: the session begins when it could trade
            await self._load_markets(venue)
            self.begun = time.time()
        await self._is_up(restored=restored)

    async def _when_the_journal_is_free(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do *work*; one that has lost the account, and has not ended yet, may still have the journal."""
        while True:
            try:
                return await work()
            except JournalLockedError:
                await asyncio.sleep(_BETWEEN_LOOKS)

    async def _watch_the_account(self) -> None:
        """Nothing more is written when it is another one's."""
        while self._may_write:  # noqa: ASYNC110 - its end is no event: it comes with time
            await asyncio.sleep(_BETWEEN_LOOKS)
        self.tell("the account is owned no longer: it ends")
        self.has_lost = True
        self._stop_saving()
        self.stop()

    async def _begin(
        self,
        venue: binance,
        desk: OrderDesk,
        beside: list[asyncio.Task[None]],
        tasks: asyncio.TaskGroup,
    ) -> None:
        beside.append(tasks.create_task(self._suffer()))
        if self._has_others:
            beside.append(tasks.create_task(self._watch_the_account()))
        self._stop_saving = self.recovery.track_state(self.state, every=1.0)
        await self._load_markets(venue)
        await self._when_the_journal_is_free(desk.reconcile)

    async def _load_markets(self, venue: binance) -> None:
        while True:
            try:
                await venue.load_markets()
            except Exception as error:  # noqa: BLE001 - a program that starts in an outage waits for its end
                self.tell(f"no markets yet ({type(error).__name__})")
                await asyncio.sleep(self.timing.timeout / 2)
            else:
                return

    async def _none_pending(self) -> None:
        def is_pending(client_id: str) -> bool:
            order = self.book.orders.get(client_id)
            return order is None or order.state is OrderState.PENDING

        while any(is_pending(client_id) for client_id in self.left_behind):  # noqa: ASYNC110 - once in a life
            await asyncio.sleep(0.05)
        if self.left_behind:
            self.tell(
                f"all {len(self.left_behind)} orders of the earlier life are accounted for; trading goes on"
            )

    async def _trade(
        self,
        fetch_quote: Callable[[str], Awaitable[Quote]],
        desk: OrderDesk,
        tasks: asyncio.TaskGroup,
        orders: set[asyncio.Task[Any]],  # Any: an order, or None for one of the earlier life
    ) -> None:
        seconds = self.assignment.seconds
        ends_at = self.begun + seconds - min(0.13 * seconds, 8.0)  # the rest is for seeing orders through
        for symbol in itertools.cycle(SYMBOLS):
            left = ends_at - time.time()
            if self.stopping.is_set() or left <= 0:
                return
            try:
                quote = await fetch_quote(symbol)
            except Exception:  # noqa: BLE001 - all three sources failed, and shockproof has logged it
                self.telemetry.priced_by["nobody"] += 1
            else:
                self.telemetry.priced_by[quote.source] += 1
                self.strategy.price(symbol, quote.price)
                may_trade = quote.is_tradable and self._venue_takes_orders()
                if may_trade and not self.book.at_work(symbol) and len(orders) < _MOST_UNSETTLED:
                    wish = self.strategy.wish(symbol, self.book.position(symbol))
                    if wish is not None:
                        task = tasks.create_task(desk.carry_out(wish))
                        orders.add(task)
                        task.add_done_callback(orders.discard)
            await self._pause(min(_BETWEEN_PRICES, left))

    def _venue_takes_orders(self) -> bool:
        """Not at an open circuit; at a half-open one, one order at a time."""
        if self.recovery.is_circuit_open(ORDERS):
            return False
        is_probing = self.recovery.get_service_status(ORDERS) is ServiceStatus.DEGRADED
        return not (is_probing and self.book.in_state(OrderState.PENDING))

    async def _see_through(self, orders: set[asyncio.Task[Any]]) -> None:  # Any: as in _trade
        """Give what is under way its time; what is not settled then stays pending, on disk."""
        if not orders:
            return
        self.tell(f"no new orders; seeing the last {len(orders)} through")
        # A life that began late gets its time, too.
        left = max(0.0, self.begun + self.assignment.seconds - time.time())
        patience = left + self.timing.until_settled + _STANDS_STILL
        if self.stopping.is_set():
            patience = min(patience, _HURRY)
        _, late = await asyncio.wait(set(orders), timeout=patience)
        for task in late:
            task.cancel()

    # -- beside the orders -----------------------------------------------------------------------------

    async def _watch_balance(self, exchange: binance) -> None:
        while True:
            self.balance = await self.recovery.with_fallback(
                exchange.fetch_balance, lambda: self.balance, service_name="account", max_retries=1
            )
            self.telemetry.equity = self.equity()
            await asyncio.sleep(self.timing.timeout)

    async def _watch_balance_with_others(self, exchange: binance, venue: binance) -> None:
        """Within the one limit that the account has, and behind everything that matters more."""
        reads = self.recovery.service(
            _READS,
            classify=classify_for(exchange),
            timeout=self.timing.timeout,
            max_retries=0,
            weight=_MAY_BE_REPEATED,
            priority="low",
        )
        await self._load_markets(venue)  # through the limit, too: the client would load them past it
        while True:
            with contextlib.suppress(Exception):  # it is in the error log, and the next one comes soon
                self.balance = await reads.call(exchange.fetch_balance)
            self.telemetry.equity = self.equity()
            await asyncio.sleep(_BETWEEN_BALANCES)

    def equity(self) -> float | None:
        """What everything is worth in USDT, or None before the first balance and prices."""
        held, prices = self.balance.get("total"), self.cache.prices()
        if not held or not all(symbol in prices for symbol in SYMBOLS):
            return None
        return float(held["USDT"]) + sum(
            float(held[symbol.partition("/")[0]]) * prices[symbol] for symbol in SYMBOLS
        )

    async def _suffer(self) -> None:
        """The part of the fault plan that is this side's: a slow disk."""
        plan = FaultPlan.make(
            self.assignment.faults,
            seconds=self.assignment.seconds,
            seed=self.assignment.seed,
            client_timeout=self.timing.timeout,
        )
        await self.disk.follow(
            plan.of_kind(FaultKind.SLOW_DISK),
            begun=self.begun,
            delay=self.timing.timeout / 5,
            lag=self.telemetry.lag,
            tell=self.tell,
        )

    # -- what survives ---------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:  # Any: JSON
        """What the next life needs, as `save_state` takes it; the orders under way stand in the journal."""
        return {
            "cached_data": {
                "life": self.life,
                "settled_orders": self.book.to_state(),
                "quotes": self.cache.to_state(),
            },
            "configuration": {"session_begun": self.begun, "symbols": list(SYMBOLS)},
        }

    async def save(self) -> None:
        """Return when the book is durable as it is now; raises StateNotSavedError."""
        if not self._may_write:
            raise StateNotSavedError("the account is another trader's, and so is its book")
        await self.recovery.save_state(**self.state(), force=True)

    # -- ending ----------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End in order, and soon."""
        self.stopping.set()

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        # Any: what coroutines send and yield
        """Do *work*, or drop it when it is time to stop; whether it was done."""
        task, stop = asyncio.ensure_future(work), asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            return task.done()
        finally:
            task.cancel()
            stop.cancel()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stopping.wait()


def _listen(trader: Trader) -> None:
    """End at SIGTERM, at ``stop`` on standard input, and when whoever started us is gone."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, trader.stop)

    def said() -> None:
        text = os.read(0, 4096)
        if not text:
            loop.remove_reader(0)
        if not text or b"stop" in text:
            trader.stop()

    with contextlib.suppress(PermissionError):  # a plain file, or nothing at all: nobody to listen to
        loop.add_reader(0, said)


async def _run(assignment: Assignment) -> int:
    reports = Reports(sys.stdout.fileno())
    trader = Trader(assignment, reports)
    _listen(trader)
    code = await trader.run()
    await reports.flush(1.0)
    reports.close()
    return code


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m shockproof.demo.trader", description=__doc__)
    for name in ("base-url", "stream-url", "reference-url"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--state-dir", type=Path, default=Path("data/state"))
    parser.add_argument("--error-log-dir", type=Path, default=Path("data/errors"))
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", default="none", help="for the slow disk, which is the trader's own part")
    parser.add_argument("--begun", type=float, help="wall time at which the session began")
    parser.add_argument("--status-page", type=int, help="the port of a status page; none without it")
    parser.add_argument("--store", help="what is shared with other traders of the account; none without it")
    parser.add_argument("--name", help="as what it counts among them")
    parser.add_argument("--life", type=int, default=1, help="which of all their lives this is")
    given = parser.parse_args(argv)
    return asyncio.run(_run(Assignment(**vars(given))))


if __name__ == "__main__":
    sys.exit(main())
