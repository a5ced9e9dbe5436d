"""How a service is doing, and how bad an error is."""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal, get_args

__all__ = ["CIRCUIT_MODES", "CircuitMode", "ErrorSeverity", "ServiceStatus"]

CircuitMode = Literal["normal", "forced-open", "disabled", "shadow"]
"""Whether a circuit works by its rules, is held open, is switched off, or only watches."""
CIRCUIT_MODES: Final[tuple[CircuitMode, ...]] = get_args(CircuitMode)


class ServiceStatus(Enum):
    """The operational status of one service."""

    OPERATIONAL = "operational"
    """It answers, or was never asked."""
    DEGRADED = "degraded"
    """A fallback answers for it, or its circuit is half-open."""
    UNAVAILABLE = "unavailable"
    """The last call failed for good, or its circuit is open."""


class ErrorSeverity(Enum):
    """How bad a recorded error is, in rising order."""

    rank: int
    """0 for LOW up to 3 for CRITICAL, to compare by."""

    def __init__(self, value: str) -> None:
        self.rank = len(type(self).__members__)

    LOW = "low"
    MEDIUM = "medium"
    """Another attempt follows."""
    HIGH = "high"
    """No other attempt follows."""
    CRITICAL = "critical"
    """The outcome is unknown, or the service is marked critical."""
