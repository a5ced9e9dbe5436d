"""
The records a user gets to hold: pydantic models, loaded only when first used.

Field names are those of the original program; what it wrote (naive times, no version) can be read.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from shockproof.vocabulary.statuses import ErrorSeverity, ServiceStatus

__all__ = ["ErrorRecord", "SystemState"]


def _aware(moment: datetime) -> datetime:
    # A naive time is local time, as in the original program.
    return moment.astimezone() if moment.tzinfo is None else moment


class _Record(BaseModel):
    model_config = ConfigDict(extra="allow")

    timestamp: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @field_validator("timestamp")
    @classmethod
    def _with_offset(cls, moment: datetime) -> datetime:
        return _aware(moment)

    def to_dict(self) -> dict[str, Any]:  # Any: the values are whatever JSON holds
        """The fields as plain JSON-ready values."""
        return self.model_dump(mode="json")


class ErrorRecord(_Record):
    """One failed attempt, as one line of the error log holds it."""

    error_type: str
    error_message: str
    severity: ErrorSeverity
    service_name: str
    function_name: str
    retry_count: int = 0
    stack_trace: str | None = None
    context: dict[str, Any] | None = None  # Any: the user's own values


class SystemState(_Record):
    """What survives a restart."""

    service_statuses: dict[str, ServiceStatus] = Field(default_factory=dict)
    active_operations: list[dict[Any, Any]] = Field(default_factory=list)  # Any: the user's own values
    cached_data: dict[Any, Any] = Field(default_factory=dict)  # Any: the user's own keys and values
    configuration: dict[Any, Any] = Field(default_factory=dict)  # Any: the user's own keys and values

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SystemState:  # Any: what a JSON file holds
        """The state that `to_dict` gave, or that the original program wrote."""
        return cls.model_validate(data)
