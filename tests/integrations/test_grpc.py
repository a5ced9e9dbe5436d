"""Calls of grpc.aio through a service, against a real server on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

pytest.importorskip("grpc", reason="grpcio is not installed")

import grpc
import grpc.aio

from shockproof import (
    AttemptTimeoutError,
    CircuitOpenError,
    ErrorRecoveryService,
    HaltedError,
    Outcome,
    attempts_of,
)
from shockproof.integrations.grpc import interceptors, meaning_of
from shockproof.integrations.outcome_table import Meaning
from shockproof.integrations.retry_info import asked_by_server

pytestmark = pytest.mark.asyncio

PATIENT = 60.0
Code = grpc.StatusCode


class Shop:
    """Answers one call after the other as it is told, with an answer or a code, and the last way for ever."""

    def __init__(self) -> None:
        self.steps: list[bytes | grpc.StatusCode | None] = [b"fine"]
        self.trailers: tuple[tuple[str, str | bytes], ...] = ()
        self.timeouts: list[float | None] = []
        self.arrived = asyncio.Event()
        self.was_cancelled = asyncio.Event()
        self.address = ""

    @property
    def calls(self) -> int:
        return len(self.timeouts)

    async def _step(self, context: Any) -> bytes:
        self.timeouts.append(context.time_remaining())
        self.arrived.set()
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, bytes):
            return step
        if step is None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.was_cancelled.set()
                raise
        await context.abort(step, "as told", self.trailers)
        raise AssertionError("abort raises")

    async def ask(self, request: bytes, context: Any) -> bytes:
        return await self._step(context)

    async def watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield await self._step(context)
        for number in range(2):
            yield str(number).encode()
        if self.trailers:  # in the middle
            await context.abort(Code.UNAVAILABLE, "cut")

    async def collect(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b",".join([await self._step(context), *[request async for request in requests]])

    async def chat(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield await self._step(context) + b" " + request
        if self.trailers:
            await context.abort(Code.UNAVAILABLE, "cut")


@pytest_asyncio.fixture
async def shop() -> AsyncIterator[Shop]:
    shop = Shop()
    server = grpc.aio.server()
    handlers = {
        "Ask": grpc.unary_unary_rpc_method_handler(shop.ask),
        "Place": grpc.unary_unary_rpc_method_handler(shop.ask),
        "Watch": grpc.unary_stream_rpc_method_handler(shop.watch),
        "Collect": grpc.stream_unary_rpc_method_handler(shop.collect),
        "Chat": grpc.stream_stream_rpc_method_handler(shop.chat),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Orders", handlers),))
    shop.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield shop
    await server.stop(None)


@contextlib.asynccontextmanager
async def a_channel(shop: Shop, *guarded: Any) -> AsyncIterator[grpc.aio.Channel]:
    async with (
        asyncio.timeout(PATIENT),
        grpc.aio.insecure_channel(shop.address, interceptors=interceptors(*guarded)) as channel,
    ):
        yield channel


async def test_a_call_is_repeated_until_it_is_answered_and_keeps_its_metadata(
    shop: Shop, recovery: ErrorRecoveryService
) -> None:
    """The caller gets the call itself, with what the server sends beside the answer."""
    shop.steps = [Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, b"quote"]
    async with a_channel(shop, recovery.service("shop")) as channel:
        call = channel.unary_unary("/shop.Orders/Ask")(b"AAPL")
        assert await call == b"quote"
        assert await call.code() is Code.OK
        assert await call.trailing_metadata() is not None
    assert shop.calls == 3
    told = recovery.get_error_summary()["recent_errors"]
    assert {one["function_name"] for one in told} == {"/shop.Orders/Ask"}


@pytest.mark.parametrize(
    ("code", "outcome", "calls"),
    [
        (Code.UNAVAILABLE, Outcome.UNKNOWN, 1),
        (Code.DEADLINE_EXCEEDED, Outcome.UNKNOWN, 1),
        (Code.RESOURCE_EXHAUSTED, Outcome.UNKNOWN, 1),  # perhaps only the answer was too large
        (Code.ALREADY_EXISTS, Outcome.UNKNOWN, 1),
        (Code.INVALID_ARGUMENT, None, 1),
    ],
)
async def test_a_write_whose_effect_is_unknown_is_sent_once(
    shop: Shop, recovery: ErrorRecoveryService, code: Any, outcome: Outcome | None, calls: int
) -> None:
    """By what the user says of the method; the caller gets grpc's own error."""
    shop.steps = [code]

    def effect_of(method: str) -> Any:
        return "unsafe" if method == "/shop.Orders/Place" else None

    guarded = interceptors(recovery.service("shop", max_retries=1), effect_of=effect_of)
    async with (
        asyncio.timeout(PATIENT),
        grpc.aio.insecure_channel(shop.address, interceptors=guarded) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/shop.Orders/Place")(b"buy")
        assert caught.value.code() is code
        assert [one.outcome for one in attempts_of(caught.value)] == ([] if outcome is None else [outcome])
        assert shop.calls == calls
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary("/shop.Orders/Ask")(b"AAPL")
    assert shop.calls == (2 if outcome is None else 3)


RETRY_NOW = (
    b"\x08\x08\x1a\x32\x0a\x28type.googleapis.com/google.rpc.RetryInfo\x12\x06\x0a\x04\x08\x00\x10\x01"
)


@pytest.mark.parametrize("trailer", [("grpc-retry-pushback-ms", "0"), ("grpc-status-details-bin", RETRY_NOW)])
async def test_who_is_told_when_to_come_again_was_turned_away_at_the_door(
    shop: Shop, recovery: ErrorRecoveryService, trailer: tuple[str, str | bytes]
) -> None:
    """Only a server says so, and a server that says so has done nothing: a write is sent again."""
    shop.steps, shop.trailers = [Code.RESOURCE_EXHAUSTED, b"booked"], (trailer,)
    async with a_channel(shop, recovery.service("shop", effect="unsafe")) as channel:
        assert await channel.unary_unary("/shop.Orders/Place")(b"buy") == b"booked"
    assert shop.calls == 2


async def test_a_server_that_says_never_again_is_not_asked_again(
    shop: Shop, recovery: ErrorRecoveryService
) -> None:
    """A negative pushback, by gRPC's proposal A6."""
    shop.steps, shop.trailers = [Code.UNAVAILABLE], (("grpc-retry-pushback-ms", "-1"),)
    async with a_channel(shop, recovery.service("shop")) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary("/shop.Orders/Ask")(b"AAPL")
    assert shop.calls == 1


async def test_what_is_left_of_the_time_goes_to_the_server(
    shop: Shop, recovery: ErrorRecoveryService
) -> None:
    """So that it does not go on with what nobody waits for; a shorter timeout of the call itself stays."""
    service = recovery.service("shop", timeout=40.0)
    async with a_channel(shop, service) as channel:
        ask = channel.unary_unary("/shop.Orders/Ask")
        await ask(b"AAPL")
        await ask(b"AAPL", timeout=20.0)
        async with recovery.service("strategy", timeout=10.0).guard():
            await ask(b"AAPL")
    first, second, third = shop.timeouts
    # grpc rounds them up on their way.
    assert (first or 99) < 45
    assert (second or 99) < 25
    assert (third or 99) < 15


async def test_a_call_that_takes_too_long_is_cancelled_at_the_server(
    shop: Shop, recovery: ErrorRecoveryService
) -> None:
    """Our timeout ends the call there, too, and the channel goes on."""
    shop.steps = [None]
    service = recovery.service("shop", timeout=0.2, max_retries=0, circuit_threshold=None)
    async with a_channel(shop, service) as channel:
        ask = channel.unary_unary("/shop.Orders/Ask")
        while not shop.arrived.is_set():  # a slow machine may not even have sent it
            with pytest.raises(
                (AttemptTimeoutError, grpc.aio.AioRpcError)
            ):  # the server's, where we are late
                await ask(b"AAPL")
        await shop.was_cancelled.wait()
    shop.steps = [b"fine"]
    unhurried = service.using(timeout=None)
    async with a_channel(shop, unhurried) as channel:
        assert await channel.unary_unary("/shop.Orders/Ask")(b"AAPL") == b"fine"


async def test_a_call_that_is_cancelled_counts_nowhere(shop: Shop, recovery: ErrorRecoveryService) -> None:
    """Neither by its task nor by grpc's own cancel(); what it took is back."""
    shop.steps = [None, None, b"fine"]
    async with a_channel(shop, recovery.service("shop", max_concurrent=1)) as channel:
        ask = channel.unary_unary("/shop.Orders/Ask")

        async def waits() -> bytes:
            return await ask(b"AAPL")

        task = asyncio.create_task(waits())
        await shop.arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await shop.was_cancelled.wait()

        shop.arrived.clear()
        call = ask(b"AAPL")
        await shop.arrived.wait()
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await ask(b"AAPL") == b"fine"
    assert recovery.get_error_summary()["total_errors"] == 0


async def test_an_open_circuit_sends_nothing(shop: Shop, recovery: ErrorRecoveryService) -> None:
    """The refusal comes out of the call as it is."""
    shop.steps = [Code.UNAVAILABLE]
    async with a_channel(shop, recovery.service("shop", circuit_threshold=1)) as channel:
        ask = channel.unary_unary("/shop.Orders/Ask")
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(b"AAPL")
        with pytest.raises(CircuitOpenError):
            await ask(b"AAPL")
        with pytest.raises(CircuitOpenError):
            async for _ in channel.unary_stream("/shop.Orders/Watch")(b"AAPL"):
                pass
    assert shop.calls == 1


async def test_a_hedged_call_takes_the_first_answer_and_cancels_the_other(
    shop: Shop, recovery: ErrorRecoveryService
) -> None:
    """What the caller holds is the call that has answered."""
    shop.steps = [None, b"fine"]
    async with a_channel(shop, recovery.service("shop", hedge_after=0.05)) as channel:
        call = channel.unary_unary("/shop.Orders/Ask")(b"AAPL")
        assert await call == b"fine"
        assert await call.code() is Code.OK
        await shop.was_cancelled.wait()
    assert shop.calls == 2


async def test_a_fallback_answers_in_place_of_the_server(shop: Shop, recovery: ErrorRecoveryService) -> None:
    """As for every handle; the caller awaits it like an answer."""
    shop.steps = [Code.UNAVAILABLE]
    async with a_channel(shop, recovery.service("shop", max_retries=0, fallback=b"of yesterday")) as channel:
        assert await channel.unary_unary("/shop.Orders/Ask")(b"AAPL") == b"of yesterday"


async def test_what_reduces_risk_passes_a_halt(shop: Shop, recovery: ErrorRecoveryService) -> None:
    """Orders are stopped, and those that are at the venue can still be cancelled."""
    guarded = interceptors(
        recovery.service("shop", effect="unsafe"), risk_reducing_if=lambda method: method.endswith("/Ask")
    )
    async with (
        asyncio.timeout(PATIENT),
        grpc.aio.insecure_channel(shop.address, interceptors=guarded) as channel,
    ):
        await recovery.halt("lost the risk feed")
        with pytest.raises(HaltedError):
            await channel.unary_unary("/shop.Orders/Place")(b"buy")
        assert await channel.unary_unary("/shop.Orders/Ask")(b"cancel") == b"fine"
    assert shop.calls == 1


@pytest.mark.parametrize("way", ["for", "read"])
async def test_a_stream_is_opened_again_until_its_first_message(
    shop: Shop, recovery: ErrorRecoveryService, way: str
) -> None:
    """Nothing was given out before, so that nothing comes twice; its timeout is for the first message alone."""
    shop.steps = [Code.UNAVAILABLE, b"first"]
    async with a_channel(shop, recovery.service("shop", timeout=40.0)) as channel:
        call = channel.unary_stream("/shop.Orders/Watch")(b"AAPL")
        messages = []
        if way == "for":
            messages = [message async for message in call]
        else:
            while (message := await call.read()) is not grpc.aio.EOF:
                messages.append(message)
        assert await call.code() is Code.OK
    assert messages == [b"first", b"0", b"1"]
    assert shop.calls == 2
    assert shop.timeouts[1] is None or shop.timeouts[1] > 1000


async def _read_all(call: Any, into: list[bytes]) -> None:
    async for message in call:
        into.append(message)  # noqa: PERF401 - it ends with an error, and what came before counts


async def test_a_stream_that_is_cut_is_the_callers(shop: Shop, recovery: ErrorRecoveryService) -> None:
    """What was given out is not given out again."""
    shop.steps, shop.trailers = [b"first"], (("cut", "in the middle"),)
    messages: list[bytes] = []
    async with a_channel(shop, recovery.service("shop")) as channel:
        call = channel.unary_stream("/shop.Orders/Watch")(b"AAPL")
        with pytest.raises(grpc.aio.AioRpcError, match="cut"):
            await _read_all(call, messages)
    assert messages == [b"first", b"0", b"1"]
    assert shop.calls == 1


async def test_what_is_no_handle_is_refused_where_it_is_given() -> None:
    """The service itself in place of a handle is the likely slip."""
    with pytest.raises(TypeError, match="service must be a handle"):
        interceptors(ErrorRecoveryService())  # type: ignore[arg-type]  # that is the point


async def test_what_is_no_error_of_grpc_means_nothing() -> None:
    """And every code means something."""
    assert meaning_of(ValueError()) is None
    meanings = {code: meaning_of(grpc.aio.AioRpcError(code, None, None)) for code in Code}
    assert None not in meanings.values()
    assert meanings[Code.NOT_FOUND] is Meaning.REFUSED
    assert meanings[Code.INTERNAL] is Meaning.UNKNOWN


def info(seconds: int, nanos: int = 0, url: bytes = b"type.googleapis.com/google.rpc.RetryInfo") -> bytes:
    """A google.rpc.Status with another detail, and then this one."""

    def varint(number: int) -> bytes:
        number &= 2**64 - 1
        pieces = []
        while number > 0x7F:
            pieces.append(number & 0x7F | 0x80)
            number >>= 7
        return bytes([*pieces, number])

    def block(field: int, inside: bytes) -> bytes:
        return varint(field << 3 | 2) + varint(len(inside)) + inside

    duration = b"\x08" + varint(seconds) + b"\x10" + varint(nanos)
    other = block(
        3, block(1, b"type.googleapis.com/google.rpc.Help") + block(2, b"\x0d" + struct.pack("<f", 1))
    )
    return b"\x08\x0e" + block(2, b"busy") + other + block(3, block(1, url) + block(2, block(1, duration)))


@pytest.mark.parametrize(
    ("trailers", "asked"),
    [
        ([], None),
        ([("date", "today")], None),
        ([("grpc-retry-pushback-ms", "1500")], (1.5, False)),
        ([("grpc-retry-pushback-ms", "soon")], (0.0, True)),
        ([("grpc-status-details-bin", info(300, 250_000_000))], (300.25, False)),
        ([("grpc-status-details-bin", info(2)), ("grpc-retry-pushback-ms", "3000")], (3.0, False)),
        ([("grpc-status-details-bin", info(9)), ("grpc-retry-pushback-ms", "-1")], (0.0, True)),
        ([("grpc-status-details-bin", info(-1))], None),
        ([("grpc-status-details-bin", info(5, url=b"type.googleapis.com/google.rpc.Help"))], None),
        ([("grpc-status-details-bin", info(5)[:-3])], None),
        ([("grpc-status-details-bin", b"\xff" * 20)], None),
        ([("grpc-status-details-bin", b"\x07")], None),
    ],
)
async def test_what_a_server_asks_for_is_read_and_nonsense_is_passed_over(
    trailers: list[tuple[str, str | bytes]], asked: tuple[float, bool] | None
) -> None:
    """A trailer is whatever is in between; none of it may break the call's own error."""
    assert asked_by_server(trailers) == asked


async def _settled(recovery: ErrorRecoveryService, **wanted: int) -> None:
    """How a call ended is the service's a moment after it is the caller's."""
    while True:
        seen = recovery.get_health_status()["services"]["shop"]
        if all(seen[name] == count for name, count in wanted.items()):
            return
        await asyncio.sleep(0)


async def _orders() -> AsyncIterator[bytes]:
    yield b"one"
    yield b"two"


async def test_a_stream_of_requests_is_sent_once_and_counts_for_its_service(
    shop: Shop, recovery: ErrorRecoveryService
) -> None:
    """There is no second copy of it; and while the circuit is open, none of it leaves."""
    shop.steps = [b"fine", Code.UNAVAILABLE]
    service = recovery.service("shop", circuit_threshold=1, max_retries=5, max_concurrent=1, max_queue=0)
    async with a_channel(shop, service) as channel:
        collect = channel.stream_unary("/shop.Orders/Collect")
        assert await collect(_orders()) == b"fine,one,two"
        await _settled(recovery, successes=1, in_flight=0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await collect(_orders())
        assert caught.value.code() is Code.UNAVAILABLE
        await _settled(recovery, failures=1, in_flight=0)
        assert shop.calls == 2
        for made in (collect, channel.stream_stream("/shop.Orders/Chat")):
            with pytest.raises(CircuitOpenError):
                await made(_orders()) if made is collect else await anext(aiter(made(_orders())))
        assert shop.calls == 2
    told = recovery.get_error_summary()["recent_errors"]
    assert [one["function_name"] for one in told] == ["/shop.Orders/Collect"]


async def test_requests_that_are_written_one_by_one_hold_a_place_until_the_answer(
    shop: Shop, recovery: ErrorRecoveryService
) -> None:
    """Who writes them needs the call before its answer is there."""
    service = recovery.service("shop", max_concurrent=1, max_queue=0)
    async with a_channel(shop, service) as channel:
        call = channel.stream_unary("/shop.Orders/Collect")()
        await call.write(b"one")
        await _settled(recovery, in_flight=1)
        await call.done_writing()
        assert await call == b"fine,one"
        await _settled(recovery, in_flight=0, successes=1)


@pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
async def test_a_cancelled_stream_of_requests_is_cancelled_at_the_server_and_gives_its_place_back(
    shop: Shop, recovery: ErrorRecoveryService, kind: str
) -> None:
    """Its caller has changed their mind: nobody's failure."""
    shop.steps = [None]
    service = recovery.service("shop", max_concurrent=1, max_queue=0)
    async with a_channel(shop, service) as channel:
        method = "Collect" if kind == "stream_unary" else "Chat"
        call = getattr(channel, kind)(f"/shop.Orders/{method}")()
        await call.write(b"one")
        await shop.arrived.wait()
        await _settled(recovery, in_flight=1)
        call.cancel()
        await shop.was_cancelled.wait()
        await _settled(recovery, in_flight=0, successes=0, failures=0)


async def test_a_stream_of_requests_has_the_time_of_the_handle_and_its_unsafe_end_is_unknown(
    shop: Shop, recovery: ErrorRecoveryService
) -> None:
    """The server is told of the limit, and the caller of gRPC's own error; nobody knows what it did."""
    shop.steps = [None]
    service = recovery.service("shop", timeout=0.2, deadline=PATIENT)
    async with a_channel(shop, service.using(effect="unsafe")) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.stream_unary("/shop.Orders/Collect")(_orders())
    assert caught.value.code() is Code.DEADLINE_EXCEEDED
    await _settled(recovery, failures=1)
    # grpc rounds what is left up on its way, and reckons with a clock of its own: far from the patience is enough.
    assert all(left is not None and left < PATIENT / 2 for left in shop.timeouts)
    (told,) = recovery.get_error_summary()["recent_errors"]
    assert told["severity"] == "critical"


async def test_a_conversation_counts_with_its_first_answer(
    shop: Shop, recovery: ErrorRecoveryService
) -> None:
    """It may last all day: what comes later is the caller's, as with a stream of answers."""
    shop.trailers = (("why", "cut"),)
    service = recovery.service("shop", max_concurrent=1, max_queue=0, timeout=PATIENT / 2)
    async with a_channel(shop, service) as channel:
        call = channel.stream_stream("/shop.Orders/Chat")()
        await call.write(b"one")
        assert await call.read() == b"fine one"
        await _settled(recovery, in_flight=0, successes=1)
        await call.write(b"two")
        assert await call.read() == b"fine two"
        assert shop.timeouts[0] is None
        await call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
    assert recovery.get_health_status()["services"]["shop"]["failures"] == 0


async def test_a_conversation_that_ends_before_its_first_answer_is_a_failure(
    shop: Shop, recovery: ErrorRecoveryService
) -> None:
    """And one that ends well without any is none."""
    shop.steps = [Code.UNAVAILABLE]
    async with a_channel(shop, recovery.service("shop", max_concurrent=1)) as channel:
        chat = channel.stream_stream("/shop.Orders/Chat")
        with pytest.raises(grpc.aio.AioRpcError):
            await anext(aiter(chat(_orders())))
        await _settled(recovery, failures=1, in_flight=0)
        call = chat()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        await _settled(recovery, successes=1, in_flight=0)
