"""
When a second request is sent although the first may still be answered.

Hedging cuts the tail of latencies off for a few percent of extra load ("The Tail at Scale", Dean and
Barroso, 2013). It is for calls that may be made twice.
"""

from __future__ import annotations

import re
import threading

from shockproof.policies.latency_quantile import LatencyQuantile
from shockproof.policies.retry_budget import RetryBudget
from shockproof.vocabulary.arguments import seconds

__all__ = ["HedgeRule", "hedge_budget", "parse_hedge_after"]

_QUANTILE = r"p(\d{2})"
_SHORTEST_WAIT = 0.001
"""Seconds: below that a hedge would only double the load."""


def parse_hedge_after(name: str, value: object) -> float | str:
    """
    Seconds, or a quantile of the service's own latencies such as ``"p95"``.

    Raises:
        TypeError, ValueError: it is neither, named with what is allowed.
    """
    if isinstance(value, str):
        form = re.fullmatch(_QUANTILE, value)
        if form is None or not 50 <= int(form[1]) <= 99:
            raise ValueError(f'{name} must be seconds or a quantile from "p50" to "p99", got {value!r}')
        return value
    return seconds(name, value, more_than=0)


class HedgeRule:
    """
    Decides when the next hedge of a call is sent.

    A fixed time, or a quantile of the latencies of this rule's own calls: unknown at first, and then
    nothing is hedged. Safe to share between threads.
    """

    __slots__ = ("_after", "_latencies", "_lock", "most")

    def __init__(self, *, hedge_after: float | str, max_hedges: int) -> None:
        self.most = max_hedges
        self._after: float | None = None
        self._latencies: LatencyQuantile | None = None
        self._lock = threading.Lock()
        if isinstance(hedge_after, str):
            self._latencies = LatencyQuantile(int(hedge_after[1:]) / 100)
        else:
            self._after = hedge_after

    @property
    def wait(self) -> float | None:
        """Seconds to wait for an answer before the next hedge, or None when that is not known yet."""
        if self._latencies is None:
            return self._after
        value = self._latencies.value
        return None if value is None else max(value, _SHORTEST_WAIT)

    def answered(self, latency: float) -> None:
        """A call was answered after *latency* seconds."""
        if self._latencies is not None:
            with self._lock:
                self._latencies.add(latency)


def hedge_budget() -> RetryBudget:
    """What pays for the hedges of a service without a budget of its own: about one call in twenty."""
    return RetryBudget(capacity=10.0, per_success=0.05)
