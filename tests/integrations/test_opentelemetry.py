"""Spans and metrics of calls, as the SDK's own exporters in memory see them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from shockproof import (
    NOT_FOUND,
    UNKNOWN,
    CircuitOpenError,
    ErrorRecoveryService,
    Found,
    HaltedError,
    Handle,
    OperationCompletedError,
    OutcomeUnknownError,
)
from shockproof.integrations.opentelemetry import export_metrics, trace_calls
from shockproof.testing import VirtualClock, cancel_at_each_await


class Begun(SpanProcessor):
    """All spans in the order in which they began."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.spans.append(span)


Main = Callable[[], Coroutine[Any, Any, None]]


class Traced:
    """One recovery service on virtual time whose calls are traced, and the spans that came of it."""

    def __init__(self, folder: Path) -> None:
        self.clock = VirtualClock()
        self.recovery = ErrorRecoveryService(folder / "state", folder / "errors", clock=self.clock)
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.begun = Begun()
        self.provider.add_span_processor(self.begun)
        self.stop = trace_calls(self.recovery, tracer_provider=self.provider)
        self.tracer = self.provider.get_tracer("test")

    def run(self, main: Main) -> None:
        async def to_the_end() -> None:
            with self.tracer.start_as_current_span("user") as user:
                await main()
                assert trace.get_current_span() is user  # nothing is left behind
            await self.recovery.aclose()

        self.clock.run(to_the_end())

    @property
    def spans(self) -> list[ReadableSpan]:
        """Those that have ended, but the test's own, in the order they began."""
        ended = {span.context.span_id: span for span in self.exporter.get_finished_spans()}
        ids = [span.context.span_id for span in self.begun.spans if span.name != "user"]
        return [ended[number] for number in ids if number in ended]

    @property
    def tree(self) -> list[str]:
        """Each span as ``parent > name``."""
        names = {span.context.span_id: span.name for span in self.begun.spans}
        return [f"{names[span.parent.span_id]} > {span.name}" for span in self.spans if span.parent]

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def events(self, span: ReadableSpan) -> list[str]:
        return [event.name.removeprefix("shockproof.") for event in span.events]

    async def request(self, error: Exception | None = None, seconds: float = 0.0) -> str:
        """What an instrumented client does: a span of its own around it."""
        with self.tracer.start_as_current_span("GET", record_exception=False):
            await asyncio.sleep(seconds)
            if error is not None:
                raise error
            return "answer"

    def plain_request(self) -> str:
        with self.tracer.start_as_current_span("GET"):
            return "answer"


@pytest.fixture
def traced(tmp_path: Path) -> Traced:
    return Traced(tmp_path)


async def by_call(handle: Handle, fn: Any, *args: Any) -> Any:
    return await handle.call(fn, *args)


async def decorated(handle: Handle, fn: Any, *args: Any) -> Any:
    return await handle(fn)(*args)


async def by_guard(handle: Handle, fn: Any, *args: Any) -> Any:
    async with handle.guard():
        return await fn(*args)


async def by_attempts(handle: Handle, fn: Any, *args: Any) -> Any:
    async for attempt in handle.attempts():
        async with attempt:
            return await fn(*args)
    pytest.fail("the loop ended without an answer")


FORMS = [by_call, decorated, by_guard, by_attempts]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "options", [{}, {"timeout": 5.0}, {"max_concurrent": 2}, {"rate_limit": "9/s"}, {"grace": 1.0}], ids=str
)
def test_a_call_is_a_span_with_its_attempt_below_and_the_clients_below_that(
    traced: Traced, form: Any, options: Any
) -> None:
    """Whichever way it is made, and whatever it passes on its way."""
    broker = traced.recovery.service("broker", **options)

    async def main() -> None:
        for _ in range(2):
            traced.exporter.clear()
            assert await form(broker, traced.request) == "answer"
            name = f"broker {'request' if form in {by_call, decorated} else form.__name__}"
            assert traced.tree[1:] == [f"{name} > {name} attempt", f"{name} attempt > GET"]
            call, attempt, _ = traced.spans
            assert dict(call.attributes or {}) == {
                "shockproof.service": "broker",
                "code.function.name": name.partition(" ")[2],
                "shockproof.outcome": "success",
            }
            assert (attempt.attributes or {})["shockproof.attempt"] == 1
            assert {call.status.status_code, attempt.status.status_code} == {StatusCode.UNSET}

    traced.run(main)
    call = traced.spans[0]
    assert call.parent is not None


@pytest.mark.parametrize("form", [by_call, decorated, by_attempts])
def test_each_attempt_is_a_child_of_its_own(traced: Traced, form: Any) -> None:
    """With its number, its error, and the time it took, without the waits between."""
    broker = traced.recovery.service("broker", max_retries=2, base_delay=10.0)
    errors = iter([ConnectionError("reset"), TimeoutError("slow"), None])

    async def fetch() -> str:
        return await traced.request(next(errors))

    async def main() -> None:
        assert await form(broker, fetch) == "answer"

    traced.run(main)
    (call,) = [span for span in traced.spans if not span.name.endswith(("attempt", "GET"))]
    attempts = [span for span in traced.spans if span.name.endswith("attempt")]
    assert [span.parent.span_id for span in attempts if span.parent] == [call.context.span_id] * 3
    told = [dict(span.attributes or {}) for span in attempts]
    assert [(one["shockproof.attempt"], one.get("error.type")) for one in told] == [
        (1, "ConnectionError"),
        (2, "TimeoutError"),
        (3, None),
    ]
    assert [span.status.status_code.name for span in attempts] == ["ERROR", "ERROR", "UNSET"]
    assert traced.events(call) == ["retry_scheduled", "retry_scheduled"]
    assert (call.attributes or {})["shockproof.outcome"] == "success"
    assert call.status.status_code is StatusCode.UNSET
    assert [line for line in traced.tree if line.endswith("> GET")] == [
        f"{span.name} > GET" for span in attempts
    ]


@pytest.mark.parametrize("form", FORMS)
def test_a_call_that_fails_says_with_what(traced: Traced, form: Any) -> None:
    """The type and the text of the error, and the circuit that it opened."""
    broker = traced.recovery.service("broker", max_retries=0, circuit_threshold=1)

    async def main() -> None:
        with pytest.raises(ConnectionError):
            await form(broker, traced.request, ConnectionError("reset"))

    traced.run(main)
    call = traced.spans[0]
    assert (call.attributes or {})["error.type"] == "ConnectionError"
    assert (call.attributes or {})["shockproof.outcome"] == "failure"
    assert (call.status.status_code, call.status.description) == (StatusCode.ERROR, "reset")
    assert traced.events(call) == ["circuit_opened", "call_failed"]
    opened = call.events[0]
    assert dict(opened.attributes or {}) == {
        "shockproof.service": "broker",
        "shockproof.last_error": "ConnectionError: reset",
        "shockproof.retry_after": 60.0,
    }


@pytest.mark.parametrize("form", FORMS)
def test_a_call_that_is_refused_is_a_span_without_attempts(traced: Traced, form: Any) -> None:
    """With the policy that refused, and the refusal as its event."""
    broker = traced.recovery.service("broker", max_retries=0)

    async def main() -> None:
        await form(broker, traced.request)
        traced.recovery.set_circuit_mode("broker", "forced-open", "maintenance")
        traced.exporter.clear()
        for _ in range(2):
            with pytest.raises(CircuitOpenError):
                await form(broker, traced.request)

    traced.run(main)
    assert len(traced.spans) == 2
    for call in traced.spans:
        told = dict(call.attributes or {})
        assert (told["shockproof.policy"], told["shockproof.outcome"]) == ("circuit_breaker", "rejected")
        assert told["error.type"] == "CircuitOpenError"
        assert traced.events(call) == ["call_rejected"]
    # What was done by hand is an event of whoever did it.
    (user,) = [span for span in traced.exporter.get_finished_spans() if span.name == "user"]
    assert traced.events(user) == ["circuit_mode_changed"]


def test_a_plain_function_has_its_attempt_around_it_in_its_thread(traced: Traced) -> None:
    """The context goes along."""

    async def main() -> None:
        assert await traced.recovery.service("broker").call(traced.plain_request) == "answer"

    traced.run(main)
    assert traced.tree[1:] == [
        "broker plain_request > broker plain_request attempt",
        "broker plain_request attempt > GET",
    ]


def test_a_hedge_is_an_attempt_beside_the_first(traced: Traced) -> None:
    """Both below the call, each with the client's own span below it; the loser has ended, too."""
    broker = traced.recovery.service("broker", hedge_after=1.0)
    seconds = iter([9.0, 1.0])

    async def fetch() -> str:
        return await traced.request(None, next(seconds))

    async def main() -> None:
        assert await broker.call(fetch) == "answer"
        await asyncio.sleep(1)

    traced.run(main)
    attempts = traced.named("broker fetch attempt")
    assert [dict(one.attributes or {})["shockproof.hedge"] for one in attempts] == [False, True]
    assert {one.status.status_code for one in attempts} == {StatusCode.UNSET}  # a cancelled one has no error
    assert sorted(traced.tree)[:2] == ["broker fetch > broker fetch attempt"] * 2
    assert traced.tree.count("broker fetch attempt > GET") == 2
    (call,) = traced.named("broker fetch")
    assert traced.events(call) == ["call_hedged"]


def test_a_time_limit_is_the_error_of_its_attempt(traced: Traced) -> None:
    """Ours, not the cancellation by which it works; nobody knows what an unsafe one did."""
    broker = traced.recovery.service("broker", effect="unsafe", timeout=2.0)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await broker.call(traced.request, None, 9.0)

    traced.run(main)
    call, attempt, _ = traced.spans
    assert (attempt.attributes or {})["error.type"] == "AttemptTimeoutError"
    assert (call.attributes or {})["shockproof.outcome"] == "unknown"


def test_a_fallbacks_answer_is_an_event_and_no_error_of_the_call(traced: Traced) -> None:
    """The caller has an answer; the outcome says what the service did."""
    broker = traced.recovery.service("broker", max_retries=0, fallback="cached")

    async def main() -> None:
        assert await broker.call(traced.request, ConnectionError("reset")) == "cached"

    traced.run(main)
    call = traced.spans[0]
    assert traced.events(call)[-1] == "fallback_answered"
    assert (call.attributes or {})["shockproof.outcome"] == "failure"
    assert call.status.status_code is StatusCode.UNSET


def test_a_result_that_is_unwanted_is_an_error_of_its_attempt(traced: Traced) -> None:
    """There is no exception that could tell."""
    broker = traced.recovery.service("broker", max_retries=0, retry_if_result=lambda result: True)

    async def main() -> None:
        assert await broker.call(traced.request) == "answer"

    traced.run(main)
    _, attempt, _ = traced.spans
    assert (attempt.attributes or {})["error.type"] == "UnwantedResultError"


@pytest.mark.parametrize("form", FORMS)
def test_a_cancelled_call_is_no_error(traced: Traced, form: Any) -> None:
    """Whoever cancels knows why."""
    broker = traced.recovery.service("broker")

    async def main() -> None:
        task = asyncio.create_task(form(broker, traced.request, None, 9.0))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    traced.run(main)
    call, attempt, _ = traced.spans
    assert (call.attributes or {})["shockproof.outcome"] == "cancelled"
    assert {call.status.status_code, attempt.status.status_code} == {StatusCode.UNSET}


def test_wrong_arguments_are_an_error_without_an_attempt(traced: Traced) -> None:
    """Nothing ran."""

    async def main() -> None:
        with pytest.raises(TypeError):
            await traced.recovery.service("broker").call(traced.request, 1, 2, 3)

    traced.run(main)
    (call,) = traced.spans
    assert (call.attributes or {})["error.type"] == "TypeError"


def test_an_order_that_is_sent_once_is_a_call_like_any_other(traced: Traced) -> None:
    """Journalled, sent, done; a halt refuses it, which is an event of the caller's span."""
    broker = traced.recovery.service("broker", effect="unsafe")

    async def confirm(key: str) -> Any:
        return Found("order")

    async def main() -> None:
        assert await broker.once(confirm=confirm).call(traced.request) == "answer"
        await traced.recovery.halt("enough")
        with pytest.raises(HaltedError):
            await broker.once(confirm=confirm).call(traced.request)

    traced.run(main)
    assert traced.tree[:3] == [
        "user > broker request",
        "broker request > broker request attempt",
        "broker request attempt > GET",
    ]


@pytest.mark.parametrize(
    ("answers", "outcome", "attempts"),
    [
        ([Found("order")], "success", 1),
        ([UNKNOWN] * 99, "unknown", 1),
        ([NOT_FOUND] * 99, "success", 2),
    ],
)
def test_an_order_whose_answer_was_lost_is_one_span_that_ends_as_its_look_up_says(
    traced: Traced, answers: list[Any], outcome: str, attempts: int
) -> None:
    """However often it was sent; what is looked up stands below it, too."""
    broker = traced.recovery.service("broker", max_retries=1)
    look_ups = traced.recovery.service("look_ups")
    sent = 0

    async def find(key: str) -> Any:
        return answers.pop(0)

    async def confirm(key: str) -> Any:
        return await look_ups.call(find, key)

    async def submit(key: str) -> str:
        nonlocal sent
        sent += 1
        if sent == 1:
            raise ConnectionResetError("the answer was lost")
        return "order"

    async def main() -> None:
        once = broker.once(confirm=confirm, settle=1.0)
        with contextlib.suppress(OutcomeUnknownError):
            assert await once.call(submit, once.key) == "order"
        if outcome == "success":
            with pytest.raises(OperationCompletedError):
                await once.call(submit, once.key)

    traced.run(main)
    call, *later = traced.named("broker submit")
    assert (call.attributes or {})["shockproof.outcome"] == outcome
    assert call.status.status_code is (StatusCode.ERROR if outcome == "unknown" else StatusCode.UNSET)
    assert [(one.attributes or {})["error.type"] for one in later] == ["OperationCompletedError"] * len(later)
    assert traced.tree.count("broker submit > broker submit attempt") == attempts
    assert traced.tree.count("broker submit > look_ups find") >= 1
    assert traced.tree.count("user > broker submit") == 1 + len(later)


def test_a_loop_of_attempts_that_is_left_between_two_ends_its_span(traced: Traced) -> None:
    """Nobody tells; it ends when the loop is forgotten, and what is current is the user's own meanwhile."""
    broker = traced.recovery.service("broker", base_delay=1.0)

    async def main() -> None:
        user = trace.get_current_span()
        async for attempt in broker.attempts():
            try:
                async with attempt:
                    raise ConnectionError("reset")
            finally:
                assert trace.get_current_span() is user
            assert not traced.named("broker main")
            break
        del attempt
        gc.collect()

    traced.run(main)
    assert len(traced.named("broker main")) == 1


def test_an_event_behind_the_end_of_a_span_is_told_to_nobody(
    traced: Traced, caplog: pytest.LogCaptureFixture
) -> None:
    """A task that outlives its caller's span still has it as the current one; the SDK warns of such events."""
    traced.recovery.service("broker")

    async def main() -> None:
        with traced.tracer.start_as_current_span("short"):
            reset = asyncio.create_task(asyncio.sleep(1))
            reset.add_done_callback(
                lambda _: traced.recovery.set_circuit_mode("broker", "forced-open", "by hand")
            )
        await reset
        await asyncio.sleep(0)

    traced.run(main)
    assert traced.recovery.is_circuit_open("broker")
    assert not caplog.records


def test_a_block_that_is_left_in_another_task_leaves_no_trace_there(
    traced: Traced, caplog: pytest.LogCaptureFixture
) -> None:
    """Each task has its own current span, and nothing is logged about it."""
    broker = traced.recovery.service("broker")

    async def main() -> None:
        user = trace.get_current_span()
        guard = broker.guard()
        entered = asyncio.create_task(guard.__aenter__())
        await entered
        assert trace.get_current_span() is user
        await guard.__aexit__(None, None, None)
        assert trace.get_current_span() is user

    traced.run(main)
    assert len(traced.spans) == 2
    assert not caplog.records


def test_secrets_and_arguments_are_in_no_span(traced: Traced) -> None:
    """Whoever reads traces needs no keys."""
    broker = traced.recovery.service("broker", max_retries=1, base_delay=0.0, circuit_threshold=1)
    traced.recovery.register_secret("hunter2")

    async def fetch(api_key: str) -> None:
        raise ConnectionError(f"GET /?token=s3cret&symbol=AAPL with {api_key} hunter2")

    async def main() -> None:
        for _ in range(2):
            with pytest.raises((ConnectionError, CircuitOpenError)):
                await broker.call(fetch, "hunter2")

    traced.run(main)
    told = "".join(span.to_json() for span in traced.spans)
    assert "ConnectionError" in told
    assert "hunter2" not in told
    assert "s3cret" not in told


def test_what_is_not_traced_knows_nothing_of_it(tmp_path: Path) -> None:
    """Before and after, a healthy call goes the short way, and no event is built."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", clock=VirtualClock())
    broker = recovery.service("broker")
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def fine() -> None: ...

    async def main() -> None:
        await broker.call(fine)
        assert broker.plan.entrance.lane is not None
        stop = trace_calls(recovery, tracer_provider=provider)
        with pytest.raises(ValueError, match="traced already: stop that first"):
            trace_calls(recovery, tracer_provider=provider)
        assert broker.plan.entrance.lane is None
        await broker.call(fine)
        await recovery.service("later").call(fine)
        assert len(exporter.get_finished_spans()) == 4
        stop()
        stop()
        assert broker.plan.entrance.lane is not None
        assert not recovery._listeners
        await broker.call(fine)
        assert len(exporter.get_finished_spans()) == 4
        await recovery.aclose()

    asyncio.run(main())


class Failing(SpanProcessor):
    """One that fails wherever it is asked."""

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        raise RuntimeError("no room")

    def on_end(self, span: Any) -> None:
        raise RuntimeError("no room")


@pytest.mark.parametrize("form", FORMS)
def test_a_processor_of_spans_that_fails_hurts_no_call(
    traced: Traced, form: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the call has its answer, or its own error."""
    recovery = ErrorRecoveryService(traced.recovery.state_dir, traced.recovery.error_log_dir)
    provider = TracerProvider()
    provider.add_span_processor(Failing())
    trace_calls(recovery, tracer_provider=provider)
    broker = recovery.service("broker", max_retries=0, max_concurrent=1)

    async def main() -> None:
        before = context.get_current()
        for _ in range(3):
            assert await form(broker, asyncio.sleep, 0, "answer") == "answer"
        with pytest.raises(ConnectionError):
            await form(broker, traced.request, ConnectionError("reset"))
        assert recovery.get_health_status()["services"]["broker"]["in_flight"] == 0
        assert context.get_current() == before
        await recovery.aclose()

    with caplog.at_level(logging.ERROR, "shockproof"):
        asyncio.run(main())
    assert "telemetry failed; the call it was about is not affected" in caplog.text


class Counting(SpanProcessor):
    """How many spans began and have not ended."""

    def __init__(self) -> None:
        self.open: Counter[str] = Counter()

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.open[span.name] += 1

    def on_end(self, span: Any) -> None:
        self.open[span.name] -= 1


@pytest.mark.parametrize("form", FORMS)
def test_a_call_that_is_cancelled_anywhere_ends_all_its_spans(tmp_path: Path, form: Any) -> None:
    """At each of its awaits in turn: before the attempt, in it, between two, and in its queue."""
    counting = Counting()
    provider = TracerProvider()
    provider.add_span_processor(counting)
    clock = VirtualClock()
    runs: list[int] = []

    async def call() -> None:
        folder = tmp_path / str(len(runs))
        recovery = ErrorRecoveryService(folder / "state", folder / "errors", base_delay=0.1, clock=clock)
        trace_calls(recovery, tracer_provider=provider)
        broker = recovery.service("broker", max_retries=1, rate_limit="1/s", timeout=5.0)
        errors = iter([ConnectionError("reset"), None])

        async def fetch() -> None:
            await asyncio.sleep(0.1)
            error = next(errors)
            if error is not None:
                raise error

        before = trace.get_current_span()
        try:
            await form(broker, fetch)
        except ConnectionError:
            assert form is by_guard
        finally:
            assert trace.get_current_span() is before

    async def main() -> None:
        async for run in cancel_at_each_await(call):
            runs.append(run.waits)
            assert counting.open
            assert set(counting.open.values()) == {0}

    clock.run(main())
    assert len(runs) > 2


# -- metrics -------------------------------------------------------------------------------------------


class Metered:
    """One recovery service whose numbers a meter observes."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.clock = VirtualClock()
        self.recovery = ErrorRecoveryService(folder / "state", folder / "errors", clock=self.clock)
        self.reader = InMemoryMetricReader()
        self.stop = export_metrics(
            self.recovery, meter_provider=MeterProvider(metric_readers=[self.reader]), **options
        )

    def points(self) -> Iterator[tuple[str, dict[str, Any], Any]]:
        data = self.reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        yield metric.name, dict(point.attributes or {}), point

    def value(self, name: str, **attributes: str) -> float | None:
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}
        found = [point for metric, told, point in self.points() if metric == name and told == wanted]
        return found[0].value if found else None


def test_a_meter_observes_what_prometheus_is_told(tmp_path: Path) -> None:
    """The same numbers, under the same names with dots."""
    metered = Metered(tmp_path)
    broker = metered.recovery.service("broker", max_retries=1, base_delay=0.0)

    async def failing() -> None:
        raise ConnectionError("reset")

    async def main() -> None:
        await broker.call(asyncio.sleep, 0)
        with pytest.raises(ConnectionError):
            await broker.call(failing)
        await metered.recovery.aclose()

    metered.clock.run(main())
    service = {"shockproof__service": "broker"}
    assert metered.value("shockproof.calls", shockproof__outcome="success", **service) == 1
    assert metered.value("shockproof.calls", shockproof__outcome="failure", **service) == 1
    assert metered.value("shockproof.retries", error__type="ConnectionError", **service) == 1
    assert metered.value("shockproof.breaker.state", shockproof__state="closed", **service) == 1
    assert metered.value("shockproof.error_log.written") == 2
    metered.recovery.retire_service("broker")
    assert metered.value("shockproof.calls", shockproof__outcome="success", **service) is None
    metered.stop()
    assert list(metered.points()) == []


def test_durations_and_lag_are_recorded_where_they_are_asked_for(tmp_path: Path) -> None:
    """Each call as it ends, each beat as it comes."""
    metered = Metered(tmp_path, durations=True, buckets=(1.0, 5.0), loop_lag=True)
    broker = metered.recovery.service("broker", max_retries=0)

    async def main() -> None:
        await broker.call(asyncio.sleep, 2.0)
        await broker.call(asyncio.sleep, 0.5)
        await metered.recovery.aclose()

    metered.clock.run(main())
    histograms = {name: point for name, _, point in metered.points() if hasattr(point, "bucket_counts")}
    calls = histograms["shockproof.call.duration"]
    assert (calls.count, calls.sum) == (2, pytest.approx(2.5))
    assert (tuple(calls.explicit_bounds), tuple(calls.bucket_counts)) == ((1.0, 5.0), (1, 1, 0))
    assert histograms["shockproof.loop.lag"].count > 5
    metered.stop()
    assert not metered.recovery._periodic
    assert not broker.plan.state.call_timers
