"""
Never run, only type-checked (`mypy --strict`): what editors and type checkers tell users about the API.
"""

from __future__ import annotations

import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Mapping,
)
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Self, assert_type

from shockproof import (
    NOT_FOUND,
    UNKNOWN,
    Attempt,
    CallInfo,
    CircuitOpened,
    CircuitOpenError,
    ErrorRecord,
    ErrorRecoveryService,
    ErrorSeverity,
    Event,
    Found,
    Handle,
    LookUp,
    Once,
    Outcome,
    ServiceStatus,
    Stream,
    StreamGap,
    SystemState,
    Timeout,
    Verdict,
    attempts_of,
    get_error_recovery_service,
    with_error_recovery,
)
from shockproof.integrations import aiohttp, ccxt
from shockproof.integrations.logging import ErrorLogHandler
from shockproof.integrations.outcome_table import Meaning
from shockproof.testing import (
    Delays,
    Fails,
    FaultInjector,
    Hangs,
    Storm,
    VirtualClock,
    cancel_at_each_await,
    record_events,
)


class Quote:
    price: float


async def fetch(symbol: str, depth: int = 5) -> Quote:
    return Quote()


def fetch_plain(symbol: str, *, depth: int = 5) -> Quote:
    return Quote()


def fetch_later(symbol: str) -> Awaitable[Quote]:
    return fetch(symbol)


class Broker:
    async def fetch(self, symbol: str) -> Quote:
        return Quote()

    def balance(self) -> float:
        return 0.0

    async def __call__(self, symbol: str) -> Quote:
        return Quote()


recovery = ErrorRecoveryService()
market = recovery.service("market_data", max_retries=3, timeout=2.0, deadline=timedelta(seconds=10))


# -- a handle's call ---------------------------------------------------------------------------------


async def calls(broker: Broker) -> None:
    assert_type(await market.call(fetch, "AAPL"), Quote)
    assert_type(await market.call(fetch, symbol="AAPL", depth=10), Quote)
    assert_type(await market.call(fetch_plain, "AAPL", depth=10), Quote)
    assert_type(await market.call(fetch_later, "AAPL"), Quote)
    assert_type(await market.call(broker.fetch, "AAPL"), Quote)
    assert_type(await market.call(broker.balance), float)
    assert_type(await market.call(broker, "AAPL"), Quote)
    assert_type(await market.call(partial(fetch, "AAPL")), Quote)
    assert_type(await market.call(lambda: 5), int)
    assert_type(await market.using(deadline=1.0).call(fetch, "AAPL"), Quote)

    await market.call(fetch)  # type: ignore[call-overload]  # the symbol is missing
    await market.call(fetch, 5)  # type: ignore[call-overload]  # a symbol is text
    await market.call(fetch, "AAPL", nonsense=1)  # type: ignore[call-arg]  # there is no such parameter
    await market.call(5)  # type: ignore[call-overload]  # it cannot be called


# -- decorators --------------------------------------------------------------------------------------


@market
async def decorated(symbol: str, depth: int = 5) -> Quote:
    return Quote()


@market
def decorated_plain(symbol: str) -> Quote:
    return Quote()


@market.using(timeout=1.0, fallback=None)
async def decorated_otherwise(symbol: str) -> Quote:
    return Quote()


@with_error_recovery("trading_service", max_retries=3)
async def place_order(symbol: str, qty: int, side: str) -> Quote:
    return Quote()


@with_error_recovery("trading_service", fallback=Quote())
def place_order_plain(symbol: str, qty: int) -> Quote:
    return Quote()


class Desk:
    @market
    async def fetch(self, symbol: str) -> Quote:
        return Quote()

    @with_error_recovery("trading_service")
    def cancel(self, order: str) -> bool:
        return True

    @staticmethod
    @market
    async def static(symbol: str) -> Quote:
        return Quote()

    @classmethod
    @market
    async def of_class(cls, symbol: str) -> Quote:
        return Quote()


async def decorators(desk: Desk) -> None:
    await assert_type(decorated("AAPL"), Coroutine[Any, Any, Quote])
    assert_type(await decorated("AAPL", depth=10), Quote)
    assert_type(await decorated_plain("AAPL"), Quote)
    assert_type(await decorated_otherwise(symbol="AAPL"), Quote)
    assert_type(await place_order("AAPL", 10, side="buy"), Quote)
    assert_type(await place_order_plain("AAPL", qty=10), Quote)
    assert_type(await desk.fetch("AAPL"), Quote)
    assert_type(await desk.cancel("A-1"), bool)
    assert_type(await Desk.static("AAPL"), Quote)
    assert_type(await Desk.of_class("AAPL"), Quote)
    assert_type(await market(fetch)("AAPL"), Quote)
    assert_type(await with_error_recovery("x")(fetch_plain)("AAPL"), Quote)

    decorated()  # type: ignore[call-arg, unused-coroutine]  # the symbol is missing
    decorated(5)  # type: ignore[arg-type, unused-coroutine]  # a symbol is text
    desk.fetch(nonsense=1)  # type: ignore[call-arg, unused-coroutine]  # there is no such parameter


# -- options -----------------------------------------------------------------------------------------


def predicate(error: Exception) -> bool:
    return True


def classify(value: object, call: CallInfo) -> Verdict | None:
    assert_type(call.attempt, int)
    return Verdict(Outcome.FAILURE, retry_after=1.0, effect="none")


async def is_well() -> bool:
    return True


def options() -> None:
    assert_type(market, Handle)
    assert_type(market.using(timeout=None, deadline=None, fallback=None), Handle)
    recovery.service(
        "all",
        max_retries=3,
        base_delay=1,
        max_delay=timedelta(minutes=1),
        backoff_factor=2,
        jitter="full",
        retry_on=(ConnectionError, TimeoutError),
        retry_if_result=lambda result: result is None,
        effect="unsafe",
        risk_reducing=True,
        classify=classify,
        fallback=[fetch, None],
        circuit_threshold=None,
        circuit_timeout=60,
        half_open_probes=2,
        probe_lease=None,
        critical=True,
        health_check=is_well,
        check_every=30.0,
    )
    recovery.service("predicate", retry_on=predicate)
    recovery.service("one type", retry_on=ConnectionError)

    recovery.service("unknown", retries=3)  # type: ignore[call-arg]  # there is no such option
    recovery.service("wrong", max_retries="3")  # type: ignore[arg-type]  # a number is wanted
    Timeout(timeout="2 s")  # type: ignore[arg-type]  # seconds are a number
    Timeout(2.0)  # type: ignore[arg-type]  # options have names
    recovery.service("wrong", jitter="some")  # type: ignore[arg-type]  # there is no such jitter
    market.using(circuit_threshold=3)  # type: ignore[call-arg]  # it belongs to the service


# -- blocks ------------------------------------------------------------------------------------------


async def blocks() -> Quote:
    async with market.guard():
        pass
    async for attempt in market.attempts():
        assert_type(attempt.number, int)
        async with attempt:
            return await fetch("AAPL")
    return Quote()


# -- orders ------------------------------------------------------------------------------------------


async def submit(symbol: str, qty: int, *, client_order_id: str) -> Quote:
    return Quote()


def submit_plain(symbol: str, qty: int, *, client_order_id: str) -> Quote:
    return Quote()


async def find_order(key: str) -> LookUp[Quote]:
    return NOT_FOUND


async def find_by_symbol(key: str, details: Mapping[str, Any]) -> LookUp[Quote]:
    return NOT_FOUND


async def orders() -> None:
    once = market.once(confirm=find_order, key_argument="client_order_id")
    assert_type(await once.call(submit, "AAPL", 10), Quote)  # the key is added by the call
    assert_type(await once.call(submit_plain, "AAPL", 10), Quote)

    await once.call(is_well)  # type: ignore[arg-type]  # the look-up finds something else

    typed = market.once(confirm=find_order)
    assert_type(typed, Once[Quote])
    assert_type(await typed.call(submit, "AAPL", 10, client_order_id=typed.key), Quote)
    assert_type(await typed.call(submit_plain, "AAPL", qty=10, client_order_id=typed.key), Quote)
    await typed.call(submit, "AAPL", "10", client_order_id=typed.key)  # type: ignore[arg-type]  # it is a number
    await typed.call(submit, "AAPL", 10)  # type: ignore[call-overload]  # it takes the key

    detailed = market.once(confirm=find_by_symbol, details={"symbol": "AAPL"})
    assert_type(detailed, Once[Quote])
    assert_type(await detailed.call(submit, "AAPL", 10, client_order_id=detailed.key), Quote)
    market.once(confirm=find_by_symbol, key_argument="client_order_id")
    market.once(confirm=submit)  # type: ignore[arg-type]  # it asks nothing by a key

    either: Once[Quote] = once  # where the arguments are not known, they are not checked
    await either.call(submit, "AAPL", 10, client_order_id=either.key)


# -- streams -----------------------------------------------------------------------------------------


async def generated() -> AsyncIterator[Quote]:
    yield Quote()


@asynccontextmanager
async def managed() -> AsyncGenerator[AsyncIterator[Quote]]:
    yield generated()


async def awaited() -> AsyncIterator[Quote]:
    return generated()


class Socket:
    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *details: object) -> None: ...

    def __aiter__(self) -> AsyncIterator[Quote]:
        return generated()


class Opening:
    """As the connect() of a WebSocket library: awaitable, and a context manager."""

    def __await__(self) -> Generator[Any, Any, Socket]:
        raise NotImplementedError

    async def __aenter__(self) -> Socket:
        return Socket()

    async def __aexit__(self, *details: object) -> None: ...


def opening() -> Opening:
    return Opening()


async def logged_in() -> Socket:
    return Socket()


def iterable() -> AsyncIterable[Quote]:
    return generated()


async def streams() -> None:
    assert_type(market.stream(generated, stale_after=5.0), Stream[Quote])
    assert_type(market.stream(managed, stale_after=timedelta(seconds=5)), Stream[Quote])
    assert_type(market.stream(awaited), Stream[Quote])
    assert_type(market.stream(opening), Stream[Quote])
    assert_type(market.stream(logged_in), Stream[Quote])
    assert_type(market.stream(iterable, may_end=True), Stream[Quote])
    assert_type(market.stream(Socket), Stream[Quote])
    async with market.stream(generated) as ticks:
        async for tick in ticks:
            assert_type(tick, Quote)
            assert_type(ticks.gap, StreamGap | None)
            assert_type(ticks.last_item_age, float | None)
    assert_type(await anext(market.stream(generated)), Quote)

    market.stream(fetch)  # type: ignore[arg-type]  # it needs a symbol, and gives no items
    market.stream(generated())  # type: ignore[call-overload]  # opened already
    market.stream(generated, stale_after="5")  # type: ignore[call-overload]  # a number is wanted


# -- the service -------------------------------------------------------------------------------------


async def seed_names() -> None:
    assert_type(await recovery.retry_with_backoff(fetch, "AAPL", service_name="x", max_retries=1), Quote)
    assert_type(await recovery.retry_with_backoff(fetch_plain, symbol="AAPL"), Quote)
    await recovery.with_fallback(fetch, fetch_plain, "AAPL", service_name="x")
    await recovery.with_fallback(primary_func=fetch, fallback_func=None, symbol="AAPL")
    assert_type(await recovery.save_state([{"operation": "x"}], {"a": 1}, {"b": 2}, force=True), bool)
    assert_type(await recovery.restore_state(), SystemState | None)
    assert_type(recovery.is_circuit_open("x"), bool)
    assert_type(recovery.get_error_summary(min_severity=ErrorSeverity.HIGH), dict[str, Any])
    assert_type(recovery.get_health_status(), dict[str, Any])
    assert_type(recovery.get_service_status("x"), ServiceStatus)
    assert_type(recovery.get_all_service_statuses(), dict[str, ServiceStatus])
    async for record in recovery.read_errors(min_severity=ErrorSeverity.LOW):
        assert_type(record, ErrorRecord)
        assert_type(record.stack_trace, str | None)
    reading = recovery.read_errors()
    assert_type((reading.skipped, reading.damaged), tuple[int, list[Path]])
    logging.getLogger("x").addHandler(ErrorLogHandler(recovery, level="ERROR"))
    with recovery.context(order="A-1"):
        pass
    async with ErrorRecoveryService("s", Path("e"), 3, 1, timedelta(seconds=60), 2.0) as other:
        assert_type(other, ErrorRecoveryService)
    assert_type(get_error_recovery_service(), ErrorRecoveryService)


def listeners() -> None:
    def listener(event: Event) -> None:
        assert_type(event.service_name, str)

    async def async_listener(event: Event) -> None:
        pass

    assert_type(recovery.on_event(listener), Callable[[], None])
    assert_type(recovery.on_event(async_listener), Callable[[], None])
    recovery.on_event(fetch)  # type: ignore[arg-type]  # a listener takes one event


def settings() -> None:
    assert_type(recovery.state_dir, Path)
    assert_type(recovery.max_retries, int)
    assert_type(recovery.base_delay, float)
    assert_type(recovery.circuit_threshold, int | None)
    ErrorRecoveryService(clock=VirtualClock())
    ErrorRecoveryService(clock=lambda: 0.0)
    ErrorRecoveryService(max_retries="3")  # type: ignore[arg-type]  # a number is wanted
    ErrorRecoveryService(retries=3)  # type: ignore[call-arg]  # there is no such argument


# -- integrations ------------------------------------------------------------------------------------


def integrations(found: LookUp[int]) -> None:
    recovery.service("venue", effect="unsafe", classify=aiohttp.classify)
    recovery.service("other_venue", classify=ccxt.classify)
    assert_type(aiohttp.meaning_of(TimeoutError()), Meaning | None)
    if isinstance(found, Found):
        assert_type(found.value, int)
    else:
        assert_type(found is NOT_FOUND or found is UNKNOWN, bool)


# -- errors ------------------------------------------------------------------------------------------


def errors(error: CircuitOpenError) -> None:
    assert_type(error.service_name, str)
    assert_type(error.policy, str)
    assert_type(error.retry_after, float | None)
    assert_type(error.last_error, str | None)
    assert_type(attempts_of(error), tuple[Attempt, ...])
    for attempt in attempts_of(error):
        assert_type(attempt.delay, float | None)


# -- testing -----------------------------------------------------------------------------------------


async def testing() -> None:
    events = record_events(recovery)
    assert_type(events.of(CircuitOpened), list[CircuitOpened])
    assert_type(await events.wait_for(CircuitOpened, service_name="api"), CircuitOpened)
    events.of(int)  # type: ignore[type-var]  # a type of event is wanted
    faults = FaultInjector(recovery)
    with faults.on(
        "api", plan=[None, ConnectionError, (Delays(0.1), Fails(ValueError)), Hangs()]
    ) as injected:
        assert_type(injected.injected, int)
    faults.on("api", KeyboardInterrupt)  # type: ignore[arg-type]  # an Exception is wanted
    async for run in cancel_at_each_await(lambda: fetch("AAPL")):
        assert_type(run.delay, float)
    assert_type(Storm().run({"timeout": 1.0}).recovered_after(), float | None)


async def ticks() -> AsyncIterator[int]:
    yield 1
