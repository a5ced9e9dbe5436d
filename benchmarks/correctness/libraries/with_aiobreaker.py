from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from aiobreaker import CircuitBreaker, CircuitBreakerError, CircuitBreakerListener

from correctness.library import Call, Circuit, Library


class Adapter(Library):
    distribution = "aiobreaker"
    package = "aiobreaker"
    circuit_open = (CircuitBreakerError,)

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
        policy = CircuitBreaker(
            fail_max=failures,
            timeout_duration=timedelta(seconds=open_for),
            exclude=None if ignore is None else [ignore],
        )
        return Circuit(
            policy(function),
            reset=policy.close,
            time_left=lambda error: error.time_remaining.total_seconds(),
        )

    def heard_breaker(self, function: Call, listener: Callable[..., Any], *, failures: int) -> Circuit:
        class Heard(CircuitBreakerListener):
            def state_change(self, breaker: Any, old: Any, new: Any) -> Any:
                return listener(new)

        return Circuit(CircuitBreaker(fail_max=failures, listeners=[Heard()])(function))
