from __future__ import annotations

import asyncio
import gc
import time
import warnings
from typing import Any

from correctness.dependency import (
    OPEN_FOR,
    PAST_IT,
    Dependency,
    Gate,
    cancel,
    error_of,
    fails,
    is_refused,
    says_no,
    start,
    time_zone,
    trip,
    wall_clock_set_back,
    works,
)
from correctness.library import Circuit, Differs, Library, NotOffered, expect
from correctness.scenarios import scenario


async def _until_half_open(library: Library, dependency: Dependency, circuit: Circuit) -> None:
    await trip(circuit.call)
    expect(await is_refused(library, dependency, circuit.call), "it did not open")
    await asyncio.sleep(PAST_IT)


@scenario("M. Fowler, bliki: CircuitBreaker")
async def opens(library: Library) -> None:
    """After three failures in a row the next call is refused, and not made."""
    dependency = Dependency()
    circuit = library.breaker(dependency.function, open_for=10.0)
    await trip(circuit.call)
    expect(await is_refused(library, dependency, circuit.call), "the fourth call was not refused")


@scenario("M. Fowler, bliki: CircuitBreaker")
async def closes_again(library: Library) -> None:
    """After the open time one success closes the circuit."""
    dependency = Dependency()
    circuit = library.breaker(dependency.function, open_for=OPEN_FOR)
    await _until_half_open(library, dependency, circuit)
    expect(await circuit.call(works) == "fine", "the probe has no result")
    await error_of(circuit.call(fails))
    expect(not await is_refused(library, dependency, circuit.call), "one failure opened the closed circuit")


@scenario("microprofile/microprofile-fault-tolerance circuitbreaker.asciidoc")
async def reopens(library: Library) -> None:
    """One failed probe opens the circuit again."""
    dependency = Dependency()
    circuit = library.breaker(dependency.function, open_for=OPEN_FOR)
    await _until_half_open(library, dependency, circuit)
    await error_of(circuit.call(fails))
    expect(await is_refused(library, dependency, circuit.call), "calls went on after a failed probe")


@scenario("App-vNext/Polly#131")
async def success_resets_the_count(library: Library) -> None:
    """Two failures, a success and two failures are not three in a row."""
    if not library.counts_in_a_row:
        raise Differs("counts a rate over a window")
    dependency = Dependency()
    circuit = library.breaker(dependency.function, open_for=10.0)
    for action in (fails, fails, works, fails, fails):
        await error_of(circuit.call(action))
    expect(not await is_refused(library, dependency, circuit.call), "the success did not reset the count")


@scenario("App-vNext/Polly#216; safe-global/safe-client-gateway#3442")
async def burst_at_half_open(library: Library) -> None:
    """Ten callers arrive when the open time ends: one probe, nine refusals."""
    dependency = Dependency()
    circuit = library.breaker(dependency.function, open_for=OPEN_FOR)
    await _until_half_open(library, dependency, circuit)
    callers = [await start(circuit.call) for _ in range(10)]
    admitted = dependency.in_flight
    await cancel(*callers)
    expect(admitted == 1, f"{admitted} calls were let through at once")


@scenario("resilience4j/resilience4j#935; diegosouzapw/OmniRoute#13836")
async def hung_probe(library: Library) -> None:
    """A probe that never ends does not keep the circuit half-open for ever."""
    dependency = Dependency()
    circuit = library.breaker(dependency.function, open_for=OPEN_FOR)
    await _until_half_open(library, dependency, circuit)
    probe = await start(circuit.call)
    for _ in range(4):
        await asyncio.sleep(PAST_IT)
    refused = await is_refused(library, dependency, circuit.call)
    await cancel(probe)
    expect(not refused, "after four open times every call is still refused")


@scenario("monix/monix#1080; resilience4j/resilience4j#681")
async def cancelled_probe_gives_its_place_back(library: Library) -> None:
    """A cancelled probe gives its place back."""
    dependency = Dependency()
    circuit = library.breaker(dependency.function, open_for=OPEN_FOR)
    await _until_half_open(library, dependency, circuit)
    await cancel(await start(circuit.call))
    await asyncio.sleep(PAST_IT)
    expect(not await is_refused(library, dependency, circuit.call), "no call is let through any more")


@scenario("svroonland/rezilience#521; twitter/finagle FailureAccrualFactory.scala, didReceiveIgnorable")
async def cancelled_probe_is_no_success(library: Library) -> None:
    """A cancelled probe does not close the circuit."""
    dependency = Dependency()
    circuit = library.breaker(dependency.function, open_for=OPEN_FOR)
    await _until_half_open(library, dependency, circuit)
    await cancel(await start(circuit.call))
    await error_of(circuit.call(fails))
    expect(
        await is_refused(library, dependency, circuit.call), "it closed: a failure after it left it closed"
    )


@scenario("rubyist/circuitbreaker#42")
async def cancelled_calls_are_no_failures(library: Library) -> None:
    """Five calls that their callers cancel do not open the circuit."""
    dependency = Dependency()
    circuit = library.breaker(dependency.function, open_for=10.0)
    for _ in range(5):
        await cancel(await start(circuit.call))
    expect(not await is_refused(library, dependency, circuit.call), "the circuit is open, and nothing failed")


@scenario("thomhurst/Kevlar#187; twitter/finagle ResponseClass.scala, Ignorable")
async def cancelled_call_hides_no_failures(library: Library) -> None:
    """A cancelled call between failures does not reset their count."""
    dependency = Dependency()
    circuit = library.breaker(dependency.function, open_for=10.0)
    await trip(circuit.call, 2)
    await cancel(await start(circuit.call))
    await trip(circuit.call, 1)
    expect(await is_refused(library, dependency, circuit.call), "the third failure did not open the circuit")


@scenario("nodeshift/opossum#381; App-vNext/Polly#218")
async def late_success_while_open(library: Library) -> None:
    """A success of a call from before the trip does not close the open circuit."""
    dependency, gate = Dependency(), Gate()
    circuit = library.breaker(dependency.function, open_for=10.0)
    late = await start(circuit.call, gate.works)
    await trip(circuit.call)
    gate.open()
    await late
    expect(await is_refused(library, dependency, circuit.call), "the late success closed it")


@scenario("App-vNext/Polly#218")
async def late_failure_while_open(library: Library) -> None:
    """A failure of a call from before the trip does not make the open time longer."""
    dependency, gate = Dependency(), Gate()
    circuit = library.breaker(dependency.function, open_for=0.06)
    late = await start(circuit.call, gate.fails)
    await trip(circuit.call)
    opened = time.monotonic()
    expect(await is_refused(library, dependency, circuit.call), "it did not open")
    await asyncio.sleep(0.04)
    gate.open()
    await error_of(late)
    await asyncio.sleep(max(0.0, opened + 0.075 - time.monotonic()))
    expect(not await is_refused(library, dependency, circuit.call), "the open time began anew")


@scenario("sony/gobreaker v2/gobreaker.go, generation")
async def late_failure_while_half_open(library: Library) -> None:
    """A failure of a call from before the trip does not overrule the probe."""
    dependency, before, probing = Dependency(), Gate(), Gate()
    circuit = library.breaker(dependency.function, open_for=OPEN_FOR)
    late = await start(circuit.call, before.fails)
    await _until_half_open(library, dependency, circuit)
    probe = await start(circuit.call, probing.works)
    before.open()
    await error_of(late)
    probing.open()
    await error_of(probe)
    expect(not await is_refused(library, dependency, circuit.call), "the probe succeeded, yet it is open")


@scenario("thomhurst/Kevlar#227; sony/gobreaker v2/gobreaker.go, generation")
async def late_success_while_half_open(library: Library) -> None:
    """A success of a call from before the trip does not overrule the probe."""
    dependency, before, probing = Dependency(), Gate(), Gate()
    circuit = library.breaker(dependency.function, open_for=OPEN_FOR)
    late = await start(circuit.call, before.works)
    await _until_half_open(library, dependency, circuit)
    probe = await start(circuit.call, probing.fails)
    before.open()
    await error_of(late)
    probing.open()
    await error_of(probe)
    expect(await is_refused(library, dependency, circuit.call), "the probe failed, yet it is closed")


@scenario("denoland/std#6996; sony/gobreaker v2/gobreaker.go, generation")
async def probe_of_an_earlier_round(library: Library) -> None:
    """Two probes in flight, one fails: the other's later success does not close the circuit."""
    dependency, first, second = Dependency(), Gate(), Gate()
    try:
        circuit = library.breaker(dependency.function, open_for=0.2, successes=2)
    except NotOffered:
        circuit = library.breaker(dependency.function, open_for=0.2)
    await trip(circuit.call)
    for _ in range(5):
        await asyncio.sleep(0.044)
    slow = await start(circuit.call, first.works)
    other = await start(circuit.call, second.fails)
    if dependency.in_flight < 2:
        await cancel(slow, other)
        raise NotOffered("two probes at once")
    second.open()
    await error_of(other)
    first.open()
    await error_of(slow)
    expect(await is_refused(library, dependency, circuit.call), "the slower probe closed it")


@scenario("danielfm/pybreaker#96; fabfuel/circuitbreaker#71")
async def several_successes_to_close(library: Library) -> None:
    """Two successes are asked for: after one, a failure opens the circuit at once."""
    dependency = Dependency()
    circuit = library.breaker(dependency.function, open_for=OPEN_FOR, successes=2)
    await _until_half_open(library, dependency, circuit)
    await circuit.call(works)
    await error_of(circuit.call(fails))
    expect(await is_refused(library, dependency, circuit.call), "one success closed it")


@scenario("resilience4j/resilience4j CircuitBreakerStateMachine.java, getIgnoreExceptionPredicate")
async def ignored_errors(library: Library) -> None:
    """Errors that are to be ignored do not open the circuit."""
    dependency = Dependency()
    circuit = library.breaker(dependency.function, open_for=10.0, ignore=ValueError)
    for _ in range(5):
        error = await error_of(circuit.call(says_no))
        expect(isinstance(error, ValueError), f"the error became {error!r}")
    expect(not await is_refused(library, dependency, circuit.call), "it opened")


@scenario("App-vNext/Polly#311; thomhurst/Kevlar#187")
async def ignored_error_of_a_probe(library: Library) -> None:
    """An error that is to be ignored does not close the half-open circuit."""
    dependency = Dependency()
    circuit = library.breaker(dependency.function, open_for=OPEN_FOR, ignore=ValueError)
    await _until_half_open(library, dependency, circuit)
    await error_of(circuit.call(says_no))
    await error_of(circuit.call(fails))
    if not await is_refused(library, dependency, circuit.call):
        raise Differs("an ignored error counts as a success, as MicroProfile has it")


@scenario("fabfuel/circuitbreaker#31; exaring/hoglet#25")
async def wall_clock_steps(library: Library) -> None:
    """The wall clock is set back by an hour: the circuit is not open for an hour longer."""
    dependency = Dependency()
    circuit = library.breaker(dependency.function, open_for=OPEN_FOR)
    await _until_half_open(library, dependency, circuit)
    with wall_clock_set_back(library.package, 3600.0):
        expect(not await is_refused(library, dependency, circuit.call), "it is open for an hour longer")


@scenario("bagowix/interlock#108; thomhurst/Kevlar#219")
async def failing_listener(library: Library) -> None:
    """A listener that raises changes neither the call's error nor the circuit."""

    def listener(*told: Any) -> None:
        raise RuntimeError("a bug in the listener")

    dependency = Dependency()
    circuit = library.heard_breaker(dependency.function, listener, failures=3)
    for _ in range(3):
        error = await error_of(circuit.call(fails))
        cause = error.__cause__ if error is not None and isinstance(error, library.circuit_open) else error
        expect(isinstance(cause, ConnectionError), f"the caller got {error!r}")
    expect(await is_refused(library, dependency, circuit.call), "it did not open")


@scenario("arlyon/aiobreaker#1")
async def async_listener(library: Library) -> None:
    """A listener that is a coroutine function is run."""
    heard = asyncio.Event()

    async def listener(*told: Any) -> None:
        await asyncio.sleep(0)
        heard.set()

    try:
        circuit = library.heard_breaker(Dependency().function, listener, failures=3)
    except NotOffered:
        raise
    except Exception as refusal:
        raise NotOffered(f"plain listeners only: {refusal}") from refusal
    await trip(circuit.call)
    await asyncio.sleep(0.03)
    if not heard.is_set():
        raise NotOffered("plain listeners only")


@scenario("Shopify/semian#24; roma-glushko/hyx#11")
async def old_failures_expire(library: Library) -> None:
    """Failures older than the time window do not count."""
    dependency = Dependency()
    circuit = library.rate_breaker(dependency.function, calls=3, window=0.06)
    await trip(circuit.call, 2)
    await asyncio.sleep(0.05)
    await asyncio.sleep(0.05)
    await trip(circuit.call, 1)
    expect(not await is_refused(library, dependency, circuit.call), "old failures opened it")
    await trip(circuit.call, 2)
    expect(
        await is_refused(library, dependency, circuit.call), "three failures in the window did not open it"
    )


@scenario("resilience4j/resilience4j CircuitBreakerConfig.java, COUNT_BASED; cinar/resile#39")
async def last_calls(library: Library) -> None:
    """Half of the last four calls failed: that opens it, whatever came before; two of six does not."""
    dependency = Dependency()
    circuit = library.count_breaker(dependency.function, calls=4)
    for action in (fails, works, works, works, works, fails):
        await error_of(circuit.call(action))
    expect(not await is_refused(library, dependency, circuit.call), "a failure before the last four counted")
    await error_of(circuit.call(fails))
    expect(
        await is_refused(library, dependency, circuit.call), "half of the last four failed, and it is closed"
    )


@scenario("resilience4j/resilience4j CircuitBreakerMetrics.java, slowCallRateThreshold")
async def slow_calls(library: Library) -> None:
    """Answers that are right but too slow open the circuit."""
    dependency = Dependency()
    circuit = library.slow_breaker(dependency.function, slow_after=0.01, calls=3)

    async def slow() -> str:
        await asyncio.sleep(0.02)
        return "fine"

    for _ in range(3):
        await circuit.call(slow)
    expect(await is_refused(library, dependency, circuit.call), "three slow calls did not open it")


@scenario("resilience4j/resilience4j#1597; alibaba/Sentinel#1405")
async def hung_calls(library: Library) -> None:
    """Three calls hang without a time limit: that opens it, before they end."""
    dependency = Dependency()
    circuit = library.age_breaker(dependency.function, oldest=0.02, failures=3)
    hung = [await start(circuit.call) for _ in range(3)]
    await asyncio.sleep(0.035)
    refused = await is_refused(library, dependency, circuit.call)
    await cancel(*hung)
    expect(refused, "calls go through to a dependency that answers nobody")


@scenario("App-vNext/Polly#1895")
async def growing_open_time(library: Library) -> None:
    """After a failed probe it stays open four times as long as before."""
    dependency = Dependency()
    circuit = library.growing_breaker(dependency.function, open_for=OPEN_FOR, factor=4.0)
    await _until_half_open(library, dependency, circuit)
    await error_of(circuit.call(fails))
    await asyncio.sleep(PAST_IT)
    expect(await is_refused(library, dependency, circuit.call), "it was open no longer than the first time")
    for _ in range(3):
        await asyncio.sleep(PAST_IT)
    expect(not await is_refused(library, dependency, circuit.call), "it is open for longer than that")


@scenario("App-vNext/Polly#2324")
async def refusal_tells_the_time_left(library: Library) -> None:
    """A refusal says how long the circuit stays open."""
    circuit = library.breaker(Dependency().function, open_for=10.0)
    if circuit.time_left is None:
        raise NotOffered("the time left")
    await trip(circuit.call)
    error = await error_of(circuit.call(works))
    expect(isinstance(error, library.circuit_open), "it was not refused")
    assert error is not None
    left = circuit.time_left(error)
    expect(left is not None and 8.0 < left <= 10.1, f"open for 10 s, it says {left}")


@scenario("openwallet-foundation/acapy#2678; Python documentation, datetime.utcnow")
async def in_new_york(library: Library) -> None:
    """A refusal says so in New York too."""
    with time_zone("America/New_York"):
        await refusal_tells_the_time_left(library)


@scenario("danielfm/pybreaker README.rst, throw_new_error_on_trip")
async def tripping_error(library: Library) -> None:
    """The failure that opens the circuit reaches the caller as itself."""
    circuit = library.breaker(Dependency().function, open_for=10.0)
    for _ in range(3):
        error = await error_of(circuit.call(fails))
        if isinstance(error, library.circuit_open) and isinstance(error.__cause__, ConnectionError):
            raise Differs("it becomes the refusal's cause")
        expect(isinstance(error, ConnectionError), f"the caller got {error!r}")


@scenario("Eshajha19/agri#912; gptme/gptme#2658")
async def refused_coroutine(library: Library) -> None:
    """A refusal leaves no coroutine that was never awaited."""
    dependency = Dependency()
    circuit = library.breaker(dependency.function, open_for=10.0)
    await trip(circuit.call)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        expect(await is_refused(library, dependency, circuit.call), "it was not refused")
        gc.collect()
    expect(not any("never awaited" in str(one.message) for one in warned), "coroutine was never awaited")


@scenario("App-vNext/Polly#86")
async def reset_by_hand(library: Library) -> None:
    """An operator closes the circuit by hand."""
    dependency = Dependency()
    circuit = library.breaker(dependency.function, open_for=10.0)
    if circuit.reset is None:
        raise NotOffered("reset")
    await trip(circuit.call)
    expect(await is_refused(library, dependency, circuit.call), "it did not open")
    circuit.reset()
    expect(not await is_refused(library, dependency, circuit.call), "it is still open")


@scenario("App-vNext/Polly#84; resilience4j/resilience4j CircuitBreaker.java, FORCED_OPEN")
async def held_open_by_hand(library: Library) -> None:
    """An operator holds the circuit open."""
    dependency = Dependency()
    circuit = library.breaker(dependency.function, open_for=OPEN_FOR)
    if circuit.hold_open is None:
        raise NotOffered("forced open")
    circuit.hold_open()
    await asyncio.sleep(PAST_IT)
    expect(await is_refused(library, dependency, circuit.call), "calls go through")


@scenario("resilience4j/resilience4j#803")
async def tried_without_effect(library: Library) -> None:
    """On trial, the circuit counts and never refuses."""
    dependency = Dependency()
    circuit = library.shadow_breaker(dependency.function, failures=3)
    await trip(circuit.call, 5)
    expect(not await is_refused(library, dependency, circuit.call), "it refused")


@scenario("nodeshift/opossum#385; danielfm/pybreaker#7")
async def concurrent_failures(library: Library) -> None:
    """Failures of calls that run at the same time count like others."""
    dependency, gate = Dependency(), Gate()
    circuit = library.breaker(dependency.function, open_for=10.0)
    callers = [await start(circuit.call, gate.fails) for _ in range(3)]
    gate.open()
    for caller in callers:
        await error_of(caller)
    expect(await is_refused(library, dependency, circuit.call), "it did not open")


@scenario("SolaceLabs/solace-agent-mesh#1591")
async def used_on_two_loops(library: Library) -> None:
    """Made before there is a loop and tripped on one, it refuses on the next."""
    dependency = Dependency()

    def on_its_own() -> bool:
        circuit = library.breaker(dependency.function, open_for=10.0)
        asyncio.run(trip(circuit.call))
        return asyncio.run(is_refused(library, dependency, circuit.call))

    expect(await asyncio.to_thread(on_its_own), "it did not refuse")
