"""
What a scenario may ask of a library, in the words of the field.

One adapter for each library answers with its policy, wired as its documentation says and set as close
to the question as its options allow. What it does not override, the library does not offer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

Call = Callable[..., Awaitable[Any]]
Fallback = Callable[[], Any]


class NotOffered(Exception):  # noqa: N818 - a verdict
    """The library has no such policy or option."""


class Differs(Exception):  # noqa: N818 - a verdict
    """It does something else, which its documentation states or which can be defended."""


class Failed(Exception):  # noqa: N818 - a verdict
    """It does what its user would call a bug."""


def expect(condition: object, otherwise: str) -> None:
    if not condition:
        raise Failed(otherwise)


@dataclass
class Circuit:
    """A function behind a circuit breaker, and what an operator may do to it."""

    call: Call
    reset: Callable[[], Any] | None = None
    hold_open: Callable[[], Any] | None = None
    time_left: Callable[[BaseException], float | None] | None = None


class Library:
    """One library. Every method wraps a coroutine function and returns the guarded one."""

    distribution: ClassVar[str]
    circuit_open: ClassVar[tuple[type[BaseException], ...]] = ()
    bulkhead_full: ClassVar[tuple[type[BaseException], ...]] = ()
    rate_limited: ClassVar[tuple[type[BaseException], ...]] = ()
    timed_out: ClassVar[tuple[type[BaseException], ...]] = (TimeoutError,)
    package: ClassVar[str] = ""
    """Where its modules are, if its circuit breaker looks at the wall clock."""
    counts_in_a_row: ClassVar[bool] = True
    """Its circuit breaker counts failures in a row; else a rate."""
    names_what_counts: ClassVar[bool] = False
    """Its circuit breaker can be told which errors count, and has to be told about its own refusals."""
    token_bucket: ClassVar[bool] = False
    """Its rate limit is documented as a token bucket."""

    def no(self, what: str) -> NoReturn:
        raise NotOffered(what)

    # Retry

    def retry(self, function: Call, *, attempts: int, delay: float = 0.0, on: Any = Exception) -> Call:
        self.no("retry")

    def retry_everything_but(self, function: Call, kind: type[Exception], *, attempts: int) -> Call:
        self.no("a rule that names what is not retried")

    def retry_growing(self, function: Call, *, attempts: int, base: float, cap: float, jitter: bool) -> Call:
        self.no("exponential backoff with a cap")

    def retry_result(self, function: Call, unwanted: Callable[[Any], bool], *, attempts: int) -> Call:
        self.no("retry by result")

    def retry_within(self, function: Call, *, attempts: int, delay: float, deadline: float) -> Call:
        self.no("a limit on all attempts together")

    def retry_cut_at(self, function: Call, *, attempts: int, deadline: float) -> Call:
        self.no("a deadline that ends a running attempt")

    def retry_after(self, function: Call, *, attempts: int, deadline: float | None = None) -> Call:
        """The error has ``retry_after`` seconds."""
        self.no("waits that the error asks for")

    def retry_by_kind(self, function: Call, delays: dict[type[Exception], float], *, attempts: int) -> Call:
        """Each kind of error has a wait of its own."""
        self.no("waits by the kind of error")

    def retry_block(self, *, attempts: int) -> Any:
        self.no("retry around a block")

    def attempt(self, attempt: Any) -> AbstractAsyncContextManager[Any]:
        """One attempt of the block, as ``async with`` takes it."""

        @asynccontextmanager
        async def entered() -> AsyncIterator[None]:
            with attempt:
                yield

        return entered()

    def retry_budget(self, *, attempts: int, retries: int) -> Callable[[Call], Call]:
        """A budget of about so many retries, shared by what is decorated."""
        self.no("a retry budget")

    def attempts_told(self, call: Call, error: BaseException) -> int:
        """How many attempts the call made that ended in this error."""
        self.no("a history of attempts")

    @asynccontextmanager
    async def waits(self) -> AsyncIterator[list[float]]:
        """The waits between attempts, in no order; they take no time meanwhile."""
        asked: list[float] = []
        real = asyncio.sleep

        async def sleep(seconds: float, result: Any = None) -> Any:
            if seconds > 0:
                asked.append(seconds)
            return await real(0, result)

        asyncio.sleep = sleep
        try:
            yield asked
        finally:
            asyncio.sleep = real

    # Circuit breaker

    def breaker(
        self,
        function: Call,
        *,
        failures: int = 3,
        open_for: float = 0.03,
        successes: int = 1,
        ignore: type[Exception] | None = None,
    ) -> Circuit:
        """Opens at so many failures; so many successes close it; errors of *ignore* do not count."""
        self.no("circuit breaker")

    def rate_breaker(self, function: Call, *, calls: int, window: float) -> Circuit:
        """Opens when half of at least so many calls within the window failed."""
        self.no("a failure rate over time")

    def count_breaker(self, function: Call, *, calls: int) -> Circuit:
        """Opens when half of the last so many calls failed."""
        self.no("a failure rate over the last calls")

    def slow_breaker(self, function: Call, *, slow_after: float, calls: int) -> Circuit:
        self.no("slow calls as failures")

    def age_breaker(self, function: Call, *, oldest: float, failures: int) -> Circuit:
        """Counts a call as failed that is in flight for longer, before it ends."""
        self.no("calls that count before they end")

    def growing_breaker(self, function: Call, *, open_for: float, factor: float) -> Circuit:
        """Stays open longer each time it opens in a row."""
        self.no("an open time that grows")

    def heard_breaker(self, function: Call, listener: Callable[..., Any], *, failures: int) -> Circuit:
        """The listener hears at least of every change of state."""
        self.no("listeners")

    def shadow_breaker(self, function: Call, *, failures: int) -> Circuit:
        """Counts and reports, and never refuses."""
        self.no("a trial mode")

    # Timeout

    def timeout(self, function: Call, seconds: float) -> Call:
        self.no("timeout")

    def hard_timeout(self, function: Call, seconds: float, *, grace: float) -> Call:
        """Returns even when the callee ignores its cancellation."""
        self.no("a bound on a callee that ignores its cancellation")

    # Fallback

    def fallback(self, function: Call, handler: Fallback) -> Call:
        self.no("fallback")

    def async_fallback(self, function: Call, handler: Callable[[], Awaitable[Any]]) -> Call:
        return self.fallback(function, handler)

    def fallback_chain(self, function: Call, *handlers: Fallback) -> Call:
        self.no("a chain of fallbacks")

    def fallback_for(self, function: Call, kind: type[Exception], handler: Fallback) -> Call:
        """Stands in for errors of this kind, and for no others."""
        self.no("fallbacks by the error")

    def last_good(self, function: Call, *, max_age: float) -> Call:
        """A failed call is answered with what the same call gave last, if that is not too old."""
        self.no("the last good answer as a fallback")

    def read_answer(self, answer: Any) -> tuple[Any, float | None]:
        """The value of such an answer, and how old it says it is."""
        return answer, None

    # Bulkhead

    def bulkhead(self, function: Call, *, limit: int) -> Call:
        """Refuses what does not fit."""
        self.no("bulkhead")

    def queueing_bulkhead(self, function: Call, *, limit: int) -> Call:
        """What does not fit waits its turn."""
        self.no("a bulkhead with a queue")

    def waiting_bulkhead(self, function: Call, *, limit: int, max_wait: float) -> Call:
        """What does not fit waits so long and is then refused."""
        self.no("a bulkhead with a bounded wait")

    def priority_bulkhead(self, function: Call, *, limit: int) -> tuple[Call, Call]:
        """The function for important calls, and for others, which share the places and the queue."""
        self.no("priorities")

    def resizable_bulkhead(self, function: Call, *, limit: int) -> tuple[Call, Callable[[int], Any]]:
        """The function, and what sets another limit while it is used."""
        self.no("another limit while it is used")

    def adaptive_bulkhead(
        self, function: Call, *, first: int, most: int, timeout: float
    ) -> tuple[Call, Callable[[], float]]:
        """The function, whose calls have a time limit, and what tells the limit on calls at once."""
        self.no("a limit that finds itself")

    # Rate limit

    def rate_limit(self, function: Call, *, calls: int, per: float) -> Call:
        """As the first example of the documentation; what is over the limit waits, or is refused."""
        self.no("rate limit")

    def waiting_rate_limit(self, function: Call, *, calls: int, per: float) -> Call:
        """What is over the limit waits."""
        self.no("a rate limit that waits")

    def bounded_rate_limit(self, function: Call, *, calls: int, per: float, max_wait: float) -> Call:
        self.no("a rate limit with a bounded wait")

    def weighted_rate_limit(self, function: Call, *, units: int, per: float) -> Callable[[int], Call]:
        """The function for calls of a weight."""
        self.no("weights")

    def two_rate_limits(self, function: Call, *limits: tuple[int, float]) -> Call:
        self.no("several limits at once")

    def pausing_rate_limit(self, function: Call) -> Call:
        """Much room; but an error with ``retry_after`` holds back all calls."""
        self.no("a pause for all calls")

    # Together

    def stack(
        self,
        function: Call,
        *,
        fallback: Fallback | None = None,
        attempts: int | None = None,
        failures: int | None = None,
        open_for: float = 10.0,
        limit: int | None = None,
        timeout: float | None = None,
    ) -> Call:
        """The policies that are asked for, in the order the documentation recommends."""
        if timeout is not None:
            function = self.timeout(function, timeout)
        if limit is not None:
            function = self.bulkhead(function, limit=limit)
        if failures is not None:
            function = self.breaker(function, failures=failures, open_for=open_for).call
        if attempts is not None:
            function = self.retry(function, attempts=attempts)
        if fallback is not None:
            function = self.fallback(function, fallback)
        return function

    def nested_deadline(self, inner: Call, *, attempts: int, delay: float, deadline: float) -> Call:
        """*inner* retried with such a delay, inside an outer call with a deadline."""
        self.no("deadlines that reach nested calls")

    def hedge(self, function: Call, *, after: float) -> Call:
        self.no("hedged calls")

    def hedge_unsafe(self, function: Call, *, after: float) -> Call:
        """Hedged, and told that a second call would do harm."""
        self.no("calls that may not be made twice")

    def send_once(self, function: Call, *, attempts: int, timeout: float) -> Call:
        """Retried as usual, but never when it may have happened."""
        self.no("calls that may not be repeated blindly")

    def feed(self, connect: Callable[[], AsyncIterator[Any]], *, stale_after: float) -> AsyncIterator[Any]:
        """The items of a feed that may fail or fall silent."""
        self.no("feeds")

    async def close(self) -> None:
        """What the scenario opened is closed."""
