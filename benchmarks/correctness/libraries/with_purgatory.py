from __future__ import annotations

from collections.abc import Callable
from typing import Any

from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState

from correctness.library import Call, Circuit, Library


class Adapter(Library):
    distribution = "purgatory"
    package = "purgatory"
    circuit_open = (OpenedState,)

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
        factory = AsyncCircuitBreakerFactory(exclude=None if ignore is None else [ignore])
        return Circuit(factory("scoreboard", threshold=failures, ttl=open_for)(function))

    def heard_breaker(self, function: Call, listener: Callable[..., Any], *, failures: int) -> Circuit:
        factory = AsyncCircuitBreakerFactory()
        factory.add_listener(lambda name, kind, event: listener(kind))
        return Circuit(factory("heard", threshold=failures, ttl=10.0)(function))
