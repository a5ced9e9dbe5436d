"""Which request is hit by which fault, and what has been done to whom."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from shockproof.demo.venue.fault_plan import BOOKED_WITHIN, Endpoint, FaultKind, FaultPlan, FaultWindow

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Fault", "FaultInjector", "InjectedFault"]

# When several windows hit the same request, the first of these is carried out.
_PRECEDENCE = (
    FaultKind.OUTAGE,
    FaultKind.RATE_LIMIT,
    FaultKind.REFERENCE_OUTAGE,
    FaultKind.LATE,
    FaultKind.CUT_AFTER,
    FaultKind.ERROR_AFTER,
    FaultKind.BOOKED_LATER,
    FaultKind.CUT_BEFORE,
    FaultKind.ERROR_BEFORE,
    FaultKind.LATENCY,
)


@dataclass(frozen=True, slots=True)
class Fault:
    """What shall be done to one request."""

    kind: FaultKind
    delay: float
    """Seconds to wait: before the answer, or for ``BOOKED_LATER`` before booking."""
    status: int
    """The HTTP status to answer with; 0 when the connection is cut or the answer is the right one."""
    retry_after: int
    """Seconds for the Retry-After header; 0 for none."""


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """One line of the log."""

    number: int
    at: float
    """Seconds since the session began."""
    kind: FaultKind
    endpoint: Endpoint
    client_order_id: str | None
    booked: bool | None
    """For orders: whether it was booked. None for everything else."""


class FaultInjector:
    """
    Decides for each request, from the plan's seed, the window, the endpoint and the request's number in that window.

    The same requests in the same windows meet the same faults in every run.
    """

    def __init__(self, plan: FaultPlan) -> None:
        self.plan = plan
        self.log: list[InjectedFault] = []
        self._seen: dict[tuple[int, Endpoint], int] = {}

    def decide(self, endpoint: Endpoint, elapsed: float) -> Fault | None:
        """The fault for the next request to *endpoint*, or None for an honest answer. Counts the request."""
        hits: dict[FaultKind, tuple[FaultWindow, random.Random]] = {}
        for index, window in enumerate(self.plan.windows):
            if not window.is_active(elapsed) or endpoint not in window.endpoints:
                continue
            number = self._seen.get((index, endpoint), 0)
            self._seen[index, endpoint] = number + 1
            rng = random.Random(f"{self.plan.seed}/{index}/{endpoint.value}/{number}")
            if rng.random() < window.rate or number == 0:
                hits[window.kind] = window, rng
        for kind in _PRECEDENCE:
            if kind in hits:
                return self._fault(*hits[kind], elapsed)
        return None

    def _fault(self, window: FaultWindow, rng: random.Random, elapsed: float) -> Fault:
        delay = 0.0
        status = 0
        retry_after = 0
        match window.kind:
            case FaultKind.LATENCY:
                delay = rng.uniform(0.15, 0.7) * self.plan.client_timeout
            case FaultKind.LATE:
                delay = rng.uniform(1.3, 1.6) * self.plan.client_timeout
            case FaultKind.BOOKED_LATER:
                delay, status = rng.uniform(0.2, 1.0) * BOOKED_WITHIN, rng.choice((504, 0))
            case FaultKind.RATE_LIMIT:
                # Whole seconds, as the header wants them, and past the window's end: who waits is served.
                status, retry_after = 429, max(1, int(window.end - elapsed) + 1)
            case FaultKind.ERROR_BEFORE:
                status = rng.choice((502, 503))
            case FaultKind.ERROR_AFTER:
                status = rng.choice((503, 504))
            case FaultKind.REFERENCE_OUTAGE:
                status = 503
            case _:
                pass
        return Fault(kind=window.kind, delay=delay, status=status, retry_after=retry_after)

    def record(
        self,
        kind: FaultKind,
        endpoint: Endpoint,
        elapsed: float,
        *,
        client_order_id: str | None = None,
        booked: bool | None = None,
    ) -> None:
        """Write down what was done."""
        self.log.append(
            InjectedFault(len(self.log) + 1, round(elapsed, 3), kind, endpoint, client_order_id, booked)
        )

    def counts(self) -> Mapping[str, int]:
        """How often each kind was carried out."""
        counts: dict[str, int] = {}
        for entry in self.log:
            counts[entry.kind.value] = counts.get(entry.kind.value, 0) + 1
        return counts

    def to_dict(self) -> dict[str, Any]:  # Any: a JSON object with values of several types
        return {"counts": dict(self.counts()), "log": [asdict(entry) for entry in self.log]}
