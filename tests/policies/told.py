"""Who is told what becomes of a circuit, by functions of a test."""

from __future__ import annotations

from collections.abc import Callable

from shockproof.policies.circuit_breaker import CircuitState


class Told:
    """Hands on what it is told."""

    def __init__(
        self,
        moved: Callable[[CircuitState, float], object],
        would_open: Callable[[float], object] = lambda now: None,
    ) -> None:
        self.circuit_moved = moved
        self.circuit_would_open = would_open
