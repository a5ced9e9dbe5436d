from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resilix import BulkheadFullError, CircuitBreaker, CircuitOpenError, Retry, protect

from correctness.library import Call, Circuit, Fallback, Library


class AnyBut:
    """A custom trigger, as the documentation shows one."""

    specificity = 0

    def __init__(self, kind: type[Exception]) -> None:
        self.kind = kind

    def matches(self, event: Any) -> bool:
        error = getattr(event, "exception", None)
        return error is not None and not isinstance(error, self.kind)


class Adapter(Library):
    distribution = "resilix"
    names_what_counts = True
    circuit_open = (CircuitOpenError,)
    bulkhead_full = (BulkheadFullError,)

    def retry(self, function: Call, *, attempts: int, delay: float = 0.0, on: Any = Exception) -> Call:
        return protect.when(on, retry=attempts, delay=delay)(function)

    def retry_everything_but(self, function: Call, kind: type[Exception], *, attempts: int) -> Call:
        return protect.on(AnyBut(kind), retry=attempts)(function)

    def retry_growing(self, function: Call, *, attempts: int, base: float, cap: float, jitter: bool) -> Call:
        pacing = Retry(attempts=attempts, delay=base, backoff="exponential", jitter=jitter, max_delay=cap)
        return protect.when(Exception, retry=pacing)(function)

    def retry_result(self, function: Call, unwanted: Callable[[Any], bool], *, attempts: int) -> Call:
        return protect.when_result(unwanted, retry=attempts, transform=lambda result: result)(function)

    def retry_within(self, function: Call, *, attempts: int, delay: float, deadline: float) -> Call:
        return protect.limits(deadline=deadline)(self.retry(function, attempts=attempts, delay=delay))

    def retry_cut_at(self, function: Call, *, attempts: int, deadline: float) -> Call:
        return protect.limits(deadline=deadline)(self.retry(function, attempts=attempts))

    def retry_after(self, function: Call, *, attempts: int, deadline: float | None = None) -> Call:
        retried = protect.when(
            Exception, retry=attempts, delay=lambda error: getattr(error, "retry_after", 0.0)
        )(function)
        return retried if deadline is None else protect.limits(deadline=deadline)(retried)

    def retry_by_kind(self, function: Call, delays: dict[type[Exception], float], *, attempts: int) -> Call:
        for kind, delay in delays.items():  # stacked rules: the one for the error's own kind wins
            function = protect.when(kind, retry=attempts, delay=delay)(function)
        return function

    def breaker(
        self,
        function: Call,
        *,
        failures: int = 3,
        open_for: float = 0.03,
        successes: int = 1,
        ignore: type[Exception] | None = None,
    ) -> Circuit:
        if successes > 1:
            self.no("more than one success to close")
        # Only errors named in on= count: the scenarios fail with ConnectionError.
        policy = CircuitBreaker(
            failures=failures, reset_timeout=open_for, on=Exception if ignore is None else ConnectionError
        )
        return Circuit(policy(function), reset=policy.reset)

    def rate_breaker(self, function: Call, *, calls: int, window: float) -> Circuit:
        # No rate, but so many failures within the window: the same for these scenarios.
        return Circuit(CircuitBreaker(failures=calls, window=window)(function))

    def heard_breaker(self, function: Call, listener: Callable[..., Any], *, failures: int) -> Circuit:
        return Circuit(
            CircuitBreaker(failures=failures, reset_timeout=10.0, on_state_change=listener)(function)
        )

    def timeout(self, function: Call, seconds: float) -> Call:
        return protect.timeout(seconds)(function)

    def hard_timeout(self, function: Call, seconds: float, *, grace: float) -> Call:
        return protect.timeout(seconds, cancel_grace=grace)(function)

    def fallback(self, function: Call, handler: Fallback) -> Call:
        return protect.when(Exception, fallback=lambda *_: handler())(function)

    def fallback_for(self, function: Call, kind: type[Exception], handler: Fallback) -> Call:
        return protect.when(kind, fallback=lambda *_: handler())(function)

    def fallback_chain(self, function: Call, *handlers: Fallback) -> Call:
        candidates = [lambda *_, handler=handler: handler() for handler in handlers]
        return protect.when(Exception, fallback=candidates)(function)

    def bulkhead(self, function: Call, *, limit: int) -> Call:
        return protect.bulkhead(limit, wait=False)(function)

    def queueing_bulkhead(self, function: Call, *, limit: int) -> Call:
        return protect.bulkhead(limit)(function)

    def nested_deadline(self, inner: Call, *, attempts: int, delay: float, deadline: float) -> Call:
        retried = self.retry(inner, attempts=attempts, delay=delay)

        async def outer(*args: Any) -> Any:
            return await retried(*args)

        return protect.limits(deadline=deadline)(outer)
