"""Stand-ins by the type of the error, and the last good answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shockproof import (
    CallInfo,
    CircuitOpenError,
    ErrorRecoveryService,
    Event,
    Fallback,
    FallbackAnswered,
    LastGood,
    OnError,
    Outcome,
    ServiceStatus,
    Stale,
    Verdict,
    attempts_of,
)
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio

Script = Callable[..., Any]


# -- by the type of the error ------------------------------------------------------------------------


async def test_the_first_entry_that_fits_is_asked(recovery: ErrorRecoveryService, script: Script) -> None:
    """Each error has its own answer; the chain's order decides where a subclass goes."""
    chain = [OnError(TimeoutError, "slow"), OnError(OSError, "down"), OnError(ValueError, "strange"), "other"]
    api = recovery.service("api", fallback=chain, max_retries=0, circuit_threshold=None)
    asked = (TimeoutError(), ConnectionError(), ValueError(), KeyError())
    assert [await api.call(script(error)) for error in asked] == ["slow", "down", "strange", "other"]


@pytest.mark.parametrize("forgotten", [LastGood, [0.0, LastGood], OnError])
async def test_a_class_in_place_of_an_entry_is_refused(
    recovery: ErrorRecoveryService, forgotten: object
) -> None:
    """Called with the arguments of a call that failed, it would answer with itself."""
    with pytest.raises(TypeError, match=r"fallback got the class (LastGood|OnError): write "):
        recovery.service("api", fallback=forgotten)


async def test_an_error_that_nobody_stands_in_for_comes_out_unchanged(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """As if there were no fallback: the same object, with its history, and the service is down."""
    error = ConnectionError("no")
    cached = script("cached")
    api = recovery.service("api", fallback=OnError(TimeoutError, cached), max_retries=1)
    with pytest.raises(ConnectionError) as raised:
        await api.call(script(error))
    assert raised.value is error
    assert error.__cause__ is None
    assert len(attempts_of(error)) == 2
    assert cached.calls == 0
    assert api.status is ServiceStatus.UNAVAILABLE


async def test_a_failing_entry_hands_on_to_the_next_that_fits(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """Not to one for other errors; when all fail, the call's own error is the cause."""
    primary, own = ConnectionError("primary"), KeyError("cache")
    never = script("never")
    api = recovery.service("api", max_retries=0)
    chain = [OnError(OSError, script(own)), OnError(ValueError, never)]
    with pytest.raises(KeyError) as raised:
        await api.using(fallback=chain).call(script(primary))
    assert raised.value is own
    assert own.__cause__ is primary
    assert never.calls == 0
    assert await api.using(fallback=[*chain, OnError(OSError, "second")]).call(script(primary)) == "second"


async def test_a_refusal_has_an_answer_of_its_own(recovery: ErrorRecoveryService, script: Script) -> None:
    """An open circuit is known from a service that answers with errors."""
    api = recovery.service("api", fallback=OnError(CircuitOpenError, "closed for now"), circuit_threshold=1)
    with pytest.raises(ConnectionError):
        await api.call(script(ConnectionError()))
    assert await api.call(script("live")) == "closed for now"


async def test_a_result_that_was_judged_a_failure_is_no_error(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """It fits no OnError; without another entry it is returned as it is."""
    api = recovery.service("api", retry_if_result=lambda result: result is None, max_retries=0)
    assert await api.using(fallback=[OnError(Exception, "error"), "other"]).call(script(None)) == "other"
    assert await api.using(fallback=OnError(Exception, "error")).call(script(None)) is None
    assert api.status is ServiceStatus.UNAVAILABLE


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_a_predicate_that_ends_the_program_ends_it(
    recovery: ErrorRecoveryService, script: Script, kind: type[BaseException]
) -> None:
    """What is no Exception passes, and the circuit's place is free."""

    def predicate(error: Exception) -> bool:
        raise kind

    api = recovery.service("api", fallback=OnError(predicate, "cached"), max_retries=0, max_concurrent=1)
    with pytest.raises(kind):
        await api.call(script(ConnectionError()))
    assert recovery.get_health_status()["services"]["api"]["in_flight"] == 0


async def test_a_fallback_that_hides_the_callers_cancellation_is_the_last(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """It turned the cancellation into an error; nobody else is asked after it."""
    other = script("other")

    async def stubborn() -> str:
        try:
            await clock.sleep(50)
        except asyncio.CancelledError:
            raise ConnectionError("lost while being cancelled") from None
        return "never"

    api = recovery.service("api", fallback=[stubborn, other], max_retries=0)
    task = asyncio.create_task(api.call(script(ConnectionError())))
    await clock.sleep(1)
    task.cancel()
    with pytest.raises((ConnectionError, asyncio.CancelledError)):
        await task
    assert other.calls == 0


async def test_an_unknown_outcome_is_sent_nowhere_else(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """Neither to a function nor to a value, whatever error they are for; a proof that nothing happened is."""
    elsewhere = script("filled elsewhere")
    orders = recovery.service("orders", effect="unsafe", fallback=[OnError(OSError, elsewhere), elsewhere])
    with pytest.raises(ConnectionResetError):
        await orders.call(script(ConnectionResetError()))
    assert elsewhere.calls == 0
    assert await orders.using(max_retries=0).call(script(ConnectionRefusedError())) == "filled elsewhere"


# -- the last good answer ----------------------------------------------------------------------------


async def test_the_last_answer_comes_back_marked_as_stale(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """With its age, its time, and what it stands in for; the service is degraded, the listeners are told."""
    told: list[Event] = []
    recovery.on_event(told.append)
    market = recovery.service("market", fallback=LastGood(max_age=60.0), max_retries=0)
    quote = script(150.0, ConnectionError("down"))
    assert await market.call(quote, "AAPL") == 150.0
    answered_at = clock.time()
    await clock.sleep(45)

    stale = await market.call(quote, "AAPL")
    assert stale == Stale(150.0, 45.0, answered_at, "market", "ConnectionError: down")
    assert market.status is ServiceStatus.DEGRADED
    await recovery.aclose()
    assert [one.function_name for one in told if isinstance(one, FallbackAnswered)] == ["LastGood"]


async def test_an_answer_that_is_too_old_is_none(
    recovery: ErrorRecoveryService, clock: VirtualClock, script: Script
) -> None:
    """The next entry is asked; without one, the call's own error comes out."""
    memory, error = LastGood(max_age=60.0), ConnectionError("down")
    market = recovery.service("market", fallback=memory, max_retries=0, circuit_threshold=None)
    quote = script(150.0, error)
    await market.call(quote, "AAPL")
    await clock.sleep(60.5)
    with pytest.raises(ConnectionError) as raised:
        await market.call(quote, "AAPL")
    assert raised.value is error
    assert await market.using(fallback=[memory, "closed"]).call(quote, "AAPL") == "closed"


async def test_only_the_same_call_is_answered_for(recovery: ErrorRecoveryService, script: Script) -> None:
    """Other arguments, another function: their own error."""
    market = recovery.service(
        "market", fallback=LastGood(max_age=60.0), max_retries=0, circuit_threshold=None
    )
    quote, depth = script(150.0, ConnectionError()), script(ConnectionError())
    await market.call(quote, "AAPL")
    for fn, args in ((quote, ("MSFT",)), (depth, ("AAPL",)), (quote, (["AAPL"],))):
        with pytest.raises(ConnectionError):
            await market.call(fn, *args)
    assert isinstance(await market.call(quote, "AAPL"), Stale)


async def test_a_decorated_function_has_one_memory_however_it_is_called(
    recovery: ErrorRecoveryService,
) -> None:
    """Its own parameters put the arguments in order; so do methods, per object."""
    fails = False

    class Client:
        @recovery.service("market", fallback=LastGood(max_age=60.0), max_retries=0)
        async def quote(self, symbol: str, depth: int = 5) -> float:
            if fails:
                raise ConnectionError
            return 150.0

    one, another = Client(), Client()
    assert await one.quote("AAPL") == 150.0
    fails = True
    assert isinstance(await one.quote(symbol="AAPL", depth=5), Stale)
    with pytest.raises(ConnectionError):
        await another.quote("AAPL")


async def test_handles_made_for_each_call_share_the_memory(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """It is the object's; nothing is lost when using() makes another handle."""
    market = recovery.service("market", fallback=LastGood(max_age=60.0), max_retries=0)
    quote = script(150.0, ConnectionError())
    await market.using(deadline=5.0).call(quote)
    assert isinstance(await market.using(deadline=2.0).call(quote), Stale)


async def test_two_services_never_answer_for_each_other(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """Although they share the object and the function."""
    memory = LastGood(max_age=60.0)
    quote = script(150.0, ConnectionError())
    await recovery.service("binance", fallback=memory, max_retries=0).call(quote)
    with pytest.raises(ConnectionError):
        await recovery.service("kraken", fallback=memory, max_retries=0).call(quote)


async def test_what_is_no_fresh_answer_is_not_remembered(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """A fallback's answer, an unwanted result, and a stale one of a service inside."""
    memory = LastGood(max_age=60.0)
    market = recovery.service(
        "market", fallback=[memory, "cached"], retry_if_result=lambda result: result is None, max_retries=0
    )
    assert await market.call(script(ConnectionError())) == "cached"
    assert await market.call(script(None)) == "cached"
    stale = Stale(1.0, 5.0, 0.0, "inner", "")
    assert await market.call(script(stale)) is stale
    assert len(memory) == 0


async def test_a_none_that_was_answered_is_an_answer(recovery: ErrorRecoveryService, script: Script) -> None:
    """Nothing remembered and None remembered are two things."""
    market = recovery.service("market", fallback=LastGood(max_age=60.0), max_retries=0)
    quote = script(None, ConnectionError())
    await market.call(quote)
    stale = await market.call(quote)
    assert isinstance(stale, Stale)
    assert stale.value is None


async def test_mark_makes_of_it_what_the_user_wants(recovery: ErrorRecoveryService, script: Script) -> None:
    """The user's own type; one that raises is a fallback that failed, and is recorded."""
    quote = script(150.0, ConnectionError("down"))
    marked = LastGood(max_age=60.0, mark=lambda stale: {"price": stale.value, "fresh": False})
    market = recovery.service("market", fallback=marked, max_retries=0, circuit_threshold=None)
    await market.call(quote)
    assert await market.call(quote) == {"price": 150.0, "fresh": False}

    def broken(stale: Stale[float]) -> float:
        raise ZeroDivisionError

    memory, quote = LastGood(max_age=60.0, mark=broken), script(150.0, ConnectionError("down"))
    again = market.using(fallback=[memory, "other"])
    await again.call(quote)
    assert await again.call(quote) == "other"
    assert recovery.get_error_summary()["errors_by_type"]["ZeroDivisionError"] == 1


async def test_it_answers_behind_an_open_circuit_and_for_its_own_errors_only(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """In a chain, and inside an OnError."""
    chain = [OnError(CircuitOpenError, LastGood(max_age=60.0))]
    market = recovery.service("market", fallback=chain, max_retries=0, circuit_threshold=1)
    quote = script(150.0, ConnectionError("down"))
    await market.call(quote)
    with pytest.raises(ConnectionError):
        await market.call(quote)
    assert isinstance(await market.call(quote), Stale)


async def test_with_fallback_takes_one_too(recovery: ErrorRecoveryService, script: Script) -> None:
    """The object remembers, although each call makes a handle of its own."""
    memory, quote = LastGood(max_age=60.0), script(150.0, ConnectionError())
    assert await recovery.with_fallback(quote, memory, "AAPL", service_name="market") == 150.0
    stale = await recovery.with_fallback(quote, memory, "AAPL", service_name="market", max_retries=0)
    assert isinstance(stale, Stale)


@pytest.mark.parametrize("effect", ["unsafe", "idempotent"])
async def test_it_is_refused_for_what_writes(recovery: ErrorRecoveryService, effect: Any) -> None:
    """An order's last answer would be taken for the new order's."""
    for chain in (LastGood(max_age=60.0), [1, OnError(OSError, LastGood(max_age=60.0))]):
        with pytest.raises(ValueError, match=r"LastGood.*effect='(unsafe|idempotent)'"):
            recovery.service("orders", fallback=chain, effect=effect)
    with pytest.raises(ValueError, match="LastGood"):
        recovery.service("orders", fallback=LastGood(max_age=60.0)).using(effect=effect)


async def test_the_value_is_redacted_in_no_way_but_the_reason_is(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """Errors carry secrets; what the service answered is the user's own."""
    market = recovery.service("market", fallback=LastGood(max_age=60.0), max_retries=0)
    quote = script("token=abc", ConnectionError("GET /?signature=abcdef"))
    await market.call(quote)
    stale = await market.call(quote)
    assert (stale.value, "abcdef" in stale.reason) == ("token=abc", False)


async def test_one_memory_serves_two_loops_in_two_threads(tmp_path: Path) -> None:
    """Remembering and recalling at once: bounded, and never another call's answer."""
    recovery = ErrorRecoveryService(
        tmp_path / "state", tmp_path / "errors", max_retries=0, circuit_threshold=None
    )
    memory = LastGood(max_age=60.0, max_entries=20)
    market = recovery.service("market", fallback=memory)
    wrong: list[object] = []

    async def echo(number: int, is_up: bool) -> int:
        if not is_up:
            raise ConnectionError
        return number

    by_number = LastGood(max_age=60.0, max_entries=20, key=lambda number, is_up: number)
    market = market.using(fallback=[by_number, None])

    async def work() -> None:
        for turn in range(400):
            number = turn % 30
            found = await market.call(echo, number, turn % 3 != 0)
            value = found.value if isinstance(found, Stale) else found
            if value not in {number, None}:
                wrong.append((number, found))

    threads = [threading.Thread(target=lambda: asyncio.run(work())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    await recovery.aclose()
    assert wrong == []
    assert len(by_number) <= 20


async def test_both_stand_alone(script: Script) -> None:
    """In a Fallback without a recovery service."""
    quote = script(150.0, ConnectionError(), ValueError())

    @Fallback(fallback=[OnError(OSError, LastGood(max_age=60.0)), OnError(ValueError, "strange")])
    async def guarded(symbol: str) -> object:
        return await quote(symbol)

    assert await guarded("AAPL") == 150.0
    assert isinstance(await guarded("AAPL"), Stale)
    assert await guarded("AAPL") == "strange"


async def test_an_answer_that_classify_judges_is_remembered_only_when_it_is_a_success(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """A neutral one is handed out and forgotten."""

    def classify(value: object, call: CallInfo) -> Verdict | None:
        return Verdict(Outcome.NEUTRAL) if value == "halted" else None

    memory = LastGood(max_age=60.0)
    market = recovery.service("market", fallback=memory, classify=classify)
    assert await market.call(script("halted")) == "halted"
    assert len(memory) == 0
    assert await market.call(script("open")) == "open"
    assert len(memory) == 1


# -- behind an open circuit, in passing ----------------------------------------------------------------


async def _opened(recovery: ErrorRecoveryService, script: Script, **options: Any) -> Any:  # Any: a Handle
    """A service whose circuit has just opened."""
    api = recovery.service("api", max_retries=0, circuit_threshold=1, **options)
    with pytest.raises(OSError, match="down"):
        await api.call(script(OSError("down")))
    return api


@pytest.mark.parametrize("decorated", [True, False])
async def test_a_stand_in_that_fails_behind_an_open_circuit_has_the_refusal_as_its_cause(
    recovery: ErrorRecoveryService, script: Script, *, decorated: bool
) -> None:
    """Whoever sees its error sees why it was asked; the service is down, and both are counted and recorded."""

    async def stand_in(x: int) -> int:
        if x == 1:
            return -1
        raise ValueError(f"nothing cached for {x}")

    async def fetch(x: int) -> int:
        return x

    api = (await _opened(recovery, script)).using(fallback=stand_in)
    assert await (api(fetch)(1) if decorated else api.call(fetch, 1)) == -1
    assert api.status is ServiceStatus.DEGRADED
    with pytest.raises(ValueError, match="nothing cached for 7") as failed:
        await (api(fetch)(7) if decorated else api.call(fetch, 7))

    cause = failed.value.__cause__
    assert isinstance(cause, CircuitOpenError)
    assert cause.last_error == "OSError: down"
    assert cause.retry_after == pytest.approx(60.0)
    assert api.status is ServiceStatus.UNAVAILABLE
    assert recovery.get_error_summary()["errors_by_type"] == {"OSError": 1, "ValueError": 1}


@pytest.mark.parametrize("decorated", [True, False])
async def test_a_stand_in_that_answers_behind_an_open_circuit_makes_it_degraded_and_is_counted(
    recovery: ErrorRecoveryService, script: Script, *, decorated: bool
) -> None:
    """It gets the arguments that it can bind, call for call, and none where it cannot."""
    asked: list[object] = []

    async def stand_in(x: int = 0) -> int:
        asked.append(x)
        return -x

    async def fetch(*args: int) -> int:
        return args[0]

    api = (await _opened(recovery, script)).using(fallback=stand_in)
    call = api(fetch) if decorated else partial(api.call, fetch)
    assert [await call(1), await call(2), await call(3, 4), await call(5)] == [-1, -2, 0, -5]
    assert asked == [1, 2, 0, 5]
    assert api.status is ServiceStatus.DEGRADED
    state = api.plan.state
    assert (state.rejections, state.fallbacks) == (4, 4)


async def test_a_stand_in_behind_an_open_circuit_can_be_cancelled(
    recovery: ErrorRecoveryService, script: Script
) -> None:
    """At once; nothing answered, so nothing is counted as an answer."""
    asked = asyncio.Event()

    async def stand_in(x: int) -> int:
        asked.set()
        await asyncio.Event().wait()
        return x

    async def fetch(x: int) -> int:
        return x

    api = (await _opened(recovery, script)).using(fallback=stand_in)
    task = asyncio.ensure_future(api(fetch)(7))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert api.plan.state.fallbacks == 0
